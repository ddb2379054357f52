"""Where the methods are put: on the class socket.socket, over whatever stands there.

They are set once and stay; install() and uninstall() change what they do. To set and
delete attributes of a class again and again is a race in free-threaded Pythons, and
sockets that outlive their installation go on under its settings.
"""

import functools
import os
import sys
import threading
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .._socket import StandardSocket
from . import _connecting, _listening, _opening, _required

__all__ = ["leave", "place", "place_required", "unfollowed"]

_METHODS = _opening.METHODS | _connecting.METHODS | _listening.METHODS

_classes: list[type] = [StandardSocket]
"""socket.socket; and what another execution of the module has made of it."""

_ours: set[Any] = set()
_is_required = False
_lock = threading.Lock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it


os.register_at_fork(after_in_child=_after_fork)


def place() -> None:
    """Puts the methods where they are not yet, or not any more."""
    with _lock:
        for cls in _classes:
            _put(cls, _METHODS)
            if _is_required:
                _put(cls, _required.METHODS)
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)


def place_required() -> None:
    """Also those that require_smc takes."""
    global _is_required
    _is_required = True
    place()
    _required.watch()
    try:
        import ssl
    except ImportError:  # a Python without ssl
        return
    # What its methods begin with that use the connection: an unfinished handshake is
    # part of their work, and OpenSSL's then is the descriptor.
    with _lock:
        _put(ssl.SSLSocket, {"_checkClosed": _required.METHODS["recv"]})


def leave() -> None:
    """Nothing is installed any more: no class needs to be followed from now on."""
    with _lock:
        if _finder in sys.meta_path:
            sys.meta_path.remove(_finder)


def _put(cls: type, methods: Mapping[str, Callable[[Any], Any]]) -> None:
    for name, method in methods.items():
        if vars(cls).get(name) not in _ours:
            before = getattr(cls, name)
            ours = functools.update_wrapper(method(before), before)
            _ours.add(ours)
            setattr(cls, name, ours)


def unfollowed() -> str | None:
    """What stands in the place of socket.socket and makes sockets that are none of it."""
    found = getattr(sys.modules.get("socket"), "socket", None)
    if isinstance(found, type) and not issubclass(found, tuple(_classes)):
        return f"{found.__module__}.{found.__qualname__}"
    return None


# ---- The module socket, executed again


class _Finder:
    """Finds the module socket as the others do, for importlib.reload() and the like."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "socket":
            return None
        for finder in sys.meta_path:
            if finder is not self:
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    if spec.loader is not None:
                        spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                    return spec
        return None


class _Loader:
    """Executes the module, and puts the methods on its class."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        spec.loader = self._loader
        module: ModuleType | None = self._loader.create_module(spec)
        spec.loader = self  # type: ignore[assignment]
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        cls = module.socket
        if cls not in _classes:
            _classes.append(cls)
            place()


_finder: Any = _Finder()
