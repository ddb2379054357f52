"""Results for people: tables."""

from __future__ import annotations

import os
import sys
from itertools import chain, islice

from ._common import terminal_columns, writing
from ._text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TypeAlias

__all__ = ["Cell", "say_table"]

Cell: TypeAlias = str | int

# As many rows tell how wide the columns of a table are.
_SAMPLE = 100

# The last column is worth folding at a terminal if it keeps at least this width.
_MIN_WIDTH = 24
_GAP = 2


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
