"""All SMC sockets of the network namespace."""

import contextlib
import socket
import struct
from collections.abc import Iterator

from .._kernel._errors import DiagUnavailableError
from .._kernel._sock_diag import each_record
from .._opening import has_smc
from .._smcsock import AF_SMC, Record
from ._errors import diag_error, no_smc

# The command that lists sockets makes none of the objects of _kernel._smc_info.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    from .._kernel._smc_info import Address, SmcInfo

    # Family, local and remote address as in /proc/net/tcp, by both ports in hexadecimal:
    # those smc_diag tells of every socket.
    _TcpSockets: TypeAlias = dict[str, list[tuple[int, str, str]]]

__all__ = ["iter_records", "iter_sockets", "sockets"]

_UNSPECIFIED = ("0.0.0.0", "::")


def sockets() -> "list[SmcInfo]":
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


def iter_sockets(*, details: bool = True) -> "Iterator[SmcInfo]":
    """The same as the kernel lists them, in little memory; the iterator raises the errors.

    Without ``details`` it leaves out ``connection``, ``link_group`` and ``dmb``, which are
    most of the work.
    """
    from .._kernel._smc_info import decode

    return (decode(record, details=details) for record in iter_records(details=details))


def iter_records(*, details: bool) -> Iterator[Record]:
    """The records behind iter_sockets()."""
    seen = set()
    tcp: _TcpSockets | None = None
    try:
        for record in each_record(details=details):
            cookie = record.cookie
            if cookie in seen:  # the kernel may list one twice
                continue
            seen.add(cookie)
            local = record.local
            if local is not None and local[0] in _UNSPECIFIED:
                if tcp is None:
                    tcp = _tcp_sockets()
                record = _with_addresses(record, tcp)
            yield record
    except DiagUnavailableError:
        if has_smc():
            raise
        raise no_smc() from None
    except OSError as error:
        raise diag_error(error, {}) from None


def _with_addresses(record: Record, tcp: "_TcpSockets") -> Record:
    """The same with the addresses of the TCP socket inside, if only one can be it."""
    ports = f"{_port(record.local)}{_port(record.peer)}"
    candidates = set(tcp.get(ports, ()))
    if record.family != AF_SMC:
        candidates = {sock for sock in candidates if sock[0] == record.family}
    if len(candidates) != 1:
        return record
    ((family, local, peer),) = candidates
    before, (_, other), after = record[:3], record[3:5], record[5:]
    addresses = _proc_address(family, local), _proc_address(family, peer) if other else None
    return Record((*before, *addresses, *after))


def _port(address: "Address | None") -> str:
    return f"{address[1] if address else 0:04X}"


def _tcp_sockets() -> "_TcpSockets":
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


def _proc_address(family: int, field: str) -> "Address":
    """An address of /proc/net/tcp: words of the host's byte order in hexadecimal."""
    host, _, port = field.partition(":")
    words = [int(host[at : at + 8], 16) for at in range(0, len(host), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if family == socket.AF_INET6:
        return socket.inet_ntop(socket.AF_INET6, packed), int(port, 16), 0, 0
    return socket.inet_ntop(socket.AF_INET, packed), int(port, 16)
