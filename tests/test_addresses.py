"""Addresses: what bind and connect take and refuse, to the letter as a TCP socket does.

Nothing here leaves the machine. Names that a resolver would ask the network for are
made too long to be asked for, and most addresses go to closed sockets: they are parsed
first, and what is right then ends in EBADF.
"""

import array
import datetime
import decimal
import errno
import ipaddress
import os
import re
import select
import socket
import subprocess
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from conftest import INET, INET6, SMC, SMC6, VM_MODE, Presentation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import smcsock
from smcsock import _smcsock

LIMIT = 60.0
IPV6_FLOWINFO_SEND = 33
OVERLONG = "." + "x" * 60 + ("." + "y" * 60) * 4

PRESENTATIONS = SMC, SMC6, INET, INET6

fuzz = settings(
    database=None,
    deadline=None,
    # Parsing is no matter of the kernel, and an emulated guest is slow.
    max_examples=100 if VM_MODE is None else 25,
    suppress_health_check=[HealthCheck.too_slow],
)

Sockets = tuple[smcsock.socket, socket.socket]
Closed = dict[Presentation, Sockets]


def outcome(call: Callable[..., object], *args: object) -> object:
    """What a call returns, or the type and arguments of what it raises."""
    try:
        return call(*args)
    except Exception as error:
        return type(error), error.args


def outcomes(sock: socket.socket, address: object) -> dict[str, object]:
    calls = sock.bind, sock.connect, sock.connect_ex
    return {call.__name__: outcome(call, address) for call in calls}


def without_port(address: Any) -> tuple[object, ...]:
    host, _, *rest = address
    return host, *rest


@pytest.fixture(scope="module")
def closed() -> Closed:
    """A subject and its oracle that get no further than parsing an address."""
    result: Closed = {}
    for presentation in PRESENTATIONS:
        with presentation.open() as sock, presentation.tcp_socket() as tcp:
            result[presentation] = sock, tcp
    return result


def assert_parsed_as_by_tcp(closed: Closed, address: Callable[[str], object]) -> None:
    """Passes an address, made for a host that is right, to all calls that take one."""
    parsed = {p.name: outcomes(sock, address(p.host)) for p, (sock, _) in closed.items()}
    by_tcp = {p.name: outcomes(tcp, address(p.host)) for p, (_, tcp) in closed.items()}
    assert parsed == by_tcp


@pytest.fixture
def opened(presentation: Presentation) -> Iterator[Sockets]:
    with presentation.open() as sock, presentation.tcp_socket() as tcp:
        yield sock, tcp


@pytest.fixture
def tcp_listener(presentation: Presentation) -> Iterator[socket.socket]:
    with presentation.tcp_socket() as listener:
        listener.bind((presentation.host, 0))
        listener.listen()
        yield listener


@pytest.fixture
def refused_address(presentation: Presentation) -> Iterator[Any]:
    """Where nobody listens, and nobody else can start to."""
    with presentation.tcp_socket() as holder:
        holder.bind((presentation.host, 0))
        yield holder.getsockname()


class Text(str):
    __slots__ = ()


class Name(StrEnum):
    LOCAL = "127.0.0.1"


class Pair(tuple[Any, ...]):
    __slots__ = ()


class HeapType:
    pass


class Index:
    def __init__(self, value: int | Exception) -> None:
        self.value = value

    def __index__(self) -> int:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def __repr__(self) -> str:
        return f"Index({self.value!r})"


# ---- Hosts ---------------------------------------------------------------------

