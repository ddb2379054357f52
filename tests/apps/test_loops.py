"""asyncio, uvloop, anyio and trio."""

import asyncio
import socket
from functools import partial
from typing import Any

import pytest

import smcsock
from apps.support import LOOPS, application, mode_of, recipe, run_on
from smcsock import Mode

anyio = application("anyio")
trio = application("trio")

DATA = bytes(range(256)) * 1024


@pytest.mark.parametrize("how", ["connected", "by the loop"])
@pytest.mark.parametrize("loop", LOOPS)
def test_asyncio_streams(loop: str, how: str, mode: Mode) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert mode_of(writer.get_extra_info("socket")) is mode
        writer.write(await reader.read(-1))
        writer.close()
        await writer.wait_closed()

    async def connect(address: tuple[str, int]) -> smcsock.socket:
        if how == "connected":
            return await asyncio.to_thread(smcsock.create_connection, address)
        sock = smcsock.socket(socket.AF_INET)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
        return sock

    async def main() -> None:
        listener = smcsock.create_server(("127.0.0.1", 0))
        async with await asyncio.start_server(echo, sock=listener):
            sock = await connect(listener.getsockname())
            reader, writer = await asyncio.open_connection(sock=sock)
            assert mode_of(writer.get_extra_info("socket")) is mode
            writer.write(DATA)
            writer.write_eof()
            assert await reader.read(-1) == DATA
            writer.close()
            await writer.wait_closed()

    run_on(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_sockets_of_the_loop(loop: str, mode: Mode) -> None:
    async def main() -> None:
        here = asyncio.get_running_loop()
        with (
            smcsock.create_server(("127.0.0.1", 0)) as listener,
            smcsock.socket(socket.AF_INET) as client,
        ):
            listener.setblocking(False)
            client.setblocking(False)
            accepting = asyncio.ensure_future(here.sock_accept(listener))
            await here.sock_connect(client, listener.getsockname())
            server, address = await accepting
            with server:
                assert address == client.getsockname()
                assert mode_of(server) is mode_of(client) is mode
                sending = asyncio.ensure_future(here.sock_sendall(client, DATA))
                received = bytearray()
                while len(received) < len(DATA):
                    received += await here.sock_recv(server, len(DATA))
                await sending
                assert received == DATA

    run_on(loop, main())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio(backend: str, mode: Mode) -> None:
    names = recipe("anyio")

    async def echo(stream: Any) -> None:
        async with stream:
            assert mode_of(stream.extra(anyio.abc.SocketAttribute.raw_socket)) is mode
            async for data in stream:
                await stream.send(data)

    async def main() -> None:
        async with (
            await names.create_smc_listener("127.0.0.1", 0) as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, echo)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with await names.connect_smc("127.0.0.1", port) as stream:
                assert mode_of(stream.extra(anyio.abc.SocketAttribute.raw_socket)) is mode
                tasks.start_soon(stream.send, DATA)
                received = b""
                while len(received) < len(DATA):
                    received += await stream.receive()
                assert received == DATA
            tasks.cancel_scope.cancel()

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_trio(host: str, mode: Mode) -> None:
    names = recipe("trio")

    async def echo(stream: Any) -> None:
        assert names.smc_info(stream).mode is mode
        async for data in stream:
            await stream.send_all(data)

    async def main() -> None:
        trio.socket.set_custom_socket_factory(names.SMCSocketFactory())
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, echo, 0, host=host))
            port = listener.socket.getsockname()[1]
            async with await trio.open_tcp_stream(host, port) as stream:
                assert names.smc_info(stream).mode is mode
                nursery.start_soon(stream.send_all, DATA)
                received = b""
                while len(received) < len(DATA):
                    received += await stream.receive_some()
                assert received == DATA
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_trio_is_refused(unused_port: int) -> None:
    async def main() -> None:
        trio.socket.set_custom_socket_factory(recipe("trio").SMCSocketFactory())
        await trio.open_tcp_stream("127.0.0.1", unused_port)

    with pytest.raises(OSError, match="all attempts to connect"):
        trio.run(main)


def test_other_sockets_of_trio_stay_what_they_are() -> None:
    async def main() -> None:
        trio.socket.set_custom_socket_factory(recipe("trio").SMCSocketFactory())
        for family, type in (
            (socket.AF_UNIX, socket.SOCK_STREAM),
            (socket.AF_INET, socket.SOCK_DGRAM),
        ):
            with trio.socket.socket(family, type) as sock:
                assert (sock.family, sock.type) == (family, type)

    trio.run(main)


def test_trio_insists_on_the_exact_type() -> None:
    with smcsock.socket(fallback="tcp") as sock, pytest.raises(TypeError, match="expected"):
        trio.socket.from_stdlib_socket(sock)
