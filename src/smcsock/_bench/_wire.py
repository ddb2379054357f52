"""What client and server say to each other, and what they must not exceed."""

import math
import socket as _stdlib
import struct
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

from .. import create_server
from .. import socket as smc_socket

__all__ = [
    "BUFFER",
    "MAX_SECONDS",
    "MAX_SIZE",
    "TIMEOUT",
    "VARIANTS",
    "Kind",
    "Place",
    "Request",
    "Variant",
    "receive_exactly",
]

MAX_SIZE = 1 << 22
"""Bytes of a message."""
MAX_SECONDS = 60.0
"""That one connection may take."""
TIMEOUT = 10.0
"""Seconds that an end waits for the other one."""
BUFFER = 1 << 20
"""Bytes of the larger buffers."""

_REQUEST = struct.Struct("!4sBI")
_MAGIC = b"SMC1"
_REPORT = struct.Struct("!QQ")


class Kind(IntEnum):
    """What the server does with messages: sends them back, or counts their bytes."""

    ECHO = 1
    SINK = 2


Place: TypeAlias = tuple[int, Any]
"""The family and the address of a listener."""


@dataclass(frozen=True)
class Variant:
    """TCP or SMC, with the buffers that the kernel chooses or larger ones."""

    is_smc: bool
    is_large: bool

    @property
    def name(self) -> str:
        """As in the results: "smc", "tcp large"."""
        return ("smc" if self.is_smc else "tcp") + (" large" if self.is_large else "")

    def listen(self, host: str, port: int, family: int) -> Any:
        """A listener; its port is chosen by the kernel if it is 0."""
        make: Any = create_server if self.is_smc else _stdlib.create_server
        sock = make((host, port), family=family, backlog=64)
        if self.is_large:
            # A listener's buffers are those of its connections.
            self._enlarge(sock)
        return sock

    def connect(self, place: Place) -> Any:
        """A connection to such a listener."""
        make: Any = smc_socket if self.is_smc else _stdlib.socket
        family, address = place
        sock = make(family, _stdlib.SOCK_STREAM)
        try:
            sock.settimeout(TIMEOUT)
            sock.setsockopt(_stdlib.IPPROTO_TCP, _stdlib.TCP_NODELAY, 1)
            if self.is_large:
                self._enlarge(sock)  # SMC makes them when it connects
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock

    def _enlarge(self, sock: Any) -> None:
        for option in (_stdlib.SO_SNDBUF, _stdlib.SO_RCVBUF):
            sock.setsockopt(_stdlib.SOL_SOCKET, option, BUFFER)


VARIANTS = [Variant(is_smc, is_large) for is_large in (False, True) for is_smc in (True, False)]
"""In the order of their ports, from that of the server on."""


@dataclass(frozen=True)
class Request:
    """The first bytes of a connection: what is to be done with messages of ``size`` bytes."""

    kind: Kind
    size: int

    def pack(self) -> bytes:
        """As bytes."""
        return _REQUEST.pack(_MAGIC, self.kind, self.size)

    @classmethod
    def receive(cls, sock: Any, deadline: float) -> "Request":
        """From a connection; ValueError for what it may not be."""
        magic, kind, size = _REQUEST.unpack(receive_exactly(sock, _REQUEST.size, deadline))
        if magic != _MAGIC or not 0 < size <= MAX_SIZE:
            raise ValueError("not a request, or more than is allowed")
        return cls(Kind(kind), size)


def pack_report(count: int, cpu: int) -> bytes:
    """What the server says at the end: bytes, and nanoseconds of its CPU."""
    return _REPORT.pack(count, cpu)


def receive_report(sock: Any) -> tuple[int, int]:
    """The same from a connection."""
    count, cpu = _REPORT.unpack(receive_exactly(sock, _REPORT.size))
    return count, cpu


def receive_exactly(sock: Any, size: int, deadline: float = math.inf) -> bytes:
    """So many bytes; ConnectionError if the peer ends before, TimeoutError at the deadline."""
    data = bytearray()
    while len(data) < size:
        if time.monotonic() >= deadline:
            raise TimeoutError("the peer takes too long")
        part = sock.recv(size - len(data))
        if not part:
            raise ConnectionError("the peer ended the connection")
        data += part
    return bytes(data)
