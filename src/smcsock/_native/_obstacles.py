"""What stands in the way of a program's sockets, as far as it shows beforehand."""

import errno
import os
import socket
import stat

from . import _syscalls
from ._kind import is_smc
from ._launch import PR_GET_NO_NEW_PRIVS, WALL

__all__ = ["gains_privileges", "is_already_there", "may_look_into_processes"]

_CAP_SYS_ADMIN = 21


def is_already_there() -> bool:
    """Whether this process' TCP sockets are SMC sockets already, whoever sees to that."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        return is_smc(sock)


def may_look_into_processes(*, take_files: bool) -> bool:
    """Whether a process may look into one of the same user's that it has not started.

    Where Yama or a seccomp profile, as that of a container, does not let it, it cannot read the
    other's memory, or take its files. Some profiles forbid only this.
    """
    here = os.getpid()
    with open(os.devnull, "rb") as file:
        pid = _syscalls.clone()  # what os.fork() starts has no status where SIGCHLD is ignored
        if pid == 0:
            may = False
            try:
                may = _may_look_into(here, file.fileno() if take_files else None)
            finally:
                os._exit(not may)
        _, status = os.waitpid(pid, WALL)
    return status == 0


def _may_look_into(pid: int, file: int | None) -> bool:
    try:
        if file is not None:
            _syscalls.pidfd_getfd(os.pidfd_open(pid), file)
        _syscalls.process_vm_readv(pid, 0, 1)
    except OSError as error:
        return error.errno == errno.EFAULT  # it may, but nothing is there
    return True


def gains_privileges(path: str) -> bool:
    """Whether a program has privileges that it would not get under this process' filter.

    That takes no_new_privs of who has no CAP_SYS_ADMIN: setuid, setgid and capabilities of files
    are then without effect. root has the capabilities as it is.
    """
    if _has_sys_admin() or _syscalls.prctl(PR_GET_NO_NEW_PRIVS, 0):
        return False
    try:
        status = os.stat(path)
        if os.statvfs(path).f_flag & os.ST_NOSUID:
            return False
        capabilities = "security.capability" in os.listxattr(path)
    except OSError:
        return False
    return bool(
        (status.st_mode & stat.S_ISUID and status.st_uid != os.geteuid())
        or (status.st_mode & stat.S_ISGID and status.st_gid != os.getegid())
        or (capabilities and os.geteuid() != 0)
    )


def _has_sys_admin() -> bool:
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        effective = next(line for line in file if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) & 1 << _CAP_SYS_ADMIN)
