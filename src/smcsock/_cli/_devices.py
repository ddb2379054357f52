"""smcsock devices: the devices for SMC, as smcd device and smcr device show them."""

import argparse
from dataclasses import replace
from pathlib import Path

from .._kernel import _machine
from ..diag import Pci, Port, SmcdDevice, SmcrDevice, devices, system
from ._common import ExitCode, say
from ._diag import add_views, describe, kernel_errors
from ._json import add_json, say_json
from ._table import Cell, say_table

__all__ = ["add"]

_DESCRIPTION = """\
Shows the devices that the kernel's SMC can use, as 'smcd device' and 'smcr device' of
smc-tools do; and those of DIBS, from which SMC-D has its devices since Linux 6.18.
The kernel does not list loopback devices for SMC-D, but tells that there is one for
version 2.
"""

_EPILOG = """\
columns:
  FID, PCI-ID, PCHID      PCI function, on IBM Z with its function ID and PCHID
                          (hexadecimal)
  Type                    ISM, RoCE_Express2, ... or the PCI device ID
  InUse, #LGs             whether link groups use the device, and how many (SMC-D)
  Net-Dev                 network interface
  IB-Dev, IB-P, IB-State  RDMA device, its port, the port's state
  Crit                    whether link groups have no other device
  #Links                  links that use the port
  PNET-ID                 with a * if it is from the PNET table
  Device, GID, Fabric-ID  DIBS device, as in /sys/class/dibs; 0xffff is loopback. The
                          PNET table takes its name, or the PCI-ID

--json: an object; what -D and -R leave out is not there:
  smcd: a list of objects with pci, link_groups (how many), pnetid, pnetid_by_user
  ism_v2: whether there is a device for version 2 of SMC-D
  dibs: a list of objects with name, pci_id (null for loopback), gid, fabric_id
  smcr: a list of objects with name, pci (null for soft-RoCE), is_critical, ports
    (number, active, interface, links, pnetid, pnetid_by_user)
pci has id, fid, pchid, vendor, device.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of the command."""
    describe(parser, _DESCRIPTION, _EPILOG)
    parser.set_defaults(run=_run)
    add_views(parser, "show")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("-D", "--smcd", action="store_true", help="SMC-D only")
    which.add_argument("-R", "--smcr", action="store_true", help="SMC-R only")
    which.add_argument(
        "-g", "--by-pnetid", action="store_true", help="what is on the same physical network"
    )
    only = parser.add_argument_group("only those")
    only.add_argument("--id", metavar="ID", help="of this FID, PCI-ID or name of a DIBS device")
    only.add_argument("--pnetid", help="with this PNET ID")
    only.add_argument("--netdev", metavar="NAME", help="of this network interface")
    only.add_argument("--ibdev", metavar="NAME", help="RDMA devices of this name")
    add_json(parser)


def _run(options: argparse.Namespace) -> ExitCode:
    if options.by_pnetid and options.json:
        options.fail("--by-pnetid is a table: the objects of --json have their PNET IDs")
    with kernel_errors():
        found = devices()
        ism_v2 = system().ism_v2
    dibs = [
        {
            "name": device.dibs,
            "pci_id": device.name if device.kind == "ism" else None,
            "gid": device.gid,
            "fabric_id": device.fabric_id or "",
        }
        for device in _machine.smcd_devices(Path("/"))
        if device.gid and _is_wanted_dibs(device, options)
    ]
    is_filtered = any((options.id, options.pnetid, options.netdev, options.ibdev))
    smcd = [device for device in found if isinstance(device, SmcdDevice)]
    smcd = [device for device in smcd if _is_wanted_smcd(device, options)]
    smcr = [device for device in found if isinstance(device, SmcrDevice)]
    smcr = list(filter(None, (_wanted_smcr(device, options) for device in smcr)))
    if options.by_pnetid:
        _show_by_pnetid(smcd, smcr)
        return ExitCode.OK
    if options.json:
        say_json(
            {
                **({} if options.smcr else {"smcd": smcd, "ism_v2": ism_v2, "dibs": dibs}),
                **({} if options.smcd else {"smcr": smcr}),
            }
        )
        return ExitCode.OK
    if not options.smcr:
        say("SMC-D")
        headers = ["FID", "Type", "PCI-ID", "PCHID", "InUse", "#LGs", "PNET-ID"]
        say_table(headers, list(map(_smcd, smcd)))
        if dibs:
            say("")
            say("DIBS")
            headers = ["Device", "PCI-ID", "GID", "Fabric-ID"]
            say_table(headers, [[value or "" for value in device.values()] for device in dibs])
        elif ism_v2 and not (smcd or is_filtered):
            say("(There is loopback-ism, which the kernel does not list.)")
    if not (options.smcd or options.smcr):
        say("")
    if not options.smcd:
        say("SMC-R")
        headers = ["Net-Dev", "IB-Dev", "IB-P", "IB-State", "Type", "Crit"]
        headers += ["FID", "PCI-ID", "PCHID", "#Links", "PNET-ID"]
        say_table(headers, [_smcr(device, port) for device in smcr for port in device.ports])
    return ExitCode.OK


