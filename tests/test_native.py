"""The engine of 'smcsock run' for any program: seccomp user notification.

Most of it needs no SMC: on a host without, the side process opens TCP sockets, which a size
of the send buffer tells from those that the program would have got by itself.
"""

import contextlib
import ctypes
import errno
import os
import pickle
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import VM_MODE, on_host, slow

from smcsock import _native
from smcsock._dropin._selection import Selection
from smcsock._native import _filter, _syscalls
from smcsock._native._architectures import BY_MACHINE, OPENING_BY_SOCKETCALL, Architecture
from smcsock._native._census import Census
from smcsock._native._filter import SocketCall, Watch
from smcsock._native._kind import is_smc, kind_here
from smcsock._native._launch import NativeError, begin
from smcsock._native._plan import Plan

KIND = kind_here() or _native.TCP_SOCKETS
MACHINE = os.uname().machine

not_by_socketcall = pytest.mark.skipif(
    MACHINE in OPENING_BY_SOCKETCALL,
    reason="the C library calls socketcall(2), whose arguments are in memory that is not readable",
)
HERE = BY_MACHINE.get(MACHINE, ())

LIMIT = 120
MARK = 54321
"""Bytes of the send buffer of sockets that the side process opens."""

ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000


def in_child(prepare: Callable[[], object], work: Callable[[], Any]) -> Any:
    """What a function returns in a forked process, after another; raises what it raises."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            try:
                prepare()
                result: tuple[Any, Any] = work(), None
            except BaseException as caught:
                result = None, caught
            with os.fdopen(writer, "wb") as file:
                pickle.dump(result, file)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    assert data, "it ended without a word"
    result, error = pickle.loads(data)
    if error is not None:
        raise error
    return result


def plan(**options: Any) -> Plan:
    return Plan(**{"kind": KIND, "architectures": HERE, "sndbuf": MARK, **options})


def under(work: Callable[[], Any], **options: Any) -> Any:
    """What a function returns in a process whose sockets the side process opens."""

    def prepare() -> None:
        _syscalls.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: the side process is then a child
        begin(plan(**options))

    return in_child(prepare, work)


def is_marked(sock: socket.socket) -> bool:
    """Whether the side process has opened a socket."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * MARK


def opens_marked(*args: int) -> bool:
    with socket.socket(*args) as sock:
        assert is_smc(sock) or VM_MODE is None
        return is_marked(sock)


pytestmark = pytest.mark.skipif(
    VM_MODE == "none" or not HERE, reason="the guest has no SMC, the machine no filter"
)


# ----- the filter, as data


def run_filter(program: bytes, arch: int, number: int, args: tuple[int, ...]) -> int:
    """What the kernel makes of a filter for a system call."""
    data = struct.pack(
        "=iIQ6Q", number - (number >> 31 << 32), arch, 0, *args, *[0] * (6 - len(args))
    )
    code = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        op, ahead, behind, k = code[at]
        at += 1
        if op == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif op == 0x54:
            accumulator &= k
        elif op == 0x15:
            at += ahead if accumulator == k else behind
        else:
            assert op == 0x06
            return int(k)


ARCHITECTURES = [
    each for machine in ("x86_64", "aarch64", "s390x", "ppc64le") for each in BY_MACHINE[machine]
]
TCP4 = (socket.AF_INET, socket.SOCK_STREAM, 0)
WATCH_ALL = Watch.ADDRESSES | Watch.SHARED_PORTS | Watch.ENDS | Watch.CLOSES


