"""What an installation asks for, and which one counts."""

import os
import threading
from dataclasses import dataclass

from .._socket import Fallback
from ._report import Report
from ._selection import Selection

__all__ = ["Settings", "current", "pop", "push", "remove"]


@dataclass(frozen=True, eq=False, slots=True)
class Settings:
    """What install() was told; ``sndbuf`` and ``rcvbuf`` in bytes."""

    require_smc: bool = False
    fallback: Fallback | None = None
    only: Selection | None = None
    report: Report | None = None
    sndbuf: int | None = None
    rcvbuf: int | None = None

    is_simple: bool = False  # nothing need be known of a socket but what the kernel tells


current: Settings | None = None
"""The last of those that are installed: to be read as an attribute of this module."""

_installed: list[Settings] = []
_lock = threading.Lock()


def push(settings: Settings) -> None:
    """Lets these settings count."""
    global current
    with _lock:
        _installed.append(settings)
        current = settings


def pop() -> None:
    """Lets the settings count that did before the last push(); nothing if there are none."""
    global current
    with _lock:
        if _installed:
            _installed.pop()
        current = _installed[-1] if _installed else None


def remove(settings: Settings) -> None:
    """Takes these settings away, wherever they are; nothing if they are not there."""
    global current
    with _lock:
        if settings in _installed:
            _installed.remove(settings)
        current = _installed[-1] if _installed else None


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it


os.register_at_fork(after_in_child=_after_fork)