def _is_wanted_dibs(device: _machine.SmcdDevice, options: argparse.Namespace) -> bool:
    return options.id in (None, device.name, device.dibs) and not (
        options.pnetid or options.netdev or options.ibdev
    )


def _has_id(pci: Pci | None, options: argparse.Namespace) -> bool:
    if options.id is None:
        return True
    return pci is not None and options.id in (pci.id, f"{pci.fid:x}", f"{pci.fid:04x}")


def _is_wanted_smcd(device: SmcdDevice, options: argparse.Namespace) -> bool:
    if options.netdev or options.ibdev:
        return False
    return options.pnetid in (None, device.pnetid) and _has_id(device.pci, options)


def _wanted_smcr(device: SmcrDevice, options: argparse.Namespace) -> SmcrDevice | None:
    """The device with those of its ports that are wanted, None without any."""
    ports = tuple(
        port
        for port in device.ports
        if _has_id(device.pci, options)
        and options.ibdev in (None, device.name)
        and options.netdev in (None, port.interface)
        and options.pnetid in (None, port.pnetid)
    )
    return replace(device, ports=ports) if ports else None


def _show_by_pnetid(smcd: list[SmcdDevice], smcr: list[SmcrDevice]) -> None:
    rows = [
        (_pnetid(device), "SMC-D", device.pci.id if device.pci else "", "", "", _in_use(device))
        for device in smcd
    ]
    rows += [
        (_pnetid(port), "SMC-R", device.name, str(port.number), port.interface or "", _in_use(port))
        for device in smcr
        for port in device.ports
    ]
    headers = ["PNET-ID", "For", "Device", "Port", "Net-Dev", "InUse"]
    say_table(headers, sorted(rows, key=lambda row: (str(row[0]).lstrip("*"), row[1:])))


def _in_use(owner: SmcdDevice | Port) -> str:
    return _yes_no(owner.in_use if isinstance(owner, SmcdDevice) else owner.links > 0)


def _smcd(device: SmcdDevice) -> list[Cell]:
    fid, pci_id, pchid = _pci(device)
    return [
        fid,
        device.pci.type if device.pci else "",
        pci_id,
        pchid,
        _yes_no(device.in_use),
        device.link_groups,
        _pnetid(device),
    ]


def _smcr(device: SmcrDevice, port: Port) -> list[Cell]:
    return [
        port.interface or "",
        device.name,
        port.number,
        "ACTIVE" if port.active else "INACTIVE",
        device.pci.type if device.pci else "",
        _yes_no(device.is_critical),
        *_pci(device),
        port.links,
        _pnetid(port),
    ]


def _pci(device: SmcdDevice | SmcrDevice) -> tuple[str, str, str]:
    pci = device.pci
    return (f"{pci.fid:04x}", pci.id, f"{pci.pchid:04x}") if pci else ("", "", "")


def _yes_no(value: bool) -> str:
    return "Yes" if value else "No"


def _pnetid(owner: SmcdDevice | Port) -> str:
    return f"*{owner.pnetid}" if owner.pnetid_by_user else owner.pnetid
