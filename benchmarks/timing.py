"""Rates: connections, round trips and streams, by contenders that take turns.

Each contender is a server and a client process, on a CPU each. A turn is so many
operations, for a small fraction of a second, while the others sleep. In every round
each has a turn, so that what slows the machine down slows them all, and the round
gives a ratio to the baseline.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from contenders import Contender

import smcsock

T = TypeVar("T")

HOST = "127.0.0.1"
SESSION_ROUNDS = 10
"""Rounds after which all start over with new processes and connections, in another order."""
SESSION_LIMIT = 600
"""Seconds after which a session has hung: its processes then end by SIGALRM."""
STREAM_BUFFER = 1 << 20

TEMPLATE = """
import socket
import seed
import smcsock

def listen(host):
    port = 0
    address = host, port
    sock = {open}
    {bind}
    sock.listen(128)
    return sock

def open_connection(host, port):
    address = host, port
    sock = {open}
    {connect}
    return sock

def accept_connection(listener):
    {accept}
    return conn

def connect_client(count, host, port):
    address = host, port
    for _ in range(count):
        sock = {open}
        {connect}
        sock.recv(1)
        sock.close()

def connect_server(count, listener):
    for _ in range(count):
        {accept}
        conn.close()
"""


@dataclass(frozen=True)
class Workload:
    kind: str
    size: int

    @property
    def name(self) -> str:
        if self.kind == "connect":
            return "connect, accept, close"
        return f"{self.kind}, {_bytes(self.size)}"

    def rate(self, count: int, seconds: float) -> float:
        """Operations, or bytes of a stream, per second."""
        return count * (self.size if self.kind == "stream" else 1) / seconds


def _bytes(size: int) -> str:
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"


WORKLOADS = [
    Workload("connect", 0),
    Workload("round trip", 64),
    *(Workload("stream", size) for size in (64, 1 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20)),
]


class SessionError(Exception):
    """A contender did not do its part; the text says which."""


class Session(contextlib.AbstractContextManager["Session"]):
    """A contender's processes at one workload, with a turn whenever asked."""

    def __init__(self, name: str, control: socket.socket, pids: list[int]) -> None:
        self._name = name
        self._control = control
        self._pids = pids

    def turn(self) -> float:
        """Seconds that a turn took."""
        self._control.send(b"t")
        return float(self._check(self._control.recv(64)))

    def finish(self) -> str:
        """What the connection was according to the kernel; to be called after all turns."""
        self._control.send(b"f")
        text, fds, _, _ = socket.recv_fds(self._control, 64, 1)
        self._check(text)
        (fd,) = fds
        try:
            mode = _mode(fd)
        finally:
            os.close(fd)
        self._control.close()
        while self._pids:
            _, status = os.waitpid(self._pids.pop(), 0)
            if status:
                raise SessionError(f"{self._name}: wait status {status}")
        return mode

    def _check(self, message: bytes) -> bytes:
        if not message:
            raise SessionError(f"{self._name}: the client died")
        return message

    def __exit__(self, *_: object) -> None:
        self._control.close()
        for pid in self._pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


class Runner(Protocol):
    """A contender, ready to start."""

    name: str
    what: str
    is_smc: bool

    def start(self, workload: Workload, count: int, turns: int) -> Session: ...


class PythonRunner:
    def __init__(self, contender: Contender) -> None:
        self.name, self.what = contender.name, contender.what
        self.is_smc = contender.is_smc
        self._calls = contender.compile(TEMPLATE)
        self._installed = contender.installed

    def start(self, workload: Workload, count: int, turns: int) -> Session:
        control, end = _control_pair()
        with end, self._installed(), self._calls["listen"](HOST) as listener:
            port = _port(listener)
            pids = [
                _fork(lambda: self._serve(workload, count, turns, listener), [listener]),
                _fork(lambda: self._drive(workload, count, turns, port, end), [end]),
            ]
        return Session(self.name, control, pids)

    def _serve(self, workload: Workload, count: int, turns: int, listener: socket.socket) -> None:
        _pin(-1)
        accept = self._calls["accept_connection"]
        if workload.kind == "connect":
            self._calls["connect_server"](count * turns, listener)
            conn = accept(listener)
        else:
            conn = accept(listener)
            _set_nodelay(conn)
            serve = round_trip_server if workload.kind == "round trip" else stream_server
            for _ in range(turns):
                serve(count, conn, workload.size)
        conn.recv(1)
        conn.close()

    def _drive(
        self, workload: Workload, count: int, turns: int, port: int, end: socket.socket
    ) -> None:
        _pin(0)
        connect = self._calls["open_connection"]
        if workload.kind == "connect":
            drive: Callable[..., None] = self._calls["connect_client"]
            arguments: tuple[Any, ...] = (HOST, port)
        else:
            sock = connect(HOST, port)
            _set_nodelay(sock)
            drive = round_trip_client if workload.kind == "round trip" else stream_client
            arguments = (sock, bytes(workload.size))
        for _ in range(turns):
            _await(end)
            start = time.perf_counter()
            drive(count, *arguments)
            seconds = time.perf_counter() - start
            end.send(f"{seconds:.9f}".encode())
        if workload.kind == "connect":
            sock = connect(HOST, port)
        _await(end)
        socket.send_fds(end, [b"f"], [sock.fileno()])
        end.recv(1)
        sock.close()


