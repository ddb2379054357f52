"""SMC for programs that know nothing of it: socket.socket() makes SMC sockets."""

import _socket
import contextlib
import errno
import functools
import os
import socket as _stdlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._helpers import open_shared
from ._info import Mode
from ._smcsock import AF_SMC, IPPROTO_SMC, SOL_SMC
from ._socket import Fallback, _tcp_allowed, socket, until_end
from ._tally import NO_SMC, NOT_SELECTED, Outcome, Report, Side

if TYPE_CHECKING:
    from ._only import Selection

__all__ = ["install", "installed", "uninstall"]

_INET_FAMILIES = (_stdlib.AF_INET, _stdlib.AF_INET6)
_TCP_PROTOS = (-1, 0, _stdlib.IPPROTO_TCP)
_TYPE_FLAGS = _stdlib.SOCK_NONBLOCK | _stdlib.SOCK_CLOEXEC
_REUSE_PORT = (_stdlib.SOL_SOCKET, _stdlib.SO_REUSEPORT)
_CANNOT_SHARE = "this kernel's SMC sockets cannot share a port"

_os_sendfile = os.sendfile
_base_new = _stdlib.socket.__new__
_base_init = _stdlib.socket.__init__
_base_detach = _stdlib.socket.detach
_base_getpeername = _stdlib.socket.getpeername
_base_real_close = _stdlib.socket._real_close  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False, slots=True)
class _Settings:
    """What an install() asks for."""

    require_smc: bool = False
    fallback: Fallback | None = None
    only: "Selection | None" = None
    report: Report | None = None


_NOTHING = _Settings()

_lock = threading.Lock()
_stack: list[_Settings] = []
_current: _Settings | None = None  # the last of the stack


def install(
    *,
    require_smc: bool = False,
    fallback: Fallback | None = None,
    only: Iterable[str] | str | None = None,
    report: Report | None = None,
) -> None:
    """Makes every TCP socket that Python code opens from now on an SMC socket.

    ``socket.socket(AF_INET or AF_INET6, SOCK_STREAM)`` then gives a smcsock.socket
    that presents the same family, and with it all that is built on socket.socket:
    socketserver, http, asyncio, selectors, multiprocessing.connection, ssl. Other
    sockets, and those of classes derived from socket.socket, are what they were.

    With ``require_smc``, connect() and accept() raise FallbackError for a connection
    that fell back to TCP, and end it. A connection made without blocking is found out
    when it is first used, or asked for its SO_ERROR.

    ``fallback`` is for a kernel without SMC, as for smcsock.socket.

    ``only`` selects by address, HOST:PORT: of the peer for connect(), of the socket
    itself for bind(). HOST is an IP address, a network (10.1.0.0/16), a name or "*",
    IPv6 in brackets, PORT a number or "*". Names are resolved now. All else stays TCP.

    ``report`` counts the connections by mode and reason.

    Installations nest: the last one counts until its uninstall(). Sockets keep the
    settings of the one that they were made under.

    Raises ValueError for settings that make no sense, socket.gaierror for a name in
    ``only`` that cannot be resolved.
    """
    _push(_settings(require_smc, fallback, only, report))


def uninstall() -> None:
    """Undoes the last install(); nothing happens if there is none.

    Sockets that were made meanwhile remain what they are.
    """
    with _lock:
        if _stack:
            _remove(_stack[-1])


@contextlib.contextmanager
def installed(
    *,
    require_smc: bool = False,
    fallback: Fallback | None = None,
    only: Iterable[str] | str | None = None,
    report: Report | None = None,
) -> Iterator[None]:
    """A context manager: install() on entry, and undone on exit.

    It holds for the whole process, all threads and tasks.
    """
    settings = _settings(require_smc, fallback, only, report)
    _push(settings)
    try:
        yield
    finally:
        with _lock:
            if settings in _stack:
                _remove(settings)


