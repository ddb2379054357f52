"""What the commands for smcsock.diag share: errors, JSON, tables."""

import argparse
import contextlib
import errno
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

from ..diag import ExtraMissingError
from ._common import CommandError, ExitCode, explain, put
from ._text import printable

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = [
    "Cell",
    "add_action",
    "add_actions",
    "add_json",
    "describe",
    "format_gid",
    "kernel_errors",
    "plain",
    "say_json",
    "say_table",
]

Cell: TypeAlias = str | int
Run: TypeAlias = Callable[[argparse.Namespace], ExitCode]

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

# Numbers that may have more digits than a program that reads JSON can keep.
_HEXADECIMAL = {"cookie", "gid", "net_cookie", "peer_gid", "peer_token", "token"}

# The last column is worth folding at a terminal if it keeps at least this width.
_MIN_WIDTH = 24
_GAP = 2


def describe(parser: argparse.ArgumentParser, description: str, epilog: str = "") -> None:
    """Gives the parser of a command its texts; the exit status follows the epilog."""
    parser.description = description
    parser.epilog = f"{epilog}\n{_EXIT_STATUS}" if epilog else _EXIT_STATUS


def add_json(parser: argparse.ArgumentParser, *, default: Any = False) -> None:
    """Adds --json."""
    parser.add_argument("--json", action="store_true", default=default, help="for programs")


def add_actions(parser: argparse.ArgumentParser, show: Run) -> "Commands":
    """Adds the actions of a command, of which ``show`` is the default."""
    parser.set_defaults(run=show)
    add_json(parser)
    actions = parser.add_subparsers(metavar="ACTION", title="actions")
    shower = actions.add_parser("show", help="what you get without an action", allow_abbrev=False)
    shower.set_defaults(run=show, fail=shower.error)
    add_json(shower, default=argparse.SUPPRESS)
    return actions


def add_action(
    actions: "Commands", name: str, help: str, change: Callable[[argparse.Namespace], None]
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


def say_json(value: Any, indent: int | None = 2) -> None:
    """A result as JSON."""
    put(json.dumps(plain(value), indent=indent))


def plain(value: Any, name: str = "") -> Any:
    """What JSON has of a value: dataclasses become objects, members of enums their names."""
    if is_dataclass(value):
        return {item.name: plain(getattr(value, item.name), item.name) for item in fields(value)}
    if isinstance(value, dict):
        return {key: plain(item, key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, IntFlag):
        return [flag.name for flag in value]
    if isinstance(value, IntEnum):
        return value.name
    if type(value) is int and name in _HEXADECIMAL:
        return format_gid(value) if value >> 64 else f"{value:#x}"
    return value


def format_gid(gid: int) -> str:
    """The GID of an SMC-D device: if it is one of 128 bits, as /sys/class/dibs writes it."""
    return str(UUID(int=gid)) if gid >> 64 else f"{gid:016x}"


def say_table(
    headers: Sequence[str], rows: Sequence[Sequence[Cell]], *, wide: bool = False
) -> None:
    """Rows under their headers; numbers to the right.

    Nothing is left out and no line is folded, but for the last column at a terminal, if
    it then fits; ``wide`` never folds it. Needs rich; CommandError without.
    """
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ModuleNotFoundError as error:
        raise CommandError(f"{ExtraMissingError('rich')}; or use --json") from error
    texts = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *texts, strict=True)]
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    room = shutil.get_terminal_size().columns - sum(widths[:-1]) - _GAP * len(widths[:-1])
    if is_terminal and not wide and _MIN_WIDTH <= room < widths[-1]:
        widths[-1] = room
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for n, (header, width) in enumerate(zip(headers, widths, strict=True)):
        is_number = any(isinstance(row[n], int) for row in rows)
        table.add_column(
            Text(header), width=width, justify="right" if is_number else "left", overflow="fold"
        )
    for row in texts:
        table.add_row(*map(Text, row))
    # Not to standard output itself: at a closed pipe rich ends the process.
    console = Console(
        file=io.StringIO(),
        force_terminal=is_terminal,
        width=sum(widths) + _GAP * len(widths),
        legacy_windows=False,
    )
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        put(line.rstrip())
