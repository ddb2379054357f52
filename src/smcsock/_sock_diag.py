"""The kernel's sock_diag records of SMC sockets.

Source: include/uapi/linux/smc_diag.h and net/smc/smc_diag.c in the Linux kernel.
"""

import errno
import struct
from collections.abc import Iterator

from ._errors import DiagUnavailableError
from ._netlink import NETLINK_SOCK_DIAG, NLM_F_DUMP, NLM_F_REQUEST, ask, pack
from ._smcsock import AF_SMC

__all__ = ["records"]

_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = struct.Struct("=B2xB48x")  # struct smc_diag_req: family, extensions
_EXTENSIONS = 0b1011  # CONNINFO, LGRINFO and DMBINFO: the others come unasked
_NLMSG_HEADER_SIZE = 16


def records() -> Iterator[bytes]:
    """The records of all SMC sockets of the network namespace, for _info.decode().

    They come as the kernel lists them, in parts: while sockets come and go, one may be
    missing or listed twice. The iterator raises DiagUnavailableError where smc_diag is
    missing, else OSError.
    """
    request = _REQUEST.pack(AF_SMC, _EXTENSIONS)
    message = pack(_SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, request)
    try:
        for answer in ask(NETLINK_SOCK_DIAG, message):
            yield answer[_NLMSG_HEADER_SIZE:]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EPROTONOSUPPORT):
            raise DiagUnavailableError from None
        raise
