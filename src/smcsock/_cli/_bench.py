"""smcsock bench: whether SMC is faster than TCP, here."""

import argparse
import contextlib
import importlib.util
import os
import signal
import socket as _stdlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .. import SMCUnsupportedError
from .._bench import MAX_SECONDS, MAX_SIZE, TIMEOUT, Plan, Server, measure
from ..diag import ExtraMissingError
from ._address import parse_port
from ._common import CommandError, ExitCode, complain, explain, say
from ._json import add_json, say_json

if TYPE_CHECKING:
    from .._bench import Results

__all__ = ["add"]

DEFAULT_PORT = 4350
_SIZES = (64, 1024, 16384, 131072, 1 << 20)
_MAX_TOTAL = 3600

_DESCRIPTION = """\
Measures TCP and SMC to the same peer in turn: connections per second, round-trip time,
throughput by size of messages, with the kernel's buffers and with larger ones (1 MiB),
and the CPU time that the threads of both ends used, the kernel's on their behalf
included. Without HOST, the peer is a process of its own on this host.

With --server, is the peer for others until Ctrl-C or SIGTERM, on four ports from PORT
on. It does no more than is asked of it within limits: 8 connections at a time of a
minute each, messages of 4 MiB; it reads and writes nothing but its sockets.
"""

