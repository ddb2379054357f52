"""asyncio over SMC: smcsock.aio, and the methods of an event loop on smcsock sockets.

Where asyncio is the oracle, its function and ours have to have the same outcome.
"""

import asyncio
import contextlib
import errno
import gc
import inspect
import io
import logging
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import pytest
from conftest import (
    EXPECTED_MODE,
    INET,
    INET6,
    KEEPS_CONNECT_ERRORS,
    SMC,
    SMC6,
    VM_KERNEL,
    VM_MODE,
    Presentation,
)
from descriptors import open_descriptors, open_sockets
from test_socket import LIMIT, mptcp_socket, raises
from test_socket import inet as inet
from test_socket import time_limit as time_limit
from test_timeouts import silent_network as silent_network
from tls import client_context, server_context

import smcsock
from smcsock import FallbackError, Mode, SMCUnsupportedError, aio

T = TypeVar("T")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

DATA = bytes(range(250)) * 1200  # more than the buffers hold

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if find_spec("uvloop"):
    LOOPS["uvloop"] = import_module("uvloop").new_event_loop
    LOOPS["uvloop"]().close()  # the first opens what stays open


def run(
    main: Coroutine[Any, Any, T],
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> T:
    """Runs main and then the tasks that it left, as those of servers, to their end."""

    async def complete() -> T:
        before = open_sockets()
        async with asyncio.timeout(LIMIT):
            result = await main
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others)
            for _ in range(1000):  # a server's transport ends when it hears of its client's end
                await asyncio.sleep(0.01)
                if open_sockets() <= before:
                    break
            return result

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(complete())


@pytest.fixture(params=list(LOOPS.values()), ids=list(LOOPS))
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes an event loop."""
    result: Callable[[], asyncio.AbstractEventLoop] = request.param
    return result


@pytest.fixture
def no_descriptor_leaks() -> Iterator[None]:
    # The resolver's threads and the loop's own descriptors are gone with the loop.
    before = open_descriptors()
    yield
    assert open_descriptors() == before


async def reverse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back, from end to beginning, what comes until the end of file."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        writer.write((await reader.read())[::-1])
        await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Tells the mode in a line, then sends lines back."""
    with contextlib.suppress(ConnectionError):
        writer.write(f"{aio.smc_info(writer).mode}\n".encode())
        while line := await reader.readline():
            writer.write(line)
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()


def port_of(server: asyncio.Server) -> int:
    port = server.sockets[0].getsockname()[1]
    assert isinstance(port, int)
    return port


@contextlib.asynccontextmanager
async def closing(streams: Awaitable[Streams]) -> AsyncIterator[Streams]:
    reader, writer = await streams
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


def expected_mode(presentation: Presentation) -> Mode:
    """The mode that a connection has here: TCP on a host without SMC."""
    return presentation.expected_mode(EXPECTED_MODE.get(VM_MODE or "", Mode.TCP))


# ----- signatures


@pytest.mark.parametrize("name", ["open_connection", "start_server"])
def test_signature_of_function(name: str) -> None:
    check_signature(getattr(asyncio, name), getattr(aio, name), ())


@pytest.mark.parametrize("name", ["create_connection", "create_server"])
def test_signature_of_method(name: str) -> None:
    method = getattr(asyncio.BaseEventLoop, name)
    check_signature(method, getattr(aio, name), ("self",))


def check_signature(
    theirs: Callable[..., object], ours: Callable[..., object], left_out: tuple[str, ...]
) -> None:
    parameters = dict(inspect.signature(ours).parameters)
    for name, parameter in inspect.signature(theirs).parameters.items():
        if name not in left_out:
            mine = parameters.pop(name)
            assert (mine.kind, mine.default) == (parameter.kind, parameter.default), name
    # all_errors and keep_alive came with 3.12 and 3.13.
    own = {"require_smc", "fallback", "sndbuf", "rcvbuf"}
    assert {*parameters} <= own | {"all_errors", "keep_alive"}
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters.values())


def test_asyncio_is_not_imported_by_smcsock() -> None:
    code = "import smcsock, sys; print({'asyncio', 'smcsock.aio', 'logging'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert output.stdout == b"set()\n"


def test_modules_are_there_without_an_import_of_their_own() -> None:
    code = """if True:
        import sys, smcsock
        for name in ("aio", "diag", "doctor"):
            assert f"smcsock.{name}" not in sys.modules
            assert getattr(smcsock, name) is sys.modules[f"smcsock.{name}"]
        """
    subprocess.run([sys.executable, "-c", code], check=True)


# ----- connections


def test_streams(inet: Presentation, new_loop: Any, no_descriptor_leaks: None) -> None:
    async def main() -> None:
        async with (
            await aio.start_server(reverse, inet.host, 0) as server,
            closing(aio.open_connection(inet.host, port_of(server))) as streams,
        ):
            reader, writer = streams
            assert writer.get_extra_info("peername")[:2] == (inet.host, port_of(server))
            assert aio.smc_info(writer).mode is expected_mode(inet)
            writer.write(DATA)
            writer.write_eof()
            assert await reader.read() == DATA[::-1]

    run(main(), new_loop)


