"""The errors of smcsock.diag, whose texts say what to do."""

import errno
import os

__all__ = ["DiagError", "ExtraMissingError"]


class DiagError(OSError):
    """The kernel refused a request, or cannot answer it.

    ``strerror`` says what to do. ``errno`` is EPERM for want of CAP_NET_ADMIN, ENOENT
    where there is no SMC in the kernel or no such entry, EEXIST for one that is
    there already, EOPNOTSUPP where this kernel does not know the request.
    """

    __module__ = "smcsock.diag"

    @classmethod
    def of(cls, number: int, text: str | None = None) -> "DiagError":
        """The error of an errno; without a text, that of the errno."""
        return cls(number, text or os.strerror(number))


class ExtraMissingError(ImportError):
    """smcsock was installed without its extra ``diag``."""

    __module__ = "smcsock.diag"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"this needs the Python package {name}: pip install 'smcsock[diag]'", name=name
        )


NOT_PERMITTED = (
    f"{os.strerror(errno.EPERM)}: only root may change the SMC configuration of the host; it "
    "takes CAP_NET_ADMIN outside of any user namespace, which root of a container need not have"
)