HOSTS: dict[str, object] = {
    "any": "",
    "any-bytes": b"",
    "any-bytearray": bytearray(),
    "ipv4": "127.0.0.1",
    "ipv4-bytes": b"127.0.0.1",
    "ipv4-bytearray": bytearray(b"127.0.0.1"),
    "ipv4-short": "127.1",
    "ipv4-hex": "0x7f.0.0.1",
    "ipv4-number": "2130706433",
    "ipv4-str-subclass": Text("127.0.0.1"),
    "ipv4-strenum": Name.LOCAL,
    "ipv4-fullwidth": "\uff11\uff12\uff17.0.0.1",
    "ipv4-ideographic-full-stop": "127\u30020\u30020\u30021",
    "ipv4-not-local": "192.0.2.1",
    "ipv4-multicast": "224.0.0.1",
    "broadcast-name": "<broadcast>",
    "broadcast-name-bytes": b"<broadcast>",
    "broadcast": "255.255.255.255",
    "ipv6": "::1",
    "ipv6-bytes": b"::1",
    "ipv6-bytearray": bytearray(b"::1"),
    "ipv6-long": "0:0:0:0:0:0:0:1",
    "ipv6-any": "::",
    "ipv6-not-local": "2001:db8::1",
    "ipv6-multicast": "ff02::1",
    "ipv6-mapped": "::ffff:127.0.0.1",
    "ipv6-brackets": "[::1]" + OVERLONG,
    "zone": "::1%lo",
    "zone-number": "::1%1",
    "zone-link-local": "fe80::1%lo",
    "zone-unknown": "::1%nosuch0",
    "zone-empty": "::1%",
    "zone-alone": "%lo" + OVERLONG,
    "zone-on-ipv4": "127.0.0.1%lo" + OVERLONG,
    "link-local-without-zone": "fe80::1",
    "label-empty": "a..b",
    "label-empty-bytes": b"a..b",
    "label-empty-str-subclass": Text("a..b"),
    "label-too-long": "x" * 64,
    "label-too-long-bytes": b"x" * 64,
    "label-too-long-str-subclass": Text("x" * 64),
    "label-too-long-idna": "\u00fc" * 64,
    "name-too-long": "x" + OVERLONG,
    "name-too-long-idna": "\u00fc" + OVERLONG,
    "name-of-65536": "x" * 65536,
    "idna-prohibited": "\ue000",
    "idna-bidi": "\u0627a",
    "lone-surrogate": "\udc80",
    "nul": "127.0.0.1\0",
    "nul-first": "\0",
    "nul-bytes": b"127.0.0.1\0",
    "nul-bytearray": bytearray(b"\x00127.0.0.1"),
    "nul-and-non-ascii": "\u00fc\0",
    "bytes-not-utf8": b"\xff\xfe" + OVERLONG.encode(),
    "int": 0,
    "none": None,
    "float": 1.0,
    "list": ["127.0.0.1"],
    "memoryview": memoryview(b"127.0.0.1"),
    "static-type": datetime.date(2000, 1, 1),
    "ip-address-object": ipaddress.ip_address("127.0.0.1"),
    "python-type": HeapType(),
    "python-class": HeapType,
    "c-heap-type": array.array("b"),
}

hosts = pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS.keys())


@hosts
def test_host_is_parsed_as_by_tcp(closed: Closed, host: object) -> None:
    assert_parsed_as_by_tcp(closed, lambda _: (host, 0))


@hosts
def test_bind_to_host_as_tcp(host: object) -> None:
    for presentation in PRESENTATIONS:
        with presentation.open() as sock, presentation.tcp_socket() as tcp:
            assert outcome(sock.bind, (host, 0)) == outcome(tcp.bind, (host, 0))
            assert without_port(sock.getsockname()) == without_port(tcp.getsockname())


@pytest.mark.parametrize("presentation", [SMC, INET], ids=lambda p: p.name)
def test_localhost_is_resolved(opened: Sockets) -> None:
    # Over IPv4 alone: not every /etc/hosts has an IPv6 localhost.
    sock, tcp = opened
    sock.bind(("localhost", 0))
    tcp.bind(("localhost", 0))
    assert without_port(sock.getsockname()) == without_port(tcp.getsockname()) == ("127.0.0.1",)


