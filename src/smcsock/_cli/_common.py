"""What the commands share: exit status, output, errors."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from enum import IntEnum

from ._text import printable

__all__ = [
    "CommandError",
    "ExitCode",
    "OutputError",
    "complain",
    "explain",
    "flush",
    "parse_seconds",
    "put",
    "say",
    "terminal_columns",
    "writing",
]

_PIECES = 100  # a system call for each would take longer than to make it
_MAX_SECONDS = 1e6  # what the kernel can take for a timeout, rounded down


class ExitCode(IntEnum):
    """How a command ended; the epilog of --help documents it."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_SMC = 3
    NOT_PERMITTED = 4
    UNKNOWN = 5
    CANNOT_RUN = 126
    NOT_FOUND = 127
    INTERRUPTED = 130
    OUTPUT_GONE = 141


class CommandError(Exception):
    """A command failed; the message is for the user, ``status`` for the shell."""

    def __init__(self, message: str, status: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.status = status


class OutputError(Exception):
    """Standard output cannot be written; ``cause`` is the OSError.

    Not an OSError itself: nobody shall take it for an error of a connection.
    """

    def __init__(self, cause: OSError) -> None:
        super().__init__(cause)
        self.cause = cause


def say(line: str) -> None:
    """A line of the result, at once: readers of a pipe may wait for it."""
    put(printable(line))


def put(text: str) -> None:
    """As say(), of what is safe as it is: JSON, and lines that are escaped already."""
    try:
        print(text, flush=True)
    except OSError as error:
        raise OutputError(error) from None


@contextlib.contextmanager
def writing() -> Iterator[Callable[[str], object]]:
    """What writes text of the result, a hundred pieces at a time; raises OutputError."""
    pieces: list[str] = []

    def write(text: str) -> None:
        pieces.append(text)
        if len(pieces) >= _PIECES:
            flush("".join(pieces))
            pieces.clear()

    try:
        yield write
    finally:
        flush("".join(pieces))


def flush(text: str = "") -> None:
    """Writes out the text, and what was printed by others; OutputError if that fails."""
    # Standard output that is closed is None, and print() takes that.
    try:
        print(text, end="", flush=True)
    except OSError as error:
        raise OutputError(error) from None


def terminal_columns() -> int:
    """How wide the terminal is, as shutil.get_terminal_size() has it."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def complain(message: str) -> None:
    """A notice or an error, on standard error if there is one."""
    # print() would take standard output for one that is closed.
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"smcsock: {printable(message)}", file=sys.stderr, flush=True)


def explain(error: BaseException) -> str:
    """What an error says, without the number of an OSError."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return os.strerror(errno.ETIMEDOUT)
    text = error.strerror if isinstance(error, OSError) else None
    return text or str(error) or type(error).__name__


def parse_seconds(text: str) -> float:
    """A number of seconds, for argparse."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not 0 < seconds <= _MAX_SECONDS:
        from argparse import ArgumentTypeError

        raise ArgumentTypeError(
            f"not a number of seconds above 0 and up to {_MAX_SECONDS:g}: {text!r}"
        )
    return seconds
