"""What became of the connections of a program: counted by mode and reason."""

import contextlib
import os
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from .. import _plain
from .._kernel._machine import entries, read, smcd_devices, smcr_devices
from .._kernel._reasons import Reason, reason
from .._kernel._smc_info import Mode, SmcInfo, decode
from .._kernel._sock_diag import records
from ._system import Budget, now, system

__all__ = [
    "NOT_ASKED",
    "NOT_SELECTED",
    "NO_SMC",
    "Outcome",
    "Report",
    "Side",
    "lines",
    "with_modes",
]

Side: TypeAlias = Literal["connect", "accept"]

NOT_SELECTED = "not selected"
NO_SMC = "this kernel has no SMC"
NOT_ASKED = "it ended before the kernel was asked"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a connection turned out to be.

    ``side`` is "connect" or "accept". ``mode`` is None for a connection that is SMC,
    but SMC-D or SMC-R nobody knows. ``reason`` and ``peer_reason`` are those of a
    fallback; ``note`` says what the kernel cannot: why it was not asked for SMC, or why
    mode or reason are not known. ``refused`` if SMC was required and the connection
    therefore ended.
    """

    __module__ = "smcsock"

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
    why it fell back, the kernel's smc_diag is asked when one of them ends, for all in
    one go, and when the report is read. As that takes the kernel the longer the more
    SMC sockets there are, it is asked no more often than costs a fiftieth of the time;
    of connections that end in between the kind is known where there is but one.
    ``str()`` is a table for people. A process that is forked begins at zero.
    """

    __module__ = "smcsock"

    def __init__(self) -> None:
        self._reset()
        self._changed: Callable[[Callable[[], dict[Outcome, int]]], None] | None = None
        _reports.add(self)

    def _reset(self) -> None:
        self._lock = system.RLock()  # a signal handler may ask for the report
        self._counts: Counter[Outcome] = Counter()
        self._waiting: dict[int, tuple[Side, bool]] = {}
        self._waiting_counts: Counter[tuple[Side, bool]] = Counter()
        self._budget = Budget()

    def connections(self) -> dict[Outcome, int]:
        """How many connections there were so far of each outcome; asks the kernel."""
        with self._lock:
            self._settle()
            return with_modes(self._counts)

    def __str__(self) -> str:
        return "\n".join(lines(self.connections()))

    # ---- For the installation: these raise nothing of their own

    def add(self, outcome: Outcome) -> None:
        """Counts what is known."""
        with self._lock:
            self._counts[outcome] += 1
            self._tell()

    def opened(self, inode: int, side: Side, fell_back: bool) -> None:
        """Counts a connection, known by the inode of its socket."""
        with self._lock:
            self._take(inode, NOT_ASKED)  # one that nobody was told of the end of
            self._waiting[inode] = side, fell_back
            self._waiting_counts[side, fell_back] += 1
            # Why, is what people want to know; and nobody need ever close it.
            if fell_back and self._budget.is_left:
                self._settle()
            self._tell()

    def closing(self, inode: int) -> None:
        """To be called before a connection that was counted is no more."""
        if inode not in self._waiting:
            return
        with self._lock:
            if self._budget.is_left:
                self._settle()
            else:
                self._take(inode, NOT_ASKED)
            self._tell()

    def so_far(self) -> dict[Outcome, int]:
        """How many there were, without asking the kernel."""
        with self._lock:
            counts = Counter(self._counts)
            for known, count in self._waiting_counts.items():
                if count:
                    counts[_outcome(*known, None, NOT_ASKED)] += count
            return counts

    def when_changed(self, tell: Callable[[Callable[[], dict[Outcome, int]]], None] | None) -> None:
        """Has somebody told of the counts so far whenever they change."""
        self._changed = tell

    def _tell(self) -> None:
        if self._changed is not None:
            with contextlib.suppress(Exception):
                self._changed(self.so_far)

    def _settle(self) -> None:
        # They wait on until the answer is there: the handler of a signal may ask meanwhile,
        # and end the process.
        asked = list(self._waiting)
        if not asked:
            return
        note = NOT_ASKED
        found: dict[int, SmcInfo] = {}
        began = now()
        try:
            for record in records(asked):
                info = decode(record, _plain.AF_INET)
                if info.inode is not None:
                    found[info.inode] = info
        except Exception as error:
            note = getattr(error, "strerror", None) or str(error)
        self._budget.spend(began)
        for inode in asked:
            self._take(inode, note, found.get(inode))

    def _take(self, inode: int, note: str, info: SmcInfo | None = None) -> None:
        """Counts a connection that was waiting."""
        known = self._waiting.pop(inode, None)
        if known is not None:
            self._waiting_counts[known] -= 1
            self._counts[_outcome(*known, info, note)] += 1


_reports: weakref.WeakSet[Report] = weakref.WeakSet()


def _after_fork() -> None:
    for report in list(_reports):
        report._reset()


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


def with_modes(counts: dict[Outcome, int]) -> dict[Outcome, int]:
    """The same, with the kind of SMC where that is not known but there is but one."""
    result: Counter[Outcome] = Counter()
    kind = _only_kind() if any(outcome.mode is None for outcome in counts) else None
    for outcome, count in counts.items():
        if outcome.mode is None and kind is not None:
            outcome = replace(outcome, mode=kind, note="")
        result[outcome] += count
    return result


def _only_kind() -> Mode | None:
    """What an SMC connection of this machine must be; None if it could be either."""
    root = Path("/")
    if not entries(root / "sys/class"):
        return None  # nothing is to be seen here
    if not smcr_devices(root):
        return Mode.SMCD
    # loopback-ism shows nowhere but in the code of the module that brings it.
    symbols = read(root / "proc/kallsyms")
    if smcd_devices(root) or not symbols or " smc_lo_" in symbols or "\tsmc_lo_" in symbols:
        return None
    return Mode.SMCR