def numeric(host: str | bytes) -> bool:
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, ValueError):
        return False
    return True


texts = st.one_of(
    st.text(max_size=20),
    st.text("0123456789abcdefx.:%", max_size=20),
    st.ip_addresses().map(str),
).map(lambda text: text if numeric(text) else text + OVERLONG)

octets = st.one_of(
    st.binary(max_size=20),
    st.ip_addresses().map(lambda address: str(address).encode()),
).map(lambda data: data if numeric(data) else data + OVERLONG.encode())


@fuzz
@given(host=st.one_of(texts, octets, octets.map(bytearray)))
def test_any_host_is_parsed_as_by_tcp(closed: Closed, host: object) -> None:
    assert_parsed_as_by_tcp(closed, lambda _: (host, 0))


# ---- Ports, and the numbers that only IPv6 has ---------------------------------

NUMBERS: dict[str, object] = {
    "zero": 0,
    "largest": 65535,
    "too-large": 65536,
    "flowinfo-largest": 2**20 - 1,
    "flowinfo-too-large": 2**20,
    "negative": -1,
    "int32": 2**31,
    "uint32": 2**32,
    "uint32-negative": -(2**32),
    "int64": 2**63,
    "huge": 2**200,
    "huge-negative": -(2**200),
    "true": True,
    "float": 80.0,
    "nan": float("nan"),
    "decimal": decimal.Decimal(80),
    "str": "80",
    "bytes": b"80",
    "none": None,
    "index": Index(80),
    "index-too-large": Index(65536),
    "index-huge": Index(2**200),
    "index-raises": Index(ZeroDivisionError("no index")),
    "index-overflows": Index(OverflowError("no index")),
    "python-type": HeapType(),
    "static-type": datetime.date(2000, 1, 1),
}

numbers = pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS.keys())


@numbers
def test_port_is_parsed_as_by_tcp(closed: Closed, number: object) -> None:
    assert_parsed_as_by_tcp(closed, lambda host: (host, number))


@numbers
def test_flowinfo_is_parsed_as_by_tcp(closed: Closed, number: object) -> None:
    assert_parsed_as_by_tcp(closed, lambda host: (host, 0, number))


@numbers
def test_scope_id_is_parsed_as_by_tcp(closed: Closed, number: object) -> None:
    assert_parsed_as_by_tcp(closed, lambda host: (host, 0, 0, number))


def test_bad_host_is_reported_before_bad_port(closed: Closed) -> None:
    assert_parsed_as_by_tcp(closed, lambda _: ("a..b", 65536))
    for sock, _ in closed.values():
        with pytest.raises(socket.gaierror):
            sock.bind(("a..b", 65536))


@fuzz
@given(
    rest=st.lists(
        st.one_of(
            st.integers(),
            st.integers(-2, 2**16 + 1),
            st.integers(2**20 - 2, 2**20 + 1),
            st.builds(Index, st.integers()),
            st.booleans(),
            st.floats(),
            st.none(),
            st.text(max_size=5),
        ),
        max_size=5,
    )
)
def test_any_numbers_are_parsed_as_by_tcp(closed: Closed, rest: list[object]) -> None:
    assert_parsed_as_by_tcp(closed, lambda host: (host, *rest))


# ---- What is no address at all -------------------------------------------------

SHAPES: dict[str, object] = {
    "empty": (),
    "host-alone": ("127.0.0.1",),
    "five": ("::1", 0, 0, 0, 0),
    "swapped": (0, "127.0.0.1"),
    "nested": (("127.0.0.1", 0),),
    "list": ["127.0.0.1", 0],
    "str": "127.0.0.1",
    "bytes": b"/tmp/socket",
    "int": 80,
    "none": None,
    "dict": {"host": "127.0.0.1"},
    "function": print,
    "class": HeapType,
    "static-type": datetime.date(2000, 1, 1),
    "static-type-subclass": datetime.UTC,
    "python-type": HeapType(),
    "c-heap-type": array.array("b"),
    "c-heap-type-pattern": re.compile(""),
}


