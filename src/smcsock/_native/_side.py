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

from ._notification import Notification, can_give
from ._plan import Plan
from ._worker import Worker

__all__ = ["FD", "NOT_SUPPORTED", "READY", "side_process"]

FD = struct.Struct("=i")
"""A descriptor in a control message."""

READY, NOT_SUPPORTED = b"ready", b"before Linux 5.14"
"""What the side process says when it has the listener."""

_AGAIN = 0.1
"""Seconds until another attempt when there is no process to be had."""


def side_process(plan: Plan, channel: socket.socket, program: int, kept: list[int]) -> None:
    """What the side process does until the end: waits for the listener, then serves it.

    ``kept`` are the descriptors that it goes on to need, besides the channel.
    """
    _withdraw(channel, kept)
    _, control, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(FD.size))
    if not control:
        return  # the program could not have a filter
    (listener,) = FD.unpack(control[0][2])
    if not can_give(listener):
        channel.send(NOT_SUPPORTED)
        return
    request = mmap(-1, PAGESIZE)  # shared with the workers
    channel.send(READY)
    channel.close()
    while not _worker_ends(plan, listener, request, program):
        _release(listener, request)


def _withdraw(channel: socket.socket, kept: list[int]) -> None:
    """Leaves the program alone: its signals, session, directory and files."""
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    os.setsid()
    os.chdir("/")
    name("smcsock")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    last = 2
    for fd in sorted({*kept, channel.fileno()}):
        os.closerange(last + 1, fd)
        last = fd
    os.closerange(last + 1, 2**31 - 1)
    # The program's limit is not this process'.
    with contextlib.suppress(ValueError, OSError):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _worker_ends(plan: Plan, listener: int, request: mmap, program: int) -> bool:
    """Runs a worker; whether it came to its end, instead of dying."""
    try:
        pid = os.fork()
    except OSError:
        time.sleep(_AGAIN)
        return False
    if pid == 0:
        status = 1
        try:
            name("smcsock-worker")
            Worker(plan, listener, request, program).run()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    return status == 0


def _release(listener: int, request: mmap) -> None:
    """Lets the kernel do what it was asked for when the worker died."""
    held = Notification.unpack(listener, request[: Notification.SIZE])
    if held.id:
        held.go_on()
        request[:8] = bytes(8)


def name(text: str) -> None:
    """The name that ps shows with -o comm, in logs of the kernel too."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "wb") as comm:
        comm.write(text.encode())
