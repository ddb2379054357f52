"""The report: what became of a program's connections, whatever the program does to itself."""

import contextlib
import errno
import gc
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from conftest import EXPECTED_MODE, INET, INET6, VM_MODE, Presentation, on_host, slow
from test_install import connected, modes, tcp_listener
from test_run import CONNECT, LIMIT, run

import smcsock
from smcsock import Mode, Outcome, Report
from smcsock._dropin import _system
from smcsock._dropin._spool import Spool
from smcsock._kernel._sock_diag import records


@pytest.fixture(params=[INET, INET6], ids=lambda presentation: presentation.name)
def inet(request: pytest.FixtureRequest) -> Presentation:
    presentation: Presentation = request.param
    return presentation


@pytest.fixture
def mode() -> Mode:
    """That of connections over IPv4 where the tests run."""
    return EXPECTED_MODE.get(VM_MODE or "", Mode.TCP)


# ----- smcsock.Report


def test_a_forked_child_counts_from_zero() -> None:
    report = Report()
    with smcsock.installed(report=report), connected():
        with connected():
            pass
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                assert not report.connections()
                with connected():
                    pass
                assert sum(report.connections().values()) == 2
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert sum(report.connections().values()) == 4


def test_the_report_tells_why_a_connection_is_tcp(inet: Presentation, smc_mode: Mode) -> None:
    report = Report()
    with (
        tcp_listener(inet.host) as listener,
        smcsock.installed(report=report),
        socket.create_connection(listener.getsockname()[:2]) as client,
    ):
        expected = smcsock.smc_info(client)
    assert expected.reason
    assert expected.mode is Mode.TCP
    assert report.connections() == {
        Outcome("connect", Mode.TCP, expected.reason, expected.peer_reason): 1
    }
    assert str(report).splitlines()[1] == f"  1 connected  {expected}"
    assert f"  advice: {expected.reason.advice}" in str(report).splitlines()


@pytest.mark.parametrize("ending", ["shutdown", "detach", "forgotten", "makefile"])
def test_the_report_knows_connections_that_have_ended(ending: str, mode: Mode) -> None:
    report = Report()
    with smcsock.installed(report=report), connected() as (client, server):
        if ending == "shutdown":
            server.shutdown(socket.SHUT_RDWR)
            assert client.recv(1) == b""
            client.shutdown(socket.SHUT_RDWR)
        elif ending == "detach":
            os.close(client.detach())
        elif ending == "makefile":
            with client.makefile("rb"):
                client.close()
        else:
            assert modes(report) == {("connect", mode): 1, ("accept", mode): 1}
    assert modes(report) == {("connect", mode): 1, ("accept", mode): 1}


@pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning")
def test_the_report_knows_connections_that_nobody_closes(smc_mode: Mode) -> None:
    report = Report()
    with tcp_listener() as listener, smcsock.installed(report=report):
        for _ in range(3):
            socket.create_connection(listener.getsockname())
            gc.collect()
    ((outcome, count),) = report.connections().items()
    assert (outcome.mode, count, outcome.note) == (Mode.TCP, 3, "")
    assert outcome.reason


def test_many_connections_are_asked_about_at_once(mode: Mode) -> None:
    report = Report()
    with contextlib.ExitStack() as stack, smcsock.installed(report=report):
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for _ in range(40):
            stack.enter_context(socket.create_connection(listener.getsockname()))
            stack.enter_context(listener.accept()[0])
        assert modes(report) == {("connect", mode): 40, ("accept", mode): 40}


def test_a_connection_is_counted_once_however_often_it_is_asked_for() -> None:
    report = Report()
    with (
        tcp_listener() as listener,
        smcsock.installed(report=report, only="192.0.2.1:1"),
        socket.socket() as client,
    ):
        client.setblocking(False)
        assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        assert select.select([], [client], [], LIMIT)[1]
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert client.connect_ex(listener.getsockname()) == 0
        assert client.connect_ex(listener.getsockname()) == errno.EISCONN
        client.getpeername()
    assert modes(report) == {("connect", Mode.TCP): 1}


