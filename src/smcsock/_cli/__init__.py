"""The command line: one module per subcommand.

A module has ``add(parser)``, which adds its arguments to its parser and sets the default
``run`` in it, a function of the parsed options that returns an ExitCode. Their ``fail`` is
the parser's own error().
"""

from __future__ import annotations

import io
import os
import sys

from .. import __version__
from ._common import (
    CommandError,
    ExitCode,
    OutputError,
    complain,
    explain,
    flush,
    say,
    terminal_columns,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence
    from typing import Any

__all__ = ["SUMMARIES", "command_parser", "help_text", "main", "parse", "parser"]

SUMMARIES = {
    "echo": "try SMC with an echo server and client",
    "info": "show what this machine's kernel offers",
    "bench": "measure TCP and SMC to the same peer",
    "run": "run a program over SMC",
    "doctor": "see whether SMC works, and what to fix if not",
    "ss": "show SMC sockets (smcss)",
    "linkgroups": "show link groups and links (smcd, smcr linkgroup)",
    "devices": "show devices (smcd, smcr device)",
    "stats": "show counters (smcd, smcr stats)",
    "metrics": "SMC's state and counters for Prometheus",
    "system": "show what the kernel's SMC can do (smcd info)",
    "ueid": "user-defined EIDs (smcd ueid)",
    "seid": "the system EID (smcd seid)",
    "pnet": "the PNET table (smc_pnet)",
    "hs-limit": "limit SMC handshakes",
    "rnics": "RoCE and ISM functions of IBM Z (smc_rnics)",
}
"""What each command is for. Only the module of one that is asked for is loaded."""

_DESCRIPTION = "Sockets for Linux SMC (Shared Memory Communications)."

ACTIONS = {
    "linkgroups": ("show", "link-show"),
    "devices": ("show",),
    "stats": ("show", "reset"),
    "system": ("show",),
    "ueid": ("show", "add", "del", "flush"),
    "seid": ("show", "enable", "disable"),
    "pnet": ("show", "add", "del", "flush"),
    "hs-limit": ("show", "enable", "disable"),
}
"""What commands can do, as their parsers have it: known before one is made."""

_EPILOG = """\
exit status:
  0    fine
  1    failed: a network error, a wrong echo; 'info': SMC cannot be used here;
       'doctor': SMC does not work
  2    wrong usage
  3    SMC was required, but the kernel has none or the connection fell back
  4    not permitted: it takes CAP_NET_ADMIN
  5    'doctor': whether SMC works could not be found out
  130  interrupted by Ctrl-C
  141  the reader of the output has gone

A command, and the action behind it, may be abbreviated as long as it is clear which one
is meant.
'run' ends as the program does; 126 and 127 mean that there was nothing to run.
'smcsock COMMAND --help' tells more about a command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command (``arguments``, else those of the process): its exit status.

    Raises SystemExit for wrong usage and a command's --help, and on SIGTERM.
    """
    for stream in (sys.stdout, sys.stderr):
        # What peers and users send need not fit the terminal's character set.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # With PYTHONUNBUFFERED, argparse would fail to write and not tell.
        sys.stdout.reconfigure(write_through=False)
    try:
        try:
            words = sys.argv[1:] if arguments is None else arguments
            # At once, without argparse, which takes longer than all the rest.
            if list(words) == ["--version"]:
                say(f"smcsock {__version__}")
                return ExitCode.OK
            if list(words) in (["--help"], ["-h"]):
                flush(help_text())
                return ExitCode.OK
            options = parse(words)
        finally:
            flush()
        return int(options.run(options))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except OutputError as error:
        _abandon_stdout()
        if isinstance(error.cause, BrokenPipeError):
            return ExitCode.OUTPUT_GONE
        complain(f"cannot write the output: {explain(error.cause)}")
        return ExitCode.FAILED
    except CommandError as error:
        complain(str(error))
        return error.status
    except OSError as error:
        complain(explain(error))
        return ExitCode.FAILED


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The options of a command line; SystemExit for wrong usage, --help and --version."""
    words = _unabbreviated(words)
    if words and words[0] in SUMMARIES:
        return command_parser(words[0]).parse_args(words[1:])
    return parser(words).parse_args(words)


def _unabbreviated(words: Sequence[str]) -> list[str]:
    """The same with the whole names of the command and of its action, which comes next."""
    if not words:
        return []
    command, *others = words
    command = _meant(command, SUMMARIES)
    actions = ACTIONS.get(command, ())
    return [command, *(_meant(word, actions) for word in others[:1]), *others[1:]]


def _meant(word: str, names: Iterable[str]) -> str:
    """The one name that begins so, else the word itself."""
    if not word or word in names:
        return word
    begun = [name for name in names if name.startswith(word)]
    return begun[0] if len(begun) == 1 else word


def parser(words: Iterable[str] = tuple(SUMMARIES)) -> argparse.ArgumentParser:
    """The parser of a command line with these words: it knows the commands among them.

    Of others it knows that they exist.
    """
    import argparse

    result = argparse.ArgumentParser(
        prog="smcsock", description=_DESCRIPTION, epilog=_EPILOG, **_style()
    )
    result.format_help = help_text  # type: ignore[method-assign]
    result.add_argument("--version", action="version", version=f"smcsock {__version__}")
    commands = result.add_subparsers(required=True, metavar="COMMAND", title="commands")
    wanted = set(words)
    for name, help in SUMMARIES.items():
        command = commands.add_parser(name, help=help, **_style())
        if name in wanted:
            _add(name, command)
    return result


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of what follows the name of a command, which the others do not delay."""
    import argparse

    result = argparse.ArgumentParser(prog=f"smcsock {name}", **_style())
    _add(name, result)
    return result


def _style() -> dict[str, Any]:
    from argparse import RawDescriptionHelpFormatter
    from functools import partial

    # With a width argparse does not load shutil.
    formatter = partial(RawDescriptionHelpFormatter, width=terminal_columns() - 2)
    return {"formatter_class": formatter, "allow_abbrev": False}


def _add(name: str, command: argparse.ArgumentParser) -> None:
    from importlib import import_module

    command.set_defaults(fail=command.error)
    import_module(f"._{name.replace('-', '_')}", __name__).add(command)


def help_text() -> str:
    """What --help says."""
    width = max(map(len, SUMMARIES))
    commands = "".join(f"  {name:{width}}  {what}\n" for name, what in SUMMARIES.items())
    return f"""\
usage: smcsock [-h] [--version] COMMAND ...

{_DESCRIPTION}

commands:
{commands}
options:
  -h, --help  show this help message and exit
  --version   show program's version number and exit

{_EPILOG}"""


def _abandon_stdout() -> None:
    """Lets the interpreter's own flush at exit succeed, which would complain again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
