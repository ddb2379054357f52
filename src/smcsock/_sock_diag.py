"""The kernel's sock_diag records of SMC sockets.

Source: include/uapi/linux/smc_diag.h and net/smc/smc_diag.c in the Linux kernel.
"""

import errno
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from . import _smcsock
from ._errors import CONFINED, DiagUnavailableError
from ._modules import is_loaded

__all__ = ["ask", "records"]

_T = TypeVar("_T")

# The kernel has said so: it is asked again when it has the module.
_was_lacking = False


def records(inodes: Iterable[int] | None = None) -> list[bytes]:
    """The records of SMC sockets of the network namespace, for _info.decode().

    Of the sockets with these inodes, which are matched before anything becomes a Python
    object; those that the kernel does not list have no record. Or of all sockets: the
    kernel makes the list in parts, so that while sockets come and go one may be missing
    or listed twice. Raises DiagUnavailableError where smc_diag is missing, else OSError.
    """
    return ask(partial(_smcsock.records, inodes))


def ask(question: Callable[[], _T]) -> _T:
    """What a function of the extension answers that asks sock_diag; raises as records()."""
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
