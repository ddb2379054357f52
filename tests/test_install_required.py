"""require_smc has no way round, and event loops meet errors that their authors expect."""

import _socket
import asyncio
import contextlib
import errno
import multiprocessing.reduction
import os
import pickle
import resource
import select
import signal
import socket
import socketserver
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import INET, Presentation
from test_install import (
    LIMIT,
    NEEDS_SMC,
    V4,
    Echo,
    PlainSocket,
    asyncio_echo,
    asyncio_open,
    asyncio_program,
    in_thread,
    socketserver_program,
    tcp_listener,
    tls_program,
)
from test_install import inet as inet
from test_install import nothing_left as nothing_left
from test_timeouts import black_hole

import smcsock
from smcsock import FallbackError, Mode, Report


def read_file(sock: socket.socket) -> bytes:
    with sock.makefile("rb") as file:
        return file.read(1)


def refused(report: Report) -> dict[tuple[str, bool], int]:
    return {(o.side, o.refused): count for o, count in report.connections().items()}


def test_a_required_connection_must_not_fall_back(inet: Presentation, smc_mode: Mode) -> None:
    report = Report()
    with (
        tcp_listener(inet.host) as listener,
        smcsock.installed(require_smc=True, report=report),
        socket.socket(inet.inet) as client,
    ):
        with pytest.raises(FallbackError, match="SMC was required") as failure:
            client.connect(listener.getsockname())
        assert failure.value.peer == listener.getsockname()
        with pytest.raises(FallbackError):
            client.send(b"secret")
        with pytest.raises(BrokenPipeError):
            os.write(client.fileno(), b"secret")
        server, _ = listener.accept()
        with server:
            assert server.recv(100) == b""
    assert refused(report) == {("connect", True): 1}


def test_a_required_server_ends_connections_that_fall_back(smc_mode: Mode) -> None:
    report = Report()
    with smcsock.installed(require_smc=True, report=report):
        listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as client:
        with pytest.raises(FallbackError):
            listener.accept()
        client.settimeout(LIMIT)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    assert refused(report) == {("accept", True): 1}


def test_a_required_connection_that_is_smc(smc_mode: Mode) -> None:
    if smc_mode is Mode.TCP:
        pytest.skip(NEEDS_SMC)
    with smcsock.installed(require_smc=True):
        assert asyncio_program() == socketserver_program() == tls_program() == b"page"


def test_a_required_connection_of_asyncio_must_not_fall_back(smc_mode: Mode) -> None:
    report = Report()
    with (
        tcp_listener() as listener,
        smcsock.installed(require_smc=True, report=report),
        pytest.raises(OSError, match="Connect call failed") as failure,
    ):
        asyncio.run(asyncio_open(listener.getsockname()))
    assert failure.value.errno == errno.EPROTONOSUPPORT
    assert refused(report) == {("connect", True): 1}


def test_a_required_socketserver_goes_on(smc_mode: Mode) -> None:
    if smc_mode is Mode.TCP:
        pytest.skip(NEEDS_SMC)
    with smcsock.installed(require_smc=True):
        server = socketserver.TCPServer(("127.0.0.1", 0), Echo)
    with server, in_thread(server.serve_forever, 0.05):
        try:
            for client in (PlainSocket(V4), INET.open()):
                with client:
                    client.settimeout(LIMIT)
                    client.connect(server.server_address)
                    expected = b"" if isinstance(client, PlainSocket) else b"page"
                    assert answer(client) == expected
        finally:
            server.shutdown()


def test_a_required_asyncio_server_goes_on(smc_mode: Mode) -> None:
    if smc_mode is Mode.TCP:
        pytest.skip(NEEDS_SMC)

    async def main() -> list[bytes]:
        answers = []
        loop = asyncio.get_running_loop()
        async with await asyncio.start_server(asyncio_echo, "127.0.0.1", 0) as server:
            for client in (PlainSocket(V4), INET.open()):
                with client:
                    client.settimeout(LIMIT)
                    address = server.sockets[0].getsockname()
                    await loop.run_in_executor(None, client.connect, address)
                    answers.append(await loop.run_in_executor(None, answer, client))
        return answers

    with smcsock.installed(require_smc=True):
        assert asyncio.run(main()) == [b"", b"page"]


