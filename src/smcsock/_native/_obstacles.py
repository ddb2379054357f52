"""What stands in the way of a program's sockets, as far as it shows beforehand."""

import errno
import os
import socket
import stat

from . import _syscalls
from ._kind import is_smc
from ._launch import WALL

__all__ = ["gains_privileges", "is_already_there", "may_look_into_processes"]


def is_already_there() -> bool:
    """Whether this process' TCP sockets are SMC sockets already, whoever sees to that."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        return is_smc(sock)


def may_look_into_processes() -> bool:
    """Whether a process may look into one of the same user's that it has not started.

    Where Yama or a seccomp profile, as that of a container, does not let it, it cannot take the
    other's files, or read its memory.
    """
    here = os.getpid()
    with open(os.devnull, "rb") as file:
        pid = _syscalls.clone()  # what os.fork() starts has no status where SIGCHLD is ignored
        if pid == 0:
            may = False
            try:
                may = _may_look_into(here, file.fileno())
            finally:
                os._exit(not may)
        _, status = os.waitpid(pid, WALL)
    return status == 0


def _may_look_into(pid: int, file: int) -> bool:
    try:
        _syscalls.pidfd_getfd(os.pidfd_open(pid), file)
        _syscalls.process_vm_readv(pid, 0, 1)
    except OSError as error:
        return error.errno == errno.EFAULT  # it may, but nothing is there
    return True


def gains_privileges(path: str) -> bool:
    """Whether a program has more privileges than who starts it: setuid, setgid, capabilities.

    Under no_new_privs it does not get them, which root alone can do without.
    """
    if os.geteuid() == 0:
        return False
    try:
        status = os.stat(path)
        is_other = status.st_uid != os.geteuid() or status.st_gid != os.getegid()
        if status.st_mode & (stat.S_ISUID | stat.S_ISGID) and is_other:
            return True
        return "security.capability" in os.listxattr(path)
    except OSError:
        return False
