"""asyncio over SMC: its functions for TCP connections and servers, with its signatures.

``loop.sock_connect()`` and the like work with smcsock sockets as they are. Names are
resolved only for sockets that present AF_INET or AF_INET6: those of AF_SMC need numeric
addresses, or the loop waits for the resolver; and uvloop cannot connect them.
"""

import asyncio
import errno
import itertools
import logging
import socket as _stdlib
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeVar

from ._errors import FallbackError, SMCUnsupportedError
from ._helpers import open_shared, set_buffers
from ._kernel._smc_info import SmcInfo
from ._socket import Fallback, socket, until_end
from ._socket import smc_info as _smc_info

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = [
    "create_connection",
    "create_server",
    "open_connection",
    "sendfile",
    "smc_info",
    "start_server",
]

_logger = logging.getLogger(__name__)

_AddressInfo: TypeAlias = tuple[int, int, int, str, Any]
_Attempt: TypeAlias = Callable[[], Coroutine[Any, Any, socket]]
_Connected: TypeAlias = Callable[
    [asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None
]
_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)

_LIMIT = 2**16  # of a StreamReader's buffer, asyncio's default

# What serve_forever() does with the clients when it ends is up to the patch release.
_CLOSES_CLIENTS = "close_clients" in asyncio.Server.serve_forever.__code__.co_names