@pytest.mark.parametrize("address", SHAPES.values(), ids=SHAPES.keys())
def test_wrong_shape_is_refused_as_by_tcp(closed: Closed, address: object) -> None:
    assert_parsed_as_by_tcp(closed, lambda _: address)


def test_tuple_subclass_is_an_address(presentation: Presentation, opened: Sockets) -> None:
    sock, tcp = opened
    address = Pair((presentation.host, 0))
    sock.bind(address)
    tcp.bind(address)
    assert without_port(sock.getsockname()) == without_port(tcp.getsockname())


# ---- Where it ends up ----------------------------------------------------------


class Probe(_smcsock.SocketMethods, socket.socket):
    """A UDP socket: it connects to all that has a route without a word on the network."""

    def __init__(self, family: socket.AddressFamily) -> None:
        socket.socket.__init__(self, family, socket.SOCK_DGRAM)
        self._inet = family


@fuzz
@given(
    address=st.one_of(
        st.tuples(st.ip_addresses(v=4).map(str), st.integers(1, 65535)),
        st.tuples(
            st.ip_addresses(v=6).map(str),
            st.integers(1, 65535),
            st.integers(0, 2**20 - 1),
            st.integers(0, 2**32 - 1),
        ),
    )
)
def test_every_part_of_an_address_reaches_the_kernel(address: tuple[Any, ...]) -> None:
    family = socket.AF_INET if len(address) == 2 else socket.AF_INET6
    with Probe(family) as subject, socket.socket(family, socket.SOCK_DGRAM) as oracle:
        if family == socket.AF_INET6:
            for sock in subject, oracle:
                sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FLOWINFO_SEND, 1)
        assert outcome(subject.connect, address) == outcome(oracle.connect, address)
        assert outcome(subject.getpeername) == outcome(oracle.getpeername)


LOOPBACK = {
    SMC: ["127.0.0.1", b"127.0.0.1", bytearray(b"127.0.0.1"), "127.1", "\uff11\uff12\uff17.1", ""],
    SMC6: ["::1", b"::1", bytearray(b"::1"), "0:0:0:0:0:0:0:1", "::1%1", ""],
}
LOOPBACK |= {INET: [*LOOPBACK[SMC], "localhost"], INET6: LOOPBACK[SMC6]}

loopback = pytest.mark.parametrize(
    ("presentation", "host"),
    [pytest.param(p, host, id=f"{p.name}-{host!a}") for p in LOOPBACK for host in LOOPBACK[p]],
)


@loopback
def test_connect_to_host_as_tcp(opened: Sockets, tcp_listener: socket.socket, host: object) -> None:
    _, port, *rest = tcp_listener.getsockname()
    for sock in opened:
        sock.connect((host, port, *rest))
        assert sock.getpeername() == tcp_listener.getsockname()


@loopback
def test_connect_ex_to_host_is_0(
    opened: Sockets, tcp_listener: socket.socket, host: object
) -> None:
    _, port, *rest = tcp_listener.getsockname()
    for sock in opened:
        assert sock.connect_ex((host, port, *rest)) == 0
        assert sock.getpeername() == tcp_listener.getsockname()


@pytest.mark.parametrize("timeout", [None, LIMIT], ids=["blocking", "timeout"])
@pytest.mark.parametrize("call", ["connect", "connect_ex"])
def test_refused_connection_as_tcp(
    opened: Sockets, refused_address: Any, call: str, timeout: float | None
) -> None:
    sock, tcp = opened
    sock.settimeout(timeout)
    tcp.settimeout(timeout)
    number = errno.ECONNREFUSED
    failed = ConnectionRefusedError, (number, os.strerror(number))
    expected = number if call == "connect_ex" else failed
    assert outcome(getattr(tcp, call), refused_address) == expected
    assert outcome(getattr(sock, call), refused_address) == expected


