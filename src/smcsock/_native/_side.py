"""The side process: a watchdog that holds the listener, and the worker that it keeps alive.

As long as either lives, a thread that waits for an answer gets one. Both end when no process
is under the filter any more.
"""

import contextlib
import os
import resource
import signal
import socket
import struct
import time
from mmap import PAGESIZE, mmap

from . import _syscalls
from ._notification import SIZE, Notification, can_give
from ._plan import Ledger, Plan
from ._worker import End, Worker

__all__ = ["FD", "NOT_SUPPORTED", "READY", "STARTED", "side_process"]

FD = struct.Struct("=i")
"""A descriptor in a control message."""

STARTED = b"started"
"""What the side process says first, before there is a filter."""

READY, NOT_SUPPORTED = b"ready", b"not supported"
"""What it says when it has the listener."""

_AGAIN = 0.1
"""Seconds until another attempt when there is no process to be had, or none that lives so long."""


def side_process(plan: Plan, channel: socket.socket, program: int) -> None:
    """What the side process does until the end: waits for the listener, then serves it."""
    _withdraw(channel, plan.ledger)
    channel.send(STARTED)
    _, control, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(FD.size))
    if not control:
        return  # the program could not have a filter
    (listener,) = FD.unpack(control[0][2])
    request = mmap(-1, PAGESIZE)  # shared with the workers
    if not can_give(listener):
        channel.send(NOT_SUPPORTED)
        # The filter is there to stay: who says why has calls in it to make until the end.
        while _stand_in(listener, request) is not End.DONE:
            pass
        return
    channel.send(READY)
    channel.close()
    _occupy()
    while (outcome := _run_worker(plan, listener, request, program)) is not End.DONE:
        _release(listener, request)
        if outcome is End.REPORTED:
            # Nobody waits any more for standard error to end but who reads it.
            plan = plan._replace(ledger=None)
            _silence({2})


def _withdraw(channel: socket.socket, ledger: Ledger | None) -> None:
    """Leaves the program alone: its signals, session, directory and files."""
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # who ignores it is not told how a child ended
    os.setsid()
    os.chdir("/")
    name("smcsock")
    # The channel may be one of the first three, if the program has them closed.
    kept = {channel.fileno()}
    if ledger is not None:
        kept |= {2, ledger.fileno()}
    _silence({0, 1, 2} - kept)
    _close_all_but(kept | {0, 1, 2})
    _occupy()
    # The program's limit is not this process'.
    with contextlib.suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _silence(fds: set[int]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in fds - {null}:
        os.dup2(null, fd)
    if null not in fds:
        os.close(null)


def _occupy() -> None:
    """Lets nothing else have a number of the first three: what is written there is for people."""
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(null)


def _close_all_but(kept: set[int]) -> None:
    """os.closerange() tries every number where the C library, as musl, has no close_range()."""
    try:
        found = [int(fd) for fd in os.listdir("/proc/self/fd")]
    except OSError:
        found = [*range(os.sysconf("SC_OPEN_MAX"))]
    for fd in found:
        if fd not in kept:
            with contextlib.suppress(OSError):  # that of the directory itself
                os.close(fd)


def _run_worker(plan: Plan, listener: int, request: mmap, program: int) -> End:
    try:
        pid = os.fork()
    except OSError:
        return _stand_in(listener, request)
    if pid == 0:
        outcome = End.DIED
        try:
            name("smcsock-worker")
            outcome = Worker(plan, listener, request, program).run()
        finally:
            os._exit(outcome.value)
    begin = time.monotonic()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code in (End.DONE.value, End.REPORTED.value):
        return End(code)
    if time.monotonic() - begin < _AGAIN:
        # It may not be the last that cannot live.
        if code > 0:
            _release(listener, request)
            return _stand_in(listener, request)
        time.sleep(_AGAIN)
    return End.DIED


def _stand_in(listener: int, request: mmap) -> End:
    """For a while without a worker: lets the kernel do what it is asked for."""
    until = time.monotonic() + _AGAIN
    while (left := until - time.monotonic()) > 0:
        event = _syscalls.serve(
            listener, -1, request, b"", b"", 0, (0, 0), (0, 0), 0, 0, "", 0, int(left * 1000) + 1
        )
        if event == _syscalls.END:
            return End.DONE
        _release(listener, request)
    return End.DIED


def _release(listener: int, request: mmap) -> None:
    """Lets the kernel do what it was asked for when the worker died."""
    held = Notification.unpack(listener, request[:SIZE])
    if held.id:
        held.go_on()
        request[:8] = bytes(8)


def name(text: str) -> None:
    """The name that ps shows with -o comm, in logs of the kernel too."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "wb") as comm:
        comm.write(text.encode())
