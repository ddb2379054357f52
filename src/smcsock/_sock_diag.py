"""The kernel's sock_diag records of SMC sockets.

Source: include/uapi/linux/smc_diag.h and net/smc/smc_diag.c in the Linux kernel.
"""

import errno
import struct

from ._errors import DiagUnavailableError
from ._netlink import NETLINK_SOCK_DIAG, NLM_F_DUMP, NLM_F_REQUEST, ask, pack
from ._smcsock import AF_SMC

__all__ = ["records"]

_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = struct.Struct("=B2xB48x")  # struct smc_diag_req: family, extensions
_EXTENSIONS = 0b1011  # CONNINFO, LGRINFO and DMBINFO: the others come unasked
_NLMSG_HEADER_SIZE = 16


def records() -> list[bytes]:
    """The records of all SMC sockets of the network namespace, for _info.decode().

    The kernel makes the list in parts: while sockets come and go, one may be missing
    or listed twice. Raises DiagUnavailableError where smc_diag is missing, else OSError.
    """
    request = _REQUEST.pack(AF_SMC, _EXTENSIONS)
    message = pack(_SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, request)
    try:
        answers = ask(NETLINK_SOCK_DIAG, message)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EPROTONOSUPPORT):
            raise DiagUnavailableError from None
        raise
    return [answer[_NLMSG_HEADER_SIZE:] for answer in answers]
