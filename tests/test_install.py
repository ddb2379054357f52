"""smcsock.install(): programs that know nothing of SMC use it."""

import _socket
import asyncio
import contextlib
import errno
import fcntl
import http.server
import multiprocessing
import multiprocessing.connection
import multiprocessing.reduction
import os
import pickle
import posix
import select
import socket
import socketserver
import ssl
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import create_connection as early_create_connection
from socket import socket as early_socket
from typing import IO, Any

import pytest
from conftest import INET, INET6, KEEPS_CONNECT_ERRORS, Presentation, slow
from received import send_on
from test_timeouts import black_hole
from workers import listening_workers

import smcsock
from smcsock import Mode, Outcome, Report
from smcsock._dropin import _files
from smcsock._dropin._selection import Selection

TLS = Path(__file__).with_name("data") / "tls.pem"
LIMIT = 60

V4 = socket.AF_INET
V6 = socket.AF_INET6
TCP = socket.SOCK_STREAM
NEEDS_SMC = "nothing can be required of TCP sockets"


@pytest.fixture(params=[INET, INET6], ids=lambda presentation: presentation.name)
def inet(request: pytest.FixtureRequest) -> Presentation:
    result = request.param
    assert isinstance(result, Presentation)
    return result


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Every test leaves the standard library as it was, and no sockets behind."""
    before = set(_files.known)
    yield
    with socket.socket() as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == V4
    assert socket.socket is early_socket
    assert os.sendfile is posix.sendfile
    _files._tidy()  # of what was detached, and closed as a descriptor
    assert set(_files.known) <= before


@contextlib.contextmanager
def in_thread(function: Callable[..., object], *args: object) -> Iterator[None]:
    thread = threading.Thread(target=function, args=args)
    thread.start()
    try:
        yield
    finally:
        thread.join(LIMIT)
    assert not thread.is_alive()


@contextlib.contextmanager
def connected(host: str = "127.0.0.1") -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection, as the standard library makes them."""
    family = V6 if ":" in host else V4
    with (
        socket.create_server((host, 0), family=family) as listener,
        socket.create_connection(listener.getsockname()[:2]) as client,
    ):
        server, _ = listener.accept()
        with server:
            yield client, server


@contextlib.contextmanager
def tcp_listener(host: str = "127.0.0.1") -> Iterator["PlainSocket"]:
    """A peer that does not do SMC, whatever is installed."""
    with PlainSocket(V6 if ":" in host else V4) as sock:
        sock.bind((host, 0))
        sock.listen()
        yield sock


class PlainSocket(_socket.socket):
    """What no change of socket.socket reaches."""

    def __enter__(self) -> "PlainSocket":
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    # With require_smc only the C type itself may do TCP.
    def bind(self, address: Any) -> None:
        with contextlib.closing(_socket.socket(fileno=os.dup(self.fileno()))) as same:
            same.bind(address)

    def connect(self, address: Any) -> None:
        with contextlib.closing(_socket.socket(fileno=os.dup(self.fileno()))) as same:
            same.settimeout(self.gettimeout())
            same.connect(address)

    def accept(self) -> tuple["PlainSocket", Any]:
        fd, address = self._accept()
        return PlainSocket(self.family, TCP, 0, fd), address

    _accept: Callable[[], tuple[int, Any]]


def is_smc(sock: socket.socket) -> bool:
    """Whether it is a socket of SMC; one that fell back is one of TCP to the kernel."""
    domain = sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
    protocol = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
    return domain == smcsock.AF_SMC or protocol == smcsock.IPPROTO_SMC


def follows(sock: socket.socket) -> bool:
    """Whether it is what install() makes of sockets that are not connected."""
    return is_smc(sock) or not smcsock.has_smc()


def modes(report: Report) -> dict[tuple[str, Mode | None], int]:
    """The report by side and mode."""
    result: dict[tuple[str, Mode | None], int] = {}
    for outcome, count in report.connections().items():
        key = outcome.side, outcome.mode
        result[key] = result.get(key, 0) + count
    return result


@pytest.fixture
def mode() -> Mode:
    """That of connections over IPv4 where the tests run: TCP on a kernel without SMC."""
    if not smcsock.has_smc():
        return Mode.TCP
    with INET.pair() as (client, _):
        mode = client.smc_info().mode
    assert mode is not None
    return mode


# ----- what becomes an SMC socket, and what does not