def test_nothing_that_the_program_patched_is_asked(mode: Mode) -> None:
    """close() works in the middle of a test that forbids everything."""

    def forbidden(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a test tried to use this")

    report = Report()
    names = (
        "builtins.open json.JSONEncoder.encode json.dumps os.fstat os.getpid os.open os.read "
        "os.write socket.socket threading.RLock time.clock_gettime time.monotonic"
    )
    with (
        smcsock.installed(report=report),
        connected() as (client, server),
        contextlib.ExitStack() as stack,
    ):
        for name in names.split():
            stack.enter_context(mock.patch(name, forbidden))
        client.close()
        server.close()
    assert modes(report) == {("connect", mode): 1, ("accept", mode): 1}


def test_the_handler_of_a_signal_may_ask_at_any_time() -> None:
    report = Report()
    asked = []
    before = signal.signal(signal.SIGALRM, lambda *_: asked.append(str(report)))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    count = 0
    try:
        with smcsock.installed(report=report):
            while len(asked) < 5:
                count += 1
                with connected():
                    pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert sum(report.connections().values()) == 2 * count


def test_asking_has_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr(_system, "now", lambda: clock)
    budget = _system.Budget()
    spent = 0.0
    while clock < 110:
        if budget.is_left:
            began = clock
            clock += 0.01
            spent += 0.01
            budget.spend(began)
        clock += 0.001
    assert 0.2 <= spent <= 0.02 + 10 / 50 + 0.01


@pytest.fixture
def crowd() -> Iterator[None]:
    """Thousands of SMC sockets that are none of the program's connections."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (11_000, max(limits[1], 11_000)))
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(10_000):
                stack.enter_context(smcsock.socket())
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@slow
@pytest.mark.usefixtures("crowd")
def test_the_report_among_many_sockets(smc_mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that end one after another are not asked for one by one, and yet known."""
    asked = []
    ask = records

    def count(inodes: Any) -> list[bytes]:
        asked.append(True)
        return ask(inodes)

    monkeypatch.setattr("smcsock._dropin._report.records", count)
    report = Report()
    with smcsock.installed(report=report):
        for _ in range(50):
            with connected():
                pass
    if smc_mode is not Mode.TCP:
        assert len(asked) < 50
    assert modes(report) == {("connect", smc_mode): 50, ("accept", smc_mode): 50}


# ----- all processes of a run, whatever ends them


def reports(
    tmp_path: Path, code: str, *options: str, status: int = 0, **how: Any
) -> list[dict[str, Any]]:
    """Those that a program leaves, in the order in which they were written."""
    path = tmp_path / "report"
    text = f"{CONNECT}\nimport os, signal, subprocess, sys, time\n{textwrap.dedent(code)}"
    program = tmp_path / "program.py"
    program.write_text(text, encoding="utf-8")
    result = run("--report-to", str(path), "--json", *options, str(program), **how)
    assert (result.returncode, result.stderr) == (status, "")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def total(report: dict[str, Any]) -> int:
    count = 0
    for outcome in report["connections"]:
        count += outcome["count"]
    return count


def figures(report: dict[str, Any]) -> tuple[int, int, dict[str, int]]:
    return report["processes"], total(report), report["missing"]


FORK = """
def in_child(function):
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(0)
    return pid
"""


ENDS = {
    "all descriptors closed": """
        os.closerange(3, 4096)
        connect()
        os.waitpid(in_child(connect), 0)
    """,
    "its number taken": """
        for number in range(900, 1024):
            os.dup2(1, number)
        connect()
        os.waitpid(in_child(connect), 0)
    """,
    "no file may grow": """
        import resource
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        connect()
        os.waitpid(in_child(connect), 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    """,
    "killed": """
        def kill():
            connect()
            os.kill(os.getpid(), signal.SIGKILL)
        for _ in range(3):
            os.waitpid(in_child(kill), 0)
    """,
    "atexit": """
        import atexit
        atexit.register(connect)
    """,
    "many processes": """
        for _ in range(40):
            os.waitpid(in_child(connect), 0)
    """,
    "fork among threads": """
        import threading, warnings
        warnings.simplefilter("ignore")  # from 3.12 on Python warns of just this
        def plain():  # no name is looked up: the C library's locks are no matter here
            with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
                client.connect(listener.getsockname())
                listener.accept()[0].close()
        def work():
            for _ in range(10):
                plain()
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        pids = [in_child(plain) for _ in range(20)]
        for thread in threads:
            thread.join()
        for pid in pids:
            os.waitpid(pid, 0)
    """,
    "loads itself again": """
        connect()
        if sys.argv[-1] != "again":
            os.execv(sys.executable, [sys.executable, *sys.argv, "again"])
    """,
    "becomes another program": """
        connect()
        os.execvp("true", ["true"])
    """,
    "fails to become another": """
        try:
            os.execvp("no-such-program", ["x"])
        except OSError:
            connect()
    """,
    "patched to the end": """
        connect()
        def forbidden(*_):
            raise RuntimeError
        os.fstat = os.open = os.read = os.write = os.getpid = time.monotonic = forbidden
    """,
}
FIGURES = {
    "all descriptors closed": (2, 4, {}),
    "its number taken": (2, 4, {}),
    "no file may grow": (2, 4, {}),
    "killed": (4, 6, {"killed": 3}),
    "many processes": (41, 80, {}),
    "fork among threads": (21, 120, {}),
    "loads itself again": (1, 4, {}),
}


@on_host
@pytest.mark.parametrize("end", ENDS)
def test_the_sum_is_right(end: str, tmp_path: Path) -> None:
    (report,) = reports(tmp_path, FORK + textwrap.dedent(ENDS[end]))
    processes, count, missing = FIGURES.get(end, (1, 2, {}))
    # What a process did last may be missing if it was killed, and that is said.
    assert count - 2 * missing.get("killed", 0) <= total(report) <= count
    assert (report["processes"], report["missing"]) == (processes, missing)
    assert total(report) == count or missing


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@on_host
def test_workers_may_run_as_another_user(tmp_path: Path) -> None:
    code = """
    "x".encode("idna")  # which is in a file that they may not be allowed to read
    def work():
        os.setgid(65534)
        os.setuid(65534)
        connect()
    os.waitpid(in_child(work), 0)
    """
    (report,) = reports(tmp_path, FORK + textwrap.dedent(code))
    assert figures(report) == (2, 2, {})


@on_host
def test_processes_that_live_longer_report_when_they_end(tmp_path: Path) -> None:
    """The descriptor that the last of them has is how the end of all shows."""
    code = """
    connect()
    def work():
        os.setsid()
        os.read(0, 1)  # until the first one has ended
        connect()
    def daemon():
        connect()
        in_child(work)
        os.read(0, 1)
    in_child(daemon)
    """
    reading, writing = os.pipe()
    (tmp_path / "program.py").write_text(
        f"{CONNECT}\nimport os\n{FORK}{textwrap.dedent(code)}", encoding="utf-8"
    )
    path = tmp_path / "report"
    options = ["--report-to", str(path), "--json", str(tmp_path / "program.py")]
    command = [sys.executable, "-m", "smcsock", "run", *options]
    with subprocess.Popen(command, stdin=reading, stdout=subprocess.PIPE) as process:
        os.close(reading)
        assert process.stdout is not None
        assert process.wait(LIMIT) == 0
        os.close(writing)
        assert process.stdout.read() == b""  # all have ended
    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert figures(written[0])[0] == 1
    assert sorted(total(report) for report in written) == [2, 2, 2]


@on_host
def test_children_report_for_a_program_that_was_killed(tmp_path: Path) -> None:
    code = """
    connect()
    program = os.getpid()
    def work():
        connect()
        os.kill(program, signal.SIGKILL)
        os.read(0, 1)
    in_child(work)
    os.read(0, 1)
    """
    path = tmp_path / "program.py"
    path.write_text(
        f"{CONNECT}\nimport os, signal\n{FORK}{textwrap.dedent(code)}", encoding="utf-8"
    )
    command = [sys.executable, "-m", "smcsock", "run", "--report", "--json", str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.wait(LIMIT) == -signal.SIGKILL
        _, text = process.communicate(timeout=LIMIT)
    assert figures(json.loads(text)) == (2, 4, {"killed": 1})


@on_host
def test_sub_interpreters_follow_and_are_in_the_sum(tmp_path: Path) -> None:
    code = f"""
    try:
        import _interpreters as interpreters
    except ImportError:
        import _xxsubinterpreters as interpreters
    connect()
    for _ in range(2):
        one = interpreters.create()
        interpreters.run_string(one, {CONNECT + "connect()"!r})
        interpreters.destroy(one)
    """
    (report,) = reports(tmp_path, code)
    assert figures(report) == (1, 6, {})


@on_host
def test_the_children_of_children_take_part(tmp_path: Path) -> None:
    """Each closes the descriptors of what it starts, as subprocess does."""
    inner = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {CONNECT + 'connect()'!r}])"
    )
    code = f"subprocess.run([sys.executable, '-c', {inner!r}])"
    (report,) = reports(tmp_path, code, "--children")
    assert figures(report) == (2, 2, {})


