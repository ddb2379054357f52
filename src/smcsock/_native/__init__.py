"""SMC for any program: its TCP sockets are opened by a process beside it.

A seccomp filter stops socket(2) of TCP in the program and its children, whatever they are
written in, and tells the side process, which opens an SMC socket and puts it into the program
in the place of the TCP socket (seccomp user notification). What else is done with the socket
goes to the kernel as ever.
"""

import errno
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from .._errors import NO_SMC
from ._architectures import BY_MACHINE, OPENING_BY_SOCKETCALL
from ._kind import TCP_SOCKETS, Kind, kind_here
from ._launch import NativeError, begin
from ._obstacles import gains_privileges, is_already_there, may_look_into_processes
from ._plan import Ledger, Plan

if TYPE_CHECKING:
    from .._dropin._selection import Selection

__all__ = ["TCP_SOCKETS", "NativeError", "Options", "kind_here", "prepare"]

_NEEDS_TO_LOOK = (
    "needs to look into the program's processes, which is forbidden here: by Yama (set the sysctl "
    "kernel.yama.ptrace_scope to 0, or run this as root), or by a container's seccomp profile "
    "(allow pidfd_getfd(2) and process_vm_readv(2), as Docker does with the capability "
    "CAP_SYS_PTRACE)"
)


class Options(NamedTuple):
    """How a program is to run.

    ``only`` are the addresses whose connections and servers may be SMC, None for all;
    ``sndbuf`` and ``rcvbuf`` bytes for each socket's buffers, 0 for what the kernel gives.
    ``ledger`` gets the counts of connections, and is published when the process ends that becomes
    the program; with ``is_exact`` the kernel is asked before any of them is closed. ``kind`` is
    for tests: None is what the kernel has.
    """

    only: "Selection | None" = None
    sndbuf: int = 0
    rcvbuf: int = 0
    ledger: Ledger | None = None
    is_exact: bool = False
    kind: Kind | None = None


def prepare(program: str, options: Options) -> bool:
    """Makes the TCP sockets that this process and its children open from now on SMC sockets.

    For a process of one thread that is about to execute ``program``, a path. False where they
    are SMC sockets already: then it is as it is, whatever the options say. Raises NativeError.
    """
    # In a Python that is itself run over SMC the sockets of this process are Python's matter.
    around = sys.modules.get("smcsock._dropin._install")
    if around:
        around.uninstall()
    if is_already_there():
        return False
    begin(_plan(program, options))
    return True


def _plan(program: str, options: Options) -> Plan:
    machine = os.uname().machine
    kind = options.kind or kind_here()
    if kind is None:
        raise NativeError(errno.EAFNOSUPPORT, NO_SMC)
    if machine not in BY_MACHINE:
        raise NativeError(errno.ENOSYS, f"the system calls of {machine} are not known")
    here = f"/proc/{os.getpid()}"
    if os.path.realpath("/proc/self") != here or not os.path.exists(f"{here}/ns/net"):
        raise NativeError(
            errno.ENOENT, "it needs /proc of this PID namespace, which is not mounted here"
        )
    if gains_privileges(program):
        raise NativeError(
            errno.EPERM,
            f"{program} has privileges of its own (setuid, setgid or capabilities), which it would "
            "run without (no_new_privs): run this command with them, as in 'sudo smcsock run'",
        )
    if options.only is not None and not may_look_into_processes(take_files=True):
        raise NativeError(errno.EPERM, f"a selection {_NEEDS_TO_LOOK}")
    if machine in OPENING_BY_SOCKETCALL and not may_look_into_processes(take_files=False):
        raise NativeError(
            errno.EPERM, f"socketcall(2), by which {machine} opens sockets, {_NEEDS_TO_LOOK}"
        )
    return Plan(
        kind=kind,
        architectures=BY_MACHINE[machine],
        only=options.only,
        sndbuf=options.sndbuf,
        rcvbuf=options.rcvbuf,
        ledger=options.ledger,
        is_exact=options.is_exact,
    )