def _settings(
    require_smc: bool,
    fallback: Fallback | None,
    only: Iterable[str] | str | None,
    report: Report | None,
) -> _Settings:
    if fallback is not None:
        _tcp_allowed(fallback)
    selection = None
    if only is not None:
        from ._only import Selection

        selection = Selection([only] if isinstance(only, str) else only)
    return _Settings(require_smc, fallback, selection, report)


def _push(settings: _Settings) -> None:
    global _current
    with _lock:
        if not _stack:
            _set_sslsocket_class()
            os.sendfile = _sendfile
            _stdlib.socket.__new__ = _new  # type: ignore[method-assign, assignment]
        _stack.append(settings)
        _current = settings


def _remove(settings: _Settings) -> None:
    global _current
    _stack.remove(settings)
    _current = _stack[-1] if _stack else None
    if not _stack:
        del _stdlib.socket.__new__
        if os.sendfile is _sendfile:
            os.sendfile = _os_sendfile
        _restore_sslsocket_class()


def _new(
    cls: type[_stdlib.socket],
    family: Any = -1,
    type: Any = -1,
    proto: Any = -1,
    fileno: Any = None,
    *args: Any,
    **kwargs: Any,
) -> _stdlib.socket:
    """What creates the objects of socket.socket and of classes derived from it.

    The class itself stays in its place, for isinstance(), for classes derived from it
    and for modules that hold it under a name of their own.
    """
    if cls is not _stdlib.socket or _current is None:
        return _base_new(cls)
    try:
        follows = family in (-1, *_INET_FAMILIES) and (
            _is_smc(fileno) if fileno is not None else _is_tcp(type, proto)
        )
    except TypeError:
        follows = False  # for __init__() to refuse
    return _base_new(Socket if follows else cls)


def _is_tcp(type: int, proto: int) -> bool:
    is_stream = type == -1 or type & ~_TYPE_FLAGS == _stdlib.SOCK_STREAM
    return is_stream and proto in _TCP_PROTOS


def _is_smc(fd: Any) -> bool:
    """Whether a descriptor is an SMC socket; one that fell back to TCP counts as TCP."""
    try:
        probe = _socket.socket(_stdlib.AF_INET, _stdlib.SOCK_STREAM, 0, fd)
    except (OSError, TypeError, ValueError, OverflowError):
        return False  # the caller's socket.socket() will say what is wrong
    try:
        return (
            probe.getsockopt(_stdlib.SOL_SOCKET, _stdlib.SO_DOMAIN) == AF_SMC
            or probe.getsockopt(_stdlib.SOL_SOCKET, _stdlib.SO_PROTOCOL) == IPPROTO_SMC
        )
    except OSError:
        return False
    finally:
        probe.detach()


def _sendfile(out_fd: int, in_fd: int, offset: int | None, count: int, *rest: Any) -> int:
    """In the place of os.sendfile(): sends the same, but does not ask for more than there is.

    See until_end(); asyncio calls it with the descriptor of the socket.
    """
    with contextlib.suppress(OSError, TypeError):
        start = os.lseek(in_fd, 0, os.SEEK_CUR) if offset is None else offset
        count = until_end(in_fd, start, count) or 0
    return _os_sendfile(out_fd, in_fd, offset, count, *rest)


