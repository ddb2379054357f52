"""Packages that patch or replace socket.socket, or insist on it, after smcsock.install()."""

import asyncio
import errno
import socket
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

import smcsock
from apps.support import application, mode_of
from smcsock import Mode

socks = application("socks", "PySocks")
pytest_socket = application("pytest_socket", "pytest-socket")
loky = application("loky")
iostream = application("tornado.iostream", "tornado")
tcpclient = application("tornado.tcpclient", "tornado")
tcpserver = application("tornado.tcpserver", "tornado")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with smcsock.installed(), socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_pysocks_in_the_place_of_socket(listener: socket.socket, mode: Mode) -> None:
    with (
        mock.patch.object(socket, "socket", socks.socksocket),
        socket.create_connection(listener.getsockname(), 60) as client,
    ):
        assert type(client) is socks.socksocket
        assert mode_of(client) is mode


@pytest.fixture
def restrictions() -> Iterator[None]:
    yield
    pytest_socket._remove_restrictions()


@pytest.mark.usefixtures("restrictions")
@pytest.mark.filterwarnings("ignore:A test tried to use")
def test_pytest_socket_allows_hosts(listener: socket.socket) -> None:
    pytest_socket.socket_allow_hosts(["127.0.0.99"])
    with pytest.raises(pytest_socket.SocketConnectBlockedError):
        socket.create_connection(listener.getsockname())


@pytest.mark.usefixtures("restrictions")
@pytest.mark.filterwarnings("ignore:A test tried to use")
def test_pytest_socket_forbids_sockets(listener: socket.socket, mode: Mode) -> None:
    pytest_socket.disable_socket()
    with smcsock.installed(), pytest.raises(pytest_socket.SocketBlockedError):
        socket.create_connection(listener.getsockname())
    pytest_socket.enable_socket()
    with socket.create_connection(listener.getsockname()) as client:
        assert mode_of(client) is mode


def type_of(sock: socket.socket) -> str:
    with sock:
        sock.sendall(b"from loky")
        return f"{type(sock).__module__}.{type(sock).__name__}"


def test_loky_takes_sockets(listener: socket.socket) -> None:
    executor = loky.get_reusable_executor(max_workers=1)
    try:
        with socket.create_connection(listener.getsockname()) as client:
            server, _ = listener.accept()
            with server:
                assert executor.submit(type_of, client).result(60) == "socket.socket"
                assert server.recv(100) == b"from loky"
    finally:
        executor.shutdown(kill_workers=True)


async def tornado_echo(mode: Mode) -> None:
    class Server(tcpserver.TCPServer):  # type: ignore[misc, name-defined, unused-ignore]
        async def handle_stream(self, stream: Any, address: Any) -> None:
            await stream.write(str(mode_of(stream.socket)).encode())
            stream.close()

    server = Server()
    server.listen(0, "127.0.0.1")
    ((*_, sock),) = [server._sockets.values()]
    stream = await tcpclient.TCPClient().connect(*sock.getsockname())
    assert await stream.read_until_close() == str(mode).encode()
    server.stop()


def test_tornado(mode: Mode) -> None:
    with smcsock.installed():
        asyncio.run(tornado_echo(mode))


def test_tornado_is_told_of_a_refused_connection() -> None:
    async def main(address: Any) -> None:
        with pytest.raises(iostream.StreamClosedError) as failure:
            await tcpclient.TCPClient().connect(*address)
        error = failure.value.real_error
        assert isinstance(error, OSError)
        assert error.errno == errno.EPROTONOSUPPORT

    with (
        socket.create_server(("127.0.0.1", 0)) as plain,
        smcsock.installed(require_smc=True, fallback="tcp"),
    ):
        asyncio.run(main(plain.getsockname()))