@pytest.mark.parametrize("family", [-1, V4, V6])
@pytest.mark.parametrize("type", [-1, TCP, TCP | socket.SOCK_NONBLOCK])
@pytest.mark.parametrize("proto", [-1, 0, socket.IPPROTO_TCP])
def test_tcp_sockets_are_smc_sockets(family: int, type: int, proto: int) -> None:
    with socket.socket(family, type, proto) as plain, smcsock.installed():
        sock = socket.socket(family, type, proto)
    with sock:
        assert sock.__class__ is socket.socket
        assert (sock.family, sock.type, sock.proto) == (plain.family, plain.type, plain.proto)
        assert sock.gettimeout() == plain.gettimeout()
        assert sock.get_inheritable() is False
        domain = sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
        assert domain == (smcsock.AF_SMC if smcsock.has_smc() else plain.family)


@pytest.mark.parametrize(
    "arguments",
    [
        (socket.AF_UNIX, TCP),
        (socket.AF_UNIX, socket.SOCK_DGRAM),
        (V4, socket.SOCK_DGRAM),
        (V6, socket.SOCK_DGRAM, socket.IPPROTO_UDP),
        (socket.AF_NETLINK, socket.SOCK_RAW, 0),
    ],
    ids=str,
)
def test_other_sockets_are_plain(arguments: tuple[int, ...]) -> None:
    with smcsock.installed(), socket.socket(*arguments) as sock:
        assert type(sock) is socket.socket
        assert not is_smc(sock)


@pytest.mark.parametrize("report", [None, smcsock.Report()], ids=["", "report"])
def test_unix_sockets_connect(report: smcsock.Report | None, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with smcsock.installed(report=report), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
            one.connect(path)
            assert two.connect_ex(path) == 0
            for _ in range(2):
                sock, address = listener.accept()
                sock.close()
                assert address == ""
    assert not report or not report.connections()


def test_socketpair_is_plain() -> None:
    with smcsock.installed():
        one, other = socket.socketpair()
    with one, other:
        assert type(one) is type(other) is socket.socket


@pytest.mark.parametrize(
    "arguments",
    [
        ("inet",),
        (V4, "stream"),
        (V4, TCP, "tcp"),
        (V4, TCP, 0, "3"),
        (V4, TCP, 0, -1),
        (-1, -1, -1, 1 << 20),
        (V4, TCP, 99999),
        (2**40, TCP),
        (V4, 2**40),
        (1.5, TCP),
        (V4, TCP, 0, None, None, None),
    ],
    ids=str,
)
def test_errors_are_the_standard_librarys(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(Exception) as expected:  # noqa: PT011
        socket.socket(*arguments)
    with smcsock.installed(), pytest.raises(expected.type) as found:
        socket.socket(*arguments)
    if expected.type is OSError:
        assert found.value.args == expected.value.args


def test_names_imported_before_follow() -> None:
    with smcsock.installed(), early_socket() as sock, tcp_listener() as listener:
        assert follows(sock)
        with early_create_connection(listener.getsockname()) as client:
            assert smcsock.smc_info(client).mode is Mode.TCP


def test_derived_classes_follow() -> None:
    class Before(socket.socket):
        def __init__(self, extra: str, *args: Any) -> None:
            super().__init__(*args)
            self.extra = extra

    with smcsock.installed():

        class Meanwhile(Before):
            pass

        with Before("x", V4) as one, Meanwhile("y", V6, TCP) as other:
            assert type(one) is Before
            assert type(other) is Meanwhile
            assert (one.extra, other.extra) == ("x", "y")
            assert follows(one)
            assert follows(other)


def test_smcsocks_own_sockets_are_what_they_were() -> None:
    with smcsock.installed(), smcsock.socket() as sock:
        assert type(sock) is smcsock.socket
        assert sock.family == smcsock.AF_SMC
        plain = sock.to_stdlib()
        with plain:
            assert type(plain) is socket.socket


def test_descriptors_of_smc_sockets_are_recognised(inet: Presentation) -> None:
    with smcsock.installed(), connected(inet.host) as (client, server):
        with socket.fromfd(client.fileno(), inet.inet, TCP) as copy:
            assert _files.of(copy) is _files.of(client)
            copy.sendall(b"copy")
            assert server.recv(9) == b"copy"
        with socket.socket(fileno=server.detach()) as again:
            assert again.family == inet.inet
            assert again.proto == socket.IPPROTO_TCP
            again.sendall(b"again")
            assert client.recv(9) == b"again"
        with client.dup() as copy:
            assert type(copy) is type(client)
            assert _files.of(copy) is _files.of(client)
            assert copy.getpeername() == client.getpeername()


# ----- install, uninstall


def test_installations_nest() -> None:
    outer, inner = Report(), Report()
    smcsock.install(report=outer)
    smcsock.install(report=inner)
    with connected():
        pass
    smcsock.uninstall()
    with connected(), connected():
        pass
    smcsock.uninstall()
    smcsock.uninstall()
    with connected() as (client, _):
        assert not is_smc(client)
    assert sum(inner.connections().values()) == 2
    assert sum(outer.connections().values()) == 4


def test_contexts_may_end_in_any_order() -> None:
    one, other = smcsock.installed(), smcsock.installed()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    with socket.socket() as sock:
        assert follows(sock)
    other.__exit__(None, None, None)


def test_sockets_outlive_the_installation() -> None:
    report = Report()
    with smcsock.installed(report=report):
        listener = socket.create_server(("127.0.0.1", 0))
        client = socket.socket()
    with listener, client:
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            server.sendall(b"x")
            assert client.recv(1) == b"x"
    assert sum(report.connections().values()) == 2


@pytest.mark.parametrize(
    "settings", [{"fallback": "udp"}, {"only": ["nowhere"]}, {"only": "host:port:"}], ids=str
)
def test_settings_that_make_no_sense_change_nothing(settings: Any) -> None:
    with pytest.raises(ValueError, match=r"fallback must be|HOST:PORT"):
        smcsock.install(**settings)


@pytest.mark.skipif(smcsock.has_smc(), reason="this kernel has SMC")
def test_a_kernel_without_smc_is_an_error_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMCSOCK_FALLBACK")
    with smcsock.installed(), pytest.raises(smcsock.SMCUnsupportedError):
        socket.socket()
    report = Report()
    with smcsock.installed(fallback="tcp", report=report), connected():
        pass
    assert {outcome.note for outcome in report.connections()} == {"this kernel has no SMC"}


def test_threads_install_and_open_at_once() -> None:
    def work() -> None:
        for _ in range(50):
            with smcsock.installed(), socket.socket() as sock:
                assert follows(sock)

    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(in_thread(run))
    assert not failures


# ----- the standard library's programs


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"page")

    def log_message(self, *args: object) -> None:
        pass


def http_program() -> bytes:
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server,
        in_thread(server.serve_forever, 0.05),
    ):
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=LIMIT) as answer:
            page = answer.read()
        server.shutdown()
    return bytes(page)


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.readline().strip())