class Socket(socket):
    """What socket.socket() makes while installed.

    A smcsock.socket that keeps to the settings it was made under. With ``only`` it is
    a TCP socket until connect() or bind() tell the address; its descriptor stays the
    same, the file behind it is replaced.
    """

    __module__ = "smcsock"
    __qualname__ = "socket"
    __slots__ = ("_inode", "_is_bound", "_is_made", "_is_pending", "_note", "_options", "_settings")

    _settings: _Settings
    _note: str  # why it is a TCP socket, if it is
    _options: list[tuple[Any, ...]] | None  # set so far; None when it cannot be replaced any more
    _is_bound: bool
    _is_pending: bool  # a connect is under way, without blocking
    _is_made: bool  # there is a connection, and it was counted
    _inode: int  # under which the report knows the connection; 0: it does not

    def __init__(
        self,
        family: int = -1,
        type: int = -1,
        proto: int = -1,
        fileno: int | None = None,
        *,
        fallback: Fallback | None = None,
    ) -> None:
        self._set_up(_current or _NOTHING)
        if fileno is not None:
            self._options = None
            super().__init__(family, type, proto, fileno, fallback=fallback)
            if family == -1 and self._family == AF_SMC:
                self._present(self._inet, -1)
            return
        family = _stdlib.AF_INET if family == -1 else family
        if self._settings.only is None:
            fallback = fallback or self._settings.fallback
            super().__init__(family, type, proto, fallback=fallback)
            self._note = NO_SMC if self._is_tcp else ""
        else:
            self._present(family, proto)
            self._is_tcp, self._note = True, NOT_SELECTED
            _base_init(self, self._inet, type, self._proto)

    def _set_up(self, settings: _Settings) -> None:
        self._settings = settings
        self._note = ""
        self._options = []
        self._is_bound = self._is_pending = self._is_made = False
        self._inode = 0

    @classmethod
    def _like(cls, sock: socket, fd: int) -> "Socket":
        if cls is _ConnectingSocket:
            return Socket._like(sock, fd)
        new = super()._like(sock, fd)
        assert isinstance(new, Socket)
        new._set_up(sock._settings if isinstance(sock, Socket) else _NOTHING)
        new._note = sock._note if isinstance(sock, Socket) else ""
        new._options = None
        return new

    def _rebuilder(self) -> Callable[..., socket]:
        return functools.partial(_rebuild, self._note)

    # ---- Options, and what they rule out

    def setsockopt(self, *args: Any) -> None:
        """As in the standard library; SO_REUSEPORT too, as create_server() has it."""
        try:
            super().setsockopt(*args)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP or args[:2] != _REUSE_PORT or self._options is None:
                raise
            self._share_port(error)
            super().setsockopt(*args)
        if self._options is not None:
            self._options.append(args)

    def _share_port(self, refused: OSError) -> None:
        """Becomes a socket that can share its port: of IPPROTO_SMC, or TCP before Linux 6.11."""
        fresh = _base_new(_stdlib.socket)
        try:
            _base_init(fresh, self._inet, _stdlib.SOCK_STREAM, IPPROTO_SMC)
        except OSError:
            if self._settings.require_smc:
                raise refused from None
            self._become_tcp(_CANNOT_SHARE)
        else:
            with fresh:
                self._take_over(fresh, self._options or ())

    def _decide(self, address: Any) -> None:
        """Becomes what the settings want of a socket for this address."""
        selection = self._settings.only
        if selection is None or self._options is None:
            return
        if not selection.matches(address, self._inet):
            if self._note != NOT_SELECTED:
                self._become_tcp(NOT_SELECTED)
        elif self._note == NOT_SELECTED:
            self._become_smc()

    def _become_smc(self) -> None:
        fallback = self._settings.fallback
        if any(option[:2] == _REUSE_PORT for option in self._options or ()):
            try:
                fresh = open_shared(self._inet, self._proto, fallback)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP or self._settings.require_smc:
                    raise
                self._note = _CANNOT_SHARE
                return
        else:
            fresh = socket(self._inet, _stdlib.SOCK_STREAM, self._proto, fallback=fallback)
        with fresh:
            try:
                self._take_over(fresh, self._options or ())
            except _OptionRefused as refusal:
                if self._settings.require_smc:
                    raise refusal.cause from None
                self._note = str(refusal)
            else:
                self._is_tcp = fresh._is_tcp
                self._note = NO_SMC if self._is_tcp else ""

    def _become_tcp(self, note: str) -> None:
        fresh = _base_new(_stdlib.socket)
        _base_init(fresh, self._inet, _stdlib.SOCK_STREAM, self._proto)
        options = [option for option in self._options or () if option[0] != SOL_SMC]
        with fresh:
            try:
                self._take_over(fresh, options)
            except _OptionRefused as refusal:
                raise refusal.cause from None
        self._is_tcp, self._note = True, note

    def _take_over(self, fresh: _stdlib.socket, options: Iterable[tuple[Any, ...]]) -> None:
        """Puts another socket in the place of the descriptor's, with these options."""
        fd = self.fileno()
        for option in options:
            try:
                fresh.setsockopt(*option)
            except OSError as error:
                raise _OptionRefused(option, error) from None
        local = self.getsockname() if self._is_bound else None
        os.set_blocking(fresh.fileno(), os.get_blocking(fd))
        os.dup2(fresh.fileno(), fd, inheritable=os.get_inheritable(fd))
        if local is not None:
            super().bind(local)

    # ---- Connections

    def bind(self, address: Any, /) -> None:
        """As in the standard library."""
        self._decide(address)
        super().bind(address)
        self._is_bound = True

    def connect(self, address: Any, /) -> None:
        """As in the standard library; FallbackError as install() has it."""
        self._decide(address)
        try:
            while True:
                try:
                    super().connect(address)
                    break
                except InterruptedError as error:
                    if error.errno != errno.EINTR or not self._renew():
                        raise
        except BaseException as error:
            self._went_on(getattr(error, "errno", None))
            raise
        self._made("connect", address)

    def connect_ex(self, address: Any, /) -> int:
        """As in the standard library; FallbackError as install() has it."""
        self._decide(address)
        try:
            outcome = super().connect_ex(address)
            while outcome == errno.EINTR and self._renew():
                outcome = super().connect_ex(address)
        except BaseException:
            self._went_on(None)
            raise
        if outcome == 0:
            self._made("connect", address)
        else:
            self._went_on(outcome)
        return outcome

    def _renew(self) -> bool:
        """Takes a new SMC socket if it can: a signal has ended the handshake of this one."""
        if self._options is None or self._is_bound:
            return False
        self._become_smc()
        return not self._note

    def accept(self, *, require_smc: bool = False) -> tuple[socket, Any]:
        """As that of smcsock.socket; FallbackError as install() has it."""
        fd, address = self._accept()
        conn = Socket._like(self, fd)
        try:
            conn._made("accept", address, require_smc)
        except BaseException:
            conn.close()
            raise
        return conn, address

    def _went_on(self, error: int | None) -> None:
        """After a connect that did not succeed, but still may.

        Without blocking, after a timeout, when the handler of a signal has raised something.
        """
        if self._is_pending:
            self._conclude()
        elif error != errno.EISCONN:
            self._is_pending = True
            if type(self) is Socket:
                self.__class__ = _ConnectingSocket

    def _conclude(self) -> None:
        """Looks whether a connect that was under way has succeeded."""
        if not self._is_pending:
            return
        try:
            peer = _base_getpeername(self)
        except OSError:
            return
        self._made("connect", peer)

    def _made(self, side: Side, peer: Any, require_smc: bool = False) -> None:
        """There is a connection: counts it; ends it with FallbackError if it must not be TCP."""
        self._options = None
        self._is_pending = False
        if type(self) is _ConnectingSocket:
            self.__class__ = Socket  # type: ignore[assignment]
        if self._is_made:  # over TCP the connect() after SO_ERROR succeeds, too
            return
        self._is_made = True
        if self._note != NOT_SELECTED:
            require_smc = require_smc or self._settings.require_smc
        report = self._settings.report
        error = self._fallback_error(peer) if require_smc else None
        if report is not None:
            if error is not None:
                info = error.info
                reasons = (info.reason, info.peer_reason) if info else (None, None)
                report._add(Outcome(side, Mode.TCP, *reasons, note=self._note, refused=True))
            elif self._is_tcp:
                report._add(Outcome(side, Mode.TCP, note=self._note))
            else:
                self._inode = os.fstat(self.fileno()).st_ino
                report._opened(self._inode, side, self.fell_back())
        if error is not None:
            # Not closed: event loops know the descriptor.
            with contextlib.suppress(OSError):
                super().shutdown(_stdlib.SHUT_RDWR)
            raise error

    def getsockopt(self, level: int, optname: int, *buflen: int) -> Any:
        """As that of smcsock.socket; FallbackError as install() has it."""
        value = super().getsockopt(level, optname, *buflen)
        if self._is_pending and optname == _stdlib.SO_ERROR and level == _stdlib.SOL_SOCKET:
            self._conclude()
        return value

    def getpeername(self) -> Any:
        """As in the standard library; FallbackError as install() has it."""
        self._conclude()
        return super().getpeername()

    def __repr__(self) -> str:
        # The base class asks getpeername(), and suppresses the FallbackError for which
        # a connection is concluded.
        is_pending, self._is_pending = self._is_pending, False
        try:
            return super().__repr__()
        finally:
            self._is_pending = is_pending

    # ---- Endings, before which the kernel is asked what the connection was

    def shutdown(self, how: int, /) -> None:
        """As in the standard library."""
        self._conclude()
        self._settle()
        super().shutdown(how)

    def detach(self) -> int:
        """As in the standard library."""
        self._ending()
        return super().detach()

    def _real_close(self, *args: Any) -> None:
        try:
            self._ending()
        finally:
            super()._real_close(*args)  # type: ignore[misc]

    def __del__(self) -> None:
        # Nobody has closed it. Not all attributes need be there.
        if getattr(self, "_inode", 0):
            with contextlib.suppress(Exception):
                self._settle()
        super().__del__()  # type: ignore[misc]

    def _ending(self) -> None:
        with contextlib.suppress(OSError):  # nobody is interested any more
            self._conclude()
        self._settle()

    def _settle(self) -> None:
        if self._inode and self._settings.report is not None:
            self._settings.report._closing(self._inode)


