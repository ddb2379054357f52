"""How sockets are opened, adopted and given up."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from socket import SO_ACCEPTCONN, SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET
from typing import Any, Final, TypeAlias

from .. import _plain, _smcsock
from .._opening import SANDBOXED, Opening, had_smc
from .._smcsock import AF_SMC, IPPROTO_SMC
from .._socket import open_socket
from .._socket import socket as smcsock_socket
from . import _files, _options, _places, _settings
from ._files import File
from ._report import NO_SMC, NOT_SELECTED
from ._settings import Settings

__all__ = ["ENDINGS", "METHODS", "stranger"]

_Method: TypeAlias = Callable[..., Any]

_known = _files.known
_members = _places.members

_close = os.close
_socket_init: Any = _plain.socket.__init__

_OPENINGS = (Opening, type(_smcsock.opening(0, 0)))

_SOCK_STREAM: Final = int(_plain.SOCK_STREAM)
_AF_INET, _AF_INET6 = _INET = (_plain.AF_INET, _plain.AF_INET6)
_WANT_OF_SMC = (errno.EAFNOSUPPORT, *SANDBOXED)
_FAMILIES = (*_INET, -1)
_TCP_PROTOS = (0, -1, _plain.IPPROTO_TCP)
_TYPE_FLAGS = SOCK_NONBLOCK | SOCK_CLOEXEC

_HANDED_OVER = "its socket was opened elsewhere"


def _init(before: _Method) -> _Method:
    if not _places.is_standard(before):
        return _init_of_program(before)

    # Of the standard library's own no more is called than it calls itself.
    def __init__(  # noqa: N807
        self: Any, family: Any = -1, type: Any = -1, proto: Any = -1, fileno: Any = None
    ) -> None:
        settings = _settings.current
        if fileno is not None:
            if not _known and (settings is None or (settings.is_simple and proto != -1)):
                _socket_init(self, family, type, proto, fileno)
                self._io_refs = 0
                self._closed = False
            else:
                _adopt(before, self, family, type, proto, fileno, settings)
        elif settings is None or not (
            (type == _SOCK_STREAM and family in _FAMILIES and proto in _TCP_PROTOS)
            or _is_tcp(family, type, proto)
        ):
            before(self, family, type, proto)
        else:
            _open(
                self,
                _AF_INET if family == -1 else family,
                _SOCK_STREAM if type == -1 else type,
                0 if proto == -1 else proto,
                settings,
            )

    return __init__


def _open(self: Any, family: int, type: int, proto: int, settings: Settings) -> None:
    if len(_members) != _places.size:
        _places.mend()
    is_tcp = False
    try:
        if not had_smc():
            is_tcp = _open_slowly(self, family, type, proto, settings)
        else:
            try:
                opening = _smcsock.opening(type, 1 if family == _AF_INET6 else 0)
                _socket_init(self, family, type, proto, opening)
            except OSError as error:
                if error.errno not in _WANT_OF_SMC:
                    raise
                is_tcp = _open_slowly(self, family, type, proto, settings)
    except BaseException:
        fd = _plain.detach(self)
        if fd >= 0:
            _close(fd)
        raise
    self._io_refs = 0
    self._closed = False
    if not settings.is_simple:
        _opened(self, settings, is_tcp)


def _open_slowly(self: Any, family: int, type: int, proto: int, settings: Settings) -> bool:
    """Whether it is a TCP socket, for want of SMC in the kernel."""
    is_tcp = False

    def open_fd() -> int:
        nonlocal is_tcp
        fd, is_tcp = open_socket(type, family, proto, settings.fallback)
        return fd

    _socket_init(self, family, type, proto, Opening(open_fd))
    return is_tcp


def _opened(sock: Any, settings: Settings, is_tcp: bool) -> None:
    file = File(settings, NO_SMC if is_tcp else "")
    _files.add(_smcsock.inode(sock), file, sock)


def _init_of_program(before: _Method) -> _Method:
    """Over an __init__() of the program's: that is asked as ever, and may set options."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        before(self, *args, **kwargs)
        settings = _settings.current
        if settings is None and not _known:
            return
        try:
            identity = _smcsock.identify(_plain.fileno(self))
        except OSError:
            return
        is_adopted = len(args) > 3 or kwargs.get("fileno") is not None
        if not is_adopted and settings is not None and _is_unused_tcp(self, *identity):
            _take(self, settings)
        else:
            _recognise(self, *identity, settings)

    return __init__


