"""Programs that know nothing of SMC, after smcsock.install()."""

import asyncio
import socket
import urllib.request
import xmlrpc.client
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from multiprocessing.connection import Client, Listener
from typing import Any
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

import pytest

import smcsock
from apps.support import ModeHandler, application, in_thread, mode_of, recipe, run_on
from smcsock import Mode

requests = application("requests")
httpx = application("httpx")
aiohttp = application("aiohttp")
anyio = application("anyio")
trio = application("trio")


@pytest.fixture
def report() -> Iterator[smcsock.Report]:
    """What is installed reports there."""
    report = smcsock.Report()
    with smcsock.installed(report=report):
        yield report


def check(report: smcsock.Report, mode: Mode) -> None:
    """All connections were of that mode, and both of their ends were seen."""
    outcomes = {(outcome.side, outcome.mode) for outcome in report.connections()}
    assert outcomes == {("connect", mode), ("accept", mode)}


def with_urllib(url: str) -> str:
    with urllib.request.urlopen(url) as response:
        return str(response.read().decode())


def with_requests(url: str) -> str:
    return str(requests.get(url, timeout=60).text)


def with_httpx(url: str) -> str:
    return str(httpx.get(url, timeout=60).text)


def with_httpx_and_asyncio(url: str) -> str:
    async def main() -> str:
        async with httpx.AsyncClient(timeout=60) as client:
            return str((await client.get(url)).text)

    return asyncio.run(main())


def with_aiohttp(url: str) -> str:
    async def main() -> str:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return str(await response.text())

    return asyncio.run(main())


@pytest.mark.parametrize(
    "get", [with_urllib, with_requests, with_httpx, with_httpx_and_asyncio, with_aiohttp]
)
def test_http(get: Callable[[str], str], report: smcsock.Report, mode: Mode) -> None:
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), ModeHandler) as server,
        in_thread(lambda: server.serve_forever(0.05), server.shutdown),
    ):
        assert get(f"http://127.0.0.1:{server.server_port}/") == mode
    check(report, mode)


def test_xmlrpc(report: smcsock.Report, mode: Mode) -> None:
    class Handler(SimpleXMLRPCRequestHandler):
        def _dispatch(self, method: str, params: tuple[object, ...]) -> str:
            return str(mode_of(self.connection))

    with SimpleXMLRPCServer(("127.0.0.1", 0), Handler, logRequests=False) as server:
        url = "http://{}:{}".format(*server.server_address)
        with (
            in_thread(lambda: server.serve_forever(0.05), server.shutdown),
            xmlrpc.client.ServerProxy(url) as proxy,
        ):
            assert proxy.mode() == mode
    check(report, mode)


def test_multiprocessing_connection(report: smcsock.Report, mode: Mode) -> None:
    with (
        ThreadPoolExecutor() as pool,
        Listener(("127.0.0.1", 0), authkey=b"secret") as listener,
    ):
        accepting = pool.submit(listener.accept)
        with (
            Client(listener.address, authkey=b"secret") as client,
            accepting.result() as server,
        ):
            client.send({"mode": mode_of(client)})
            assert server.recv() == {"mode": mode_of(server)} == {"mode": mode}
    check(report, mode)


def test_anyio(report: smcsock.Report, mode: Mode) -> None:
    async def answer_mode(stream: Any) -> None:
        async with stream:
            raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
            await stream.send(str(mode_of(raw)).encode())

    async def main() -> None:
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, answer_mode)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                assert (await stream.receive()).decode() == mode
            tasks.cancel_scope.cancel()

    anyio.run(main)
    check(report, mode)


def test_uvloop_opens_its_own_sockets(report: smcsock.Report, mode: Mode) -> None:
    async def main() -> None:
        with smcsock.create_server(("127.0.0.1", 0)) as listener:
            _, writer = await asyncio.open_connection(*listener.getsockname())
            server, _ = listener.accept()
            with server:
                assert mode_of(server) is Mode.TCP
            writer.close()
            await writer.wait_closed()

    run_on("uvloop", main())
    assert not report.connections()


def test_trio(report: smcsock.Report, mode: Mode) -> None:
    async def main(address: tuple[str, int]) -> None:
        async with await trio.open_tcp_stream(*address) as stream:
            assert smcsock.smc_info(stream.socket.fileno()).mode is mode

    with socket.create_server(("127.0.0.1", 0)) as listener:
        trio.run(main, listener.getsockname())


def test_trio_takes_those_of_its_recipe(report: smcsock.Report, mode: Mode) -> None:
    names = recipe("trio")

    async def main(address: tuple[str, int]) -> None:
        trio.socket.set_custom_socket_factory(names.SMCSocketFactory())
        async with await trio.open_tcp_stream(*address) as stream:
            assert names.smc_info(stream).mode is mode

    with socket.create_server(("127.0.0.1", 0)) as listener:
        trio.run(main, listener.getsockname())
