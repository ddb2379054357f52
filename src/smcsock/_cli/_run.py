"""smcsock run: a program whose TCP sockets are SMC sockets."""

import argparse
import os
import shlex
import sys
from typing import TYPE_CHECKING, NoReturn

from .._dropin._run import Run
from .._dropin._system import started
from .._errors import NO_SMC
from .._opening import has_smc
from ._common import CommandError, ExitCode, complain, explain
from ._inheritance import restore_environment, restore_signals
from ._program import Kind, Program, find_program, this_python

# What only some options need is loaded for these: what is there when the program begins, its
# side process keeps in memory.
if TYPE_CHECKING:
    from .._dropin._spool import Spool

__all__ = ["add"]

_DESCRIPTION = """\
Runs a program whose TCP sockets are SMC sockets: 'smcsock run PROGRAM ...' where you
would say 'PROGRAM ...' or 'python PROGRAM ...'. Connections fall back to TCP, as SMC
does, where the peer or the devices cannot do SMC.

In a Python program those are the sockets that Python code opens. Of any other
program, and with --native of a Python program too, they are the sockets of all its
processes, whatever opens them: C libraries, Go, static binaries, children.
"""

_EPILOG = """\
PROGRAM is a file, or a command on PATH, or a directory with a __main__.py. A file of
Python runs in this Python, as with 'python FILE', whatever its first line (#!) says;
a command in the Python that its first line names, without the options there, or as
what starts one (a shim of pyenv or asdf, a script of uv); 'python3.X' in that one.
Options of 'run' come before PROGRAM.

exit status: that of the program, or
  1    a name in --only cannot be resolved, the report cannot be written, Python is to
       ignore the environment (-I, -E, -S), the sockets of a program that is not
       Python are out of reach (a container forbids it, Linux before 5.14)
  2    wrong usage
  3    the kernel has no SMC, and --require-smc is given or neither --fallback nor
       SMCSOCK_FALLBACK says tcp
  126  PROGRAM cannot be run
  127  there is no such PROGRAM

Not followed without --native: sockets that C libraries open (libpq, gRPC, libcurl,
uvloop), and classes derived from socket.socket. See docs/drop-in.md, docs/native.md.
"""

_NOT_COUNTED = "this kernel has no SMC: the program runs over TCP, and nobody counts that"
_NOT_OURS = (
    "another run is around this one, and its --only, --report, --sndbuf and --rcvbuf are what "
    "counts for sockets that are not Python's"
)
_HOOK = os.path.realpath(os.path.join(os.path.dirname(__file__), "../_dropin/_site"))


