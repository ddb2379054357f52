"""What stands in the way of a program's sockets, as far as it shows beforehand."""

import os
import socket
import stat
from pathlib import Path

from ._kind import is_smc

__all__ = ["gains_privileges", "is_already_there", "may_look_into_processes"]

_CAP_SYS_PTRACE = 19


def is_already_there() -> bool:
    """Whether this process' TCP sockets are SMC sockets already, whoever sees to that."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        return is_smc(sock)


def may_look_into_processes(root: Path = Path("/")) -> bool:
    """Whether processes of one user may read each other's memory and take files (Yama)."""
    try:
        scope = int((root / "proc/sys/kernel/yama/ptrace_scope").read_text())
    except OSError:
        return True
    return scope == 0 or (scope < 3 and _has_capability(root, _CAP_SYS_PTRACE))


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


def _has_capability(root: Path, number: int) -> bool:
    for line in (root / "proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False
