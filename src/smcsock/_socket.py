"""The type: socket.socket for SMC."""

from __future__ import annotations

import _socket
import errno
import os
import select
import socket as _stdlib
import stat
import sys
from operator import index

from . import _smcsock
from ._errors import FallbackError, SMCUnsupportedError, refused
from ._opening import SANDBOXED, Opening, had_smc, has_smc, lacks_smc, open_smc
from ._smcsock import AF_SMC, IPPROTO_SMC, SMCPROTO_SMC, SMCPROTO_SMC6

# Neither typing nor what smc_info() needs is loaded with the package: they would take
# longer than the rest of it.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal, TypeAlias

    from ._kernel._smc_info import SmcInfo

    Fallback: TypeAlias = Literal["tcp", "error"]
    Presentation: TypeAlias = tuple[int, _stdlib.AddressFamily, int, int]
else:
    Fallback = str

__all__ = [
    "Fallback",
    "StandardSocket",
    "fromfd",
    "has_smc",
    "lost_error",
    "open_socket",
    "smc_info",
    "socket",
    "until_end",
]

_AF_INET = _stdlib.AF_INET
_AF_INET6 = _stdlib.AF_INET6
_SOCK_STREAM = _stdlib.SOCK_STREAM
_TYPE_FLAGS = _stdlib.SOCK_NONBLOCK | _stdlib.SOCK_CLOEXEC

_UNSPECIFIED = ("0.0.0.0", "::")

_IPPROTO_MPTCP = 262  # of linux/in.h, which not all C libraries know

_SMCPROTO = {_AF_INET: SMCPROTO_SMC, _AF_INET6: SMCPROTO_SMC6}

if TYPE_CHECKING:
    StandardSocket = _stdlib.socket
else:
    # Whatever stands in the module by that name: a program may have put something else there.
    # Before Python 3.12 the C type has the classes of all sub-interpreters.
    StandardSocket = next(
        cls
        for cls in _socket.socket.__subclasses__()
        if cls.__module__ == "socket"
        and any(getattr(it, "__globals__", None) is vars(_stdlib) for it in vars(cls).values())
    )

# The methods of the base class, called directly: super() costs more than they do.
_base_new = StandardSocket.__new__
_base_init = StandardSocket.__init__
_base_detach = StandardSocket.detach
_base_fileno = StandardSocket.fileno
_base_getpeername = StandardSocket.getpeername
_base_getsockopt = StandardSocket.getsockopt


def _presentations() -> dict[tuple[int, int], Presentation]:
    """What a caller may ask for, family and proto, to how the socket presents itself.

    That is its family, inet and proto; and the proto that the kernel is asked for.
    """
    table: dict[tuple[int, int], Presentation] = {}
    for inet, smcproto in _SMCPROTO.items():
        table[inet, -1] = table[inet, 0] = table[inet, IPPROTO_SMC] = inet, inet, 0, smcproto
        table[-1, smcproto] = table[AF_SMC, smcproto] = AF_SMC, inet, smcproto, smcproto
        table[inet, _stdlib.IPPROTO_TCP] = inet, inet, _stdlib.IPPROTO_TCP, smcproto
    table[-1, -1] = table[AF_SMC, -1] = table[AF_SMC, SMCPROTO_SMC]
    return table


_PRESENTATIONS = _presentations()


def _load_info() -> None:
    """Loads what smc_info() needs, while it can be found: the process may chroot later."""
    try:
        from ._kernel import _smc_info  # noqa: F401
    except ImportError:
        return


def _tcp_allowed(fallback: Fallback | None) -> bool:
    """Whether the caller, or else the environment, accepts a kernel without SMC."""
    source = "fallback"
    choice: str | None = fallback
    if fallback is None:
        source = "SMCSOCK_FALLBACK"
        choice = os.environ.get(source) or "error"
    if choice not in ("tcp", "error"):
        raise ValueError(f"{source} must be 'tcp' or 'error', not {choice!r}")
    return choice == "tcp"


