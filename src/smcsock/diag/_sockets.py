"""All SMC sockets of the network namespace."""

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeAlias

from .._kernel._errors import DiagUnavailableError
from .._kernel._smc_info import Address, SmcInfo, decode
from .._kernel._sock_diag import each_record
from .._smcsock import AF_SMC
from .._socket import has_smc
from ._errors import diag_error, no_smc

__all__ = ["iter_sockets", "sockets"]

# Of the two addresses of a struct smc_diag_msg, from byte 8 on.
_NO_BYTES = bytes(12)
_AF_INET, _AF_INET6 = int(socket.AF_INET), int(socket.AF_INET6)

# Family, local and remote address as in /proc/net/tcp, by both ports in hexadecimal:
# those smc_diag tells of every socket.
_TcpSockets: TypeAlias = dict[str, list[tuple[int, str, str]]]


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
    return list(iter_sockets())


def iter_sockets(*, details: bool = True) -> Iterator[SmcInfo]:
    """The same as the kernel lists them, in little memory; the iterator raises the errors.

    Without ``details`` it leaves out ``connection``, ``link_group`` and ``dmb``, which are
    most of the work.
    """
    seen = set()
    tcp: _TcpSockets | None = None
    for record in _records():
        info = decode(record, _family(record), details=details)
        key = info.inode, info.cookie
        if key in seen:  # the kernel may list one twice
            continue
        seen.add(key)
        if _lacks_address(info):
            tcp = tcp or _tcp_sockets()
            info = _with_addresses(info, tcp)
        yield info


def _records() -> Iterator[bytes]:
    try:
        yield from each_record()
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
    # An IPv4 address takes the first 4 of 16 bytes; the kernel clears the others.
    is_inet4 = record[12:24] == _NO_BYTES and record[28:40] == _NO_BYTES
    return _AF_INET if is_inet4 else _AF_INET6


def _lacks_address(info: SmcInfo) -> bool:
    return info.local is not None and info.local[0] in ("0.0.0.0", "::")


def _with_addresses(info: SmcInfo, tcp: _TcpSockets) -> SmcInfo:
    """The same with the addresses of the TCP socket inside, if only one can be it."""
    ports = f"{_port(info.local)}{_port(info.peer)}"
    candidates = set(tcp.get(ports, ()))
    if info.family != AF_SMC:
        candidates = {sock for sock in candidates if sock[0] == info.family}
    if len(candidates) != 1:
        return info
    ((family, local, peer),) = candidates
    return replace(
        info,
        local=_proc_address(family, local),
        peer=_proc_address(family, peer) if info.peer else None,
    )


def _port(address: Address | None) -> str:
    return f"{address[1] if address else 0:04X}"


def _tcp_sockets() -> _TcpSockets:
    """The TCP sockets of this network namespace."""
    found: _TcpSockets = {}
    for family, name in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        path = f"/proc/thread-self/net/{name}"
        # No IPv6, or no /proc.
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
            next(file, None)
            for line in file:
                _, local, peer, _ = line.split(None, 3)
                found.setdefault(local[-4:] + peer[-4:], []).append((family, local, peer))
    return found


def _proc_address(family: int, field: str) -> Address:
    """An address of /proc/net/tcp: words of the host's byte order in hexadecimal."""
    host, _, port = field.partition(":")
    words = [int(host[at : at + 8], 16) for at in range(0, len(host), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if family == socket.AF_INET6:
        return socket.inet_ntop(socket.AF_INET6, packed), int(port, 16), 0, 0
    return socket.inet_ntop(socket.AF_INET, packed), int(port, 16)