@pytest.mark.parametrize("host", ["255.255.255.255", "<broadcast>", "224.0.0.1"])
@pytest.mark.parametrize("presentation", [SMC, INET], ids=lambda p: p.name)
def test_connect_to_many_is_refused_as_by_tcp(opened: Sockets, host: str) -> None:
    sock, tcp = opened
    assert outcome(sock.connect, (host, 9)) == outcome(tcp.connect, (host, 9))
    with pytest.raises(OSError, match="unreachable"):
        sock.connect((host, 9))


def test_bind_to_an_address_in_use_as_tcp(
    presentation: Presentation, opened: Sockets, refused_address: Any
) -> None:
    sock, tcp = opened
    assert outcome(sock.bind, refused_address) == outcome(tcp.bind, refused_address)
    assert sock.getsockname() == tcp.getsockname()


def test_second_bind_is_refused_as_by_tcp(presentation: Presentation, opened: Sockets) -> None:
    sock, tcp = opened
    address = presentation.host, 0
    sock.bind(address)
    tcp.bind(address)
    name = sock.getsockname()
    assert outcome(sock.bind, address) == outcome(tcp.bind, address)
    assert sock.getsockname() == name


# ---- Addresses that come back --------------------------------------------------


def test_unbound_sockname_as_tcp(opened: Sockets) -> None:
    sock, tcp = opened
    assert sock.getsockname() == tcp.getsockname()


def test_unconnected_peername_as_tcp(opened: Sockets) -> None:
    sock, tcp = opened
    assert outcome(sock.getpeername) == outcome(tcp.getpeername)


def test_both_ends_agree_on_their_addresses(presentation: Presentation) -> None:
    with presentation.listener() as listener, presentation.open() as client:
        client.connect(listener.getsockname())
        server, address = listener.accept()
        with server:
            assert address == client.getsockname() == server.getpeername()
            assert client.getpeername() == listener.getsockname() == server.getsockname()


def test_accept_gives_an_address_as_tcp(presentation: Presentation) -> None:
    addresses = []
    for opener in presentation.open, presentation.tcp_socket:
        with opener() as listener, presentation.tcp_socket() as client:
            listener.bind((presentation.host, 0))
            listener.listen()
            listener.settimeout(LIMIT)
            client.connect(listener.getsockname())
            conn, address = listener.accept()
            conn.close()
            assert address == client.getsockname()
            addresses.append(address)
    subject, oracle = addresses
    assert without_port(subject) == without_port(oracle)
    assert [*map(type, subject)] == [*map(type, oracle)]


@pytest.fixture(scope="module")
def link_local() -> Iterator[tuple[str, int]]:
    """A link-local address of this machine and its scope id."""
    tentative, scope_link = 0x40, 0x20
    table = Path("/proc/net/if_inet6")
    for line in table.read_text().splitlines() if table.exists() else ():
        digits, index, _, scope, flags, _ = line.split()
        if int(scope, 16) == scope_link and not int(flags, 16) & tentative:
            yield str(ipaddress.ip_address(bytes.fromhex(digits))), int(index, 16)
            return
    if VM_MODE is None:
        pytest.skip("needs a link-local IPv6 address, and this machine is not ours to change")
    address = "fe80::5c/64"
    subprocess.run(["ip", "address", "add", address, "dev", "lo"], check=True, timeout=LIMIT)
    yield address.partition("/")[0], socket.if_nametoindex("lo")
    subprocess.run(["ip", "address", "del", address, "dev", "lo"], check=True, timeout=LIMIT)


@pytest.mark.parametrize("presentation", [SMC6, INET6], ids=lambda p: p.name)
def test_scope_id_of_a_bound_socket(opened: Sockets, link_local: tuple[str, int]) -> None:
    host, scope_id = link_local
    for sock in opened:
        sock.bind((host, 0, 0, scope_id))
        assert without_port(sock.getsockname()) == (host, 0, scope_id)


