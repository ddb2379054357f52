"""create_connection, create_server, has_smc, and what to do where the kernel has no SMC."""

import errno
import inspect
import os
import pickle
import re
import socket
import struct
from collections.abc import Callable, Container, Iterator
from typing import Any

import pytest
from conftest import INET, INET6, SMC, SMC6, Presentation
from descriptors import open_descriptors

import smcsock
from smcsock import (
    AF_SMC,
    SMCPROTO_SMC6,
    DiagUnavailableError,
    FallbackError,
    HandshakeInterruptedError,
    Mode,
    SmcInfo,
    SMCUnsupportedError,
    _opening,
    _smcsock,
)
from smcsock._kernel import _smc_info

LIMIT = 60.0
UNREACHABLE: Any = ("255.255.255.255", 9)
"""Where TCP does not connect to, and says so without asking the network."""

Info = tuple[int, int, int, str, Any]

inet = pytest.mark.parametrize("presentation", [INET, INET6], ids=lambda p: p.name)


def outcome(call: Callable[..., object], *args: object, **kwargs: object) -> object:
    """What a call returns, or the type and arguments of what it raises."""
    try:
        return call(*args, **kwargs)
    except Exception as error:
        return type(error), error.args


def resolved(*addresses: Any) -> list[Info]:
    """What getaddrinfo() says of a name with these addresses."""
    families = {2: socket.AF_INET, 4: socket.AF_INET6}
    return [
        (families[len(address)], socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)
        for address in addresses
    ]


class Resolver:
    """In place of getaddrinfo(): says what it is told to, and knows what it was asked."""

    def __init__(self) -> None:
        self.answer: list[Info] = []
        self.asked: list[tuple[object, ...]] = []

    def __call__(self, *args: object) -> list[Info]:
        self.asked.append(args)
        return self.answer


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    result = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", result)
    return result


@pytest.fixture
def listener(presentation: Presentation) -> Iterator[socket.socket]:
    with presentation.listener() as sock:
        sock.settimeout(LIMIT)
        yield sock


@pytest.fixture
def tcp_listener(presentation: Presentation) -> Iterator[socket.socket]:
    with presentation.tcp_socket() as sock:
        sock.bind((presentation.host, 0))
        sock.listen()
        sock.settimeout(LIMIT)
        yield sock


@pytest.fixture
def refused(presentation: Presentation) -> Iterator[Any]:
    """An address where nobody listens, and nobody else can start to."""
    with presentation.tcp_socket() as holder:
        holder.bind((presentation.host, 0))
        yield holder.getsockname()


EXTRAS = {"fallback", "sndbuf", "rcvbuf"}


@pytest.mark.parametrize(
    ("ours", "oracle", "extras"),
    [
        (smcsock.create_connection, socket.create_connection, {"require_smc", *EXTRAS}),
        (smcsock.create_server, socket.create_server, EXTRAS),
    ],
)
def test_signature_is_the_standard_librarys(
    ours: Callable[..., object], oracle: Callable[..., object], extras: set[str]
) -> None:
    parameters = dict(inspect.signature(ours).parameters)
    own = {name: parameters.pop(name) for name in extras}
    assert [(p.name, p.kind, p.default) for p in parameters.values()] == [
        (p.name, p.kind, p.default) for p in inspect.signature(oracle).parameters.values()
    ]
    for parameter in own.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert not parameter.default


# ---- create_connection -----------------------------------------------------------


@inet
def test_connection_presents_the_inet_family(
    presentation: Presentation, listener: socket.socket
) -> None:
    address = listener.getsockname()[:2]
    with (
        smcsock.create_connection(address) as sock,
        socket.create_connection(address) as tcp,
    ):
        assert type(sock) is smcsock.socket
        assert sock.family is presentation.inet
        assert (sock.family, sock.type, sock.proto) == (tcp.family, tcp.type, tcp.proto)
        assert sock.getpeername() == listener.getsockname()


