"""What the commands for smcsock.diag share: parsers and errors."""

from __future__ import annotations

import argparse
import contextlib
import errno

from ..diag._errors import ExtraMissingError
from ._common import CommandError, ExitCode, explain
from ._json import add_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]
    Run: TypeAlias = Callable[[argparse.Namespace], ExitCode]

__all__ = ["add_action", "add_actions", "add_views", "describe", "kernel_errors"]

_EXIT_STATUS = """\
exit status:
  0    fine
  1    failed, or a Python package is missing
  2    wrong usage
  3    the kernel has no SMC
  4    not permitted: it takes CAP_NET_ADMIN
  130  interrupted by Ctrl-C
  141  the reader of the output has gone
"""

_STATUS = {errno.EAFNOSUPPORT: ExitCode.NO_SMC, errno.EPERM: ExitCode.NOT_PERMITTED}


def describe(parser: argparse.ArgumentParser, description: str, epilog: str = "") -> None:
    """Gives the parser of a command its texts; the exit status follows the epilog."""
    parser.description = description
    parser.epilog = f"{epilog}\n{_EXIT_STATUS}" if epilog else _EXIT_STATUS


def add_views(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds what smc-tools say for what a command shows; the first is the default."""
    parser.add_argument(
        "action", nargs="?", choices=names, default=names[0], help="as smc-tools have it"
    )


def add_actions(parser: argparse.ArgumentParser, show: Run) -> Commands:
    """Adds the actions of a command, of which ``show`` is the default."""
    parser.set_defaults(run=show)
    add_json(parser)
    actions = parser.add_subparsers(metavar="ACTION", title="actions")
    shower = actions.add_parser("show", help="what you get without an action", allow_abbrev=False)
    shower.set_defaults(run=show, fail=shower.error)
    add_json(shower, default=argparse.SUPPRESS)
    return actions


def add_action(
    actions: Commands, name: str, help: str, change: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    """Adds an action that changes something, and says nothing if all is well."""

    def run(options: argparse.Namespace) -> ExitCode:
        if options.json:
            options.fail("--json is for what shows something")
        try:
            with kernel_errors():
                change(options)
        except ValueError as error:
            options.fail(str(error))
        return ExitCode.OK

    parser = actions.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}.", allow_abbrev=False
    )
    parser.set_defaults(run=run, fail=parser.error)
    return parser


@contextlib.contextmanager
def kernel_errors() -> Iterator[None]:
    """Raises the errors of smcsock.diag as CommandErrors, with their exit status."""
    try:
        yield
    except ExtraMissingError as error:
        raise CommandError(explain(error)) from None
    except OSError as error:
        status = _STATUS.get(error.errno or 0, ExitCode.FAILED)
        raise CommandError(explain(error), status) from None
