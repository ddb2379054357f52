"""What require_smc asks for besides: no way round it.

A connection that was made without blocking is looked at when it is first used, and its
descriptor when somebody asks for it. That takes a method in front of those that move
data; they are put there when SMC is first required, and stay.
"""

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

from .. import _plain, _smcsock
from .._errors import FallbackError
from .._socket import socket as smcsock_socket
from . import _files, _settings
from ._settings import Settings

__all__ = ["METHODS", "refuse_stranger", "watch"]

_Method: TypeAlias = Callable[..., Any]

_MSG_FASTOPEN = 0x20000000

_PAST = (
    "SMC was required but this is a TCP socket that was not opened through socket.socket, "
    "or before smcsock was installed"
)
_FAST_OPEN = "SMC was required: MSG_FASTOPEN connects over TCP"


def _use(before: _Method) -> _Method:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        file = _files.of(self)
        if file is not None:
            _files.check(self, file)
        return before(self, *args, **kwargs)

    return method


def _send(before: _Method) -> _Method:
    use = _use(before)

    def method(self: Any, *args: Any) -> Any:
        if any(isinstance(arg, int) and arg & _MSG_FASTOPEN for arg in args[1:]):
            file = _files.of(self)
            if file is not None and file.must_be_smc and file.unmade:
                raise FallbackError(_FAST_OPEN)
        return use(self, *args)

    return method


def _fileno(before: _Method) -> _Method:
    def fileno(self: Any) -> int:
        file = _files.of(self)
        if file is not None:
            _files.conclude(self, file)  # a refused connection is of no use to anybody
        return int(before(self))

    return fileno


METHODS: dict[str, Callable[[_Method], _Method]] = {
    "fileno": _fileno,
    "getpeername": _use,
    "recv": _use,
    "recv_into": _use,
    "recvfrom": _use,
    "recvfrom_into": _use,
    "recvmsg": _use,
    "recvmsg_into": _use,
    "send": _send,
    "sendall": _send,
    "sendmsg": _send,
    "sendto": _send,
}


# ---- Sockets that nothing was known of

_EVENTS = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg")
"""The last two as MSG_FASTOPEN connects."""

_is_watching = False


def watch() -> None:
    """Lets no socket connect or serve by TCP that was opened past smcsock, as those of gevent."""
    global _is_watching
    if not _is_watching:
        _is_watching = True
        sys.addaudithook(_look)


def _look(event: str, args: tuple[Any, ...]) -> None:
    if event in _EVENTS and args[1] is not None:
        settings = _settings.current
        if settings is not None and settings.require_smc:
            _refuse_unknown(args[0], args[1], settings)


def refuse_stranger(sock: Any) -> None:
    """FallbackError of a socket that is to listen though it has to be SMC, and is not."""
    settings = _settings.current
    if settings is not None and settings.require_smc:
        try:
            address = _plain.getsockname(sock)
        except OSError:
            return  # closed
        _refuse_unknown(sock, address, settings)


def _refuse_unknown(sock: Any, address: Any, settings: Settings) -> None:
    if isinstance(sock, smcsock_socket) or type(sock) is _plain.socket:
        return  # whoever takes the C type by its name knows what it is
    if _files.of(sock) is not None:
        return
    try:
        _, domain, kind, protocol = _smcsock.identify(_plain.fileno(sock))
    except OSError:
        return  # closed
    if kind != _plain.SOCK_STREAM or protocol not in _plain.TCP_PROTOCOLS:
        return
    if settings.only is None or settings.only.matches(address, domain):
        raise FallbackError(_PAST, address)