def _rebuild(note: str, *state: Any) -> socket:
    """In the process that receives a socket from another one, under what is installed there."""
    settings = _current
    if settings is None:
        return socket._rebuild(*state)
    new = Socket._rebuild(*state)
    assert isinstance(new, Socket)
    new._set_up(settings)
    new._note = note
    new._options = None
    return new


class _OptionRefused(Exception):
    """An option of the TCP socket is none of SMC; ``cause`` is the error."""

    def __init__(self, option: tuple[Any, ...], cause: OSError) -> None:
        super().__init__(f"its option {option[:2]} is none of SMC: {cause.strerror}")
        self.cause = cause


class _ConnectingSocket(Socket):
    """While a connect is under way without blocking: its first use concludes it."""

    __module__ = "smcsock"
    __qualname__ = "socket"
    __slots__ = ()


def _first_use(name: str) -> Callable[..., Any]:
    method = getattr(Socket, name)

    def use(self: _ConnectingSocket, *args: Any, **kwargs: Any) -> Any:
        self._conclude()
        return method(self, *args, **kwargs)

    use.__name__, use.__doc__ = name, method.__doc__
    return use


# As the name in messages, too.
Socket.__name__ = _ConnectingSocket.__name__ = "socket"

for _name in (
    "recv",
    "recv_into",
    "recvfrom",
    "recvfrom_into",
    "recvmsg",
    "recvmsg_into",
    "send",
    "sendall",
    "sendfile",
    "sendmsg",
    "sendto",
):
    setattr(_ConnectingSocket, _name, _first_use(_name))


# ---- TLS

_sslsocket_class: Any = None  # what it was before


def _set_sslsocket_class() -> None:
    """Lets TLS sockets made of SMC sockets keep what those know."""
    global _sslsocket_class
    try:
        import ssl

        from ._install_ssl import SSLSocket
    except ImportError:  # a Python without ssl
        return
    _sslsocket_class = ssl.SSLContext.sslsocket_class
    ssl.SSLContext.sslsocket_class = SSLSocket


def _restore_sslsocket_class() -> None:
    global _sslsocket_class
    if _sslsocket_class is not None:
        import ssl

        from ._install_ssl import SSLSocket

        if ssl.SSLContext.sslsocket_class is SSLSocket:
            ssl.SSLContext.sslsocket_class = _sslsocket_class
        _sslsocket_class = None
