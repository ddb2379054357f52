"""The kernel's SMC state: sockets, link groups, devices, counters, EIDs, PNET table.

It is what smcss, smcd, smcr and smc_pnet of smc-tools show and change. All but
that lists sockets needs the extra (``pip install 'smcsock[diag]'``). Reading needs no privilege,
changing takes CAP_NET_ADMIN, and no change outlives a reboot.
"""

from importlib import import_module

__all__ = [
    "V2",
    "BufferType",
    "DiagError",
    "Direction",
    "ExtraMissingError",
    "Fallback",
    "Link",
    "LinkGroupType",
    "LinkState",
    "Pci",
    "PnetId",
    "Port",
    "Process",
    "Sizes",
    "SmcdDevice",
    "SmcdLinkGroup",
    "SmcrDevice",
    "SmcrLinkGroup",
    "Stats",
    "System",
    "SystemEid",
    "Technology",
    "add_pnetid",
    "add_ueid",
    "clear_pnetids",
    "clear_ueids",
    "devices",
    "disable_seid",
    "enable_seid",
    "handshake_limitation",
    "iter_links",
    "iter_smcd_link_groups",
    "iter_smcr_link_groups",
    "iter_sockets",
    "limit_handshakes",
    "link_groups",
    "links",
    "pnetids",
    "remove_pnetid",
    "remove_ueid",
    "seid",
    "socket_processes",
    "sockets",
    "stats",
    "system",
    "ueids",
]

# What needs one of them shall not load all.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._devices import Pci, Port, SmcdDevice, SmcrDevice, devices
    from ._eids import (
        SystemEid,
        add_ueid,
        clear_ueids,
        disable_seid,
        enable_seid,
        remove_ueid,
        seid,
        ueids,
    )
    from ._errors import DiagError, ExtraMissingError
    from ._link_groups import (
        V2,
        BufferType,
        Link,
        LinkGroupType,
        LinkState,
        SmcdLinkGroup,
        SmcrLinkGroup,
        iter_links,
        iter_smcd_link_groups,
        iter_smcr_link_groups,
        link_groups,
        links,
    )
    from ._pnet import PnetId, add_pnetid, clear_pnetids, pnetids, remove_pnetid
    from ._processes import Process, socket_processes
    from ._sockets import iter_sockets, sockets
    from ._stats import Direction, Fallback, Sizes, Stats, Technology, stats
    from ._system import System, handshake_limitation, limit_handshakes, system
else:
    _LATER = {
        "Pci": "_devices",
        "Port": "_devices",
        "SmcdDevice": "_devices",
        "SmcrDevice": "_devices",
        "devices": "_devices",
        "SystemEid": "_eids",
        "add_ueid": "_eids",
        "clear_ueids": "_eids",
        "disable_seid": "_eids",
        "enable_seid": "_eids",
        "remove_ueid": "_eids",
        "seid": "_eids",
        "ueids": "_eids",
        "DiagError": "_errors",
        "ExtraMissingError": "_errors",
        "V2": "_link_groups",
        "BufferType": "_link_groups",
        "Link": "_link_groups",
        "LinkGroupType": "_link_groups",
        "LinkState": "_link_groups",
        "SmcdLinkGroup": "_link_groups",
        "SmcrLinkGroup": "_link_groups",
        "iter_links": "_link_groups",
        "iter_smcd_link_groups": "_link_groups",
        "iter_smcr_link_groups": "_link_groups",
        "link_groups": "_link_groups",
        "links": "_link_groups",
        "PnetId": "_pnet",
        "add_pnetid": "_pnet",
        "clear_pnetids": "_pnet",
        "pnetids": "_pnet",
        "remove_pnetid": "_pnet",
        "Process": "_processes",
        "socket_processes": "_processes",
        "iter_sockets": "_sockets",
        "sockets": "_sockets",
        "Direction": "_stats",
        "Fallback": "_stats",
        "Sizes": "_stats",
        "Stats": "_stats",
        "Technology": "_stats",
        "stats": "_stats",
        "System": "_system",
        "handshake_limitation": "_system",
        "limit_handshakes": "_system",
        "system": "_system",
    }

    def __getattr__(name: str) -> "Any":
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_LATER[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
