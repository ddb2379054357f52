"""What docs/kernel.md says of the kernel is what the kernel does.

Each row of its tables names a function here, which does something with sockets and says
in a few words what came of it. The cells of the table are the outcomes expected: the
document is this test's table of data. The TCP column is held against sockets of the
standard library, everywhere; the others against SMC sockets, each in the guest (tests/vm)
that has the mode.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import platform
import re
import select
import signal
import socket
import ssl
import struct
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from conftest import INET, INET6, SMC, VM_KERNEL, VM_MODE, Presentation
from test_timeouts import wait_until_asleep
from tls import client_context, server_context

import smcsock
from smcsock import AF_SMC, IPPROTO_SMC, SMC_LIMIT_HS, SOL_SMC, Mode

LIMIT = 120
"""Seconds until a row that hangs fails."""

QUIET = 1.5
"""Seconds in which nothing happens that count as its not happening at all."""

SOL, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
ON, OFF = 1, 0
LINGER, TIMEVAL = struct.Struct("ii"), struct.Struct("ll")

# Constants of the kernel that CPython has in later versions only, or not at all.
SO_ATTACH_FILTER, SO_TIMESTAMP, SO_PEEK_OFF, SO_INCOMING_CPU = 26, 29, 42, 49
SO_COOKIE, SO_ZEROCOPY = 57, 60
TCP_REPAIR, TCP_FASTOPEN_CONNECT, TCP_ULP = 19, 30, 31
IP_FREEBIND, IP_MULTICAST_LOOP = 15, 34
IPV6_MTU_DISCOVER, IPV6_FLOWINFO_SEND, IPV6_FREEBIND = 23, 33, 78
MSG_ZEROCOPY, MSG_FASTOPEN = 0x4000000, 0x20000000
SIOCATMARK, SIOCGIFADDR = 0x8905, 0x8915

IN, PRI, OUT = select.EPOLLIN, select.EPOLLPRI, select.EPOLLOUT
ERR, HUP, RDHUP = select.EPOLLERR, select.EPOLLHUP, select.EPOLLRDHUP
EVENT_NAMES = {IN: "IN", PRI: "PRI", OUT: "OUT", ERR: "ERR", HUP: "HUP", RDHUP: "RDHUP"}

# The C library of s390x calls connect(), accept(), recv() ... by it: their arguments are in memory.
SOCKETCALL = 102 if platform.machine() == "s390x" else None

ESTABLISHED, SYN_SENT = "01", "02"  # of /proc/net/tcp

TLS_READ = ssl.SSLSocket.read
"""The standard library's own: install(), which other tests call, leaves another one there."""

Pair = tuple[socket.socket, socket.socket]


class Lab:
    """Sockets of one kind, TCP or SMC, all closed with the stack."""

    def __init__(
        self, presentation: Presentation, is_smc: bool, stack: contextlib.ExitStack
    ) -> None:
        self.presentation = presentation
        self.is_smc = is_smc
        self.stack = stack
        self.inet = presentation.inet
        self.host = presentation.host

    def open(self) -> socket.socket:
        sock = self.presentation.open() if self.is_smc else self.presentation.tcp_socket()
        return self.stack.enter_context(sock)

    def bound(self) -> socket.socket:
        sock = self.open()
        sock.bind((self.host, 0))
        return sock

    def listener(self, backlog: int = 16) -> socket.socket:
        sock = self.bound()
        sock.listen(backlog)
        return sock

    def accept(self, listener: socket.socket) -> socket.socket:
        return self.stack.enter_context(listener.accept()[0])

    def connect(self, client: socket.socket, listener: socket.socket) -> Pair:
        client.connect(listener.getsockname())
        return client, self.accept(listener)

    def pair(self) -> Pair:
        """A client and the accepted socket of its connection."""
        return self.connect(self.open(), self.listener())

    def full_listener(self) -> socket.socket:
        """One whose backlog is taken, so that it answers no more."""
        listener = self.listener(backlog=0)
        self.open().connect(listener.getsockname())
        await_events(listener, IN)
        return listener

    @property
    def state_at_full_listener(self) -> str:
        """That of a connection to it: a full SMC listener answers all but the last step."""
        return ESTABLISHED if self.is_smc else SYN_SENT

    def tcp(self) -> "Lab":
        return Lab(self.presentation, False, self.stack)

    def black_hole(self) -> Any:
        """An address that nobody answers at: a TCP listener's whose backlog is taken."""
        return self.tcp().full_listener().getsockname()


Row = Callable[[Lab], str]
PairRow = Callable[[socket.socket, socket.socket], str]
ROWS: dict[str, Row] = {}


def row(function: Row) -> Row:
    ROWS[function.__name__] = function
    return function


def pair_row(function: PairRow) -> PairRow:
    """For a row that needs a client and the accepted socket of its connection."""
    ROWS[function.__name__] = lambda lab: function(*lab.pair())
    return function


# ----- words for what came of it


def error_name(number: int) -> str:
    if number == errno.EOPNOTSUPP:
        return "EOPNOTSUPP"  # ENOTSUP is the same number, and what errno.errorcode has
    return errno.errorcode.get(number, str(number))


def attempt(call: Callable[..., Any], *args: Any) -> str:
    """What came of a call: its value, "ok" for None, or the name of the errno."""
    try:
        value = call(*args)
    except OSError as error:
        return str(error) if error.errno is None else error_name(error.errno)
    return "ok" if value is None else repr(value)


def steps(*outcomes: object) -> str:
    return "; ".join(outcome if isinstance(outcome, str) else repr(outcome) for outcome in outcomes)


def event_names(mask: int) -> str:
    return " ".join(name for bit, name in EVENT_NAMES.items() if mask & bit) or "none"


def yes(condition: object) -> str:
    return "yes" if condition else "no"


def carrier(sock: socket.socket) -> str:
    """What a connection runs on, and the reason for TCP."""
    if not isinstance(sock, smcsock.socket):
        return "TCP"
    try:
        info = sock.smc_info()
    except smcsock.DiagUnavailableError:
        return "TCP, smc_info() fails"
    return f"{info.mode} {info.reason.code:#010x}" if info.reason else str(info.mode)


# ----- waiting


def events(sock: socket.socket) -> int:
    with select.epoll() as poller:
        poller.register(sock, IN | PRI | OUT | RDHUP)
        ready = poller.poll(0)
    return ready[0][1] if ready else 0


def await_events(sock: socket.socket, mask: int, timeout: float = LIMIT) -> int:
    """The events on a socket, once one of mask is among them or the time is over."""
    with select.epoll() as poller:
        poller.register(sock, mask)
        poller.poll(timeout)
    return events(sock)


def await_true(condition: Callable[[], bool], timeout: float = LIMIT) -> None:
    """For what the kernel sends no event of."""
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def await_arrival(sock: socket.socket, size: int) -> None:
    """Until so many bytes can be read, without reading them."""
    await_true(lambda: queued(sock) >= size)


def queued(sock: socket.socket, request: int = termios.FIONREAD) -> int:
    (value,) = struct.unpack("i", fcntl.ioctl(sock, request, bytes(4)))
    assert isinstance(value, int)
    return value


def await_blocked(sock: socket.socket) -> None:
    """Until a thread other than this one sleeps in a system call on the socket."""
    own = threading.get_native_id()

    def is_blocked() -> bool:
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):
                if int(task.name) != own and sock.fileno() in call_arguments(task):
                    return True
        return False

    await_true(is_blocked)