def open_socket(type: int, inet: int, proto: int, fallback: Fallback | None) -> tuple[int, bool]:
    """The descriptor of a new SMC socket; or of TCP, if there is no SMC and that is allowed.

    ``proto`` is that of the TCP socket. The second value tells whether it is one.
    """
    try:
        return open_smc(type, SMCPROTO_SMC6 if inet == _AF_INET6 else SMCPROTO_SMC), False
    except OSError as error:
        if not isinstance(error, SMCUnsupportedError) and error.errno not in SANDBOXED:
            raise
        if type & ~_TYPE_FLAGS != _SOCK_STREAM:
            raise _error(errno.ESOCKTNOSUPPORT) from None
        if not _tcp_allowed(fallback):
            raise
    return _smcsock.socket(type, proto, inet), True


def until_end(file: Any, offset: int, count: int | None) -> int | None:
    """How much to ask sendfile(2) for: no more than a regular file has from offset on.

    Asked for more it sends with MSG_MORE and waits for the rest; over SMC the last
    bytes then stay where they are (the kernel's smc_sock_ops has no splice_eof).
    """
    try:
        status = os.fstat(file if isinstance(file, int) else file.fileno())
    except (AttributeError, OSError):  # as of io.BytesIO
        return count
    left = status.st_size - offset
    if stat.S_ISREG(status.st_mode) and left > 0 and (count is None or count > left):
        return left
    return count


def lost_error(sock: _stdlib.socket) -> int:
    """ECONNABORTED if smc_connect_work() in the kernel has failed and left no error."""
    fd = _base_fileno(sock)
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLOUT)
    # The only SMC socket that hangs up and is ready for nothing.
    if poll.poll(0) != [(fd, select.POLLHUP)]:
        return 0
    try:
        _base_getpeername(sock)
    except OSError as error:
        return errno.ECONNABORTED if error.errno == errno.ENOTCONN else 0
    return 0


def _error(code: int, detail: str = "") -> OSError:
    return OSError(code, os.strerror(code) + detail)


class _Signature:
    """The class's for inspect, which from Python 3.13 on stumbles over an __init__() in C."""

    def __get__(self, instance: object, owner: type) -> Any:
        if owner.__init__ is not socket.__init__:  # type: ignore[misc]  # its own
            raise AttributeError("__signature__")
        import inspect

        _, *parameters = inspect.signature(socket.__init__).parameters.values()
        return inspect.Signature(parameters)


