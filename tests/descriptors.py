"""The open descriptors of this process, to see that none is leaked."""

import contextlib
import os


def open_descriptors() -> set[str]:
    # The one that lists them is among them, and closed when it is looked at.
    return {fd for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")}


def open_sockets() -> set[str]:
    files = set()
    for fd in open_descriptors():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile, by another thread
            files.add(os.readlink(f"/proc/self/fd/{fd}"))
    return {file for file in files if file.startswith("socket:")}
