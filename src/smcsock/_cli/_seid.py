"""smcsock seid: the system enterprise ID, as smcd seid has it."""

import argparse

from ..diag import disable_seid, enable_seid, seid
from ._common import ExitCode
from ._diag import add_action, add_actions, describe, kernel_errors
from ._json import say_json
from ._table import say_table

__all__ = ["add"]

_DESCRIPTION = """\
Shows, enables and disables the system enterprise ID (SEID) of this host, as 'smcd seid'
of smc-tools does. Only IBM Z has one. To disable it takes a user-defined EID, see
'smcsock ueid'. Changes take CAP_NET_ADMIN and do not outlive a reboot.
"""

_EPILOG = """\
--json: an object with "name" (null off IBM Z) and "enabled".
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of the command."""
    describe(parser, _DESCRIPTION, _EPILOG)
    actions = add_actions(parser, _show)
    add_action(actions, "enable", "use the SEID", lambda _: enable_seid())
    add_action(actions, "disable", "do not use the SEID", lambda _: disable_seid())


def _show(options: argparse.Namespace) -> ExitCode:
    with kernel_errors():
        found = seid()
    if options.json:
        say_json(found)
    else:
        state = "enabled" if found.enabled else "disabled"
        say_table(["SEID", "State"], [[found.name or "n/a", state if found.name else "n/a"]])
    return ExitCode.OK
