"""A program under 'smcsock run': what its processes are told, and the report at their end.

The command line puts a Run into the environment; Python imports the sitecustomize of
_site, and that calls begin() in the process of the program, and with ``children`` in
every Python process that it starts. Each keeps what it counts in the spool, and the
process of the program prints the sum when it ends.
"""

import atexit
import contextlib
import fcntl
import json
import os
import re
import signal
import stat
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

from ._install import install
from ._libraries import loaded_libraries
from ._methods import unfollowed
from ._report import Outcome, Report, lines, with_modes
from ._run import PATH, VARIABLE, Run
from ._shadowed import give_way
from ._spool import Spool, Stage, as_json
from ._system import Budget, is_alive, now, started, system

__all__ = ["begin", "publish"]

_PATIENCE = 1.0
"""Seconds to wait for another process that is just taking the counts for the report."""


def begin(hook: str, options: str, modules: set[str]) -> None:
    """Installs smcsock as the options say; called before the program starts.

    ``modules`` are the names of those that were imported before smcsock.
    """
    run = Run(**json.loads(options))
    if run.pid == 0:
        run = run._replace(pid=system.getpid(), start=started(system.getpid()) or 0)
        os.environ[VARIABLE] = json.dumps(run._asdict())
    interpreter = _interpreter()
    if not run.children and not interpreter:
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
    reporter = None
    if report is not None and run.spool is not None:
        spool = Spool.find(run.spool, interpreter)
        if spool is None:
            _say(f"smcsock: process {system.getpid()} reports on its own\n")
        reporter = _Reporter(run, report, spool, is_main=not interpreter)
        reporter.start()
    _Exec(run, hook, reporter).start()
    if not run.native:
        atexit.register(_say_unfollowed)
    if not interpreter:
        with contextlib.suppress(Exception):  # whatever finders and modules there are
            give_way(modules)


def _forget(hook: str) -> None:
    """Leaves the environment as it would be without smcsock."""
    del os.environ[VARIABLE]
    entries = [entry for entry in os.environ[PATH].split(os.pathsep) if entry != hook]
    if entries:
        os.environ[PATH] = os.pathsep.join(entries)
    else:
        del os.environ[PATH]


def _say_unfollowed() -> None:
    for reason in unfollowed():
        _say(f"smcsock: {reason}\n")


def _say(text: str) -> None:
    """On standard error, past its buffer: what cannot be written is not to be tried again."""
    with contextlib.suppress(Exception):
        if sys.__stderr__ is None:
            return
        with contextlib.suppress(Exception):
            sys.__stderr__.flush()
        if _stderr is not None and not _is_anothers():
            data = text.encode(errors="backslashreplace")
            while data:
                data = data[system.write(2, data) :]


def _status_of_stderr() -> os.stat_result | None:
    try:
        return system.fstat(2)
    except OSError:
        return None


def _is_anothers() -> bool:
    """Whether a program that closed standard error has a connection of its own there."""
    status = system.fstat(2)
    was = _stderr
    return stat.S_ISSOCK(status.st_mode) and (was is None or status.st_ino != was.st_ino)


_stderr = _status_of_stderr()


