"""The standard library as it is without smcsock, whatever programs put in its place.

The methods are those of the C class _socket.socket, which nothing can replace.
"""

import _socket
from _socket import AF_INET, AF_INET6, IPPROTO_TCP, SHUT_RDWR, SHUT_WR, SOCK_STREAM
from typing import Any

__all__ = [
    "AF_INET",
    "AF_INET6",
    "IPPROTO_TCP",
    "SHUT_RDWR",
    "SHUT_WR",
    "SOCK_STREAM",
    "accept",
    "detach",
    "family_of",
    "fileno",
    "getpeername",
    "getsockname",
    "getsockopt",
    "gettimeout",
    "setsockopt",
    "settimeout",
    "shutdown",
    "socket",
]

socket: Any = _socket.socket
accept = socket._accept
detach = socket.detach
fileno = socket.fileno
getpeername = socket.getpeername
getsockname = socket.getsockname
getsockopt = socket.getsockopt
gettimeout = socket.gettimeout
setsockopt = socket.setsockopt
settimeout = socket.settimeout
shutdown = socket.shutdown

_family: Any = socket.__dict__["family"]


def family_of(sock: Any) -> int:
    """The family of a socket's addresses, whatever its class says."""
    return int(_family.__get__(sock))
