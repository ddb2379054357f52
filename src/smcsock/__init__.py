"""Sockets for Linux SMC (Shared Memory Communications, AF_SMC).

``smcsock.socket`` is a ``socket.socket`` whose connections go over shared memory
where both hosts can do it: SMC-D (ISM devices, loopback-ism) or SMC-R (RDMA).
``sock.smc_info()`` tells whether a connection does, and why if it does not.
"""

from typing import TYPE_CHECKING, Any

from ._errors import DiagUnavailableError, FallbackError, SMCUnsupportedError
from ._helpers import create_connection, create_server
from ._info import (
    Connection,
    ConnectionFlag,
    Cursor,
    Dmb,
    LinkGroup,
    Mode,
    ProducerFlag,
    SmcInfo,
    State,
)
from ._reasons import Reason
from ._smcsock import AF_SMC, IPPROTO_SMC, SMC_LIMIT_HS, SMCPROTO_SMC, SMCPROTO_SMC6, SOL_SMC
from ._socket import fromfd, has_smc, socket

__all__ = [
    "AF_SMC",
    "IPPROTO_SMC",
    "SMCPROTO_SMC",
    "SMCPROTO_SMC6",
    "SMC_LIMIT_HS",
    "SOL_SMC",
    "Connection",
    "ConnectionFlag",
    "Cursor",
    "DiagUnavailableError",
    "Dmb",
    "FallbackError",
    "LinkGroup",
    "Mode",
    "ProducerFlag",
    "Reason",
    "SMCUnsupportedError",
    "SSLSocket",
    "SmcInfo",
    "State",
    "create_connection",
    "create_server",
    "fromfd",
    "has_smc",
    "socket",
]

__version__ = "0.1.0"

# What needs a module that most programs do not: imported when it is first asked for.
if TYPE_CHECKING:
    from ._ssl import SSLSocket
else:

    def __getattr__(name: str) -> Any:
        if name == "SSLSocket":
            from ._ssl import SSLSocket

            globals()[name] = SSLSocket
            return SSLSocket
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