@on_host
def test_a_full_disk_is_said() -> None:
    result = run("--report-to", "/dev/full", "-c", "")
    assert result.returncode == 0
    first, *rest = result.stderr.splitlines()
    assert first == "smcsock: cannot write the report to /dev/full: No space left on device"
    assert rest == ["smcsock: no connections"]


@on_host
def test_a_full_standard_error_changes_nothing() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "smcsock", "run", "--report", "-c", ""]
        assert subprocess.run(command, stderr=full, timeout=LIMIT).returncode == 0


@on_host
def test_the_report_is_not_sent_to_a_peer(tmp_path: Path) -> None:
    """A program that closed standard error may have a connection there."""
    code = """
    os.close(2)
    here, there = socket.socketpair()
    assert 2 in (here.fileno(), there.fileno())
    if os.fork() == 0:
        os.dup2((here if here.fileno() == 2 else there).fileno(), 2)
        sys.exit()
    os.wait()
    for sock in (here, there):
        sock.setblocking(False)
        try:
            print(sock.recv(1000))
        except BlockingIOError:
            pass
    """
    path = tmp_path / "program.py"
    path.write_text(f"import os, socket, sys\n{textwrap.dedent(code)}", encoding="utf-8")
    assert run("--report", str(path)).stdout == ""