def test_connection_carries_data(presentation: Presentation, listener: socket.socket) -> None:
    with smcsock.create_connection(listener.getsockname()[:2]) as sock:
        server, address = listener.accept()
        with server:
            assert address == sock.getsockname()
            sock.sendall(b"ping")
            assert server.recv(4, socket.MSG_WAITALL) == b"ping"
            server.sendall(b"pong")
            assert sock.recv(4, socket.MSG_WAITALL) == b"pong"


@pytest.mark.parametrize("host", ["localhost", None, b"127.0.0.1"], ids=repr)
def test_host_may_be_a_name_or_none(host: Any) -> None:
    # Where localhost is ::1 first, that is refused and 127.0.0.1 comes next.
    with SMC.listener() as listener:
        name = listener.getsockname()
        with smcsock.create_connection((host, name[1])) as sock:
            assert sock.getpeername() == name


def test_port_may_be_a_str(presentation: Presentation, listener: socket.socket) -> None:
    host, port, *_ = listener.getsockname()
    with smcsock.create_connection((host, str(port))) as sock:
        assert sock.getpeername() == listener.getsockname()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (("a..b", 9), UnicodeError),
        ((b"a..b", 9), socket.gaierror),
        (("127.0.0.1", "no such service"), socket.gaierror),
    ],
)
def test_address_that_does_not_resolve_fails_as_in_the_standard_library(
    address: Any, expected: type[Exception]
) -> None:
    result = outcome(smcsock.create_connection, address)
    assert result == outcome(socket.create_connection, address)
    assert isinstance(result, tuple)
    assert issubclass(result[0], expected)


def test_getaddrinfo_is_asked_what_the_standard_library_asks(
    presentation: Presentation, listener: socket.socket, resolver: Resolver
) -> None:
    resolver.answer = resolved(listener.getsockname())
    for create in socket.create_connection, smcsock.create_connection:
        create(("a name", "a service")).close()
    first, second = resolver.asked
    assert first == second
    assert first[:2] == ("a name", "a service")


def test_addresses_are_tried_in_the_order_of_getaddrinfo(resolver: Resolver) -> None:
    with SMC.listener() as one, SMC6.listener() as other:
        for names in ([one, other], [other, one]):
            resolver.answer = resolved(*(listener.getsockname() for listener in names))
            with smcsock.create_connection(("a name", 9)) as sock:
                assert sock.getpeername() == names[0].getsockname()


def test_next_address_after_a_refusal(
    presentation: Presentation, listener: socket.socket, refused: Any, resolver: Resolver
) -> None:
    resolver.answer = resolved(refused, UNREACHABLE, listener.getsockname())
    with smcsock.create_connection(("a name", 9)) as sock:
        assert sock.getpeername() == listener.getsockname()


def test_failed_attempts_leave_nothing_open(
    presentation: Presentation, refused: Any, resolver: Resolver
) -> None:
    resolver.answer = resolved(refused, UNREACHABLE, refused)
    before = open_descriptors()
    with pytest.raises(ConnectionRefusedError):
        smcsock.create_connection(("a name", 9))
    assert open_descriptors() == before


@pytest.mark.parametrize("last", [errno.ECONNREFUSED, errno.ENETUNREACH])
def test_last_error_is_raised(
    presentation: Presentation, refused: Any, resolver: Resolver, last: int
) -> None:
    addresses = [refused, UNREACHABLE] if last == errno.ENETUNREACH else [UNREACHABLE, refused]
    resolver.answer = resolved(*addresses)
    result = outcome(smcsock.create_connection, ("a name", 9))
    assert result == outcome(socket.create_connection, ("a name", 9))
    assert isinstance(result, tuple)
    assert result[1] == (last, os.strerror(last))


def test_all_errors_are_raised_as_a_group(
    presentation: Presentation, refused: Any, resolver: Resolver
) -> None:
    resolver.answer = resolved(refused, UNREACHABLE)
    groups = []
    for create in socket.create_connection, smcsock.create_connection:
        with pytest.raises(ExceptionGroup) as caught:
            create(("a name", 9), all_errors=True)
        errors = [(type(error), str(error)) for error in caught.value.exceptions]
        groups.append((caught.value.message, errors))
    assert groups[0] == groups[1]
    assert len(groups[0][1]) == 2


