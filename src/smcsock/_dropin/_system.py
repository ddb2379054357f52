"""The operating system, for what smcsock asks it in the middle of a program.

As it is when smcsock is imported, which is before the program: programs replace functions
(os._exit), and test tools what modules have imported (freezegun the clock, pyfakefs the
files). Attributes of a class are out of their reach.
"""

import _thread
import os
import time
from fcntl import fcntl, lockf

__all__ = ["Budget", "is_alive", "now", "started", "system"]


class system:
    """Functions of C, called as they are; nothing is bound."""

    CLOCK_MONOTONIC = time.CLOCK_MONOTONIC
    RLock = _thread.RLock
    access = os.access
    clock_gettime = time.clock_gettime
    close = os.close
    exit = os._exit
    fcntl = fcntl
    fstat = os.fstat
    getpid = os.getpid
    getppid = os.getppid
    kill = os.kill
    lockf = lockf
    open = os.open
    posix_fallocate = os.posix_fallocate
    read = os.read
    sleep = time.sleep
    write = os.write


def started(pid: int) -> int | None:
    """When a process was started, by which it is told from a later one of its number.

    0 for one that only waits for its parent to ask how it ended; None where it cannot be
    seen: there is none, or /proc hides it.
    """
    try:
        fd = system.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fields = system.read(fd, 4096).rpartition(b")")[2].split()
    except OSError:
        return None
    finally:
        system.close(fd)
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def is_alive(pid: int, start: int) -> bool:
    """Whether a process is there that was started then; 0: nobody knows when."""
    found = started(pid)
    if found is not None:
        return found == start or (found != 0 and start == 0)
    try:
        system.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is another user's
    return True


def now() -> float:
    """Seconds of a clock that nobody sets."""
    return system.clock_gettime(system.CLOCK_MONOTONIC)


class Budget:
    """How much time something may take: one part in fifty, and 20 ms at once."""

    _SHARE = 50
    _AT_ONCE = 1.0  # that of so many seconds

    def __init__(self) -> None:
        self._again_at = 0.0

    @property
    def is_left(self) -> bool:
        """Whether it may be done again."""
        return now() >= self._again_at

    def spend(self, began: float) -> None:
        """It was done, and began then."""
        ended = now()
        paid_to = max(self._again_at, ended - self._AT_ONCE)
        self._again_at = paid_to + self._SHARE * (ended - began)
