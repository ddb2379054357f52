"""The processes that have sockets open.

Source: proc_pid_fd(5).
"""

import contextlib
import os
from dataclasses import dataclass

__all__ = ["Process", "socket_processes"]

_PROC = "/proc"


@dataclass(frozen=True, slots=True)
class Process:
    """A process that has a socket open: under which descriptor."""

    name: str
    pid: int
    fd: int


def socket_processes() -> tuple[dict[int, list[Process]], int]:
    """The processes that have sockets, by the sockets' inodes; how many hide theirs.

    Processes of other users hide what they have open, except from root
    (CAP_SYS_PTRACE). The name is the kernel's, of up to 15 bytes that the process chooses.
    """
    found: dict[int, list[Process]] = {}
    hidden = 0
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = os.listdir(_PROC)
    for pid in filter(str.isdecimal, names):
        try:
            _add_sockets(int(pid), found)
        except PermissionError:
            hidden += 1
        except OSError:  # it has ended
            continue
    return found, hidden


def _add_sockets(pid: int, found: dict[int, list[Process]]) -> None:
    name = None
    with os.scandir(f"{_PROC}/{pid}/fd") as entries:
        for entry in entries:
            try:
                target = os.readlink(entry.path)
            except OSError:  # closed meanwhile
                continue
            if not target.startswith("socket:["):
                continue
            if name is None:
                with open(f"{_PROC}/{pid}/comm", "rb") as file:
                    comm = file.read()
                name = comm.removesuffix(b"\n").decode(errors="backslashreplace")
            process = Process(name, pid, int(entry.name))
            found.setdefault(int(target[8:-1]), []).append(process)