def socketserver_program() -> bytes:
    with (
        socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server,
        in_thread(server.serve_forever, 0.05),
    ):
        with socket.create_connection(server.socket.getsockname(), LIMIT) as client:
            client.sendall(b"page\n")
            with client.makefile("rb") as stream:
                page = stream.read()
        server.shutdown()
    return page


async def asyncio_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.readline()).strip())
    writer.close()
    await writer.wait_closed()


async def asyncio_main() -> bytes:
    async with await asyncio.start_server(asyncio_echo, "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"page\n")
        page = await reader.read()
        writer.close()
        await writer.wait_closed()
    return page


def asyncio_program() -> bytes:
    return asyncio.run(asyncio_main())


def multiprocessing_program() -> bytes:
    with (
        multiprocessing.connection.Listener(("127.0.0.1", 0), authkey=b"k") as listener,
        in_thread(lambda: listener.accept().close()),
        contextlib.suppress(EOFError),
        multiprocessing.connection.Client(listener.address, authkey=b"k") as client,
    ):
        client.recv()
    return b"page"


def tls_program() -> bytes:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(TLS)
    asking = ssl.create_default_context(cafile=TLS)

    def serve(listener: ssl.SSLSocket) -> None:
        server, _ = listener.accept()
        assert type(server) is ssl.SSLSocket
        with server:
            server.sendall(b"page")
            server.unwrap()

    with (
        serving.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True) as listener,
        in_thread(serve, listener),
        # Wrapped before it is connected.
        asking.wrap_socket(socket.socket(), server_hostname="127.0.0.1") as client,
    ):
        client.settimeout(LIMIT)
        client.connect(listener.getsockname())
        assert type(client) is ssl.SSLSocket
        page = client.recv(100)
        client.unwrap()
    return page


