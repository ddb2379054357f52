"""SMC sockets of the program that become TCP sockets, with the options set so far."""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterable
from typing import TypeAlias

from ._kind import domain
from ._notification import Notification
from ._plan import Plan
from ._process import Process

__all__ = ["become_tcp", "replace_by_tcp"]

_Option: TypeAlias = tuple[int, int, bytes]

_TCP_FASTOPEN_NO_COOKIE = 34
_IP_TRANSPARENT, _IP_BIND_ADDRESS_NO_PORT, _IP_FREEBIND = 19, 24, 15

_SOCKET_OPTIONS = (
    socket.SO_REUSEADDR,
    socket.SO_REUSEPORT,
    socket.SO_KEEPALIVE,
    socket.SO_PRIORITY,
    socket.SO_OOBINLINE,
    socket.SO_MARK,
    socket.SO_RCVLOWAT,
    socket.SO_LINGER,
    socket.SO_SNDTIMEO,
    socket.SO_RCVTIMEO,
    socket.SO_BINDTODEVICE,
    socket.SO_SNDBUF,
    socket.SO_RCVBUF,
)
_TCP_OPTIONS = (
    socket.TCP_NODELAY,
    socket.TCP_KEEPIDLE,
    socket.TCP_KEEPINTVL,
    socket.TCP_KEEPCNT,
    socket.TCP_USER_TIMEOUT,
    socket.TCP_SYNCNT,
    socket.TCP_DEFER_ACCEPT,
    socket.TCP_CORK,
    socket.TCP_QUICKACK,
    socket.TCP_NOTSENT_LOWAT,
    socket.TCP_MAXSEG,
    socket.TCP_CONGESTION,
)
_IP_OPTIONS = (
    socket.IP_TOS,
    socket.IP_TTL,
    _IP_FREEBIND,
    _IP_TRANSPARENT,
    _IP_BIND_ADDRESS_NO_PORT,
)
_IPV6_OPTIONS = (socket.IPV6_V6ONLY, socket.IPV6_TCLASS, socket.IPV6_UNICAST_HOPS)
_LEVELS = (
    (socket.SOL_SOCKET, _SOCKET_OPTIONS),
    (socket.IPPROTO_TCP, _TCP_OPTIONS),
    (socket.IPPROTO_IP, _IP_OPTIONS),
)
_IPV6_LEVEL = (socket.IPPROTO_IPV6, _IPV6_OPTIONS)

# An option has at most the size of a struct timeval, or the name of a device or algorithm.
_SIZE = 16
_INT = struct.Struct("=i")


def become_tcp(plan: Plan, sock: socket.socket) -> bool:
    """Makes an SMC socket the TCP socket that is inside it, unless it is connected.

    The file remains, and with it all its descriptors and registrations. Not for listeners:
    the kernel wakes nobody who reads from what they accept (docs/kernel.md).
    """
    options = _changed(plan, sock, ((socket.SOL_SOCKET, _SOCKET_OPTIONS),))
    try:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_FASTOPEN_NO_COOKIE, 0)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    _set(sock, options)
    return True


def replace_by_tcp(
    plan: Plan, sock: socket.socket, asked: Notification, process: Process, number: int
) -> None:
    """Puts a TCP socket in the place of the program's SMC socket, bound as that one is.

    ``sock`` has the file behind the descriptor ``number`` of the process, and is closed.
    Registrations with epoll are lost, and other descriptors of the file keep the old one: if
    there are any, its port cannot be had, and the call fails for the program.
    """
    levels = _LEVELS if domain(sock) == socket.AF_INET else (*_LEVELS, _IPV6_LEVEL)
    options = _changed(plan, sock, levels)
    name = sock.getsockname()
    with socket.socket(domain(sock), socket.SOCK_STREAM) as fresh:
        os.set_blocking(fresh.fileno(), os.get_blocking(sock.fileno()))
        _set(fresh, options)
        asked.put(fresh.fileno(), number, process.is_inherited(number))
        sock.close()  # the last of it: its port is free
        if name[1]:
            try:
                fresh.bind(name)
            except OSError as error:
                asked.fail(error.errno or errno.EADDRINUSE)


def _changed(
    plan: Plan, sock: socket.socket, levels: Iterable[tuple[int, Iterable[int]]]
) -> list[_Option]:
    """The options that differ from those of a new socket."""
    with plan.open(domain(sock), socket.SOCK_STREAM) as fresh:
        return [
            (level, name, value)
            for level, names in levels
            for name in names
            if (value := _get(sock, level, name)) != _get(fresh, level, name)
        ]


def _get(sock: socket.socket, level: int, name: int) -> bytes:
    try:
        return sock.getsockopt(level, name, _SIZE)
    except OSError:
        return b""  # the kernel does not have it


def _set(sock: socket.socket, options: Iterable[_Option]) -> None:
    for level, name, value in options:
        if level == socket.SOL_SOCKET and name in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            # The kernel doubles what is set.
            value = _INT.pack(_INT.unpack(value)[0] // 2)
        with contextlib.suppress(OSError):  # what SMC allows and TCP does not: nothing is known
            sock.setsockopt(level, name, value)
