"""The standard library as it is without smcsock, whatever programs put in its place.

The methods are those of the C class _socket.socket, which nothing can replace.
"""

import _socket
from _socket import AF_INET, AF_INET6, IPPROTO_TCP, SHUT_RDWR, SHUT_WR, SOCK_STREAM
from typing import Any

from .._options import local_address

__all__ = [
    "AF_INET",
    "AF_INET6",
    "IPPROTO_TCP",
    "SHUT_RDWR",
    "SHUT_WR",
    "SOCK_STREAM",
    "TCP_PROTOCOLS",
    "accept",
    "close",
    "detach",
    "family_named",
    "family_of",
    "fileno",
    "getpeername",
    "getsockname",
    "getsockopt",
    "gettimeout",
    "local_address",
    "setsockopt",
    "settimeout",
    "shutdown",
    "socket",
]

IPPROTO_MPTCP = 262  # which not all C libraries know
TCP_PROTOCOLS = (IPPROTO_TCP, IPPROTO_MPTCP)

socket: Any = _socket.socket
accept = socket._accept
close = socket.close
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
    """AF_INET or AF_INET6: of the socket itself, whatever its object was told."""
    return AF_INET if len(getsockname(sock)) == 2 else AF_INET6


def family_named(sock: Any) -> int:
    """The family that the object of a socket was told, whatever its class says."""
    return int(_family.__get__(sock))
