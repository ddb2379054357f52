"""The errors that only SMC has."""

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._info import SmcInfo

__all__ = ["DiagUnavailableError", "FallbackError", "SMCUnsupportedError"]


class SMCUnsupportedError(OSError):
    """The kernel has no SMC (``errno`` is EAFNOSUPPORT)."""

    __module__ = "smcsock"

    def __init__(self, *args: object) -> None:
        super().__init__(*(args or (errno.EAFNOSUPPORT, _UNSUPPORTED)))


_UNSUPPORTED = (
    f"{os.strerror(errno.EAFNOSUPPORT)}: this kernel has no SMC, or its module is not "
    "loaded. Try 'modprobe smc' as root; if there is no such module, install the package "
    "with the full set of kernel modules (linux-image-* on Debian, linux-modules-extra-* "
    "on Ubuntu) or a kernel built with CONFIG_SMC. To run over plain TCP instead, pass "
    'fallback="tcp" or set SMCSOCK_FALLBACK=tcp'
)


class FallbackError(ConnectionError):
    """A connection fell back to TCP though ``require_smc`` was asked; it was closed.

    ``info`` is the :class:`SmcInfo` of the connection, or None where the kernel
    has no smc_diag to ask. ``errno`` is EPROTONOSUPPORT.
    """

    __module__ = "smcsock"

    def __init__(self, message: str, info: "SmcInfo | None" = None) -> None:
        super().__init__(errno.EPROTONOSUPPORT, message)
        self.info = info

    def __reduce__(self) -> tuple[type["FallbackError"], tuple[str, "SmcInfo | None"]]:
        return type(self), (self.strerror or "", self.info)


class DiagUnavailableError(OSError):
    """The kernel cannot be asked about SMC sockets: smc_diag is missing."""

    __module__ = "smcsock"

    def __init__(self, *args: object) -> None:
        super().__init__(*(args or (errno.ENOENT, _NO_DIAG)))


_NO_DIAG = (
    "the kernel does not answer sock_diag queries about SMC sockets: its smc_diag module "
    "is not loaded ('modprobe smc_diag' as root; CONFIG_SMC_DIAG)"
)