@on_host
@pytest.mark.parametrize("on", ARCHITECTURES, ids=lambda on: on.name)
def test_the_filter_tells_of_tcp_sockets_and_what_is_asked_for(on: Architecture) -> None:
    machine = next(all for all in BY_MACHINE.values() if on in all)
    least, most = (_filter.assemble(machine, watch) for watch in (Watch.NOTHING, WATCH_ALL))

    def outcome(program: bytes, number: int, *args: int) -> int:
        return run_filter(program, on.audit, number, args)

    told = [
        TCP4,
        (socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 6),
        (socket.AF_INET, socket.SOCK_STREAM, 262),
        (socket.AF_INET | 1 << 32, socket.SOCK_STREAM, 0),  # the kernel ignores the high half
    ]
    not_told = [
        (socket.AF_UNIX, socket.SOCK_STREAM, 0),
        (socket.AF_INET, socket.SOCK_DGRAM, 0),
        (socket.AF_INET, socket.SOCK_STREAM, 256),
        (socket.AF_INET, socket.SOCK_STREAM, 132),
        (43, socket.SOCK_STREAM, 0),
    ]
    for program in (least, most):
        assert [outcome(program, on.socket, *args) for args in told] == [NOTIFY] * 4
        assert [outcome(program, on.socket, *args) for args in not_told] == [ALLOW] * 5
        assert outcome(program, on.setsockopt, 3, 6, 23) == NOTIFY
        assert outcome(program, on.setsockopt, 3, 6, 1) == ALLOW
        assert outcome(program, on.setsockopt, 3, 1, 23) == ALLOW
        assert outcome(program, on.unshare) == outcome(program, on.setns) == NOTIFY
        assert run_filter(program, 0x1234, on.socket, TCP4) == ALLOW
    watched = [
        (on.connect,),
        (on.listen,),
        (on.exit_group,),
        (on.close,),
        (on.setsockopt, 3, 1, 15),
    ]
    assert {outcome(least, *call) for call in watched} == {ALLOW}
    assert {outcome(most, *call) for call in watched} == {NOTIFY}
    if on.socketcall is not None:
        calls = range(1, 21)
        told_of = [
            [call for call in calls if outcome(program, on.socketcall, call) == NOTIFY]
            for program in (least, most)
        ]
        assert told_of == [
            [SocketCall.SOCKET, SocketCall.SETSOCKOPT],
            [SocketCall.SOCKET, SocketCall.CONNECT, SocketCall.LISTEN, SocketCall.SETSOCKOPT],
        ]


HEADERS = {
    "x86_64": "asm/unistd_64.h",
    "x32": "asm/unistd_x32.h",
    "i386": "asm/unistd_32.h",
    "s390x": "asm/unistd_64.h",
    "s390": "asm/unistd_32.h",
    "ppc64le": "asm/unistd_64.h",
}
GENERIC = BY_MACHINE["riscv64"] + BY_MACHINE["aarch64"][:1]
NUMBERS = [field for field in Architecture.__match_args__ if field not in ("name", "audit")]


@on_host
@pytest.mark.parametrize("on", dict.fromkeys(HERE + GENERIC), ids=lambda on: on.name)
def test_the_numbers_are_those_of_the_kernels_headers(on: Architecture) -> None:
    """Of this machine's; and of the generic ones, which it has too."""
    header = HEADERS.get(on.name, "asm-generic/unistd.h")
    include = Path("/usr/include")
    paths = [include / sysconfig.get_config_var("MULTIARCH") / header, include / header]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        pytest.skip("there are no headers of the kernel here")
    numbers = dict(re.findall(r"^#define __NR_(\w+)\s+(?:\(.* )?(\d+)\)?$", path.read_text(), re.M))
    bit = 0x40000000 if on.name == "x32" else 0
    # Those of older distributions lack some.
    expected = {name: int(numbers[name]) | bit for name in NUMBERS if name in numbers}
    assert {name: getattr(on, name) for name in expected} == expected
    assert "close" in expected


# ----- sockets


@pytest.mark.parametrize(
    "args",
    [
        (socket.AF_INET, socket.SOCK_STREAM, 0),
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP),
        (socket.AF_INET, socket.SOCK_STREAM, 262),
        (socket.AF_INET6, socket.SOCK_STREAM, 0),
    ],
)
def test_a_tcp_socket_comes_from_the_side_process(args: tuple[int, int, int]) -> None:
    assert under(lambda: opens_marked(*args))


def test_other_sockets_are_the_programs_own() -> None:
    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            assert not is_marked(sock)
        for sock in socket.socketpair():
            with sock:
                assert not is_marked(sock)

    under(work)


