"""Which methods there are, and when they are put in their places."""

from collections.abc import Callable
from typing import Any

from . import _connecting, _files, _listening, _opening, _required
from ._places import leave, place, unfollowed

__all__ = ["leave", "place_all", "place_required", "unfollowed"]

_METHODS = _opening.METHODS | _connecting.METHODS | _listening.METHODS


def _of_tls(name: str) -> Callable[[Any], Any]:
    """Makes a method of ssl.SSLSocket, once there is one."""

    def method(before: Any) -> Any:
        from .. import _ssl

        return getattr(_ssl, name)(before)

    return method


_TLS = {"read": _of_tls("reading"), "do_handshake": _of_tls("handshaking")}


def place_all() -> None:
    """Those of every installation; and those by which files are forgotten once any is known."""
    _files.when_known(lambda: place(_opening.ENDINGS))
    place(_METHODS, _TLS)


def place_required() -> None:
    """Also those that require_smc takes."""
    # What the methods of ssl.SSLSocket begin with that use the connection: an unfinished
    # handshake is part of their work, and OpenSSL's then is the descriptor.
    place(_required.METHODS, {"_checkClosed": _required.METHODS["recv"]})
    _required.watch()
