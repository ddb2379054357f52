"""How the descriptor of an SMC socket is opened, and what a kernel without SMC costs.

socket(2) makes a kernel that does not know AF_SMC look for its module: that happens once
in a process. From then on it is asked again only when it has the module.
"""

from __future__ import annotations

import errno
import os
import socket as _stdlib

from . import _smcsock
from ._errors import SMCUnsupportedError
from ._kernel._modules import is_loaded
from ._smcsock import IPPROTO_SMC, SMCPROTO_SMC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "SANDBOXED",
    "Opening",
    "had_smc",
    "has_smc",
    "lacks_smc",
    "open_ipproto_smc",
    "open_smc",
]

SANDBOXED = (errno.EACCES, errno.EPERM)
"""The errors of a process that may not open SMC sockets, whatever the kernel has."""

_TYPE_FLAGS = _stdlib.SOCK_NONBLOCK | _stdlib.SOCK_CLOEXEC

_PROTOCOLS = "/proc/net/protocols"

# What the kernel has said, None before it was asked. Set and read at once: needs no lock,
# and is right after a fork.
_was_lacking: bool | None = None
_was_lacking_ipproto = False


def has_smc() -> bool:
    """Whether this process can open SMC sockets; asks the kernel by opening one.

    The kernel may load its smc module to answer. Raises OSError when the question
    cannot be settled (no descriptor or memory left).
    """
    global _was_lacking
    try:
        fd = _smcsock.socket(_stdlib.SOCK_STREAM, SMCPROTO_SMC)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            _was_lacking = True
        elif error.errno not in SANDBOXED:
            raise
        return False
    os.close(fd)
    _was_lacking = False
    return True


def lacks_smc() -> bool:
    """Whether the kernel is known to have no SMC; makes it look for the module once at most."""
    if _was_lacking is None:
        try:
            has_smc()
        except OSError:
            return False
    return bool(_was_lacking) and not _is_loaded()


def open_smc(type: int, proto: int) -> int:
    """The descriptor of a new SMC socket, non-inheritable.

    ``type`` is SOCK_STREAM, with SOCK_NONBLOCK if wanted, ``proto`` SMCPROTO_SMC or
    SMCPROTO_SMC6. Raises SMCUnsupportedError where the kernel has no SMC, else OSError.
    """
    global _was_lacking
    # What is wrong with another type is the kernel's to say.
    if _was_lacking and type & ~_TYPE_FLAGS == _stdlib.SOCK_STREAM and not _is_loaded():
        raise SMCUnsupportedError
    try:
        fd = _smcsock.socket(type, proto)
    except OSError as error:
        # With SMCPROTO_SMC6 alone it is a kernel without IPv6.
        if error.errno != errno.EAFNOSUPPORT or (proto != SMCPROTO_SMC and _has_smc_for_ipv4()):
            raise
    else:
        _was_lacking = False
        return fd
    _was_lacking = True
    raise SMCUnsupportedError


def open_ipproto_smc(family: int) -> int:
    """The same of IPPROTO_SMC, for AF_INET or AF_INET6, where there are SMC sockets.

    Raises OSError: EPROTONOSUPPORT before Linux 6.11.
    """
    global _was_lacking_ipproto
    if _was_lacking_ipproto:
        raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))
    try:
        return _smcsock.socket(_stdlib.SOCK_STREAM, IPPROTO_SMC, family)
    except OSError as error:
        _was_lacking_ipproto = error.errno == errno.EPROTONOSUPPORT
        raise


def had_smc() -> bool:
    """Whether the kernel had SMC when it was last asked."""
    return _was_lacking is False


def _has_smc_for_ipv4() -> bool:
    return _lists_smc() is not False and has_smc()


def _is_loaded() -> bool:
    """Whether the kernel has got its smc module meanwhile."""
    loaded = is_loaded("smc")
    return bool(_lists_smc()) if loaded is None else loaded


def _lists_smc() -> bool | None:
    """Whether SMC is among the kernel's protocols; None if it does not tell."""
    try:
        with open(_PROTOCOLS, "rb") as file:
            return any(line.startswith(b"SMC ") for line in file)
    except OSError:
        return None


class Opening:
    """Stands for the descriptor of a new socket, which is opened when it is used as a number.

    _socket.socket takes the number after its audit event has passed, which is when the
    standard library calls socket(2), too.
    """

    __slots__ = ("_fd", "_open")

    def __init__(self, open: Callable[[], int]) -> None:
        self._open = open
        self._fd = -1

    def __index__(self) -> int:
        if self._fd < 0:
            self._fd = self._open()
        return self._fd

    def undo(self) -> None:
        """Closes the descriptor, if there is one, of a socket that came to nothing."""
        if self._fd >= 0:
            os.close(self._fd)
