"""Puts this process under the filter, and the side process beside it."""

import errno
import os
import socket

from . import _syscalls
from ._filter import assemble
from ._plan import Plan
from ._side import FD, NOT_SUPPORTED, READY, STARTED, side_process

__all__ = ["PR_GET_NO_NEW_PRIVS", "WALL", "NativeError", "begin", "set_filter"]

_SECCOMP_SET_MODE_FILTER = 1
_SPEC_ALLOW, _NEW_LISTENER, _WAIT_KILLABLE_RECV = 1 << 2, 1 << 3, 1 << 5
_TOLD = _NEW_LISTENER | _WAIT_KILLABLE_RECV
_PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS = 38, 39
WALL = 0x40000000

_CANNOT = {
    errno.EBUSY: "another program that answers its system calls (seccomp user notification) "
    "is already there, as in some containers and sandboxes: run this outside of it",
    errno.EPERM: "seccomp(2) is forbidden here: look at what confines this process (a "
    "container's seccomp profile, SystemCallFilter= of a systemd service)",
    errno.ENOSYS: "this kernel has no seccomp(2) (CONFIG_SECCOMP_FILTER), or what confines "
    "this process hides it",
    errno.EINVAL: "this kernel has no seccomp user notification that can give a program its "
    "socket: it needs Linux 5.14",
}


_ENDED = (
    "the process that is to open SMC sockets has ended, or could not start (a limit of processes: "
    "ulimit -u, pids.max of a cgroup, TasksMax= of a systemd service)"
)


class NativeError(OSError):
    """Why the program's sockets cannot be SMC sockets; the text says what to do."""


def begin(plan: Plan) -> None:
    """From here on TCP sockets of this process and its children are those of the plan.

    For a process of one thread that is about to execute the program. Raises NativeError.
    """
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here:
        with there:
            _start(plan, there)
        # Not without it: the filter is there to stay, and what it stops waits for an answer.
        if here.recv(64) != STARTED:
            raise NativeError(errno.ECHILD, _ENDED)
        listener = set_filter(assemble(plan.architectures, plan.watch), _TOLD)
        try:
            control = socket.SOL_SOCKET, socket.SCM_RIGHTS, FD.pack(listener)
            here.sendmsg([b"x"], [control])
            # Not before it is there: who waits for an answer of nobody gets ENOSYS.
            answer = here.recv(64)
        except ConnectionError:
            answer = b""
        finally:
            os.close(listener)
        if answer == NOT_SUPPORTED:
            raise NativeError(errno.EINVAL, _CANNOT[errno.EINVAL])
        if answer != READY:
            raise NativeError(errno.ECHILD, _ENDED)


def _start(plan: Plan, channel: socket.socket) -> None:
    """Starts the side process, which is none of this process' children, if that can be.

    Programs that wait for children of any kind (strace) would wait for it. If this is a
    process that orphans are given to, it is a child that wait() itself does not see.
    """
    program = os.getpid()
    is_reaper = program == 1 or _syscalls.is_child_subreaper()
    pid = _syscalls.clone()
    if pid == 0:
        status = 1
        try:
            if is_reaper or os.fork() == 0:
                side_process(plan, channel, program)
            status = 0
        finally:
            os._exit(status)
    if not is_reaper:
        os.waitpid(pid, WALL)


def set_filter(program: bytes, flags: int = 0) -> int:
    """Puts this process and its children under a filter; what seccomp(2) returns.

    Raises NativeError.
    """
    flags |= _SPEC_ALLOW
    while True:
        try:
            return _syscalls.seccomp(_SECCOMP_SET_MODE_FILTER, flags, program)
        except OSError as error:
            if error.errno == errno.EACCES and not _syscalls.prctl(PR_GET_NO_NEW_PRIVS, 0):
                # Only who has CAP_SYS_ADMIN may have a filter without this.
                _syscalls.prctl(_PR_SET_NO_NEW_PRIVS, 1)
            elif error.errno == errno.EINVAL and flags & _WAIT_KILLABLE_RECV:
                flags &= ~_WAIT_KILLABLE_RECV  # before Linux 5.19
            else:
                number = error.errno or errno.EPERM
                raise NativeError(number, _CANNOT.get(number, os.strerror(number))) from None
