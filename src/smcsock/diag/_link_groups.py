"""Link groups and links: what the connections to one peer share.

Source: net/smc/smc_core.c and smc_core.h in the Linux kernel; RFC 7609, "Link groups".
"""

import errno
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from .._kernel._smc_info import whole_gid
from ._commands import SmcCommand
from ._generic import Attributes, dump, entries

__all__ = [
    "V2",
    "BufferType",
    "Link",
    "LinkGroupType",
    "LinkState",
    "SmcdLinkGroup",
    "SmcrLinkGroup",
    "iter_links",
    "iter_smcd_link_groups",
    "iter_smcr_link_groups",
    "link_groups",
    "links",
]

_LOOPBACK_CHID = 0xFFFF  # SMC_LO_RESERVED_CHID

_PEER_OS = {1: "z/OS", 2: "Linux", 3: "AIX"}


class LinkGroupType(IntEnum):
    """How redundant an SMC-R link group is (enum smc_lgr_type)."""

    NONE = 0
    SINGLE = 1
    SYMMETRIC = 2
    ASYMMETRIC_PEER = 3
    ASYMMETRIC_LOCAL = 4


class BufferType(IntEnum):
    """What the buffers of an SMC-R link group are made of (enum smcr_buf_type)."""

    PHYSICALLY_CONTIGUOUS = 0
    VIRTUALLY_CONTIGUOUS = 1
    MIXED = 2


class LinkState(IntEnum):
    """State of a link (enum smc_link_state)."""

    UNUSED = 0
    INACTIVE = 1
    ACTIVATING = 2
    ACTIVE = 3


@dataclass(frozen=True, slots=True)
class V2:
    """What the two ends of a link group agreed on with SMC version 2.

    ``release`` is the peer's, ``os`` its operating system ("z/OS", "Linux", "AIX" or
    a number as text), ``hostname`` its name. ``eid`` is the EID that both have.
    ``direct``, ``max_connections`` and ``max_links`` are for SMC-R: whether the peer
    is reached without a gateway, and what both allow; None where the kernel does
    not tell.
    """

    version: int
    release: int
    os: str
    hostname: str
    eid: str
    direct: bool | None = None
    max_connections: int | None = None
    max_links: int | None = None


@dataclass(frozen=True, slots=True)
class SmcrLinkGroup:
    """A link group of SMC-R.

    ``role`` is "client" or "server". ``vlan_id`` has the low 8 bits only, 0 for none.
    ``pnetid`` is "" where there is none. ``sndbuf_size`` and ``rmb_size`` are the bytes
    of all its buffers, None before Linux 6.12. ``net_cookie`` is the SO_NETNS_COOKIE
    of its network namespace, None before 5.17: groups of all of them are listed.
    ``v2`` is None for SMC version 1.
    """

    id: int
    role: str
    type: LinkGroupType | int
    vlan_id: int
    connections: int
    pnetid: str
    buffer_type: BufferType | int | None
    net_cookie: int | None
    sndbuf_size: int | None
    rmb_size: int | None
    v2: V2 | None


@dataclass(frozen=True, slots=True)
class SmcdLinkGroup:
    """A link group of SMC-D.

    ``id`` is ``Dmb.link_id`` of its connections. GIDs are as in ``Dmb``. ``chid`` is the
    channel ID of the device (from Linux 6.18 on its fabric ID), 0xffff for a loopback one.
    The rest is as for SMC-R, with the DMBs in the place of the RMBs.
    """

    id: int
    gid: int
    peer_gid: int
    chid: int | None
    vlan_id: int
    connections: int
    pnetid: str
    sndbuf_size: int | None
    dmb_size: int | None
    v2: V2 | None

    @property
    def is_loopback(self) -> bool:
        """Whether its device is a loopback one, both ends being on this host."""
        return self.chid == _LOOPBACK_CHID


@dataclass(frozen=True, slots=True)
class Link:
    """A link of an SMC-R link group: a pair of RDMA queue pairs.

    ``link_group`` is the group's ``id``, ``id`` the link's own within it. ``interface``
    is the name of the network interface, None if it has gone or is in another network
    namespace. GIDs are text. ``uid`` is what this end calls the link, ``peer_uid`` the
    peer.
    """

    link_group: int
    id: int
    state: LinkState | int
    device: str
    port: int
    interface: str | None
    gid: str
    peer_gid: str
    uid: int
    peer_uid: int
    connections: int


def link_groups() -> list[SmcrLinkGroup | SmcdLinkGroup]:
    """The link groups of this host, those of SMC-D first.

    Raises DiagError and ExtraMissingError.
    """
    return [*iter_smcd_link_groups(), *iter_smcr_link_groups()]


def iter_smcd_link_groups() -> Iterator[SmcdLinkGroup]:
    """Those of SMC-D as the kernel lists them; the iterator raises the errors."""
    return map(_smcd_link_group, entries(SmcCommand.GET_LGR_SMCD, "SMC_GEN_LGR_SMCD"))


def iter_smcr_link_groups() -> Iterator[SmcrLinkGroup]:
    """Those of SMC-R as the kernel lists them; the iterator raises the errors."""
    return map(_smcr_link_group, entries(SmcCommand.GET_LGR_SMCR, "SMC_GEN_LGR_SMCR"))


def links() -> list[Link]:
    """The links of all SMC-R link groups. Raises DiagError and ExtraMissingError."""
    return list(iter_links())


