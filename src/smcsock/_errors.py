"""The errors that only SMC has."""

from __future__ import annotations

import errno
import os

from ._smcsock import HandshakeInterruptedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._kernel._smc_info import SmcInfo

__all__ = [
    "NO_SMC",
    "FallbackError",
    "HandshakeInterruptedError",
    "SMCUnsupportedError",
    "refused",
]

NO_SMC = (
    "this kernel has no SMC, or its module is not loaded: try 'modprobe smc' as root; if there "
    "is no such module, install the package with the full set of kernel modules (linux-image-* "
    "on Debian, linux-modules-extra-* on Ubuntu) or a kernel built with CONFIG_SMC"
)


class SMCUnsupportedError(OSError):
    """The kernel has no SMC (``errno`` is EAFNOSUPPORT)."""

    __module__ = "smcsock"

    def __init__(self, *args: object) -> None:
        text = (
            f"{os.strerror(errno.EAFNOSUPPORT)}: {NO_SMC}. To run over plain TCP instead, "
            'pass fallback="tcp" or set SMCSOCK_FALLBACK=tcp'
        )
        super().__init__(*(args or (errno.EAFNOSUPPORT, text)))


class FallbackError(ConnectionAbortedError):
    """A connection fell back to TCP though ``require_smc`` was asked; it was closed.

    ``peer`` is the address of the peer, ``info`` the :class:`SmcInfo` of the
    connection, or None where the kernel could not be asked (no smc_diag). ``errno``
    is EPROTONOSUPPORT.
    """

    __module__ = "smcsock"

    def __init__(self, message: str, peer: Any = None, info: SmcInfo | None = None) -> None:
        super().__init__(errno.EPROTONOSUPPORT, message)
        self.peer = peer
        self.info = info

    def __reduce__(self) -> tuple[type[FallbackError], tuple[Any, ...]]:
        return type(self), (self.strerror, self.peer, self.info)


def refused(peer: Any, ask: Callable[[], SmcInfo | None]) -> tuple[str, Any, SmcInfo | None]:
    """What FallbackError() is told of a connection; ``ask`` asks the kernel what it is."""
    try:
        info = ask()
        why = str(info or "TCP, for a reason unknown: it was no SMC socket")
    except OSError as error:  # no smc_diag, no descriptor left, no netlink in a sandbox
        info, why = None, f"TCP, for a reason unknown: {error.strerror}"
    return f"SMC was required but the connection is {why}", peer, info
