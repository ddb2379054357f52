"""A program under 'smcsock run': what its processes are told, and the report at their end.

The command line puts a Run into the environment; Python imports the sitecustomize of
_site, and that calls begin() in the process of the program, and with ``children`` in
every Python process that it starts. Each keeps what it counts in the spool, and the
process of the program prints the sum when it ends.
"""

import atexit
import contextlib
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from time import monotonic
from types import FrameType
from typing import Any, NoReturn

from .._socket import Fallback
from . import _children
from ._install import install
from ._methods import unfollowed
from ._report import Outcome, Report, lines, with_modes
from ._spool import Spool, as_json

__all__ = ["Run", "begin", "publish"]

_VARIABLE = "SMCSOCK_RUN"
_PATH = "PYTHONPATH"

_SELDOM = 0.05
"""Seconds between two times that a process puts into the spool what it has counted."""

# As they are now: programs replace them.
_exit, _getpid, _kill, _open_file = os._exit, os.getpid, os.kill, open


@dataclass(frozen=True)
class Run:
    """The options of 'smcsock run', and ``pid``, the process of the program.

    ``pid`` is 0 if something starts the program that is no Python: the first one to begin
    is the program.
    ``spool`` is the name of the Spool, None for no report; ``report_to`` a file for the
    report, "" for standard error.
    """

    pid: int
    require_smc: bool = False
    fallback: Fallback | None = None
    only: list[str] | None = None
    children: bool = False
    spool: list[int] | None = None
    report_to: str = ""
    json: bool = False
    sndbuf: int | None = None
    rcvbuf: int | None = None

    def put(self, environment: dict[str, str], hook: str) -> None:
        """Tells the Python processes with this environment; ``hook`` is _site."""
        environment[_VARIABLE] = json.dumps(asdict(self))
        path = environment.get(_PATH)
        environment[_PATH] = hook if not path else f"{hook}{os.pathsep}{path}"


def begin(hook: str) -> None:
    """Installs smcsock as the environment says; called before the program starts."""
    run = Run(**json.loads(os.environ[_VARIABLE]))
    if run.pid == 0:
        run = replace(run, pid=_getpid())
        os.environ[_VARIABLE] = json.dumps(asdict(run))
    if not run.children:
        _forget(hook)
    report = Report() if run.spool else None
    install(
        require_smc=run.require_smc,
        fallback=run.fallback,
        only=run.only,
        report=report,
        sndbuf=run.sndbuf,
        rcvbuf=run.rcvbuf,
    )
    if run.require_smc and run.children:
        _children.watch(_VARIABLE, hook)
    atexit.register(_say_unfollowed)
    if report is not None and run.spool is not None:
        spool = Spool.find(run.spool)
        if spool is None:
            _say(f"smcsock: process {_getpid()} cannot take part in the report\n")
        else:
            _Reporter(run, report, spool).start()


def _forget(hook: str) -> None:
    """Leaves the environment as it would be without smcsock."""
    del os.environ[_VARIABLE]
    entries = [entry for entry in os.environ[_PATH].split(os.pathsep) if entry != hook]
    if entries:
        os.environ[_PATH] = os.pathsep.join(entries)
    else:
        del os.environ[_PATH]


def _say_unfollowed() -> None:
    for reason in unfollowed():
        _say(f"smcsock: {reason}: its sockets are plain TCP, and not counted\n")


def _say(text: str) -> None:
    with contextlib.suppress(Exception):
        if sys.__stderr__ is not None:
            sys.__stderr__.write(text)
            sys.__stderr__.flush()


