"""Which methods there are, and when they are put in their places."""

from . import _connecting, _listening, _opening, _required
from ._places import leave, place, unfollowed

__all__ = ["leave", "place_all", "place_required", "unfollowed"]

_METHODS = _opening.METHODS | _connecting.METHODS | _listening.METHODS


def place_all() -> None:
    """Those of every installation."""
    place(_METHODS)


def place_required() -> None:
    """Also those that require_smc takes."""
    # What the methods of ssl.SSLSocket begin with that use the connection: an unfinished
    # handshake is part of their work, and OpenSSL's then is the descriptor.
    place(_required.METHODS, {"_checkClosed": _required.METHODS["recv"]})
    _required.watch()
