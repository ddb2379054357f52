"""The kernel's sock_diag records of SMC sockets.

Source: include/uapi/linux/smc_diag.h and net/smc/smc_diag.c in the Linux kernel.
"""

import errno
import struct
from collections.abc import Iterable, Iterator

from . import _smcsock
from ._errors import DiagUnavailableError
from ._netlink import CONFINED, NETLINK_SOCK_DIAG, NLM_F_DUMP, NLM_F_REQUEST, ask, pack

__all__ = ["each_record", "records"]

_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = struct.Struct("=B2xB48x")  # struct smc_diag_req: family, extensions
_EXTENSIONS = 0b1011  # CONNINFO, LGRINFO and DMBINFO: the others come unasked
_NLMSG_HEADER_SIZE = 16


def records(inodes: Iterable[int]) -> list[bytes]:
    """The records of the SMC sockets with these inodes, for _info.decode().

    They are matched before anything becomes a Python object; those that the kernel does
    not list have no record. Raises DiagUnavailableError where smc_diag is missing, else
    OSError.
    """
    try:
        return _smcsock.records(inodes)
    except OSError as error:
        _refine(error)
        raise


def each_record() -> Iterator[bytes]:
    """The records of all SMC sockets of the network namespace, for _info.decode().

    They come as the kernel lists them, in parts: while sockets come and go, one may be
    missing or listed twice. The iterator raises DiagUnavailableError where smc_diag is
    missing, else OSError.
    """
    request = _REQUEST.pack(_smcsock.AF_SMC, _EXTENSIONS)
    message = pack(_SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, request)
    try:
        for answer in ask(NETLINK_SOCK_DIAG, message):
            yield answer[_NLMSG_HEADER_SIZE:]
    except OSError as error:
        _refine(error)
        raise


def _refine(error: OSError) -> None:
    """Raises an error that says more, if there is one."""
    if error.errno in (errno.ENOENT, errno.EPROTONOSUPPORT):
        raise DiagUnavailableError from None
    if error.errno == errno.EAFNOSUPPORT:
        raise OSError(errno.EACCES, CONFINED) from None
