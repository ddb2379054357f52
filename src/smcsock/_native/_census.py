"""Counts the connections of the program, without being asked by it.

An epoll set of the side process remains registered with a file after the descriptor that it
was registered by is closed: it goes on to tell when something happens to the program's
socket. Then smc_diag is asked about all sockets at once.
"""

import contextlib
import os
import resource
import select
import socket
import time
from collections import Counter

from .._dropin._report import NOT_SELECTED, Outcome
from .._kernel._smc_info import Address, Mode, SmcInfo, State, decode
from .._kernel._sock_diag import each_record
from ._plan import Ledger

__all__ = ["Census"]

_SHARE = 10
"""One part in so many of the time may go into asking smc_diag, which lists every socket."""

_MANY = 256
"""How many sockets are looked after before those that are closed are looked for."""

_SPARE = 32
"""How many descriptors are left for all else."""

_EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET


class Census:
    """Counts what became of the sockets that it is given, and of what they accept."""

    def __init__(self, ledger: Ledger, program: int) -> None:
        self._ledger: Ledger | None = ledger
        self._program = program
        self._counts: Counter[Outcome] = Counter()
        self._missed = 0
        self._events = select.epoll()
        self._sets: dict[int, select.epoll] = {}  # by the inode of the socket
        self._listening: dict[int, int] = {}  # inode to port
        self._accepted: set[tuple[int | None, Address]] = set()
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE
        self._until_tidy = min(_MANY, self._most)
        self._is_due = False
        self._not_before = 0.0
        self._end = -1
        try:
            self._end = os.pidfd_open(program)
        except ProcessLookupError:
            self.close()  # it ended when there was no worker
        else:
            self._events.register(self._end, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when look() has something to see."""
        return self._events.fileno()

    @property
    def is_closed(self) -> bool:
        """Whether the report is written, and there is nothing more to do."""
        return self._ledger is None

    @property
    def timeout(self) -> int:
        """Milliseconds until look() is to be called without that; -1 for never."""
        if not self._is_due:
            return -1
        return max(0, int((self._not_before - time.monotonic()) * 1000) + 1)

    def add(self, sock: socket.socket) -> None:
        """Looks after a socket that the program is going to get."""
        if self._until_tidy <= 0:
            self._tidy()
        self._until_tidy -= 1
        if len(self._sets) >= self._most:
            self._missed += 1  # there is no descriptor for it
            return
        events = select.epoll(1)
        events.register(sock, _EDGES)
        self._sets[os.fstat(sock.fileno()).st_ino] = events
        self._events.register(events, select.EPOLLIN | select.EPOLLET)

    def not_selected(self, inode: int) -> None:
        """Counts a connection that is to be TCP, of a socket that was SMC."""
        if self._forget(inode):
            self._counts[Outcome("connect", Mode.TCP, note=NOT_SELECTED)] += 1

    def look(self) -> None:
        """To be called when there is something to see: asks the kernel, unless just asked."""
        for fd, _ in self._events.poll(0):
            if fd == self._end:
                self.close()
                return
            self._is_due = True
        if self._is_due and time.monotonic() >= self._not_before:
            self.ask()

    def ask(self) -> None:
        """Counts the connections that are new since the last time."""
        if self._ledger is None:
            return
        self._is_due = False
        begin = time.monotonic()
        # Without smc_diag nothing is known, and all is missed.
        with contextlib.suppress(OSError):
            infos = [decode(record) for record in each_record()]
            self._count(infos)
            self._ledger.keep(dict(self._counts))
        end = time.monotonic()
        self._not_before = end + _SHARE * (end - begin)

    def ends(self, pid: int) -> None:
        """A process of the program is about to end: the first, or any if all are looked at."""
        self.ask()
        if pid == self._program:
            self.close()

    def close(self) -> None:
        """Publishes the counts, once."""
        if self._ledger is None:
            return
        self.ask()
        self._tidy()
        ledger, self._ledger = self._ledger, None
        ledger.keep(dict(self._counts))
        ledger.publish(self._missed)

    def _count(self, infos: list[SmcInfo]) -> None:
        for info in infos:
            if info.state is State.LISTEN and info.inode in self._sets and info.local:
                self._listening[info.inode] = info.local[1]
        accepted: set[tuple[int | None, Address]] = set()
        ports = set(self._listening.values())
        for info in infos:
            if info.mode is None or info.peer is None or info.local is None:
                continue
            if info.inode in self._sets and info.inode not in self._listening:
                self._forget(info.inode)
                self._counts[Outcome("connect", info.mode, info.reason, info.peer_reason)] += 1
            elif info.local[1] in ports:
                accepted.add((info.inode, info.peer))
                if (info.inode, info.peer) not in self._accepted:
                    outcome = Outcome("accept", info.mode, info.reason, info.peer_reason)
                    self._counts[outcome] += 1
        self._accepted = accepted

    def _tidy(self) -> None:
        """Forgets the sockets that were closed: those that were never counted are missed."""
        for inode, events in list(self._sets.items()):
            with open(f"/proc/self/fdinfo/{events.fileno()}", encoding="utf-8") as info:
                is_closed = "tfd:" not in info.read()
            if is_closed:
                self._forget(inode)
                self._missed += self._listening.pop(inode, None) is None
        # The next time when there are twice as many, or there is no room for more.
        count = len(self._sets)
        self._until_tidy = max(
            min(_MANY, self._most) // 4, min(max(_MANY, count), self._most - count)
        )

    def _forget(self, inode: int) -> bool:
        events = self._sets.pop(inode, None)
        if events is None:
            return False
        events.close()
        return True