def answer(client: "socket.socket | PlainSocket") -> bytes:
    """What an echo server answers; nothing if it has ended the connection."""
    try:
        client.sendall(b"page\n")
        return client.recv(100)
    except (BrokenPipeError, ConnectionResetError):
        return b""


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")  # left by ssl
@pytest.mark.parametrize(
    "use",
    [
        lambda sock: sock.send(b"x"),
        lambda sock: sock.recv(1),
        lambda sock: sock.sendmsg([b"x"]),
        lambda sock: sock.recv_into(bytearray(1)),
        lambda sock: sock.getpeername(),
        lambda sock: sock.shutdown(socket.SHUT_WR),
        lambda sock: sock.connect(("127.0.0.1", 1)),
        read_file,
        lambda sock: ssl.create_default_context().wrap_socket(
            sock, server_hostname="h", do_handshake_on_connect=False
        ),
    ],
    ids=[
        "send",
        "recv",
        "sendmsg",
        "recv_into",
        "getpeername",
        "shutdown",
        "connect",
        "makefile",
        "tls",
    ],
)
def test_a_required_connection_begun_without_blocking(
    use: Callable[[socket.socket], object], smc_mode: Mode
) -> None:
    with (
        tcp_listener() as listener,
        smcsock.installed(require_smc=True),
        socket.socket() as client,
    ):
        client.setblocking(False)
        assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        assert select.select([], [client], [], LIMIT)[1]
        with pytest.raises(FallbackError):
            use(client)
        server, _ = listener.accept()
        with server:
            assert server.recv(100) == b""


def test_to_print_a_socket_is_no_use_of_it() -> None:
    with (
        tcp_listener() as listener,
        smcsock.installed(require_smc=True, fallback="tcp"),
        socket.socket() as client,
    ):
        client.setblocking(False)
        assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        assert select.select([], [client], [], LIMIT)[1]
        assert f"fd={client.fileno()}" in repr(client)
        with pytest.raises(FallbackError):
            client.send(b"secret")


def is_connecting(address: tuple[str, int]) -> bool:
    """Whether the kernel has a TCP socket that waits for an answer from there."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]
    return any(
        state == "02" and int(remote.rpartition(":")[2], 16) == address[1]
        for _, _, remote, state, *_ in fields
    )


def test_a_required_connection_from_which_a_signal_got_out() -> None:
    """It goes on without the program, which may use it later."""

    class GotOut(Exception):
        pass

    def handler(*_: object) -> None:
        if is_connecting(address):
            raise GotOut
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    with (
        black_hole(INET) as listener,
        smcsock.installed(require_smc=True, fallback="tcp"),
        socket.socket() as client,
    ):
        address = listener.getsockname()
        client.settimeout(LIMIT)
        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            with pytest.raises(GotOut):
                client.connect(address)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        with PlainSocket(fileno=os.dup(listener.fileno())) as plain:
            plain.accept()[0].close()
        assert select.select([], [client], [], LIMIT)[1]
        with pytest.raises(FallbackError):
            client.send(b"secret")


def test_a_required_connection_of_which_nothing_can_be_asked(smc_mode: Mode) -> None:
    """That it fell back is known without a further descriptor; why, is not."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (
        tcp_listener() as listener,
        smcsock.installed(require_smc=True),
        socket.socket() as client,
    ):
        unused = os.dup(0)
        os.close(unused)
        resource.setrlimit(resource.RLIMIT_NOFILE, (unused, limits[1]))
        try:
            with pytest.raises(FallbackError, match=os.strerror(errno.EMFILE)) as failure:
                client.connect(listener.getsockname())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert failure.value.info is None


def test_a_required_tls_connection_begun_without_blocking(smc_mode: Mode) -> None:
    """To send or receive makes the handshake, if nobody has."""
    context = ssl.create_default_context()
    uses: list[Callable[[ssl.SSLSocket], object]] = [
        lambda tls: tls.send(b"x"),
        lambda tls: tls.recv(1),
        lambda tls: tls.read(1),
    ]
    for use in uses:
        with (
            tcp_listener() as listener,
            smcsock.installed(require_smc=True),
            context.wrap_socket(socket.socket(), server_hostname="h") as client,
        ):
            client.setblocking(False)
            assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
            assert select.select([], [client], [], LIMIT)[1]
            with pytest.raises(FallbackError):
                use(client)