def test_flags_of_the_descriptor_are_as_asked_for() -> None:
    def raw() -> list[tuple[bool, bool]]:
        # CPython always asks for close-on-exec: libc does not.
        libc = ctypes.CDLL(None, use_errno=True)
        found = []
        for extra in (0, socket.SOCK_NONBLOCK, socket.SOCK_CLOEXEC):
            fd = libc.socket(socket.AF_INET, socket.SOCK_STREAM | extra, 0)
            found.append((not os.get_blocking(fd), not os.get_inheritable(fd)))
        return found

    assert under(raw) == [(False, False), (True, False), (False, True)]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_data_goes_both_ways(host: str) -> None:
    def work() -> bytes:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with (
            socket.create_server((host, 0), family=family) as listener,
            socket.create_connection(listener.getsockname()[:2]) as client,
            listener.accept()[0] as server,
        ):
            client.sendall(b"there")
            server.sendall(server.recv(9) + b" and back")
            return client.recv(99)

    assert under(work) == b"there and back"


@slow
def test_children_and_threads_have_the_same() -> None:
    def work() -> tuple[int, list[int]]:
        marked: list[bool] = []

        def open_many() -> None:
            for _ in range(50):
                marked.append(opens_marked())

        threads = [threading.Thread(target=open_many) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        children = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                os._exit(opens_marked())
            children.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        return sum(marked), children

    assert under(work) == (1000, [1, 1, 1])


# ----- what the program's own errors are


def test_no_descriptor_left_is_the_programs_own_error() -> None:
    def work() -> tuple[int | None, bool]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
        kept = []
        try:
            while True:
                kept.append(socket.socket())
        except OSError as error:
            number = error.errno
        kept.pop().close()
        return number, opens_marked()

    assert under(work) == (errno.EMFILE, True)


def test_fast_open_is_as_if_it_were_done() -> None:
    if KIND is _native.TCP_SOCKETS:
        pytest.skip("no SMC: TCP sockets have it themselves")

    def work() -> tuple[int, bool, bytes]:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
            client.setsockopt(socket.IPPROTO_TCP, 30, 1)
            client.connect(listener.getsockname())
            server, _ = listener.accept()
            with server:
                threading.Timer(0.2, client.sendall, (b"woken",)).start()
                server.settimeout(60)
                return (
                    listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN),
                    is_smc(listener),
                    server.recv(9),
                )

    assert under(work) == (0, True, b"woken")


def test_a_shared_port_is_to_be_had() -> None:
    """Where AF_SMC refuses SO_REUSEPORT it is a TCP socket that has it."""

    def work() -> int:
        with (
            socket.create_server(("127.0.0.1", 0), reuse_port=True) as first,
            socket.create_server(first.getsockname(), reuse_port=True) as second,
        ):
            return second.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)

    assert under(work) == 1


# ----- what the program sees


def test_a_process_that_gets_orphans_does_not_wait_for_the_side_process() -> None:
    def work() -> bool:
        with pytest.raises(ChildProcessError):
            os.wait()
        return opens_marked()

    assert under(work)


def test_the_side_process_is_no_child_of_the_programs() -> None:
    """Strace waits for children of any kind, until there are none."""

    def work() -> bool:
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, 0x40000000)  # __WALL
        return opens_marked()

    assert in_child(lambda: begin(plan()), work)


