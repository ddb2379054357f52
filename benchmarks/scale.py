"""What the commands take beside many SMC sockets: time and peak memory, and of the calls.

scale.py [--sockets N ...] [--repeat N] [--json]

Needs a kernel with SMC (python tests/vm run -- python benchmarks/scale.py). smcss of
smc-tools, where it is installed, takes its turn between the others: each command runs
once in every round, and the median counts. The peak memory of a command cannot be seen
below that of this script, from which it is started.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import smcsock

SMCSOCK = [sys.executable, "-m", "smcsock"]
COMMANDS = {
    "smcss -a": ["smcss", "-a"],
    "python -c pass": [sys.executable, "-c", "pass"],
    **{
        f"smcsock {words}": [*SMCSOCK, *words.split()]
        for words in (
            "ss -a",
            "ss -a --json",
            "ss -a -p",
            "linkgroups",
            "devices",
            "stats",
            "doctor",
        )
    },
}


def main() -> None:
    options = _parse()
    commands = {
        name: words
        for name, words in COMMANDS.items()
        if shutil.which(words[0]) and (not options.only or any(o in name for o in options.only))
    }
    found: dict[int, dict[str, Any]] = {}
    with ExitStack() as stack:
        opened = 0
        for count in options.sockets:
            while opened < count:
                stack.enter_context(smcsock.socket())
                opened += 1
            found[count] = _measure_all(commands, options.repeat)
            if not options.json:
                _show(count, found[count])
    if options.json:
        print(json.dumps(found, indent=2))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sockets", type=int, nargs="+", default=[0, 1000, 10000], metavar="N")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds (3)")
    parser.add_argument("--only", nargs="*", metavar="TEXT", help="commands that have it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.sockets.sort()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = options.sockets[-1] + 100
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    return options


def _measure_all(commands: dict[str, list[str]], repeat: int) -> dict[str, Any]:
    """Seconds, and of commands KiB and lines, by name: the median of each."""
    taken: dict[str, list[tuple[float, int, int]]] = {name: [] for name in commands}
    calls = {"smc_info()": _smc_info, "accept(require_smc=True)": _require_smc}
    for _ in range(repeat):
        for name, words in commands.items():
            taken[name].append(_run(words))
    return {
        name: {
            "seconds": round(statistics.median(seconds), 4),
            "peak_kib": round(statistics.median(peaks)),
            "lines": lines[0],
        }
        for name, (seconds, peaks, lines) in (
            (name, tuple(zip(*values, strict=True))) for name, values in taken.items()
        )
    } | {
        name: {"seconds": round(statistics.median(call() for _ in range(repeat)), 5)}
        for name, call in calls.items()
    }


def _run(words: list[str]) -> tuple[float, int, int]:
    """Seconds, peak memory in KiB and lines of output of a command."""
    began = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    with process.stdout:
        lines = sum(chunk.count(b"\n") for chunk in iter(lambda: process.stdout.read1(), b""))
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    return time.monotonic() - began, usage.ru_maxrss, lines


def _pair(use: Callable[[smcsock.socket], Any]) -> float:
    """Seconds that one use of a new connection's listener takes."""
    with smcsock.create_server(("127.0.0.1", 0)) as listener, smcsock.socket() as client:
        client.connect(listener.getsockname())
        began = time.monotonic()
        use(listener)
        return time.monotonic() - began


def _require_smc() -> float:
    def accept(listener: smcsock.socket) -> None:
        with suppress(smcsock.FallbackError):
            listener.accept(require_smc=True)[0].close()

    return _pair(accept)


def _smc_info() -> float:
    return _pair(lambda listener: listener.smc_info())


def _show(count: int, found: dict[str, Any]) -> None:
    print(f"\n{count} sockets                    s       KiB     lines")
    for name, of in found.items():
        print(
            f"{name:25} {of['seconds']:8.4f} {of.get('peak_kib', ''):>9} {of.get('lines', ''):>9}",
            flush=True,
        )


if __name__ == "__main__":
    main()
