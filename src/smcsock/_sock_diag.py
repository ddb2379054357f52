"""The kernel's sock_diag records of SMC sockets.

Source: include/uapi/linux/smc_diag.h and net/smc/smc_diag.c in the Linux kernel.
"""

import errno
from collections.abc import Iterable

from . import _smcsock
from ._errors import DiagUnavailableError
from ._netlink import CONFINED

__all__ = ["records"]


def records(inodes: Iterable[int] | None = None) -> list[bytes]:
    """The records of SMC sockets of the network namespace, for _info.decode().

    Of the sockets with these inodes, which are matched before anything becomes a Python
    object; those that the kernel does not list have no record. Or of all sockets: the
    kernel makes the list in parts, so that while sockets come and go one may be missing
    or listed twice. Raises DiagUnavailableError where smc_diag is missing, else OSError.
    """
    try:
        return _smcsock.records(inodes)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EPROTONOSUPPORT):
            raise DiagUnavailableError from None
        if error.errno == errno.EAFNOSUPPORT:
            raise OSError(errno.EACCES, CONFINED) from None
        raise
