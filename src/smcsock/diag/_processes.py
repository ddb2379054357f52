"""The processes that have sockets open.

Source: proc_pid_fd(5).
"""

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Process", "socket_processes"]

_PROC = Path("/proc")


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
    for directory in _PROC.iterdir() if _PROC.exists() else ():
        if not directory.name.isdecimal():
            continue
        try:
            _add_sockets(directory, found)
        except PermissionError:
            hidden += 1
        except OSError:  # it has ended
            continue
    return found, hidden


def _add_sockets(directory: Path, found: dict[int, list[Process]]) -> None:
    name = None
    with os.scandir(directory / "fd") as entries:
        for entry in entries:
            try:
                target = os.readlink(entry.path)
            except OSError:  # closed meanwhile
                continue
            if not target.startswith("socket:["):
                continue
            if name is None:
                comm = (directory / "comm").read_bytes()
                name = comm.removesuffix(b"\n").decode(errors="backslashreplace")
            process = Process(name, int(directory.name), int(entry.name))
            found.setdefault(int(target[8:-1]), []).append(process)
