"""smcsock linkgroups: link groups and links, as smcd, smcr linkgroup show them."""

import argparse

from ..diag import (
    V2,
    Link,
    LinkGroupType,
    LinkState,
    SmcdLinkGroup,
    SmcrLinkGroup,
    link_groups,
    links,
)
from ._common import ExitCode, say
from ._diag import Cell, add_json, describe, format_gid, kernel_errors, say_json, say_table

__all__ = ["add"]

_DESCRIPTION = """\
Shows the link groups of this host, as 'smcd linkgroup' and 'smcr linkgroup' of
smc-tools do. A link group has the connections to one peer over one pair of devices;
that of SMC-R has links, which --links shows.
"""

_EPILOG = """\
columns:
  LG-ID                   link group (hexadecimal); Linkid of 'smcsock ss -D'
  LG-Role                 CLNT or SERV: which end this host is
  LG-Type                 redundancy: SINGLE, SYM, ASYMP (the peer has one device), ASYML
  VLAN                    low 8 bits of the VLAN ID, 0 for none
  #Conns                  connections
  PNET-ID                 of the devices
  -d  Version, Peer-Rel   SMC version, and the peer's release of version 2
      Peer-Host, Peer-OS  who the peer says it is
      EID                 the enterprise ID that both have
      Direct              without a gateway (SMC-R)
      CHID                of the device (SMC-D); ffff is loopback-ism
      GID, Peer-GID       (SMC-D, hexadecimal)
      Sndbuf, RMB, DMB    bytes of all buffers, as far as the kernel tells
  --links  Net-Dev, Link-State, Link-UID, Peer-UID, IB-Dev, IB-P, Local-GID, Peer-GID

--json: an object of lists; what -D, -R and -l leave out is not there:
  smcd: id, gid, peer_gid, chid, vlan_id, connections, pnetid, sndbuf_size, dmb_size, v2
  smcr: id, role ("client" or "server"), type, vlan_id, connections, pnetid,
    buffer_type, net_cookie, sndbuf_size, rmb_size, v2
  links: link_group, id, state, device, port, interface, gid, peer_gid, uid, peer_uid,
    connections
v2 (null for version 1 of SMC) has version, release, os, hostname, eid, and for SMC-R
direct, max_connections, max_links. GIDs of SMC-D and cookies are strings "0x...".
"""

_TYPES: dict[int, str] = {
    LinkGroupType.NONE: "NONE",
    LinkGroupType.SINGLE: "SINGLE",
    LinkGroupType.SYMMETRIC: "SYM",
    LinkGroupType.ASYMMETRIC_PEER: "ASYMP",
    LinkGroupType.ASYMMETRIC_LOCAL: "ASYML",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of the command."""
    describe(parser, _DESCRIPTION, _EPILOG)
    parser.set_defaults(run=_run)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("-D", "--smcd", action="store_true", help="SMC-D only")
    which.add_argument("-R", "--smcr", action="store_true", help="SMC-R only")
    which.add_argument("-l", "--links", action="store_true", help="the links of SMC-R")
    parser.add_argument("-d", "--details", action="store_true", help="all that is known of them")
    add_json(parser)


def _run(options: argparse.Namespace) -> ExitCode:
    with kernel_errors():
        groups = link_groups()
        found = links() if not options.smcd else []
    smcd = [group for group in groups if isinstance(group, SmcdLinkGroup)]
    smcr = [group for group in groups if isinstance(group, SmcrLinkGroup)]
    if options.json:
        say_json(
            {
                **({} if options.smcr or options.links else {"smcd": smcd}),
                **({} if options.smcd or options.links else {"smcr": smcr}),
                **({} if options.smcd else {"links": found}),
            }
        )
    elif options.links:
        _show_links(found, smcr)
    else:
        if not options.smcr:
            _show_smcd(smcd, options.details)
        if not (options.smcd or options.smcr):
            say("")
        if not options.smcd:
            _show_smcr(smcr, options.details)
    return ExitCode.OK


def _show_smcd(groups: list[SmcdLinkGroup], details: bool) -> None:
    say("SMC-D")
    headers = ["LG-ID", "VLAN", "#Conns", "PNET-ID"]
    rows = [_smcd(group) for group in groups]
    if details:
        headers += ["Version", "Peer-Rel", "Peer-Host", "Peer-OS", "EID"]
        headers += ["CHID", "GID", "Peer-GID", "Sndbuf", "DMB"]
        for row, group in zip(rows, groups, strict=True):
            row += _v2(group.v2)
            row += ["" if group.chid is None else f"{group.chid:04x}"]
            row += [format_gid(group.gid), format_gid(group.peer_gid)]
            row += [_size(group.sndbuf_size), _size(group.dmb_size)]
    say_table(headers, rows)


def _smcd(group: SmcdLinkGroup) -> list[Cell]:
    return [f"{group.id:08x}", group.vlan_id, group.connections, group.pnetid]


def _show_smcr(groups: list[SmcrLinkGroup], details: bool) -> None:
    say("SMC-R")
    headers = ["LG-ID", "LG-Role", "LG-Type", "VLAN", "#Conns", "PNET-ID"]
    rows = [_smcr(group) for group in groups]
    if details:
        headers += ["Version", "Peer-Rel", "Peer-Host", "Peer-OS", "EID"]
        headers += ["Direct", "Sndbuf", "RMB"]
        for row, group in zip(rows, groups, strict=True):
            row += _v2(group.v2)
            direct = group.v2.direct if group.v2 else None
            row += ["" if direct is None else "Yes" if direct else "No"]
            row += [_size(group.sndbuf_size), _size(group.rmb_size)]
    say_table(headers, rows)


def _smcr(group: SmcrLinkGroup) -> list[Cell]:
    return [
        f"{group.id:08x}",
        "SERV" if group.role == "server" else "CLNT",
        _TYPES.get(group.type, str(group.type)),
        group.vlan_id,
        group.connections,
        group.pnetid,
    ]


def _v2(v2: V2 | None) -> list[Cell]:
    if v2 is None:
        return [1, "", "", "", ""]
    return [v2.version, v2.release, v2.hostname, v2.os, v2.eid]


def _size(size: int | None) -> Cell:
    return "" if size is None else size


def _show_links(found: list[Link], groups: list[SmcrLinkGroup]) -> None:
    by_id = {group.id: group for group in groups}
    headers = ["LG-ID", "LG-Role", "LG-Type", "Net-Dev", "Link-State", "#Conns"]
    headers += ["Link-UID", "Peer-UID", "IB-Dev", "IB-P", "Local-GID", "Peer-GID"]
    rows: list[list[Cell]] = []
    for link in found:
        group = by_id.get(link.link_group)
        rows.append(
            [
                f"{link.link_group:08x}",
                *(_smcr(group)[1:3] if group else ("", "")),
                link.interface or "",
                link.state.name if isinstance(link.state, LinkState) else f"{link.state:#x}?",
                link.connections,
                f"{link.uid:08x}",
                f"{link.peer_uid:08x}",
                link.device,
                link.port,
                link.gid,
                link.peer_gid,
            ]
        )
    say_table(headers, rows)
