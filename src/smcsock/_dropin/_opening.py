"""How sockets are opened, adopted and given up."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from socket import SOCK_CLOEXEC, SOCK_NONBLOCK
from typing import Any, TypeAlias

from .. import _smcsock
from .._opening import SANDBOXED, Opening, had_smc
from .._smcsock import AF_SMC, IPPROTO_SMC
from .._socket import open_socket
from . import _files, _plain, _settings
from ._files import File
from ._report import NO_SMC, NOT_SELECTED
from ._settings import Settings

__all__ = ["METHODS"]

_Method: TypeAlias = Callable[..., Any]

_known = _files.known

_close = os.close

_OPENINGS = (Opening, type(_smcsock.opening(0, 0)))

_INET = (_plain.AF_INET, _plain.AF_INET6)
_TCP_PROTOS = (-1, 0, _plain.IPPROTO_TCP)
_TYPE_FLAGS = SOCK_NONBLOCK | SOCK_CLOEXEC


def _init(before: _Method) -> _Method:
    def __init__(  # noqa: N807
        self: Any, family: Any = -1, type: Any = -1, proto: Any = -1, fileno: Any = None
    ) -> None:
        settings = _settings.current
        if fileno is not None:
            if not _known and (settings is None or (settings.is_simple and proto != -1)):
                before(self, family, type, proto, fileno)
            else:
                _adopt(before, self, family, type, proto, fileno, settings)
        elif settings is None or not _is_tcp(family, type, proto):
            before(self, family, type, proto)
        else:
            family = _plain.AF_INET if family == -1 else family
            type = _plain.SOCK_STREAM if type == -1 else type
            _open(before, self, family, type, 0 if proto == -1 else proto, settings)

    return __init__


def _open(
    before: _Method, self: Any, family: int, type: int, proto: int, settings: Settings
) -> None:
    is_tcp = False
    try:
        if not had_smc():
            is_tcp = _open_slowly(before, self, family, type, proto, settings)
        else:
            opening = _smcsock.opening(type, 1 if family == _plain.AF_INET6 else 0)
            try:
                before(self, family, type, proto, opening)
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, *SANDBOXED):
                    raise
                is_tcp = _open_slowly(before, self, family, type, proto, settings)
    except BaseException:
        fd = _plain.detach(self)
        if fd >= 0:
            _close(fd)
        raise
    if not settings.is_simple:
        file = File(settings, NO_SMC if is_tcp else "")
        _files.add(_smcsock.inode(self), file, self)


def _open_slowly(
    before: _Method, self: Any, family: int, type: int, proto: int, settings: Settings
) -> bool:
    """Whether it is a TCP socket, for want of SMC in the kernel."""
    is_tcp = False

    def open_fd() -> int:
        nonlocal is_tcp
        fd, is_tcp = open_socket(type, family, proto, settings.fallback)
        return fd

    before(self, family, type, proto, Opening(open_fd))
    return is_tcp


def _is_tcp(family: Any, type: Any, proto: Any) -> bool:
    """Whether a socket of TCP is asked for; False for what __init__() is to refuse."""
    try:
        is_stream = type == -1 or type & ~_TYPE_FLAGS == _plain.SOCK_STREAM
        return is_stream and family in (-1, *_INET) and proto in _TCP_PROTOS
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
    file = _files.at(inode)
    is_stream = kind == _plain.SOCK_STREAM
    is_tcp = is_stream and domain in _INET and protocol == _plain.IPPROTO_TCP
    if file is None and settings is not None and ((is_stream and is_smc) or is_tcp):
        file = _found(self, inode, is_smc, settings)
    if file is not None:
        _files.add(inode, file, self)


def _found(sock: Any, inode: int, is_smc: bool, settings: Settings) -> File | None:
    """A stream socket that nothing was known of. If it is TCP, it may not have to be SMC."""
    if settings.is_simple or (not is_smc and not settings.require_smc):
        return None
    file = File(settings)
    try:
        peer = _plain.getpeername(sock)
    except OSError:
        peer = None
    if not is_smc and settings.only is not None:
        try:
            address = peer or _plain.getsockname(sock)
        except OSError:
            return None
        if not settings.only.matches(address, _plain.family_of(sock)):
            file.note = NOT_SELECTED
    if peer is not None:  # its maker has counted it
        file.unmade.clear()
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


METHODS = {"__init__": _init, "detach": _detach, "_real_close": _real_close}
