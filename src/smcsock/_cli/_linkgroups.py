"""smcsock linkgroups: link groups and links, as smcd, smcr linkgroup show them."""

import argparse
from collections.abc import Iterator
from typing import Any

from ..diag import (
    V2,
    Link,
    LinkGroupType,
    LinkState,
    SmcdLinkGroup,
    SmcrLinkGroup,
    iter_links,
    iter_smcd_link_groups,
    iter_smcr_link_groups,
)
from ._common import ExitCode, say
from ._diag import add_views, describe, kernel_errors
from ._json import add_json, say_lists
from ._table import Cell, say_table
from ._text import format_gid

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
      CHID                of the device (SMC-D), from Linux 6.18 on its fabric ID; ffff is
                          a loopback device
      GID, Peer-GID       (SMC-D) hexadecimal; of 128 bits, as in /sys/class/dibs
      Sndbuf, RMB, DMB    bytes of all buffers, as far as the kernel tells
  --links  Net-Dev, Link-State, Link-UID, Peer-UID, IB-Dev, IB-P, Local-GID, Peer-GID

--json: an object of lists; what -D, -R and -l leave out is not there:
  smcd: id, gid, peer_gid, chid, vlan_id, connections, pnetid, sndbuf_size, dmb_size, v2
  smcr: id, role ("client" or "server"), type, vlan_id, connections, pnetid,
    buffer_type, net_cookie, sndbuf_size, rmb_size, v2
  links: link_group, id, state, device, port, interface, gid, peer_gid, uid, peer_uid,
    connections
v2 (null for version 1 of SMC) has version, release, os, hostname, eid, and for SMC-R
direct, max_connections, max_links. GIDs of SMC-D and cookies are strings
"0x...", GIDs of 128 bits UUIDs.
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
    add_views(parser, "show", "link-show")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("-D", "--smcd", action="store_true", help="SMC-D only")
    which.add_argument("-R", "--smcr", action="store_true", help="SMC-R only")
    which.add_argument("-l", "--links", action="store_true", help="the links of SMC-R")
    parser.add_argument("-d", "--details", action="store_true", help="all that is known of them")
    only = parser.add_argument_group("only those")
    only.add_argument("--id", type=_parse_id, metavar="LG-ID", help="with this ID")
    only.add_argument("--pnetid", help="of devices with this PNET ID")
    only.add_argument("--netdev", metavar="NAME", help="with a link over this network interface")
    only.add_argument("--ibdev", metavar="NAME", help="with a link over this RDMA device")
    add_json(parser)


def _parse_id(text: str) -> int:
    try:
        return int(text, 16)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a hexadecimal number: {text!r}") from None


def _run(options: argparse.Namespace) -> ExitCode:
    if options.action == "link-show":
        if options.smcd:
            options.fail("only link groups of SMC-R have links")
        options.links = True
    with kernel_errors():
        if options.json:
            _say_json(options)
        elif options.links:
            _show_links(options)
        else:
            _show_groups(options)
    return ExitCode.OK


def _say_json(options: argparse.Namespace) -> None:
    lists: dict[str, Iterator[Any]] = {}
    if not (options.smcr or options.links):
        lists["smcd"] = _smcd_groups(options)
    if not (options.smcd or options.links):
        lists["smcr"] = _smcr_groups(options)
    if not options.smcd:
        lists["links"] = _links(options)
    say_lists(lists)


def _smcd_groups(options: argparse.Namespace) -> Iterator[SmcdLinkGroup]:
    if options.netdev or options.ibdev:
        return iter(())
    return (group for group in iter_smcd_link_groups() if _is_wanted(group, options))


def _smcr_groups(options: argparse.Namespace) -> Iterator[SmcrLinkGroup]:
    ids: set[int] | None = None
    if options.netdev or options.ibdev:
        ids = {link.link_group for link in iter_links() if _has_devices(link, options)}
    for group in iter_smcr_link_groups():
        if (ids is None or group.id in ids) and _is_wanted(group, options):
            yield group