def iter_links() -> Iterator[Link]:
    """The same as the kernel lists them; the iterator raises the errors."""
    seen = set()
    link_group = 0
    for message in dump(SmcCommand.GET_LINK_SMCR):
        # A link group comes before its links; again, if they did not fit.
        if "SMC_GEN_LGR_SMCR" in message:
            link_group = message["SMC_GEN_LGR_SMCR"]["SMC_NLA_LGR_R_ID"]
        elif "SMC_GEN_LINK_SMCR" in message:
            link = _link(link_group, message["SMC_GEN_LINK_SMCR"])
            if (link_group, link.uid) not in seen:
                seen.add((link_group, link.uid))
                yield link


def interface_name(index: int) -> str | None:
    """The name of a network interface; None if there is none here with that index."""
    try:
        return socket.if_indextoname(index) if index else None
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            return None
    # It needs a socket of AF_UNIX, which a service that is confined may not have.
    return dict(socket.if_nameindex()).get(index)


def _named(kind: type[IntEnum], number: int) -> int:
    return kind(number) if number in kind._value2member_map_ else number


def _v2(common: Attributes | None, smcr: Attributes) -> V2 | None:
    if common is None:
        return None
    os = common.get("SMC_NLA_LGR_V2_OS", 0)
    direct = smcr.get("SMC_NLA_LGR_R_V2_DIRECT")
    return V2(
        version=common["SMC_NLA_LGR_V2_VER"],
        release=common["SMC_NLA_LGR_V2_REL"],
        os=_PEER_OS.get(os, str(os)),
        hostname=common.get("SMC_NLA_LGR_V2_PEER_HOST", ""),
        eid=common.get("SMC_NLA_LGR_V2_NEG_EID", ""),
        direct=None if direct is None else bool(direct),
        max_connections=smcr.get("SMC_NLA_LGR_R_V2_MAX_CONNS"),
        max_links=smcr.get("SMC_NLA_LGR_R_V2_MAX_LINKS"),
    )


def _smcr_link_group(group: Attributes) -> SmcrLinkGroup:
    buffer_type = group.get("SMC_NLA_LGR_R_BUF_TYPE")
    return SmcrLinkGroup(
        id=group["SMC_NLA_LGR_R_ID"],
        role="server" if group["SMC_NLA_LGR_R_ROLE"] else "client",
        type=_named(LinkGroupType, group["SMC_NLA_LGR_R_TYPE"]),
        vlan_id=group["SMC_NLA_LGR_R_VLAN_ID"],
        connections=group["SMC_NLA_LGR_R_CONNS_NUM"],
        pnetid=group["SMC_NLA_LGR_R_PNETID"],
        buffer_type=None if buffer_type is None else _named(BufferType, buffer_type),
        net_cookie=group.get("SMC_NLA_LGR_R_NET_COOKIE"),
        sndbuf_size=group.get("SMC_NLA_LGR_R_SNDBUF_ALLOC"),
        rmb_size=group.get("SMC_NLA_LGR_R_RMB_ALLOC"),
        v2=_v2(group.get("SMC_NLA_LGR_R_V2_COMMON"), group.get("SMC_NLA_LGR_R_V2", {})),
    )


def _smcd_link_group(group: Attributes) -> SmcdLinkGroup:
    return SmcdLinkGroup(
        id=group["SMC_NLA_LGR_D_ID"],
        gid=whole_gid(group["SMC_NLA_LGR_D_GID"], group.get("SMC_NLA_LGR_D_EXT_GID", 0)),
        peer_gid=whole_gid(
            group["SMC_NLA_LGR_D_PEER_GID"], group.get("SMC_NLA_LGR_D_PEER_EXT_GID", 0)
        ),
        chid=group.get("SMC_NLA_LGR_D_CHID"),
        vlan_id=group["SMC_NLA_LGR_D_VLAN_ID"],
        connections=group["SMC_NLA_LGR_D_CONNS_NUM"],
        pnetid=group["SMC_NLA_LGR_D_PNETID"],
        sndbuf_size=group.get("SMC_NLA_LGR_D_SNDBUF_ALLOC"),
        dmb_size=group.get("SMC_NLA_LGR_D_DMB_ALLOC"),
        v2=_v2(group.get("SMC_NLA_LGR_D_V2_COMMON"), {}),
    )


def _uid(number: int) -> int:
    """A link UID, four bytes that mean the same to both ends, whatever their byte order."""
    return int.from_bytes(number.to_bytes(4, sys.byteorder), "big")


def _link(link_group: int, link: Attributes) -> Link:
    return Link(
        link_group=link_group,
        id=link["SMC_NLA_LINK_ID"],
        state=_named(LinkState, link["SMC_NLA_LINK_STATE"]),
        device=link["SMC_NLA_LINK_IB_DEV"],
        port=link["SMC_NLA_LINK_IB_PORT"],
        interface=interface_name(link["SMC_NLA_LINK_NET_DEV"]),
        gid=link["SMC_NLA_LINK_GID"],
        peer_gid=link["SMC_NLA_LINK_PEER_GID"],
        uid=_uid(link["SMC_NLA_LINK_UID"]),
        peer_uid=_uid(link["SMC_NLA_LINK_PEER_UID"]),
        connections=link["SMC_NLA_LINK_CONN_CNT"],
    )