@on_host
def test_two_runs_may_report_to_one_file(tmp_path: Path) -> None:
    """As one in the other does; none overwrites what another has written."""
    inner = [sys.executable, "-m", "smcsock", "run", "--report-to", str(tmp_path / "report")]
    code = f"subprocess.run({[*inner, '--json', '-c', CONNECT + 'connect()']!r})"
    first, second = reports(tmp_path, code)
    assert (total(first), total(second)) == (2, 0)


# ----- the spool


def test_a_place_taken_by_another_process_is_left_to_it() -> None:
    spool = Spool.create()
    try:
        outcome = Outcome("connect", Mode.TCP)
        assert spool.put({outcome: 1}, is_open=True)
        spool._memory[spool._at : spool._at + 8] = bytes(8)  # as if both took it at once
        assert spool.put({outcome: 2}, is_open=True)
        assert [entry.counts for entry in spool.entries()][-1] == {outcome: 2}
    finally:
        spool.close()


def test_what_was_being_written_at_the_end_is_not_believed() -> None:
    spool = Spool.create()
    try:
        outcome = Outcome("connect", Mode.TCP)
        for count in (1, 2):
            assert spool.put({outcome: count}, is_open=True)
        at = bytes(spool._memory).rfind(b'"count":2')
        spool._memory[at : at + 9] = b'"count":3'
        assert [entry.counts for entry in spool.entries()] == [{outcome: 1}]
    finally:
        spool.close()


def test_reasons_give_way_where_there_are_too_many() -> None:
    spool = Spool.create()
    try:
        counts = {Outcome("connect", Mode.TCP, note=f"note {n:060}"): n for n in range(1, 50)}
        assert spool.put(counts, is_open=True)
        (entry,) = spool.entries()
        assert entry.counts == {Outcome("connect", Mode.TCP): sum(range(1, 50))}
    finally:
        spool.close()
