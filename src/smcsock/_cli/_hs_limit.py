"""smcsock hs-limit: the limitation of SMC handshakes."""

import argparse

from ..diag import handshake_limitation, limit_handshakes
from ._common import ExitCode
from ._diag import add_action, add_actions, describe, kernel_errors
from ._json import say_json
from ._table import say_table

__all__ = ["add"]

_DESCRIPTION = """\
Shows, enables and disables the limitation of SMC handshakes in this network namespace:
while handshakes queue up, listeners take further connections as TCP ones at once. It
holds for sockets opened from then on; SMC_LIMIT_HS is the option of a single socket.
Changes take CAP_NET_ADMIN and do not outlive a reboot. Linux 5.18 and newer.
"""

_EPILOG = """\
--json: an object with "enabled".
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of the command."""
    describe(parser, _DESCRIPTION, _EPILOG)
    actions = add_actions(parser, _show)
    add_action(actions, "enable", "limit handshakes", lambda _: limit_handshakes(True))
    add_action(actions, "disable", "do not limit handshakes", lambda _: limit_handshakes(False))


def _show(options: argparse.Namespace) -> ExitCode:
    with kernel_errors():
        enabled = handshake_limitation()
    if options.json:
        say_json({"enabled": enabled})
    else:
        say_table(["Handshake limitation"], [["enabled" if enabled else "disabled"]])
    return ExitCode.OK
