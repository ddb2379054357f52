"""What the processes of a run have counted, where all of them can put it.

Memory that they share, of a file without a name, whose descriptor they inherit: nothing is
left behind, and it is no matter as which user a process runs by then. It stays when the
program closes all descriptors, as daemons do, or takes over the number. Each process keeps a
place of its own up to date, so that nothing is lost with one that is killed.

There are no locks, which somebody who is killed would hold for ever. A process that finds
another one in its place, as both took it at once, takes the next; and what it puts there is
all that it has counted.
"""

import fcntl
import json
import os
import resource
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

from .. import _smcsock
from ._report import Outcome
from ._system import is_alive, started, system

__all__ = ["Entry", "Spool", "Stage", "as_json"]

Counts: TypeAlias = dict[Outcome, int]

_PLACES = 2048
_USED = 2048  # where a byte for each place begins, other than 0 if it is in use
_PLACE = 4096
_SIZE = _PLACE + _PLACES * _PLACE

# A place: who has it, whether the report has taken it in; and twice what it has counted, as
# the one that is being written may never be finished.
_OWNER = struct.Struct("=QQQ")  # process, when it was started, interpreter
_TAKEN = _OWNER.size
_HALVES = (32, 32 + (_PLACE - 32) // 2)
_HEADER = struct.Struct("=QII")  # number, size and CRC; the higher number is valid
_SIZE_LIMIT = (_PLACE - 32) // 2 - _HEADER.size

_LEAVE = 24
"""How many numbers of descriptors are left above that of the spool, of a process's lowest limit."""

_encode, _decode = json.JSONEncoder(separators=(",", ":")).encode, json.JSONDecoder().decode


class Stage(IntEnum):
    """Of the report."""

    COUNTING = 0
    BEING_WRITTEN = 1
    WRITTEN = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """What one process has counted, and those that had its place before.

    ``is_open``: it has not said that this is all, and ``is_alive`` that it may still do so.
    ``others`` are processes that have ended, ``killed`` those of them that never said so.
    """

    pid: int
    is_open: bool
    is_alive: bool
    counts: Counts
    others: int
    killed: int
    at: int


class Spool:
    """The file; ``name`` is what another process finds it by."""

    def __init__(self, fd: int, name: list[int], interpreter: int = 0) -> None:
        self._fd = fd
        self.name = name
        self._memory = _smcsock.map_shared(fd, _SIZE)
        self._interpreter = interpreter
        self.after_fork()

    def after_fork(self) -> None:
        """In the child: it is another process, with a place of its own."""
        self._at = 0
        self._owner = b""
        self._number = 0
        self._before: Counts = {}
        self._others = self._killed = 0

    @classmethod
    def create(cls) -> "Spool":
        """A new one, to be inherited, under a number that programs do not expect to be free.

        Raises OSError.
        """
        low = os.memfd_create("smcsock-report", os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(low, _SIZE)
            # Nobody is to take memory away that others look at.
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(low, fcntl.F_ADD_SEALS, seals)
            limit = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1024)
            fd = fcntl.fcntl(low, fcntl.F_DUPFD, max(limit - _LEAVE, 3))
        finally:
            os.close(low)
        status = os.fstat(fd)
        return cls(fd, [fd, status.st_dev, status.st_ino, os.getpid()])

    @classmethod
    def find(cls, name: list[int], interpreter: int = 0) -> "Spool | None":
        """That of the run; None if this process cannot have it."""
        number, device, inode, first = name
        try:
            if _is(number, device, inode):
                return cls(number, name, interpreter)
            # Whoever started this process closed the descriptors, as subprocess does.
            for pid in (first, system.getppid()):
                fd = _taken_from(pid, name)
                if fd is not None:
                    return cls(fd, name, interpreter)
        except OSError:
            pass  # no memory to be had
        return None

    def close(self) -> None:
        """For the process that made it and goes no further."""
        system.close(self._fd)

    def fileno(self) -> int:
        """The descriptor, which the processes inherit."""
        return self._fd

    # ---- What a process has counted

    def put(self, counts: Counts, *, is_open: bool, pid: int = 0) -> bool:
        """Puts what this process has counted so far; False if that cannot be.

        ``pid`` is the process whose connections they are, if that is another one.
        """
        own = system.getpid()
        try:
            if not self._at or self._owner_of(self._at) != self._owner:
                self._take_place(own)
        except OSError:
            return False
        counts = Counter(self._before) + Counter(counts)
        for known in (counts, _briefly(counts)):
            entry = [pid or own, is_open, self._others, self._killed, as_json(known)]
            data = _encode(entry).encode()
            if len(data) <= _SIZE_LIMIT:
                self._write(data)
                return True
        return False

    def _write(self, data: bytes) -> None:
        self._number += 1
        at = self._at + _HALVES[self._number % 2]
        start = at + _HEADER.size
        self._memory[start : start + len(data)] = data
        _HEADER.pack_into(self._memory, at, self._number, len(data), zlib.crc32(data))

    def _take_place(self, own: int) -> None:
        self._owner = _OWNER.pack(own, started(own) or 0, self._interpreter)
        first = (own + 1031 * self._interpreter) % _PLACES
        for step in range(_PLACES):
            index = (first + step) % _PLACES
            at = _PLACE * (1 + index)
            if not self._memory[_USED + index]:
                if _is(self._fd, *self.name[1:3]):
                    system.posix_fallocate(self._fd, at, _PLACE)  # a page that is not to be
                    # had is an error here, and a signal when it is written to
                self._before, self._others, self._killed = {}, 0, 0
            elif not self._inherit(at):
                continue
            self._memory[at : at + _OWNER.size] = self._owner
            self._memory[_USED + index] = 1
            self._at = at
            return
        raise OSError("there are more processes than places")

    def _inherit(self, at: int) -> bool:
        """Goes on with what was counted by this process as another program, or one that ended."""
        entry = self._read(at)
        if entry is None:
            return False
        is_same = self._owner_of(at) == self._owner
        if not is_same and (entry.is_alive or entry.pid == self.name[3] or self.stage):
            return False
        self._before = entry.counts
        self._others = entry.others + (not is_same)
        self._killed = entry.killed + (not is_same and entry.is_open)
        self._number = max(_HEADER.unpack_from(self._memory, at + half)[0] for half in _HALVES)
        return True

    def _owner_of(self, at: int) -> bytes:
        return bytes(self._memory[at : at + _OWNER.size])

    # ---- The report

    def entries(self) -> Iterator[Entry]:
        """What there is of all processes."""
        for index in range(_PLACES):
            if self._memory[_USED + index]:
                entry = self._read(_PLACE * (1 + index))
                if entry is not None:
                    yield entry

    def _read(self, at: int) -> Entry | None:
        pid, start, _ = _OWNER.unpack_from(self._memory, at)
        data = self._data(at)
        if data is None:
            return None
        whose, is_open, others, killed, counted = _decode(data.decode())
        counts = {Outcome.from_dict(fields): fields["count"] for fields in counted}
        return Entry(whose, is_open, is_alive(pid, start), counts, others, killed, at)

    def _data(self, at: int) -> bytes | None:
        """The newest of what is there whole."""
        halves = [(_HEADER.unpack_from(self._memory, at + half), at + half) for half in _HALVES]
        for (number, size, crc), start in sorted(halves, reverse=True):
            if number and size <= _SIZE_LIMIT:
                start += _HEADER.size
                data = bytes(self._memory[start : start + size])
                if zlib.crc32(data) == crc:
                    return data
        return None

    @property
    def stage(self) -> Stage:
        """How far the report is."""
        return Stage(self._memory[0])

    def begin_report(self) -> bool:
        """Who has to write the report asks whether to; False if another process does."""
        if self.stage is not Stage.COUNTING:
            return False
        try:
            if _is(self._fd, *self.name[1:3]):
                system.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        except OSError:
            return False  # just now
        if self.stage is not Stage.COUNTING:
            return False
        self._memory[0] = Stage.BEING_WRITTEN
        return True

    def take(self, entry: Entry) -> None:
        """The report has what is in an entry."""
        self._memory[entry.at + _TAKEN] = 1

    def end_report(self) -> None:
        """All is taken in that is going to be."""
        self._memory[0] = Stage.WRITTEN

    @property
    def is_taken(self) -> bool:
        """Whether the report has what this process has put."""
        return bool(self._at and self._memory[self._at + _TAKEN])


def _taken_from(pid: int, name: list[int]) -> int | None:
    """The file from another process, under a number as high as there."""
    number, device, inode, *_ = name
    try:
        fd = system.open(f"/proc/{pid}/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if _is(fd, device, inode):
            return int(system.fcntl(fd, fcntl.F_DUPFD, number))
    except OSError:
        return None
    finally:
        system.close(fd)
    return None


def _is(fd: int, device: int, inode: int) -> bool:
    try:
        status = system.fstat(fd)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (device, inode)


def as_json(counts: Counts) -> list[dict[str, Any]]:
    """For JSON: each outcome with its count."""
    return [{"count": count, **outcome.as_dict()} for outcome, count in counts.items()]


def _briefly(counts: Counts) -> Counts:
    """The same without reasons."""
    result: Counter[Outcome] = Counter()
    for outcome, count in counts.items():
        result[Outcome(outcome.side, outcome.mode, refused=outcome.refused)] += count
    return result
