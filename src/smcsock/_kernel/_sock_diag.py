"""The kernel's sock_diag records of SMC sockets.

Source: include/uapi/linux/smc_diag.h and net/smc/smc_diag.c in the Linux kernel.
"""

import errno
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from .. import _smcsock
from . import _netlink
from ._errors import CONFINED, DiagUnavailableError
from ._modules import is_loaded

__all__ = ["ask", "each_record", "records"]

_T = TypeVar("_T")

_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = struct.Struct("=B2xB48x")  # struct smc_diag_req: family, extensions
_EXTENSIONS = 0b1011  # CONNINFO, LGRINFO and DMBINFO: the others come unasked
_NLMSG_HEADER_SIZE = 16

# The kernel has said so: it is asked again when it has the module.
_was_lacking = False


def records(inodes: Iterable[int]) -> list[bytes]:
    """The records of the SMC sockets with these inodes, for _smc_info.decode().

    They are matched before anything becomes a Python object; those that the kernel does
    not list have no record. Raises DiagUnavailableError where smc_diag is missing, else
    OSError.
    """
    return ask(partial(_smcsock.records, inodes))


def each_record() -> Iterator[bytes]:
    """The records of all SMC sockets of the network namespace, for _smc_info.decode().

    They come as the kernel lists them, in parts: while sockets come and go, one may be
    missing or listed twice. The iterator raises DiagUnavailableError where smc_diag is
    missing, else OSError.
    """
    request = _REQUEST.pack(_smcsock.AF_SMC, _EXTENSIONS)
    flags = _netlink.NLM_F_REQUEST | _netlink.NLM_F_DUMP
    message = _netlink.pack(_SOCK_DIAG_BY_FAMILY, flags, request)
    answers = _netlink.ask(_netlink.NETLINK_SOCK_DIAG, message)
    while (answer := ask(partial(next, answers, None))) is not None:
        yield answer[_NLMSG_HEADER_SIZE:]


def ask(question: Callable[[], _T]) -> _T:
    """What a function answers that asks sock_diag; raises as records()."""
    global _was_lacking
    if _was_lacking and is_loaded("smc_diag") is False:
        raise DiagUnavailableError
    try:
        answer = question()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EPROTONOSUPPORT):
            _was_lacking = True
            raise DiagUnavailableError from None
        if error.errno == errno.EAFNOSUPPORT:
            raise OSError(errno.EACCES, CONFINED) from None
        raise
    _was_lacking = False
    return answer