@pytest.mark.parametrize("all_errors", [False, True])
def test_empty_answer_is_the_standard_librarys_error(resolver: Resolver, all_errors: bool) -> None:
    results = [
        outcome(create, ("a name", 9), all_errors=all_errors)
        for create in (socket.create_connection, smcsock.create_connection)
    ]
    assert results[0] == results[1] == (OSError, ("getaddrinfo returns an empty list",))


def test_error_that_is_no_oserror_ends_it_at_once(
    presentation: Presentation, listener: socket.socket, resolver: Resolver
) -> None:
    resolver.answer = resolved((SMC.host, 65536), listener.getsockname())
    before = open_descriptors()
    with pytest.raises(OverflowError):
        smcsock.create_connection(("a name", 9))
    assert open_descriptors() == before


def test_source_address() -> None:
    with SMC.listener() as listener:
        address = listener.getsockname()
        with smcsock.create_connection(address, source_address=("127.0.0.2", 0)) as sock:
            assert sock.getsockname()[0] == "127.0.0.2"


def test_source_address_in_use_fails_as_in_the_standard_library(
    presentation: Presentation, listener: socket.socket, refused: Any
) -> None:
    address = listener.getsockname()[:2]
    before = open_descriptors()
    result = outcome(smcsock.create_connection, address, LIMIT, refused)
    assert open_descriptors() == before
    assert result == outcome(socket.create_connection, address, LIMIT, refused)
    assert result == (OSError, (errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)))


@pytest.mark.parametrize("default", [None, LIMIT])
@pytest.mark.parametrize("given", [{}, {"timeout": None}, {"timeout": LIMIT / 2}], ids=repr)
def test_timeout_stays_on_the_socket(
    presentation: Presentation,
    listener: socket.socket,
    default: float | None,
    given: dict[str, Any],
) -> None:
    socket.setdefaulttimeout(default)
    address = listener.getsockname()[:2]
    with (
        smcsock.create_connection(address, **given) as sock,
        socket.create_connection(address, **given) as tcp,
    ):
        assert sock.gettimeout() == tcp.gettimeout() == given.get("timeout", default)


@pytest.mark.parametrize("timeout", [-1, float("nan"), 1e300, "1"], ids=repr)
def test_bad_timeout_leaves_nothing_open(
    presentation: Presentation, listener: socket.socket, timeout: Any
) -> None:
    before = open_descriptors()
    with presentation.tcp_socket() as tcp:
        expected = outcome(tcp.settimeout, timeout)
    assert outcome(smcsock.create_connection, listener.getsockname()[:2], timeout) == expected
    assert open_descriptors() == before


def test_connection_attempt_times_out(presentation: Presentation) -> None:
    with presentation.tcp_socket() as full:
        full.bind((presentation.host, 0))
        full.listen(0)
        address = full.getsockname()[:2]
        # One may wait to be accepted; after that the listener answers nobody.
        with socket.create_connection(address), pytest.raises(TimeoutError, match=r"^timed out$"):
            smcsock.create_connection(address, 0.5)


def test_interrupted_handshake_is_tried_again_with_a_new_socket(
    presentation: Presentation, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What connect() does when a signal ends the handshake, which no test can time.
    attempts = []
    connect = smcsock.socket.connect

    def interrupted(self: smcsock.socket, address: Any) -> None:
        attempts.append(self)
        if len(attempts) < 3:
            raise HandshakeInterruptedError(errno.EINTR, os.strerror(errno.EINTR))
        connect(self, address)

    monkeypatch.setattr(smcsock.socket, "connect", interrupted)
    with smcsock.create_connection(listener.getsockname()[:2]) as sock:
        assert sock.getpeername() == listener.getsockname()
        assert [attempt.fileno() for attempt in attempts] == [-1, -1, sock.fileno()]


def test_handshake_interrupted_error_is_an_interrupted_error() -> None:
    error = HandshakeInterruptedError(errno.EINTR, "a signal")
    assert isinstance(error, InterruptedError)
    assert (error.errno, str(error)) == (errno.EINTR, "[Errno 4] a signal")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.args) == (smcsock.HandshakeInterruptedError, error.args)


# ---- create_connection that insists on SMC ----------------------------------------


