"""Host names to addresses, and addresses to text."""

import socket
from typing import Any

from ._common import CommandError, explain

__all__ = ["format_address", "resolve"]

_KIND = {socket.AF_UNSPEC: "an", socket.AF_INET: "an IPv4", socket.AF_INET6: "an IPv6"}


def resolve(host: str, port: int, family: int) -> list[tuple[socket.AddressFamily, Any]]:
    """The families and socket addresses of a name or address; at least one.

    An IPv6 address may have a zone (fe80::1%eth0) and brackets. ``family`` may be
    AF_UNSPEC. Raises CommandError if there is no address.
    """
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        kind = _KIND[socket.AddressFamily(family)]
        raise CommandError(f"cannot resolve {host!r} to {kind} address: {explain(error)}") from None
    return [(entry[0], entry[4]) for entry in found]


def format_address(address: Any) -> str:
    """A socket address of AF_INET or AF_INET6 as text: "host:port", "[host%zone]:port"."""
    host, port, *rest = address
    if host.startswith("::ffff:") and "." in host:
        return f"{host.removeprefix('::ffff:')}:{port}"  # IPv4 on a socket for both
    if ":" not in host:
        return f"{host}:{port}"
    zone = rest[1] if len(rest) == 2 else 0
    return f"[{host}%{_interface(zone)}]:{port}" if zone else f"[{host}]:{port}"


def _interface(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)
