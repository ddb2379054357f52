"""Netlink, as far as one question and its answers go.

pyroute2's own sockets are not used: they drive an event loop each, which cannot be
done while another one runs in the thread (asyncio), and set up the root logger. Its
messages are, in _messages.

Source: include/uapi/linux/netlink.h; netlink(7).
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator

__all__ = ["NETLINK_SOCK_DIAG", "NLM_F_ACK", "NLM_F_DUMP", "NLM_F_REQUEST", "ask", "pack"]

NETLINK_SOCK_DIAG = 4
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
_NLMSG_NOOP, _NLMSG_ERROR, _NLMSG_DONE = 1, 2, 3

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_ERRNO = struct.Struct("=i")

# The kernel makes no message of a dump larger than this (netlink_dump).
_BUFFER_SIZE = 65536


def pack(kind: int, flags: int, payload: bytes) -> bytes:
    """A message with its header."""
    return _HEADER.pack(_HEADER.size + len(payload), kind, flags, 1, 0) + payload


def ask(protocol: int, message: bytes) -> Iterator[bytes]:
    """Sends one message; the messages of the answer, headers included.

    Raises the OSError that the kernel answers with.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        # The kernel answers at once, whatever the default timeout for sockets is.
        sock.settimeout(None)
        sock.sendto(message, (0, 0))
        while True:
            data, _, flags, _ = sock.recvmsg(_BUFFER_SIZE)
            if flags & socket.MSG_TRUNC or not data:
                raise OSError(errno.EMSGSIZE, "the kernel's answer was cut short")
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, *_ = _HEADER.unpack_from(data, at)
                if length < _HEADER.size:
                    raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
                part = data[at : at + length]
                at += (length + 3) & ~3
                if kind in (_NLMSG_ERROR, _NLMSG_DONE):
                    # What a dump ends with is an errno, too, since Linux 4.16.
                    if len(part) >= _HEADER.size + _ERRNO.size:
                        (code,) = _ERRNO.unpack_from(part, _HEADER.size)
                        if code < 0:
                            raise OSError(-code, os.strerror(-code))
                    return
                if kind != _NLMSG_NOOP:
                    yield part
