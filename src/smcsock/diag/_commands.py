"""The commands of the kernel's two SMC families of generic netlink.

Source: include/uapi/linux/smc.h.
"""

from enum import IntEnum
from typing import TypeAlias

__all__ = ["Command", "PnetCommand", "SmcCommand"]


class SmcCommand(IntEnum):
    """Of the family SMC_GEN_NETLINK (since Linux 5.11; 5.16 and 5.18 added to it)."""

    GET_SYS_INFO = 1
    GET_LGR_SMCR = 2
    GET_LINK_SMCR = 3
    GET_LGR_SMCD = 4
    GET_DEV_SMCD = 5
    GET_DEV_SMCR = 6
    GET_STATS = 7
    GET_FBACK_STATS = 8
    DUMP_UEID = 9
    ADD_UEID = 10
    REMOVE_UEID = 11
    FLUSH_UEID = 12
    DUMP_SEID = 13
    ENABLE_SEID = 14
    DISABLE_SEID = 15
    DUMP_HS_LIMITATION = 16
    ENABLE_HS_LIMITATION = 17
    DISABLE_HS_LIMITATION = 18


class PnetCommand(IntEnum):
    """Of the family SMC_PNETID."""

    GET = 1
    ADD = 2
    DEL = 3
    FLUSH = 4


Command: TypeAlias = SmcCommand | PnetCommand
