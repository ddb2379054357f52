"""xmlrpc and multiprocessing.connection of the standard library."""

import multiprocessing.connection
import ssl
import xmlrpc.client
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import AuthenticationError
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

import pytest

import smcsock
from apps.support import in_thread, mode_of, recipe
from smcsock import Mode


class Handler(SimpleXMLRPCRequestHandler):
    def _dispatch(self, method: str, params: tuple[object, ...]) -> str:
        return str(mode_of(self.connection))


@pytest.mark.parametrize("has_tls", [False, True])
def test_xmlrpc(
    has_tls: bool, mode: Mode, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    mixin = recipe("http.server and socketserver").SMCServer
    names = recipe("http.client, urllib and xmlrpc")

    class Server(mixin, SimpleXMLRPCServer):  # type: ignore[misc, valid-type]
        pass

    transport = names.SMCSafeTransport(context=client_tls) if has_tls else names.SMCTransport()
    with Server(("127.0.0.1", 0), Handler, logRequests=False) as server:
        if has_tls:
            server.socket = server_tls.wrap_socket(server.socket, server_side=True)
        url = "{}://{}:{}".format("https" if has_tls else "http", *server.server_address)
        with (
            in_thread(lambda: server.serve_forever(0.05), server.shutdown),
            xmlrpc.client.ServerProxy(url, transport) as proxy,
        ):
            assert [proxy.mode(), proxy.mode()] == [mode, mode]


def test_multiprocessing_connection(mode: Mode) -> None:
    names = recipe("multiprocessing.connection")
    message = {"data": b"x" * 300_000}
    with smcsock.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        accepting = pool.submit(names.smc_accept, listener, b"secret")
        with (
            names.smc_client(listener.getsockname(), b"secret") as client,
            accepting.result() as server,
        ):
            assert mode_of(client) is mode_of(server) is mode
            sending = pool.submit(client.send, message)
            assert server.recv() == message
            sending.result()
            assert not multiprocessing.connection.wait([client], 0)
            server.send("ready")
            assert multiprocessing.connection.wait([client], 60) == [client]
            assert client.recv() == "ready"


def test_multiprocessing_connection_checks_the_key() -> None:
    names = recipe("multiprocessing.connection")
    with smcsock.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:
        accepting = pool.submit(names.smc_accept, listener, b"secret")
        with pytest.raises(AuthenticationError):
            names.smc_client(listener.getsockname(), b"guess")
        with pytest.raises(AuthenticationError):
            accepting.result()