def _is_unused_tcp(sock: Any, inode: int, domain: int, kind: int, protocol: int) -> bool:
    """Whether SMC can take the place of a socket."""
    if inode in _known or kind != _plain.SOCK_STREAM or protocol != _plain.IPPROTO_TCP:
        return False
    if _plain.getsockopt(sock, SOL_SOCKET, SO_ACCEPTCONN):
        return False
    try:
        _plain.getpeername(sock)
    except OSError:
        return domain in _INET
    return False


def _take(sock: Any, settings: Settings) -> None:
    """Takes an SMC socket in the place of a new TCP socket."""
    try:
        fd, is_tcp = open_socket(_plain.SOCK_STREAM, _plain.family_of(sock), 0, settings.fallback)
        if is_tcp:
            _close(fd)
        else:
            _options.exchange(sock, fd)
    except BaseException:
        _plain.close(sock)
        raise
    if not settings.is_simple:
        _opened(sock, settings, is_tcp)


def _is_tcp(family: Any, type: Any, proto: Any) -> bool:
    """Whether a socket of TCP is asked for; False for what __init__() is to refuse."""
    try:
        return (
            family in _FAMILIES
            and (type == _SOCK_STREAM or type == -1 or type & ~_TYPE_FLAGS == _SOCK_STREAM)
            and proto in _TCP_PROTOS
        )
    except TypeError:
        return False


def _adopt(
    before: _Method,
    self: Any,
    family: Any,
    type: Any,
    proto: Any,
    fileno: Any,
    settings: Settings | None,
) -> None:
    """A socket for a descriptor from elsewhere: accept(), dup(), ssl, another process."""
    if isinstance(fileno, _OPENINGS):
        before(self, family, type, proto, fileno)
        return
    try:
        inode, domain, kind, protocol = _smcsock.identify(fileno)
    except (OSError, OverflowError, TypeError):
        inode = domain = kind = protocol = -1  # for __init__() to refuse
    is_smc = domain == AF_SMC or protocol == IPPROTO_SMC
    if is_smc and proto == -1:
        proto = _plain.IPPROTO_TCP  # as it reads from a TCP socket
    before(self, family, type, proto, fileno)
    _recognise(self, inode, domain, kind, protocol, settings)


def stranger(sock: Any, settings: Settings) -> File | None:
    """What is to be known of a socket that was opened past __init__(), or before it was ours."""
    if isinstance(sock, smcsock_socket):
        return None
    try:
        _recognise(sock, *_smcsock.identify(_plain.fileno(sock)), settings)
    except OSError:
        return None
    return _files.of(sock)


def _recognise(
    sock: Any, inode: int, domain: int, kind: int, protocol: int, settings: Settings | None
) -> None:
    """Looks whether something is known of an adopted socket, or should be."""
    file = _files.at(inode)
    if file is None and settings is not None and kind == _plain.SOCK_STREAM:
        is_smc = domain == AF_SMC or protocol == IPPROTO_SMC
        if is_smc or (domain in _INET and protocol in _plain.TCP_PROTOCOLS):
            file = _found(sock, inode, is_smc, settings)
    if file is not None:
        _files.add(inode, file, sock)


def _found(sock: Any, inode: int, is_smc: bool, settings: Settings) -> File | None:
    """A stream socket that nothing was known of. If it is TCP, it may not have to be SMC."""
    if settings.is_simple or not (is_smc or settings.require_smc or settings.report):
        return None
    file = File(settings, "" if is_smc else _HANDED_OVER)
    try:
        peer = _plain.getpeername(sock)
    except OSError:
        peer = None
    if not is_smc and settings.only is not None:
        try:
            address = peer or _plain.getsockname(sock)
        except OSError:
            return None
        if not file.selects(address, sock):
            file.note = NOT_SELECTED
    if peer is not None:  # its maker has counted it
        file.unmade.clear()
        file.note = NOT_SELECTED if file.note == NOT_SELECTED else ""  # it may have fallen back
        if file.must_be_smc and _files.fell_back(sock):
            _files.refuse(sock, inode, file, peer)
    return file


def _detach(before: _Method) -> _Method:
    def detach(self: Any) -> int:
        file = _files.of(self)
        if file is None:
            return int(before(self))
        _files.conclude(self, file)
        inode = _smcsock.inode(self)
        fd = int(before(self))
        _files.forget(inode, self, is_closed=False)
        return fd

    return detach


def _real_close(before: _Method) -> _Method:
    def _real_close(self: Any) -> None:
        file = _files.of(self) if _known else None
        if file is None:
            before(self)
            return
        inode = _smcsock.inode(self)
        try:
            _files.ending(self, inode, file)
        finally:
            try:
                before(self)
            finally:
                _files.forget(inode, self, is_closed=True)

    return _real_close


METHODS = {"__init__": _init}
ENDINGS = {"detach": _detach, "_real_close": _real_close}