class socket(_smcsock.SocketMethods, StandardSocket):
    """An SMC socket: to its user a TCP socket, to the kernel a socket of AF_SMC.

    ``socket()`` is ``socket(AF_SMC, SOCK_STREAM, SMCPROTO_SMC)``; SMCPROTO_SMC6 is
    SMC over IPv6. ``socket(AF_INET)`` and ``socket(AF_INET6)`` open the same SMC
    sockets but report that family, for code that decides by it (ssl, asyncio);
    ``proto`` then is 0 or IPPROTO_TCP, as asked. Addresses are those of AF_INET and
    AF_INET6.

    ``fileno`` adopts a descriptor if it is an SMC socket, else ValueError. It then
    presents AF_SMC, or AF_INET/AF_INET6 if it was opened with IPPROTO_SMC or
    ``family`` asks for it.

    ``fallback="tcp"`` allows a plain TCP socket where the kernel has no SMC, and in
    ``fileno`` a TCP socket, of Multipath TCP too; without it that is SMCUnsupportedError,
    or ValueError. None takes the environment variable
    SMCSOCK_FALLBACK, "tcp" or "error".
    """

    __module__ = "smcsock"
    if sys.version_info >= (3, 13):
        __signature__ = _Signature()
    __slots__ = ("_family", "_inet", "_is_tcp", "_proto")

    _family: int  # as presented
    _inet: _stdlib.AddressFamily  # of its addresses; the base class holds it too
    _is_tcp: bool  # opened for want of SMC in the kernel
    _proto: int

    def _init(
        self,
        family: int = -1,
        type: int = -1,
        proto: int = -1,
        fileno: int | None = None,
        *,
        fallback: Fallback | None = None,
    ) -> None:
        """What __init__() does for all but what was opened before: that it does by itself."""
        if fallback is not None:
            _tcp_allowed(fallback)
        if fileno is not None:
            self._adopt_unknown(family, type, proto, fileno, fallback)
            return
        if type == -1:
            type = _SOCK_STREAM
        self._present(family, proto)
        if self._family == AF_SMC:
            # The base class raises the event too, but knows the socket as INET.
            sys.audit("socket.__new__", self, AF_SMC, type, self._proto)
        opening = Opening(lambda: self._open(type, fallback))
        try:
            _base_init(self, self._inet, type, self._proto, opening)  # type: ignore[arg-type]
        except BaseException:
            _base_detach(self)
            opening.undo()
            raise
        _load_info()
        _smcsock.open_directly(had_smc())

    def _present(self, family: int, proto: int) -> None:
        """Settles how the socket presents itself; OSError if it is no SMC socket."""
        key = index(family), index(proto)
        if key not in _PRESENTATIONS:
            if not all(-(2**31) <= number < 2**31 for number in key):
                raise OverflowError("Python int too large to convert to C int")
            if (key[0], -1) in _PRESENTATIONS:
                raise _error(errno.EPROTONOSUPPORT)
            detail = f": smcsock opens sockets of AF_SMC, AF_INET and AF_INET6, not {family}"
            raise _error(errno.EAFNOSUPPORT, detail)
        self._family, self._inet, self._proto, _ = _PRESENTATIONS[key]
        self._is_tcp = False

    def _open(self, type: int, fallback: Fallback | None) -> int:
        proto = 0 if self._family == AF_SMC else self._proto
        fd, self._is_tcp = open_socket(type, self._inet, proto, fallback)
        return fd

    def _adopt(self, fd: int, type: int) -> None:
        """Takes over a new descriptor, which is closed if that fails."""
        try:
            _base_init(self, self._inet, type, self._proto, fd)
        except BaseException:
            _base_detach(self)
            os.close(fd)
            raise

    def _adopt_unknown(
        self, family: int, type: int, proto: int, fd: int, fallback: Fallback | None
    ) -> None:
        """Takes over a caller's descriptor, which stays the caller's if that fails."""
        _load_info()
        self._family, self._proto = family, proto  # for repr, until they are known
        _base_init(self, -1, type, proto, fd)
        try:
            self._recognise(family, proto, fallback)
        except BaseException:
            _base_detach(self)
            raise

    def _recognise(self, family: int, proto: int, fallback: Fallback | None) -> None:
        self._inet = inet = super().family
        domain = self.getsockopt(_stdlib.SOL_SOCKET, _stdlib.SO_DOMAIN)
        protocol = self.getsockopt(_stdlib.SOL_SOCKET, _stdlib.SO_PROTOCOL)
        is_tcp = False
        if inet not in (_AF_INET, _AF_INET6):
            raise ValueError(f"descriptor {self.fileno()} is no SMC socket: its family is {domain}")
        if domain == AF_SMC:
            own_family = AF_SMC
        elif protocol == IPPROTO_SMC:
            own_family = inet
        elif protocol == _stdlib.IPPROTO_TCP:
            # A TCP socket, or an SMC socket after a fallback: to every system call
            # the kernel then puts the TCP socket in its place. sock_diag knows.
            own_family, is_tcp = self._family_of_fallback(inet, fallback)
        elif protocol == _IPPROTO_MPTCP and _tcp_allowed(fallback):
            own_family, is_tcp = inet, True
        else:
            name = "Multipath TCP" if protocol == _IPPROTO_MPTCP else protocol
            raise ValueError(f"descriptor {self.fileno()} is no SMC socket: its protocol is {name}")
        if family == -1:
            family = own_family
        if family == AF_SMC and proto in (-1, 0):
            proto = _SMCPROTO[inet]
        self._present(family, proto)
        if self._inet != inet:
            raise ValueError(f"descriptor {self.fileno()} is of {inet!r}, not of family {family}")
        self._is_tcp = is_tcp

    def _family_of_fallback(self, inet: int, fallback: Fallback | None) -> tuple[int, bool]:
        from ._kernel._errors import DiagUnavailableError
        from ._kernel._smc_info import query

        refusal = f"descriptor {self.fileno()} is a TCP socket, not an SMC socket"
        try:
            info = None if lacks_smc() else query(self)
        except DiagUnavailableError as error:
            if not _tcp_allowed(fallback):
                raise ValueError(f"{refusal}, as far as can be told: {error.strerror}") from None
            info = None
        if info is not None:
            return AF_SMC if info.family == AF_SMC else inet, False
        if not _tcp_allowed(fallback):
            raise ValueError(refusal)
        return inet, True

    @classmethod
    def _like(cls, sock: socket, fd: int) -> socket:
        """A socket for a new descriptor that presents itself as another one does."""
        new = cls.__new__(cls)
        new._family, new._inet = sock._family, sock._inet
        new._proto, new._is_tcp = sock._proto, sock._is_tcp
        new._adopt(fd, _SOCK_STREAM)
        return new

    @property
    def family(self) -> Any:
        """AF_SMC, AF_INET or AF_INET6: how the socket presents itself."""
        return self._family

    @property
    def proto(self) -> int:
        """SMCPROTO_SMC or SMCPROTO_SMC6 with AF_SMC, else 0 or IPPROTO_TCP."""
        return self._proto

    def listen(self, *backlog: int) -> None:
        """As in the standard library.

        A socket that fell back before, by an option such as TCP_FASTOPEN, becomes a TCP
        socket that the kernel has nothing else to do with: else it would wake nobody who
        reads from what is accepted.
        """
        if not self._is_tcp and self.fileno() != -1 and self.fell_back():
            from . import _options

            _options.replace(self, _smcsock.socket(_SOCK_STREAM, 0, self._inet))
            self._is_tcp = True
        super().listen(*backlog)

    def accept(self, *, require_smc: bool = False) -> tuple[socket, Any]:
        """Waits for a connection; returns its socket and the peer's address.

        With ``require_smc`` a connection that fell back to TCP is closed and
        FallbackError raised; the next accept() waits for the next one.
        """
        fd, address = self._accept()
        conn = socket._like(self, fd)
        if require_smc:
            conn._refuse_fallback(address)
        return conn, address

    def getsockopt(self, level: int, optname: int, *buflen: int) -> Any:
        """As in the standard library; but SO_ERROR says that a connect has failed.

        After a connect without blocking Linux 6.12 keeps ECONNREFUSED and few other
        errors, 7.2 all. Where it kept none of a connect that came to nothing, this is
        ECONNABORTED in place of 0, which would be success.
        """
        value = _base_getsockopt(self, level, optname, *buflen)
        if value == 0 and optname == _stdlib.SO_ERROR and level == _stdlib.SOL_SOCKET:
            return 0 if self._is_tcp else lost_error(self)
        return value

    def dup(self) -> socket:
        """A second socket for the same connection."""
        new = self._like(self, os.dup(self.fileno()))
        new.settimeout(self.gettimeout())
        return new

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """As socket.socket.sendfile(); of the file as long as it is when called."""
        return super().sendfile(file, offset, until_end(file, offset, count))

    def smc_info(self) -> SmcInfo:
        """What this socket is: SMC-D, SMC-R or TCP and why, buffers, link group.

        Costs a dump of all SMC sockets of the network namespace. Needs no
        privilege. Raises DiagUnavailableError where the kernel's smc_diag is
        missing, else OSError.
        """
        from ._kernel._errors import DiagUnavailableError
        from ._kernel._smc_info import Mode, SmcInfo, query

        os.fstat(self.fileno())  # EBADF if closed, whatever can be asked
        if self._is_tcp:
            return SmcInfo(Mode.TCP)
        info = query(self)
        if info is None:
            raise DiagUnavailableError(
                errno.ENOENT, "the kernel does not list this socket in this network namespace"
            )
        return self._with_addresses(info)

    def _with_addresses(self, info: SmcInfo) -> SmcInfo:
        """Fills in the addresses, which smc_diag leaves out for IPPROTO_SMC."""
        from dataclasses import replace

        local, peer = info.local, info.peer
        if local is not None and local[0] in _UNSPECIFIED:
            local = self.getsockname()
        if peer is not None and peer[0] in _UNSPECIFIED:
            try:
                peer = self.getpeername()
            except OSError:  # closed meanwhile
                peer = None
        return replace(info, local=local, peer=peer)

    def fell_back(self) -> bool:
        """Whether this connection is TCP; cheap, and without smc_diag.

        False while that is undecided: not connected, listening.
        """
        # In the place of an SMC socket that falls back the kernel puts its TCP socket.
        protocol = self.getsockopt(_stdlib.SOL_SOCKET, _stdlib.SO_PROTOCOL)
        return self._is_tcp or protocol == _stdlib.IPPROTO_TCP

    def _refuse_fallback(self, peer: Any) -> None:
        """Closes a connection that fell back to TCP and raises FallbackError."""
        try:
            error = self._fallback_error(peer)
        except BaseException:
            self.close()
            raise
        if error is not None:
            self.close()
            raise error

    def _fallback_error(self, peer: Any) -> FallbackError | None:
        """What to raise of a connection that has to be SMC, None if it is."""
        if not self.fell_back():
            return None
        return FallbackError(*refused(peer, self.smc_info))

    def to_stdlib(self) -> _stdlib.socket:
        """Hands the descriptor over to a plain socket.socket, and returns that.

        It presents AF_INET or AF_INET6 and keeps the timeout; this socket is left
        as after detach(). For libraries that insist on the exact type.
        """
        fd = self.fileno()
        if fd == -1:
            raise _error(errno.EBADF)
        proto = 0 if self._family == AF_SMC else self._proto
        timeout = self.gettimeout()
        # Not by a call of the class, which smcsock.install() changes.
        plain = _base_new(StandardSocket)
        _base_init(plain, self._inet, _SOCK_STREAM, proto, fd)
        self.detach()
        plain.settimeout(timeout)
        return plain

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Lets multiprocessing send the socket to another process, and nobody else."""
        # ForkingPickler has no reducer for this class; that of socket.socket makes a
        # socket.socket there.
        reduction = sys.modules.get("multiprocessing.reduction")
        if reduction is None or sys._getframe(1).f_globals is not vars(reduction):
            return super().__reduce_ex__(protocol)
        state = self._family, self._inet, self._proto, self._is_tcp
        return self._rebuilder(), (reduction.DupFd(self.fileno()), *state)

    def _rebuilder(self) -> Callable[..., socket]:
        return _rebuild

    @classmethod
    def _rebuild(
        cls, duplicate: Any, family: int, inet: _stdlib.AddressFamily, proto: int, is_tcp: bool
    ) -> socket:
        new = cls.__new__(cls)
        new._family, new._inet, new._proto, new._is_tcp = family, inet, proto, is_tcp
        new._adopt(duplicate.detach(), _SOCK_STREAM)
        return new


_smcsock.present(socket, tuple((*asked, *presented) for asked, presented in _PRESENTATIONS.items()))

# What is raised of wrong arguments names the method that was called.
socket._init.__qualname__ = "socket.__init__"


def _rebuild(*state: Any) -> socket:
    """In the process that receives a socket from another one."""
    return socket._rebuild(*state)


def fromfd(fd: int, *, fallback: Fallback | None = None) -> socket:
    """A socket for a duplicate of an SMC descriptor, which stays open.

    Raises ValueError if it is no SMC socket; see the class for what is recognised
    and how it presents itself.
    """
    new = os.dup(fd)
    try:
        return socket(fileno=new, fallback=fallback)
    except BaseException:
        os.close(new)
        raise


def smc_info(sock: _stdlib.socket | int) -> SmcInfo:
    """What a socket is, of whatever class, or a descriptor: as smcsock.socket.smc_info().

    A plain TCP connection is Mode.TCP without a reason. Raises ValueError for what is
    neither SMC nor TCP, OSError (EBADF) when it is closed.
    """
    with fromfd(sock if isinstance(sock, int) else sock.fileno(), fallback="tcp") as same:
        return same.smc_info()
