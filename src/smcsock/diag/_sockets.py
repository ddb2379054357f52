"""All SMC sockets of the network namespace."""

import socket
import struct
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from .._errors import DiagUnavailableError
from .._info import Address, SmcInfo, decode
from .._smcsock import AF_SMC
from .._sock_diag import records
from .._socket import has_smc
from ._errors import diag_error, no_smc

__all__ = ["sockets"]

_ADDRESSES_AT, _ADDRESSES_SIZE = 8, 32  # in struct smc_diag_msg

# Local and remote port: what smc_diag tells of every socket.
_Ports: TypeAlias = tuple[int, int]
_TcpSocket: TypeAlias = tuple[int, Address, Address]  # family, local, remote


def sockets() -> list[SmcInfo]:
    """All SMC sockets of this network namespace, as ``socket.smc_info()`` describes them.

    Those that fell back to TCP, that listen and that are not connected yet are among
    them. The list is no snapshot: the kernel makes it in parts, and while sockets come
    and go one may be missing. Needs neither privilege nor extra.

    smc_diag leaves out the addresses of IPPROTO_SMC sockets, and whether a wildcard
    address is IPv4 or IPv6. Here they are those of the TCP socket inside, found by its
    ports in /proc/net/tcp; where several could be meant, they stay 0.0.0.0 or ::.

    Raises DiagUnavailableError where the kernel's smc_diag is missing, else DiagError.
    """
    known = {}
    for record in _records():
        info = decode(record, _family(record))
        known[info.inode, info.cookie] = info  # one may be listed twice
    found = list(known.values())
    incomplete = {_ports(info) for info in found if _lacks_address(info)}
    if incomplete:
        tcp = _tcp_sockets(incomplete)
        found = [_with_addresses(info, tcp) for info in found]
    return found


def _records() -> list[bytes]:
    try:
        return records()
    except DiagUnavailableError:
        if has_smc():
            raise
        raise no_smc() from None
    except OSError as error:
        raise diag_error(error, {}) from None


def _family(record: bytes) -> int:
    """The IP family of a record's addresses."""
    if record[0] != AF_SMC:
        return record[0]
    addresses = record[_ADDRESSES_AT : _ADDRESSES_AT + _ADDRESSES_SIZE]
    # An IPv4 address takes the first 4 of 16 bytes; the kernel clears the others.
    is_inet6 = any(addresses[4:16]) or any(addresses[20:32])
    return socket.AF_INET6 if is_inet6 else socket.AF_INET


def _lacks_address(info: SmcInfo) -> bool:
    return info.local is not None and info.local[0] in ("0.0.0.0", "::")


def _ports(info: SmcInfo) -> _Ports:
    return info.local[1] if info.local else 0, info.peer[1] if info.peer else 0


def _with_addresses(info: SmcInfo, tcp: dict[_Ports, set[_TcpSocket]]) -> SmcInfo:
    """The same with the addresses of the TCP socket inside, if only one can be it."""
    if not _lacks_address(info):
        return info
    candidates = tcp[_ports(info)]
    if info.family != AF_SMC:
        candidates = {sock for sock in candidates if sock[0] == info.family}
    if len(candidates) != 1:
        return info
    ((_, local, peer),) = candidates
    return replace(info, local=local, peer=peer if info.peer else None)


def _tcp_sockets(wanted: set[_Ports]) -> dict[_Ports, set[_TcpSocket]]:
    """The TCP sockets of this network namespace that have such ports."""
    found: dict[_Ports, set[_TcpSocket]] = {ports: set() for ports in wanted}
    for family, name in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        try:
            text = Path("/proc/thread-self/net", name).read_text(encoding="ascii")
        except OSError:  # no IPv6, or no /proc
            continue
        for line in text.splitlines()[1:]:
            fields = line.split()[1:3]
            local_port, peer_port = (int(field.rpartition(":")[2], 16) for field in fields)
            if (local_port, peer_port) in found:
                local, peer = (_proc_address(family, field) for field in fields)
                found[local_port, peer_port].add((family, local, peer))
    return found


def _proc_address(family: int, field: str) -> Address:
    """An address of /proc/net/tcp: words of the host's byte order in hexadecimal."""
    host, _, port = field.partition(":")
    words = [int(host[at : at + 8], 16) for at in range(0, len(host), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if family == socket.AF_INET6:
        return socket.inet_ntop(socket.AF_INET6, packed), int(port, 16), 0, 0
    return socket.inet_ntop(socket.AF_INET, packed), int(port, 16)
