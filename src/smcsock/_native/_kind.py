"""Which sockets the program gets in the place of its TCP sockets."""

import socket
from typing import NamedTuple

from .._smcsock import AF_SMC, IPPROTO_SMC, SMCPROTO_SMC, SMCPROTO_SMC6

__all__ = [
    "AF_SMC_SOCKETS",
    "IPPROTO_SMC_SOCKETS",
    "TCP_SOCKETS",
    "Kind",
    "domain",
    "is_smc",
    "kind_here",
]


class Kind(NamedTuple):
    """(domain, protocol) of socket(2) for AF_INET and for AF_INET6."""

    inet: tuple[int, int]
    inet6: tuple[int, int]

    @property
    def can_share_ports(self) -> bool:
        """Whether SO_REUSEPORT is allowed: Linux has refused it to AF_SMC since 2025."""
        return self is not AF_SMC_SOCKETS

    def open(self, domain: int, type: int) -> socket.socket:
        """A socket as for the program, which did not ask for close-on-exec."""
        family, protocol = self.inet6 if domain == socket.AF_INET6 else self.inet
        return socket.socket(family, type, protocol)


IPPROTO_SMC_SOCKETS = Kind((socket.AF_INET, IPPROTO_SMC), (socket.AF_INET6, IPPROTO_SMC))
AF_SMC_SOCKETS = Kind((AF_SMC, SMCPROTO_SMC), (AF_SMC, SMCPROTO_SMC6))
TCP_SOCKETS = Kind((socket.AF_INET, 0), (socket.AF_INET6, 0))


def kind_here() -> Kind | None:
    """What this kernel has: IPPROTO_SMC from Linux 6.11 on, AF_SMC before, or no SMC."""
    for kind in (IPPROTO_SMC_SOCKETS, AF_SMC_SOCKETS):
        try:
            kind.open(socket.AF_INET, socket.SOCK_STREAM).close()
        except OSError:
            continue
        return kind
    return None


def is_smc(sock: socket.socket) -> bool:
    """Whether a socket is an SMC socket; one that fell back to TCP is not."""
    return (
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == AF_SMC
        or sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == IPPROTO_SMC
    )


def domain(sock: socket.socket) -> int:
    """AF_INET or AF_INET6, whichever the addresses of a socket are of."""
    return socket.AF_INET6 if len(sock.getsockname()) == 4 else socket.AF_INET