def _links(options: argparse.Namespace) -> Iterator[Link]:
    ids: set[int] | None = None
    if options.pnetid:
        ids = {group.id for group in iter_smcr_link_groups() if group.pnetid == options.pnetid}
    for link in iter_links():
        is_wanted = options.id in (None, link.link_group) and _has_devices(link, options)
        if is_wanted and (ids is None or link.link_group in ids):
            yield link


def _is_wanted(group: SmcdLinkGroup | SmcrLinkGroup, options: argparse.Namespace) -> bool:
    return options.id in (None, group.id) and options.pnetid in (None, group.pnetid)


def _has_devices(link: Link, options: argparse.Namespace) -> bool:
    return options.netdev in (None, link.interface) and options.ibdev in (None, link.device)


def _show_groups(options: argparse.Namespace) -> None:
    if not options.smcr:
        _show_smcd(_smcd_groups(options), options.details)
    if not (options.smcd or options.smcr):
        say("")
    if not options.smcd:
        _show_smcr(_smcr_groups(options), options.details)


def _show_smcd(groups: Iterator[SmcdLinkGroup], details: bool) -> None:
    headers = ["LG-ID", "VLAN", "#Conns", "PNET-ID"]
    if details:
        headers += ["Version", "Peer-Rel", "Peer-Host", "Peer-OS", "EID"]
        headers += ["CHID", "GID", "Peer-GID", "Sndbuf", "DMB"]
    say_table(headers, (_smcd(group, details) for group in groups), title="SMC-D")


def _smcd(group: SmcdLinkGroup, details: bool) -> list[Cell]:
    row: list[Cell] = [f"{group.id:08x}", group.vlan_id, group.connections, group.pnetid]
    if details:
        row += _v2(group.v2)
        row += ["" if group.chid is None else f"{group.chid:04x}"]
        row += [format_gid(group.gid), format_gid(group.peer_gid)]
        row += [_size(group.sndbuf_size), _size(group.dmb_size)]
    return row


def _show_smcr(groups: Iterator[SmcrLinkGroup], details: bool) -> None:
    headers = ["LG-ID", "LG-Role", "LG-Type", "VLAN", "#Conns", "PNET-ID"]
    if details:
        headers += ["Version", "Peer-Rel", "Peer-Host", "Peer-OS", "EID"]
        headers += ["Direct", "Sndbuf", "RMB"]
    say_table(headers, (_smcr(group, details) for group in groups), title="SMC-R")


def _smcr(group: SmcrLinkGroup, details: bool = False) -> list[Cell]:
    row: list[Cell] = [
        f"{group.id:08x}",
        "SERV" if group.role == "server" else "CLNT",
        _TYPES.get(group.type, str(group.type)),
        group.vlan_id,
        group.connections,
        group.pnetid,
    ]
    if details:
        direct = group.v2.direct if group.v2 else None
        row += _v2(group.v2)
        row += ["" if direct is None else "Yes" if direct else "No"]
        row += [_size(group.sndbuf_size), _size(group.rmb_size)]
    return row


def _v2(v2: V2 | None) -> list[Cell]:
    if v2 is None:
        return [1, "", "", "", ""]
    return [v2.version, v2.release, v2.hostname, v2.os, v2.eid]


def _size(size: int | None) -> Cell:
    return "" if size is None else size


def _show_links(options: argparse.Namespace) -> None:
    groups = {group.id: _smcr(group)[1:3] for group in iter_smcr_link_groups()}
    headers = ["LG-ID", "LG-Role", "LG-Type", "Net-Dev", "Link-State", "#Conns"]
    headers += ["Link-UID", "Peer-UID", "IB-Dev", "IB-P", "Local-GID", "Peer-GID"]
    say_table(
        headers,
        (_link(link, groups.get(link.link_group, ["", ""])) for link in _links(options)),
    )


def _link(link: Link, role_and_type: list[Cell]) -> list[Cell]:
    return [
        f"{link.link_group:08x}",
        *role_and_type,
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
