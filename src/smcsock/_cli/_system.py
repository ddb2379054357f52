"""smcsock system: what the kernel's SMC can do, as smcd info shows it."""

import argparse

from ..diag import SmcdDevice, devices, system
from ._common import ExitCode
from ._diag import add_views, describe, kernel_errors
from ._json import add_json, say_json
from ._table import say_table

__all__ = ["add"]

_DESCRIPTION = """\
Shows what the kernel's SMC can do, as 'smcd info' of smc-tools does. See 'smcsock info'
for whether there is SMC at all.
"""

_EPILOG = """\
--json: an object with the attributes of smcsock.diag.System: version, release, ism_v2,
smcr_v2, hostname, seid (null off IBM Z).
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of the command."""
    describe(parser, _DESCRIPTION, _EPILOG)
    parser.set_defaults(run=_run)
    add_views(parser, "show")
    add_json(parser)


def _run(options: argparse.Namespace) -> ExitCode:
    with kernel_errors():
        found = system()
        listed = devices() if not options.json else []
    if options.json:
        say_json(found)
        return ExitCode.OK
    smcd = [device for device in listed if isinstance(device, SmcdDevice)]
    ism = [text for text, has in (("v1", bool(smcd)), ("v2", found.ism_v2)) if has]
    roce = [device.name for device in listed if not isinstance(device, SmcdDevice)]
    say_table(
        ("Kernel", ""),
        [
            ("SMC Version", f"{found.version}.{found.release}"),
            ("SMC Hostname", found.hostname or "n/a"),
            ("SMC-D Features", "v1 v2" if found.version >= 2 else "v1"),
            ("SMC-R Features", "v1 v2" if found.smcr_v2 else "v1"),
            ("SEID", found.seid or "n/a"),
            ("ISM", " ".join(ism) or "n/a"),
            ("RoCE", " ".join(roce) or "n/a"),
        ],
    )
    return ExitCode.OK