def side_processes(of: int) -> list[int]:
    """The side process of a process, and its worker."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, _, rest = path.read_text().partition(" (")
            parent = int(rest.rpartition(") ")[2].split()[1])
            if parent == of or parent in found:
                found.append(int(pid))
    return sorted(found)


def is_alive(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@on_host
def test_the_side_process_is_loaded_with_no_more_than_it_needs() -> None:
    """It keeps in memory what was there when the program began, which waits for that, too."""

    def loads(*command: str) -> set[str]:
        command = (sys.executable, "-X", "importtime", *command)
        result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        return {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}

    loaded = loads("-m", "smcsock", "run", "--fallback", "tcp", "/bin/true")
    # That of Python 3.14 loads inspect.
    loaded -= loads("-c", "import argparse; argparse.ArgumentParser().add_argument('-x')")
    assert "smcsock._native._worker" in loaded
    own = {f"smcsock.{name}" for name in ("_socket", "_dropin._install", "_native._census")}
    assert not loaded & {
        "dataclasses",
        "inspect",
        "ipaddress",
        "json",
        "shutil",
        "subprocess",
        *own,
    }


@slow
def test_nothing_is_left_behind() -> None:
    def work() -> list[int]:
        opens_marked()
        return side_processes(os.getpid())

    pids = under(work)
    assert len(pids) == 2
    wait_until(lambda: not any(map(is_alive, pids)))


@slow
def test_who_lives_longer_keeps_the_sockets() -> None:
    reader, writer = os.pipe()

    def leave_a_daemon() -> list[int]:
        opens_marked()
        pids = side_processes(os.getpid())
        main = os.getpid()
        if os.fork() == 0:
            while os.getppid() == main:
                time.sleep(0.01)
            os.write(writer, b"yes" if opens_marked() else b"no")
            os._exit(0)
        return pids

    pids = under(leave_a_daemon)
    assert os.read(reader, 9) == b"yes"
    os.close(reader)
    os.close(writer)
    wait_until(lambda: not any(map(is_alive, pids)))


@slow
def test_no_descriptor_of_the_program_is_held() -> None:
    def files_of(pid: int) -> Iterator[str]:
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # that of the look itself
                yield os.readlink(path)

    def look() -> tuple[list[str], list[str]]:
        opens_marked()
        theirs = [file for pid in side_processes(os.getpid()) for file in files_of(pid)]
        return list(files_of(os.getpid())), theirs

    reader, writer = os.pipe()
    own, theirs = under(look)
    os.close(reader)
    os.close(writer)
    assert any(file.startswith("pipe:") for file in own)
    assert "anon_inode:seccomp notify" in theirs
    assert set(own) & set(theirs) <= {"/dev/null"}


# ----- when things go wrong


@slow
def test_a_killed_worker_is_replaced() -> None:
    def work() -> tuple[int, bool]:
        opens_marked()
        watchdog = side_processes(os.getpid())[0]
        stop = threading.Event()
        opened: list[bool] = []

        def open_many() -> None:
            while not stop.is_set():
                opened.append(opens_marked())

        threads = [threading.Thread(target=open_many) for _ in range(4)]
        for thread in threads:
            thread.start()
        killed: set[int] = set()
        for _ in range(5):
            *_, worker = side_processes(os.getpid())
            if worker not in (watchdog, *killed):
                os.kill(worker, signal.SIGKILL)
                killed.add(worker)
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join()
        return len(killed), opens_marked()

    killed, is_served = under(work)
    assert killed > 1
    assert is_served


def test_a_program_that_is_to_ignore_sigchld() -> None:
    """As some daemons leave it, and trap '' CHLD: fork(2) and wait(2) then tell no status."""
    options = _native.Options(kind=KIND, only=Selection(["*:*"]), sndbuf=MARK)

    def prepare() -> None:
        _syscalls.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: the side process is then a child
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        _native.prepare("/program", options)

    def work() -> bool:
        opens_marked()
        *_, worker = side_processes(os.getpid())
        os.kill(worker, signal.SIGKILL)
        return opens_marked()

    assert in_child(prepare, work)


class Nowhere:
    """A ledger for nobody."""

    def __init__(self) -> None:
        self._file = os.open(os.devnull, os.O_RDWR)

    def census(self, program: int) -> Census:
        return Census(self, program)

    def fileno(self) -> int:
        return self._file

    def keep(self, counts: object) -> None:
        pass

    def publish(self, missed: int) -> None:
        pass


def test_workers_that_cannot_live_leave_the_program_its_own_sockets() -> None:
    class Failing(Nowhere):
        def census(self, program: int) -> Census:
            raise RuntimeError

    def work() -> tuple[bool, list[int]]:
        signal.alarm(LIMIT)
        with socket.socket() as sock:
            return is_marked(sock), side_processes(os.getpid())

    marked, pids = under(work, ledger=Failing())
    assert not marked
    assert pids
    wait_until(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize("is_exact", [False, True])
def test_no_process_to_be_had_is_an_error_that_says_so(is_exact: bool) -> None:
    if os.geteuid() != 0:
        pytest.skip("for root: other users may have any number of processes")

    def prepare() -> None:
        signal.alarm(LIMIT)
        become_nobody()
        resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))  # the second can have none of its own
        begin(plan(ledger=Nowhere(), is_exact=is_exact))

    with pytest.raises(NativeError, match="a limit of processes"):
        in_child(prepare, lambda: None)


def test_only_the_first_process_waits_for_the_report_when_it_ends() -> None:
    """Who waits long is reached by signals, and ends by halves if it has threads."""

    class Slow(Census):
        def ask(self) -> None:
            time.sleep(1)

    class ToMany(Nowhere):
        def census(self, program: int) -> Census:
            return Slow(self, program)

    def work() -> float:
        opens_marked()
        began = time.monotonic()
        for _ in range(20):
            if os.fork() == 0:
                os._exit(0)
        for _ in range(20):
            os.wait()
        return time.monotonic() - began

    assert under(work, ledger=ToMany()) < 15


def test_who_has_the_standard_streams_closed_is_served_after_the_report() -> None:
    # Not a fork of this process: where uvloop is loaded it aborts forks without these streams.
    code = "import test_native; test_native.see_that_it_is_served_without_standard_streams()"
    command = [sys.executable, "-c", code]
    subprocess.run(command, cwd=Path(__file__).parent, check=True, timeout=LIMIT)


def see_that_it_is_served_without_standard_streams() -> None:
    reader, writer = os.pipe()
    ledger = Nowhere()

    def prepare() -> None:
        for fd in range(3):
            os.close(fd)
        begin(plan(ledger=ledger))

    def leave_a_daemon() -> bool:
        main = os.getpid()
        if os.fork() == 0:
            while os.getppid() == main:
                time.sleep(0.01)
            time.sleep(0.5)  # the report is written meanwhile
            with contextlib.suppress(OSError):
                os.write(writer, b"yes" if opens_marked() else b"no")
            os._exit(0)
        return opens_marked()

    assert in_child(prepare, leave_a_daemon)
    os.close(writer)
    assert os.read(reader, 9) == b"yes"
    os.close(reader)
    os.close(ledger.fileno())


def test_a_report_needs_no_more_descriptors_than_there_are() -> None:
    def prepare() -> None:
        _syscalls.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: the side process is then a child
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
        begin(plan(ledger=Nowhere()))

    def work() -> list[bool]:
        kept = [socket.socket() for _ in range(100)]
        marked = [is_marked(sock) for sock in kept]
        for sock in kept:
            sock.close()
        return marked + [opens_marked() for _ in range(400)]

    assert all(in_child(prepare, work))


def test_the_report_of_a_program_that_has_ended_is_written_at_once() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert Census(Nowhere(), pid).is_closed


@slow
def test_a_signal_ends_or_restarts_a_call_as_ever() -> None:
    """A thread that waits for its socket may be interrupted: PEP 475 opens another."""

    def work() -> bool:
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.siginterrupt(signal.SIGALRM, False)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        result = all(opens_marked() for _ in range(200))
        signal.setitimer(signal.ITIMER_REAL, 0)
        return result

    assert under(work)


@slow
def test_processes_killed_while_they_wait_harm_nobody() -> None:
    def work() -> bool:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                while True:
                    socket.socket().close()
            time.sleep(0.005)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        return opens_marked()

    assert under(work)


def test_another_listener_is_an_error_that_says_so() -> None:
    def begin_twice() -> None:
        begin(plan())
        begin(plan())

    with pytest.raises(NativeError, match="already there"):
        in_child(begin_twice, lambda: None)


def forbid(call: int) -> None:
    """A system call fails with EPERM from here on."""
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, call), (0x06, 0, 0, 0x50000 | errno.EPERM)]
    _syscalls.prctl(38, 1)
    program = [struct.pack("=HBBI", *each) for each in [*code, (0x06, 0, 0, ALLOW)]]
    _syscalls.seccomp(1, 0, b"".join(program))


def test_seccomp_forbidden_is_an_error_that_says_so() -> None:
    seccomp = {"x86_64": 317, "aarch64": 277, "s390x": 348, "ppc64le": 358}[MACHINE]

    def prepare() -> None:
        forbid(seccomp)
        begin(plan())

    with pytest.raises(NativeError, match="container's seccomp profile"):
        in_child(prepare, lambda: None)


def select() -> None:
    """Begins as a run with a selection does."""
    _native.prepare("/program", _native.Options(kind=KIND, only=Selection(["192.0.2.1:*"])))


def without_selection() -> None:
    _native.prepare("/program", _native.Options(kind=KIND))


def test_a_selection_is_to_be_had() -> None:
    assert in_child(select, lambda: True)


CALLS_TO_LOOK = {
    "pidfd_getfd": 438,
    "process_vm_readv": {"x86_64": 310, "aarch64": 270, "s390x": 340, "ppc64le": 351}[MACHINE],
}


@pytest.mark.parametrize("call", CALLS_TO_LOOK)
def test_a_selection_where_processes_are_hidden_is_an_error_that_says_so(call: str) -> None:
    """A container's seccomp profile forbids the first (Docker's), or both."""

    def prepare() -> None:
        forbid(CALLS_TO_LOOK[call])
        select()

    with pytest.raises(NativeError, match="container's seccomp profile"):
        in_child(prepare, lambda: None)


@pytest.mark.parametrize("scope", [1, 2])
def test_yama_forbids_a_selection_and_what_opens_by_socketcall(scope: int) -> None:
    setting = Path("/proc/sys/kernel/yama/ptrace_scope")
    if VM_MODE is None or not setting.exists():
        pytest.skip("this is a setting of the machine: for a guest, with Yama")
    before = setting.read_text()

    def as_nobody(prepare: Callable[[], None]) -> None:
        become_nobody()
        prepare()

    setting.write_text(str(scope))
    try:
        with pytest.raises(NativeError, match="ptrace_scope"):
            in_child(partial(as_nobody, select), lambda: None)
        if MACHINE in OPENING_BY_SOCKETCALL:
            with pytest.raises(NativeError, match=r"socketcall.*ptrace_scope"):
                in_child(partial(as_nobody, without_selection), lambda: None)
        else:
            assert in_child(partial(as_nobody, partial(begin, plan())), opens_marked)
        assert in_child(select, lambda: True)  # root
    finally:
        setting.write_text(before)


@pytest.mark.parametrize("call", CALLS_TO_LOOK)
def test_hidden_processes_are_an_error_without_a_selection_only_for_socketcall(call: str) -> None:
    def prepare() -> None:
        forbid(CALLS_TO_LOOK[call])
        without_selection()

    if call == "process_vm_readv" and MACHINE in OPENING_BY_SOCKETCALL:
        with pytest.raises(NativeError, match=r"socketcall.*container's seccomp profile"):
            in_child(prepare, lambda: None)
    else:
        in_child(prepare, lambda: None)


def test_no_proc_is_an_error_that_says_so(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("for root: other users may not change the root directory")

    def prepare() -> None:
        os.chroot(tmp_path)
        _native.prepare("/program", _native.Options(kind=KIND))

    with pytest.raises(NativeError, match="needs /proc"):
        in_child(prepare, lambda: None)


def test_proc_of_another_pid_namespace_is_an_error_that_says_so() -> None:
    """As unshare --pid leaves it: the numbers there are those of other processes."""
    if os.geteuid() != 0:
        pytest.skip("for root: other users may not have a PID namespace")
    libc = ctypes.CDLL(None, use_errno=True)

    def start_first() -> None:
        assert libc.unshare(0x20000000) == 0, os.strerror(ctypes.get_errno())
        prepare = partial(_native.prepare, "/program", _native.Options(kind=KIND))
        in_child(prepare, lambda: None)

    with pytest.raises(NativeError, match="needs /proc of this PID namespace"):
        in_child(start_first, lambda: None)


@slow
def test_another_network_namespace_gets_its_own_sockets() -> None:
    if os.geteuid() != 0:
        pytest.skip("for root: other users may not have a network namespace")
    libc = ctypes.CDLL(None, use_errno=True)

    def work() -> tuple[bool, bool]:
        before = opens_marked()
        assert libc.unshare(0x40000000) == 0, os.strerror(ctypes.get_errno())
        with socket.socket() as sock:
            return before, is_marked(sock)

    assert under(work) == (True, False)


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    _syscalls.prctl(4, 1)  # PR_SET_DUMPABLE, as after an exec


def test_an_unprivileged_user_may() -> None:
    if os.geteuid() != 0:
        pytest.skip("this is for root to try: all other tests are unprivileged")

    def prepare() -> None:
        become_nobody()
        begin(plan())

    def work() -> tuple[bool, str]:
        return opens_marked(), Path("/proc/self/status").read_text()

    is_served, status = in_child(prepare, work)
    assert is_served
    assert "NoNewPrivs:\t1\n" in status


def become_root_of_a_container() -> None:
    """Without CAP_SYS_ADMIN, as Docker has it."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
    sets = ctypes.create_string_buffer(24)
    assert libc.capget(header, sets) == 0, os.strerror(ctypes.get_errno())
    effective, permitted, *rest = struct.unpack("=6I", sets.raw)
    kept = ~(1 << 21)
    sets = ctypes.create_string_buffer(
        struct.pack("=6I", effective & kept, permitted & kept, *rest)
    )
    assert libc.capset(header, sets) == 0, os.strerror(ctypes.get_errno())
    _syscalls.prctl(24, 21)  # PR_CAPBSET_DROP, or an exec would give it back


