"""The options of a socket, for another one that takes its place."""

import contextlib
import os
import socket as _stdlib
import struct
from typing import Any, TypeAlias

from . import _plain, _smcsock

__all__ = [
    "OF_INET",
    "OF_INET6",
    "TCP_FASTOPEN_NO_COOKIE",
    "Values",
    "become_hollow",
    "locked_buffers",
    "replace",
    "set_values",
    "values",
]

_close = os.close  # programs put others in its place

TCP_FASTOPEN_NO_COOKIE = 34
"""Set on an SMC socket that is not connected it leaves the TCP socket inside in its place."""

_SO_BUF_LOCK = 72  # Linux 5.14

Values: TypeAlias = dict[tuple[int, int], int | bytes]

_INT = struct.calcsize("i")
_TIME = struct.calcsize("ll")
_LINGER = struct.calcsize("ii")
_NAME = 16  # of a device, of a congestion control

# What Linux lets be read and set again, and its size in bytes. The rest cannot be read
# (filters, MD5 keys) or has no meaning before there is a connection.
_SOL_SOCKET = {
    _stdlib.SO_REUSEADDR: _INT,
    _stdlib.SO_REUSEPORT: _INT,
    _stdlib.SO_KEEPALIVE: _INT,
    _stdlib.SO_BROADCAST: _INT,
    _stdlib.SO_DONTROUTE: _INT,
    _stdlib.SO_OOBINLINE: _INT,
    _stdlib.SO_LINGER: _LINGER,
    _stdlib.SO_PRIORITY: _INT,
    _stdlib.SO_MARK: _INT,
    _stdlib.SO_RCVLOWAT: _INT,
    _stdlib.SO_RCVTIMEO: _TIME,
    _stdlib.SO_SNDTIMEO: _TIME,
    _stdlib.SO_BINDTODEVICE: _NAME,
    _stdlib.SO_INCOMING_CPU: _INT,
    11: _INT,  # SO_NO_CHECK
    29: _INT,  # SO_TIMESTAMP
    35: _INT,  # SO_TIMESTAMPNS
    40: _INT,  # SO_RXQ_OVFL
    45: _INT,  # SO_SELECT_ERR_QUEUE
    46: _INT,  # SO_BUSY_POLL
    47: _INT,  # SO_MAX_PACING_RATE
}
_OTHERS = {
    (_stdlib.IPPROTO_TCP, option): size
    for option, size in {
        _stdlib.TCP_NODELAY: _INT,
        _stdlib.TCP_MAXSEG: _INT,
        _stdlib.TCP_CORK: _INT,
        _stdlib.TCP_KEEPIDLE: _INT,
        _stdlib.TCP_KEEPINTVL: _INT,
        _stdlib.TCP_KEEPCNT: _INT,
        _stdlib.TCP_SYNCNT: _INT,
        _stdlib.TCP_LINGER2: _INT,
        _stdlib.TCP_DEFER_ACCEPT: _INT,
        _stdlib.TCP_WINDOW_CLAMP: _INT,
        _stdlib.TCP_QUICKACK: _INT,
        _stdlib.TCP_CONGESTION: _NAME,
        _stdlib.TCP_USER_TIMEOUT: _INT,
        _stdlib.TCP_NOTSENT_LOWAT: _INT,
        27: _INT,  # TCP_SAVE_SYN
    }.items()
} | {
    (_stdlib.IPPROTO_IP, option): _INT
    for option in (
        _stdlib.IP_TOS,
        _stdlib.IP_TTL,
        _stdlib.IP_RECVTOS,
        _stdlib.IP_TRANSPARENT,
        10,  # IP_MTU_DISCOVER
        11,  # IP_RECVERR
        15,  # IP_FREEBIND
        21,  # IP_MINTTL
        24,  # IP_BIND_ADDRESS_NO_PORT
    )
}
_IPV6 = {
    (_stdlib.IPPROTO_IPV6, option): _INT
    for option in (
        _stdlib.IPV6_V6ONLY,
        _stdlib.IPV6_UNICAST_HOPS,
        _stdlib.IPV6_TCLASS,
        _stdlib.IPV6_DONTFRAG,
        23,  # IPV6_MTU_DISCOVER
        25,  # IPV6_RECVERR
        78,  # IPV6_FREEBIND
    )
}
OF_SOL_SOCKET = {(_stdlib.SOL_SOCKET, option): size for option, size in _SOL_SOCKET.items()}
OF_INET = OF_SOL_SOCKET | _OTHERS
OF_INET6 = OF_INET | _IPV6