def test_tls_streams(inet: Presentation, new_loop: Any, no_descriptor_leaks: None) -> None:
    async def main() -> None:
        serving = server_context(client_certificate=True)
        async with await aio.start_server(greet, inet.host, 0, ssl=serving) as server:
            asking = client_context("client")
            opening = aio.open_connection(inet.host, port_of(server), ssl=asking)
            async with closing(opening) as (reader, writer):
                assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
                assert await reader.readline() == f"{expected_mode(inet)}\n".encode()
                assert aio.smc_info(writer).mode is expected_mode(inet)
                writer.write(b"Hello\n")
                assert await reader.readline() == b"Hello\n"

    run(main(), new_loop)


def test_protocols(inet: Presentation, new_loop: Any) -> None:
    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)
            self.transport.close()

    class Client(asyncio.Protocol):
        def __init__(self) -> None:
            self.lost = asyncio.get_running_loop().create_future()
            self.data = b""

        def data_received(self, data: bytes) -> None:
            self.data += data

        def connection_lost(self, error: Exception | None) -> None:
            self.lost.set_result(error)

    async def main() -> None:
        async with await aio.create_server(Echo, inet.host, 0) as server:
            transport, protocol = await aio.create_connection(Client, inet.host, port_of(server))
            assert aio.smc_info(transport).mode is expected_mode(inet)
            transport.write(b"Hello")
            assert await protocol.lost is None
            assert protocol.data == b"Hello"

    run(main(), new_loop)


def test_connection_has_no_delay(inet: Presentation) -> None:
    async def main() -> None:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(no_delay(writer))
            writer.close()

        def no_delay(writer: asyncio.StreamWriter) -> int:
            sock = writer.get_extra_info("socket")
            value = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert isinstance(value, int)
            return value

        async with (
            await aio.start_server(serve, inet.host, 0) as server,
            closing(aio.open_connection(inet.host, port_of(server))) as (_, writer),
        ):
            assert no_delay(writer)
            assert await accepted

    run(main())


def test_sockets_are_taken_over(presentation: Presentation, new_loop: Any) -> None:
    async def main() -> None:
        async with await aio.start_server(greet, sock=presentation.listener()) as server:
            client = presentation.open()
            client.connect((presentation.host, port_of(server)))
            async with closing(aio.open_connection(sock=client)) as (reader, _):
                assert await reader.readline() == f"{expected_mode(presentation)}\n".encode()

    run(main(), new_loop)


def test_tls_can_start_later(inet: Presentation) -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.readline() == b"STARTTLS\n"
            writer.write(b"go\n")
            await writer.start_tls(server_context())
            await reverse(reader, writer)

        async with (
            await aio.start_server(serve, inet.host, 0) as server,
            closing(aio.open_connection(inet.host, port_of(server))) as streams,
        ):
            reader, writer = streams
            writer.write(b"STARTTLS\n")
            assert await reader.readline() == b"go\n"
            await writer.start_tls(client_context(), server_hostname="localhost")
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
            assert aio.smc_info(writer).mode is expected_mode(inet)
            # A StreamReader sees no end of TLS but with the connection.
            writer.close()

    run(main())


def test_local_address(inet: Presentation, new_loop: Any) -> None:
    async def main() -> None:
        with inet.tcp_socket() as probe:
            probe.bind((inet.host, 0))
            local = probe.getsockname()[:2]
        async with await aio.start_server(greet, inet.host, 0) as server:
            opening = aio.open_connection(inet.host, port_of(server), local_addr=local)
            async with closing(opening) as (_, writer):
                assert writer.get_extra_info("sockname")[:2] == local

    run(main(), new_loop)


# ----- smc_info


def test_smc_info_of_plain_asyncio_connections() -> None:
    async def main() -> None:
        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
            opening = asyncio.open_connection("127.0.0.1", port_of(server))
            async with closing(opening) as (reader, writer):
                assert await reader.readline() == b"TCP\n"
                assert aio.smc_info(writer) == smcsock.SmcInfo(Mode.TCP)

    run(main())


def test_smc_info_of_an_mptcp_connection() -> None:
    async def main() -> None:
        with mptcp_socket() as listener, mptcp_socket() as sock:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            sock.connect(listener.getsockname())
            async with closing(asyncio.open_connection(sock=sock)) as (_, writer):
                assert aio.smc_info(writer) == smcsock.SmcInfo(Mode.TCP)

    run(main())


def test_smc_info_of_what_is_no_connection(new_loop: Any) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="has no socket"):
            aio.smc_info(asyncio.Transport())
        async with (
            await aio.start_server(greet, "127.0.0.1", 0) as server,
            closing(aio.open_connection("127.0.0.1", port_of(server))) as streams,
        ):
            _, writer = streams
            writer.close()
            await writer.wait_closed()
            with pytest.raises(OSError, match="Bad file descriptor"):
                aio.smc_info(writer)

    run(main())


# ----- names


