"""A program under 'smcsock run': what its processes are told, and the report at their end.

The command line puts a Run into the environment; Python imports the sitecustomize of
_site, and that calls begin() in the process of the program, and with ``children`` in
every Python process that it starts. A process that is not the first one leaves what
it counted in the spool, a file that the first one reads when it ends.
"""

import atexit
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any, NoReturn

from ._install import install
from ._socket import Fallback
from ._tally import Outcome, Report, lines

__all__ = ["Run", "begin"]

_VARIABLE = "SMCSOCK_RUN"
_PATH = "PYTHONPATH"


@dataclass(frozen=True)
class Run:
    """The options of 'smcsock run', and ``pid``, the process of the program.

    ``spool`` is a file for the counts of the other processes, "" for no report;
    ``report_to`` a file for the report, "" for standard error.
    """

    pid: int
    require_smc: bool = False
    fallback: Fallback | None = None
    only: list[str] | None = None
    children: bool = False
    spool: str = ""
    report_to: str = ""
    json: bool = False

    def put(self, environment: dict[str, str], hook: str) -> None:
        """Tells the Python processes with this environment; ``hook`` is _site."""
        environment[_VARIABLE] = json.dumps(asdict(self))
        path = environment.get(_PATH)
        environment[_PATH] = hook if not path else f"{hook}{os.pathsep}{path}"


def begin(hook: str) -> None:
    """Installs smcsock as the environment says; called before the program starts."""
    run = Run(**json.loads(os.environ[_VARIABLE]))
    if not run.children:
        _forget(hook)
    report = Report() if run.spool else None
    install(require_smc=run.require_smc, fallback=run.fallback, only=run.only, report=report)
    if report is not None:
        _Reporter(run, report).start()


def _forget(hook: str) -> None:
    """Leaves the environment as it would be without smcsock."""
    del os.environ[_VARIABLE]
    entries = [entry for entry in os.environ[_PATH].split(os.pathsep) if entry != hook]
    if entries:
        os.environ[_PATH] = os.pathsep.join(entries)
    else:
        del os.environ[_PATH]


class _Reporter:
    """Sees to it that the report is written when the process ends.

    At exit, in os._exit(), with which multiprocessing's forked processes end, and when
    SIGTERM ends the process. Not when another signal does, nor on exec.
    """

    def __init__(self, run: Run, report: Report) -> None:
        self._run = run
        self._report = report
        self._exit = os._exit
        self._done_in = 0  # the pid

    def start(self) -> None:
        atexit.register(self._finish)
        os._exit = self._finish_and_exit
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._finish_and_die)

    def _finish_and_exit(self, status: int) -> NoReturn:
        self._finish()
        self._exit(status)

    def _finish_and_die(self, number: int, frame: FrameType | None) -> None:
        self._finish()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _finish(self) -> None:
        pid = os.getpid()
        if self._done_in == pid:
            return
        self._done_in = pid
        # Nothing that fails here may change how the program ends. RuntimeError: the
        # handler interrupted the program's own write to standard error.
        with contextlib.suppress(Exception):
            counts = self._report.connections()
            if pid == self._run.pid:
                self._publish(*self._collect(counts))
            elif counts and not self._leave(counts):
                self._publish(counts, 1)

    def _leave(self, counts: dict[Outcome, int]) -> bool:
        """Adds counts to the spool, in one write; False if the first process has ended."""
        try:
            fd = os.open(self._run.spool, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.write(fd, _as_json(counts).encode() + b"\n")
        finally:
            os.close(fd)
        return True

    def _collect(self, counts: dict[Outcome, int]) -> tuple[dict[Outcome, int], int]:
        """The counts of all processes, and how many processes those are."""
        total = Counter(counts)
        processes = 1
        with contextlib.suppress(OSError), open(self._run.spool, encoding="ascii") as spool:
            os.unlink(self._run.spool)
            for line in spool:
                processes += 1
                total.update(
                    {Outcome.from_dict(fields): fields["count"] for fields in json.loads(line)}
                )
        return total, processes

    def _publish(self, counts: dict[Outcome, int], processes: int) -> None:
        if self._run.json:
            text = json.dumps({"processes": processes, "connections": _fields(counts)}) + "\n"
        else:
            text = "".join(f"smcsock: {line}\n" for line in lines(counts, processes))
        if self._run.report_to:
            is_first = os.getpid() == self._run.pid
            with open(self._run.report_to, "w" if is_first else "a", encoding="utf-8") as file:
                file.write(text)
        elif sys.__stderr__ is not None:
            sys.__stderr__.write(text)
            sys.__stderr__.flush()


def _fields(counts: dict[Outcome, int]) -> list[dict[str, Any]]:
    return [{"count": count, **outcome.as_dict()} for outcome, count in counts.items()]


def _as_json(counts: dict[Outcome, int]) -> str:
    return json.dumps(_fields(counts))
