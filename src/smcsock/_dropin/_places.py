"""Where methods are put: on the class socket.socket, over whatever stands there.

They are set once and stay: to set and delete attributes of a class again and again is a
race in free-threaded Pythons, and sockets that outlive their installation go on under
its settings. Only where a program has undone a patch of its own, and ours with it, are
they put there anew; what a program has put over them is never touched.
"""

import _socket
import functools
import os
import sys
import threading
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import FunctionType, MethodDescriptorType, ModuleType, WrapperDescriptorType
from typing import Any, TypeAlias

from .._socket import StandardSocket

__all__ = ["is_standard", "leave", "members", "mend", "place", "size", "unfollowed"]

Methods: TypeAlias = Mapping[str, Callable[[Any], Any]]
"""By name what makes a method, given the one that stands there."""

_wanted: dict[str, dict[str, Callable[[Any], Any]]] = {"socket": {}, "ssl": {}}
"""By the module whose class it is."""

_classes: list[type] = [StandardSocket]
"""socket.socket; and what other executions of the module have made of it."""

_ours: set[Any] = set()
members = StandardSocket.__dict__
size = 0
"""How many members StandardSocket has with ours: if they are fewer, mend()."""

_was_lost = False
_lock = threading.Lock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it


os.register_at_fork(after_in_child=_after_fork)


def place(methods: Methods, tls: Methods | None = None) -> None:
    """Puts methods where they are not yet, or not any more; ``tls``: on ssl.SSLSocket."""
    tls = tls or {}
    with _lock:
        _wanted["socket"].update(methods)
        _wanted["ssl"].update(tls)
        for cls in _classes:
            _put(cls, methods)
        _follow()
        if "ssl" in sys.modules:
            _put_tls(sys.modules["ssl"], tls)
        _measure()
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)


def _follow() -> None:
    """Puts all of them on classes that the module socket has made anew."""
    for cls in _socket.socket.__subclasses__():
        if cls not in _classes and (cls.__module__, cls.__qualname__) == ("socket", "socket"):
            _classes.append(cls)
            _put(cls, _wanted["socket"])


def leave() -> None:
    """Nothing is installed any more: no class needs to be followed from now on."""
    with _lock:
        if _finder in sys.meta_path:
            sys.meta_path.remove(_finder)


def mend() -> None:
    """Puts methods again where a program that undid its patch has put back what was before."""
    global _was_lost
    if len(members) == size and _is_ours(StandardSocket.__init__):
        return
    with _lock:
        for name, method in _wanted["socket"].items():
            found = vars(StandardSocket).get(name)
            if found is None or is_standard(found):
                _was_lost |= name == "__init__"
                _put(StandardSocket, {name: method})
        _measure()


def _measure() -> None:
    global size
    size = len(members)


def _put(cls: type, methods: Methods) -> None:
    for name, method in methods.items():
        if not _is_ours(vars(cls).get(name)):
            before = _standing(cls, name)
            ours = functools.update_wrapper(method(before), before)
            _ours.add(ours)
            setattr(cls, name, ours)


def _put_tls(module: Any, methods: Methods) -> None:
    cls = getattr(module, "SSLSocket", None)
    if isinstance(cls, type) and issubclass(cls, tuple(_classes)):
        _put(cls, methods)


def _is_ours(found: object) -> bool:
    return isinstance(found, FunctionType) and found in _ours


def _standing(cls: type, name: str) -> Any:
    """What stands in a class, to be called with the object as functions there are."""
    found = next(vars(base)[name] for base in cls.__mro__ if name in vars(base))
    if type(found) in _FUNCTIONS:
        return found

    # As a mock, which is not told of the object and may say that it is a function; a staticmethod.
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        bind = getattr(type(found), "__get__", None)
        return (bind(found, self, type(self)) if bind else found)(*args, **kwargs)

    call.__name__ = name
    return call


_FUNCTIONS = (FunctionType, MethodDescriptorType, WrapperDescriptorType)


def is_standard(function: Any) -> bool:
    """Whether a function is one of the module socket, and nobody's patch."""
    return (
        isinstance(function, FunctionType)
        and function not in _ours
        and function.__globals__.get("__name__") == "socket"
    )


def unfollowed() -> list[str]:
    """What has made, or makes, sockets that smcsock knows nothing of."""
    reasons = []
    found: Any = getattr(sys.modules.get("socket"), "socket", None)
    is_other = issubclass(type(found), type) and not issubclass(found, tuple(_classes))
    # What is derived from none of the two opens its sockets through one of them.
    if is_other and any(cls not in _classes for cls in _socket.socket.__subclasses__()):
        name = f"{found.__module__}.{found.__qualname__}"
        reasons.append(f"{name} stands in the place of socket.socket: its sockets are {_TCP}")
    if _was_lost or is_standard(StandardSocket.__init__):
        reasons.append(f"a socket.socket.__init__ from before was put back: its sockets are {_TCP}")
    return reasons


_TCP = "plain TCP, and not counted"


# ---- The modules, executed again


class _Finder:
    """Finds the modules as the others do, for importlib.reload() and the like."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in _wanted:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None
            if finder is not self and find is not None:
                spec = find(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """Executes the module, and puts the methods on its class."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        spec.loader = self._loader
        try:
            module: ModuleType | None = self._loader.create_module(spec)
        finally:
            spec.loader = self  # type: ignore[assignment]
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        if _finder in sys.meta_path:  # else it is no more wanted
            with _lock:
                _follow()
                _put_tls(module, _wanted["ssl"])


_finder: Any = _Finder()
