"""connect(), and what SMC needs besides: handshakes that a signal ended, errors that are lost."""

import errno
from collections.abc import Callable
from socket import SO_ERROR, SO_REUSEPORT, SOL_SOCKET
from typing import Any, TypeAlias

from .. import _plain, _smcsock
from .._errors import HandshakeInterruptedError
from .._socket import lost_error
from . import _files, _options, _settings
from ._files import File
from ._opening import stranger
from ._report import NOT_SELECTED

__all__ = ["METHODS"]

_Method: TypeAlias = Callable[..., Any]

_known = _files.known

_FOREVER = 1e6
"""Seconds."""

_NOT_OF_SMC = (errno.EOPNOTSUPP, 524)  # ENOTSUPP, which is the kernel's own

_CANNOT_SHARE = "this kernel's SMC sockets cannot share a port"

# To the kernel each of them is a reason to be TCP, and a listener that became TCP that way
# accepts connections whose readers nobody wakes. They save a round trip, no more.
_FAST_OPEN = {
    (_plain.IPPROTO_TCP, option)
    for option in (
        23,  # TCP_FASTOPEN
        30,  # TCP_FASTOPEN_CONNECT
        33,  # TCP_FASTOPEN_KEY
        34,  # TCP_FASTOPEN_NO_COOKIE
    )
}


def _connect(before: _Method) -> _Method:
    ask = _smcsock.connect if before is _plain.socket.connect else _patiently(before)

    def connect(self: Any, *args: Any) -> None:
        if len(args) != 1:
            before(self, *args)  # which knows what to say
        (address,) = args
        file = _files.of(self) if _known else None
        if file is None:
            settings = _settings.current
            if settings is None:
                before(self, address)
                return
            file = _counted(self, settings)
        if file is not None:
            _files.check(self, file)
            _decide(self, file, address)
        while True:
            try:
                ask(self, address)
                break
            except HandshakeInterruptedError as error:
                if error.was_bound or not _files.is_of_program(self):
                    raise  # the port may be another's by the time that it is bound again
                _options.renew(self)
        if file is not None:
            _files.made(self, _smcsock.inode(self), file, address)
            _files.check(self, file)

    return connect


def _counted(sock: Any, settings: _settings.Settings) -> File | None:
    """What a report counts of a socket that nothing is known of; with require_smc it is refused."""
    if settings.report is None or settings.require_smc:
        return None
    return stranger(sock, settings)


def _connect_ex(before: _Method) -> _Method:
    ask = _smcsock.connect_ex if before is _plain.socket.connect_ex else _patiently(before)

    def connect_ex(self: Any, *args: Any) -> int:
        if len(args) != 1:
            before(self, *args)
        (address,) = args
        file = _files.of(self) if _known else None
        if file is None:
            settings = _settings.current
            if settings is None:
                return int(before(self, address))
            file = _counted(self, settings)
        if file is not None:
            _files.conclude(self, file)
            _decide(self, file, address)
        may_renew = _plain.gettimeout(self) is None and _is_unbound_smc(self)
        outcome = ask(self, address)
        while outcome == errno.EINTR and may_renew:
            _options.renew(self)
            outcome = ask(self, address)
        if file is not None:
            if outcome == 0:
                _files.made(self, _smcsock.inode(self), file, address)
            if file.refusal is not None:
                return errno.EPROTONOSUPPORT
        return int(outcome)

    return connect_ex


def _patiently(before: _Method) -> _Method:
    """Somebody else's connect(), which ends with that of the standard library.

    That one would wait for ever when a signal has ended the handshake. With a timeout
    the kernel shakes hands on its own; and has no error for some that fail.
    """

    def ask(sock: Any, address: Any) -> Any:
        if not _files.is_of_program(sock):
            return before(sock, address)
        is_blocking = _plain.gettimeout(sock) is None
        if is_blocking:
            _plain.settimeout(sock, _FOREVER)
        try:
            outcome = before(sock, address)
        finally:
            if is_blocking:
                _plain.settimeout(sock, None)
        if outcome:
            return outcome
        try:
            _plain.getpeername(sock)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
            if outcome is not None:
                return errno.ECONNABORTED
            raise OSError(errno.ECONNABORTED, _ABORTED) from None
        return outcome

    return ask


_ABORTED = "the connection came to nothing, and the kernel kept no reason"


def _decide(sock: Any, file: File, address: Any) -> None:
    """Becomes TCP if the address is not selected."""
    if file.is_hollow or not file.unmade:
        return
    if file.selects(address, sock):
        if not file.note:
            _options.limit_buffers(sock, file)
    elif file.note:
        file.note = NOT_SELECTED
    else:
        try:
            _options.become_hollow(sock, file, NOT_SELECTED)
        except OSError as error:
            if error.errno != errno.EINVAL:  # it connects already
                raise


def _is_unbound_smc(sock: Any) -> bool:
    """Whether a new SMC socket may take the place of one whose handshake a signal has ended."""
    return _files.is_of_program(sock) and not _plain.local_address(sock)[1]


def _setsockopt(before: _Method) -> _Method:
    def setsockopt(self: Any, *args: Any) -> None:
        if args[:2] in _FAST_OPEN:
            file = _files.of_smc(self)
            if file is not None and not file.note:
                return
        try:
            before(self, *args)
        except OSError as error:
            file = _files.of_smc(self) if error.errno in _NOT_OF_SMC else None
            if file is None or file.note or not file.unmade:
                raise
            if args[:2] == (SOL_SOCKET, SO_REUSEPORT):
                _share_port(self, file, error)
            elif file.settings.only is None or file.settings.require_smc:
                raise
            else:  # who knows whether its address will be selected
                note = f"its option {args[:2]} is none of SMC: {error.strerror}"
                _options.become_hollow(self, file, note)
            before(self, *args)

    return setsockopt


def _share_port(sock: Any, file: File, refused: OSError) -> None:
    """Becomes a socket that can share its port: of IPPROTO_SMC, or TCP before Linux 6.11."""
    try:
        _options.share_port(sock)
    except OSError:
        if file.settings.require_smc:
            raise refused from None
        _options.become_tcp(sock, file, _CANNOT_SHARE)


def _getsockopt(before: _Method) -> _Method:
    def getsockopt(self: Any, level: int, optname: int, *buflen: int) -> Any:
        value = before(self, level, optname, *buflen)
        if value == 0 and optname == SO_ERROR and level == SOL_SOCKET:
            return _error_of(self)
        return value

    return getsockopt


def _error_of(sock: Any) -> int:
    """SO_ERROR, with what SMC loses; and who reads it need not expect an exception."""
    file = _files.of(sock)
    if file is not None:
        _files.conclude(sock, file)
        if file.refusal is not None:
            return errno.EPROTONOSUPPORT
        return lost_error(sock) if file.unmade and not file.note else 0
    is_smc = _settings.current is not None and _files.is_of_program(sock)
    return lost_error(sock) if is_smc else 0


METHODS = {
    "connect": _connect,
    "connect_ex": _connect_ex,
    "getsockopt": _getsockopt,
    "setsockopt": _setsockopt,
}
