"""TLS over SMC: smcsock.SSLSocket, and plain contexts with INET presentation."""

import contextlib
import errno
import gc
import pickle
import select
import socket
import ssl
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import EXPECTED_MODE, SMC, VM_MODE, Presentation
from descriptors import open_descriptors
from test_socket import drain, in_thread, raises, receive
from test_socket import inet as inet
from test_socket import time_limit as time_limit
from tls import client_context, server_context

import smcsock
from smcsock import FallbackError, Mode

DATA = bytes(range(250)) * 1200  # more than the buffers hold

over_one = pytest.mark.parametrize("presentation", [SMC], ids=lambda p: p.name)


def with_smc(context: ssl.SSLContext) -> ssl.SSLContext:
    context.sslsocket_class = smcsock.SSLSocket
    return context


Wrapped = tuple[smcsock.SSLSocket, smcsock.SSLSocket]


def smc_tls(sock: ssl.SSLSocket) -> smcsock.SSLSocket:
    assert type(sock) is smcsock.SSLSocket
    return sock


@contextlib.contextmanager
def tls_pair(
    presentation: Presentation,
    serving: ssl.SSLContext | None = None,
    asking: ssl.SSLContext | None = None,
    hostname: str = "localhost",
    session: ssl.SSLSession | None = None,
) -> Iterator[Wrapped]:
    """A TLS client and the accepted socket of its connection."""
    serving, asking = serving or server_context(), asking or client_context()
    with contextlib.ExitStack() as stack:
        listener = presentation.listener()
        tls_listener = stack.enter_context(
            smc_tls(with_smc(serving).wrap_socket(listener, server_side=True))
        )
        client = smc_tls(
            with_smc(asking).wrap_socket(
                presentation.open(), server_hostname=hostname, session=session
            )
        )
        stack.enter_context(client)
        with in_thread(tls_listener.accept) as accepted:
            client.connect(tls_listener.getsockname())
        server, address = accepted.result()
        stack.enter_context(server)
        assert address == client.getsockname()
        if VM_MODE in EXPECTED_MODE:
            mode = presentation.expected_mode(EXPECTED_MODE[VM_MODE])
            assert client.smc_info().mode is server.smc_info().mode is mode
        yield client, server


@contextlib.contextmanager
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The oracle of the standard library: a client and the accepted socket of its connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        yield client, server


@contextlib.contextmanager
def tcp_tls_pair() -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    with tcp_pair() as (plain, other):
        with in_thread(lambda: server_context().wrap_socket(other, server_side=True)) as wrapped:
            client = client_context().wrap_socket(plain, server_hostname="localhost")
        with client, wrapped.result() as server:
            yield client, server


# ----- what it is


def test_it_is_both(presentation: Presentation) -> None:
    with tls_pair(presentation) as pair:
        for sock in pair:
            assert isinstance(sock, ssl.SSLSocket)
            assert isinstance(sock, smcsock.socket)
            assert sock.family == presentation.family
            assert sock.proto == presentation.proto
            assert sock.version() == "TLSv1.3"
            assert f"family={int(presentation.family)}" in repr(sock)


def test_it_knows_its_mode(presentation: Presentation, smc_mode: Mode) -> None:
    with tls_pair(presentation) as (client, server):
        assert client.smc_info().mode is presentation.expected_mode(smc_mode)
        assert server.smc_info().mode is presentation.expected_mode(smc_mode)
        assert client.smc_info().peer == server.getsockname()
        assert client.fell_back() == (client.smc_info().mode is Mode.TCP)


