"""Run the tests on this machine and in guests with real SMC; install what that needs.

    tests/run                  the essential: on the host, and over real SMC-D in a guest
    tests/run --all            everything: host, smcd, smcr, tcp, tcp-6.1 (each but smcd
                               without what another one of them shows)
    tests/run host smcd        some of it
    tests/run smcd -- -k diag  the rest goes to pytest
    tests/run --prepare        only install and fetch what the tests need

Debian and Ubuntu, with Python 3.11 or newer. Missing Debian packages are installed
with apt-get (through sudo unless root), Python packages into .venv of the checkout.
Exit status 0 means that every run passed, and that no test was left out for want of SMC.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("tests/run needs Python 3.11 or newer, as smcsock does")

ROOT = Path(__file__).resolve().parent.parent
VM = ROOT / "tests/vm"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin/python"

sys.path.insert(0, str(VM))
import tools  # noqa: E402

GUESTS = {
    "smcd": ("6.12", "smcd"),
    "smcr": ("6.12", "smcr"),
    "tcp-6.1": ("6.1", "tcp"),
    "tcp": ("6.12", "tcp"),
}
"""Name of a run to the guest's kernel and mode, the longest first."""

ESSENTIAL = {
    "host": [
        "test_addresses.py",
        "test_aio.py",
        "test_helpers.py",
        "test_smc_info.py",
        "test_socket.py",
        "test_ssl.py",
    ],
    "smcd": ["test_interop.py", "test_smc_info.py", "test_ssl.py"],
}
"""What is run if nothing is asked for, and gives an answer in minutes: run to test files."""

ANY_KERNEL = ["apps", "test_addresses.py", "test_audit.py", "test_install_guards.py"]
ANY_KERNEL += ["test_install_replaced.py"]
ANY_MODE = [*ANY_KERNEL, "test_helpers.py"]
FALLEN_BACK = ["test_aio.py", "test_install_descriptors.py", "test_processes.py"]
FALLEN_BACK += ["test_signals.py", "test_socket.py", "test_threads.py", "test_timeouts.py"]

SHOWN_ELSEWHERE = {
    "smcr": ANY_MODE,
    "tcp": [*ANY_MODE, *FALLEN_BACK],
    "tcp-6.1": ANY_KERNEL,
}
"""What a guest leaves out of tests/: run to files. smcd has all, and the programs of apps alone;
the other kernel has what a kernel can fail. What falls back on 6.12 is in smcr's run, too: the
IPv6 connections."""

HOST_LIMIT, GUEST_LIMIT = 1800, 4200
"""Seconds that pytest may take."""

WANT_OF_SMC = re.compile(r"no SMC|without SMC|in a guest", re.IGNORECASE)
"""What no skip reason may say in a guest: there the kernel has SMC."""

WANT_OF_PROGRAM = re.compile(r"is not installed")
"""What no skip reason may say in any run: what the tests need was installed."""

WANT_OF_MACHINE = re.compile(r"^before (Python|Linux) \d\.\d+ |^needs IBM Z$")
"""The excuses for a test that no run passed: of Pythons and machines these runs have one, of
kernels two."""


@dataclass
class Run:
    """One run of pytest: what became of it."""

    name: str
    seconds: float = 0
    closing_line: str = ""
    """As pytest says it: === 12 passed in 3.45s ==="""
    outcomes: dict[str, str] = field(default_factory=dict)
    """Test to passed, skipped or failed."""
    excused: set[str] = field(default_factory=set)
    """The tests that are for a newer Python or kernel, or another machine."""
    problems: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        return [test for test, outcome in self.outcomes.items() if outcome == "failed"]

    def __str__(self) -> str:
        counts = Counter(self.outcomes.values())
        counted = (f"{counts[kind]:6} {kind}" for kind in ("passed", "skipped", "failed"))
        verdict = "; ".join(self.problems) or "ok"
        return f"{self.name:8}{''.join(counted)} {self.seconds:5.0f} s  {verdict}"


