"""A socket becomes another one under the same descriptor, and keeps its options."""

import os
import socket as _stdlib
from typing import Any

from .. import _options, _plain, _smcsock
from .._opening import open_ipproto_smc
from ._files import File, move

__all__ = ["become_hollow", "become_tcp", "exchange", "limit_buffers", "renew", "share_port"]


def become_hollow(sock: Any, file: File, note: str) -> None:
    """Becomes the TCP socket inside the SMC socket: a client's, with all its registrations.

    Not for a listener: nothing would wake who reads from what it accepts.
    """
    _options.become_hollow(sock)
    file.note, file.is_hollow = note, True


def become_tcp(sock: Any, file: File, note: str) -> None:
    """Becomes a TCP socket bound as this one is: another file.

    Of a file that is older than this process each of several processes may make its own.
    """
    fd = _smcsock.socket(_plain.SOCK_STREAM, 0, _plain.family_of(sock))
    exchange(sock, fd, is_shared=file.opener != os.getpid())
    file.note, file.is_hollow = note, False


def share_port(sock: Any) -> None:
    """Becomes an SMC socket that can share its port (Linux 6.11)."""
    exchange(sock, open_ipproto_smc(_plain.family_of(sock)))


def renew(sock: Any) -> None:
    """Becomes a new SMC socket, bound to nothing: a connect() of this one came to nothing."""
    is_ipv6 = _plain.family_of(sock) == _plain.AF_INET6
    exchange(sock, _smcsock.socket(_plain.SOCK_STREAM, int(is_ipv6)), is_bound=False)


def exchange(sock: Any, fd: int, *, is_bound: bool = True, is_shared: bool = False) -> None:
    """Takes the file of a new descriptor in the place of its own, and closes that descriptor."""
    inode = _smcsock.inode(sock)
    _options.replace(sock, fd, is_bound=is_bound, is_shared=is_shared)
    move(inode, _smcsock.inode(sock))


def limit_buffers(sock: Any, file: File) -> None:
    """Sets the buffers' sizes of the installation, unless the program has set its own."""
    settings = file.settings
    if settings.sndbuf is None and settings.rcvbuf is None:
        return
    locked = _options.locked_buffers(sock)
    for size, option, lock in (
        (settings.sndbuf, _stdlib.SO_SNDBUF, 1),
        (settings.rcvbuf, _stdlib.SO_RCVBUF, 2),
    ):
        if size is not None and not locked & lock:
            _plain.setsockopt(sock, _stdlib.SOL_SOCKET, option, size)
