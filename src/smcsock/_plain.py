"""The standard library as it is without smcsock, whatever programs put in its place.

The methods are those of the C class _socket.socket, which nothing can replace.
"""

import _socket
import os
from _socket import AF_INET, AF_INET6, IPPROTO_TCP, SHUT_RDWR, SHUT_WR, SOCK_STREAM
from typing import Any

__all__ = [
    "AF_INET",
    "AF_INET6",
    "IPPROTO_TCP",
    "SHUT_RDWR",
    "SHUT_WR",
    "SOCK_STREAM",
    "TCP_PROTOCOLS",
    "accept",
    "bind",
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
bind = socket.bind
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


def local_address(sock: Any) -> Any:
    """The address of a socket. One of IPv6 adopted as AF_INET gives but the half of it."""
    address = getsockname(sock)
    if len(address) == 2 or _family.__get__(sock) != AF_INET:
        return address
    twin = socket(AF_INET6, SOCK_STREAM, 0, os.dup(fileno(sock)))
    try:
        return getsockname(twin)
    finally:
        twin.close()


def family_of(sock: Any) -> int:
    """AF_INET or AF_INET6: of the socket itself, whatever its object was told."""
    return AF_INET if len(getsockname(sock)) == 2 else AF_INET6


def family_named(sock: Any) -> int:
    """The family that the object of a socket was told, whatever its class says."""
    return int(_family.__get__(sock))