async def open_connection(
    host: str | None = None,
    port: int | str | None = None,
    *,
    limit: int = _LIMIT,
    require_smc: bool = False,
    fallback: Fallback | None = None,
    **kwds: Any,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As asyncio.open_connection(), over SMC: a reader and a writer.

    The keywords are those of create_connection().
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await create_connection(
        lambda: protocol, host, port, require_smc=require_smc, fallback=fallback, **kwds
    )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def start_server(
    client_connected_cb: _Connected,
    host: str | Sequence[str] | None = None,
    port: int | str | None = None,
    *,
    limit: int = _LIMIT,
    require_smc: bool = False,
    fallback: Fallback | None = None,
    **kwds: Any,
) -> asyncio.Server:
    """As asyncio.start_server(), over SMC: a reader and a writer for each connection.

    The keywords are those of create_server().
    """
    loop = asyncio.get_running_loop()

    def protocol() -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        return asyncio.StreamReaderProtocol(reader, client_connected_cb, loop=loop)

    return await create_server(
        protocol, host, port, require_smc=require_smc, fallback=fallback, **kwds
    )


async def create_connection(
    protocol_factory: Callable[[], _Protocol],
    host: str | None = None,
    port: int | str | None = None,
    *,
    ssl: "SSLContext | bool | None" = None,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    sock: _stdlib.socket | None = None,
    local_addr: tuple[str, int] | None = None,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    happy_eyeballs_delay: float | None = None,
    interleave: int | None = None,
    all_errors: bool = False,
    require_smc: bool = False,
    fallback: Fallback | None = None,
    sndbuf: int | None = None,
    rcvbuf: int | None = None,
) -> tuple[asyncio.Transport, _Protocol]:
    """The event loop's method of that name, over SMC: a transport and a protocol.

    With ``require_smc`` an attempt that falls back to TCP has failed, with
    FallbackError, which goes before the errors of other addresses. ``fallback`` as
    for smcsock.socket. ``all_errors`` is there whatever the version of Python.
    ``sndbuf`` and ``rcvbuf``, in bytes, as for smcsock.create_connection().

    Raises OSError as asyncio does, also where the kernel itself would tell of no
    error (docs/kernel.md): ConnectionAbortedError.
    """
    loop = asyncio.get_running_loop()
    opened: socket | None = None
    if sock is None and (host is not None or port is not None):
        _check_tls_options(
            bool(ssl),
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        if ssl and server_hostname is None:
            if not host:
                raise ValueError("You must set server_hostname when using ssl without a host")
            server_hostname = host
        resolve = partial(_resolve, family=family, proto=proto, flags=flags)
        infos = await resolve(host, port)
        local_infos = None if local_addr is None else await resolve(*local_addr[:2])
        if happy_eyeballs_delay is not None and interleave is None:
            interleave = 1
        if interleave:
            infos = _interleave(infos, interleave)
        sock = opened = await _connect_first(
            [
                partial(_connect, info, local_infos, require_smc, fallback, (sndbuf, rcvbuf))
                for info in infos
            ],
            happy_eyeballs_delay,
            all_errors,
        )
        host = port = None
    elif require_smc and sock is not None and host is None and port is None:
        _smcsock(sock)._refuse_fallback(sock.getpeername())

    protocols: list[_Protocol] = []

    def make_protocol() -> _Protocol:
        protocols.append(protocol_factory())
        return protocols[0]

    connect: Any = loop.create_connection  # more than its overloads allow
    try:
        transport, made = await connect(
            make_protocol,
            host,
            port,
            sock=sock,
            ssl=ssl,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
    except BaseException:
        # With a protocol there is a transport, which closes the socket.
        if opened is not None and not protocols:
            opened.close()
        raise
    return transport, made


def _smcsock(sock: _stdlib.socket) -> socket:
    if not isinstance(sock, socket):
        raise TypeError(f"require_smc needs a smcsock.socket, not {type(sock).__name__}")
    if hasattr(sock, "do_handshake"):  # asyncio would see only the listener in its place
        raise TypeError("Socket cannot be of type SSLSocket")
    return sock


def _check_tls_options(has_tls: bool, **options: Any) -> None:
    """ValueError now rather than when there is a connection to clean up."""
    for name, value in options.items():
        if value is not None and not has_tls:
            raise ValueError(f"{name} is only meaningful with ssl")
        if name.endswith("timeout") and value is not None and value <= 0:
            raise ValueError(f"{name} should be a positive number, got {value}")


async def _resolve(
    host: Any, port: Any, *, family: int, proto: int = 0, flags: int = 0
) -> Sequence[_AddressInfo]:
    """getaddrinfo() in another thread, unless there is no name to resolve."""
    _check_port(port)
    numeric = _stdlib.AI_NUMERICHOST | _stdlib.AI_NUMERICSERV
    stream = _stdlib.SOCK_STREAM
    infos: Sequence[_AddressInfo]
    try:
        infos = _stdlib.getaddrinfo(host, port, family, stream, proto, flags | numeric)
    except _stdlib.gaierror:
        loop = asyncio.get_running_loop()
        infos = await loop.getaddrinfo(
            host, port, family=family, type=stream, proto=proto, flags=flags
        )
    if not infos:
        raise OSError(f"getaddrinfo({host!r}) returned empty list")
    return infos


def _check_port(port: Any) -> None:
    """OverflowError, as of asyncio, for a port that getaddrinfo() would take modulo 65536."""
    try:
        number = int(port)
    except (TypeError, ValueError):  # None, a service's name, or what getaddrinfo() refuses
        return
    if not 0 <= number <= 65535:
        raise OverflowError(f"port must be 0-65535, not {number}")


def _interleave(infos: Sequence[_AddressInfo], first_count: int) -> Sequence[_AddressInfo]:
    """The addresses, families in turn (RFC 8305, 4), first_count of the first to begin with."""
    by_family: dict[int, list[_AddressInfo]] = {}
    for info in infos:
        by_family.setdefault(info[0], []).append(info)
    families = list(by_family.values())
    head, families[0] = families[0][: first_count - 1], families[0][first_count - 1 :]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*families))
    return [*head, *filter(None, turns)]


async def _connect(
    info: _AddressInfo,
    local_infos: Sequence[_AddressInfo] | None,
    require_smc: bool,
    fallback: Fallback | None,
    buffers: tuple[int | None, int | None],
) -> socket:
    family, type, proto, _, address = info
    sock = socket(family, type, proto, fallback=fallback)
    try:
        sock.setblocking(False)
        set_buffers(sock, *buffers)
        if local_infos is not None:
            _bind_first(sock, local_infos)
        await asyncio.get_running_loop().sock_connect(sock, address)
        if require_smc:
            sock._refuse_fallback(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_first(sock: socket, local_infos: Sequence[_AddressInfo]) -> None:
    """Binds to the first of the addresses that can be; raises the last error."""
    failure = OSError(f"no matching local address with family={sock.family!r} found")
    for family, _, _, _, address in local_infos:
        if family != sock.family:
            continue
        try:
            sock.bind(address)
            return
        except OSError as error:
            failure = _bind_error(address, error)
    raise failure


def _bind_error(address: Any, error: OSError) -> OSError:
    reason = (error.strerror or str(error)).lower()
    return OSError(error.errno, f"error while attempting to bind on address {address!r}: {reason}")


async def _connect_first(attempts: list[_Attempt], delay: float | None, all_errors: bool) -> socket:
    """The socket of the first attempt that succeeds; the others are ended.

    Each begins when one has failed, or ``delay`` seconds after the one before.
    """
    waiting = attempts[::-1]
    running: list[asyncio.Task[socket]] = []
    errors: list[OSError] = []
    winner: socket | None = None
    try:
        while winner is None and (waiting or running):
            if waiting:
                running.append(asyncio.create_task(waiting.pop()()))
            timeout = delay if waiting else None
            done, _ = await asyncio.wait(
                running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            for task in [task for task in running if task in done]:
                running.remove(task)
                try:
                    winner = task.result()
                    break
                except OSError as error:
                    errors.append(error)
        await _end(running)
        if winner is None:
            raise _summary(errors, all_errors)
        return winner
    except BaseException:
        if winner is not None:
            winner.close()
        await _end(running)
        raise
    finally:
        errors = []  # breaks the cycle of frame and traceback


async def _end(attempts: list[asyncio.Task[socket]]) -> None:
    """Cancels attempts, which close their sockets, and closes those of late winners."""
    for task in attempts:
        task.cancel()
    try:
        await asyncio.gather(*attempts, return_exceptions=True)
    finally:
        for task in attempts:
            if task.done() and not task.cancelled() and task.exception() is None:
                task.result().close()


def _summary(errors: list[OSError], all_errors: bool) -> Exception:
    """What to raise when every attempt has failed; as asyncio, but for FallbackError."""
    if all_errors:
        return ExceptionGroup("create_connection failed", errors)
    for error in errors:
        if isinstance(error, FallbackError):
            return error
    texts = [str(error) for error in errors]
    if len(set(texts)) == 1:
        return errors[0]
    return OSError(f"Multiple exceptions: {', '.join(texts)}")


async def create_server(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: str | Sequence[str] | None = None,
    port: int | str | None = None,
    *,
    family: int = _stdlib.AF_UNSPEC,
    flags: int = _stdlib.AI_PASSIVE,
    sock: _stdlib.socket | None = None,
    backlog: int = 100,
    ssl: "SSLContext | None" = None,
    reuse_address: bool | None = None,
    reuse_port: bool | None = None,
    keep_alive: bool | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
    start_serving: bool = True,
    require_smc: bool = False,
    fallback: Fallback | None = None,
    sndbuf: int | None = None,
    rcvbuf: int | None = None,
) -> asyncio.Server:
    """The event loop's method of that name, over SMC: a server on all the host's addresses.

    With ``require_smc`` connections that fell back to TCP are closed before there is a
    protocol for them, and a warning is logged by ``smcsock.aio``; that needs a loop of
    asyncio's own, else NotImplementedError is raised. A ``sock`` is then left without
    a descriptor, as after detach(). ``fallback`` as for smcsock.socket, ``sndbuf`` and
    ``rcvbuf`` as for smcsock.create_server(); a ``sock`` has its own.
    """
    loop = asyncio.get_running_loop()
    if require_smc and not isinstance(loop, asyncio.SelectorEventLoop):
        raise NotImplementedError(
            f"require_smc needs an event loop of asyncio: {type(loop).__module__} accepts "
            "connections by itself; check each with smcsock.aio.smc_info()"
        )
    serve = partial(
        loop.create_server,
        protocol_factory,
        backlog=backlog,
        ssl=ssl,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
        start_serving=False,
    )
    listeners: list[socket] = []
    servers: list[asyncio.Server] = []
    try:
        if sock is None and (host is not None or port is not None):
            infos = await _resolve_hosts(host, port, family, flags)
            listeners = _listeners(
                infos,
                reuse_address is None or bool(reuse_address),
                bool(reuse_port),
                bool(keep_alive),
                fallback,
            )
            for listener in listeners:
                set_buffers(listener, sndbuf, rcvbuf)
        elif require_smc and sock is not None and host is None and port is None:
            listeners = [_smcsock(sock)]
        else:  # asyncio knows what is wrong, if anything is
            servers.append(await serve(host, port, sock=sock))
        for number, listener in enumerate(listeners):
            if require_smc:
                listener = listeners[number] = _SmcListener.take_over(listener)
            servers.append(await serve(sock=listener))
        server = servers[0] if len(servers) == 1 else _Servers(servers)
        if start_serving:
            await server.start_serving()
    except BaseException:
        for server in servers:
            server.close()
        for listener in listeners[len(servers) :]:
            listener.close()
        raise
    return server


async def _resolve_hosts(
    host: str | Sequence[str] | None, port: int | str | None, family: int, flags: int
) -> Iterable[_AddressInfo]:
    hosts: Iterable[str | None]
    hosts = [host or None] if host is None or isinstance(host, str) else host
    resolved = await asyncio.gather(
        *(_resolve(host, port, family=family, flags=flags) for host in hosts)
    )
    return dict.fromkeys(itertools.chain.from_iterable(resolved))


def _listeners(
    infos: Iterable[_AddressInfo],
    reuse_address: bool,
    reuse_port: bool,
    keep_alive: bool,
    fallback: Fallback | None,
) -> list[socket]:
    """A bound socket for each address that this host has; OSError if there is none."""
    listeners: list[socket] = []
    failure = OSError("could not bind on any address")
    try:
        for family, type, proto, _, address in infos:
            try:
                if reuse_port:
                    listeners.append(open_shared(family, proto, fallback))
                else:
                    listeners.append(socket(family, type, proto, fallback=fallback))
            except OSError as error:
                # A kernel without IPv6, unless it is one without SMC.
                if error.errno != errno.EAFNOSUPPORT or isinstance(error, SMCUnsupportedError):
                    raise
                failure = error
                continue
            listener = listeners[-1]
            if reuse_address:
                listener.setsockopt(_stdlib.SOL_SOCKET, _stdlib.SO_REUSEADDR, 1)
            if keep_alive:
                listener.setsockopt(_stdlib.SOL_SOCKET, _stdlib.SO_KEEPALIVE, 1)
            if family == _stdlib.AF_INET6:
                listener.setsockopt(_stdlib.IPPROTO_IPV6, _stdlib.IPV6_V6ONLY, 1)
            try:
                listener.bind(address)
            except OSError as error:
                failure = _bind_error(address, error)
                if error.errno != errno.EADDRNOTAVAIL:
                    raise failure from None
                listeners.pop().close()
        if not listeners:
            raise failure
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


class _SmcListener(socket):
    """A listener that has no connections that fell back to TCP."""

    __slots__ = ()

    @classmethod
    def take_over(cls, sock: socket) -> socket:
        return cls._like(sock, sock.detach())

    def accept(self, *, require_smc: bool = True) -> tuple[socket, Any]:
        try:
            return super().accept(require_smc=True)
        except FallbackError as error:
            _logger.warning("closed the connection of %s: %s", error.peer, error.strerror)
        # The loop comes back in its next round, and others have their turn before.
        raise BlockingIOError(errno.EAGAIN, "the connection was closed: it fell back to TCP")


class _Servers(asyncio.Server):
    """One server made of several, as the loop makes one for each socket that it is given."""

    def __init__(self, servers: Sequence[asyncio.Server]) -> None:
        # Not the base class's: that is asyncio's own affair. All its methods are replaced.
        self._servers = servers
        self._forever: asyncio.Future[None] | None = None  # what serve_forever() waits for

    @property
    def sockets(self) -> Any:
        """Those of all the servers."""
        return tuple(itertools.chain.from_iterable(server.sockets for server in self._servers))

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._servers[0].get_loop()

    def is_serving(self) -> bool:
        return any(server.is_serving() for server in self._servers)

    async def start_serving(self) -> None:
        for server in self._servers:
            if server.sockets:  # it may be closed meanwhile
                await server.start_serving()

    async def serve_forever(self) -> None:
        # As the base class does. Those of the servers would end one by one: the first that
        # has no client would end all of them.
        if self._forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if not self.sockets:
            raise RuntimeError(f"server {self!r} is closed")
        forever = self._forever = self.get_loop().create_future()
        try:
            await self.start_serving()
            await forever
        except asyncio.CancelledError:
            try:
                self.close()
                if sys.version_info >= (3, 13) and _CLOSES_CLIENTS:
                    self.close_clients()
                await self.wait_closed()
            finally:
                raise
        finally:
            self._forever = None

    def close(self) -> None:
        for server in self._servers:
            server.close()
        if self._forever is not None:
            self._forever.cancel()
            self._forever = None

    async def wait_closed(self) -> None:
        await asyncio.gather(*(server.wait_closed() for server in self._servers))

    if sys.version_info >= (3, 13):

        def close_clients(self) -> None:
            for server in self._servers:
                server.close_clients()

        def abort_clients(self) -> None:
            for server in self._servers:
                server.abort_clients()


async def sendfile(
    transport: asyncio.WriteTransport,
    file: IO[bytes],
    offset: int = 0,
    count: int | None = None,
    *,
    fallback: bool = True,
) -> int:
    """The event loop's method of that name, but without asking for more than there is.

    Over SMC sendfile(2) keeps back the last bytes of a file when it was asked for
    more, which ``loop.sendfile()`` does unless it gets the exact count. Returns the
    number of bytes sent.
    """
    loop = asyncio.get_running_loop()
    count = until_end(file, offset, count)
    return await loop.sendfile(transport, file, offset, count, fallback=fallback)


def smc_info(connection: asyncio.StreamWriter | asyncio.BaseTransport) -> SmcInfo:
    """What a connection is, TLS or not: smcsock.socket.smc_info() of its socket.

    Of a stream's writer or a transport, of any event loop. A plain TCP connection is
    Mode.TCP without a reason. Raises OSError (EBADF) when it is closed.
    """
    sock = connection.get_extra_info("socket")
    if sock is None:
        raise ValueError(f"{connection!r} has no socket")
    return _smc_info(sock)
