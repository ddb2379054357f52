"""What an SMC socket is, as far as a table of many needs it: little to import, quick to tell.

Source: include/uapi/linux/smc_diag.h and net/smc/smc.h in the Linux kernel.
"""

from enum import IntEnum, StrEnum

__all__ = ["MODES", "Mode", "State"]


class Mode(StrEnum):
    """How a connection carries its data."""

    __module__ = "smcsock"

    SMCD = "SMC-D"
    SMCR = "SMC-R"
    TCP = "TCP"


class State(IntEnum):
    """State of an SMC socket (enum smc_state of net/smc/smc.h)."""

    __module__ = "smcsock"

    ACTIVE = 1
    INIT = 2
    CLOSED = 7
    LISTEN = 10
    PEERCLOSEWAIT1 = 20
    PEERCLOSEWAIT2 = 21
    APPCLOSEWAIT1 = 22
    APPCLOSEWAIT2 = 23
    APPFINCLOSEWAIT = 24
    PEERFINCLOSEWAIT = 25
    PEERABORTWAIT = 26
    PROCESSABORT = 27


MODES: dict[int | None, Mode] = {0: Mode.SMCR, 1: Mode.TCP, 2: Mode.SMCD}
"""By what smc_diag calls them, SMC_DIAG_MODE_*."""
