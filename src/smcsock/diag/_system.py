"""What the kernel's SMC can do, and whether it limits handshakes.

Source: net/smc/smc_core.c (smc_nl_get_sys_info) and af_smc.c in the Linux kernel.
"""

from dataclasses import dataclass

from ._commands import SmcCommand
from ._generic import Attributes, change, dump

__all__ = ["System", "handshake_limitation", "limit_handshakes", "system"]


@dataclass(frozen=True, slots=True)
class System:
    """What the kernel's SMC can do.

    ``version`` and ``release`` are those of the SMC protocol: 2 and 1 for SMCv2.1.
    ``ism_v2`` says that there is a device for SMC-D version 2: ISM, or loopback-ism.
    ``smcr_v2`` says that the kernel can do version 2 of SMC-R. ``hostname`` is what peers are
    told. ``seid`` is the system EID, None off IBM Z.
    """

    version: int
    release: int
    ism_v2: bool
    smcr_v2: bool
    hostname: str | None
    seid: str | None


def system() -> System:
    """What the kernel's SMC can do. Raises DiagError and ExtraMissingError."""
    info: Attributes = {}
    for message in dump(SmcCommand.GET_SYS_INFO):
        info = message.get("SMC_GEN_SYS_INFO", info)
    return System(
        version=info["SMC_NLA_SYS_VER"],
        release=info["SMC_NLA_SYS_REL"],
        ism_v2=bool(info["SMC_NLA_SYS_IS_ISM_V2"]),
        smcr_v2=bool(info.get("SMC_NLA_SYS_IS_SMCR_V2")),
        hostname=info.get("SMC_NLA_SYS_LOCAL_HOST") or None,
        seid=info.get("SMC_NLA_SYS_SEID") or None,
    )


def handshake_limitation() -> bool:
    """Whether SMC handshakes are limited in this network namespace.

    With it on, connections fall back to TCP while handshakes queue up, instead of
    waiting. Raises DiagError (EOPNOTSUPP before Linux 5.18) and ExtraMissingError.
    """
    limited = False
    for message in dump(SmcCommand.DUMP_HS_LIMITATION):
        limited = bool(message.get("SMC_NLA_HS_LIMITATION_ENABLED", limited))
    return limited


def limit_handshakes(on: bool) -> None:
    """Turns the handshake limitation of this network namespace on or off.

    It holds for sockets opened from then on; the socket option SMC_LIMIT_HS is for one
    socket. Takes CAP_NET_ADMIN. Raises DiagError and ExtraMissingError.
    """
    change(SmcCommand.ENABLE_HS_LIMITATION if on else SmcCommand.DISABLE_HS_LIMITATION)
