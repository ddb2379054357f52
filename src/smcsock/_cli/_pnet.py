"""smcsock pnet: the PNET table, as smc_pnet has it."""

import argparse

from ..diag import add_pnetid, clear_pnetids, pnetids, remove_pnetid
from ._common import ExitCode
from ._diag import add_action, add_actions, describe, kernel_errors
from ._json import say_json
from ._table import say_table

__all__ = ["add"]

_DESCRIPTION = """\
Shows and changes the PNET table of this network namespace, as smc_pnet of smc-tools
does. A PNET ID says which devices are on the same physical network: with that of a
network interface SMC finds the RDMA or ISM device for it. Those that the hardware has
are not in the table: see 'smcsock devices'. Changes take CAP_NET_ADMIN and do not
outlive a reboot.
"""

_EPILOG = """\
--json: a list of objects with the attributes of smcsock.diag.PnetId: name, and either
interface, or device and port; the others are null.
"""

_DEVICE = (
    "RDMA device; or SMC-D device: its PCI-ID, or from Linux 6.18 on its name in /sys/class/dibs"
)
_PNETID = "up to 16 letters and digits; letters become uppercase"


def add(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of the command."""
    describe(parser, _DESCRIPTION, _EPILOG)
    actions = add_actions(parser, _show)
    add = add_action(actions, "add", "give a PNET ID to an interface or a device", _add)
    add.add_argument("pnetid", metavar="PNETID", help=_PNETID)
    add.add_argument("-I", "--interface", help="network interface")
    add.add_argument("-D", "--ibdevice", metavar="DEVICE", help=_DEVICE)
    add.add_argument("-P", "--ibport", type=int, metavar="PORT", help="of the RDMA device (1)")
    remove = add_action(
        actions,
        "del",
        "remove a PNET ID from all that have it",
        lambda options: remove_pnetid(options.pnetid),
    )
    remove.add_argument("pnetid", metavar="PNETID", help=_PNETID)
    add_action(actions, "flush", "empty the PNET table", lambda _: clear_pnetids())


def _add(options: argparse.Namespace) -> None:
    add_pnetid(
        options.pnetid,
        interface=options.interface,
        ib_device=options.ibdevice,
        ib_port=options.ibport,
    )


def _show(options: argparse.Namespace) -> ExitCode:
    with kernel_errors():
        found = pnetids()
    if options.json:
        say_json(found)
    else:
        say_table(
            ["PNET-ID", "Net-Dev", "IB-Dev", "IB-P"],
            [
                [entry.name, entry.interface or "", entry.device or "", str(entry.port or "")]
                for entry in found
            ],
        )
    return ExitCode.OK