def test_requirements_are_of_what_is_selected(smc_mode: Mode) -> None:
    with (
        tcp_listener() as listener,
        smcsock.installed(require_smc=True, only="127.0.0.2:*"),
        socket.create_connection(listener.getsockname()) as client,
    ):
        assert client.send(b"x") == 1


# ----- other ways to the same connection


def pending(listener: PlainSocket) -> socket.socket:
    """A client that connected without blocking, and of which no more was asked."""
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(listener.getsockname())
    assert select.select([], [client], [], LIMIT)[1]
    return client


def adopted(fd: int) -> socket.socket:
    return socket.socket(fileno=fd)


@pytest.mark.parametrize(
    "other",
    [
        lambda sock: sock.dup(),
        lambda sock: adopted(sock.detach()),
        lambda sock: adopted(os.dup(sock.fileno())),
        lambda sock: socket.fromfd(sock.fileno(), socket.AF_UNIX, socket.SOCK_STREAM),
        lambda sock: pickle.loads(multiprocessing.reduction.ForkingPickler.dumps(sock)),
    ],
    ids=["dup", "detach", "os.dup", "AF_UNIX", "pickle"],
)
def test_another_object_for_a_required_connection(
    other: Callable[[socket.socket], socket.socket],
) -> None:
    with (
        tcp_listener() as listener,
        smcsock.installed(require_smc=True, fallback="tcp"),
        pending(listener) as client,
        other(client) as same,
    ):
        for _ in range(2):
            with pytest.raises(FallbackError):
                same.send(b"secret")
        server, _ = listener.accept()
        with server:
            assert server.recv(100) == b""


def test_the_descriptor_of_a_required_connection() -> None:
    with (
        tcp_listener() as listener,
        smcsock.installed(require_smc=True, fallback="tcp"),
        pending(listener) as client,
    ):
        with pytest.raises(BrokenPipeError):
            os.write(client.fileno(), b"secret")
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EPROTONOSUPPORT
        server, _ = listener.accept()
        with server:
            assert server.recv(100) == b""


class OfItsOwn(_socket.socket):
    """As gevent's: derived from the C type, not from socket.socket."""


@pytest.mark.parametrize("use", ["connect", "connect_ex", "bind", "listen", "sendto"])
@pytest.mark.parametrize("make", [OfItsOwn, socket.socket])
def test_sockets_opened_past_smcsock_are_no_way_round(make: Any, use: str) -> None:
    if (make, use) == (OfItsOwn, "listen"):
        pytest.skip("Python has no event of listen(), and without bind() nobody knows where")
    with (
        tcp_listener() as listener,
        contextlib.closing(make()) as sock,
        smcsock.installed(require_smc=True, fallback="tcp"),
    ):
        arguments = {
            "connect": [listener.getsockname()],
            "bind": [("127.0.0.1", 0)],
            "connect_ex": [listener.getsockname()],
            "listen": [],
            "sendto": [b"secret", socket.MSG_FASTOPEN, listener.getsockname()],
        }
        with pytest.raises(FallbackError, match="not opened through"):
            getattr(sock, use)(*arguments[use])


@pytest.mark.parametrize("send", ["sendto", "sendmsg"])
def test_a_message_that_connects_is_no_way_round(send: str) -> None:
    with (
        tcp_listener() as listener,
        smcsock.installed(require_smc=True, fallback="tcp"),
        socket.socket() as client,
    ):
        to = socket.MSG_FASTOPEN, listener.getsockname()
        arguments = {"sendto": (b"secret", *to), "sendmsg": ([b"secret"], [], *to)}
        with pytest.raises(FallbackError, match="MSG_FASTOPEN"):
            getattr(client, send)(*arguments[send])


def test_a_listener_from_before_accepts_only_to_refuse() -> None:
    report = Report()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        smcsock.installed(require_smc=True, fallback="tcp", report=report),
        PlainSocket() as client,
    ):
        client.connect(listener.getsockname())
        with pytest.raises(FallbackError) as refusal:
            listener.accept()
        assert refusal.value.errno == errno.ECONNABORTED
        assert client.recv(1) == b""
    assert refused(report) == {("accept", True): 1}
