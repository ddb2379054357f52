"""smcsock ueid: user-defined enterprise IDs, as smcd ueid has them."""

import argparse

from ..diag import add_ueid, clear_ueids, remove_ueid, ueids
from ._common import ExitCode
from ._diag import add_action, add_actions, describe, kernel_errors
from ._json import say_json
from ._table import say_table

__all__ = ["add"]

_DESCRIPTION = """\
Shows and changes the user-defined enterprise IDs (UEIDs) of this host, as 'smcd ueid'
and 'smcr ueid' of smc-tools do. Hosts use version 2 of SMC with each other if they
have an EID in common; off IBM Z, which has system EIDs, that takes a UEID. Changes
take CAP_NET_ADMIN and do not outlive a reboot.
"""

_EPILOG = """\
--json: a list of strings.
"""

_EID = "up to 32 characters A-Z, 0-9, '.' and '-'; 4 UEIDs are possible"


def add(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of the command."""
    describe(parser, _DESCRIPTION, _EPILOG)
    actions = add_actions(parser, _show)
    added = add_action(actions, "add", "add a UEID", lambda options: add_ueid(options.eid))
    removed = add_action(actions, "del", "remove a UEID", lambda options: remove_ueid(options.eid))
    for action in (added, removed):
        action.add_argument("eid", metavar="EID", help=_EID)
    add_action(actions, "flush", "remove all UEIDs", lambda _: clear_ueids())


def _show(options: argparse.Namespace) -> ExitCode:
    with kernel_errors():
        found = ueids()
    if options.json:
        say_json(found)
    else:
        say_table(["UEID"], [[eid] for eid in found])
    return ExitCode.OK
