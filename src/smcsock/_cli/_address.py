"""Host names to addresses, and addresses to text."""

from __future__ import annotations

import argparse
import socket

from ._common import CommandError, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["DEFAULT_PORT", "format_address", "parse_port", "resolve", "split_address"]

DEFAULT_PORT = 4343
"""Of the echo server, and so of whoever looks for one."""

_KIND = {socket.AF_UNSPEC: "an", socket.AF_INET: "an IPv4", socket.AF_INET6: "an IPv6"}


def parse_port(text: str) -> int:
    """A port number, for argparse."""
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"not a port number (0 to 65535): {text!r}")
    return int(text)


def split_address(text: str) -> tuple[str, int]:
    """HOST, HOST:PORT, [ADDR], [ADDR]:PORT or an IPv6 address, for argparse: host and port."""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise argparse.ArgumentTypeError(f"not [ADDR]:PORT: {text!r}")
        port = rest[1:] if rest else str(DEFAULT_PORT)
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        port = str(DEFAULT_PORT)
    if not host:
        raise argparse.ArgumentTypeError("the address is empty")
    if parse_port(port) == 0:
        raise argparse.ArgumentTypeError("nobody can connect to port 0")
    return host, parse_port(port)


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
