"""smcsock run: a Python program whose TCP sockets are SMC sockets."""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from .. import has_smc
from .._dropin._selection import Selection
from .._dropin._session import Run
from .._dropin._spool import Spool
from .._errors import NO_SMC
from ._common import CommandError, ExitCode, explain

__all__ = ["add"]

_DESCRIPTION = """\
Runs a Python program in which every TCP socket that Python code opens is an SMC
socket: 'smcsock run PROGRAM ...' where you would say 'python PROGRAM ...', 'python
-m MODULE ...' or, for a command written in Python, 'PROGRAM ...'. Connections fall
back to TCP, as SMC does, where the peer or the devices cannot do SMC.
"""

_EPILOG = """\
PROGRAM is a file, or a command on PATH that is a Python script; it runs in this
Python, a command in its own, 'python3.X' in that one, and without the options that
a first line (#!) may have. Options of 'run' come before PROGRAM.

exit status: that of the program, or
  1    a name in --only cannot be resolved, the report cannot be written, Python is to
       ignore the environment (-I, -E, -S)
  2    wrong usage
  3    the kernel has no SMC, and --require-smc is given or neither --fallback nor
       SMCSOCK_FALLBACK says tcp
  126  PROGRAM is not a Python program, or cannot be run
  127  there is no such PROGRAM

Not followed: sockets that C libraries open (libpq, gRPC, libcurl, uvloop), and
classes derived from socket.socket. See docs/drop-in.md.
"""

_HOOK = str(Path(__file__).resolve().parent.parent / "_dropin/_site")
_NEEDS_ENVIRONMENT = "'run' works through PYTHONPATH and site: not with -I, -E or -S"
_PYTHON = re.compile(r"python(\d+(\.\d+)?t?)?")


