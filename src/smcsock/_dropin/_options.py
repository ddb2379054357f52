"""A socket becomes another one under the same descriptor, and keeps its options."""

import os
import socket as _stdlib
import struct
from typing import Any, TypeAlias

from .. import _smcsock
from .._opening import open_ipproto_smc
from . import _plain
from ._files import File, move

__all__ = ["become_hollow", "become_smc", "become_tcp", "limit_buffers"]

_close = os.close

TCP_FASTOPEN_NO_COOKIE = 34
_SO_BUF_LOCK = 72  # Linux 5.14; 1: SO_SNDBUF was set, 2: SO_RCVBUF

_Values: TypeAlias = dict[tuple[int, int], int | bytes]

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
    (_plain.IPPROTO_TCP, option): size
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
_OF_SOL_SOCKET = {(_stdlib.SOL_SOCKET, option): size for option, size in _SOL_SOCKET.items()}
_OF_INET = _OF_SOL_SOCKET | _OTHERS
_OF_INET6 = _OF_INET | _IPV6


def become_hollow(sock: Any, file: File, note: str) -> None:
    """Becomes the TCP socket inside the SMC socket: a client's, with all its registrations.

    Not for a listener: nothing would wake who reads from what it accepts.
    """
    before = _values(sock, _OF_SOL_SOCKET)
    _plain.setsockopt(sock, _plain.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 0)
    _set(sock, before, _values(sock, _OF_SOL_SOCKET))
    file.note, file.is_hollow = note, True


def become_tcp(sock: Any, file: File, note: str) -> None:
    """Becomes a TCP socket bound as this one is: another file."""
    _replace(sock, _smcsock.socket(_plain.SOCK_STREAM, 0, _plain.family_of(sock)))
    file.note, file.is_hollow = note, False


def become_smc(sock: Any, *, shared: bool = False) -> None:
    """Becomes a new SMC socket; ``shared``: one that can share its port (Linux 6.11)."""
    family = _plain.family_of(sock)
    if shared:
        fd = open_ipproto_smc(family)
    else:
        fd = _smcsock.socket(_plain.SOCK_STREAM, int(family == _plain.AF_INET6))
    _replace(sock, fd)


def _replace(sock: Any, fd: int) -> None:
    """Takes over a new descriptor's file, and closes the descriptor."""
    inode = _smcsock.inode(sock)
    try:
        fresh: Any = _plain.socket(_plain.family_of(sock), _plain.SOCK_STREAM, 0, fd)
    except BaseException:
        _close(fd)
        raise
    try:
        known = _OF_INET6 if _plain.family_of(sock) == _plain.AF_INET6 else _OF_INET
        _set(fresh, _values(sock, known), _values(fresh, known))
        address = _plain.getsockname(sock)
        is_bound = address[1] != 0
        if is_bound:
            # While the old one has the port this takes SO_REUSEADDR at both, as servers have it.
            is_bound = not _bind(fresh, address)
        _smcsock.replace(sock, fd)
    finally:
        fresh.close()
    move(inode, _smcsock.inode(sock))
    if is_bound:
        _plain.socket.bind(sock, address)


def _bind(fresh: Any, address: Any) -> bool:
    try:
        fresh.bind(address)
    except OSError:
        return False
    return True


def limit_buffers(sock: Any, file: File) -> None:
    """Sets the buffers' sizes of the installation, unless the program has set its own."""
    settings = file.settings
    if settings.sndbuf is None and settings.rcvbuf is None:
        return
    locked = _get(sock, (_stdlib.SOL_SOCKET, _SO_BUF_LOCK), _INT) or 0
    assert isinstance(locked, int)
    for size, option, lock in (
        (settings.sndbuf, _stdlib.SO_SNDBUF, 1),
        (settings.rcvbuf, _stdlib.SO_RCVBUF, 2),
    ):
        if size is not None and not locked & lock:
            _plain.setsockopt(sock, _stdlib.SOL_SOCKET, option, size)


def _values(sock: Any, known: dict[tuple[int, int], int]) -> _Values:
    """The values of options, without those that this socket does not have."""
    values = {option: _get(sock, option, size) for option, size in known.items()}
    locked = _get(sock, (_stdlib.SOL_SOCKET, _SO_BUF_LOCK), _INT) or 0
    assert isinstance(locked, int)
    for option, lock in ((_stdlib.SO_SNDBUF, 1), (_stdlib.SO_RCVBUF, 2)):
        size = _get(sock, (_stdlib.SOL_SOCKET, option), _INT) if locked & lock else None
        values[_stdlib.SOL_SOCKET, option] = size // 2 if isinstance(size, int) else None
    return {option: value for option, value in values.items() if value is not None}


def _get(sock: Any, option: tuple[int, int], size: int) -> int | bytes | None:
    try:
        value: int | bytes = _plain.getsockopt(sock, *option, *([] if size == _INT else [size]))
    except OSError:
        return None
    return value


def _set(sock: Any, wanted: _Values, present: _Values) -> None:
    """Sets the options that differ; what it may not set again stays as it is."""
    for option, value in wanted.items():
        if present.get(option) != value:
            try:
                _plain.setsockopt(sock, *option, value)
            except OSError:
                continue