@pytest.mark.parametrize("presentation", [SMC6, INET6], ids=lambda p: p.name)
def test_scope_id_of_an_accepted_address(opened: Sockets, link_local: tuple[str, int]) -> None:
    host, scope_id = link_local
    for listener in opened:
        listener.bind((host, 0, 0, scope_id))
        name = listener.getsockname()
        listener.listen()
        listener.settimeout(LIMIT)
        for opener in smcsock.socket, socket.socket:
            with opener(socket.AF_INET6) as client:
                client.connect(name)
                server, address = listener.accept()
                with server:
                    assert without_port(address) == (host, 0, scope_id)
                    assert server.getpeername() == address
                    assert server.getsockname() == name


@pytest.mark.parametrize("presentation", [SMC6, INET6], ids=lambda p: p.name)
def test_scope_id_is_forgotten_by_listen_and_connect(
    presentation: Presentation, link_local: tuple[str, int]
) -> None:
    # The kernel overwrites the device that an SMC socket's TCP socket is bound to
    # (sk_bound_dev_if in smc_copy_sock_settings()), and names show that one.
    host, bound = link_local
    kept = 0 if smcsock.has_smc() else bound
    with presentation.open() as listener, presentation.open() as client:
        listener.bind((host, 0, 0, bound))
        name = listener.getsockname()
        listener.listen()
        assert listener.getsockname() == (*name[:3], kept)
        client.connect(name)
        assert client.getpeername() == (*name[:3], kept)
        assert without_port(client.getsockname()) == (host, 0, kept)


@pytest.mark.parametrize("presentation", [SMC6, INET6], ids=lambda p: p.name)
def test_zone_of_a_link_local_address_as_tcp(opened: Sockets, link_local: tuple[str, int]) -> None:
    host, scope_id = link_local
    address = f"{host}%{socket.if_indextoname(scope_id)}", 0
    sock, tcp = opened
    # The standard library resolves the zone, but the scope id left out of the tuple wins.
    expected = OSError, (errno.EINVAL, os.strerror(errno.EINVAL))
    assert outcome(tcp.bind, address) == expected
    assert outcome(sock.bind, address) == expected


@pytest.mark.parametrize("presentation", [SMC6, INET6], ids=lambda p: p.name)
def test_ipv4_mapped_address_connects_to_ipv4(opened: Sockets) -> None:
    with SMC.tcp_socket() as listener:
        listener.bind((SMC.host, 0))
        listener.listen()
        listener.settimeout(LIMIT)
        port = listener.getsockname()[1]
        for client in opened:
            client.connect(("::ffff:127.0.0.1", port))
            server, address = listener.accept()
            server.close()
            assert client.getpeername() == ("::ffff:127.0.0.1", port, 0, 0)
            assert client.getsockname() == (f"::ffff:{address[0]}", address[1], 0, 0)


@pytest.mark.parametrize("presentation", [SMC6, INET6], ids=lambda p: p.name)
def test_dual_stack_listener_serves_both(opened: Sockets) -> None:
    for listener in opened:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", 0))
        listener.listen()
        listener.settimeout(LIMIT)
        port = listener.getsockname()[1]
        for peer, shown in (INET, "::ffff:127.0.0.1"), (INET6, "::1"):
            for opener in peer.open, peer.tcp_socket:
                with opener() as client:
                    client.connect((peer.host, port))
                    server, address = listener.accept()
                    with server:
                        assert address == (shown, client.getsockname()[1], 0, 0)
                        assert server.getpeername() == address
                        assert server.getsockname() == (shown, port, 0, 0)


@pytest.mark.parametrize("presentation", [SMC6, INET6], ids=lambda p: p.name)
def test_ipv6_only_listener_does_not_serve_ipv4(opened: Sockets) -> None:
    for listener in opened:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(("::", 0))
        listener.listen()
        with INET.open() as client:
            error = client.connect_ex((INET.host, listener.getsockname()[1]))
            assert error == errno.ECONNREFUSED


