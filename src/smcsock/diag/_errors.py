"""The errors of smcsock.diag, whose texts say what to do."""

import errno
import os
from collections.abc import Mapping

from .._errors import NO_SMC

__all__ = ["NOT_PERMITTED", "DiagError", "ExtraMissingError", "diag_error", "no_smc"]

NOT_PERMITTED = (
    f"{os.strerror(errno.EPERM)}: only root may change the SMC configuration of the host; it "
    "takes CAP_NET_ADMIN outside of any user namespace, which root of a container need not have"
)


class DiagError(OSError):
    """The kernel refused a request, or cannot answer it.

    ``strerror`` says what to do. ``errno`` is EAFNOSUPPORT where the kernel has no SMC,
    EPERM for want of CAP_NET_ADMIN, ENOENT for an entry that does not exist and EEXIST
    for one that does, EOPNOTSUPP where the kernel does not know the request.
    """

    __module__ = "smcsock.diag"


def diag_error(error: OSError, texts: Mapping[int, str]) -> DiagError:
    """What the kernel answered as a DiagError, with the text of its errno if there is one."""
    number = error.errno or errno.EPROTO
    return DiagError(number, texts.get(number) or error.strerror or os.strerror(number))


def no_smc() -> DiagError:
    """The error where the kernel has no SMC."""
    return DiagError(errno.EAFNOSUPPORT, NO_SMC)


class ExtraMissingError(ImportError):
    """smcsock was installed without its extra ``diag``, or another one that it needs."""

    __module__ = "smcsock.diag"

    def __init__(self, name: str, extra: str = "diag") -> None:
        super().__init__(
            f"this needs the Python package {name}: pip install 'smcsock[{extra}]'", name=name
        )
        self.extra = extra

    def __reduce__(self) -> tuple[type["ExtraMissingError"], tuple[str | None, str]]:
        return type(self), (self.name, self.extra)
