"""What the side process is to do."""

import socket
import struct
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ._architectures import Architecture
from ._filter import Watch
from ._kind import AF_SMC_SOCKETS, Kind

if TYPE_CHECKING:
    from .._dropin._report import Outcome
    from .._dropin._selection import Selection
    from ._census import Census

__all__ = ["Ledger", "Plan"]


class Ledger(Protocol):
    """Where the counts of connections go. It may need standard error, until publish()."""

    def fileno(self) -> int:
        """The descriptor that it needs besides."""

    def census(self, program: int) -> "Census":
        """What counts for it; only who counts has to load that."""

    def keep(self, counts: dict["Outcome", int]) -> None:
        """Puts down what there was so far."""

    def publish(self, missed: int) -> None:
        """Writes the report, in which so many sockets are missing."""


_PAIR = struct.Struct("=II")


class Plan(NamedTuple):
    """``sndbuf`` and ``rcvbuf`` are in bytes, 0 for what the kernel gives.

    ``ledger`` is used in the side process, and published when the program's first process
    ends; ``is_exact`` to look at connections before they are closed, whatever that costs.
    """

    kind: Kind
    architectures: tuple[Architecture, ...]
    only: "Selection | None" = None
    sndbuf: int = 0
    rcvbuf: int = 0
    ledger: Ledger | None = None
    is_exact: bool = False

    @property
    def watch(self) -> Watch:
        """What the filter has to tell."""
        watch = Watch.NOTHING
        if self.kind is AF_SMC_SOCKETS:
            watch |= Watch.SHARED_PORTS
        if self.only:
            watch |= Watch.ADDRESSES
        if self.ledger:
            watch |= Watch.ENDS
            if self.is_exact:
                watch |= Watch.CLOSES
        return watch

    @property
    def mark(self) -> str:
        """The file of a process in /proc by whose inode its network namespace is told.

        Of every process. With a selection only of those that can be looked into: what others
        connect to remains unknown, and their sockets TCP.
        """
        return "ns/net" if self.only else "net/dev"

    @property
    def socket_calls(self) -> bytes:
        """socket(2) of every architecture, as _syscalls.serve() takes it."""
        return b"".join(_PAIR.pack(each.audit, each.socket) for each in self.architectures)

    @property
    def exit_calls(self) -> bytes:
        """The same of exit_group(2)."""
        return b"".join(_PAIR.pack(each.audit, each.exit_group) for each in self.architectures)

    def open(self, domain: int, type: int) -> socket.socket:
        """A socket for the program."""
        sock = self.kind.open(domain, type)
        try:
            for option, size in ((socket.SO_SNDBUF, self.sndbuf), (socket.SO_RCVBUF, self.rcvbuf)):
                if size:
                    sock.setsockopt(socket.SOL_SOCKET, option, size)
        except BaseException:
            sock.close()
            raise
        return sock