def infos(*addresses: tuple[str, int]) -> list[Any]:
    return [
        info
        for host, port in addresses
        for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    ]


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    """Has the name name.example stand for these addresses."""
    real, found = socket.getaddrinfo, infos(*addresses)

    def getaddrinfo(host: Any, port: Any, family: int = 0, *args: Any, **kwargs: Any) -> Any:
        if host != "name.example":
            return real(host, port, family, *args, **kwargs)
        flags = kwargs.get("flags", args[2] if len(args) > 2 else 0)
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        return [info for info in found if family in (0, info[0])]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_names_are_resolved_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, ("127.0.0.1", 0))
    resolve, threads = socket.getaddrinfo, set()
    proceed = threading.Event()

    def slow(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        result = resolve(host, port, *args, **kwargs)
        threads.add(threading.get_ident())
        assert proceed.wait(LIMIT)
        return [(*info[:4], (info[4][0], port)) for info in result]

    async def main() -> None:
        async with await aio.start_server(greet, "127.0.0.1", 0) as server:
            monkeypatch.setattr(socket, "getaddrinfo", slow)
            opening = aio.open_connection("name.example", port_of(server))
            task = asyncio.create_task(anext_line(opening))
            while not threads:
                await asyncio.sleep(0.01)
            proceed.set()  # the loop is not blocked
            assert await task == f"{expected_mode(INET)}\n".encode()
        assert threading.get_ident() not in threads

    run(main())


async def anext_line(opening: Awaitable[Streams]) -> bytes:
    async with closing(opening) as (reader, _):
        return await reader.readline()


def test_numbers_need_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with await aio.start_server(greet, ["127.0.0.1", "::1"], 0) as server:
            for sock in server.sockets:
                await anext_line(aio.open_connection(*sock.getsockname()[:2]))

    async def fail(*args: Any, **kwargs: Any) -> Any:
        pytest.fail("asked the resolver")

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", fail)
    run(main())


# ----- attempts that fail


async def outcome(opening: Awaitable[Any]) -> object:
    try:
        result = await opening
    except Exception as error:
        if isinstance(error, ExceptionGroup):
            return type(error), error.message, [(type(e), str(e)) for e in error.exceptions]
        # From 3.12 on an error of bind() is in there with its number, too.
        return type(error), re.sub(r"\[errno \d+\] ", "", str(error))
    if hasattr(result, "close"):
        result.close()
        await result.wait_closed()
        return "a server"
    result[1].close()
    await result[1].wait_closed()
    return "connected"


@pytest.fixture
def closed_port() -> int:
    """A port that is closed, for IPv4 and IPv6."""
    for _ in range(100):
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port = sock.getsockname()[1]
            with (
                contextlib.suppress(OSError),
                socket.create_server(("::1", port), family=socket.AF_INET6),
            ):
                assert isinstance(port, int)
                return port
    pytest.fail("no port is free for both")


REFUSALS: dict[str, dict[str, Any]] = {
    "in turn": {},
    "one family": {"family": socket.AF_INET6},
    "interleaved": {"interleave": 1},
    "two of the first family first": {"interleave": 2},
    "happy eyeballs": {"happy_eyeballs_delay": 60},
    "happy eyeballs, two first": {"happy_eyeballs_delay": 60, "interleave": 2},
    "from an address": {"local_addr": ("127.0.0.1", 0)},
    "from a foreign address": {"local_addr": ("192.0.2.1", 0)},
    "from a foreign address of the other family": {"local_addr": ("2001:db8::1", 0)},
}
if sys.version_info >= (3, 12):
    REFUSALS["all errors"] = {"all_errors": True}


@pytest.mark.parametrize("keywords", REFUSALS.values(), ids=REFUSALS)
def test_refused_connection_is_reported_as_by_asyncio(
    keywords: dict[str, Any],
    closed_port: int,
    monkeypatch: pytest.MonkeyPatch,
    no_descriptor_leaks: None,
) -> None:
    addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "::1"]
    resolve_to(monkeypatch, *((address, closed_port) for address in addresses))

    async def main() -> None:
        theirs = asyncio.open_connection("name.example", closed_port, **keywords)
        ours = aio.open_connection("name.example", closed_port, **keywords)
        assert await outcome(ours) == await outcome(theirs)

    run(main())


def test_refused_connection_has_its_errno(closed_port: int, new_loop: Any) -> None:
    async def main() -> None:
        with pytest.raises(ConnectionRefusedError) as caught:
            await aio.open_connection("127.0.0.1", closed_port)
        assert caught.value.errno == errno.ECONNREFUSED

    run(main(), new_loop)


def test_unreachable_host_is_an_error(
    inet: Presentation,
    silent_network: dict[socket.AddressFamily, str],
    smc_mode: Mode,
    no_descriptor_leaks: None,
    new_loop: Any,
) -> None:
    # Where the kernel forgets why, it has SO_ERROR 0, by which an event loop takes it to be
    # connected.
    code = errno.EHOSTUNREACH if KEEPS_CONNECT_ERRORS else errno.ECONNABORTED

    async def main() -> None:
        with pytest.raises(OSError, match="Connect call failed") as caught:
            await aio.open_connection(silent_network[socket.AddressFamily(inet.inet)], 9)
        assert caught.value.errno == code

    run(main(), new_loop)