def call_arguments(task: Path) -> list[int]:
    """The arguments of the system call that a thread of this process sleeps in, if it does."""
    number, *arguments = (task / "syscall").read_text().split()
    if number in ("running", "-1"):
        return []
    values = [int(argument, 16) for argument in arguments[:6]]
    if int(number) != SOCKETCALL:
        return values
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        memory.seek(values[1])
        return list(struct.unpack("@l", memory.read(struct.calcsize("@l"))))


@contextlib.contextmanager
def in_thread(function: Callable[..., Any], *args: Any) -> Iterator[Future[Any]]:
    """Runs a function in a thread, which has ended when the context is left."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield future
    future.exception(LIMIT)
    thread.join(LIMIT)


def is_over(future: Future[Any]) -> bool:
    with contextlib.suppress(TimeoutError):
        future.exception(QUIET)
        return True
    return False


@contextlib.contextmanager
def signals(number: int) -> Iterator[list[int]]:
    """Records the signals of a number."""
    seen: list[int] = []
    before = signal.signal(number, lambda received, _: seen.append(received))
    try:
        yield seen
    finally:
        signal.signal(number, before)


def in_child(function: Callable[[], str]) -> str:
    """What a function returns in a child process, which ends without any clean-up."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            os.write(writer, function().encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        result = stream.read().decode()
    os.waitpid(pid, 0)
    return result


# ----- doing


def fill(sock: socket.socket) -> int:
    """Sends until the kernel takes no more; the bytes that it took. Leaves it non-blocking.

    SMC-R moves what was sent to the peer's buffer in the background, which makes room.
    """
    sock.setblocking(False)
    taken = 0
    while await_events(sock, OUT, 0.5) & OUT:
        with contextlib.suppress(BlockingIOError):
            while True:
                taken += sock.send(bytes(1 << 16))
    return taken


def read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    while chunk := sock.recv(4096):
        data += chunk
    return bytes(data)


def send_watched(sock: socket.socket) -> str:
    with signals(signal.SIGPIPE) as seen:
        outcome = attempt(sock.send, b"x")
        return f"{outcome} and SIGPIPE" if seen else outcome


def set_linger(sock: socket.socket, seconds: int) -> None:
    sock.setsockopt(SOL, socket.SO_LINGER, LINGER.pack(ON, seconds))


def set_send_timeout(sock: socket.socket, seconds: float) -> None:
    whole, part = divmod(seconds, 1)
    sock.setsockopt(SOL, socket.SO_SNDTIMEO, TIMEVAL.pack(int(whole), int(part * 1e6)))


