"""smcsock rnics: the PCI functions of IBM Z for SMC, as smc_rnics has them."""

import argparse
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from .._kernel._rnics import PciFunction, pci_functions, set_power
from ..diag import PnetId, pnetids
from ..diag._errors import ExtraMissingError
from ._common import CommandError, ExitCode, complain, explain
from ._json import add_json, say_json
from ._table import Cell, say_table

__all__ = ["add"]

_DESCRIPTION = """\
Shows the PCI functions of IBM Z that SMC can use and that are on, RoCE and network cards
and ISM devices, as smc_rnics of smc-tools does. --enable and --disable turn one on or
off, which takes root. Others than those are not shown even when they were enabled: see
--all.
"""

_EPILOG = """\
columns (FID, PCHID and PFT are hexadecimal):
  FID             function ID
  Power           1 for on, 0 for off (in standby)
  PCI-ID          PCI address
  PCHID           physical channel ID; of ISM devices the virtual one
  Type            with --rawids the IDs of vendor and device
  PFT             PCI function type
  VF              whether it is a virtual function; with --rawids VFN, its number
  PPrt            physical port, from 0 on; with --ib-dev IPrt: of the RDMA device, from 1 on
  PNET-ID         with a * behind it if it is from the PNET table
  Net-Dev         network interface; with --ib-dev IB-Dev, the RDMA device

--json: a list of objects with fid, is_on, pci_id, pchid, vendor, device, pft, vfn, type,
port, pnetid (the hardware's), interfaces (objects with name, port, pnetid) and ib_ports
(device, port, pnetid). What is not known while a function is off is null.

exit status:
  0    fine
  1    failed: no such function, or it is on or off already; not on IBM Z
  2    wrong usage
  4    not permitted: it takes root
  141  the reader of the output has gone
"""

_NONE = "n/a"
ROOT = Path("/")
"""Where sys is."""


def add(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of the command."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.set_defaults(run=_run)
    parser.add_argument("fid", nargs="?", type=_parse_fid, metavar="FID", help="show that one only")
    parser.add_argument(
        "-a", "--all", action="store_true", help="also those that are off, and other functions"
    )
    parser.add_argument(
        "-I", "--ib-dev", action="store_true", help="show RDMA devices, not network interfaces"
    )
    parser.add_argument(
        "-r", "--rawids", action="store_true", help="show numbers for types; also other functions"
    )
    change = parser.add_mutually_exclusive_group()
    change.add_argument("-e", "--enable", type=_parse_fid, metavar="FID", help="turn it on")
    change.add_argument("-d", "--disable", type=_parse_fid, metavar="FID", help="turn it off")
    add_json(parser)


def _parse_fid(text: str) -> int:
    try:
        fid = int(text, 16)
    except ValueError:
        fid = -1
    if not 0 <= fid < 1 << 32:
        raise argparse.ArgumentTypeError(f"not a function ID in hexadecimal: {text!r}")
    return fid


def _run(options: argparse.Namespace) -> ExitCode:
    functions = pci_functions(ROOT)
    if not functions and os.uname().machine not in ("s390x", "s390"):
        raise CommandError("only IBM Z has PCI functions with IDs")
    fid, on = (options.disable, False) if options.enable is None else (options.enable, True)
    if fid is None:
        _list(functions, options)
    elif options.fid is not None or options.json or options.all or options.rawids or options.ib_dev:
        options.fail("--enable and --disable show nothing")
    else:
        _set_power(_find(functions, fid), on=on)
    return ExitCode.OK


def _find(functions: list[PciFunction], fid: int) -> PciFunction:
    for function in functions:
        if function.fid == fid:
            return function
    raise CommandError(f"there is no function {fid:x}")


def _set_power(function: PciFunction, *, on: bool) -> None:
    if function.is_on == on:
        raise CommandError(f"function {function.fid:x} is {'on' if on else 'off'} already")
    try:
        set_power(ROOT, function.fid, on=on)
    except OSError as error:
        denied = error.errno in (errno.EACCES, errno.EPERM)
        status = ExitCode.NOT_PERMITTED if denied else ExitCode.FAILED
        verb = "enable" if on else "disable"
        raise CommandError(
            f"cannot {verb} function {function.fid:x}: {explain(error)}", status
        ) from None


def _list(functions: list[PciFunction], options: argparse.Namespace) -> None:
    if options.fid is not None:
        functions = [_find(functions, options.fid)]
    elif not options.all:
        functions = [each for each in functions if each.is_on and (each.type or options.rawids)]
    for function in functions:
        if function.is_on and function.pci_id is None:
            complain(f"function {function.fid:x} is on, but there is no device of it")
    if options.json:
        say_json(functions)
        return
    headers = ["FID", "Power", "PCI-ID", "PCHID", "Type", "PFT"]
    headers += ["VFN" if options.rawids else "VF"]
    headers += ["IPrt", "PNET-ID", "IB-Dev"] if options.ib_dev else ["PPrt", "PNET-ID", "Net-Dev"]
    table = _pnet_table()
    say_table(headers, (row for each in functions for row in _rows(each, table, options)))


def _rows(
    function: PciFunction, table: list[PnetId], options: argparse.Namespace
) -> Iterator[list[Cell]]:
    if function.pci_id is None:
        yield [f"{function.fid:x}", f"{function.is_on:d}", *[""] * 8]
        return
    head = _head(function, raw=options.rawids)
    ports: list[tuple[int | None, str, str]] = (
        [(each.port, each.pnetid, each.device) for each in function.ib_ports]
        if options.ib_dev
        else [(each.port, each.pnetid, each.name) for each in function.interfaces]
    )
    for port, pnetid, name in ports or [(function.port, function.pnetid or "", "")]:
        shown = pnetid or _entered(table, function, name, port)
        yield [*head, _NONE if port is None else f"{port}", shown or _NONE, name or _NONE]


def _head(function: PciFunction, *, raw: bool) -> list[Cell]:
    """What a function has once, however many ports."""
    ids = f"{function.vendor or 0:04x}:{function.device or 0:04x}"
    virtual = "y" if function.is_virtual else "n"
    return [
        f"{function.fid:x}",
        f"{function.is_on:d}",
        function.pci_id or "",
        "" if function.pchid is None else f"{function.pchid:04x}",
        ids if raw else function.type or ids,
        f"{function.pft or 0:#04x}" if raw else function.pft_name,
        f"{function.vfn or 0}" if raw else virtual,
    ]


def _entered(table: list[PnetId], function: PciFunction, name: str, port: int | None) -> str:
    """The PNET ID of an interface or of a device in the PNET table, "" for none."""
    for entry in table:
        is_device = entry.device in (function.pci_id, name) and (
            entry.device == function.pci_id or entry.port == port
        )
        if (name and entry.interface == name) or (entry.device and is_device):
            return f"{entry.name}*"
    return ""


def _pnet_table() -> list[PnetId]:
    """Empty where the kernel cannot be asked for it."""
    try:
        return pnetids()
    except (ExtraMissingError, OSError):
        return []