class _Reporter:
    """Sees to it that what this process counts is in the report, whatever ends it.

    What ends it in order, at exit, os._exit(), with which multiprocessing's forked
    processes end, os.exec*() and SIGTERM, has the kernel asked about all connections.
    """

    def __init__(self, run: Run, report: Report, spool: Spool) -> None:
        self._run = run
        self._report = report
        self._spool = spool
        self._done_in = 0  # the pid
        self._put_at = 0.0
        self._is_main = _is_main_interpreter()

    def start(self) -> None:
        self._report.when_changed(self._keep)
        atexit.register(self._finish)
        os._exit = self._finish_and_exit
        os.execv = self._before(os.execv)
        os.execve = self._before(os.execve)
        os.register_at_fork(after_in_child=self._spool.after_fork)
        if self._is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._finish_and_die)

    def _keep(self, so_far: Callable[[], dict[Outcome, int]]) -> None:
        now = monotonic()
        if now - self._put_at >= _SELDOM:
            self._put_at = now
            self._spool.put(so_far(), is_open=True)

    def _before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def execute(*args: Any, **kwargs: Any) -> Any:
            with contextlib.suppress(Exception):
                counts = self._report.connections()
                if counts:
                    self._spool.put(counts, is_open=True)
            return function(*args, **kwargs)

        return execute

    def _finish_and_exit(self, status: int) -> NoReturn:
        self._finish()
        _exit(status)

    def _finish_and_die(self, number: int, frame: FrameType | None) -> None:
        self._finish()
        signal.signal(number, signal.SIG_DFL)
        _kill(_getpid(), number)

    def _finish(self) -> None:
        pid = _getpid()
        if self._done_in == pid:
            return
        self._done_in = pid
        # Nothing that fails here may change how the program ends. RuntimeError: the
        # handler interrupted the program's own write to standard error.
        with contextlib.suppress(Exception):
            counts = self._report.connections()
            if pid == self._run.pid and self._is_main:
                self._spool.put(counts, is_open=False)
                publish(self._run, self._spool)
            elif counts:
                is_kept = self._spool.put(counts, is_open=False)
                if not is_kept or self._spool.is_published or not _is_alive(self._run.pid):
                    _write(self._run, counts, 1, {})


def _is_main_interpreter() -> bool:
    """Whether this is no sub-interpreter: its end is not that of the process."""
    interpreters: Any = None
    for name in ("_interpreters", "_xxsubinterpreters"):  # from 3.13 on, and before
        with contextlib.suppress(ImportError):
            interpreters = import_module(name)
            break
    if interpreters is None:
        return True
    return bool(interpreters.get_current() == interpreters.get_main())


def _is_alive(pid: int) -> bool:
    """Whether a process is there, and not only waits for its parent to ask how it ended."""
    try:
        with _open_file(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def publish(run: Run, spool: Spool) -> None:
    """Writes the report of all processes of a run."""
    spool.set_published()
    total: Counter[Outcome] = Counter()
    processes = set()
    missing: Counter[str] = Counter()
    for entry in spool.entries():
        if entry.is_open and entry.pid != run.pid:
            if _is_alive(entry.pid):
                missing["running"] += 1  # it will have its own report
                continue
            missing["killed"] += 1
        processes.add(entry.pid)
        total.update(entry.counts)
    _write(run, with_modes(total), len(processes), missing)


_MISSING = {
    "running": "of processes that run on, and report when they end",
    "killed": "of processes that were killed, or went on as another program: what they did last "
    "may be missing",
}


def _write(run: Run, counts: dict[Outcome, int], processes: int, missing: dict[str, int]) -> None:
    if run.json:
        report = {"processes": processes, "connections": as_json(counts), "missing": missing}
        text = json.dumps(report) + "\n"
    else:
        text = "".join(f"smcsock: {line}\n" for line in lines(counts, processes))
        text += "".join(f"smcsock:   {n} {_MISSING[what]}\n" for what, n in missing.items())
    if not run.report_to:
        _say(text)
        return
    is_first = _getpid() == run.pid
    try:
        with _open_file(run.report_to, "w" if is_first else "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        _say(f"smcsock: cannot write the report to {run.report_to}: {error.strerror}\n{text}")