def stay_root() -> None:
    pass


CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
"""As setcap writes cap_net_raw=ep (struct vfs_cap_data)."""


@pytest.mark.parametrize("who", [become_nobody, become_root_of_a_container, stay_root])
@pytest.mark.parametrize(
    ("mode", "owner", "group", "capability"),
    [
        *[(0o755, 0, 0, b""), (0o4755, 0, 0, b""), (0o4755, 1, 0, b""), (0o4755, 65534, 0, b"")],
        *[(0o2755, 0, 0, b""), (0o2755, 0, 42, b""), (0o2755, 0, 65534, b"")],
        *[(0o6755, 0, 42, b""), (0o755, 0, 0, CAPABILITY)],
    ],
)
def test_what_would_lose_its_privileges_is_an_error_that_says_so(
    who: Callable[[], None], mode: int, owner: int, group: int, capability: bytes, tmp_path: Path
) -> None:
    """The kernel says what it would lose: a program run with no_new_privs and without."""
    if os.geteuid() != 0:
        pytest.skip("for root: other users can give no program away")
    program = tmp_path / "cat"
    shutil.copy("/bin/cat", program)
    os.chown(program, owner, group)
    program.chmod(mode)
    if capability:
        os.setxattr(program, "security.capability", capability)
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)

    def privileges(*, no_new: bool) -> list[str]:
        if no_new:
            _syscalls.prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
        command = [str(program), "/proc/self/status"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return re.findall(r"^(?:Uid|Gid|CapEff):.*", told, re.MULTILINE)

    whole = in_child(who, partial(privileges, no_new=False))
    is_same = who is stay_root or in_child(who, partial(privileges, no_new=True)) == whole

    def prepare() -> None:
        who()
        _native.prepare(str(program), _native.Options(kind=KIND))

    if is_same:
        in_child(prepare, lambda: None)
    else:
        with pytest.raises(NativeError, match="has privileges of its own"):
            in_child(prepare, lambda: None)


@not_by_socketcall
def test_a_process_that_nobody_may_look_into_gets_its_sockets_too() -> None:
    """As one that became another user in a container, where root may not look into all."""
    if os.geteuid() != 0:
        pytest.skip("this is for root to try: all other tests are unprivileged")

    def prepare() -> None:
        become_nobody()
        begin(plan())
        _syscalls.prctl(4, 0)  # PR_SET_DUMPABLE

    assert in_child(prepare, opens_marked)


@on_host
def test_the_unit_of_the_documentation_is_right(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd here to say so")
    text = (Path(__file__).parents[1] / "docs/native.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```ini\n(.*?)^```$", text, re.M | re.S)
    for path in re.findall(r"/(?:usr|opt)/\S+bin/\S+", block):
        block = block.replace(path, "/bin/true")
    (tmp_path / "redis-server.service.d").mkdir()
    (tmp_path / "redis-server.service.d/smc.conf").write_text(block)
    unit = tmp_path / "redis-server.service"
    unit.write_text("[Service]\nType=notify\nExecStart=/bin/false\n")
    env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    command = [analyze, "verify", "--man=no", str(unit)]
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
