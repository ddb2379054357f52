"""What became of the connections of a program: counted by mode and reason."""

import os
import socket as _stdlib
import threading
import weakref
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ._info import Mode, SmcInfo, decode
from ._reasons import Reason, reason
from ._sock_diag import records

__all__ = ["Outcome", "Report"]

Side: TypeAlias = Literal["connect", "accept"]

NOT_SELECTED = "not selected"
NO_SMC = "this kernel has no SMC"
_NOT_LISTED = "it ended before the kernel was asked"

_MANY = 64
"""How many connections may wait until the kernel is asked about them."""

_ATTEMPTS = 3
"""A list of sockets may lack one because another one went away meanwhile."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a connection turned out to be.

    ``side`` is "connect" or "accept". ``mode`` is None for a connection that is SMC,
    but SMC-D or SMC-R nobody knows. ``reason`` and ``peer_reason`` are those of a
    fallback; ``note`` says what the kernel cannot: why it was not asked for SMC, or why
    mode or reason are not known. ``refused`` if SMC was required and the connection
    therefore ended.
    """

    side: Side
    mode: Mode | None
    reason: Reason | None = None
    peer_reason: Reason | None = None
    note: str = ""
    refused: bool = False

    def __str__(self) -> str:
        """As that of SmcInfo: "SMC-D", or "TCP (0x03010000: the peer ...)"."""
        text = str(SmcInfo(self.mode, self.reason, self.peer_reason)) if self.mode else "SMC"
        if self.note:
            text += f" ({self.note})"
        return f"{text}, refused" if self.refused else text

    @property
    def advice(self) -> list[str]:
        """What to do about a fallback."""
        return [code.advice for code in (self.reason, self.peer_reason) if code]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the reasons are codes."""
        return {
            "side": self.side,
            "mode": self.mode,
            "reason": self.reason.code if self.reason else None,
            "peer_reason": self.peer_reason.code if self.peer_reason else None,
            "note": self.note,
            "refused": self.refused,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Outcome":
        """The opposite of as_dict()."""
        mode, code, peer_code = fields["mode"], fields["reason"], fields["peer_reason"]
        return cls(
            fields["side"],
            Mode(mode) if mode else None,
            reason(code) if code else None,
            reason(peer_code) if peer_code else None,
            fields["note"],
            fields["refused"],
        )


class Report:
    """Counts the connections of an installation: smcsock.install(report=...).

    That a connection fell back shows when it is made. Which kind of SMC it is, or
    why it fell back, the kernel's smc_diag is asked about later, for all connections
    in one go: when one of them ends, or when there are many. ``str()`` is a table for
    people. A process that is forked begins at zero.
    """

    __module__ = "smcsock"

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may ask for the report
        self._counts: Counter[Outcome] = Counter()
        self._waiting: dict[int, tuple[Side, bool]] = {}
        _reports.add(self)

    def connections(self) -> dict[Outcome, int]:
        """How many connections there were so far of each outcome; asks the kernel."""
        with self._lock:
            self._settle()
            return dict(self._counts)

    def __str__(self) -> str:
        return "\n".join(lines(self.connections()))

    def _add(self, outcome: Outcome) -> None:
        with self._lock:
            self._counts[outcome] += 1

    def _opened(self, inode: int, side: Side, fell_back: bool) -> None:
        """Counts a connection, known by the inode of its socket."""
        with self._lock:
            self._waiting[inode] = side, fell_back
            if len(self._waiting) >= _MANY:
                self._settle()

    def _closing(self, inode: int) -> None:
        """To be called before a connection that was counted is no more."""
        with self._lock:
            if inode in self._waiting:
                self._settle()

    def _settle(self) -> None:
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        note = _NOT_LISTED
        try:
            found = _ask(waiting)
        except OSError as error:
            found = {}
            note = error.strerror or str(error)
        except BaseException:  # of the handler of a signal
            self._waiting = waiting | self._waiting
            raise
        for inode, (side, fell_back) in waiting.items():
            self._counts[_outcome(side, fell_back, found.get(inode), note)] += 1

    def _after_fork(self) -> None:
        self.__dict__.update(_lock=threading.RLock(), _counts=Counter(), _waiting={})


_reports: weakref.WeakSet[Report] = weakref.WeakSet()


def _after_fork() -> None:
    for report in list(_reports):
        report._after_fork()


os.register_at_fork(after_in_child=_after_fork)


def lines(counts: dict[Outcome, int], processes: int = 1) -> list[str]:
    """The report for people: a summary, then an outcome a line, then advice."""
    total = sum(counts.values())
    title = "1 connection" if total == 1 else f"{total or 'no'} connections"
    if processes > 1:
        title += f" in {processes} processes"
    modes: Counter[str] = Counter()
    for outcome, count in counts.items():
        modes[str(outcome.mode or "SMC") + (", refused" if outcome.refused else "")] += count
    summary = "; ".join(f"{count} {mode}" for mode, count in sorted(modes.items()))
    result = [f"{title}: {summary}" if summary else title]
    advice: dict[str, None] = {}
    width = len(str(max(counts.values(), default=0)))
    for outcome in sorted(counts, key=lambda o: (o.side != "connect", str(o))):
        verb = "connected" if outcome.side == "connect" else "accepted"
        result.append(f"  {counts[outcome]:{width}} {verb:9}  {outcome}")
        advice.update(dict.fromkeys(outcome.advice))
    return result + [f"  advice: {text}" for text in advice]


def _outcome(side: Side, fell_back: bool, info: SmcInfo | None, note: str) -> Outcome:
    if fell_back:
        if info is None or info.reason is None:
            return Outcome(side, Mode.TCP, note=f"for a reason unknown: {note}")
        return Outcome(side, Mode.TCP, info.reason, info.peer_reason)
    mode = info.mode if info else None
    return Outcome(side, mode, note="" if mode else f"SMC-D or SMC-R, unknown: {note}")


def _ask(inodes: dict[int, Any]) -> dict[int, SmcInfo]:
    """What the kernel knows of sockets, by their inodes; OSError if it cannot be asked."""
    found: dict[int, SmcInfo] = {}
    for _ in range(_ATTEMPTS):
        infos = (decode(record, _stdlib.AF_INET) for record in records(inodes))
        found.update((info.inode, info) for info in infos if info.inode in inodes)
        if len(found) == len(inodes):
            break
    return found
