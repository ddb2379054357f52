"""What the processes of a run have counted, where all of them can put it.

A file in memory, whose descriptor they inherit: no name, so that nothing is left behind,
and no matter as which user a process runs by then. Each process has a place of its own
in it and keeps it up to date, so that nothing is lost with one that is killed.
"""

import fcntl
import json
import os
import resource
from collections import Counter
from dataclasses import dataclass
from typing import Any, TypeAlias

from ._report import Outcome

__all__ = ["Entry", "Spool", "as_json"]

Counts: TypeAlias = dict[Outcome, int]

_PLACE = 16384
_PLACES = 16384
_SIZE_LIMIT = _PLACE - 1
_PUBLISHED = b"published"
_LEAVE = 24
"""How many numbers of descriptors are left above that of the spool, of a process's lowest limit."""

# As they are now: programs replace them, os._exit for instance.
_close, _fstat, _getpid, _open = os.close, os.fstat, os.getpid, os.open
_lseek, _pread, _pwrite = os.lseek, os.pread, os.pwrite


@dataclass(frozen=True, slots=True)
class Entry:
    """What one process has counted; ``is_open``: it has not said that this is all."""

    pid: int
    is_open: bool
    counts: Counts


class Spool:
    """The file; ``name`` is what another process finds it by."""

    def __init__(self, fd: int, name: list[int]) -> None:
        self._fd = fd
        self.name = name
        self._at = 0  # this process's place

    @classmethod
    def create(cls) -> "Spool":
        """A new one, to be inherited, under a number that programs do not expect to be free."""
        low = os.memfd_create("smcsock-report", 0)
        limit = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1024)
        try:
            fd = fcntl.fcntl(low, fcntl.F_DUPFD, max(limit - _LEAVE, 3))
        finally:
            os.close(low)
        status = os.fstat(fd)
        return cls(fd, [fd, status.st_dev, status.st_ino, os.getpid()])

    @classmethod
    def find(cls, name: list[int]) -> "Spool | None":
        """That of the run; None if this process cannot have it."""
        number, device, inode, pid = name
        if _is(number, device, inode):
            return cls(number, name)
        try:
            # Whoever started this process closed the descriptors, as subprocess does.
            fd = _open(f"/proc/{pid}/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        if _is(fd, device, inode):
            return cls(fd, name)
        _close(fd)
        return None

    def close(self) -> None:
        """For the process that made it and goes no further."""
        _close(self._fd)

    def after_fork(self) -> None:
        """In the child: it is another process, with a place of its own."""
        self._at = 0

    def put(self, counts: Counts, *, is_open: bool) -> bool:
        """Puts what this process has counted so far; False if that cannot be."""
        try:
            if not _is(self._fd, *self.name[1:3]):
                return False  # the program has closed it, or taken the number
            if not self._at:
                self._at = self._free_place()
            entry = {"pid": _getpid(), "open": is_open, "counts": as_json(counts)}
            data = json.dumps(entry).encode()
            if len(data) > _SIZE_LIMIT:
                entry["counts"] = as_json(_briefly(counts))
                data = json.dumps(entry).encode()
            _pwrite(self._fd, data + b"\0", self._at)
        except OSError:
            return False
        return True

    def _free_place(self) -> int:
        first = _getpid() % _PLACES
        for number in range(first, first + _PLACES):
            at = (1 + number % _PLACES) * _PLACE
            if not _pread(self._fd, 1, at).strip(b"\0"):
                return at
        raise OSError("the spool is full")

    def entries(self) -> list[Entry]:
        """What there is of all processes."""
        found = []
        at = _PLACE
        while (at := self._next(at)) >= 0:
            data = _pread(self._fd, _PLACE, at).partition(b"\0")[0]
            try:
                entry = json.loads(data)
            except ValueError:
                entry = None  # just being written
            if entry is not None:
                counts = {Outcome.from_dict(fields): fields["count"] for fields in entry["counts"]}
                found.append(Entry(entry["pid"], entry["open"], counts))
            at += _PLACE
        return found

    def _next(self, at: int) -> int:
        """The first place from there on that is in use; -1 if there is none."""
        try:
            return _lseek(self._fd, at, os.SEEK_DATA) // _PLACE * _PLACE
        except OSError:
            return -1

    @property
    def is_published(self) -> bool:
        """Whether the report has been written: who ends later has to write its own."""
        try:
            return _pread(self._fd, len(_PUBLISHED), 0) == _PUBLISHED
        except OSError:
            return True

    def set_published(self) -> None:
        """The report is being written."""
        try:
            _pwrite(self._fd, _PUBLISHED, 0)
        except OSError:
            return  # the program has closed the descriptor


def _is(fd: int, device: int, inode: int) -> bool:
    try:
        status = _fstat(fd)
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