class _Exec:
    """Sees to it that a process is followed that goes on as another program (os.exec*()).

    That of the program is, as servers load themselves anew and wrappers (opentelemetry's,
    ddtrace's) become what they prepare for; other processes if children are to be. The hook is
    put in front of the sitecustomize of a wrapper.
    """

    def __init__(self, run: Run, hook: str, reporter: "_Reporter | None") -> None:
        self._run = run
        self._hook = hook
        self._reporter = reporter

    def start(self) -> None:
        self._execv, self._execve = os.execv, os.execve
        os.execv = self._call_execv
        os.execve = self._call_execve

    def _call_execv(self, path: Any, argv: Any, /) -> NoReturn:
        env = self._prepare(path, os.environ)
        if env is not None:
            self._execve(path, argv, env)
        self._execv(path, argv)

    def _call_execve(self, path: Any, argv: Any, env: Any) -> NoReturn:
        followed = self._prepare(path, env)
        self._execve(path, argv, env if followed is None else followed)

    def _prepare(self, path: Any, env: Mapping[str, str]) -> dict[str, str] | None:
        """The environment in which the program is followed; None if it is not to be."""
        followed = None
        with contextlib.suppress(Exception):
            if not system.access(path, os.X_OK):
                return None  # the next directory of PATH may have it
            is_ours = env.get(VARIABLE) in (None, os.environ.get(VARIABLE))
            may = self._run.children or system.getpid() == self._run.pid
            if is_ours and may and _is_python(path):
                followed = dict(env)
                self._run.put(followed, self._hook)
        with contextlib.suppress(Exception):
            if self._reporter is not None:
                self._reporter.before_exec(is_followed=followed is not None)
        return followed


_PYTHON = re.compile(rb"python[\d.]*t?")


def _is_python(path: str) -> bool:
    """Whether a program is a Python, or a script of one."""
    if path == sys.executable or _PYTHON.fullmatch(os.path.basename(os.fsencode(path))):
        return True
    fd = system.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        line = system.read(fd, 256).partition(b"\n")[0]
    finally:
        system.close(fd)
    return line.startswith(b"#!") and _PYTHON.search(line) is not None


class _Reporter:
    """Sees to it that what this process counts is in the report, whatever ends it.

    What ends it in order, at exit, os._exit(), with which multiprocessing's forked
    processes end, os.exec*() and SIGTERM, has the kernel asked about all connections.
    """

    def __init__(self, run: Run, report: Report, spool: Spool | None, *, is_main: bool) -> None:
        self._run = run
        self._report = report
        self._spool = spool
        self._is_main = is_main  # its end is that of the process
        self._after_fork()

    def _after_fork(self) -> None:
        self._is_finishing = self._is_done = False
        self._end_by = 0  # a signal
        self._budget = Budget()
        if self._spool is not None:
            self._spool.after_fork()

    def start(self) -> None:
        self._report.when_changed(self._keep)
        atexit.register(self._finish)
        os.register_at_fork(after_in_child=self._after_fork)
        if self._is_main:
            os._exit = self._finish_and_exit
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                signal.signal(signal.SIGTERM, self._finish_and_die)

    def _keep(self, so_far: Callable[[], dict[Outcome, int]]) -> None:
        if self._spool is not None and self._budget.is_left:
            began = now()
            self._spool.put(so_far(), is_open=True)
            self._budget.spend(began)

    def before_exec(self, *, is_followed: bool) -> None:
        """To be called when the process is to go on as another program."""
        counts = self._report.connections()
        if self._is_first and not is_followed:
            self._is_done = self._is_finishing = False
            self._put_and_publish(counts)
        elif counts and self._spool is not None:
            # Which takes the place over, if it is one of Python's that is followed.
            self._spool.put(counts, is_open=False)

    def _finish_and_exit(self, status: int) -> NoReturn:
        self._finish()
        system.exit(status)

    def _finish_and_die(self, number: int, frame: FrameType | None) -> None:
        if self._is_finishing and not self._is_done:
            self._end_by = number  # it is this thread that does, and it goes on first
            return
        self._finish()
        _die(number)

    def _finish(self) -> None:
        if self._is_finishing:
            return
        self._is_finishing = True
        # Nothing that fails here may change how the program ends.
        with contextlib.suppress(Exception):
            counts = self._report.connections()
            if self._is_first:
                self._put_and_publish(counts)
            elif counts:
                self._hand_in(counts)
        self._is_done = True
        if self._end_by:
            _die(self._end_by)

    @property
    def _is_first(self) -> bool:
        return self._is_main and system.getpid() == self._run.pid

    def _put_and_publish(self, counts: dict[Outcome, int]) -> None:
        is_kept = self._spool is not None and self._spool.put(counts, is_open=False)
        if self._run.native:
            return
        libraries = loaded_libraries()
        if (
            self._spool is None
            or not is_kept
            # It failed to become another program.
            or not publish(self._run, self._spool, libraries=libraries)
        ):
            _write(self._run, with_modes(counts), 1, {}, libraries)

    def _hand_in(self, counts: dict[Outcome, int]) -> None:
        """Of a child: in the sum of the first process, or on its own if that was written before."""
        spool = self._spool
        if spool is None or not spool.put(counts, is_open=False):
            _write(self._run, with_modes(counts), 1, {})
            return
        if spool.stage is Stage.COUNTING:
            if self._run.native or is_alive(self._run.pid, self._run.start):
                return
            if publish(self._run, spool):  # the first was killed: the sum is for who is left
                return
        until = now() + _PATIENCE
        while spool.stage is not Stage.WRITTEN and now() < until:
            system.sleep(0.001)
        if not spool.is_taken:
            _write(self._run, with_modes(counts), 1, {})


