"""SMC sockets of the program that become TCP sockets, with the options set so far."""

import contextlib
import errno
import os
import socket
from collections import deque

from .. import _options
from ._kind import domain
from ._notification import Notification
from ._plan import Plan
from ._process import Process

__all__ = ["Listeners", "become_tcp", "replace_by_tcp"]

_MOST_LISTENERS, _MOST_PLACES = 256, 64


def become_tcp(plan: Plan, sock: socket.socket) -> bool:
    """Makes an SMC socket the TCP socket that is inside it, unless it is connected.

    The file remains, and with it all its descriptors and registrations. Not for listeners:
    the kernel wakes nobody who reads from what they accept (docs/kernel.md).
    """
    wanted = _wanted(plan, sock)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, _options.TCP_FASTOPEN_NO_COOKIE, 0)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    _options.set_values(sock, wanted)
    return True


def replace_by_tcp(
    plan: Plan, sock: socket.socket, asked: Notification, process: Process, number: int
) -> int | None:
    """Puts a TCP socket in the place of the program's SMC socket, bound as that one is.

    ``sock`` has the file behind the descriptor ``number`` of the process, and is closed.
    Registrations with epoll are lost, and other descriptors of the file keep the old one: if
    there are any, and SO_REUSEADDR is not set, its port cannot be had, and the call fails for
    the program, and None is returned; else the inode of the TCP socket.
    """
    wanted = _wanted(plan, sock)
    name = sock.getsockname()
    with socket.socket(domain(sock), socket.SOCK_STREAM) as fresh:
        os.set_blocking(fresh.fileno(), os.get_blocking(sock.fileno()))
        _options.set_values(fresh, wanted)
        asked.put(fresh.fileno(), number, process.is_inherited(number))
        sock.close()  # the last of it: its port is free
        if name[1]:
            try:
                fresh.bind(name)
            except OSError as error:
                asked.fail(error.errno or errno.EADDRINUSE)
                return None
        return _inode(fresh)


class Listeners:
    """The TCP sockets that took the place of listeners: all who had the one get the same other.

    A socket that is bound before processes are started (workers of uvicorn, node's cluster) is
    told to listen in each of them.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        # By the inode of the SMC socket: process, descriptor and inode of the TCP socket. The
        # oldest are forgotten: a program may listen for each transfer, or on and on in new workers.
        self._places: dict[int, deque[tuple[int, int, int]]] = {}

    def replace(
        self, sock: socket.socket, asked: Notification, process: Process, number: int
    ) -> None:
        """As replace_by_tcp()."""
        places = self._places.setdefault(_inode(sock), deque(maxlen=_MOST_PLACES))
        if len(self._places) > _MOST_LISTENERS:
            del self._places[next(iter(self._places))]
        inode = self._share(places, asked, process, number)
        if inode is None:
            inode = replace_by_tcp(self._plan, sock, asked, process, number)
        if inode is not None:
            places.append((process.pid, number, inode))

    def _share(
        self,
        places: deque[tuple[int, int, int]],
        asked: Notification,
        process: Process,
        number: int,
    ) -> int | None:
        while places:
            pid, there, inode = places[-1]
            with contextlib.suppress(OSError), Process(pid).borrow(there) as listener:
                if _inode(listener) == inode:
                    asked.put(listener.fileno(), number, process.is_inherited(number))
                    return inode
            places.pop()  # it is gone from there
        return None


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def _wanted(plan: Plan, sock: socket.socket) -> _options.Values:
    """The options that the program has set."""
    is_ipv6 = domain(sock) == socket.AF_INET6
    wanted = _options.values(sock, _options.OF_INET6 if is_ipv6 else _options.OF_INET)
    for name, size in ((socket.SO_SNDBUF, plan.sndbuf), (socket.SO_RCVBUF, plan.rcvbuf)):
        if wanted.get((socket.SOL_SOCKET, name)) == size:
            del wanted[socket.SOL_SOCKET, name]  # that was not the program
    return wanted