def test_require_smc_returns_an_smc_connection(smc_mode: Mode, presentation: Presentation) -> None:
    mode = presentation.expected_mode(smc_mode)
    if mode is Mode.TCP:
        pytest.skip("needs SMC connections: they are TCP here")
    with presentation.listener() as listener:
        address = listener.getsockname()[:2]
        with smcsock.create_connection(address, require_smc=True) as sock:
            assert sock.smc_info().mode is mode


def test_require_smc_refuses_a_tcp_peer(
    presentation: Presentation, tcp_listener: socket.socket
) -> None:
    address = tcp_listener.getsockname()[:2]
    before = open_descriptors()
    with pytest.raises(FallbackError) as caught:
        smcsock.create_connection(address, LIMIT, require_smc=True)
    assert open_descriptors() == before
    assert caught.value.errno == errno.EPROTONOSUPPORT
    assert caught.value.info is not None
    assert caught.value.info.mode is Mode.TCP
    assert str(caught.value.info) in str(caught.value)
    assert caught.value.peer == tcp_listener.getsockname()
    server, _ = tcp_listener.accept()
    with server:
        server.settimeout(LIMIT)
        assert server.recv(1) == b""


def test_require_smc_says_why_it_is_tcp(
    smc_mode: Mode, presentation: Presentation, tcp_listener: socket.socket
) -> None:
    with pytest.raises(FallbackError) as caught:
        smcsock.create_connection(tcp_listener.getsockname()[:2], require_smc=True)
    assert isinstance(caught.value.info, SmcInfo)
    assert caught.value.info.reason
    assert "peer" in str(caught.value)


def test_require_smc_refuses_smc_listeners_where_all_is_tcp(
    presentation: Presentation, listener: socket.socket
) -> None:
    # On a kernel without SMC, without a device, or of an address family it cannot do.
    if smcsock.has_smc():
        with presentation.pair() as (sock, _):
            if sock.smc_info().mode is not Mode.TCP:
                pytest.skip("needs connections that fall back: they are SMC here")
    with pytest.raises(FallbackError) as caught:
        smcsock.create_connection(listener.getsockname()[:2], require_smc=True)
    assert caught.value.info is not None
    assert caught.value.info.mode is Mode.TCP