# ---- The extension by itself -----------------------------------------------------

METHODS = ("bind", "connect", "connect_ex", "listen", "_accept", "_diag")


def call_all(sock: socket.socket, address: object) -> dict[str, object]:
    """The outcomes of all that is the extension's and of a TCP socket."""
    return outcomes(sock, address) | {
        "listen": outcome(sock.listen),
        "accept": outcome(sock.accept),
    }


def test_closed_socket_as_tcp(closed: Closed) -> None:
    for presentation, (sock, tcp) in closed.items():
        address = presentation.host, 0
        assert call_all(sock, address) == call_all(tcp, address)
        assert outcome(sock._diag) == (OSError, (errno.EBADF, os.strerror(errno.EBADF)))


def test_descriptor_that_is_no_socket_any_more_as_tcp(
    presentation: Presentation, opened: Sockets
) -> None:
    sock, tcp = opened
    with Path(os.devnull).open("rb") as null:
        os.dup2(null.fileno(), sock.fileno(), inheritable=False)
        os.dup2(null.fileno(), tcp.fileno(), inheritable=False)
    result = call_all(sock, (presentation.host, 0))
    assert result == call_all(tcp, (presentation.host, 0))
    assert result["bind"] == (OSError, (errno.ENOTSOCK, os.strerror(errno.ENOTSOCK)))


def test_socket_that_was_never_opened_fails_cleanly() -> None:
    sock = smcsock.socket.__new__(smcsock.socket)
    for method in METHODS:
        arguments = [("127.0.0.1", 0)] if method in ("bind", "connect", "connect_ex") else []
        with pytest.raises((AttributeError, OSError)):
            getattr(sock, method)(*arguments)


