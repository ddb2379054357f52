"""SMC sockets of the program that become TCP sockets, with the options set so far."""

import errno
import os
import socket

from .. import _options
from ._kind import domain
from ._notification import Notification
from ._plan import Plan
from ._process import Process

__all__ = ["become_tcp", "replace_by_tcp"]


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
) -> None:
    """Puts a TCP socket in the place of the program's SMC socket, bound as that one is.

    ``sock`` has the file behind the descriptor ``number`` of the process, and is closed.
    Registrations with epoll are lost, and other descriptors of the file keep the old one: if
    there are any, its port cannot be had, and the call fails for the program.
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


def _wanted(plan: Plan, sock: socket.socket) -> _options.Values:
    """The options that the program has set."""
    is_ipv6 = domain(sock) == socket.AF_INET6
    wanted = _options.values(sock, _options.OF_INET6 if is_ipv6 else _options.OF_INET)
    for name, size in ((socket.SO_SNDBUF, plan.sndbuf), (socket.SO_RCVBUF, plan.rcvbuf)):
        if wanted.get((socket.SOL_SOCKET, name)) == size:
            del wanted[socket.SOL_SOCKET, name]  # that was not the program
    return wanted
