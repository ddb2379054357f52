"""Modules of the program's that have the name of one that smcsock imported before it started."""

import os
import sys
from importlib.machinery import PathFinder
from types import ModuleType

__all__ = ["give_way"]


def give_way(before: set[str]) -> None:
    """Lets the program have modules of its own whose names are those of what smcsock imported.

    ``before`` are the modules that there were without smcsock.
    """
    if sys.flags.safe_path:
        return
    place = ""
    if sys.argv[0] not in ("", "-", "-c", "-m"):
        place = os.path.realpath(sys.argv[0])
        if PathFinder.find_spec("__main__", [place]) is None:  # no directory, nor zipapp
            place = os.path.dirname(place)
    kept = {*before, *sys.builtin_module_names, "smcsock", "sitecustomize"}
    shadowed = {
        name
        for name, module in list(sys.modules.items())
        if "." not in name and name not in kept and _is_shadowed(name, module, place)
    }
    for name in list(sys.modules):
        if name.partition(".")[0] in shadowed:
            del sys.modules[name]


def _is_shadowed(name: str, module: ModuleType, place: str) -> bool:
    """Whether another module of that name is in a directory, or archive."""
    found = PathFinder.find_spec(name, [place])
    known = module.__spec__
    if found is None or found.origin is None or known is None:
        return False
    return found.origin != known.origin