@pytest.mark.parametrize(
    "program",
    [
        http_program,
        socketserver_program,
        asyncio_program,
        multiprocessing_program,
        tls_program,
    ],
    ids=lambda program: program.__name__,
)
def test_programs_use_smc(program: Callable[[], bytes], mode: Mode) -> None:
    report = Report()
    with smcsock.installed(report=report):
        assert program() == b"page"
    assert modes(report) == {("connect", mode): 1, ("accept", mode): 1}


def test_a_connected_socket_keeps_its_mode_under_tls(mode: Mode) -> None:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(TLS)
    asking = ssl.create_default_context(cafile=TLS)
    with smcsock.installed(), connected() as (client, server):

        def serve() -> None:
            with serving.wrap_socket(server, server_side=True) as tls:
                tls.unwrap()

        with in_thread(serve), asking.wrap_socket(client, server_hostname="127.0.0.1") as tls:
            assert smcsock.smc_info(tls).mode is mode
            assert tls.recv(1) == b""
            tls.unwrap()


def test_asyncio_is_told_of_a_refused_connection() -> None:
    with PlainSocket(V4) as holder, smcsock.installed():
        holder.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            asyncio.run(asyncio_open(holder.getsockname()))


async def asyncio_open(address: Any) -> None:
    _, writer = await asyncio.open_connection(*address)
    writer.close()


@pytest.mark.parametrize("offset", [0, 1])
def test_files_are_sent_to_their_end(offset: int) -> None:
    """The kernel's SMC keeps back the last bytes when sendfile(2) is asked for more."""
    content = bytes(range(250)) * 1000
    received = bytearray()

    async def send(file: IO[bytes], server: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        _, writer = await asyncio.open_connection(sock=server)
        assert await loop.sendfile(writer.transport, file, offset) == len(content) - offset
        while len(received) < len(content) - offset:
            await asyncio.sleep(0.01)
        writer.close()

    def receive(client: socket.socket) -> None:
        while len(received) < len(content) - offset:
            received.extend(client.recv(100_000))

    with (
        tempfile.TemporaryFile() as file,
        smcsock.installed(),
        connected() as (client, server),
        in_thread(receive, client),
    ):
        client.settimeout(LIMIT)
        file.write(content)
        asyncio.run(asyncio.wait_for(send(file, server), LIMIT))
    assert received == content[offset:]


def test_ports_can_be_shared(mode: Mode) -> None:
    report = Report()
    with (
        smcsock.installed(report=report),
        socket.create_server(("127.0.0.1", 0), reuse_port=True) as one,
        socket.create_server(one.getsockname(), reuse_port=True) as other,
        socket.create_connection(one.getsockname()) as client,
    ):
        ready = select.select([one, other], [], [], LIMIT)[0]
        server, _ = ready[0].accept()
        with server:
            server.sendall(b"x")
            assert client.recv(1) == b"x"
    assert sum(modes(report).values()) == 2
    assert modes(report).get(("connect", mode)) == 1 or mode is not Mode.TCP


# ----- other processes


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=slow)])
def test_sockets_can_be_sent_to_other_processes(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    with smcsock.installed(), connected() as (client, server):
        ours, theirs = context.Pipe()
        process = context.Process(target=send_on, args=(theirs,))
        process.start()
        try:
            ours.send(server)
            server.close()
            client.settimeout(LIMIT)
            assert client.recv(100) == b"socket"
            process.join(LIMIT)
            assert process.exitcode == 0
        finally:
            process.kill()
            process.join()
            process.close()
            ours.close()
            theirs.close()


def test_sockets_cannot_be_pickled_otherwise() -> None:
    with smcsock.socket() as sock, pytest.raises(TypeError, match="cannot pickle 'socket' object"):
        pickle.dumps(sock)


def test_a_socket_sent_to_another_process_is_selected_as_before() -> None:
    """As the workers of a server get its listener."""
    report = Report()
    with (
        smcsock.installed(require_smc=True, only="192.0.2.1:1", report=report),
        socket.create_server(("127.0.0.1", 0)) as listener,
        pickle.loads(multiprocessing.reduction.ForkingPickler.dumps(listener)) as received,
        PlainSocket(V4) as client,
    ):
        client.connect(listener.getsockname())
        server, _ = received.accept()
        with server:
            server.sendall(b"x")
            assert client.recv(1) == b"x"
    assert report.connections() == {Outcome("accept", Mode.TCP, note="not selected"): 1}


# ----- only


@pytest.mark.parametrize(
    ("pattern", "address", "family"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80), V4),
        ("127.0.0.0/8:80", ("127.9.9.9", 80), V4),
        ("*:80", ("10.0.0.1", 80), V4),
        ("127.0.0.1:*", ("127.0.0.1", 9), V4),
        ("*:*", ("::1", 9, 0, 0), V6),
        ("[::1]:80", ("::1", 80), V6),
        ("[fe80::/10]:80", ("fe80::1%lo", 80, 0, 1), V6),
        ("10.1.0.1:80", ("::ffff:10.1.0.1", 80), V6),
        ("[::ffff:10.1.0.1]:80", ("10.1.0.1", 80), V4),
        ("[::ffff:10.1.0.0/112]:80", ("10.1.255.1", 80), V4),
        ("[::ffff:10.1.0.0/112]:80", ("::ffff:10.1.255.1", 80), V6),
        ("localhost:80", ("127.0.0.1", 80), V4),
        ("127.0.0.1:80", ("localhost", 80), V4),
        ("0.0.0.0:80", ("", 80), V4),
        ("127.0.0.1:80", (b"127.0.0.1", 80), V4),
    ],
    ids=str,
)
def test_patterns_match(pattern: str, address: Any, family: int) -> None:
    assert Selection([pattern]).matches(address, family)
    assert Selection(["192.0.2.1:1", pattern]).matches(address, family)


