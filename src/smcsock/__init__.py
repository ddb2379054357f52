"""Sockets for Linux SMC (Shared Memory Communications, AF_SMC).

``smcsock.socket`` is a ``socket.socket`` whose connections go over shared memory
where both hosts can do it: SMC-D (ISM devices, loopback-ism) or SMC-R (RDMA).
``sock.smc_info()`` tells whether a connection does, and why if it does not.
"""

from ._errors import (
    FallbackError,
    HandshakeInterruptedError,
    SMCUnsupportedError,
)
from ._helpers import create_connection, create_server
from ._smcsock import AF_SMC, IPPROTO_SMC, SMC_LIMIT_HS, SMCPROTO_SMC, SMCPROTO_SMC6, SOL_SMC
from ._socket import fromfd, has_smc, smc_info, socket

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
    "HandshakeInterruptedError",
    "LinkGroup",
    "Mode",
    "Outcome",
    "ProducerFlag",
    "Reason",
    "Report",
    "SMCUnsupportedError",
    "SSLSocket",
    "SmcInfo",
    "State",
    "create_connection",
    "create_server",
    "fromfd",
    "has_smc",
    "install",
    "installed",
    "smc_info",
    "socket",
    "uninstall",
]

__version__ = "0.1.0"

# What needs modules that most programs do not: imported when it is first asked for. Not
# even typing is loaded with the package: import smcsock shall cost little more than socket.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from . import aio as aio
    from . import diag as diag
    from . import doctor as doctor
    from ._dropin import install, installed, uninstall
    from ._dropin._report import Outcome, Report
    from ._kernel._errors import DiagUnavailableError
    from ._kernel._reasons import Reason
    from ._kernel._smc_info import (
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
    from ._ssl import SSLSocket
else:
    _LATER = {
        **dict.fromkeys(
            (
                "Connection",
                "ConnectionFlag",
                "Cursor",
                "Dmb",
                "LinkGroup",
                "Mode",
                "ProducerFlag",
                "SmcInfo",
                "State",
            ),
            "_kernel._smc_info",
        ),
        "DiagUnavailableError": "_kernel._errors",
        "Reason": "_kernel._reasons",
        "Outcome": "_dropin._report",
        "Report": "_dropin._report",
        "SSLSocket": "_ssl",
        "install": "_dropin",
        "installed": "_dropin",
        "uninstall": "_dropin",
    }

    def __getattr__(name: str) -> "Any":
        from importlib import import_module

        if name in ("aio", "diag", "doctor"):
            return import_module(f".{name}", __name__)
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_LATER[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
