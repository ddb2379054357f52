"""No TCP for this process and its children, whatever they are: what require_smc comes to."""

import errno
import socket

from ._architectures import ALL
from ._filter import assemble_refusal
from ._launch import NativeError, set_filter

__all__ = ["forbid_tcp"]

_UNKNOWN = "how programs of this machine call the kernel is not known"
_MULTIPLEXED = (
    "the C library of this machine opens sockets by socketcall(2), whose arguments no seccomp "
    "filter can see"
)


def forbid_tcp() -> None:
    """From here on socket(2) fails for TCP, with EPROTONOSUPPORT.

    SMC sockets are not concerned. For a process of one thread that is about to execute a
    program, or to end. Raises NativeError where that cannot be had.
    """
    set_filter(assemble_refusal(ALL))
    try:
        socket.socket(socket.AF_UNIX).close()
    except OSError:
        raise NativeError(errno.ENOSYS, _MULTIPLEXED) from None
    try:
        socket.socket(socket.AF_INET).close()
    except OSError:
        return
    raise NativeError(errno.ENOSYS, _UNKNOWN)