def add(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of the command."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.usage = "smcsock run [OPTION ...] (PROGRAM | -m MODULE | -c CODE) [ARGUMENT ...]"
    parser.set_defaults(run=_run)
    parser.add_argument(
        "--require-smc",
        action="store_true",
        help="fail connections of Python code that would be TCP, with smcsock.FallbackError",
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
        "--native",
        action="store_true",
        help="in a Python program, the sockets of C libraries and of children of any kind, too",
    )
    parser.add_argument(
        "-d",
        "--debug",
        action="store_true",
        help="say on standard error how the program is run; and --report",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="at exit, count the connections by mode and reason, on standard error",
    )
    parser.add_argument("--report-to", metavar="FILE", help="the same, into a file")
    parser.add_argument("--json", action="store_true", help="the report for programs")
    parser.add_argument(
        "--exact",
        action="store_true",
        help="in the report, also connections that C code opens and closes within milliseconds; "
        "makes every close(2) of the program slower",
    )
    for short, name, what in (("-t", "--sndbuf", "send"), ("-r", "--rcvbuf", "receive")):
        parser.add_argument(
            short,
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
    wants_report = options.report or options.report_to is not None or options.debug
    if options.json and not wants_report:
        options.fail("--json is for --report and --report-to")
    only = _selection(options)
    program = _program(options)
    is_native = options.native or not program.is_python
    if is_native:
        _check_native(options, program)
    if options.exact and not (is_native and wants_report):
        options.fail("--exact is for --report of --native, or of a program that is not Python")
    can_smc = has_smc() or (is_native and _has_ipproto_smc())
    _check_kernel(options, can_smc)
    is_native = is_native and can_smc
    if wants_report and not (is_native or program.is_python):
        print(f"smcsock: {_NOT_COUNTED}", file=sys.stderr)
    report_to = _open_report(options.report_to)
    spool = _create_spool() if wants_report else None
    run = Run(
        pid=0 if program.kind is Kind.LAUNCHER and not is_native else os.getpid(),
        start=started(os.getpid()) or 0,
        require_smc=options.require_smc,
        fallback=options.fallback,
        only=only,
        children=options.children,
        spool=spool.name if spool else None,
        report_to=report_to,
        json=options.json,
        sndbuf=options.sndbuf,
        rcvbuf=options.rcvbuf,
        native=is_native,
    )
    if options.debug:
        _tell(program, run, can_smc=can_smc)
    environment = dict(os.environ)
    restore_environment(environment)
    if program.is_python or options.children:
        run.put(environment, _HOOK)
    if options.require_smc and options.children and only is None:
        _forbid_tcp()
    try:
        if run.native:
            _go_native(program.command, run, spool, is_exact=options.exact)
        restore_signals()
        path, *arguments = program.command
        os.execvpe(path, [program.called or path, *arguments], environment)
    except OSError as error:
        if spool:
            spool.close()
        status = ExitCode.NOT_FOUND if isinstance(error, FileNotFoundError) else ExitCode.CANNOT_RUN
        name = program.command[0]
        raise CommandError(f"cannot run {name}: {explain(error)}", status) from None


def _tell(program: Program, run: Run, *, can_smc: bool) -> None:
    """What -d says of a program that is about to begin."""
    complain(f"runs {shlex.join(program.command)}")
    if not can_smc:
        complain("TCP sockets stay what they are: this kernel has no SMC")
        return
    of_python = ["Python code"] if program.is_python or run.children else []
    of_all = ["all its processes, by seccomp"] if run.native else []
    only = f", for {', '.join(run.only)} only" if run.only is not None else ""
    complain(f"TCP sockets of {' and of '.join(of_python + of_all)} become SMC sockets{only}")
    for size, what in ((run.sndbuf, "send"), (run.rcvbuf, "receive")):
        if size:
            complain(f"their {what} buffers have {size} bytes")


def _go_native(command: list[str], run: Run, spool: "Spool | None", *, is_exact: bool) -> None:
    """Sees to it that all TCP sockets of what this process executes are SMC sockets."""
    from .. import _native  # most programs are Python

    options = _native.Options(sndbuf=run.sndbuf or 0, rcvbuf=run.rcvbuf or 0, is_exact=is_exact)
    if run.only is not None:
        from .._dropin._selection import Selection

        options = options._replace(only=Selection(run.only))
    if spool:
        from .._native._ledger import RunLedger

        options = options._replace(ledger=RunLedger(run, spool))
    try:
        is_ours = _native.prepare(command[0], options)
    except _native.NativeError as error:
        raise CommandError(f"cannot run {command[0]} over SMC: {error.strerror}") from None
    if not is_ours and (run.only is not None or run.sndbuf or run.rcvbuf or spool):
        print(f"smcsock: {_NOT_OURS}", file=sys.stderr)


def _check_native(options: argparse.Namespace, program: Program) -> None:
    if options.require_smc:
        what = "C libraries" if program.is_python else f"{program.command[0]}, {program.what}"
        options.fail(
            "--require-smc is for Python code, where connect() and accept() can be made to fail: "
            f"nothing can refuse the connections of {what}"
        )


def _has_ipproto_smc() -> bool:
    """Where a service may not open sockets of AF_SMC (RestrictAddressFamilies=)."""
    from .._native import kind_here

    return kind_here() is not None


def _check_kernel(options: argparse.Namespace, can_smc: bool) -> None:
    choice = options.fallback or os.environ.get("SMCSOCK_FALLBACK") or "error"
    if choice not in ("tcp", "error"):
        options.fail(f"SMCSOCK_FALLBACK must be 'tcp' or 'error', not {choice!r}")
    if can_smc or (choice == "tcp" and not options.require_smc):
        return
    hint = "" if options.require_smc else "; to run over plain TCP instead, give --fallback tcp"
    raise CommandError(f"{NO_SMC}{hint}", ExitCode.NO_SMC)


def _forbid_tcp() -> None:
    """For children that do not follow: started with -I, older than smcsock can do, in C."""
    from .._native import NativeError
    from .._native._refusal import forbid_tcp

    try:
        forbid_tcp()
    except NativeError as error:
        raise CommandError(
            f"--children with --require-smc: TCP cannot be forbidden to them: {error.strerror}",
            ExitCode.NO_SMC,
        ) from None


def _create_spool() -> "Spool":
    from .._dropin._spool import Spool

    try:
        return Spool.create()
    except OSError as error:
        raise CommandError(f"there can be no report: {explain(error)}") from None


def _selection(options: argparse.Namespace) -> list[str] | None:
    """The patterns of --only, names resolved: once, for all processes."""
    if options.only is None:
        return None
    from .._dropin._selection import Selection

    try:
        return Selection(options.only).patterns
    except ValueError as error:
        options.fail(f"argument --only: {error}")
        raise
    except OSError as error:
        raise CommandError(f"--only: {explain(error)}") from None


def _open_report(name: str | None) -> str:
    """The absolute path of the file for the report, which is empty now; "" for none."""
    if name is None:
        return ""
    from pathlib import Path

    path = Path(name)
    try:
        if not path.is_fifo():  # whose reader would take it for the end
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


def _program(options: argparse.Namespace) -> Program:
    """What to run."""
    for option in ("module", "code"):
        given = getattr(options, option)
        if given is not None:
            # -mMODULE: argparse leaves the arguments to the positional one.
            arguments = [*given, *options.program]
            if not arguments:
                options.fail(f"argument -{option[0]}: expected a {option}")
            return Program(Kind.PYTHON, [*this_python(), f"-{option[0]}", *arguments])
    words = options.program[1:] if options.program[:1] == ["--"] else options.program
    if not words:
        options.fail("nothing to run: give a PROGRAM, -m MODULE or -c CODE")
    return find_program(words, this_python)