def become_hollow(sock: Any) -> None:
    """Makes an SMC socket the TCP socket inside it: a client's, with all its registrations.

    Not for a listener: nothing would wake who reads from what it accepts. Raises OSError if
    it is connected.
    """
    before = values(sock, OF_SOL_SOCKET)
    _plain.setsockopt(sock, _stdlib.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 0)
    set_values(sock, before)


def replace(sock: Any, fd: int, *, is_bound: bool = True, is_shared: bool = False) -> None:
    """Puts the file of a new descriptor, which is closed, in the place of a socket's own.

    With the options, and, with ``is_bound``, bound as that one is: a connect() that came to
    nothing has given it a port, too. With ``is_shared`` other processes have the file as well,
    and may do the same: all share the port.
    """
    address = _plain.local_address(sock)
    family = _plain.AF_INET if len(address) == 2 else _plain.AF_INET6
    try:
        fresh = _plain.socket(family, _plain.SOCK_STREAM, 0, fd)
    except BaseException:
        _close(fd)
        raise
    try:
        set_values(fresh, values(sock, OF_INET6 if family == _stdlib.AF_INET6 else OF_INET))
        if is_shared:
            _plain.setsockopt(fresh, _stdlib.SOL_SOCKET, _stdlib.SO_REUSEPORT, 1)
        # While the old one has the port this takes SO_REUSEADDR at both, as servers have it.
        is_to_be_bound = is_bound and address[1] != 0 and not _binds(fresh, address)
        _smcsock.replace(sock, fd)
        if is_to_be_bound:
            _plain.bind(fresh, address)
    finally:
        fresh.close()


def _binds(sock: Any, address: Any) -> bool:
    try:
        _plain.bind(sock, address)
    except OSError:
        return False
    return True


def locked_buffers(sock: Any) -> int:
    """Which sizes of buffers were set: bit 0 for SO_SNDBUF, bit 1 for SO_RCVBUF."""
    locked = _get(sock, (_stdlib.SOL_SOCKET, _SO_BUF_LOCK), _INT) or 0
    assert isinstance(locked, int)
    return locked


def values(sock: Any, known: dict[tuple[int, int], int]) -> Values:
    """The values of options, without those that this socket does not have."""
    found = {option: _get(sock, option, size) for option, size in known.items()}
    locked = locked_buffers(sock)
    for bit, option in ((1, _stdlib.SO_SNDBUF), (2, _stdlib.SO_RCVBUF)):
        size = _get(sock, (_stdlib.SOL_SOCKET, option), _INT) if locked & bit else None
        # The kernel doubles what is set.
        found[_stdlib.SOL_SOCKET, option] = size // 2 if isinstance(size, int) else None
    return {option: value for option, value in found.items() if value is not None}


def set_values(sock: Any, wanted: Values) -> None:
    """Sets the options that differ; what may not be set again stays as it is."""
    present = values(sock, {option: OF_INET6[option] for option in wanted if option in OF_INET6})
    for option, value in wanted.items():
        if present.get(option) != value:
            with contextlib.suppress(OSError):
                _plain.setsockopt(sock, *option, value)


def _get(sock: Any, option: tuple[int, int], size: int) -> int | bytes | None:
    try:
        value: int | bytes = _plain.getsockopt(sock, *option, *([] if size == _INT else [size]))
    except OSError:
        return None
    return value
