"""Modules that the kernel has loaded, told without making it look for them.

Whenever a process asks for a family or protocol that is not there, the kernel runs
modprobe and waits for it: what it lacks is remembered, until it has the module.
"""

import os

__all__ = ["is_loaded"]

_MODULES = "/sys/module"


def is_loaded(name: str) -> bool | None:
    """Whether a module is loaded; None if this process may not look."""
    if os.path.exists(f"{_MODULES}/{name}"):
        return True
    return False if os.access(_MODULES, os.X_OK) else None
