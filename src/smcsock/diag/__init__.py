"""The kernel's SMC state: sockets, link groups, devices, counters, EIDs, PNET table.

It is what smcss, smcd, smcr and smc_pnet of smc-tools show and change. All but
that lists sockets needs the extra (``pip install 'smcsock[diag]'``). Reading needs no privilege,
changing takes CAP_NET_ADMIN, and no change outlives a reboot.
"""

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
