"""Sockets for Linux SMC (Shared Memory Communications, AF_SMC).

``smcsock.socket`` is a ``socket.socket`` whose connections go over shared memory
where both hosts can do it: SMC-D (ISM devices, loopback-ism) or SMC-R (RDMA).
``sock.smc_info()`` tells whether a connection does, and why if it does not.
"""

import sys

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

# Not even typing is loaded with the package: import smcsock shall cost little more than socket.
TYPE_CHECKING = False


def _is_command() -> bool:
    """Whether this is the program smcsock, or what 'python -m' looks for."""
    return str(*sys.argv[:1]).rpartition("/")[2] in ("smcsock", "-m")


# Sockets are loaded at once, while they can be found: a program may change its root later.
# The command knows what it needs, and 'smcsock --help' needs none.
if TYPE_CHECKING or not _is_command():
    from ._errors import FallbackError, HandshakeInterruptedError, SMCUnsupportedError
    from ._helpers import create_connection, create_server
    from ._smcsock import AF_SMC, IPPROTO_SMC, SMC_LIMIT_HS, SMCPROTO_SMC, SMCPROTO_SMC6, SOL_SMC
    from ._socket import fromfd, has_smc, smc_info, socket

# What most programs do not need is imported when it is first asked for.
if TYPE_CHECKING:
    from typing import Any

    from . import aio as aio
    from . import diag as diag
    from . import doctor as doctor
    from ._dropin._install import install, installed, uninstall
    from ._dropin._report import Outcome, Report
    from ._kernel._errors import DiagUnavailableError
    from ._kernel._reasons import Reason
    from ._kernel._smc_info import (
        Connection,
        ConnectionFlag,
        Cursor,
        Dmb,
        LinkGroup,
        ProducerFlag,
        SmcInfo,
    )
    from ._kernel._state import Mode, State
    from ._ssl import SSLSocket
else:
    _NAMES = {
        "_errors": "FallbackError HandshakeInterruptedError SMCUnsupportedError",
        "_helpers": "create_connection create_server",
        "_smcsock": "AF_SMC IPPROTO_SMC SMCPROTO_SMC SMCPROTO_SMC6 SMC_LIMIT_HS SOL_SMC",
        "_socket": "fromfd has_smc smc_info socket",
        "_kernel._errors": "DiagUnavailableError",
        "_kernel._reasons": "Reason",
        "_kernel._smc_info": "Connection ConnectionFlag Cursor Dmb LinkGroup ProducerFlag SmcInfo",
        "_kernel._state": "Mode State",
        "_dropin._install": "install installed uninstall",
        "_dropin._report": "Outcome Report",
        "_ssl": "SSLSocket",
    }
    _LATER = {name: module for module, names in _NAMES.items() for name in names.split()}

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