def test_require_smc_without_smc_diag_has_no_info(
    smc_mode: Mode,
    presentation: Presentation,
    tcp_listener: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unavailable(*_: object) -> None:
        raise DiagUnavailableError

    monkeypatch.setattr(_smc_info, "query", unavailable)
    with pytest.raises(FallbackError, match="smc_diag") as caught:
        smcsock.create_connection(tcp_listener.getsockname()[:2], require_smc=True)
    assert caught.value.info is None


def test_require_smc_closes_what_it_cannot_judge(
    presentation: Presentation, tcp_listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise OSError(errno.ENOBUFS, "no memory to ask")

    monkeypatch.setattr(smcsock.socket, "smc_info", fail)
    before = open_descriptors()
    with pytest.raises(OSError, match="no memory to ask"):
        smcsock.create_connection(tcp_listener.getsockname()[:2], require_smc=True)
    assert open_descriptors() == before


def test_require_smc_goes_on_to_an_address_that_has_it(
    smc_mode: Mode, presentation: Presentation, tcp_listener: socket.socket, resolver: Resolver
) -> None:
    if smc_mode is Mode.TCP:
        pytest.skip("needs SMC connections: all are TCP here")
    with SMC.listener() as listener:
        resolver.answer = resolved(tcp_listener.getsockname(), listener.getsockname())
        with smcsock.create_connection(("a name", 9), require_smc=True) as sock:
            assert sock.getpeername() == listener.getsockname()
            assert sock.smc_info().mode is smc_mode


def test_require_smc_failures_are_among_all_errors(
    presentation: Presentation, tcp_listener: socket.socket, refused: Any, resolver: Resolver
) -> None:
    resolver.answer = resolved(refused, tcp_listener.getsockname())
    with pytest.raises(ExceptionGroup) as caught:
        smcsock.create_connection(("a name", 9), require_smc=True, all_errors=True)
    kinds = [type(error) for error in caught.value.exceptions]
    assert kinds == [ConnectionRefusedError, FallbackError]


# ---- create_server ---------------------------------------------------------------


def max_backlog(sock: socket.socket) -> int:
    """Of a listening socket; linux/tcp.h, struct tcp_info, tcpi_sacked."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    return int(struct.unpack_from("=I", info, 28)[0])


@inet
def test_server_presents_the_inet_family(presentation: Presentation) -> None:
    address = presentation.host, 0
    with (
        smcsock.create_server(address, family=presentation.inet) as sock,
        socket.create_server(address, family=presentation.inet) as tcp,
    ):
        assert type(sock) is smcsock.socket
        assert sock.family is presentation.inet
        assert (sock.family, sock.type, sock.proto) == (tcp.family, tcp.type, tcp.proto)


def sizes(sock: socket.socket) -> list[int]:
    return [
        sock.getsockopt(socket.SOL_SOCKET, name) for name in (socket.SO_SNDBUF, socket.SO_RCVBUF)
    ]


@inet
def test_buffers_have_the_sizes_asked_for(presentation: Presentation) -> None:
    with (
        smcsock.create_server(
            (presentation.host, 0), family=presentation.inet, sndbuf=50_000, rcvbuf=60_000
        ) as listener,
        smcsock.create_connection(
            listener.getsockname()[:2], sndbuf=70_000, rcvbuf=80_000
        ) as client,
        listener.accept()[0] as server,
    ):
        assert sizes(listener) == [100_000, 120_000]
        if smcsock.has_smc() and not client.fell_back():
            # The kernel gives powers of two, less its own header.
            connection = server.smc_info().connection
            assert connection
            assert connection.rmbe_size >= 60_000
            connection = client.smc_info().connection
            assert connection
            assert connection.rmbe_size >= 80_000
        else:
            assert sizes(client) == [140_000, 160_000]
            assert sizes(server) == [100_000, 120_000]


@inet
def test_server_accepts_connections_that_present_the_same(presentation: Presentation) -> None:
    with smcsock.create_server((presentation.host, 0), family=presentation.inet) as server:
        server.settimeout(LIMIT)
        for connect in smcsock.create_connection, socket.create_connection:
            with connect(server.getsockname()[:2]) as client:
                conn, address = server.accept()
                with conn:
                    assert conn.family is presentation.inet
                    assert address == client.getsockname()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"family": socket.AF_INET6},
        {"family": socket.AF_INET6, "dualstack_ipv6": True},
    ],
    ids=repr,
)
def test_server_options_are_the_standard_librarys(arguments: dict[str, Any]) -> None:
    options = [(socket.SOL_SOCKET, socket.SO_REUSEADDR), (socket.SOL_SOCKET, socket.SO_REUSEPORT)]
    if "family" in arguments:
        options.append((socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
    with (
        smcsock.create_server(("", 0), **arguments) as sock,
        socket.create_server(("", 0), **arguments) as tcp,
    ):
        for option in options:
            assert sock.getsockopt(*option) == tcp.getsockopt(*option)


@pytest.mark.parametrize("backlog", [None, 0, 1, 7, -1, 2**31 - 1])
def test_server_backlog(backlog: int | None) -> None:
    with (
        smcsock.create_server((SMC.host, 0), backlog=backlog) as sock,
        socket.create_server((SMC.host, 0), backlog=backlog) as tcp,
    ):
        assert max_backlog(sock) == max_backlog(tcp)


def test_dual_stack_server_serves_both() -> None:
    with smcsock.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        server.settimeout(LIMIT)
        for peer, shown in (SMC, "::ffff:127.0.0.1"), (SMC6, "::1"):
            with smcsock.create_connection((peer.host, server.getsockname()[1])) as client:
                conn, address = server.accept()
                conn.close()
                assert address == (shown, client.getsockname()[1], 0, 0)


def test_ipv6_server_does_not_serve_ipv4() -> None:
    with smcsock.create_server(("", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            smcsock.create_connection((SMC.host, port))


def kernel_has_reuse_port() -> bool:
    """For AF_SMC, which Linux has refused since 2025, in old releases too; or IPPROTO_SMC."""
    with smcsock.socket() as sock:
        result = outcome(sock.setsockopt, socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if result is not None:
        result = outcome(socket.socket, socket.AF_INET, socket.SOCK_STREAM, smcsock.IPPROTO_SMC)
        if isinstance(result, socket.socket):
            result.close()
            return True
    return result is None


@inet
def test_reuse_port_shares_a_port(presentation: Presentation) -> None:
    if not kernel_has_reuse_port():
        pytest.skip("needs SO_REUSEPORT: this kernel refuses it to SMC sockets")
    family = presentation.inet
    with smcsock.create_server((presentation.host, 0), family=family, reuse_port=True) as one:
        address = one.getsockname()
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
        with smcsock.create_server(address, family=family, reuse_port=True) as other:
            assert other.getsockname() == address
            assert (other.family, other.proto) == (one.family, one.proto) == (family, 0)


@inet
def test_server_that_shares_its_port_accepts_smc(
    presentation: Presentation, smc_mode: Mode
) -> None:
    if not kernel_has_reuse_port():
        pytest.skip("needs SO_REUSEPORT: this kernel refuses it to SMC sockets")
    family = presentation.inet
    with (
        smcsock.create_server((presentation.host, 0), family=family, reuse_port=True) as server,
        smcsock.create_connection(server.getsockname()[:2]) as client,
    ):
        conn, address = server.accept()
        with conn:
            info = conn.smc_info()
            assert info.mode is presentation.expected_mode(smc_mode)
            assert (info.local, info.peer) == (conn.getsockname(), address)
            assert conn.family == family
            client.sendall(b"shared")
            assert conn.recv(6) == b"shared"


@inet
def test_reuse_port_that_the_kernel_refuses_is_an_error(presentation: Presentation) -> None:
    if kernel_has_reuse_port():
        pytest.skip("needs a kernel that refuses SO_REUSEPORT: this one has it")
    before = open_descriptors()
    with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
        smcsock.create_server((presentation.host, 0), family=presentation.inet, reuse_port=True)
    assert open_descriptors() == before


@inet
def test_address_in_use_fails_as_in_the_standard_library(presentation: Presentation) -> None:
    with smcsock.create_server((presentation.host, 0), family=presentation.inet) as server:
        address = server.getsockname()
        before = open_descriptors()
        result = outcome(smcsock.create_server, address, family=presentation.inet)
        assert open_descriptors() == before
        assert result == outcome(socket.create_server, address, family=presentation.inet)
        assert isinstance(result, tuple)
        assert result[1][0] == errno.EADDRINUSE


@pytest.mark.parametrize("host", ["a..b", "192.0.2.1", "::1"])
def test_address_that_is_not_local_fails_as_in_the_standard_library(host: str) -> None:
    result = outcome(smcsock.create_server, (host, 0))
    assert result == outcome(socket.create_server, (host, 0))
    assert "while attempting to bind on address" in str(result)


@pytest.mark.parametrize("has_dualstack", [False, True])
def test_impossible_dual_stack_fails_as_in_the_standard_library(
    has_dualstack: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: has_dualstack)
    result = outcome(smcsock.create_server, ("", 0), dualstack_ipv6=True)
    assert result == outcome(socket.create_server, ("", 0), dualstack_ipv6=True)
    assert isinstance(result, tuple)
    assert result[0] is ValueError


@pytest.mark.parametrize(
    ("address", "arguments", "expected"),
    [
        (None, {}, TypeError),
        (("127.0.0.1", 65536), {}, OverflowError),
        (("127.0.0.1", 0), {"backlog": "1"}, TypeError),
        (("127.0.0.1", 0), {"backlog": 2**31}, OverflowError),
        (("127.0.0.1", 0), {"family": socket.AF_UNIX}, OSError),
    ],
)
def test_bad_arguments_leave_nothing_open(
    address: Any, arguments: dict[str, Any], expected: type[Exception]
) -> None:
    before = open_descriptors()
    with pytest.raises(expected):
        smcsock.create_server(address, **arguments)
    assert open_descriptors() == before


# ---- A kernel without SMC --------------------------------------------------------


def refuse_smc(
    monkeypatch: pytest.MonkeyPatch, number: int, protos: Container[int] = range(2)
) -> None:
    """Has the opening of SMC sockets, which was not tried yet, fail with an errno."""
    open_socket = _smcsock.socket

    def refuse(type: int, proto: int, family: int = AF_SMC) -> int:
        if family == AF_SMC and proto in protos:
            raise OSError(number, os.strerror(number))
        return open_socket(type, proto, socket.AF_INET if family == AF_SMC else family)

    _smcsock.open_directly(False)  # until an SMC socket could be opened
    monkeypatch.setattr(_smcsock, "socket", refuse)
    monkeypatch.setattr(_opening, "_was_lacking", None)
    monkeypatch.setattr(_opening, "_PROTOCOLS", "/none")


@pytest.fixture
def kernel_without_smc(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that has no SMC, or says so, and a user who has not said what to do then."""
    if smcsock.has_smc():
        refuse_smc(monkeypatch, errno.EAFNOSUPPORT)
    monkeypatch.delenv("SMCSOCK_FALLBACK", raising=False)


WAYS: dict[str, Callable[..., smcsock.socket]] = {
    "socket": lambda **kwargs: smcsock.socket(**kwargs),
    "socket-smc6": lambda **kwargs: smcsock.socket(AF_SMC, proto=SMCPROTO_SMC6, **kwargs),
    "socket-inet": lambda **kwargs: smcsock.socket(socket.AF_INET, **kwargs),
    "socket-inet6": lambda **kwargs: smcsock.socket(socket.AF_INET6, **kwargs),
    "create_server": lambda **kwargs: smcsock.create_server((SMC.host, 0), **kwargs),
}

ways = pytest.mark.parametrize("open_socket", WAYS.values(), ids=WAYS.keys())


@pytest.mark.usefixtures("kernel_without_smc")
@ways
@pytest.mark.parametrize("choice", [None, "", "error"])
def test_no_smc_is_an_error_by_default(
    open_socket: Callable[..., object], choice: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if choice is not None:
        monkeypatch.setenv("SMCSOCK_FALLBACK", choice)
    before = open_descriptors()
    with pytest.raises(SMCUnsupportedError) as caught:
        open_socket()
    assert open_descriptors() == before
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.EAFNOSUPPORT


@pytest.mark.usefixtures("kernel_without_smc")
def test_error_without_smc_says_what_to_do() -> None:
    with pytest.raises(SMCUnsupportedError) as caught:
        smcsock.socket()
    text = str(caught.value)
    assert os.strerror(errno.EAFNOSUPPORT) in text
    for hint in "modprobe smc", "CONFIG_SMC", 'fallback="tcp"', "SMCSOCK_FALLBACK=tcp":
        assert hint in text


@pytest.mark.usefixtures("kernel_without_smc")
@ways
def test_fallback_argument_gives_a_tcp_socket(open_socket: Callable[..., smcsock.socket]) -> None:
    with open_socket(fallback="tcp") as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == socket.IPPROTO_TCP
        assert sock.smc_info().mode is Mode.TCP


@pytest.mark.usefixtures("kernel_without_smc")
@ways
def test_fallback_of_the_environment_gives_a_tcp_socket(
    open_socket: Callable[..., smcsock.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMCSOCK_FALLBACK", "tcp")
    with open_socket() as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == socket.IPPROTO_TCP
        assert sock.smc_info().mode is Mode.TCP


@pytest.mark.usefixtures("kernel_without_smc")
@ways
def test_fallback_argument_overrides_the_environment(
    open_socket: Callable[..., smcsock.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMCSOCK_FALLBACK", "tcp")
    with pytest.raises(SMCUnsupportedError):
        open_socket(fallback="error")
    for choice in "error", "nonsense":
        monkeypatch.setenv("SMCSOCK_FALLBACK", choice)
        with open_socket(fallback="tcp") as sock:
            assert sock.smc_info().mode is Mode.TCP


@pytest.mark.usefixtures("kernel_without_smc")
@ways
@pytest.mark.parametrize("choice", ["TCP", "yes", "", 1, True])
def test_bad_fallback_argument(open_socket: Callable[..., object], choice: object) -> None:
    message = f"fallback must be 'tcp' or 'error', not {choice!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_socket(fallback=choice)


@pytest.mark.usefixtures("kernel_without_smc")
@ways
@pytest.mark.parametrize("choice", ["TCP", "1", "tcp "])
def test_bad_fallback_in_the_environment(
    open_socket: Callable[..., object], choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMCSOCK_FALLBACK", choice)
    message = f"SMCSOCK_FALLBACK must be 'tcp' or 'error', not {choice!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_socket()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_sandbox_that_forbids_smc_is_a_kernel_without_it(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_smc(monkeypatch, number)
    with pytest.raises(PermissionError, match=os.strerror(number)):
        smcsock.socket(fallback="error")
    with smcsock.socket(fallback="tcp") as sock:
        assert sock.smc_info().mode is Mode.TCP


@pytest.mark.parametrize("fallback", ["tcp", "error"])
def test_want_of_resources_is_no_reason_to_fall_back(
    fallback: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_smc(monkeypatch, errno.EMFILE)
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        smcsock.socket(fallback=fallback)


@pytest.mark.usefixtures("kernel_without_smc")
def test_create_connection_without_smc(
    presentation: Presentation, tcp_listener: socket.socket
) -> None:
    address = tcp_listener.getsockname()[:2]
    with pytest.raises(SMCUnsupportedError):
        smcsock.create_connection(address)
    with pytest.raises(ExceptionGroup) as caught:
        smcsock.create_connection(address, all_errors=True)
    assert [type(error) for error in caught.value.exceptions] == [SMCUnsupportedError]
    tcp_listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        tcp_listener.accept()


@pytest.mark.usefixtures("kernel_without_smc")
def test_create_connection_falls_back_where_told_to(
    presentation: Presentation, tcp_listener: socket.socket
) -> None:
    address = tcp_listener.getsockname()[:2]
    with smcsock.create_connection(address, fallback="tcp") as sock:
        assert sock.family is presentation.inet
        assert sock.smc_info().mode is Mode.TCP
        assert sock.getpeername() == tcp_listener.getsockname()


@pytest.mark.usefixtures("kernel_without_smc")
def test_fallback_does_not_satisfy_require_smc(
    presentation: Presentation, tcp_listener: socket.socket
) -> None:
    address = tcp_listener.getsockname()[:2]
    before = open_descriptors()
    with pytest.raises(FallbackError) as caught:
        smcsock.create_connection(address, require_smc=True, fallback="tcp")
    assert open_descriptors() == before
    assert caught.value.info == SmcInfo(Mode.TCP)


def test_fallback_changes_nothing_where_there_is_smc(
    smc_mode: Mode, presentation: Presentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMCSOCK_FALLBACK", "tcp")
    with presentation.open(fallback="tcp") as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == AF_SMC


def test_kernel_with_smc_but_without_ipv6_does_not_fall_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuse_smc(monkeypatch, errno.EAFNOSUPPORT, protos=[SMCPROTO_SMC6])
    with pytest.raises(OSError, match="not supported") as caught:
        smcsock.socket(socket.AF_INET6, fallback="tcp")
    assert caught.value.errno == errno.EAFNOSUPPORT
    assert not isinstance(caught.value, SMCUnsupportedError)


# ---- has_smc ---------------------------------------------------------------------


def test_has_smc_is_true_of_a_guest(smc_mode: Mode) -> None:
    assert smcsock.has_smc() is True


def test_has_smc_says_what_the_kernel_says() -> None:
    result = outcome(lambda: socket.socket(AF_SMC, socket.SOCK_STREAM).close())
    unsupported = OSError, (errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    assert smcsock.has_smc() is (result != unsupported)


def test_has_smc_leaves_nothing_open() -> None:
    before = open_descriptors()
    smcsock.has_smc()
    assert open_descriptors() == before


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EACCES, errno.EPERM])
def test_has_smc_is_false_if_refused(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_smc(monkeypatch, number)
    assert smcsock.has_smc() is False


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_has_smc_does_not_guess(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_smc(monkeypatch, number)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        smcsock.has_smc()