def said(call: Callable[..., object], *args: object, **kwargs: object) -> tuple[type, str]:
    """How a call fails, without the class that messages of the interpreter name."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call(*args, **kwargs)
    return type(caught.value), str(caught.value).rpartition(".")[2]


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("call", ["bind", "connect", "connect_ex"])
def test_wrong_argument_count_as_tcp(closed: Closed, call: str, count: int) -> None:
    sock, tcp = closed[SMC]
    arguments = [("127.0.0.1", 0)] * count
    assert said(getattr(sock, call), *arguments) == said(getattr(tcp, call), *arguments)


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("call", ["bind", "connect", "connect_ex", "listen"])
def test_keyword_arguments_are_refused_as_by_tcp(closed: Closed, call: str, count: int) -> None:
    arguments = [1 if call == "listen" else ("127.0.0.1", 0)] * count
    for sock in closed[SMC]:
        with pytest.raises(TypeError, match="argument"):
            getattr(sock, call)(*arguments, timeout=1)


@numbers
def test_backlog_is_parsed_as_by_tcp(closed: Closed, number: object) -> None:
    sock, tcp = closed[SMC]
    assert outcome(sock.listen, number) == outcome(tcp.listen, number)


def test_listen_takes_one_argument_at_most(closed: Closed) -> None:
    for sock in closed[SMC]:
        with pytest.raises(TypeError, match=r"\b1 argument|one argument"):
            sock.listen(1, 2)  # type: ignore[call-arg]


@pytest.mark.parametrize("backlog", [-(2**31), -1, 0, 1, 2**31 - 1])
def test_any_int_is_a_backlog(presentation: Presentation, backlog: int) -> None:
    with presentation.open() as sock:
        sock.bind((presentation.host, 0))
        sock.listen(backlog)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


def test_accept_of_a_socket_that_does_not_listen_as_tcp(opened: Sockets) -> None:
    sock, tcp = opened
    for timeout in None, 0.0:
        sock.settimeout(timeout)
        tcp.settimeout(timeout)
        assert outcome(sock.accept) == outcome(tcp.accept)


@pytest.mark.parametrize("timeout", [1e-9, 1e-6, 9223372036.0])
def test_timeouts_however_short_or_long_find_what_waits(
    presentation: Presentation, timeout: float
) -> None:
    for opener in presentation.tcp_socket, presentation.open:
        with opener() as listener, presentation.tcp_socket() as client:
            listener.bind((presentation.host, 0))
            listener.listen()
            client.connect(listener.getsockname())
            # The kernel hands an SMC connection to its listener some time later.
            assert select.select([listener], [], [], LIMIT)[0]
            listener.settimeout(timeout)
            conn, address = listener.accept()
            conn.close()
            assert address == client.getsockname()


def test_accepted_descriptor_is_blocking_and_not_inherited(presentation: Presentation) -> None:
    with presentation.listener() as listener, presentation.tcp_socket() as client:
        client.connect(listener.getsockname())
        listener.settimeout(LIMIT)
        fd, address = listener._accept()
        try:
            assert address == client.getsockname()
            assert os.get_blocking(fd)
            assert not os.get_inheritable(fd)
        finally:
            os.close(fd)


@pytest.mark.parametrize("method", METHODS)
def test_methods_need_a_socket(method: str) -> None:
    arguments = [("127.0.0.1", 0)] if method in ("bind", "connect", "connect_ex") else []
    function = getattr(_smcsock.SocketMethods, method)
    for bad in _smcsock.SocketMethods(), object(), None, 3:
        with pytest.raises(TypeError):
            function(bad, *arguments)


@pytest.mark.parametrize("method", ["_accept", "_diag"])
def test_methods_without_arguments_take_none(closed: Closed, method: str) -> None:
    function = getattr(closed[SMC][0], method)
    with pytest.raises(TypeError):
        function(1)
    with pytest.raises(TypeError):
        function(timeout=1)


@pytest.mark.parametrize("arguments", [(), (1,), (1, 0, 2, 0)], ids=len)
def test_socket_takes_two_arguments_and_a_family(arguments: tuple[int, ...]) -> None:
    with pytest.raises(TypeError, match=rf"2 or 3 arguments \({len(arguments)} given\)"):
        _smcsock.socket(*arguments)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1", TypeError), (None, TypeError), (1.0, TypeError), (2**31, OverflowError)],
    ids=repr,
)
def test_socket_takes_ints(value: Any, expected: type[Exception]) -> None:
    with pytest.raises(expected):
        _smcsock.socket(value, smcsock.SMCPROTO_SMC)
    with pytest.raises(expected):
        _smcsock.socket(socket.SOCK_STREAM, value)
    with pytest.raises(expected):
        _smcsock.socket(socket.SOCK_STREAM, 0, value)


@pytest.mark.parametrize(
    ("kind", "proto", "expected"),
    [
        (socket.SOCK_DGRAM, smcsock.SMCPROTO_SMC, errno.ESOCKTNOSUPPORT),
        (socket.SOCK_STREAM, 2, errno.EPROTONOSUPPORT),
        (socket.SOCK_STREAM, -1, errno.EPROTONOSUPPORT),
        (-1, smcsock.SMCPROTO_SMC, errno.EINVAL),
    ],
)
def test_the_kernel_refuses_what_is_no_smc_socket(
    smc_mode: smcsock.Mode, kind: int, proto: int, expected: int
) -> None:
    with pytest.raises(OSError, match=re.escape(os.strerror(expected))):
        _smcsock.socket(kind, proto)


def test_diag_of_an_smc_socket_is_a_record(smc_mode: smcsock.Mode) -> None:
    with smcsock.socket() as sock:
        record = sock._diag()
    assert record is not None
    assert record.family == smcsock.AF_SMC


def test_diag_of_what_is_no_smc_socket_is_none(smc_mode: smcsock.Mode) -> None:
    with Probe(socket.AF_INET) as sock:
        assert sock._diag() is None