def add(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of the command."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.usage = "smcsock run [OPTION ...] (PROGRAM | -m MODULE | -c CODE) [ARGUMENT ...]"
    parser.set_defaults(run=_run)
    parser.add_argument(
        "--require-smc",
        action="store_true",
        help="fail connections that would be TCP, with smcsock.FallbackError",
    )
    parser.add_argument(
        "--fallback",
        choices=("tcp", "error"),
        help="what to do where the kernel has no SMC (error)",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="HOST:PORT",
        help="only connections to this address, and servers bound to it; more than one "
        "possible. HOST: address, network (10.1.0.0/16), name or '*', IPv6 in brackets; "
        "PORT: number or '*'",
    )
    parser.add_argument(
        "--children",
        action="store_true",
        help="the Python processes that the program starts, too (forked ones always are)",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="at exit, count the connections by mode and reason, on standard error",
    )
    parser.add_argument("--report-to", type=Path, metavar="FILE", help="the same, into a file")
    parser.add_argument("--json", action="store_true", help="the report for programs")
    for name, what in (("--sndbuf", "send"), ("--rcvbuf", "receive")):
        parser.add_argument(
            name,
            type=_size,
            metavar="SIZE",
            help=f"size of the {what} buffers of SMC connections in bytes, or with k or M",
        )
    program = parser.add_mutually_exclusive_group()
    program.add_argument(
        "-m", dest="module", nargs=argparse.REMAINDER, metavar="...", help="run a module"
    )
    program.add_argument(
        "-c", dest="code", nargs=argparse.REMAINDER, metavar="...", help="run code"
    )
    parser.add_argument(
        "program", nargs=argparse.REMAINDER, metavar="PROGRAM", help="and its arguments"
    )


def _run(options: argparse.Namespace) -> NoReturn:
    wants_report = options.report or options.report_to is not None
    if options.json and not wants_report:
        options.fail("--json is for --report and --report-to")
    only = _selection(options)
    command = _command(options)
    _check_kernel(options)
    report_to = _open_report(options.report_to)
    spool = Spool.create() if wants_report else None
    run = Run(
        pid=os.getpid(),
        require_smc=options.require_smc,
        fallback=options.fallback,
        only=only,
        children=options.children,
        spool=spool.name if spool else None,
        report_to=report_to,
        json=options.json,
        sndbuf=options.sndbuf,
        rcvbuf=options.rcvbuf,
    )
    environment = dict(os.environ)
    run.put(environment, _HOOK)
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        if spool:
            spool.close()
        status = ExitCode.NOT_FOUND if isinstance(error, FileNotFoundError) else ExitCode.CANNOT_RUN
        raise CommandError(f"cannot run {command[0]}: {explain(error)}", status) from None


def _check_kernel(options: argparse.Namespace) -> None:
    choice = options.fallback or os.environ.get("SMCSOCK_FALLBACK") or "error"
    if choice not in ("tcp", "error"):
        options.fail(f"SMCSOCK_FALLBACK must be 'tcp' or 'error', not {choice!r}")
    if has_smc() or (choice == "tcp" and not options.require_smc):
        return
    hint = "" if options.require_smc else "; to run over plain TCP instead, give --fallback tcp"
    raise CommandError(f"{NO_SMC}{hint}", ExitCode.NO_SMC)


def _selection(options: argparse.Namespace) -> list[str] | None:
    """The patterns of --only, names resolved: once, for all processes."""
    if options.only is None:
        return None
    try:
        return Selection(options.only).patterns
    except ValueError as error:
        options.fail(f"argument --only: {error}")
        raise
    except OSError as error:
        raise CommandError(f"--only: {explain(error)}") from None


def _open_report(path: Path | None) -> str:
    """The absolute path of the file for the report, which is empty now; "" for none."""
    if path is None:
        return ""
    try:
        path.write_bytes(b"")
    except OSError as error:
        raise CommandError(f"cannot write the report to {path}: {explain(error)}") from None
    return os.path.abspath(path)  # links stay: /dev/stderr, /dev/fd/63 lead to no other path


def _size(text: str) -> int:
    """A number of bytes, with k or M for KiB or MiB."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in ("k", "K", "m", "M") else (text, "")
    if not number.isascii() or not number.isdigit():
        raise argparse.ArgumentTypeError(f"not a number of bytes: {text!r} (k and M may follow)")
    size = int(number) << {"": 0, "k": 10, "m": 20}[unit.lower()]
    if not 0 < size < 2**31:
        raise argparse.ArgumentTypeError(f"not between 1 byte and 2 GiB: {text!r}")
    return size


# ---- What to run


def _command(options: argparse.Namespace) -> list[str]:
    """The command line of the Python that runs the program."""
    for option in ("module", "code"):
        given = getattr(options, option)
        if given is not None:
            # -mMODULE: argparse leaves the arguments to the positional one.
            arguments = [*given, *options.program]
            if not arguments:
                options.fail(f"argument -{option[0]}: expected a {option}")
            return [*_python(), f"-{option[0]}", *arguments]
    program = options.program[1:] if options.program[:1] == ["--"] else options.program
    if not program:
        options.fail("nothing to run: give a PROGRAM, -m MODULE or -c CODE")
    name, *arguments = program
    if name == "-":
        return [*_python(), *program]
    is_file = os.path.isfile(name) or os.path.exists(os.path.join(name, "__main__.py"))
    path = name if is_file else shutil.which(name)
    if path is None:
        raise CommandError(f"there is no program {name!r}", ExitCode.NOT_FOUND)
    if _PYTHON.fullmatch(os.path.basename(path)):
        if not _reads_environment(arguments):
            raise CommandError(_NEEDS_ENVIRONMENT)
        return [path, *arguments]
    interpreter = _interpreter(path)
    python = [interpreter] if interpreter and not is_file else _python()
    return [*python, path, *arguments]


def _python() -> list[str]:
    """The Python of this process, with the options that it was started with."""
    if sys.flags.isolated or sys.flags.ignore_environment or sys.flags.no_site:
        raise CommandError(_NEEDS_ENVIRONMENT)
    flags: Callable[[], list[str]] = subprocess._args_from_interpreter_flags  # type: ignore[attr-defined]
    unbuffered = ["-u"] if "-u" in sys.orig_argv[1 : -len(sys.argv)] else []
    return [sys.executable, *flags(), *unbuffered]


def _reads_environment(arguments: list[str]) -> bool:
    """Whether a Python with these arguments has no option -I, -E or -S."""
    words = iter(arguments)
    for word in words:
        if word[:1] != "-" or word[:2] == "--" or word == "-":
            return True
        for index, letter in enumerate(word[1:], 2):
            if letter in "IES":
                return False
            if letter in "cm":
                return True
            if letter in "WX":
                if index == len(word):
                    next(words, None)
                break
    return True


def _interpreter(path: str) -> str:
    """The Python that a script names in its first line, "python3" for one on PATH; "" for any.

    Raises CommandError for what is not Python.
    """
    if os.path.isdir(path) or path.endswith(".py"):
        return ""
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise CommandError(f"cannot run {path}: {explain(error)}", ExitCode.CANNOT_RUN) from None
    if head.startswith(b"\x7fELF"):
        raise _not_python(path, "a binary")
    if not head.startswith(b"#!"):
        return ""
    line, _, rest = head[2:].partition(b"\n")
    words = os.fsdecode(line).split()
    if not words:
        return ""
    if os.path.basename(words[0]) == "sh" and rest.startswith(b"'''exec' "):
        # How pip names an interpreter whose path is too long, or has a space.
        words = [os.fsdecode(rest.partition(b"\n")[0]).split(" ", 1)[1].split('"')[1]]
    if os.path.basename(words[0]) == "env":
        names = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        if names and _PYTHON.fullmatch(os.path.basename(names[0])):
            return names[0]
    elif _PYTHON.fullmatch(os.path.basename(words[0])):
        return words[0]
    raise _not_python(path, f"a script of '{' '.join(words)}'")


def _not_python(path: str, what: str) -> CommandError:
    return CommandError(
        f"{path} is {what}, not a Python program: for those, smc-tools has smc_run, "
        "which preloads a library",
        ExitCode.CANNOT_RUN,
    )