def test_all_errors_are_there_in_every_version(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, ("127.0.0.1", closed_port), ("::1", closed_port))

    async def main() -> None:
        with pytest.raises(ExceptionGroup, match="create_connection failed") as caught:
            await aio.open_connection("name.example", closed_port, all_errors=True)
        assert [type(error) for error in caught.value.exceptions] == [ConnectionRefusedError] * 2

    run(main())


BAD_CLIENT_ARGUMENTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "name without tls": {"host": "127.0.0.1", "port": 1, "server_hostname": "a"},
    "tls without host": {"port": 1, "ssl": True},
    "timeout without tls": {"host": "127.0.0.1", "port": 1, "ssl_handshake_timeout": 1},
    "other timeout without tls": {"host": "127.0.0.1", "port": 1, "ssl_shutdown_timeout": 1},
    "port without numbers": {"host": "127.0.0.1", "port": "no such service"},
}


@pytest.mark.parametrize("keywords", BAD_CLIENT_ARGUMENTS.values(), ids=BAD_CLIENT_ARGUMENTS)
def test_bad_arguments_are_refused_as_by_asyncio(keywords: dict[str, Any]) -> None:
    async def main() -> None:
        theirs = await outcome(asyncio.open_connection(**keywords))
        assert await outcome(aio.open_connection(**keywords)) == theirs
        assert isinstance(theirs, tuple)

    run(main())


def test_host_and_socket_exclude_each_other() -> None:
    async def main() -> None:
        with INET.open() as sock:
            required = partial(aio.open_connection, require_smc=True)
            for connect in (asyncio.open_connection, aio.open_connection, required):
                with pytest.raises(ValueError, match="host/port and sock can not be specified"):
                    await connect("127.0.0.1", 1, sock=sock)
            serving = partial(aio.start_server, require_smc=True)
            for serve in (asyncio.start_server, aio.start_server, serving):
                with pytest.raises(ValueError, match="host/port and sock can not be specified"):
                    await serve(greet, "127.0.0.1", 1, sock=sock)
            assert sock.fileno() != -1

    run(main())


@pytest.mark.parametrize("port", [-1, 65536, "65536"])
def test_no_other_port_is_taken_for_one_that_is_out_of_range(port: Any) -> None:
    async def main() -> None:
        for connect in (asyncio.open_connection, aio.open_connection):
            with pytest.raises(OverflowError, match="port must be 0-65535"):
                await connect("127.0.0.1", port)
        for serve in (asyncio.start_server, aio.start_server):
            with pytest.raises(OverflowError, match="port must be 0-65535"):
                await serve(greet, "127.0.0.1", port)

    run(main())


def test_timeout_of_the_handshake_is_checked_before_connecting(no_descriptor_leaks: None) -> None:
    async def main() -> None:
        for name in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
            keywords: dict[str, Any] = {name: -1}
            with pytest.raises(ValueError, match=f"{name} should be a positive number, got -1"):
                await aio.open_connection("127.0.0.1", 1, ssl=True, **keywords)

    run(main())


def test_wrong_name_in_the_certificate(no_descriptor_leaks: None, new_loop: Any) -> None:
    async def main() -> None:
        async with await aio.start_server(greet, "127.0.0.1", 0, ssl=server_context()) as server:
            with pytest.raises(ssl.SSLCertVerificationError):
                await aio.open_connection(
                    "127.0.0.1",
                    port_of(server),
                    ssl=client_context(),
                    server_hostname="wrong.example",
                )

    run(main(), new_loop)
    gc.collect()


def test_handshake_that_takes_too_long(no_descriptor_leaks: None) -> None:
    async def main() -> None:
        with (
            INET.listener() as listener,
            pytest.raises(ConnectionAbortedError, match="SSL handshake is taking longer"),
        ):
            await aio.open_connection(
                *listener.getsockname(),
                ssl=client_context(),
                ssl_handshake_timeout=0.1,
            )

    run(main())
    gc.collect()


def test_cancelled_handshake_closes_the_connection(
    no_descriptor_leaks: None, new_loop: Any
) -> None:
    async def main() -> None:
        with INET.listener() as listener:
            listener.settimeout(LIMIT)
            opening = aio.open_connection(
                *listener.getsockname(), ssl=client_context(), server_hostname="localhost"
            )
            connecting = asyncio.create_task(opening)
            server, _ = await asyncio.to_thread(listener.accept)
            with server:
                assert await asyncio.to_thread(server.recv, 1)  # of the handshake
                connecting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await connecting
                while await asyncio.to_thread(server.recv, 65536):
                    pass  # until the end

    run(main(), new_loop)
    gc.collect()


def test_factory_that_fails(no_descriptor_leaks: None, new_loop: Any) -> None:
    def fail() -> asyncio.Protocol:
        raise RuntimeError("no protocol")

    async def main() -> None:
        async with await aio.start_server(greet, "127.0.0.1", 0) as server:
            with pytest.raises(RuntimeError, match="no protocol"):
                await aio.create_connection(fail, "127.0.0.1", port_of(server))

    run(main(), new_loop)