def main() -> int:
    options, pytest_arguments = _parse()
    guests = [name for name in GUESTS if name in options.runs]
    install_debian_packages(bool(guests), whole=not options.essential)
    make_venv("test" if options.essential else "test,apps")
    if guests:
        leave_caches()
        kernels = sorted({GUESTS[name][0] for name in guests})
        check_call([str(PYTHON), str(VM), "fetch", *(f"--kernel={kernel}" for kernel in kernels)])
    if options.prepare:
        return 0
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="smcsock-run-") as scratch:
        directory = Path(scratch)
        # The host's run comes first: it does little but wait, while the first guests boot.
        names = [name for name in options.runs if name == "host"] + guests
        with ThreadPoolExecutor(options.jobs) as pool:
            futures = [
                pool.submit(run, name, arguments_of(name, options, pytest_arguments), directory)
                for name in names
            ]
            for future in as_completed(futures):
                runs.append(future.result())
    if not pytest_arguments and {"host", *GUESTS} == set(options.runs):
        runs[-1].problems += never_passed(runs)
    print("\n" + "\n".join(map(str, runs)) + "\n")
    if options.essential:
        print("That was the essential: tests/run --all runs everything.\n")
    for each in runs:  # what they say of it is far above, before all that was skipped
        for test in each.failures:
            print(f"failed in {each.name}: {test}")
    failed = [run for run in runs if run.problems]
    # The last words are pytest's own: those of a run that failed, if there is one.
    print((failed or runs)[-1].closing_line, flush=True)
    return 1 if failed else 0


def arguments_of(name: str, options: argparse.Namespace, pytest_arguments: list[str]) -> list[str]:
    """What pytest is told in one run."""
    if not options.essential:
        left_out = [] if pytest_arguments else SHOWN_ELSEWHERE.get(name, [])
        return [*(f"--ignore=tests/{test}" for test in left_out), *pytest_arguments]
    return [*(f"tests/{test}" for test in ESSENTIAL[name]), *pytest_arguments]


def run(name: str, pytest_arguments: list[str], directory: Path) -> Run:
    """Run pytest on the host or in a guest, and print its output when it is over."""
    result = Run(name)
    say(f"{name}: started")
    report = directory / f"{name}.xml"
    # An emulated processor may stand still for seconds: a test that failed gets one more
    # chance, and pytest lists it (R).
    command = [str(PYTHON), "-m", "pytest", "--color=no", "--reruns=1", f"--junitxml={report}"]
    command += ["--durations=20", "--durations-min=2"]
    command += pytest_arguments
    limit = HOST_LIMIT
    if name in GUESTS:
        kernel, mode = GUESTS[name]
        guest = [str(PYTHON), str(VM), "run", f"--kernel={kernel}", f"--mode={mode}"]
        command = [*guest, f"--timeout={GUEST_LIMIT}", f"--rwdir={directory}", "--", *command]
        limit = GUEST_LIMIT + 300  # the harness has limits of its own
    started = time.monotonic()
    output, status = call(command, limit)
    result.seconds = time.monotonic() - started
    print(f"\n----- {name}\n{output}", flush=True)
    closing = re.findall(r"^.* in \d+\.\d+s(?: .*)?$", output, re.MULTILINE)
    result.closing_line = closing[-1] if closing else ""
    if status:
        result.problems.append(f"exit status {status}")
    try:
        reasons = read_report(report, result)
    except (OSError, ElementTree.ParseError):
        result.problems.append("pytest did not come to its end")
        return result
    if "passed" not in result.outcomes.values():
        result.problems.append("no test passed")
    unwanted = [WANT_OF_PROGRAM, *([WANT_OF_SMC] if name in GUESTS else [])]
    if left_out := sorted(why for why in reasons if any(want.search(why) for want in unwanted)):
        result.problems.append(f"skipped: {', '.join(left_out)}")
    return result


def call(command: list[str], limit: int) -> tuple[str, int]:
    """Run a command; what it printed and its exit status."""
    # No pipe: who waits for the end of one waits for each process that has been left behind.
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as process:
            ended = ""
            try:
                process.wait(limit)
            except BaseException as error:
                process.kill()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                ended = f"\nended after {limit} s"
        output.seek(0)
        return output.read() + ended, process.returncode


def read_report(path: Path, result: Run) -> set[str]:
    """Read pytest's JUnit report into the result; the reasons of what was skipped."""
    reasons = set()
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        outcome = "passed"
        for element in case:
            if element.tag in ("failure", "error"):
                outcome = "failed"
            elif element.tag == "skipped" and outcome == "passed":
                outcome = "skipped"
                reason = element.get("message") or ""
                if reason == "collection skipped":  # a whole module: the reason is in the text
                    reason = element.text or ""
                reasons.add(reason)
                if WANT_OF_MACHINE.search(reason):
                    result.excused.add(variants(name))
        if result.outcomes.get(name) != "failed":  # a test and its teardown may be two cases
            result.outcomes[name] = outcome
    return reasons


def variants(test: str) -> str:
    """The name that all variants of a test share."""
    return test.partition("[")[0]