def _die(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    system.kill(system.getpid(), number)


def _interpreter() -> int:
    """0, or the number of this sub-interpreter: its end is not that of the process."""
    interpreters: Any = None
    for name in ("_interpreters", "_xxsubinterpreters"):  # from 3.13 on, and before
        with contextlib.suppress(ImportError):
            interpreters = import_module(name)
            break
    if interpreters is None:
        return 0
    current, main = interpreters.get_current(), interpreters.get_main()
    if current == main:
        return 0
    return int(current[0] if isinstance(current, tuple) else current)


def publish(run: Run, spool: Spool, *, unseen: int = 0, libraries: Sequence[str] = ()) -> bool:
    """Writes the report of all processes of a run; False if another process does so.

    Known to be missing are ``unseen`` sockets, and what ``libraries`` open in C.
    """
    if not spool.begin_report():
        return False
    total: Counter[Outcome] = Counter()
    processes = set()
    others = 0
    missing: Counter[str] = Counter({"unseen": unseen} if unseen else {})
    for entry in spool.entries():
        if entry.is_open and entry.is_alive and entry.pid != system.getpid():
            missing["running"] += 1  # it will have its own report
            continue
        spool.take(entry)
        missing["killed"] += entry.is_open + entry.killed
        processes.add(entry.pid)
        others += entry.others
        total.update(entry.counts)
    spool.end_report()
    missing = Counter({what: count for what, count in missing.items() if count})
    _write(run, with_modes(total), len(processes) + others, missing, libraries)
    return True


_MISSING = {
    "unseen": "of sockets that were closed before the kernel was asked: 'run --exact' asks in time",
    "running": "of processes that run on, and report when they end",
    "killed": "of processes and interpreters that were killed: what they did last may be missing",
}


def _write(
    run: Run,
    counts: dict[Outcome, int],
    processes: int,
    missing: dict[str, int],
    libraries: Sequence[str] = (),
) -> None:
    if run.json:
        report = {
            "processes": processes,
            "connections": as_json(counts),
            "missing": missing,
            "libraries": [*libraries],
        }
        text = json.dumps(report) + "\n"
    else:
        text = "".join(f"smcsock: {line}\n" for line in lines(counts, processes))
        text += "".join(f"smcsock:   {n} {_MISSING[what]}\n" for what, n in missing.items())
        if libraries:
            names = ", ".join(libraries)
            text += f"smcsock:   {names}: opens sockets in C, which only 'run --native' reaches\n"
    if not run.report_to:
        _say(text)
        return
    try:
        # Others may have reported before, or another run: the file was emptied at the start.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fd = system.open(run.report_to, flags | os.O_NONBLOCK, 0o666)  # a FIFO that nobody reads
        try:
            system.fcntl(fd, fcntl.F_SETFL, flags)
            data = text.encode()
            while data:
                data = data[system.write(fd, data) :]
        finally:
            system.close(fd)
    except OSError as error:
        _say(f"smcsock: cannot write the report to {run.report_to}: {error.strerror}\n{text}")
