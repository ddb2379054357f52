"""listen() and accept(), and shutdown(), which ends an accept() that waits."""

import errno
import os
from collections import deque
from collections.abc import Callable
from socket import SO_ACCEPTCONN, SOL_SOCKET
from typing import Any, TypeAlias

from .. import _plain, _smcsock
from .._errors import FallbackError
from . import _files, _options, _places, _required, _settings
from ._files import File
from ._opening import stranger
from ._report import NOT_SELECTED

__all__ = ["METHODS"]

_Method: TypeAlias = Callable[..., Any]

_known = _files.known

_close = os.close


def _listen(before: _Method) -> _Method:
    def listen(self: Any, *args: Any) -> None:
        file = _files.of(self)
        if file is not None:
            file.has_ended = False
            if file.unmade and not _is_listening(self):
                _decide(self, file)
        elif _settings.current is not None:
            _places.mend()
            _required.refuse_stranger(self)
        before(self, *args)

    return listen


def _decide(sock: Any, file: File) -> None:
    """Becomes TCP if the socket's own address, which it now has, is not selected."""
    is_selected = file.selects(_plain.local_address(sock), sock)
    if file.is_hollow:
        _options.become_tcp(sock, file, file.note)
    elif not is_selected and not file.note:
        _options.become_tcp(sock, file, NOT_SELECTED)
    elif not is_selected:
        file.note = NOT_SELECTED
    elif not file.note:
        _options.limit_buffers(sock, file)


def _is_listening(sock: Any) -> bool:
    return bool(_plain.getsockopt(sock, SOL_SOCKET, SO_ACCEPTCONN))


def _accept(before: _Method) -> _Method:
    ask = _smcsock.accept if before is _plain.accept else before

    def _accept(self: Any) -> tuple[int, Any]:
        file = _files.of(self) if _known else None
        if file is None:
            settings = _settings.current
            if settings is not None and not settings.is_simple:
                file = stranger(self, settings)
            if file is None:
                result: tuple[int, Any] = before(self) if settings is None else ask(self)
                return result
        if file.has_ended:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fd, address = ask(self)
        if file.has_ended:
            _close(fd)
            _wake(self)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        try:
            _made(file, fd, address)
        except BaseException:
            _close(fd)
            raise
        return fd, address

    return _accept


def _made(listener: File, fd: int, peer: Any) -> None:
    """There is a connection; ConnectionAbortedError, which servers know, if it is refused."""
    settings = listener.settings
    if settings.report is None and not settings.require_smc:
        return  # there is nothing to be known of it
    inode, *_, protocol = _smcsock.identify(fd)
    if _files.at(inode) is not None:
        return  # a program's own _accept(), put over ours, has ours over it as well
    file = File(settings, listener.note)
    _files.accepted(inode, file, peer, is_tcp=protocol in _plain.TCP_PROTOCOLS)
    if file.refusal is not None:
        error = FallbackError(*file.refusal)
        error.errno = errno.ECONNABORTED
        raise error
    _files.add(inode, file)


def _shutdown(before: _Method) -> _Method:
    def shutdown(self: Any, *args: Any) -> None:
        if len(args) != 1:
            before(self, *args)  # which knows what to say
        (how,) = args
        file = _files.of(self)
        if file is not None:
            _files.ending(self, _smcsock.inode(self), file)
            _files.check(self, file)
        try:
            before(self, how)
        except OSError as error:
            if error.errno != errno.ENOTCONN or not _is_listening(self):
                raise
            file = _files.of_smc(self)
            if file is None:
                raise
            if how != _plain.SHUT_WR:  # which over TCP does nothing to a listener
                file.has_ended = True
                _wake(self)

    return shutdown


def _wake(listener: Any) -> None:
    """Lets an accept() that waits come back: the kernel leaves it where it is.

    By a connection. Who accepts it throws it away, and wakes the next one; what nobody
    accepts ends with the listener.
    """
    try:
        address = _plain.local_address(listener)
        sock = _waker(_plain.family_of(listener))
        sock.setblocking(False)
        sock.connect_ex(address)
    except OSError:
        return  # it was closed meanwhile
    _wakers.append(sock)
    if len(_wakers) > _MANY:
        _wakers.popleft().close()


def _waker(family: int) -> Any:
    try:
        return _plain.socket(family)
    except OSError as error:
        if error.errno != errno.EPROTONOSUPPORT:
            raise
    # TCP is forbidden to this process ('run --require-smc --children').
    fd = _smcsock.socket(_plain.SOCK_STREAM, int(family == _plain.AF_INET6))
    return _plain.socket(family, _plain.SOCK_STREAM, 0, fd)


_MANY = 16

_wakers: deque[Any] = deque()
"""The last that were needed. An SMC connection that is closed too early is never accepted."""


METHODS = {"_accept": _accept, "listen": _listen, "shutdown": _shutdown}