def never_passed(runs: list[Run]) -> list[str]:
    """The tests that every run skipped, in all variants: nobody would notice."""
    everything = {variants(test) for run in runs for test in run.outcomes}
    for run in runs:
        everything -= run.excused
        for test, outcome in run.outcomes.items():
            if outcome != "skipped":
                everything.discard(variants(test))
    return [f"skipped everywhere: {test}" for test in sorted(everything)]


def install_debian_packages(for_guests: bool, whole: bool) -> None:
    """Install what is missing, and say so; nothing if all is there."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    needed = {
        "gcc": "gcc",
        "/usr/include/linux/netlink.h": "libc6-dev",
        f"{sysconfig.get_path('include')}/Python.h": f"{python}-dev",
    }
    if whole:
        needed |= {
            # For tests/apps. Where there is systemd, apt starts the servers as services, too.
            "redis-server": "redis-server",
            "/usr/lib/postgresql/*/bin/initdb": "postgresql",
            "curl": "curl",
            "nginx": "nginx-light",
            "musl-gcc": "musl-tools",
            "node": "nodejs",
            # For tests/test_metrics.py.
            "prometheus": "prometheus",
            "systemd-analyze": "systemd",
        }
    if for_guests:
        needed |= tools.APT_PACKAGES
    missing = {package for name, package in needed.items() if not exists(name)}
    if not find_spec("ensurepip"):
        missing.add(f"{python}-venv")
    if not missing:
        return
    apt_get = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300"]
    if os.geteuid() != 0:
        apt_get.insert(0, "sudo")
    say(f"installing Debian packages: {' '.join(sorted(missing))}")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    check_call([*apt_get, "update"])
    check_call([*apt_get, "install", "--no-install-recommends", *sorted(missing)])


def exists(name: str) -> bool:
    """Whether there is such a file (* is any) or, without a directory, such a program."""
    if name.startswith("/"):
        return bool(glob(name))
    return shutil.which(name, path=tools.SEARCH_PATH) is not None


def make_venv(extras: str) -> None:
    """Make .venv with what the tests need, and smcsock as it is in the checkout."""
    if not PYTHON.exists():
        check_call([sys.executable, "-m", "venv", str(VENV)])
    # Editable, so that .venv/bin/pytest goes on testing the checkout. The extension is
    # built anew. That the wheel works too is for tests/check/package to find out.
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    check_call([*pip, "--editable", f".[{extras}]"])


def leave_caches() -> None:
    """Make what a guest would take long to make, and not keep, and leave it where it looks.

    That is the bytecode of what the tests import, pytest's too, and hypothesis' tables of Unicode.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    check_call([str(PYTHON), "-m", "compileall", "-q", "src", "tests"])
    warm_up = [str(PYTHON), "-m", "pytest", "-qq", "-rN", "-k", "test_any_host_is_parsed_as_by_tcp"]
    check_call(warm_up)


def check_call(command: list[str]) -> None:
    try:
        subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"tests/run: {error}")


def say(text: str) -> None:
    print(f"tests/run: {text}", flush=True)


def _parse() -> tuple[argparse.Namespace, list[str]]:
    arguments = sys.argv[1:]
    pytest_arguments: list[str] = []
    if "--" in arguments:
        split = arguments.index("--")
        arguments, pytest_arguments = arguments[:split], arguments[split + 1 :]
    parser = argparse.ArgumentParser(
        prog="tests/run",
        description="Run the tests on this machine and in guests with real SMC.",
        epilog="What follows -- goes to pytest.",
    )
    names = ["host", *GUESTS]
    parser.add_argument("runs", nargs="*", metavar="RUN", help=", ".join(names))
    parser.add_argument("--all", action="store_true", help="all runs, and all tests in each")
    parser.add_argument("--prepare", action="store_true", help="only install what the tests need")
    parser.add_argument(
        "-j",
        "--jobs",
        type=int,
        # The host's run waits most of its time, a guest without KVM a third: with two more
        # than there are processors, these are busy.
        default=min(len(os.sched_getaffinity(0)) + 2, len(names)),
        help="runs at a time, guests take 2 GiB of memory each (two more than processors)",
    )
    options = parser.parse_args(arguments)
    options.essential = not options.all and not options.runs
    if not options.runs:
        options.runs = names if options.all else list(ESSENTIAL)
    if unknown := set(options.runs) - set(names):
        parser.error(f"no such run: {', '.join(sorted(unknown))} (there are {', '.join(names)})")
    return options, pytest_arguments


if __name__ == "__main__":
    sys.exit(main())
