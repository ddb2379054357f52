"""A process of the program, from outside: its memory, its descriptors, what it is."""

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

from . import _syscalls

__all__ = ["Process"]

_MAX_ADDRESS = 128  # sizeof(struct sockaddr_storage)


class Process:
    """The process of a thread that waits for an answer, as long as ``waits()``.

    All raise OSError where the kernel does not allow it (ptrace_scope, another user), and
    ProcessLookupError where the thread is gone.
    """

    def __init__(self, thread: int, waits: Callable[[], bool] = lambda: True) -> None:
        self._thread = thread
        self._waits = waits

    @property
    def pid(self) -> int:
        with open(f"/proc/{self._thread}/status", encoding="utf-8", errors="replace") as status:
            for line in status:
                if line.startswith("Tgid:"):
                    return int(line.split()[1])
        raise ProcessLookupError

    def inode(self, file: str) -> int:
        """That of a file in its directory of /proc."""
        return os.stat(f"/proc/{self._thread}/{file}").st_ino

    def numbers(self, address: int, count: int, is_wide: bool) -> tuple[int, ...]:
        """Numbers in its memory, of 64 bits each or of 32."""
        layout = struct.Struct(f"={count}{'Q' if is_wide else 'I'}")
        return layout.unpack(self._read(address, layout.size))

    def address(self, address: int, length: int) -> tuple[Any, int] | None:
        """A socket address in its memory and the family; None if it is not one of IP."""
        data = self._read(address, min(length, _MAX_ADDRESS))
        family = int.from_bytes(data[:2], sys.byteorder)
        port = int.from_bytes(data[2:4], "big")
        if family == socket.AF_INET and len(data) >= 8:
            return (socket.inet_ntop(family, data[4:8]), port), family
        if family == socket.AF_INET6 and len(data) >= 24:
            return (socket.inet_ntop(family, data[8:24]), port), family
        return None

    @contextlib.contextmanager
    def borrow(self, number: int) -> Iterator[socket.socket]:
        """The socket behind one of its descriptors; OSError if that is no socket."""
        pidfd = os.pidfd_open(self.pid)
        try:
            if not self._waits():  # the number may be another's by now
                raise ProcessLookupError
            fd = _syscalls.pidfd_getfd(pidfd, number)
        finally:
            os.close(pidfd)
        try:
            # Room for any address of IP; the standard library cannot ask AF_SMC for one.
            sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, fd)
        except OSError:
            os.close(fd)
            raise
        with sock:
            yield sock

    def is_socket(self, number: int) -> bool:
        """Whether the file behind one of its descriptors is a socket."""
        return os.readlink(f"/proc/{self._thread}/fd/{number}").startswith("socket:")

    def is_inherited(self, number: int) -> bool:
        """Whether a program that the process executes has the descriptor, too."""
        with open(f"/proc/{self._thread}/fdinfo/{number}", encoding="utf-8") as info:
            for line in info:
                if line.startswith("flags:"):
                    return not int(line.split()[1], 8) & os.O_CLOEXEC
        return False

    def _read(self, address: int, size: int) -> bytes:
        data = _syscalls.process_vm_readv(self._thread, address, size)
        if len(data) < size:
            raise OSError("its memory ends there")
        return data
