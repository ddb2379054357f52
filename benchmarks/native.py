"""What 'smcsock run' costs a program in C: next to TCP, and to a preloaded library.

    python benchmarks/native.py                             # the host: TCP from the side process
    python tests/vm run -- python benchmarks/native.py      # SMC

All ways take turns; look at the ratios to TCP: the median, and in brackets where it is with 99 %
confidence. A kernel without SMC shows the price of asking the side process, at the speed of real
hardware: it then opens TCP sockets. redis-benchmark is run if it is there; the processor time of
its server does not depend on what else the machine does.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from compare import enough, ratio

from smcsock import _native
from smcsock._native import _syscalls
from smcsock._native._kind import kind_here

HERE = Path(__file__).parent
SMC = kind_here()
COUNTS = {"socket": 4000, "connection": 400, "echo": 4000}
REDIS = ("ping_inline", "set", "get")
REQUESTS = 10_000 if SMC else 100_000

Way = tuple[dict[str, str], Callable[[str], None]]
Measured = dict[str, dict[str, list[float]]]


def main() -> int:
    options = _parse()
    with tempfile.TemporaryDirectory() as scratch:
        program, library = _build(Path(scratch))
        ways = _ways(library)
        measured = _measure(program, ways, options.rounds)
        _print("ns", measured)
        if shutil.which("redis-benchmark"):
            rates, times = _measure_redis(ways, options.rounds)
            _print("requests/s", rates)
            _print("ns server", times)
    if SMC is not None:
        print(f"side process: {_memory()}")
    return 0


def _build(scratch: Path) -> tuple[str, str]:
    cc = os.environ.get("CC", "cc")
    program, library = str(scratch / "connect"), str(scratch / "preload.so")
    subprocess.run([cc, "-O2", "-o", program, str(HERE / "connect.c")], check=True)
    source = str(HERE / "preload.c")
    subprocess.run([cc, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    return program, library


def _ways(library: str) -> dict[str, Way]:
    def nothing(program: str) -> None:
        pass

    def native(program: str) -> None:
        _native.prepare(program, _native.Options(kind=SMC or _native.TCP_SOCKETS))

    ways: dict[str, Way] = {"TCP": ({}, nothing), "run": ({}, native)}
    if SMC is not None:
        ways["preload"] = {"LD_PRELOAD": library}, nothing
    return ways


@contextmanager
def _running(way: Way, *command: str) -> Iterator[subprocess.Popen[str]]:
    environment, prepare = way
    with subprocess.Popen(
        command,
        env={**os.environ, **environment},
        preexec_fn=lambda: prepare(command[0]),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def _output(way: Way, *command: str) -> str:
    with _running(way, *command) as process:
        text, _ = process.communicate()
        if process.returncode:
            sys.exit(f"{command[0]} failed")
        return text


def _measure(program: str, ways: dict[str, Way], rounds: int) -> Measured:
    found: Measured = {what: {way: [] for way in ways} for what in COUNTS}
    for _ in range(rounds):
        for what, count in COUNTS.items():
            for name, way in ways.items():
                found[what][name].append(float(_output(way, program, what, str(count))))
    return found


def _measure_redis(ways: dict[str, Way], rounds: int) -> tuple[Measured, Measured]:
    """Requests per second, and nanoseconds of the server's processor time for one.

    One server for each way, all the time; requests enough that connecting does not matter.
    """
    rates, times = (
        {what: {way: list[float]() for way in ways} for what in REDIS} for _ in range(2)
    )
    with ExitStack() as stack:
        ports = {name: stack.enter_context(_redis(way)) for name, way in ways.items()}
        for number in range(rounds):
            names = list(ways)[:: -1 if number % 2 else 1]
            for what in REDIS:
                for name in names:
                    port = ports[name]
                    options = ["-p", port, "-n", str(REQUESTS), "-c", "10", "--csv", "-t", what]
                    begin = _processor_time(port)
                    text = _output(ways[name], "redis-benchmark", *options)
                    times[what][name].append((_processor_time(port) - begin) * 1e9 / REQUESTS)
                    rates[what][name].append(float(text.splitlines()[1].split(",")[1].strip('"')))
    return rates, times


def _processor_time(port: str) -> float:
    """Seconds that a server has taken."""
    command = ["redis-cli", "-p", port, "info", "cpu"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    fields = dict(line.split(":") for line in lines if ":" in line)
    return float(fields["used_cpu_user"]) + float(fields["used_cpu_sys"])


@contextmanager
def _redis(way: Way) -> Iterator[str]:
    """The port of a server."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = str(sock.getsockname()[1])
    with _running(way, "redis-server", "--port", port, "--save", ""):
        while subprocess.run(["redis-cli", "-p", port, "ping"], capture_output=True).returncode:
            time.sleep(0.1)
        yield port


def _print(unit: str, measured: Measured) -> None:
    for what, by_way in measured.items():
        for name, values in by_way.items():
            compared = ratio(values, by_way["TCP"])
            print(f"{what:12} {name:8} {statistics.median(values):10.0f} {unit:10} {compared}")
        sys.stdout.flush()


def _memory() -> str:
    """That of the watchdog and of the worker, in kB: all, its share, and what nothing else has."""
    script = (
        "sleep 1; watchdog=$(pgrep -P $$ smcsock); "
        "for pid in $watchdog $(pgrep -P $watchdog); do "
        "grep -hE '^(Rss|Pss|Private_Dirty):' /proc/$pid/smaps_rollup; done"
    )

    def become_parent(program: str) -> None:
        _syscalls.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: the watchdog is then a child

    command = (sys.executable, "-m", "smcsock", "run", "/bin/sh", "-c", script)
    return " ".join(_output(({}, become_parent), *command).split())


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=enough, default=12)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