def test_without_smc_in_the_kernel_it_knows_that(
    presentation: Presentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    if smcsock.has_smc():
        pytest.skip("needs a kernel that cannot open SMC sockets")
    with tls_pair(presentation) as (client, server):
        assert client.smc_info() == server.smc_info() == smcsock.SmcInfo(Mode.TCP)


def test_class_has_no_public_constructor() -> None:
    with pytest.raises(TypeError, match="SSLSocket does not have a public constructor"):
        smcsock.SSLSocket()


def test_ssl_is_imported_for_it_only() -> None:
    code = """if True:
        import sys, smcsock
        assert "SSLSocket" in dir(smcsock) and "SSLSocket" in smcsock.__all__
        assert "ssl" not in sys.modules, "imported by smcsock"
        assert not hasattr(smcsock, "Socket")
        assert issubclass(smcsock.SSLSocket, sys.modules["ssl"].SSLSocket)
        assert smcsock.SSLSocket is vars(smcsock)["SSLSocket"]
        """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_sockets_are_wrapped_as_before() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with with_smc(server_context()).wrap_socket(listener, server_side=True) as tls:
            assert type(tls) is ssl.SSLSocket
        assert listener.fileno() == -1
    one, other = socket.socketpair()
    with (
        one,
        other,
        with_smc(client_context()).wrap_socket(
            one, server_hostname="localhost", do_handshake_on_connect=False
        ) as tls,
    ):
        assert type(tls) is ssl.SSLSocket


def test_plain_context_needs_inet_presentation(inet: Presentation) -> None:
    with inet.listener() as listener, inet.open() as client:
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        serving = server_context()
        with in_thread(lambda: serving.wrap_socket(server, server_side=True)) as accepted:
            tls = client_context().wrap_socket(client, server_hostname="localhost")
        with tls, accepted.result() as tls_server:
            assert type(tls) is ssl.SSLSocket
            tls.sendall(b"Hello")
            assert receive(tls_server, 5) == b"Hello"


@over_one
# The standard library leaves its socket to be closed by the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_plain_context_fails_with_smc_presentation(presentation: Presentation) -> None:
    with presentation.pair() as (client, _):
        with pytest.raises(OSError, match=r"bad family|protocol"):
            client_context().wrap_socket(client, server_hostname="localhost")
        gc.collect()


# ----- the connection


def test_data_passes_in_both_directions(presentation: Presentation) -> None:
    with tls_pair(presentation) as (client, server):
        with in_thread(client.sendall, DATA):
            assert receive(server, len(DATA)) == DATA
        with in_thread(server.sendall, DATA[::-1]):
            buffer = bytearray(len(DATA))
            view = memoryview(buffer)
            while view:
                view = view[client.recv_into(view) :]
        assert buffer == DATA[::-1]


def test_sockets_connected_before_can_be_wrapped(presentation: Presentation) -> None:
    with presentation.pair() as (plain_client, plain_server):
        plain_client.sendall(b"STARTTLS")
        assert receive(plain_server, 8) == b"STARTTLS"
        plain_client.settimeout(60)
        serving, asking = with_smc(server_context()), with_smc(client_context())
        with in_thread(lambda: serving.wrap_socket(plain_server, server_side=True)) as wrapped:
            client = asking.wrap_socket(plain_client, server_hostname="localhost")
        with smc_tls(client), smc_tls(wrapped.result()) as server:
            assert plain_client.fileno() == plain_server.fileno() == -1
            assert client.gettimeout() == 60
            client.sendall(b"Hello")
            assert receive(server, 5) == b"Hello"


@over_one
def test_file_goes_through_tls(presentation: Presentation, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    with tls_pair(presentation) as (client, server), path.open("rb") as file:
        with in_thread(client.sendfile, file) as sent:
            assert receive(server, len(DATA)) == DATA
        assert sent.result() == len(DATA)


def test_close_notify_ends_the_stream(presentation: Presentation) -> None:
    with tls_pair(presentation) as (client, server):
        client.sendall(b"the end")
        with in_thread(client.unwrap) as unwrapped:
            assert drain(server) == b"the end"  # not ragged: by the peer's close_notify
            assert server.unwrap() is server
        assert unwrapped.result() is client
        # The connection is there still, and in the clear.
        client.sendall(b"clear")
        assert receive(server, 5) == b"clear"
        assert client.smc_info().mode is not None


def at_ragged_end(pair: tuple[ssl.SSLSocket, ssl.SSLSocket], call: str, *args: Any) -> Any:
    """What a call gives, twice, when the peer has closed the connection without close_notify."""
    client, server = pair
    server.sendall(b"x")
    assert client.recv(1) == b"x"  # and the tickets: unread, they make TCP reset
    client.close()
    select.select([server], [], [], 60)
    outcomes = []
    for _ in range(2):
        try:
            outcomes.append(getattr(server, call)(*args))
        except OSError as error:
            outcomes.append((type(error), error.errno))
    return outcomes


@pytest.mark.parametrize("suppress", [True, False], ids=["suppressed", "told"])
@pytest.mark.parametrize(
    ("call", "args"),
    [("recv", (1,)), ("read", ()), ("recv_into", (bytearray(9),)), ("read", (9, bytearray(9)))],
    ids=["recv", "read", "recv_into", "read into"],
)
@over_one
def test_end_without_close_notify_is_as_over_tcp(
    presentation: Presentation, call: str, args: tuple[Any, ...], suppress: bool
) -> None:
    with tcp_tls_pair() as pair:
        pair[1].suppress_ragged_eofs = suppress  # type: ignore[attr-defined]
        over_tcp = at_ragged_end(pair, call, *args)
    with tls_pair(presentation) as smc_pair:
        smc_pair[1].suppress_ragged_eofs = suppress
        assert at_ragged_end(smc_pair, call, *args) == over_tcp
    # Early releases of Python 3.11 take every end for one with close_notify.
    is_told = not suppress and not server_context().options & ssl.OP_IGNORE_UNEXPECTED_EOF
    assert over_tcp[0] == (ssl.SSLEOFError, ssl.SSL_ERROR_EOF) if is_told else not over_tcp[0]


@over_one
def test_end_in_the_handshake_is_as_over_tcp(presentation: Presentation) -> None:
    def serve(sock: socket.socket) -> type[BaseException]:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            with_smc(server_context()).wrap_socket(sock, server_side=True)
        return caught.type

    outcomes = []
    for pair in tcp_pair(), presentation.pair():
        with pair as (client, server):
            hello = ssl.MemoryBIO()
            asking = client_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
            with pytest.raises(ssl.SSLWantReadError):
                asking.do_handshake()
            with in_thread(serve, server) as served:
                client.sendall(hello.read())
                client.recv(1 << 16)  # all that there is: unread, it makes TCP reset
                client.close()
            outcomes.append(served.result())
    assert outcomes[0] is outcomes[1]
    assert outcomes[0] in (ssl.SSLEOFError, ssl.SSLZeroReturnError)


@over_one
def test_plain_socket_only_after_unwrap(presentation: Presentation) -> None:
    with tls_pair(presentation) as (client, server):
        with pytest.raises(NotImplementedError, match="before unwrap"):
            client.to_stdlib()
        with in_thread(server.unwrap):
            client.unwrap()
        with client.to_stdlib() as plain:
            assert type(plain) is socket.socket
            assert client.fileno() == -1
            plain.sendall(b"clear")
            assert receive(server, 5) == b"clear"


@over_one
def test_nothing_is_sent_in_the_clear(presentation: Presentation) -> None:
    with tls_pair(presentation) as (client, _):
        with pytest.raises(NotImplementedError):
            client.dup()
        with pytest.raises(NotImplementedError):
            client.sendmsg([b"x"])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="sendto not allowed"):
            client.sendto(b"x", ("127.0.0.1", 1))
        with pytest.raises(ValueError, match="non-zero flags"):
            client.send(b"x", socket.MSG_OOB)
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(client)


@over_one
def test_timeout_of_recv(presentation: Presentation) -> None:
    with tls_pair(presentation) as (client, server):
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            client.recv(1)
        server.sendall(b"x")
        select.select([client], [], [], 60)
        client.settimeout(60)
        assert client.recv(1) == b"x"


# ----- certificates, names, sessions


def test_client_certificate(presentation: Presentation) -> None:
    serving = server_context(client_certificate=True)
    with tls_pair(presentation, serving, client_context("client")) as (client, server):
        server.sendall(b"x")  # TLS 1.3: the client learns now whether it is accepted
        assert client.recv(1) == b"x"
        certificate = server.getpeercert()
        assert certificate is not None
        assert certificate["subjectAltName"] == (("DNS", "client.example"),)


@over_one
@pytest.mark.parametrize("certificate", [None, "localhost"], ids=["none", "of a server"])
def test_client_without_the_right_certificate_is_refused(
    presentation: Presentation, certificate: str | None
) -> None:
    serving = with_smc(server_context(client_certificate=True))
    asking = with_smc(client_context(certificate))
    with presentation.listener() as plain:
        listener = smc_tls(serving.wrap_socket(plain, server_side=True))
    with listener, presentation.open() as plain:
        client = smc_tls(asking.wrap_socket(plain, server_hostname="localhost"))
        with client:

            def accept() -> None:
                with pytest.raises(ssl.SSLError):
                    listener.accept()

            with in_thread(accept):
                client.connect(listener.getsockname())
                with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
                    client.recv(1)


def test_server_name_selects_the_certificate(presentation: Presentation) -> None:
    serving, other = server_context(), server_context("other")
    seen: list[Any] = []

    def choose(sock: ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        seen.append((type(sock), name, sock.family))
        if name == "other.example":
            sock.context = other

    serving.sni_callback = choose  # type: ignore[assignment]
    for name in ("localhost", "other.example"):
        with tls_pair(presentation, serving, hostname=name) as (client, _):
            certificate = client.getpeercert()
            assert certificate is not None
            assert certificate["subjectAltName"][0] == ("DNS", name)
    assert seen == [
        (smcsock.SSLSocket, "localhost", presentation.family),
        (smcsock.SSLSocket, "other.example", presentation.family),
    ]


@over_one
def test_wrong_name_is_refused_and_the_connection_closed(presentation: Presentation) -> None:
    serving, asking = with_smc(server_context()), with_smc(client_context())
    before = open_descriptors()
    with presentation.pair() as (plain_client, plain_server):

        def serve() -> None:
            with pytest.raises(ssl.SSLError):
                serving.wrap_socket(plain_server, server_side=True)

        with in_thread(serve), pytest.raises(ssl.SSLCertVerificationError):
            asking.wrap_socket(plain_client, server_hostname="wrong.example")
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)
def test_session_is_resumed(presentation: Presentation, version: ssl.TLSVersion) -> None:
    serving, asking = server_context(), client_context()
    asking.maximum_version = version
    with tls_pair(presentation, serving, asking) as (client, server):
        server.sendall(b"x")  # with it come the tickets of TLS 1.3
        assert client.recv(1) == b"x"
        assert not client.session_reused
        session = client.session
        with in_thread(server.unwrap):
            client.unwrap()
    with tls_pair(presentation, serving, asking, session=session) as (client, server):
        assert client.session_reused
        assert server.session_reused


# ----- connecting and accepting


@over_one
def test_refused_connection_can_be_reported(presentation: Presentation) -> None:
    with presentation.listener() as listener:
        address = listener.getsockname()
    client = with_smc(client_context()).wrap_socket(
        presentation.open(), server_hostname="localhost"
    )
    with client, raises(errno.ECONNREFUSED):
        client.connect(address)
    client = with_smc(client_context()).wrap_socket(
        presentation.open(), server_hostname="localhost"
    )
    with client:
        assert client.connect_ex(address) == errno.ECONNREFUSED


@over_one
def test_accept_without_handshake_leaves_it_to_the_caller(presentation: Presentation) -> None:
    serving = with_smc(server_context())
    with presentation.listener() as plain:
        listener = smc_tls(
            serving.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        )
    with listener, presentation.open() as plain:
        plain.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            assert server.version() is None
            with in_thread(server.do_handshake):
                client = with_smc(client_context()).wrap_socket(plain, server_hostname="localhost")
            with client:
                assert server.version() == client.version() == "TLSv1.3"


@over_one
def test_handshake_without_blocking(presentation: Presentation) -> None:
    with presentation.pair() as (plain_client, plain_server):
        plain_client.setblocking(False)
        plain_server.setblocking(False)
        serving, asking = with_smc(server_context()), with_smc(client_context())
        client = asking.wrap_socket(
            plain_client, server_hostname="localhost", do_handshake_on_connect=False
        )
        server = serving.wrap_socket(plain_server, server_side=True, do_handshake_on_connect=False)
        with client, server:
            todo = [client, server]
            while todo:
                for sock in todo[:]:
                    try:
                        sock.do_handshake()
                    except ssl.SSLWantReadError:
                        select.select([sock], [], [], 0.1)
                    except ssl.SSLWantWriteError:
                        select.select([], [sock], [], 0.1)
                    else:
                        todo.remove(sock)
            assert client.version() == server.version() == "TLSv1.3"


@over_one
def test_non_blocking_socket_cannot_do_the_handshake_at_once(presentation: Presentation) -> None:
    with presentation.pair() as (plain, _):
        plain.setblocking(False)
        before = open_descriptors()
        with pytest.raises(ValueError, match="do_handshake_on_connect should not be specified"):
            with_smc(client_context()).wrap_socket(plain, server_hostname="localhost")
        assert len(before - open_descriptors()) == 1


@over_one
def test_handshake_times_out_and_closes(presentation: Presentation) -> None:
    with presentation.pair() as (plain, _):
        plain.settimeout(0.05)
        before = open_descriptors()
        with pytest.raises(TimeoutError, match="handshake operation timed out"):
            with_smc(client_context()).wrap_socket(plain, server_hostname="localhost")
        assert len(before - open_descriptors()) == 1


@over_one
def test_interrupted_handshake_closes(
    presentation: Presentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: ssl.SSLSocket, block: bool = False) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(smcsock.SSLSocket, "do_handshake", interrupt)
    with presentation.pair() as (plain, _):
        before = open_descriptors()
        with pytest.raises(KeyboardInterrupt):
            with_smc(client_context()).wrap_socket(plain, server_hostname="localhost")
        assert len(before - open_descriptors()) == 1


@over_one
def test_garbage_in_place_of_a_handshake_is_refused(presentation: Presentation) -> None:
    with presentation.listener() as plain:
        listener = with_smc(server_context()).wrap_socket(plain, server_side=True)
    with listener, presentation.open() as client:
        client.connect(listener.getsockname())
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        before = open_descriptors()
        with pytest.raises(ssl.SSLError, match=r"(?i)http request"):
            listener.accept()
        assert open_descriptors() == before
        # The listener goes on.
        with in_thread(listener.accept) as accepted, presentation.open() as other:
            other.connect(listener.getsockname())
            with with_smc(client_context()).wrap_socket(other, server_hostname="localhost") as tls:
                server, _ = accepted.result(60)
                with server:
                    assert tls.version() == "TLSv1.3"


def test_fallback_is_refused_before_the_handshake(
    presentation: Presentation, smc_mode: Mode
) -> None:
    with presentation.listener() as plain:
        listener = smc_tls(with_smc(server_context()).wrap_socket(plain, server_side=True))
    with listener, presentation.tcp_socket() as client:
        client.connect(listener.getsockname())
        with pytest.raises(FallbackError) as caught:
            listener.accept(require_smc=True)
        assert caught.value.peer == client.getsockname()
        assert client.recv(1) == b""


def test_smc_is_accepted_where_it_is_required(presentation: Presentation, smc_mode: Mode) -> None:
    if presentation.expected_mode(smc_mode) is Mode.TCP:
        pytest.skip("needs SMC-D, or SMC-R over IPv4")
    with presentation.listener() as plain:
        listener = smc_tls(with_smc(server_context()).wrap_socket(plain, server_side=True))
    with listener, presentation.open() as plain:
        plain.connect(listener.getsockname())
        asking = with_smc(client_context())
        with in_thread(lambda: listener.accept(require_smc=True)) as accepted:
            client = asking.wrap_socket(plain, server_hostname="localhost")
        with client, accepted.result()[0] as server:
            assert not server.fell_back()


@over_one
def test_closed_socket_cannot_be_wrapped(presentation: Presentation) -> None:
    sock = presentation.open()
    sock.close()
    with raises(errno.EBADF):
        with_smc(client_context()).wrap_socket(sock, server_hostname="localhost")


@over_one
def test_it_is_freed_without_the_collector(presentation: Presentation) -> None:
    gc.disable()
    try:
        with tls_pair(presentation) as (client, server):
            references = [weakref.ref(client), weakref.ref(server)]
        del client, server
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()
