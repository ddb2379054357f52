"""Which connections are meant: patterns of HOST:PORT."""

import _socket
import ipaddress
import socket as _stdlib
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

__all__ = ["Selection"]

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class _Pattern(NamedTuple):
    """Networks, None for any address; and a port, None for any."""

    networks: tuple[_Network, ...] | None
    port: int | None

    def texts(self) -> list[str]:
        """As patterns without names."""
        port = "*" if self.port is None else str(self.port)
        if self.networks is None:
            return [f"*:{port}"]
        return [
            f"[{network}]:{port}" if network.version == 6 else f"{network}:{port}"
            for network in self.networks
        ]

    def matches(self, address: _Address, port: int) -> bool:
        if self.port not in (None, port):
            return False
        return self.networks is None or any(address in network for network in self.networks)


class Selection:
    """Addresses selected by patterns, each HOST:PORT.

    HOST is an IP address, a network (10.1.0.0/16), a name or ``*``; IPv6 addresses
    and networks are in brackets. A name stands for the addresses that it has when the
    Selection is made. PORT is a number or ``*``. An IPv4 address is the same when it
    is written as an IPv6 one (::ffff:10.1.0.1); zones (%eth0) are not looked at.

    Raises ValueError for what is no pattern, socket.gaierror for a name that has no
    address.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [_parse(pattern) for pattern in patterns]

    @property
    def patterns(self) -> list[str]:
        """Patterns that say the same without names."""
        return [text for pattern in self._patterns for text in pattern.texts()]

    def matches(self, address: Any, family: int) -> bool:
        """Whether a socket address of AF_INET or AF_INET6 is selected.

        A host name in it is resolved, as connect() does. False for what is no
        address: let the system call say so.
        """
        try:
            host, port = address[:2]
            found = _addresses(host, family)
            return any(pattern.matches(found[0], port) for pattern in self._patterns)
        except (TypeError, ValueError, IndexError, KeyError, OSError):
            return False


def _parse(pattern: str) -> _Pattern:
    host, colon, port = pattern.rpartition(":")
    refusal = f"not HOST:PORT: {pattern!r}"
    if not colon or not host:
        raise ValueError(f"{refusal} ('*' stands for any)")
    if port == "*":
        number = None
    elif port.isascii() and port.isdigit() and 0 < int(port) < 65536:
        number = int(port)
    else:
        raise ValueError(f"{refusal}: the port is a number from 1 to 65535, or '*'")
    if host == "*":
        return _Pattern(None, number)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if ":" not in host:
            raise ValueError(f"{refusal}: brackets are for IPv6")
    elif ":" in host:
        raise ValueError(f"{refusal}: an IPv6 address needs brackets, as in [::1]:80")
    if "/" in host:
        try:
            return _Pattern((_network(host),), number)
        except ValueError as error:
            raise ValueError(f"{refusal}: {error}") from None
    try:
        found = _addresses(host, _stdlib.AF_UNSPEC)
    except _stdlib.gaierror as error:
        raise _stdlib.gaierror(error.errno, f"{error.strerror} ({host!r} in {pattern!r})") from None
    except UnicodeError as error:
        raise ValueError(f"{refusal}: {error}") from None
    return _Pattern(tuple(ipaddress.ip_network(address) for address in found), number)


def _addresses(host: Any, family: int) -> list[_Address]:
    """The addresses of a host, in the order of the resolver."""
    if isinstance(host, bytes | bytearray):
        host = host.decode("ascii")
    if host == "":
        host = "::" if family == _stdlib.AF_INET6 else "0.0.0.0"
    try:
        return [_plain(host)]
    except ValueError:
        # As connect() does, whatever programs put in the place of socket.getaddrinfo().
        found = _socket.getaddrinfo(host, None, family, _stdlib.SOCK_STREAM)
        return [_plain(str(entry[4][0])) for entry in found]


def _network(host: str) -> _Network:
    network = ipaddress.ip_network(host, strict=False)
    mapped = network.version == 6 and network.network_address.ipv4_mapped
    if mapped and network.prefixlen >= 96:
        return ipaddress.ip_network((mapped, network.prefixlen - 96))
    return network


def _plain(host: str) -> _Address:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
