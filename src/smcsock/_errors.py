"""The errors that only SMC has."""

from __future__ import annotations

import errno
import os

from ._smcsock import HandshakeInterruptedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._info import SmcInfo

__all__ = [
    "CONFINED",
    "NO_SMC",
    "DiagUnavailableError",
    "FallbackError",
    "HandshakeInterruptedError",
    "SMCUnsupportedError",
]

NO_SMC = (
    "this kernel has no SMC, or its module is not loaded: try 'modprobe smc' as root; if there "
    "is no such module, install the package with the full set of kernel modules (linux-image-* "
    "on Debian, linux-modules-extra-* on Ubuntu) or a kernel built with CONFIG_SMC"
)
CONFINED = (
    "this process may not open netlink sockets: look at what confines it (a container, "
    "seccomp, RestrictAddressFamilies= of a systemd service)"
)
_NO_DIAG = (
    "the kernel does not answer sock_diag queries about SMC sockets: its smc_diag module "
    "is not loaded ('modprobe smc_diag' as root; CONFIG_SMC_DIAG)"
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


class DiagUnavailableError(OSError):
    """The kernel cannot be asked about SMC sockets: smc_diag is missing."""

    __module__ = "smcsock"

    def __init__(self, *args: object) -> None:
        super().__init__(*(args or (errno.ENOENT, _NO_DIAG)))
