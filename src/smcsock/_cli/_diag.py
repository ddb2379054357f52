"""What the commands for smcsock.diag share: errors, JSON, tables."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from enum import IntEnum, IntFlag
from itertools import chain, islice

from ..diag._errors import ExtraMissingError
from ._common import CommandError, ExitCode, explain, put, terminal_columns, writing
from ._text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Any, TypeAlias

    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]
    Run: TypeAlias = Callable[[argparse.Namespace], ExitCode]

__all__ = [
    "Cell",
    "add_action",
    "add_actions",
    "add_json",
    "add_views",
    "describe",
    "format_gid",
    "kernel_errors",
    "plain",
    "say_items",
    "say_json",
    "say_lists",
    "say_table",
]

Cell: TypeAlias = str | int

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

# As many rows tell how wide the columns of a table are.
_SAMPLE = 100

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


def say_json(value: Any, indent: int | None = 2) -> None:
    """A result as JSON."""
    import json

    put(json.dumps(plain(value), indent=indent))


def plain(value: Any, name: str = "") -> Any:
    """What JSON has of a value: dataclasses become objects, members of enums their names."""
    # What most values are comes first.
    if value is None or type(value) is str:
        return value
    if type(value) is int:
        if name in _HEXADECIMAL:
            return format_gid(value) if value >> 64 else f"{value:#x}"
        return value
    if (names := getattr(value, "__dataclass_fields__", None)) is not None:
        return {name: plain(getattr(value, name), name) for name in names}
    if isinstance(value, dict):
        return {key: plain(item, key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, IntFlag):
        return [flag.name for flag in value]
    if isinstance(value, IntEnum):
        return value.name
    return value


def format_gid(gid: int) -> str:
    """The GID of an SMC-D device: if it is one of 128 bits, as /sys/class/dibs writes it."""
    if gid >> 64 == 0:
        return f"{gid:016x}"
    digits = f"{gid:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def say_items(items: Iterable[Any]) -> None:
    """A list as JSON, as its items come: one a line."""
    with writing() as write:
        _write_items(items, write)
        write("\n")


def say_lists(lists: Mapping[str, Iterable[Any]]) -> None:
    """An object of lists as JSON, as their items come: one a line."""
    import json

    with writing() as write:
        for n, (name, items) in enumerate(lists.items()):
            items = _begun(items)
            write(f"{',' if n else '{'}\n{json.dumps(name)}: ")
            _write_items(items, write)
        write("\n}\n")


def _begun(items: Iterable[Any]) -> Iterator[Any]:
    """The same, with the first one there: an error in its place comes before any output."""
    items = iter(items)
    return chain(list(islice(items, 1)), items)


def _write_items(items: Iterable[Any], write: Callable[[str], object]) -> None:
    import json

    separator = "["
    for item in items:
        write(f"{separator}\n{json.dumps(plain(item))}")
        separator = ","
    write("[]" if separator == "[" else "\n]")


def say_table(
    headers: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    title: str = "",
    wide: bool = False,
) -> None:
    """Rows under their headers and a title, as they come; numbers to the right.

    The first rows tell how wide the columns are; a wider one moves those below it. Nothing
    is left out and no line is folded, but for the last column at a terminal, if it then
    fits; ``wide`` never folds it.
    """
    rows = iter(rows)
    first = list(islice(rows, _SAMPLE))
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    columns = _Columns(headers, first)
    room = terminal_columns() if is_terminal and not wide else sys.maxsize
    with writing() as write:
        if title:
            write(f"{title}\n")
        line = columns.line(headers, sys.maxsize)
        write(f"\x1b[1m{line}\x1b[0m\n" if is_terminal and _has_bold() else f"{line}\n")
        for row in chain(first, rows):
            write(f"{columns.line(row, room)}\n")


class _Columns:
    """How wide the columns of a table are; they only grow."""

    def __init__(self, headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        self._signs = [
            "" if any(isinstance(row[n], int) for row in rows) else "-" for n in range(len(headers))
        ]
        self._widths = [0] * len(headers)
        for row in (headers, *rows):
            self._grow(row)

    def line(self, row: Sequence[Cell], room: int) -> str:
        """A row as text; more than one line if its last cell has to be folded to fit."""
        line = self._format % tuple(row)
        if len(line) > self._width:
            self._grow(row)
            line = self._format % tuple(row)
        if not line.isprintable():
            line = self._format % tuple(map(_printable, row))
        if len(line) > room:
            line = self._fold(line, room)
        return line.rstrip()

    def _grow(self, row: Sequence[Cell]) -> None:
        lengths = (len(_printable(cell)) for cell in row)
        self._widths = list(map(max, self._widths, lengths))
        self._width = sum(self._widths) + _GAP * (len(self._widths) - 1)
        self._format = (" " * _GAP).join(
            f"%{sign}{width}s" for sign, width in zip(self._signs, self._widths, strict=True)
        )

    def _fold(self, line: str, room: int) -> str:
        indent = sum(self._widths[:-1]) + _GAP * (len(self._widths) - 1)
        width = room - indent
        if width < _MIN_WIDTH:
            return line
        import textwrap

        first, *more = textwrap.wrap(line[indent:].rstrip(), width) or [""]
        return "\n".join([line[:indent] + first, *(" " * indent + text for text in more)])


def _printable(cell: Cell) -> str:
    """A cell without what would control the terminal: peers and users choose its text."""
    return printable(str(cell))


def _has_bold() -> bool:
    return "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"