def _set_nodelay(sock: socket.socket) -> None:
    """Lest the end of a TCP stream waits for a delayed acknowledgement."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def round_trip_client(count: int, sock: socket.socket, message: bytes) -> None:
    size = len(message)
    for _ in range(count):
        sock.sendall(message)
        sock.recv(size)


def round_trip_server(count: int, conn: socket.socket, size: int) -> None:
    for _ in range(count):
        conn.sendall(conn.recv(size))


def stream_client(count: int, sock: socket.socket, message: bytes) -> None:
    for _ in range(count):
        sock.sendall(message)
    sock.recv(1)


def stream_server(count: int, conn: socket.socket, size: int) -> None:
    buffer = bytearray(STREAM_BUFFER)
    left = count * size
    while left:
        received = conn.recv_into(buffer)
        if not received:
            raise ConnectionError("the client is gone")
        left -= received
    conn.sendall(b"!")


class CRunner:
    name = "C"
    what = "a C program with AF_SMC"
    is_smc = True

    def __init__(self, directory: Path) -> None:
        self._program = directory / "bench"
        compiler = os.environ.get("CC", "cc")
        source = Path(__file__).with_name("bench.c")
        subprocess.run([compiler, "-O2", "-o", self._program, source], check=True)

    def start(self, workload: Workload, count: int, turns: int) -> Session:
        control, end = _control_pair()
        with end:
            numbers = (workload.size, count, turns, end.fileno(), _cpu(0), _cpu(-1), SESSION_LIMIT)
            arguments = [workload.kind, *map(str, numbers)]

            def run() -> None:
                end.set_inheritable(True)
                os.execv(self._program, [str(self._program), *arguments])

            return Session(self.name, control, [_fork(run, [end])])


def _control_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


_CPUS = sorted(os.sched_getaffinity(0))


def _cpu(index: int) -> int:
    return _CPUS[index] if len(_CPUS) > 1 else -1


def _pin(index: int) -> None:
    if _cpu(index) >= 0:
        os.sched_setaffinity(0, {_cpu(index)})


def _await(end: socket.socket) -> None:
    if not end.recv(1):
        raise SystemExit


def _port(listener: socket.socket) -> int:
    """The port that a socket is bound to, whatever family its type takes it for."""
    fd = os.dup(listener.fileno())
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd) as plain:
        port = plain.getsockname()[1]
    assert isinstance(port, int)
    return port


def _fork(function: Callable[[], None], keep: list[socket.socket]) -> int:
    """Runs a function in a child process, which has the descriptors of these sockets only."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    signal.alarm(SESSION_LIMIT)
    try:
        start = 3
        for fd in sorted(sock.fileno() for sock in keep):
            os.closerange(start, fd)
            start = fd + 1
        os.closerange(start, os.sysconf("SC_OPEN_MAX"))
        function()
        status = 0
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _mode(fd: int) -> str:
    try:
        sock = smcsock.fromfd(fd, fallback="error")
    except ValueError:
        return "TCP, not an SMC socket"
    with sock:
        return str(sock.smc_info())


def calibrate(runner: Runner, workload: Workload, seconds: float) -> int:
    """How many operations a turn of so many seconds takes, when nothing disturbs it."""
    count = 4
    while True:
        with runner.start(workload, count, 4) as session:
            took = min([session.turn() for _ in range(4)][1:])
            session.finish()
        if took > seconds / 2:
            return max(1, round(count * seconds / took))
        count = max(count * 2, min(round(count * seconds / took), count * 16))


@dataclass
class Rates:
    workload: Workload
    count: int
    """Operations of a turn."""
    by_contender: dict[str, list[float]]
    """A rate for every round."""


Modes = dict[str, dict[str, int]]
"""For every contender how many sessions were in which mode."""


def measure(
    runners: list[Runner],
    baseline: str,
    workloads: list[Workload],
    rounds: int,
    seconds: float,
    progress: Callable[[str], None],
) -> Iterator[tuple[int, list[Rates], Modes]]:
    """Yields the rounds done so far and what they gave, after every session of each workload."""
    modes: Modes = {runner.name: {} for runner in runners}
    rates = []
    # As many operations for everyone, so that the ends of a turn weigh the same.
    (standard,) = (runner for runner in runners if runner.name == baseline)
    for workload in workloads:
        progress(f"how long is a turn of {workload.name}")
        count = calibrate(standard, workload, seconds)
        rates.append(Rates(workload, count, {runner.name: [] for runner in runners}))
    for first in range(0, rounds, SESSION_ROUNDS):
        for row in rates:
            last = min(first + SESSION_ROUNDS, rounds)
            progress(f"rounds {first + 1} to {last} of {rounds}: {row.workload.name}")
            _run_sessions(runners, row, range(first, last), modes)
        yield last, rates, modes


def _run_sessions(runners: list[Runner], row: Rates, rounds: range, modes: Modes) -> None:
    with contextlib.ExitStack() as stack:
        sessions = [
            (
                runner.name,
                stack.enter_context(runner.start(row.workload, row.count, 1 + len(rounds))),
            )
            for runner in _rotated(runners, rounds.start // SESSION_ROUNDS)
        ]
        for _, session in sessions:
            session.turn()  # to warm up
        for number in rounds:
            for name, session in _order(sessions, number):
                rate = row.workload.rate(row.count, session.turn())
                row.by_contender[name].append(rate)
        for name, session in sessions:
            mode = session.finish()
            modes[name][mode] = modes[name].get(mode, 0) + 1


def _order(sessions: list[T], number: int) -> list[T]:
    """Everyone comes first and last, after everyone and before everyone, in turn."""
    order = _rotated(sessions, number // 2)
    return order[::-1] if number % 2 else order


def _rotated(items: list[T], number: int) -> list[T]:
    start = number % len(items)
    return items[start:] + items[:start]
