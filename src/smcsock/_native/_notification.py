"""A system call of the program that waits for its answer: seccomp_unotify(2)."""

import errno
import fcntl
import os
import struct
from typing import NamedTuple

from . import _syscalls

__all__ = ["SIZE", "Notification", "can_give"]

_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
SIZE = _NOTIFICATION.size
_RESPONSE = struct.Struct("=QqiI")  # struct seccomp_notif_resp
_ADDITION = struct.Struct("=QIIII")  # struct seccomp_notif_addfd
_ID = struct.Struct("=Q")

_FLAG_CONTINUE = 1
_ADDFD_SETFD, _ADDFD_SEND = 1, 2


class Notification(NamedTuple):
    """What a thread of the program asks of the kernel.

    ``pid`` is that of the thread, ``arch`` an AUDIT_ARCH_*, ``number`` that of the
    system call; ``listener`` the descriptor where the answer goes. An answer to a
    thread that is gone, or was answered, is no error.
    """

    listener: int
    id: int
    pid: int
    arch: int
    number: int
    args: tuple[int, ...]

    @classmethod
    def unpack(cls, listener: int, data: bytes) -> "Notification":
        """From a struct seccomp_notif."""
        id, pid, _, number, arch, _, *args = _NOTIFICATION.unpack(data)
        return cls(listener, id, pid, arch, number & 0xFFFFFFFF, tuple(args))

    @property
    def is_pending(self) -> bool:
        """Whether the thread still waits, so that ``pid`` was its number until now."""
        try:
            fcntl.ioctl(self.listener, _syscalls.IOCTL_ID_VALID, _ID.pack(self.id))
        except FileNotFoundError:
            return False
        return True

    def go_on(self) -> None:
        """Lets the kernel do what it was asked for."""
        self._respond(0, _FLAG_CONTINUE)

    def succeed(self) -> None:
        """Lets the call return 0 without doing anything."""
        self._respond(0, 0)

    def fail(self, number: int) -> None:
        """Lets the call fail with an errno."""
        self._respond(-number, 0)

    def give(self, fd: int, is_inheritable: bool) -> None:
        """Lets the call return a new descriptor, for the file behind ``fd`` of this process.

        Raises OSError if the program can have no more: EMFILE, ENFILE, ENOMEM.
        """
        flags = 0 if is_inheritable else os.O_CLOEXEC
        self._add(_ADDITION.pack(self.id, _ADDFD_SEND, fd, 0, flags))

    def put(self, fd: int, number: int, is_inheritable: bool) -> None:
        """Puts the file behind ``fd`` in the place of the program's descriptor ``number``."""
        flags = 0 if is_inheritable else os.O_CLOEXEC
        self._add(_ADDITION.pack(self.id, _ADDFD_SETFD, fd, number, flags))

    def _respond(self, error: int, flags: int) -> None:
        try:
            fcntl.ioctl(
                self.listener, _syscalls.IOCTL_SEND, _RESPONSE.pack(self.id, 0, error, flags)
            )
        except OSError as failure:
            _ignore_gone(failure)

    def _add(self, addition: bytes) -> None:
        try:
            fcntl.ioctl(self.listener, _syscalls.IOCTL_ADDFD, addition)
        except OSError as failure:
            _ignore_gone(failure)


def can_give(listener: int) -> bool:
    """Whether the kernel can let a call return a new descriptor: Linux 5.14."""
    try:
        fcntl.ioctl(listener, _syscalls.IOCTL_ADDFD, _ADDITION.pack(0, _ADDFD_SEND, listener, 0, 0))
    except OSError as error:
        return error.errno == errno.ENOENT  # there is no notification of that id
    return True


def _ignore_gone(error: OSError) -> None:
    if error.errno not in (errno.ENOENT, errno.EINPROGRESS):
        raise error
