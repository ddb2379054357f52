"""Compare smcsock with the other ways to use SMC from Python, with C, and with TCP.

    python tests/vm run --rwdir . -- python benchmarks/compare.py --json benchmarks.json

Timing needs a kernel with SMC. Instructions need a C compiler and valgrind; without
SMC in the kernel TCP takes its place, which makes no difference to user space. Look
at the ratios: the rates are those of whatever else the machine does.
"""

import argparse
import datetime
import json
import math
import os
import platform
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import contenders
import counting
import timing
from contenders import BASELINE, CONTROL, TCP

import smcsock

OURS = ("smcsock", "smcsock INET")


@dataclass(frozen=True)
class Ratio:
    """The ratio to another contender, over all rounds."""

    median: float
    quartiles: tuple[float, float]
    interval: tuple[float, float]
    """Where the true median is, with 99 % confidence, whatever the distribution."""

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.median:.2f} [{low:.2f} {high:.2f}]"


def ratio(rates: list[float], others: list[float]) -> Ratio:
    values = sorted(a / b for a, b in zip(rates, others, strict=True))
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    rank = _rank(len(values))
    return Ratio(middle, (low, high), (values[rank - 1], values[-rank]))


def _rank(n: int) -> int:
    """Counted from either end, which of n values the median is within with 99 % confidence.

    0 if n is too small for that.
    """
    rank, outside = 0, 2.0**-n
    while outside <= 0.005:
        rank += 1
        outside += math.comb(n, rank) * 2.0**-n
    return rank


def main() -> int:
    options = _parse()
    if "timing" in options.parts and not smcsock.has_smc():
        print("This kernel has no SMC: see --help, or take --parts instructions", file=sys.stderr)
        return 2
    report: dict[str, Any] = {"system": _system(), "complaints": []}
    print(", ".join(f"{key} {value}" for key, value in report["system"].items()), flush=True)
    for part in options.parts:
        with tempfile.TemporaryDirectory() as scratch:
            run = _time if part == "timing" else _count
            report["complaints"] += run(options, Path(scratch), report)
        sys.stdout.flush()
        _save(report, options.json)
    for complaint in report["complaints"]:
        print(f"Not reached: {complaint}")
    return 1 if options.check and report["complaints"] else 0


def _save(report: dict[str, Any], file: Path | None) -> None:
    if file:
        file.write_text(json.dumps(report, indent=1) + "\n")


def _time(options: argparse.Namespace, scratch: Path, report: dict[str, Any]) -> list[str]:
    runners: list[timing.Runner] = [timing.PythonRunner(c) for c in contenders.available()]
    if shutil.which(os.environ.get("CC", "cc")):
        runners.append(timing.CRunner(scratch))
    workloads = [w for w in timing.WORKLOADS if not options.only or w.kind in options.only]
    baseline = BASELINE if any(runner.name == BASELINE for runner in runners) else TCP
    for rounds, rates, modes in timing.measure(
        runners, baseline, workloads, options.rounds, options.seconds, _progress
    ):
        report["timing"] = {
            "contenders": {runner.name: runner.what for runner in runners},
            "rounds": rounds,
            "seconds": options.seconds,
            "modes": modes,
            "workloads": [_row(row) for row in rates],
        }
        _save(report, options.json)  # a long run may be ended early
    _progress("")
    print("\nWhat the connections were, by sock_diag (number of sessions):")
    for runner in runners:
        seen = ", ".join(f"{mode} ({times})" for mode, times in modes[runner.name].items())
        print(f"  {runner.name:18} {seen}")
    for other in (BASELINE, TCP):
        if other in modes:
            _print_ratios(rates, other)
    return _mode_complaints(runners, modes) + _timing_complaints(rates)


def _row(row: timing.Rates) -> dict[str, Any]:
    return {
        **asdict(row.workload),
        "count": row.count,
        "name": row.workload.name,
        "rates": row.by_contender,
        "ratios": {
            other: {
                name: asdict(ratio(rates, row.by_contender[other]))
                for name, rates in row.by_contender.items()
                if name != other
            }
            for other in (BASELINE, TCP)
            if other in row.by_contender
        },
    }


def _print_ratios(rates: list[timing.Rates], other: str) -> None:
    names = [name for name in rates[0].by_contender if name != other]
    print(f"\nRates as multiples of {other}'s: median of the rounds [its 99 % confidence interval]")
    print(f"{'':23}{other + ' /s':>15}" + "".join(f"{name:>19}" for name in names))
    for row in rates:
        base = row.by_contender[other]
        cells = (str(ratio(row.by_contender[name], base)) for name in names)
        median = statistics.median(base)
        absolute = f"{median / 1e6:.2f} MB" if row.workload.kind == "stream" else f"{median:.0f}"
        print(f"{row.workload.name:23}{absolute:>15}" + "".join(f"{cell:>19}" for cell in cells))


def _mode_complaints(runners: list[timing.Runner], modes: dict[str, dict[str, int]]) -> list[str]:
    seen = {mode for runner in runners if runner.is_smc for mode in modes[runner.name]}
    if len(seen) > 1:
        return [f"the SMC connections were not all alike: {', '.join(sorted(seen))}"]
    return []


def _timing_complaints(rates: list[timing.Rates]) -> list[str]:
    complaints = []
    for row in rates:
        if BASELINE not in row.by_contender:
            continue
        base = row.by_contender[BASELINE]
        noise = ratio(row.by_contender[CONTROL], base)
        for name in OURS:
            result = ratio(row.by_contender[name], base)
            if result.interval[1] < min(1, noise.interval[0]):
                complaints.append(f"{name} is slower than {BASELINE} at {row.workload.name}")
    return complaints


def _count(_: argparse.Namespace, scratch: Path, report: dict[str, Any]) -> list[str]:
    available = contenders.available() if smcsock.has_smc() else contenders.ALL
    try:
        counts = counting.count(available, scratch, _progress)
    except counting.CountingError as error:
        print(f"\nNo instructions counted: {error}")
        return []
    finally:
        _progress("")
    report["instructions"] = counts
    calls = [*counting.CALLS, "cycle"]
    print("\nUser-space instructions per call; a cycle is a connection with both its sockets:")
    print(f"{'':18}" + "".join(f"{call:>10}" for call in calls))
    for name, row in counts.items():
        print(f"{name:18}" + "".join(f"{row[call]:10.0f}" for call in calls))
    if BASELINE not in counts:
        return []
    return [
        f"{name} needs {counts[name][call]:.0f} instructions for {call}, "
        f"{BASELINE} {counts[BASELINE][call]:.0f}"
        for name in OURS
        for call in ("connect", "accept", "cycle")
        if counts[name][call] >= counts[BASELINE][call]
    ]


def _system() -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "smcsock": smcsock.__version__,
    }


def _progress(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)
    elif what:
        print(what, file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument(
        "--check", action="store_true", help="exit with status 1 if smcsock is behind"
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("timing", "instructions"),
        default=("timing", "instructions"),
    )
    parser.add_argument(
        "--only", nargs="+", choices=sorted({w.kind for w in timing.WORKLOADS}), help="workloads"
    )
    parser.add_argument("--rounds", type=enough, default=60, metavar="N", help="turns (60)")
    parser.add_argument(
        "--seconds", type=float, metavar="S", default=0.05, help="length of a turn (0.05)"
    )
    return parser.parse_args()


def enough(text: str) -> int:
    rounds = int(text)
    if not _rank(rounds):
        raise argparse.ArgumentTypeError("too few for a confidence interval: 8 is the least")
    return rounds


if __name__ == "__main__":
    sys.exit(main())