def raw_call(name: str, sock: socket.socket, address: bytes) -> str:
    """bind(2) or connect(2) with an address that Python would not build."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(sock.fileno(), address, len(address)) < 0:
        return error_name(ctypes.get_errno())
    return "ok"


def tcp_table(inet: int) -> list[list[str]]:
    """/proc/net/tcp: 1 and 2 are the addresses, 3 the state, 4 the queues, 9 the inode."""
    path = Path("/proc/net/tcp6" if inet == socket.AF_INET6 else "/proc/net/tcp")
    return [line.split() for line in path.read_text().splitlines()[1:]]


def tcp_connections(inet: int, local_port: int, remote_port: int) -> list[list[str]]:
    local, remote = f":{local_port:04X}", f":{remote_port:04X}"
    return [
        fields
        for fields in tcp_table(inet)
        if fields[1].endswith(local) and fields[2].endswith(remote)
    ]


def require_root() -> None:
    if os.geteuid():
        pytest.skip("needs root")


# ----- binding and listening


@row
def bind_port_of_tcp(lab: Lab) -> str:
    return attempt(lab.open().bind, lab.tcp().listener().getsockname())


@row
def bind_foreign_address(lab: Lab) -> str:
    sock = lab.open()
    if lab.inet == socket.AF_INET6:
        host, option = "2001:db8::1", (socket.IPPROTO_IPV6, IPV6_FREEBIND)
    else:
        host, option = "192.0.2.1", (socket.IPPROTO_IP, IP_FREEBIND)
    refused = attempt(sock.bind, (host, 0))
    sock.setsockopt(*option, ON)
    return steps(refused, attempt(sock.bind, (host, 0)))


@row
def bind_privileged_port(lab: Lab) -> str:
    require_root()
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) < 2:
        pytest.skip("port 1 is not privileged here")
    sock = lab.open()

    def bind_as_nobody() -> str:
        os.setresuid(65534, 65534, 65534)
        return attempt(sock.bind, (lab.host, 1))

    return in_child(bind_as_nobody)


@row
def bind_other_family(lab: Lab) -> str:
    if lab.inet == socket.AF_INET6:
        pytest.skip("the socket is to be an IPv4 one")
    return raw_call("bind", lab.open(), struct.pack("=H26x", socket.AF_INET6))


@row
def bind_to_device(lab: Lab) -> str:
    require_root()
    client = lab.open()
    client.setsockopt(SOL, socket.SO_BINDTODEVICE, b"lo\0")
    client, server = lab.connect(client, lab.listener())
    client.send(b"x")
    name = client.getsockopt(SOL, socket.SO_BINDTODEVICE, 16)
    return steps(name.rstrip(b"\0").decode(), server.recv(1))


@row
def bind_after_close(lab: Lab) -> str:
    listener, again, reusing = lab.open(), lab.open(), lab.open()
    for sock in (listener, reusing):
        sock.setsockopt(SOL, socket.SO_REUSEADDR, ON)
    listener.bind((lab.host, 0))
    listener.listen()
    address = listener.getsockname()
    client, server = lab.connect(lab.open(), listener)
    server.close()
    client.recv(1)
    client.close()
    listener.close()
    return steps(attempt(again.bind, address), attempt(reusing.bind, address))


@row
def reuse_port(lab: Lab) -> str:
    listeners = [lab.open(), lab.open()]
    address: Any = (lab.host, 0)
    for listener in listeners:
        if (outcome := attempt(listener.setsockopt, SOL, socket.SO_REUSEPORT, ON)) != "ok":
            return outcome
        listener.bind(address)
        listener.listen(64)
        address = listener.getsockname()
    for _ in range(32):
        lab.open().connect(address)
    return "both accept" if all(events(listener) & IN for listener in listeners) else "one accepts"


@row
def listen_unbound(lab: Lab) -> str:
    sock = lab.open()
    return steps(attempt(sock.listen), "a port" if sock.getsockname()[1] else "none")


@row
def listen_twice(lab: Lab) -> str:
    return attempt(lab.listener().listen, 1)


@row
def listen_backlog_zero(lab: Lab) -> str:
    client, server = lab.connect(lab.open(), lab.listener(backlog=0))
    client.send(b"x")
    return repr(server.recv(1))


@row
def dual_stack(lab: Lab) -> str:
    if lab.inet == socket.AF_INET6:
        pytest.skip("the client is to be an IPv4 one")
    listener = Lab(INET6, lab.is_smc, lab.stack).open()
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, OFF)
    listener.bind(("::", 0))
    listener.listen()
    client = lab.open()
    client.connect((lab.host, listener.getsockname()[1]))
    server, peer = listener.accept()
    lab.stack.enter_context(server)
    return steps(peer[0], carrier(client).split()[0])


@row
def accept_timeout(lab: Lab) -> str:
    listener = lab.listener()
    listener.setsockopt(SOL, socket.SO_RCVTIMEO, TIMEVAL.pack(1, 0))
    return attempt(listener.accept)


@row
def accept_after_peer_has_gone(lab: Lab) -> str:
    listener, client = lab.listener(), lab.open()
    client.connect(listener.getsockname())
    address = client.getsockname()
    client.send(b"x")
    await_events(listener, IN)  # before that the connection may be lost with the client
    client.close()
    server, peer = listener.accept()
    lab.stack.enter_context(server)
    return steps(server.recv(9), server.recv(9), yes(peer == address))


@row
def accept_after_peer_reset(lab: Lab) -> str:
    listener, client = lab.listener(), lab.open()
    client.connect(listener.getsockname())
    await_events(listener, IN)
    set_linger(client, 0)
    client.close()
    return attempt(lab.accept(listener).recv, 9)


@row
def defer_accept(lab: Lab) -> str:
    listener = lab.bound()
    listener.setsockopt(TCP, socket.TCP_DEFER_ACCEPT, 30)
    listener.listen()
    lab.open().connect(listener.getsockname())
    return event_names(await_events(listener, IN, QUIET))


@row
def shutdown_listener(lab: Lab) -> str:
    listener = lab.listener()

    def accept() -> None:
        listener.accept()[0].close()

    with in_thread(attempt, accept) as accepted:
        await_blocked(listener)
        shut = attempt(listener.shutdown, socket.SHUT_RDWR)
        if is_over(accepted):
            return steps(shut, accepted.result())
        lab.open().connect(listener.getsockname())
        accepted.result(LIMIT)
        return steps(shut, "not woken")


INHERITED: list[tuple[int, str, Any]] = [
    (SOL, "SO_KEEPALIVE", ON),
    (SOL, "SO_OOBINLINE", ON),
    (SOL, "SO_RCVLOWAT", 2),
    (SOL, "SO_RCVTIMEO", TIMEVAL.pack(3, 0)),
    (SOL, "SO_SNDTIMEO", TIMEVAL.pack(3, 0)),
    (TCP, "TCP_NODELAY", ON),
    (TCP, "TCP_KEEPIDLE", 77),
    (TCP, "TCP_USER_TIMEOUT", 7000),
]


def set_options(sock: socket.socket, options: list[tuple[int, str, Any]]) -> None:
    for level, name, value in options:
        sock.setsockopt(level, getattr(socket, name), value)


def lost(sock: socket.socket, options: list[tuple[int, str, Any]]) -> str:
    """The names of those that have not the value that was set."""
    names = []
    for level, name, value in options:
        size = (len(value),) if isinstance(value, bytes) else ()
        if sock.getsockopt(level, getattr(socket, name), *size) != value:
            names.append(name)
    return "all but " + ", ".join(names) if names else "all"


@row
def options_inherited(lab: Lab) -> str:
    listener = lab.bound()
    set_options(listener, INHERITED)
    listener.listen()
    return lost(lab.connect(lab.open(), listener)[1], INHERITED)


@row
def options_set_on_listener_inherited(lab: Lab) -> str:
    listener = lab.listener()
    set_options(listener, INHERITED)
    return lost(lab.connect(lab.open(), listener)[1], INHERITED)


@row
def linger_inherited(lab: Lab) -> str:
    listener = lab.bound()
    set_linger(listener, 60)
    listener.listen()
    _, server = lab.connect(lab.open(), listener)
    on, seconds = LINGER.unpack(server.getsockopt(SOL, socket.SO_LINGER, LINGER.size))
    return f"{'on' if on else 'off'}, {seconds} s"


# ----- connecting


@row
def connect_again_after_refusal(lab: Lab) -> str:
    listener, client = lab.bound(), lab.open()
    first = attempt(client.connect, listener.getsockname())
    listener.listen()
    return steps(first, attempt(client.connect, listener.getsockname()))


@row
def connect_again_after_refusal_with_timeout(lab: Lab) -> str:
    listener, client = lab.bound(), lab.open()
    client.settimeout(LIMIT)
    first = attempt(client.connect, listener.getsockname())
    listener.listen()
    return steps(first, *(attempt(client.connect, listener.getsockname()) for _ in range(2)))


def failed_connect(client: socket.socket, address: Any) -> str:
    """What a non-blocking connect leaves when it has failed."""
    client.setblocking(False)
    client.connect_ex(address)
    found = event_names(await_events(client, OUT | HUP))
    # As the kernel has it: smcsock.socket.getsockopt() makes good what it forgets.
    code = socket.socket.getsockopt(client, SOL, socket.SO_ERROR)
    return steps(found, error_name(code), attempt(client.getpeername))


@row
def events_refused(lab: Lab) -> str:
    return failed_connect(lab.open(), lab.bound().getsockname())


@row
def events_unanswered(lab: Lab) -> str:
    client = lab.open()
    client.setsockopt(TCP, socket.TCP_SYNCNT, 1)
    return failed_connect(client, lab.black_hole())


@row
def connect_unanswered_with_timeout(lab: Lab) -> str:
    client = lab.open()
    client.settimeout(LIMIT)
    client.setsockopt(TCP, socket.TCP_SYNCNT, 1)
    return attempt(client.connect, lab.black_hole())


def connect_unreachable_by(lab: Lab, client: socket.socket) -> str:
    """Connects to a black hole and answers the SYN with ICMP "host unreachable".

    Not the first SYN: an error that finds the socket locked, by the very call that sent
    the SYN, is put off.
    """
    require_root()
    address = lab.black_hole()
    client.bind((lab.host, 0))
    is_v6 = lab.inet == socket.AF_INET6
    ports = struct.pack("!HH", client.getsockname()[1], address[1])
    icmp = socket.IPPROTO_ICMPV6 if is_v6 else socket.IPPROTO_ICMP
    with (
        socket.socket(lab.inet, socket.SOCK_RAW, TCP) as tap,
        socket.socket(lab.inet, socket.SOCK_RAW, icmp) as messenger,
        in_thread(attempt, client.connect, address) as outcome,
    ):
        offset = 0 if is_v6 else 20  # raw IPv6 sockets leave out the IP header
        syns = 0
        while syns < 2:
            packet = tap.recv(9999)
            syns += packet[offset : offset + 4] == ports
        if is_v6:
            hosts = socket.inet_pton(socket.AF_INET6, lab.host) * 2
            packet = struct.pack("!IHBB", 6 << 28, len(packet), TCP, 64) + hosts + packet
            message = struct.pack("!BBHI", 1, 3, 0, 0) + packet
        else:
            message = struct.pack("!BBHI", 3, 1, 0, 0) + packet[:28]
            message = message[:2] + checksum(message) + message[4:]
        messenger.sendto(message, (lab.host, 0))
        return str(outcome.result(LIMIT))


def connect_unreachable_within_timeout(lab: Lab, open_: Callable[[], socket.socket]) -> str:
    for _ in range(5):
        with open_() as client:
            client.settimeout(LIMIT)
            outcome = connect_unreachable_by(lab, client)
        # Rarely TCP says so too: POLLERR of the error queue, just before there is an error.
        if lab.is_smc or outcome != "ok":
            break
    return outcome


def checksum(message: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(message) // 2}H", message))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)


@row
def connect_unreachable(lab: Lab) -> str:
    return connect_unreachable_by(lab, lab.open())


@row
def connect_unreachable_with_timeout(lab: Lab) -> str:
    return connect_unreachable_within_timeout(lab, lab.open)


@row
def connect_unreachable_ipproto_smc(lab: Lab) -> str:
    def open_with_stdlib() -> socket.socket:
        return socket.socket(lab.inet, socket.SOCK_STREAM, IPPROTO_SMC if lab.is_smc else TCP)

    try:
        return connect_unreachable_within_timeout(lab, open_with_stdlib)
    except OSError as error:
        return error_name(error.errno or 0)


@row
def connect_send_timeout(lab: Lab) -> str:
    client = lab.open()
    set_send_timeout(client, 1)
    return attempt(client.connect, lab.black_hole())


@row
def connect_again_after_send_timeout(lab: Lab) -> str:
    client, listener = lab.open(), lab.tcp().full_listener()
    # Not a second, when TCP asks once more: connected before connect is called again, it
    # would be another row.
    set_send_timeout(client, 0.7)
    attempt(client.connect, listener.getsockname())
    lab.accept(listener)
    set_send_timeout(client, LIMIT)
    again = attempt(client.connect, listener.getsockname())
    lab.accept(listener).send(b"x")
    return steps(again, attempt(client.recv, 1))


@row
def connect_full_backlog(lab: Lab) -> str:
    client = lab.open()
    client.settimeout(8)
    return attempt(client.connect, lab.full_listener().getsockname())


def connect_interrupted(client: socket.socket, listener: socket.socket, state: str) -> str:
    """Connects, with a signal when what was sent in a TCP state waits for an answer.

    After that the listener has room again.
    """
    handled = threading.Event()
    address = listener.getsockname()
    client.bind((address[0], 0))
    local_port = client.getsockname()[1]
    inet = socket.AF_INET6 if ":" in address[0] else socket.AF_INET

    def is_waiting() -> bool:
        found = tcp_connections(inet, local_port, address[1])
        return any(fields[3] == state and int(fields[4][:8], 16) for fields in found)

    def interrupt() -> None:
        await_true(is_waiting)
        # Between connect and poll it would not be noticed until poll ends.
        wait_until_asleep(threading.main_thread())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        handled.wait(LIMIT)
        listener.accept()[0].close()

    before = signal.signal(signal.SIGUSR1, lambda *_: handled.set())
    try:
        with in_thread(interrupt) as interrupted:
            outcome = attempt(client.connect, address)
        interrupted.result(LIMIT)
    finally:
        signal.signal(signal.SIGUSR1, before)
    return outcome if outcome == "ok" else steps(outcome, attempt(client.connect, address))


@row
def connect_signal_before_answer(lab: Lab) -> str:
    return connect_interrupted(lab.open(), lab.tcp().full_listener(), SYN_SENT)


@row
def connect_signal_in_handshake(lab: Lab) -> str:
    return connect_interrupted(lab.open(), lab.full_listener(), lab.state_at_full_listener)


@row
def connect_signal_in_handshake_with_timeout(lab: Lab) -> str:
    client = lab.open()
    client.settimeout(LIMIT)
    return connect_interrupted(client, lab.full_listener(), lab.state_at_full_listener)


@row
def connect_to_itself(lab: Lab) -> str:
    client = lab.bound()
    return attempt(client.connect, client.getsockname())


@row
def connect_listener(lab: Lab) -> str:
    listener = lab.listener()
    refused = attempt(listener.connect, lab.listener().getsockname())
    again = attempt(listener.listen)
    client, server = lab.connect(lab.open(), listener)
    client.send(b"x")
    return steps(refused, again, server.recv(1))


@pair_row
def disconnect(client: socket.socket, _: socket.socket) -> str:
    return raw_call("connect", client, bytes(16))


@row
def socketpair(lab: Lab) -> str:
    return attempt(socket.socketpair, AF_SMC if lab.is_smc else lab.inet, socket.SOCK_STREAM)


# ----- options


@row
def fastopen_listener(lab: Lab) -> str:
    listener = lab.bound()
    listener.setsockopt(TCP, socket.TCP_FASTOPEN, 5)
    listener.listen()
    client, server = lab.connect(lab.open(), listener)
    return steps(carrier(client), carrier(server), woken(client, server))


@row
def fastopen_listener_without_smcsock(lab: Lab) -> str:
    sock = lab.open()
    # The kernel's socket, in hands that know nothing of SMC.
    listener = lab.stack.enter_context(socket.socket(lab.inet, fileno=sock.detach()))
    listener.bind((lab.host, 0))
    if lab.inet == socket.AF_INET:
        listener.setsockopt(TCP, socket.TCP_FASTOPEN, 5)
    else:
        listener.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, OFF)
    listener.listen()
    return woken(*lab.connect(lab.open(), listener))


def woken(sender: socket.socket, reader: socket.socket) -> str:
    """Whether who waits for data is told that there is some."""
    with select.epoll() as poller:
        poller.register(reader, IN)
        sender.send(b"x")
        return "woken" if poller.poll(QUIET) else "not woken"


@row
def syn_cookies(lab: Lab) -> str:
    require_root()
    setting = Path("/proc/sys/net/ipv4/tcp_syncookies")
    lab.stack.callback(setting.write_text, setting.read_text())
    setting.write_text("2")
    client, server = lab.pair()
    return steps(carrier(client), carrier(server))


@row
def connect_mapped_address(lab: Lab) -> str:
    if lab.inet == socket.AF_INET6:
        pytest.skip("the listener is to be an IPv4 one")
    client, listener = Lab(INET6, lab.is_smc, lab.stack).open(), lab.listener()
    client.connect(("::ffff:" + lab.host, listener.getsockname()[1]))
    return steps(carrier(client), carrier(lab.accept(listener)))


@row
def fastopen_connect(lab: Lab) -> str:
    client, listener = lab.open(), lab.listener()
    client.setsockopt(TCP, TCP_FASTOPEN_CONNECT, ON)
    client.connect(listener.getsockname())
    client.send(b"x")
    server = lab.accept(listener)
    return steps(server.recv(1), carrier(client), carrier(server))


@row
def fastopen_send(lab: Lab) -> str:
    client, listener = lab.open(), lab.listener()
    client.sendto(b"x", MSG_FASTOPEN, listener.getsockname())
    server = lab.accept(listener)
    return steps(server.recv(1), carrier(client), carrier(server))


@row
def unrelated_options(lab: Lab) -> str:
    if lab.inet == socket.AF_INET6:
        level, options = socket.IPPROTO_IPV6, [IPV6_MTU_DISCOVER, IPV6_FLOWINFO_SEND]
    else:
        level, options = socket.IPPROTO_IP, [IP_MULTICAST_LOOP]
    outcomes = set()
    for option in options:
        client = lab.open()
        client.setsockopt(level, option, OFF)
        lab.connect(client, lab.listener())
        late = attempt(lab.pair()[0].setsockopt, level, option, OFF)
        outcomes.add(steps(carrier(client), late))
    return " or ".join(sorted(outcomes))


def before_and_after_connect(lab: Lab, level: int, option: int, value: Any) -> str:
    fresh, (client, _) = lab.open(), lab.pair()
    return steps(*(attempt(sock.setsockopt, level, option, value) for sock in (fresh, client)))


@row
def ulp(lab: Lab) -> str:
    return before_and_after_connect(lab, TCP, TCP_ULP, b"no-such-ulp")


@row
def zerocopy(lab: Lab) -> str:
    return before_and_after_connect(lab, SOL, SO_ZEROCOPY, ON)


@row
def peek_offset(lab: Lab) -> str:
    return before_and_after_connect(lab, SOL, SO_PEEK_OFF, OFF)


@row
def repair(lab: Lab) -> str:
    require_root()
    sock = lab.open()
    return steps(*(attempt(sock.setsockopt, TCP, TCP_REPAIR, value) for value in (ON, OFF)))


@row
def limit_handshake(lab: Lab) -> str:
    sock = lab.open()
    before = sock.getsockopt(SOL_SMC, SMC_LIMIT_HS)
    sock.setsockopt(SOL_SMC, SMC_LIMIT_HS, ON)
    return steps(before, sock.getsockopt(SOL_SMC, SMC_LIMIT_HS))


KEPT: list[tuple[int, str, Any]] = [
    *INHERITED,
    (SOL, "SO_PRIORITY", 3),
    (TCP, "TCP_CORK", ON),
    (TCP, "TCP_KEEPINTVL", 7),
    (TCP, "TCP_KEEPCNT", 3),
    (TCP, "TCP_LINGER2", 7),
    (TCP, "TCP_SYNCNT", 3),
    (TCP, "TCP_NOTSENT_LOWAT", 4096),
    (TCP, "TCP_CONGESTION", b"reno".ljust(16, b"\0")),
]


@row
def options_kept(lab: Lab) -> str:
    client, _ = lab.pair()
    set_options(client, [*KEPT, (TCP, "TCP_QUICKACK", OFF)])
    return lost(client, [*KEPT, (TCP, "TCP_QUICKACK", OFF)])


@row
def options_kept_by_connect(lab: Lab) -> str:
    client = lab.open()
    set_options(client, KEPT)
    client.connect(lab.listener().getsockname())
    return lost(client, KEPT)


@row
def traffic_class_kept_by_connect(lab: Lab) -> str:
    if lab.inet == socket.AF_INET6:
        options: list[tuple[int, str, Any]] = [(socket.IPPROTO_IPV6, "IPV6_TCLASS", 0x10)]
    else:
        options = [(socket.IPPROTO_IP, "IP_TOS", 0x10)]
    client = lab.open()
    set_options(client, options)
    client.connect(lab.listener().getsockname())
    return lost(client, options)


@row
def mark_kept_by_connect(lab: Lab) -> str:
    require_root()
    client = lab.open()
    set_options(client, [(SOL, "SO_MARK", 7)])
    client.connect(lab.listener().getsockname())
    return lost(client, [(SOL, "SO_MARK", 7)])


@row
def segment_size(lab: Lab) -> str:
    client = lab.open()
    client.setsockopt(TCP, socket.TCP_MAXSEG, 1000)
    client.connect(lab.listener().getsockname())
    return "at most 1000" if client.getsockopt(TCP, socket.TCP_MAXSEG) <= 1000 else "more"


@pair_row
def tcp_info(client: socket.socket, server: socket.socket) -> str:
    client.send(bytes(5000))
    await_arrival(server, 5000)
    info = server.getsockopt(TCP, socket.TCP_INFO, 136)
    (received,) = struct.unpack_from("Q", info, 128)
    state = "established" if info[0] == 1 else "not established"
    return steps(state, "counted" if received >= 5000 else "not counted")


def identity(sock: socket.socket) -> str:
    family = sock.getsockopt(SOL, socket.SO_DOMAIN)
    proto = sock.getsockopt(SOL, socket.SO_PROTOCOL)
    return steps(
        "SOCK_STREAM" if sock.getsockopt(SOL, socket.SO_TYPE) == socket.SOCK_STREAM else "other",
        {socket.AF_INET: "inet", socket.AF_INET6: "inet", AF_SMC: "AF_SMC"}[family],
        {TCP: "IPPROTO_TCP", 0: "SMCPROTO", 1: "SMCPROTO"}[proto],
    )


@row
def identity_unconnected(lab: Lab) -> str:
    return identity(lab.open())


@pair_row
def identity_connected(client: socket.socket, _: socket.socket) -> str:
    return identity(client)


@row
def cookie_changes(lab: Lab) -> str:
    client = lab.open()
    before = client.getsockopt(SOL, SO_COOKIE, 8)
    client.connect(lab.listener().getsockname())
    return yes(before != client.getsockopt(SOL, SO_COOKIE, 8))


@row
def accepting(lab: Lab) -> str:
    return steps(
        *(sock.getsockopt(SOL, socket.SO_ACCEPTCONN) for sock in (lab.listener(), lab.open()))
    )


@pair_row
def peer_credentials(client: socket.socket, _: socket.socket) -> str:
    return steps(*struct.unpack("3i", client.getsockopt(SOL, socket.SO_PEERCRED, 12)))


@pair_row
def incoming_cpu(client: socket.socket, server: socket.socket) -> str:
    client.send(b"x")
    server.recv(1)
    return "-1" if server.getsockopt(SOL, SO_INCOMING_CPU) == -1 else "a CPU"


@pair_row
def socket_filter(client: socket.socket, server: socket.socket) -> str:
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(drop_all))
    server.setsockopt(SOL, SO_ATTACH_FILTER, program)
    client.send(b"x")
    return "arrives" if await_events(server, IN, QUIET) & IN else "dropped"


@row
def interface_address(lab: Lab) -> str:
    if lab.inet == socket.AF_INET6:
        pytest.skip("an ioctl of IPv4")

    def get() -> None:
        fcntl.ioctl(lab.open(), SIOCGIFADDR, b"lo".ljust(40, b"\0"))

    return attempt(get)


@row
def listed_in_proc(lab: Lab) -> str:
    client, server = lab.pair()
    found = tcp_connections(lab.inet, client.getsockname()[1], server.getsockname()[1])
    if not found:
        return "no"
    inode = os.fstat(client.fileno()).st_ino
    return "yes" if int(found[0][9]) == inode else "yes, with another inode"


# ----- buffers


def buffer_sizes(sock: socket.socket) -> str:
    """Those of sending and of receiving."""
    assert isinstance(sock, smcsock.socket)
    connection = sock.smc_info().connection
    assert connection
    return f"{connection.sndbuf_size}, {connection.rmbe_size}"


def set_buffers(sock: socket.socket, sending: int, receiving: int) -> None:
    sock.setsockopt(SOL, socket.SO_SNDBUF, sending)
    sock.setsockopt(SOL, socket.SO_RCVBUF, receiving)


@pair_row
def buffers_default(client: socket.socket, _: socket.socket) -> str:
    return buffer_sizes(client)


@row
def buffers_set_before_connect(lab: Lab) -> str:
    outcomes = []
    for sizes in ((100_000, 200_000), (4096, 4096)):
        client = lab.open()
        set_buffers(client, *sizes)
        client.connect(lab.listener().getsockname())
        outcomes.append(buffer_sizes(client))
    return steps(*outcomes)


@pair_row
def buffers_set_after_connect(client: socket.socket, _: socket.socket) -> str:
    set_buffers(client, 200_000, 200_000)
    return buffer_sizes(client)


@row
def buffers_of_listener(lab: Lab) -> str:
    listener = lab.bound()
    set_buffers(listener, 200_000, 200_000)
    listener.listen()
    return buffer_sizes(lab.connect(lab.open(), listener)[1])


@row
def buffer_option(lab: Lab) -> str:
    client = lab.open()
    client.setsockopt(SOL, socket.SO_RCVBUF, 100_000)
    before = client.getsockopt(SOL, socket.SO_RCVBUF)
    client.connect(lab.listener().getsockname())
    return steps(before, client.getsockopt(SOL, socket.SO_RCVBUF))


@pair_row
def capacity(client: socket.socket, _: socket.socket) -> str:
    taken = fill(client)
    return "more than 1 MiB" if taken > 1 << 20 else str(taken)


@pair_row
def send_timeout(client: socket.socket, _: socket.socket) -> str:
    set_send_timeout(client, 1)
    return attempt(client.sendall, bytes(1 << 24))


@pair_row
def outgoing_queue(client: socket.socket, server: socket.socket) -> str:
    client.send(bytes(5000))
    await_arrival(server, 5000)
    await_true(lambda: not queued(client, termios.TIOCOUTQ), QUIET)
    return repr(queued(client, termios.TIOCOUTQ))


@pair_row
def incoming_queue(client: socket.socket, server: socket.socket) -> str:
    client.send(bytes(5000))
    await_arrival(server, 5000)
    return repr(queued(server))


# ----- sending and receiving


@pair_row
def stream(client: socket.socket, server: socket.socket) -> str:
    client.send(b"ab")
    client.send(b"cd")
    await_arrival(server, 4)
    return repr(server.recv(9))


@row
def send_unconnected(lab: Lab) -> str:
    return send_watched(lab.open())


@row
def receive_unconnected(lab: Lab) -> str:
    return attempt(lab.open().recv, 1)


@pair_row
def receive_timeout(client: socket.socket, _: socket.socket) -> str:
    client.setsockopt(SOL, socket.SO_RCVTIMEO, TIMEVAL.pack(1, 0))
    return attempt(client.recv, 1)


@pair_row
def dontwait(client: socket.socket, _: socket.socket) -> str:
    return attempt(client.recv, 1, socket.MSG_DONTWAIT)


@pair_row
def peek(client: socket.socket, server: socket.socket) -> str:
    client.send(b"abc")
    return steps(server.recv(2, socket.MSG_PEEK), server.recv(9))


def receive_in_two_parts(client: socket.socket, server: socket.socket, flags: int) -> str:
    client.send(b"ab")
    await_arrival(server, 2)
    with in_thread(server.recv, 4, flags) as received:
        await_blocked(server)
        client.send(b"cd")
        return repr(received.result(LIMIT))


@pair_row
def waitall(client: socket.socket, server: socket.socket) -> str:
    return receive_in_two_parts(client, server, socket.MSG_WAITALL)


@pair_row
def peek_waitall(client: socket.socket, server: socket.socket) -> str:
    return receive_in_two_parts(client, server, socket.MSG_WAITALL | socket.MSG_PEEK)


@pair_row
def waitall_beyond_the_buffer(client: socket.socket, server: socket.socket) -> str:
    with in_thread(client.sendall, bytes(1 << 20)):
        return repr(len(server.recv(1 << 20, socket.MSG_WAITALL)))


@pair_row
def truncate(client: socket.socket, server: socket.socket) -> str:
    client.send(b"abcd")
    await_arrival(server, 4)
    return steps(len(server.recv(3, socket.MSG_TRUNC)), server.recv(9))


@pair_row
def low_water_mark_of_poll(client: socket.socket, server: socket.socket) -> str:
    server.setsockopt(SOL, socket.SO_RCVLOWAT, 2)
    client.send(b"x")
    await_arrival(server, 1)
    return event_names(events(server) & IN)


@pair_row
def low_water_mark_of_receive(client: socket.socket, server: socket.socket) -> str:
    server.setsockopt(SOL, socket.SO_RCVLOWAT, 2)
    with in_thread(server.recv, 9) as received:
        await_blocked(server)
        client.send(b"x")
        early = is_over(received)
        client.send(b"y")
        return steps("does not wait" if early else "waits", received.result(LIMIT))


def held_back(server: socket.socket) -> bool:
    return not await_events(server, IN, QUIET) & IN


@pair_row
def more(client: socket.socket, server: socket.socket) -> str:
    client.send(b"a", socket.MSG_MORE)
    if not held_back(server):
        return "sent after a while"
    client.send(b"b")
    return steps("held until the next send", server.recv(9))


@pair_row
def more_then_close(client: socket.socket, server: socket.socket) -> str:
    client.send(b"a", socket.MSG_MORE)
    client.close()
    return repr(read_all(server))


@pair_row
def more_then_exit(client: socket.socket, server: socket.socket) -> str:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            server.close()
            client.send(b"a", socket.MSG_MORE)
            os.read(reader, 1)
        finally:
            os._exit(0)
    client.close()  # so that the child has the last descriptor
    os.write(writer, b"x")
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    return repr(read_all(server))


@pair_row
def cork(client: socket.socket, server: socket.socket) -> str:
    client.setsockopt(TCP, socket.TCP_CORK, ON)
    client.send(b"a")
    if not held_back(server):
        return "sent after a while"
    client.setsockopt(TCP, socket.TCP_CORK, OFF)
    return steps("held until uncorked", server.recv(9))


def send_file(client: socket.socket, server: socket.socket, count: int) -> str:
    with tempfile.TemporaryFile() as file:
        file.write(b"abc")
        file.flush()
        sent = os.sendfile(client.fileno(), file.fileno(), 0, count)
    if not held_back(server):
        return steps(sent, server.recv(9))
    client.send(b"d")
    return steps(sent, "held until the next send", server.recv(9))


@pair_row
def sendfile(client: socket.socket, server: socket.socket) -> str:
    return send_file(client, server, 3)


@pair_row
def sendfile_beyond_the_end(client: socket.socket, server: socket.socket) -> str:
    return send_file(client, server, 9)


@pair_row
def sendfile_from_socket(client: socket.socket, server: socket.socket) -> str:
    client.send(b"abc")
    with tempfile.TemporaryFile() as file:
        return attempt(os.sendfile, file.fileno(), server.fileno(), None, 3)


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@pair_row
def splice_from_socket(client: socket.socket, server: socket.socket) -> str:
    client.send(b"abc")
    with pipe() as (reader, writer):
        return steps(os.splice(server.fileno(), writer, 9), os.read(reader, 9))


@pair_row
def splice_to_socket(client: socket.socket, server: socket.socket) -> str:
    with pipe() as (reader, writer):
        os.write(writer, b"abc")
        return steps(os.splice(reader, client.fileno(), 3), server.recv(9))


@row
def splice_to_another_socket(lab: Lab) -> str:
    (client, server), (onward, target) = lab.pair(), lab.pair()
    client.send(b"abc")
    with pipe() as (reader, writer):
        moved = os.splice(server.fileno(), writer, 9)
        return steps(moved, os.splice(reader, onward.fileno(), moved), target.recv(9))


@pair_row
def receive_past_spliced_data(client: socket.socket, server: socket.socket) -> str:
    client.send(b"abcd")
    await_arrival(server, 4)
    with pipe() as (reader, writer):
        os.splice(server.fileno(), writer, 2)
        with in_thread(server.recv, 9, socket.MSG_DONTWAIT) as received:
            at_once = is_over(received)
            os.read(reader, 2)
            data = received.result(LIMIT)
    return steps("at once" if at_once else "waits until the pipe is read", data)


@pair_row
def message_zerocopy(client: socket.socket, server: socket.socket) -> str:
    client.send(b"x", MSG_ZEROCOPY)
    return repr(server.recv(1))


@pair_row
def error_queue(client: socket.socket, _: socket.socket) -> str:
    client.setblocking(False)
    return attempt(client.recv, 1, socket.MSG_ERRQUEUE)


@pair_row
def unknown_control_message(client: socket.socket, _: socket.socket) -> str:
    return attempt(client.sendmsg, [b"x"], [(SOL, 99, b"1234")])


@pair_row
def timestamp(client: socket.socket, server: socket.socket) -> str:
    server.setsockopt(SOL, SO_TIMESTAMP, ON)
    # The kernel begins to take the time of packets a little after it was asked to.
    for _ in range(100):
        client.send(b"x")
        if server.recvmsg(1, 256)[1]:
            return "a time"
        time.sleep(0.01)
    return "none"


@pair_row
def fork(client: socket.socket, server: socket.socket) -> str:
    sent = in_child(lambda: attempt(client.send, b"child "))
    client.send(b"parent")
    client.close()
    return steps(sent, read_all(server))


# ----- urgent data


@pair_row
def urgent(client: socket.socket, server: socket.socket) -> str:
    client.send(b"ab!", socket.MSG_OOB)
    await_events(server, PRI)
    return steps(server.recv(9, socket.MSG_OOB), server.recv(9))


@pair_row
def urgent_inline(client: socket.socket, server: socket.socket) -> str:
    server.setsockopt(SOL, socket.SO_OOBINLINE, ON)
    client.send(b"ab!", socket.MSG_OOB)
    await_events(server, PRI)
    outcomes = [server.recv(9), server.recv(9)]
    return steps(*outcomes, attempt(server.recv, 9, socket.MSG_OOB))


@pair_row
def urgent_signal(client: socket.socket, server: socket.socket) -> str:
    with signals(signal.SIGURG) as seen:
        fcntl.fcntl(server, fcntl.F_SETOWN, os.getpid())
        client.send(b"!", socket.MSG_OOB)
        await_events(server, PRI)
        return yes(seen)


@pair_row
def urgent_mark(client: socket.socket, server: socket.socket) -> str:
    client.send(b"ab!", socket.MSG_OOB)
    await_events(server, PRI)
    before = queued(server, SIOCATMARK)
    server.recv(9)
    return steps(before, queued(server, SIOCATMARK))


@pair_row
def urgent_then_send(client: socket.socket, server: socket.socket) -> str:
    client.setblocking(False)
    client.send(b"ab!", socket.MSG_OOB)
    await_events(server, PRI)
    return steps(event_names(events(client)), attempt(client.send, b"x"))


@pair_row
def urgent_byte_alone(client: socket.socket, server: socket.socket) -> str:
    client.setblocking(False)
    client.send(b"!", socket.MSG_OOB)
    await_events(server, PRI)
    byte = server.recv(9, socket.MSG_OOB)
    with in_thread(send_until_taken, client) as taken:
        outcome = "taken" if is_over(taken) else "never taken"
        client.shutdown(socket.SHUT_RDWR)
    return steps(byte, outcome)


def send_until_taken(sock: socket.socket) -> None:
    while attempt(sock.send, b"x") == "EAGAIN":
        time.sleep(0.01)


# ----- events


@row
def events_fresh(lab: Lab) -> str:
    return event_names(events(lab.open()))


@row
def events_listening(lab: Lab) -> str:
    listener = lab.listener()
    before = event_names(events(listener))
    lab.open().connect(listener.getsockname())
    return steps(before, event_names(await_events(listener, IN)))


@pair_row
def events_connected(client: socket.socket, server: socket.socket) -> str:
    before = event_names(events(client))
    server.send(b"x")
    return steps(before, event_names(await_events(client, IN)))


@pair_row
def events_full(client: socket.socket, _: socket.socket) -> str:
    fill(client)
    return event_names(events(client))


@pair_row
def events_shut_for_reading(client: socket.socket, _: socket.socket) -> str:
    client.shutdown(socket.SHUT_RD)
    return event_names(events(client))


@pair_row
def events_half_closed(client: socket.socket, server: socket.socket) -> str:
    client.shutdown(socket.SHUT_WR)
    own = event_names(events(client))
    peers = event_names(await_events(server, RDHUP))
    server.shutdown(socket.SHUT_WR)
    return steps(own, peers, event_names(await_events(client, RDHUP)))


@pair_row
def epoll_edges(client: socket.socket, server: socket.socket) -> str:
    seen = []
    with select.epoll() as poller:
        poller.register(client, IN | RDHUP | select.EPOLLET)
        server.send(b"x")
        seen += [poller.poll(LIMIT), poller.poll(0)]
        server.send(b"y")
        seen.append(poller.poll(LIMIT))
        server.close()
        seen.append(poller.poll(LIMIT))
    return steps(*(event_names(ready[0][1] if ready else 0) for ready in seen))


@pair_row
def epoll_edge_of_room(client: socket.socket, server: socket.socket) -> str:
    with select.epoll() as poller:
        poller.register(client, OUT | select.EPOLLET)
        taken = fill(client)
        while poller.poll(0):
            pass
        server.recv(taken, socket.MSG_WAITALL)
        return event_names(poller.poll(LIMIT)[0][1])


@row
def epoll_registered_before_connect(lab: Lab) -> str:
    client, listener = lab.open(), lab.listener()
    client.setblocking(False)
    seen = 0
    with select.epoll() as poller:
        poller.register(client, IN | OUT | select.EPOLLET)
        client.connect_ex(listener.getsockname())
        while not seen & OUT:
            seen = poller.poll(LIMIT)[0][1]
        lab.accept(listener).send(b"x")
        while not seen & IN:
            seen = poller.poll(LIMIT)[0][1]
    return event_names(seen)


@contextlib.contextmanager
def signalling(sock: socket.socket) -> Iterator[None]:
    flags = fcntl.fcntl(sock, fcntl.F_GETFL)
    fcntl.fcntl(sock, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(sock, fcntl.F_SETFL, flags | os.O_ASYNC)
    yield
    fcntl.fcntl(sock, fcntl.F_SETFL, flags)


@pair_row
def async_signal(client: socket.socket, server: socket.socket) -> str:
    with signals(signal.SIGIO) as seen, signalling(server):
        client.send(b"x")
        await_events(server, IN)
        return yes(seen)


@row
def async_signal_set_before_connect(lab: Lab) -> str:
    client, listener = lab.open(), lab.listener()
    with signals(signal.SIGIO) as seen, signalling(client):
        client, server = lab.connect(client, listener)
        seen.clear()
        server.send(b"x")
        await_events(client, IN)
        return yes(seen)


# ----- ending


@pair_row
def half_close(client: socket.socket, server: socket.socket) -> str:
    client.shutdown(socket.SHUT_WR)
    end = server.recv(9)
    server.send(b"x")
    return steps(end, client.recv(9))


@pair_row
def half_close_then_getpeername(client: socket.socket, server: socket.socket) -> str:
    client.shutdown(socket.SHUT_WR)
    outcome = attempt(client.getpeername)
    return "the address" if outcome == repr(server.getsockname()) else outcome


@pair_row
def half_close_then_send(client: socket.socket, _: socket.socket) -> str:
    client.shutdown(socket.SHUT_WR)
    return send_watched(client)


@pair_row
def shut_for_reading(client: socket.socket, server: socket.socket) -> str:
    client.shutdown(socket.SHUT_RD)
    end = client.recv(9)
    server.send(b"x")
    await_arrival(client, 1)
    return steps(end, client.recv(9))


def receive_while_shut(client: socket.socket, server: socket.socket, how: int) -> str:
    with in_thread(attempt, client.recv, 1) as received:
        await_blocked(client)
        client.shutdown(how)
        if is_over(received):
            return str(received.result())
        server.close()
        received.result(LIMIT)
        return "not woken"


@pair_row
def shutdown_wakes_receive(client: socket.socket, server: socket.socket) -> str:
    return receive_while_shut(client, server, socket.SHUT_RDWR)


@pair_row
def shutdown_for_reading_wakes_receive(client: socket.socket, server: socket.socket) -> str:
    return receive_while_shut(client, server, socket.SHUT_RD)


@pair_row
def peer_closed(client: socket.socket, server: socket.socket) -> str:
    server.close()
    found = event_names(await_events(client, RDHUP))
    first = send_watched(client)
    await_events(client, HUP, QUIET)
    return steps(found, first, send_watched(client))


@pair_row
def peer_closed_with_unread_data(client: socket.socket, server: socket.socket) -> str:
    client.send(b"x")
    await_arrival(server, 1)
    server.close()
    await_events(client, RDHUP)
    return attempt(client.recv, 9)


@row
def tls_end_without_close_notify(lab: Lab) -> str:
    if ssl.OPENSSL_VERSION_INFO < (3, 5):
        pytest.skip("before OpenSSL 3.5 the end is told whatever becomes of the alert")
    lab = Lab(INET if lab.inet == socket.AF_INET else INET6, lab.is_smc, lab.stack)
    plain_client, plain_server = lab.pair()
    serving = server_context()
    with in_thread(lambda: serving.wrap_socket(plain_server, server_side=True)) as wrapped:
        client = client_context().wrap_socket(plain_client, server_hostname="localhost")
    with client, wrapped.result() as server:
        server.send(b"x")
        client.recv(1)  # and the tickets: unread, they make TCP reset
        client.close()
        await_events(server, RDHUP)
        return attempt(TLS_READ, server, 9)


def close_with_linger_zero(client: socket.socket, server: socket.socket) -> None:
    """The peer sends, sets linger 0 and closes."""
    server.send(b"x")
    await_arrival(client, 1)
    set_linger(server, 0)
    server.close()
    await_events(client, RDHUP)


@pair_row
def peer_linger_zero(client: socket.socket, server: socket.socket) -> str:
    address = server.getsockname()
    close_with_linger_zero(client, server)
    found, peer = event_names(events(client)), attempt(client.getpeername)
    code = client.getsockopt(SOL, socket.SO_ERROR)
    return steps(
        found,
        "the address" if peer == repr(address) else peer,
        error_name(code),
        send_watched(client),
    )


@pair_row
def peer_linger_zero_receive(client: socket.socket, server: socket.socket) -> str:
    close_with_linger_zero(client, server)
    return steps(client.recv(9), attempt(client.recv, 9))


@row
def linger_set_before_connect(lab: Lab) -> str:
    client = lab.open()
    set_linger(client, 60)
    client, server = lab.connect(client, lab.listener())
    client.send(b"x")
    client.close()
    return steps(server.recv(9), attempt(server.recv, 9))


@row
def linger_set_on_listener(lab: Lab) -> str:
    listener = lab.bound()
    set_linger(listener, 60)
    listener.listen()
    client, server = lab.connect(lab.open(), listener)
    server.send(b"x")
    server.close()
    return steps(client.recv(9), attempt(client.recv, 9))


@pair_row
def close_takes_time(client: socket.socket, _: socket.socket) -> str:
    fill(client)
    with in_thread(client.close) as closed:
        return "at once" if is_over(closed) else "waits"


def deliver(lab: Lab, end: Callable[[socket.socket], None]) -> str:
    """Fills the connection, ends it, and only then reads.

    Whether SMC-R gets the rest across is a race, lost more often than not.
    """
    for _ in range(15):
        client, server = lab.pair()
        is_racing = carrier(client) == Mode.SMCR
        taken = fill(client)
        end(client)
        if len(read_all(server)) < taken:
            return "cut short, then a clean end"
        if not is_racing:
            break
    return "all arrives"


@row
def close_with_unsent_data(lab: Lab) -> str:
    return deliver(lab, lambda client: client.close())


@row
def half_close_with_unsent_data(lab: Lab) -> str:
    return deliver(lab, lambda client: client.shutdown(socket.SHUT_WR))


# ----- the document

DOCUMENT = Path(__file__).parent.parent / "docs" / "kernel.md"
COLUMNS = ("TCP", "SMC-D", "SMC-R", "TCP fallback")
EVERYWHERE = "Everywhere"
NOTHING_CLAIMED = "—"
IN_OTHER = re.compile(r" / (\d+)\.(\d+): ")
"""In a cell: the outcome of Linux 6.12, then those of the others where they are other ones."""
SEEN = ((6, 1), (6, 12), (7, 2))
"""The versions of Linux that the document is about."""


@functools.cache
def cells() -> dict[str, dict[str, str]]:
    """The tables of the document: row, column, text."""
    found: dict[str, dict[str, str]] = {}
    header: list[str] = []
    for line in DOCUMENT.read_text().splitlines():
        if not line.startswith("|"):
            header = []
            continue
        texts = [text.strip() for text in line.strip("|").split("|")]
        if not header:
            header = texts
        elif match := re.search(r"`(\w+)`$", texts[0]):
            assert match[1] not in found, f"{match[1]} is there twice"
            found[match[1]] = dict(zip(header, texts, strict=True))
    return found


def expected(name: str, column: str) -> str:
    texts = cells()[name]
    text = texts.get(EVERYWHERE) or texts[column]
    if reference := re.fullmatch(r"as (TCP|SMC-D)", text):
        return expected(name, reference[1])
    text, *others = IN_OTHER.split(text)
    outcomes = dict.fromkeys(SEEN, text)
    for major, minor, other in zip(*[iter(others)] * 3, strict=True):
        outcomes[int(major), int(minor)] = other
    version = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
    before = max((seen for seen in SEEN if seen <= version), default=SEEN[0])
    after = min((seen for seen in SEEN if seen >= version), default=SEEN[-1])
    if outcomes[before] != outcomes[after]:
        pytest.skip("differs between kernels, and was not seen on this one")
    return outcomes[before].replace("`", "")


def test_every_row_of_the_document_is_tested_and_every_test_is_in_it() -> None:
    assert set(cells()) == set(ROWS)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """Closes what it holds at the end of a test, which a time limit brings about."""

    def fail(*_: object) -> None:
        pytest.fail(f"not over after {LIMIT} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(LIMIT)
    with contextlib.ExitStack() as stack:
        yield stack
        signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# Presentation is Python's business: one of each IP version will do.
@pytest.mark.parametrize("presentation", [SMC, INET6], ids=["v4", "v6"])
@pytest.mark.parametrize("name", ROWS)
def test_tcp(name: str, presentation: Presentation, stack: contextlib.ExitStack) -> None:
    if VM_MODE not in (None, "tcp"):
        pytest.skip("the same kernel's TCP is tested in mode tcp")
    outcome = expected(name, "TCP")
    if outcome == NOTHING_CLAIMED:
        pytest.skip("there is no such thing in TCP")
    assert ROWS[name](Lab(presentation, False, stack)) == outcome


@pytest.mark.parametrize("presentation", [SMC, INET6], ids=["v4", "v6"])
@pytest.mark.parametrize("name", ROWS)
def test_smc(
    name: str, presentation: Presentation, smc_mode: Mode, stack: contextlib.ExitStack
) -> None:
    if not VM_KERNEL:
        pytest.skip("the document is about the kernels of the guests, tests/vm")
    mode = presentation.expected_mode(smc_mode)
    outcome = expected(name, "TCP fallback" if mode is Mode.TCP else mode)
    if outcome == NOTHING_CLAIMED:
        pytest.skip(f"there is no such thing in mode {mode}")
    assert ROWS[name](Lab(presentation, True, stack)) == outcome
