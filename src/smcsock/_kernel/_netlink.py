"""Netlink, as far as one question and its answers go.

pyroute2's own sockets are not used, not even for generic netlink, where its messages
are: they drive an event loop each, which cannot be done while another one runs in the
thread (asyncio), and set up the root logger.

Source: include/uapi/linux/netlink.h; netlink(7).
"""

import errno
import os
import socket
import struct
from collections.abc import Generator, Iterator

from ._errors import CONFINED

__all__ = ["NETLINK_SOCK_DIAG", "NLM_F_ACK", "NLM_F_DUMP", "NLM_F_REQUEST", "ask", "pack"]

NETLINK_SOCK_DIAG = 4
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
_NLMSG_NOOP, _NLMSG_ERROR, _NLMSG_DONE = 1, 2, 3

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_ERRNO = struct.Struct("=i")

# The kernel fills no more of a buffer for a dump at a time (netlink_dump, smc_diag_dump).
_BUFFER_SIZE = 65536


def pack(kind: int, flags: int, payload: bytes) -> bytes:
    """A message with its header."""
    return _HEADER.pack(_HEADER.size + len(payload), kind, flags, 1, 0) + payload


def ask(protocol: int, message: bytes) -> Iterator[bytes]:
    """Sends one message; the messages of the answer as they come, headers included.

    The iterator raises the OSError that the kernel answers with.
    """
    with _open(protocol) as sock:
        sock.sendto(message, (0, 0))
        is_done = False
        while not is_done:
            is_done = yield from _parts(_receive(sock))


def _open(protocol: int) -> socket.socket:
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            raise OSError(errno.EACCES, CONFINED) from None
        raise
    # The kernel answers at once, whatever the default timeout of sockets is.
    sock.settimeout(None)
    return sock


def _receive(sock: socket.socket) -> bytes:
    data, _, flags, _ = sock.recvmsg(_BUFFER_SIZE)
    if flags & socket.MSG_TRUNC:
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
    return data


def _parts(data: bytes) -> Generator[bytes, None, bool]:
    """The messages of a datagram; returns whether it has the last one."""
    at = 0
    while at < len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        part = data[at : at + length]
        at += max(_HEADER.size, (length + 3) & ~3)
        if kind in (_NLMSG_ERROR, _NLMSG_DONE):
            # Either ends with an errno: a dump that failed is done, too.
            (code,) = _ERRNO.unpack_from(part, _HEADER.size)
            if code < 0:
                raise OSError(-code, os.strerror(-code))
            return True
        if kind != _NLMSG_NOOP:
            yield part
    return False