_EPILOG = """\
--json: an object with mode, conclusion, and runs: objects named "tcp", "smc",
"tcp large" and "smc large" with modes (what each connection was), connections_per_second,
round_trip_seconds (median, p99), throughput_bytes_per_second,
client_cpu_nanoseconds_per_byte and server_cpu_nanoseconds_per_byte (by size)

exit status:
  0    fine; --server: ended by SIGTERM
  1    failed: a network error; or a Python package is missing
  2    wrong usage
  3    the kernel has no SMC
  130  interrupted by Ctrl-C
  141  the reader of the output has gone
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of the command."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.set_defaults(run=_run)
    parser.add_argument("host", nargs="?", metavar="HOST", help="where a server runs")
    parser.add_argument("-s", "--server", action="store_true", help="be the server")
    parser.add_argument(
        "-a", "--address", default="", metavar="ADDR", help="where the server listens (all)"
    )
    parser.add_argument(
        "-p", "--port", type=parse_port, default=DEFAULT_PORT, help=f"the first ({DEFAULT_PORT})"
    )
    parser.add_argument(
        "--sizes", type=_parse_sizes, default=_SIZES, metavar="N,...", help="of messages, in bytes"
    )
    parser.add_argument("--seconds", type=float, default=30, help="that it takes, all in all (30)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each takes its turn (3)")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="write a picture: PNG or SVG by its suffix"
    )
    add_json(parser)


def _parse_sizes(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and 0 < int(part) <= MAX_SIZE for part in parts):
        raise argparse.ArgumentTypeError(f"not sizes of 1 to {MAX_SIZE} bytes: {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def _run(options: argparse.Namespace) -> ExitCode:
    _check(options)
    try:
        if options.server:
            return _serve(options)
        plan = _plan(options)
        if options.host:
            host = options.host.removeprefix("[").removesuffix("]")
            results = _measure(host, [options.port + n for n in range(4)], plan)
        else:
            with _own_server() as (host, ports):
                results = _measure(host, ports, plan)
    except SMCUnsupportedError as error:
        raise CommandError(explain(error), ExitCode.NO_SMC) from None
    _show(results, as_json=options.json)
    if options.plot:
        _plot(results, options.plot)
    return ExitCode.OK


def _check(options: argparse.Namespace) -> None:
    if options.server and (options.host or options.json or options.plot):
        options.fail("--server cannot be used with HOST, --json and --plot")
    if options.port > 65532:
        options.fail("the server needs four ports from PORT on")
    if not 0.1 <= options.seconds <= _MAX_TOTAL:
        options.fail(f"--seconds must be 0.1 to {_MAX_TOTAL}")
    if not 1 <= options.rounds <= 100:
        options.fail("--rounds must be 1 to 100")
    if options.plot and options.plot.suffix.lower() not in (".png", ".svg"):
        options.fail("--plot needs a name that ends with .png or .svg")


def _plan(options: argparse.Namespace) -> Plan:
    """What to measure; before that takes its time, what would make it worthless is an error."""
    steps = Plan(options.sizes, options.rounds, 0).steps
    plan = Plan(options.sizes, options.rounds, options.seconds / steps)
    if plan.seconds > MAX_SECONDS - TIMEOUT:
        options.fail(
            f"the server serves for {MAX_SECONDS:.0f} s at a time, and each of these {steps} parts "
            f"would take {plan.seconds:.0f} s: take less --seconds or more --rounds"
        )
    if options.plot:
        if importlib.util.find_spec("matplotlib") is None:
            raise CommandError(explain(ExtraMissingError("matplotlib", "bench")))
        if not options.plot.absolute().parent.is_dir():
            raise CommandError(f"cannot write {options.plot}: there is no such directory")
    return plan


def _serve(options: argparse.Namespace) -> ExitCode:
    server = _server(options.address or None, options.port)
    server.start()
    first, last = server.ports[0], server.ports[-1]
    complain(f"serving on ports {first} to {last}" if options.port else f"ports {server.ports}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.OK))
    with contextlib.closing(server):
        while True:
            signal.pause()


def _server(host: str | None, port: int) -> Server:
    family = _stdlib.AF_INET
    try:
        if host:
            family = _stdlib.getaddrinfo(host, port, type=_stdlib.SOCK_STREAM)[0][0]
        elif _stdlib.has_dualstack_ipv6():
            return Server("", port, _stdlib.AF_INET6)
        return Server(host or "", port, family)
    except SMCUnsupportedError:
        raise
    except OSError as error:
        raise CommandError(f"cannot listen: {explain(error)}") from None


@contextlib.contextmanager
def _own_server() -> Iterator[tuple[str, list[int]]]:
    """A server in a process of its own: threads of one Python wait for each other."""
    host = "127.0.0.1"
    with contextlib.closing(_server(host, 0)) as server:
        ports = server.ports
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            try:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                server.start()
                while os.getppid() == parent:
                    signal.sigtimedwait([], 1)
            finally:
                os._exit(0)
    try:
        yield host, ports
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _measure(host: str, ports: list[int], plan: Plan) -> "Results":
    is_terminal = sys.stderr is not None and sys.stderr.isatty()

    def progress(step: int, name: str) -> None:
        if is_terminal:
            text = f"\r{100 * step // plan.steps:3} %  {name:<32}"
            print(text, end="", file=sys.stderr, flush=True)

    try:
        return measure(host, ports, plan, progress)
    except SMCUnsupportedError:
        raise
    except OSError as error:
        raise CommandError(f"cannot measure with {host}: {explain(error)}") from None
    finally:
        if is_terminal:
            print(f"\r{'':<40}\r", end="", file=sys.stderr, flush=True)


def _plot(results: "Results", path: Path) -> None:
    from .._bench._plot import plot

    try:
        plot(results, path)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {explain(error)}") from None


def _show(results: "Results", *, as_json: bool) -> None:
    from ._table import say_table

    if as_json:
        shown = {
            "mode": results.mode,
            "conclusion": results.conclusion(),
            "runs": {name: run.summary() for name, run in results.runs.items()},
        }
        say_json(shown)
        return
    rows = []
    for name, tcp, smc in results.rows():
        ratio = smc / tcp if smc and tcp else 0
        rows.append(
            (name, _number(tcp), _number(smc), f"{ratio:.2f}", "#" * min(40, round(10 * ratio)))
        )
    say_table(("", "TCP", results.mode or "SMC", "Ratio", "(10 # are as much as TCP)"), rows)
    say("")
    say(results.conclusion())


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.3f}"