def test_kernel_without_smc_is_an_error(no_descriptor_leaks: None, new_loop: Any) -> None:
    if smcsock.has_smc():
        pytest.skip("needs a kernel that cannot open SMC sockets")

    async def main() -> None:
        with pytest.raises(SMCUnsupportedError):
            await aio.open_connection("127.0.0.1", 1, fallback="error")
        with pytest.raises(SMCUnsupportedError):
            await aio.start_server(greet, ["127.0.0.1", "::1"], 0, fallback="error")

    run(main(), new_loop)


# ----- several addresses


@contextlib.contextmanager
def silent_listener() -> Iterator[tuple[str, int]]:
    """An address where nobody answers: the backlog is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()


def test_next_address_is_tried_while_the_first_is_silent(
    monkeypatch: pytest.MonkeyPatch, no_descriptor_leaks: None
) -> None:
    async def main() -> None:
        with silent_listener() as silent:
            async with await aio.start_server(greet, "127.0.0.1", 0) as server:
                answering = ("127.0.0.1", port_of(server))
                resolve_to(monkeypatch, silent, silent, answering)
                opening = aio.open_connection(
                    "name.example", 0, happy_eyeballs_delay=0.05, family=socket.AF_INET
                )
                async with closing(opening) as (reader, writer):
                    assert writer.get_extra_info("peername") == answering
                    assert await reader.readline() == f"{expected_mode(INET)}\n".encode()

    run(main())


@pytest.mark.parametrize("delay", [None, 0.01])
def test_cancelled_attempt_closes_its_sockets(
    delay: float | None, monkeypatch: pytest.MonkeyPatch, no_descriptor_leaks: None
) -> None:
    async def main() -> None:
        with silent_listener() as silent:
            resolve_to(monkeypatch, silent, silent)
            before = open_descriptors()
            connecting = asyncio.create_task(
                aio.open_connection("name.example", 0, happy_eyeballs_delay=delay)
            )
            while len(open_descriptors() - before) < (1 if delay is None else 2):
                await asyncio.sleep(0.01)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            assert open_descriptors() == before

    run(main())


def test_late_winner_is_closed(monkeypatch: pytest.MonkeyPatch, no_descriptor_leaks: None) -> None:
    # Both attempts are over in the same step of the loop.
    ready: list[asyncio.Event] = []

    async def connect(self: Any, sock: socket.socket, address: Any) -> None:
        ready.append(asyncio.Event())
        if len(ready) == 2:
            for event in ready:
                event.set()
        await ready[0].wait()
        sock.setblocking(True)
        sock.connect(address)

    async def main() -> None:
        with INET.listener() as listener:
            address = listener.getsockname()
            resolve_to(monkeypatch, address, address)
            with monkeypatch.context() as context:
                context.setattr(asyncio.SelectorEventLoop, "sock_connect", connect)
                opening = aio.open_connection("name.example", 0, happy_eyeballs_delay=0)
                async with closing(opening):
                    pass
            assert len(ready) == 2

    run(main())


# ----- required SMC


def test_fallback_is_refused_by_the_client(
    smc_mode: Mode, no_descriptor_leaks: None, new_loop: Any
) -> None:
    async def main() -> None:
        async with await asyncio.start_server(reverse, "127.0.0.1", 0) as server:
            address = "127.0.0.1", port_of(server)
            with pytest.raises(FallbackError) as caught:
                await aio.open_connection(*address, require_smc=True)
            assert caught.value.peer == address
            sock = smcsock.create_connection(address)
            with pytest.raises(FallbackError):
                await aio.open_connection(sock=sock, require_smc=True)
            assert sock.fileno() == -1

    run(main(), new_loop)


def test_fallback_goes_before_other_errors(
    smc_mode: Mode, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
            refusing = ("127.0.0.1", closed_port)
            resolve_to(monkeypatch, ("127.0.0.1", port_of(server)), refusing)
            with pytest.raises(FallbackError):
                await aio.open_connection("name.example", 0, require_smc=True)

    run(main())


@pytest.mark.parametrize("has_socket", [False, True], ids=["host", "sock"])
def test_fallback_is_refused_by_the_server(
    has_socket: bool,
    inet: Presentation,
    smc_mode: Mode,
    caplog: pytest.LogCaptureFixture,
    no_descriptor_leaks: None,
) -> None:
    async def main() -> None:
        where: dict[str, Any] = {"host": inet.host, "port": 0}
        if has_socket:
            where = {"sock": inet.listener()}
        async with await aio.start_server(greet, **where, require_smc=True) as server:
            address = inet.host, port_of(server)
            async with closing(asyncio.open_connection(*address)) as (reader, writer):
                assert await reader.read() == b""  # not even greeted
                host, port = writer.get_extra_info("sockname")[:2]
            (record,) = caplog.records
            assert record.name == "smcsock.aio"
            assert record.levelno == logging.WARNING
            assert re.match(
                rf"closed the connection of \('{re.escape(host)}', {port}.*\): "
                "SMC was required but the connection is TCP",
                record.getMessage(),
            )
            if expected_mode(inet) is not Mode.TCP:
                line = await anext_line(aio.open_connection(*address, require_smc=True))
                assert line == f"{expected_mode(inet)}\n".encode()

    run(main())


def test_only_smc_sockets_can_be_required_to_be_smc() -> None:
    async def main() -> None:
        with socket.socket() as plain:
            with pytest.raises(TypeError, match=r"needs a smcsock\.socket, not socket"):
                await aio.start_server(greet, sock=plain, require_smc=True)
            with pytest.raises(TypeError, match=r"needs a smcsock\.socket, not socket"):
                await aio.open_connection(sock=plain, require_smc=True)

    run(main())


def test_tls_listener_is_refused_and_not_served_in_the_clear() -> None:
    context = server_context()
    context.sslsocket_class = smcsock.SSLSocket

    async def main() -> None:
        with context.wrap_socket(INET.listener(), server_side=True) as listener:
            serving = partial(aio.start_server, require_smc=True)
            for serve in (asyncio.start_server, aio.start_server, serving):
                with pytest.raises(TypeError, match="Socket cannot be of type SSLSocket"):
                    await serve(greet, sock=listener)
            assert listener.fileno() != -1

    run(main())


def test_loop_that_accepts_by_itself_cannot_require_smc(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(asyncio.AbstractEventLoop):
        pass

    monkeypatch.setattr(asyncio, "get_running_loop", Other)
    with pytest.raises(NotImplementedError, match="require_smc needs an event loop of asyncio"):
        aio.start_server(greet, "127.0.0.1", 0, require_smc=True).send(None)


# ----- servers


def test_server_on_several_addresses(new_loop: Any, no_descriptor_leaks: None) -> None:
    async def main() -> None:
        server = await aio.start_server(greet, ["127.0.0.1", "::1", "127.0.0.1"], 0)
        async with server:
            assert isinstance(server, asyncio.AbstractServer)
            assert server.is_serving()
            assert server.get_loop() is asyncio.get_running_loop()
            names = [sock.getsockname() for sock in server.sockets]
            assert [name[0] for name in names] == ["127.0.0.1", "::1"]
            assert repr(names[0]) in repr(server)
            for name, presentation in zip(names, (INET, INET6), strict=True):
                line = await anext_line(aio.open_connection(*name[:2]))
                assert line == f"{expected_mode(presentation)}\n".encode()
        assert not server.is_serving()
        assert not server.sockets

    run(main(), new_loop)


def test_buffers_have_the_sizes_asked_for(new_loop: Any) -> None:
    """Those of the listener, and of the client before it connects: its option is doubled then.

    Over loopback-ism the client sends into what the server receives from.
    """

    async def main() -> None:
        async with await aio.start_server(greet, "127.0.0.1", 0, rcvbuf=70_000) as server:
            streams = aio.open_connection("127.0.0.1", port_of(server), sndbuf=70_000)
            async with closing(streams) as (_, writer):
                sock = writer.get_extra_info("socket")
                sizes = [
                    server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
                    sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
                ]
        assert sizes[0] == 140_000
        assert sizes[1] >= 131_072 or sizes[1] == 140_000

    run(main(), new_loop)


@pytest.mark.parametrize("host", [None, ""])
def test_server_on_all_addresses(host: str | None, no_descriptor_leaks: None) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
            port = probe.getsockname()[1]
        async with await aio.start_server(greet, host, port) as server:
            assert {sock.getsockname()[0] for sock in server.sockets} == {"0.0.0.0", "::"}
            for presentation in (INET, INET6):
                line = await anext_line(aio.open_connection(presentation.host, port))
                assert line == f"{expected_mode(presentation)}\n".encode()

    run(main())


@pytest.mark.parametrize("hosts", [["127.0.0.1"], ["127.0.0.1", "::1"]], ids=["one", "two"])
def test_server_serves_when_told_and_until_cancelled(
    hosts: list[str], new_loop: Any, no_descriptor_leaks: None
) -> None:
    async def main() -> None:
        server = await aio.start_server(greet, hosts, 0, start_serving=False)
        assert not server.is_serving()
        names = [sock.getsockname()[:2] for sock in server.sockets]
        for name in names:
            with pytest.raises(ConnectionRefusedError):
                await aio.open_connection(*name)
        serving = asyncio.create_task(server.serve_forever())
        while not server.is_serving():
            await asyncio.sleep(0.01)
        for name in names:
            await anext_line(aio.open_connection(*name))
        with pytest.raises(RuntimeError, match="already"):
            await server.serve_forever()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not server.is_serving()
        await server.wait_closed()

    run(main(), new_loop)


def test_closed_server_ends_serve_forever(no_descriptor_leaks: None) -> None:
    async def main() -> None:
        server = await aio.start_server(greet, ["127.0.0.1", "::1"], 0)
        serving = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        server.close()
        with pytest.raises(asyncio.CancelledError):
            await serving
        await server.wait_closed()

    run(main())


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("end", ["close", "cancel"])
def test_serve_forever_ends_with_its_clients_as_asyncios(end: str, number: int) -> None:
    async def outcome(start_server: Any) -> tuple[bool, bytes]:
        """Whether a client was still served when serve_forever() ended, and what it got."""
        has_begun, may_end = asyncio.Event(), asyncio.Event()

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            has_begun.set()
            await may_end.wait()
            writer.write(b"bye")
            writer.close()

        server = await start_server(serve, ["127.0.0.1", "::1"][:number], 0)
        serving = asyncio.create_task(server.serve_forever())
        name = server.sockets[0].getsockname()[:2]
        async with closing(asyncio.open_connection(*name)) as (reader, _):
            await has_begun.wait()
            server.close() if end == "close" else serving.cancel()
            done, _ = await asyncio.wait([serving], timeout=1)
            may_end.set()
            received = await reader.read()
        with pytest.raises(asyncio.CancelledError):
            await serving
        return bool(done), received

    async def main() -> None:
        assert await outcome(aio.start_server) == await outcome(asyncio.start_server)

    run(main())


def test_closed_server_serves_no_more() -> None:
    async def main(start_server: Any) -> None:
        server = await start_server(greet, ["127.0.0.1", "::1"], 0)
        server.close()
        with pytest.raises(RuntimeError, match="is closed"):
            await server.serve_forever()

    for start_server in aio.start_server, asyncio.start_server:
        run(main(start_server))


@pytest.mark.skipif(sys.version_info < (3, 13), reason="before Python 3.13 servers cannot do it")
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
def test_server_ends_its_connections(method: str) -> None:
    async def main() -> None:
        async with await aio.start_server(greet, ["127.0.0.1", "::1"], 0) as server:
            name = server.sockets[1].getsockname()[:2]
            async with closing(aio.open_connection(*name)) as (reader, _):
                await reader.readline()
                getattr(server, method)()
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""

    run(main())


def test_options_of_listeners() -> None:
    def options(server: asyncio.Server) -> list[int]:
        sock = server.sockets[0]
        return [
            sock.getsockopt(socket.SOL_SOCKET, option)
            for option in (socket.SO_REUSEADDR, socket.SO_KEEPALIVE)
        ]

    async def main() -> None:
        async with await aio.start_server(greet, "127.0.0.1", 0) as server:
            assert options(server) == [1, 0]
        async with await aio.start_server(
            greet, "127.0.0.1", 0, reuse_address=False, keep_alive=True
        ) as server:
            assert options(server) == [0, 1]
        for value in (None, True, False, 1, 0):
            settings: Any = {"reuse_address": value, "start_serving": value}
            if VM_KERNEL != "6.1":  # which shares no port of SMC
                settings["reuse_port"] = value
            async with (
                await aio.start_server(greet, "127.0.0.1", 0, **settings) as server,
                await asyncio.start_server(greet, "127.0.0.1", 0, **settings) as oracle,
            ):
                assert options(server) == options(oracle)
                assert server.is_serving() == oracle.is_serving()

    run(main())


def test_port_shared_by_servers(no_descriptor_leaks: None) -> None:
    async def main() -> None:
        async with await aio.start_server(greet, "127.0.0.1", 0, reuse_port=True) as server:
            port = port_of(server)
            async with await aio.start_server(greet, "127.0.0.1", port, reuse_port=True):
                line = await anext_line(aio.open_connection("127.0.0.1", port))
                assert line == f"{expected_mode(INET)}\n".encode()

    if VM_KERNEL == "6.1":
        with raises(errno.EOPNOTSUPP):
            run(main())
    else:
        run(main())


def test_address_in_use_closes_the_other_sockets(no_descriptor_leaks: None) -> None:
    async def main() -> None:
        with INET6.tcp_socket() as taken:
            taken.bind(("::1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            options: list[dict[str, Any]] = [{}, {"reuse_address": False}]
            for keywords in options:
                theirs = await outcome(asyncio.start_server(greet, ["::1"], port, **keywords))
                ours = await outcome(
                    aio.start_server(greet, ["127.0.0.1", "::1"], port, **keywords)
                )
                assert ours == theirs

    run(main())


def test_foreign_address_is_left_out_unless_it_is_the_only_one(no_descriptor_leaks: None) -> None:
    async def main() -> None:
        async with await aio.start_server(greet, ["192.0.2.1", "127.0.0.1"], 0) as server:
            assert len(server.sockets) == 1
        with pytest.raises(OSError, match="error while attempting to bind on address") as caught:
            await aio.start_server(greet, "192.0.2.1", 0)
        assert caught.value.errno == errno.EADDRNOTAVAIL

    run(main())


BAD_SERVER_ARGUMENTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "tls by a bool": {"host": "127.0.0.1", "port": 0, "ssl": True},
    "timeout without tls": {"host": "127.0.0.1", "port": 0, "ssl_handshake_timeout": 1},
    "other timeout without tls": {"host": "127.0.0.1", "port": 0, "ssl_shutdown_timeout": 1},
    "no such name": {"host": "127.0.0.1", "port": 0, "family": socket.AF_INET6},
}


@pytest.mark.parametrize("keywords", BAD_SERVER_ARGUMENTS.values(), ids=BAD_SERVER_ARGUMENTS)
def test_bad_arguments_of_servers_are_refused_as_by_asyncio(
    keywords: dict[str, Any], no_descriptor_leaks: None
) -> None:
    async def main() -> None:
        theirs = await outcome(asyncio.start_server(greet, **keywords))
        assert await outcome(aio.start_server(greet, **keywords)) == theirs
        assert isinstance(theirs, tuple)

    run(main())


# ----- files


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("part", [{}, {"offset": 100}, {"offset": 5, "count": 10**9}], ids=str)
def test_file_arrives_to_its_end(part: dict[str, Any], tls: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    expected = DATA[part.get("offset", 0) :]

    async def main() -> None:
        received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received.set_result(await reader.readexactly(len(expected)))
            writer.close()

        context = server_context() if tls else None
        async with await aio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
            opening = aio.open_connection(
                "127.0.0.1", port_of(server), ssl=client_context() if tls else None
            )
            async with closing(opening) as (_, writer):
                with path.open("rb") as file:
                    assert await aio.sendfile(writer.transport, file, **part) == len(expected)
                # Not closed yet: over SMC the last bytes would come by that alone.
                assert await received == expected

    run(main())


def test_what_is_no_regular_file_is_sent_too() -> None:
    async def main() -> None:
        async with (
            await aio.start_server(reverse, "127.0.0.1", 0) as server,
            closing(aio.open_connection("127.0.0.1", port_of(server))) as streams,
        ):
            reader, writer = streams
            assert await aio.sendfile(writer.transport, io.BytesIO(b"Hello")) == 5
            writer.write_eof()
            assert await reader.read() == b"olleH"

    run(main())


# ----- the loop's own methods


# uvloop resolves addresses even if they are numbers, and knows AF_INET and AF_INET6 only.
loop_methods = pytest.mark.parametrize(
    ("presentation", "new_loop"),
    [
        pytest.param(presentation, new_loop, id=f"{presentation.name}-{name}")
        for presentation in (SMC, SMC6, INET, INET6)
        for name, new_loop in LOOPS.items()
        if name == "asyncio" or presentation.family == presentation.inet
    ],
)


@loop_methods
def test_methods_of_the_loop(
    presentation: Presentation, new_loop: Any, no_descriptor_leaks: None, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)

    async def serve(listener: smcsock.socket) -> None:
        loop = asyncio.get_running_loop()
        server, address = await loop.sock_accept(listener)
        with server:
            assert type(server) is smcsock.socket
            assert server.family == presentation.family
            assert server.getpeername() == address
            assert server.gettimeout() == 0
            buffer = bytearray(65536)
            while size := await loop.sock_recv_into(server, buffer):
                await loop.sock_sendall(server, buffer[:size])

    async def receive(sock: smcsock.socket, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            data += await asyncio.get_running_loop().sock_recv(sock, size - len(data))
        return bytes(data)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with presentation.listener() as listener, presentation.open() as client:
            listener.setblocking(False)
            client.setblocking(False)
            serving = asyncio.create_task(serve(listener))
            await loop.sock_connect(client, listener.getsockname())
            sending = asyncio.create_task(loop.sock_sendall(client, DATA))
            assert await receive(client, len(DATA)) == DATA
            await sending
            with path.open("rb") as file:
                if isinstance(loop, asyncio.SelectorEventLoop):  # uvloop has no such method
                    # With its exact size: see smcsock.aio.sendfile().
                    sending_file = asyncio.create_task(
                        loop.sock_sendfile(client, file, 0, len(DATA))
                    )
                    assert await receive(client, len(DATA)) == DATA
                    assert await sending_file == len(DATA)
            client.shutdown(socket.SHUT_WR)
            await serving

    run(main(), new_loop)


def test_sock_connect_resolves_names_of_inet_presentation(
    inet: Presentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        with inet.listener() as listener, inet.open() as client:
            resolve_to(monkeypatch, listener.getsockname()[:2])
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(
                client, ("name.example", listener.getsockname()[1])
            )
            assert client.getpeername() == listener.getsockname()

    run(main())


@loop_methods
def test_sock_connect_is_refused(
    presentation: Presentation, closed_port: int, new_loop: Any
) -> None:
    async def main() -> None:
        with presentation.open() as client:
            client.setblocking(False)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.get_running_loop().sock_connect(
                    client, (presentation.host, closed_port)
                )

    run(main(), new_loop)


def test_cancelled_accept_loses_no_connection(presentation: Presentation) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with presentation.listener() as listener, presentation.open() as client:
            listener.setblocking(False)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.sock_accept(listener), 0.05)
            client.setblocking(False)
            await loop.sock_connect(client, listener.getsockname())
            server, _ = await loop.sock_accept(listener)
            with server:
                await loop.sock_sendall(server, b"x")
                assert await loop.sock_recv(client, 1) == b"x"

    run(main())