@pytest.mark.parametrize(
    ("pattern", "address"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 81)),
        ("127.0.0.1:80", ("127.0.0.2", 80)),
        ("127.0.0.1:*", ("0.0.0.0", 80)),
        ("[::1]:80", ("127.0.0.1", 80)),
        ("*:80", ("127.0.0.1", "80")),
        ("*:80", "127.0.0.1"),
        ("*:80", None),
        ("*:80", ()),
        ("127.0.0.1:80", ("no such host.invalid", 80)),
    ],
    ids=str,
)
def test_patterns_do_not_match(pattern: str, address: Any) -> None:
    assert not Selection([pattern]).matches(address, V4)


@pytest.mark.parametrize(
    "pattern",
    [
        ":",
        ":80",
        "host",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:http",
        "127.0.0.1:-1",
        "::1:80",
        "[127.0.0.1]:80",
        "[::1]",
        "10.0.0.0/33:80",
        "[::1/x]:80",
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="not HOST:PORT"):
        Selection([pattern])


def test_a_name_is_resolved_as_by_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands in the place of socket.getaddrinfo()."""

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError("no names here")

    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    assert Selection(["127.0.0.1:*"]).matches(("localhost", 80), V4)


def test_only_what_is_selected_is_smc(inet: Presentation, smc_mode: Mode) -> None:
    report = Report()
    with inet.listener() as chosen, inet.listener() as other:
        port = chosen.getsockname()[1]
        host = f"[{inet.host}]" if inet.inet == V6 else inet.host
        with (
            smcsock.installed(only=f"{host}:{port}", report=report),
            socket.create_connection((inet.host, port)) as smc,
            socket.create_connection(other.getsockname()[:2]) as plain,
        ):
            assert smcsock.smc_info(smc).mode is inet.expected_mode(smc_mode)
            assert smcsock.smc_info(smc).family == smcsock.AF_SMC
            domain = plain.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
            assert domain == inet.inet
    notes = {outcome.note for outcome in report.connections()}
    assert notes == {"", "not selected"}


@pytest.mark.parametrize("selected", [True, False])
def test_only_selects_servers_by_their_own_address(selected: bool, smc_mode: Mode) -> None:
    with PlainSocket(V4) as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    with smcsock.installed(only=f"127.0.0.1:{port if selected else port - 1}"):
        server = socketserver.TCPServer(("127.0.0.1", port), Echo)
    with server, INET.open() as client:
        client.connect(server.server_address)
        accepted, _ = server.socket.accept()
        with accepted:
            assert smcsock.smc_info(accepted).mode is (smc_mode if selected else Mode.TCP)
            assert client.smc_info().mode is (smc_mode if selected else Mode.TCP)


def test_a_server_that_is_not_selected_may_be_told_to_listen_in_each_forked_process() -> None:
    """Bound before: each has a TCP socket of its own then, and they share the port."""
    with smcsock.installed(only="192.0.2.1:1"), socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        with (
            listening_workers(bound, 2) as heard,
            socket.create_connection(bound.getsockname(), LIMIT) as client,
        ):
            assert client.recv(1) == b"x"
    assert heard == 2 * [b"T"]


def test_a_selected_socket_keeps_what_was_set_before(inet: Presentation) -> None:
    host = f"[{inet.host}]" if inet.inet == V6 else inet.host
    with (
        inet.listener() as listener,
        smcsock.installed(only=f"{host}:{listener.getsockname()[1]}"),
        socket.socket(inet.inet) as sock,
    ):
        fd = sock.fileno()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.settimeout(LIMIT)
        sock.set_inheritable(True)
        sock.bind((inet.host, 0))
        bound = sock.getsockname()
        sock.connect(listener.getsockname())
        assert sock.fileno() == fd
        assert sock.getsockname() == bound
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.gettimeout() == LIMIT
        assert sock.get_inheritable()
        assert fcntl.fcntl(sock, fcntl.F_GETFL) & os.O_NONBLOCK
        server, address = listener.accept()
        with server:
            assert address == bound
            server.sendall(b"x")
            assert sock.recv(1) == b"x"
            if smcsock.has_smc():
                assert smcsock.smc_info(sock).state is not None


def test_a_socket_bound_as_selected_may_connect_elsewhere(smc_mode: Mode) -> None:
    with (
        tcp_listener() as listener,
        smcsock.installed(only="127.0.0.2:*"),
        socket.create_connection(listener.getsockname(), source_address=("127.0.0.2", 0)) as client,
    ):
        assert client.getsockname()[0] == "127.0.0.2"
        assert smcsock.smc_info(client).mode is Mode.TCP


def protocol_that_shares_ports() -> int:
    """That of a socket that shares its port, as SO_PROTOCOL has it: SMC if it can be."""
    with INET.open() as sock, contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return smcsock.SMCPROTO_SMC
    with contextlib.suppress(OSError), socket.socket(V4, TCP, smcsock.IPPROTO_SMC):
        return smcsock.IPPROTO_SMC
    return socket.IPPROTO_TCP


def test_a_selected_server_can_share_its_port(smc_mode: Mode) -> None:
    expected = protocol_that_shares_ports()
    with PlainSocket(V4) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        address = holder.getsockname()
        with (
            smcsock.installed(only="127.0.0.1:*"),
            socket.create_server(address, reuse_port=True) as server,
        ):
            assert server.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 1
            assert server.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == expected


@pytest.mark.parametrize("required", [True, False])
def test_an_option_that_smc_does_not_have(required: bool, smc_mode: Mode) -> None:
    so_zerocopy = 60
    report = Report()
    with (
        INET.listener() as listener,
        smcsock.installed(only="127.0.0.1:*", require_smc=required, report=report),
        socket.socket() as sock,
    ):
        if required:
            with pytest.raises(OSError, match=os.strerror(errno.EOPNOTSUPP)):
                sock.setsockopt(socket.SOL_SOCKET, so_zerocopy, 1)
            return
        sock.setsockopt(socket.SOL_SOCKET, so_zerocopy, 1)
        sock.connect(listener.getsockname())
    ((outcome, _),) = report.connections().items()
    assert outcome.mode is Mode.TCP
    assert "its option (1, 60) is none of SMC" in outcome.note


def test_an_option_that_tcp_does_not_have(smc_mode: Mode) -> None:
    with (
        tcp_listener("127.0.0.2") as listener,
        smcsock.installed(only="127.0.0.1:*"),
        socket.socket() as sock,
    ):
        sock.bind(("127.0.0.1", 0))
        sock.setsockopt(smcsock.SOL_SMC, smcsock.SMC_LIMIT_HS, 1)
        sock.connect(listener.getsockname())
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == socket.IPPROTO_TCP
        with pytest.raises(OSError, match=os.strerror(errno.ENOPROTOOPT)):
            sock.setsockopt(smcsock.SOL_SMC, smcsock.SMC_LIMIT_HS, 1)


# ----- smcsock.socket itself


def test_so_error_tells_of_a_connect_that_came_to_nothing(smc_mode: Mode) -> None:
    """Linux 6.12 keeps no error when nobody answers."""
    with black_hole(INET) as listener, INET.open() as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
        sock.setblocking(False)
        assert sock.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        assert poll.poll(LIMIT * 1000)
        assert bool(select.select([], [sock], [], 0)[1]) is KEEPS_CONNECT_ERRORS
        if KEEPS_CONNECT_ERRORS:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ETIMEDOUT
            return
        assert socket.socket.getsockopt(sock, socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNABORTED
