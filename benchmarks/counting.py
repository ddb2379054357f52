"""User-space instructions per call, by callgrind.

They are the same on every run, so that they show what a clock cannot. Each contender
runs its calls so many times and more often still; the difference is what the calls
themselves cost, free of starting up and of the marks.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from contenders import CONTROL, Contender
from counted import COUNTS

import smcsock

CALLS = ("socket", "connect", "accept", "send", "recv", "close", "free")
CYCLE = {"socket": 1, "connect": 1, "accept": 1, "close": 2, "free": 2}
"""A connection: both of its sockets, without its data."""


class CountingError(Exception):
    """There is no counting here; the text says why."""


def count(
    contenders: list[Contender], directory: Path, progress: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Instructions per call and per cycle, for every contender."""
    if shutil.which("valgrind") is None:
        raise CountingError("valgrind is not installed")
    marks = directory / "marks.so"
    shim = not smcsock.has_smc()
    command = [os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", "-o", str(marks)]
    source = Path(__file__).with_name("marks.c")
    if subprocess.run([*command, *(["-DSHIM"] if shim else []), str(source)]).returncode:
        raise CountingError(
            "marks.c does not compile; it needs a C compiler and valgrind's headers"
        )
    result = {}
    for contender in contenders:
        if contender.name == CONTROL:
            continue
        progress(f"instructions of {contender.name}")
        output = directory / contender.name.replace(" ", "-")
        output.mkdir()
        result[contender.name] = _count(contender, output, marks, shim)
    return result


def _count(contender: Contender, output: Path, marks: Path, shim: bool) -> dict[str, float]:
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    if shim:
        environment["LD_PRELOAD"] = str(marks)
    done = subprocess.run(
        [
            *(
                "valgrind",
                "-q",
                "--tool=callgrind",
                "--instr-atstart=no",
                f"--callgrind-out-file={output}/out",
            ),
            *(sys.executable, str(Path(__file__).with_name("counted.py"))),
            *(str(marks), contender.name),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise CountingError(f"{contender.name}: {done.stderr}")
    totals = _totals(output)
    many, few = COUNTS
    calls = {call: (totals[call, many] - totals[call, few]) / (many - few) for call in CALLS}
    return calls | {"cycle": sum(times * calls[call] for call, times in CYCLE.items())}


def _totals(output: Path) -> dict[tuple[str, int], int]:
    """Instructions by call and number of calls: the least of all repetitions."""
    totals: dict[tuple[str, int], int] = {}
    for dump in output.glob("out.*"):
        text = dump.read_text()
        mark = re.search(r"^desc: Trigger: Client Request: (\w+):(\d+)$", text, re.MULTILINE)
        total = re.search(r"^(?:summary|totals): (\d+)", text, re.MULTILINE)
        if mark and total:
            key = mark[1], int(mark[2])
            totals[key] = min(int(total[1]), totals.get(key, sys.maxsize))
    return totals
