"""Time limits: None, zero and seconds, in every call that waits."""

import contextlib
import errno
import os
import select
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import pytest
from conftest import KEEPS_CONNECT_ERRORS, Presentation

import smcsock
from smcsock import Mode

LIMIT = 60.0
"""Seconds after which something that must end counts as hung; guests are slow."""

SHORT = 0.2
"""A timeout that is meant to pass."""

IN_GUEST = "SMCSOCK_VM" in os.environ

T = TypeVar("T")
Open: TypeAlias = Callable[[], socket.socket]
Outcome: TypeAlias = tuple[str, Any]


def outcome(function: Callable[..., object], *args: object) -> Outcome:
    """What a call came to, to be compared with what another one did."""
    try:
        return "returned", function(*args)
    except Exception as error:
        return type(error).__name__, str(error)


class Call(Generic[T]):
    """A call in a thread of its own, where a hang is a failure and no more."""

    def __init__(self, function: Callable[..., T], *args: object) -> None:
        self._future: Future[T] = Future()
        self.thread = threading.Thread(target=self._run, args=(function, args), daemon=True)
        self.thread.start()

    def _run(self, function: Callable[..., T], args: tuple[object, ...]) -> None:
        try:
            self._future.set_result(function(*args))
        except BaseException as error:
            self._future.set_exception(error)

    def result(self) -> T:
        try:
            return self._future.result(LIMIT)
        finally:
            self.thread.join(LIMIT)


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Makes a call of the main thread that hangs fail."""

    def expire(*_: object) -> None:
        raise AssertionError(f"still blocked after {LIMIT:g} s")

    main_thread = threading.get_ident()
    before = signal.signal(signal.SIGUSR2, expire)
    timer = threading.Timer(LIMIT, signal.pthread_kill, (main_thread, signal.SIGUSR2))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGUSR2, before)


def wait_until_asleep(thread: threading.Thread) -> None:
    """Returns when a thread has come to rest in a system call, as far as can be seen."""
    state = Path(f"/proc/self/task/{thread.native_id}/stat")
    deadline = time.monotonic() + LIMIT
    seen = 0
    while seen < 10:
        assert time.monotonic() < deadline, "the thread does not come to rest"
        time.sleep(0.01)
        seen = seen + 1 if state.read_text().rpartition(")")[2].split()[0] in "SD" else 0


@contextlib.contextmanager
def every(seconds: float, handler: Callable[..., object]) -> Iterator[None]:
    """Has a signal handler run again and again, for as long as it returns."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def listening(open_: Open, host: str) -> Iterator[socket.socket]:
    with open_() as listener:
        listener.bind((host, 0))
        listener.listen()
        yield listener


@contextlib.contextmanager
def black_hole(presentation: Presentation) -> Iterator[socket.socket]:
    """A TCP listener that answers nobody until its accept() has made room for a connection."""
    with presentation.tcp_socket() as listener, presentation.tcp_socket() as filler:
        listener.bind((presentation.host, 0))
        listener.listen(0)
        filler.connect(listener.getsockname())
        assert select.select([listener], [], [], LIMIT)[0]
        yield listener


def accept_two(listener: socket.socket) -> socket.socket:
    """Makes room in a black hole; the connection that came in then."""
    listener.accept()[0].close()
    return listener.accept()[0]


@contextlib.contextmanager
def refusing(presentation: Presentation) -> Iterator[socket.socket]:
    """A TCP socket that holds an address at which nobody listens, yet."""
    with presentation.tcp_socket() as sock:
        sock.bind((presentation.host, 0))
        yield sock


@contextlib.contextmanager
def slow_loopback() -> Iterator[None]:
    """Delays every packet on lo by 300 ms. Not on a machine that others use."""
    if not IN_GUEST:
        pytest.skip("delays packets on lo: in a guest only")
    qdisc = ["dev", "lo", "root", "netem", "delay", "300ms"]
    subprocess.run(["tc", "qdisc", "add", *qdisc], check=True)
    try:
        yield
    finally:
        subprocess.run(["tc", "qdisc", "del", *qdisc[:3]], check=True)


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly so many bytes, or fewer at the end of the stream."""
    data = b""
    while len(data) < size and (chunk := sock.recv(size - len(data))):
        data += chunk
    return data


def round_trip(a: socket.socket, b: socket.socket) -> None:
    """Data goes both ways."""
    timeouts = a.gettimeout(), b.gettimeout()
    for sender, receiver in ((a, b), (b, a)):
        sender.settimeout(LIMIT)
        receiver.settimeout(LIMIT)
        sender.sendall(b"payload")
        assert receive(receiver, 7) == b"payload"
    a.settimeout(timeouts[0])
    b.settimeout(timeouts[1])


# ----- setting and getting


VALUES = (
    None,
    0,
    0.0,
    1,
    2.5,
    1e-10,
    True,
    2**31,
    -1,
    -0.0,
    float("nan"),
    float("inf"),
    1e300,
    "1",
)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_settimeout_is_that_of_tcp(presentation: Presentation, value: Any) -> None:
    def scenario(open_: Open) -> tuple[object, ...]:
        with open_() as sock:
            set_ = outcome(sock.settimeout, value)
            return set_, sock.gettimeout(), sock.getblocking(), os.get_blocking(sock.fileno())

    assert scenario(presentation.open) == scenario(presentation.tcp_socket)


@pytest.mark.parametrize("value", [True, False, 1, 0, "yes", None], ids=repr)
def test_setblocking_is_that_of_tcp(presentation: Presentation, value: Any) -> None:
    def scenario(open_: Open) -> tuple[object, ...]:
        with open_() as sock:
            sock.settimeout(5)
            set_ = outcome(sock.setblocking, value)
            return set_, sock.gettimeout(), sock.getblocking(), os.get_blocking(sock.fileno())

    assert scenario(presentation.open) == scenario(presentation.tcp_socket)


@pytest.mark.parametrize("default", [None, 0.0, 3.5])
@pytest.mark.parametrize("flags", [0, socket.SOCK_NONBLOCK], ids=["", "SOCK_NONBLOCK"])
def test_a_new_socket_has_the_default_timeout(
    presentation: Presentation, default: float | None, flags: int
) -> None:
    def scenario(sock: socket.socket) -> tuple[object, ...]:
        with sock:
            return sock.gettimeout(), sock.getblocking(), os.get_blocking(sock.fileno())

    type_ = socket.SOCK_STREAM | flags
    socket.setdefaulttimeout(default)
    assert scenario(smcsock.socket(presentation.family, type_, presentation.proto)) == scenario(
        socket.socket(presentation.inet, type_)
    )


@pytest.mark.parametrize("default", [None, 0.0, 3.5])
@pytest.mark.parametrize("timeout", [None, 0.0, LIMIT])
def test_an_accepted_socket_has_the_default_timeout_not_the_listeners(
    presentation: Presentation, default: float | None, timeout: float | None
) -> None:
    def scenario(open_: Open) -> tuple[object, ...]:
        with listening(open_, presentation.host) as listener, open_() as client:
            client.connect(listener.getsockname())
            assert select.select([listener], [], [], LIMIT)[0]
            listener.settimeout(timeout)
            socket.setdefaulttimeout(default)
            conn, _ = listener.accept()
            socket.setdefaulttimeout(None)
            with conn:
                return conn.gettimeout(), conn.getblocking(), os.get_blocking(conn.fileno())

    result = scenario(presentation.open)
    assert result == scenario(presentation.tcp_socket)
    assert result[0] == default


@pytest.mark.parametrize("timeout", [None, 0.0, 3.5])
def test_a_duplicate_has_the_timeout_of_its_original(
    presentation: Presentation, timeout: float | None
) -> None:
    with presentation.open() as sock:
        sock.settimeout(timeout)
        with sock.dup() as duplicate:
            assert duplicate.gettimeout() == timeout


# ----- accept


@pytest.mark.parametrize("timeout", [1e-9, SHORT])
def test_accept_times_out_like_tcp(presentation: Presentation, timeout: float) -> None:
    def scenario(open_: Open) -> Outcome:
        with listening(open_, presentation.host) as listener:
            listener.settimeout(timeout)
            started = time.monotonic()
            result = outcome(listener.accept)
            assert time.monotonic() - started >= timeout
            return result

    assert scenario(presentation.open) == scenario(presentation.tcp_socket)
    assert scenario(presentation.open) == ("TimeoutError", "timed out")


def test_accept_without_blocking_says_that_there_is_nothing(presentation: Presentation) -> None:
    def scenario(open_: Open) -> Outcome:
        with listening(open_, presentation.host) as listener:
            listener.setblocking(False)
            return outcome(listener.accept)

    assert scenario(presentation.open) == scenario(presentation.tcp_socket)
    assert scenario(presentation.open)[0] == "BlockingIOError"


@pytest.mark.parametrize("timeout", [None, 0.0, 3600.0, threading.TIMEOUT_MAX])
def test_accept_takes_what_is_there_whatever_the_timeout(
    presentation: Presentation, timeout: float | None
) -> None:
    with presentation.listener() as listener, presentation.open() as client:
        client.connect(listener.getsockname())
        assert select.select([listener], [], [], LIMIT)[0]
        listener.settimeout(timeout)
        server, address = listener.accept()
        with server:
            assert address == client.getsockname()
            round_trip(client, server)


@pytest.mark.parametrize("timeout", [None, 0.0, SHORT])
def test_accept_of_a_socket_that_does_not_listen_is_einval(
    presentation: Presentation, timeout: float | None
) -> None:
    def scenario(open_: Open) -> Outcome:
        with open_() as sock:
            sock.settimeout(timeout)
            return outcome(sock.accept)

    assert scenario(presentation.open) == scenario(presentation.tcp_socket)


def test_of_two_threads_and_one_connection_the_loser_times_out(
    presentation: Presentation,
) -> None:
    def accept() -> tuple[float, Outcome]:
        started = time.monotonic()
        result = outcome(listener.accept)
        return time.monotonic() - started, result

    with presentation.listener() as listener, presentation.open() as client:
        listener.settimeout(1)
        calls = [Call(accept), Call(accept)]
        client.connect(listener.getsockname())
        results = [call.result() for call in calls]
        (loser,) = (result for result in results if result[1][0] != "returned")
        (winner,) = (result for result in results if result[1][0] == "returned")
        winner[1][1][0].close()
        assert loser[1] == ("TimeoutError", "timed out")
        assert loser[0] >= 1


def test_signals_do_not_prolong_an_accept(presentation: Presentation) -> None:
    handled: list[int] = []
    with presentation.listener() as listener:
        listener.settimeout(1)
        started = time.monotonic()
        with (
            time_limit(),
            every(0.05, lambda number, _: handled.append(number)),
            pytest.raises(TimeoutError, match=r"^timed out$"),
        ):
            listener.accept()
        assert time.monotonic() - started >= 1
        assert handled


# ----- connect


def test_connect_times_out_like_tcp(presentation: Presentation) -> None:
    def scenario(open_: Open) -> Outcome:
        with black_hole(presentation) as listener, open_() as sock:
            sock.settimeout(SHORT)
            started = time.monotonic()
            result = outcome(sock.connect, listener.getsockname())
            assert time.monotonic() - started >= SHORT
            return result

    assert scenario(presentation.open) == scenario(presentation.tcp_socket)
    assert scenario(presentation.open) == ("TimeoutError", "timed out")


def test_connect_ex_is_eagain_after_the_timeout_and_ealready_then(
    presentation: Presentation,
) -> None:
    def scenario(open_: Open) -> list[int]:
        with black_hole(presentation) as listener, open_() as sock:
            sock.settimeout(SHORT)
            return [sock.connect_ex(listener.getsockname()) for _ in range(3)]

    assert scenario(presentation.open) == scenario(presentation.tcp_socket)
    assert scenario(presentation.open) == [errno.EAGAIN, errno.EALREADY, errno.EALREADY]


def test_a_blocking_connect_after_a_timeout(presentation: Presentation) -> None:
    with black_hole(presentation) as listener, presentation.open() as sock:
        sock.settimeout(SHORT)
        assert sock.connect_ex(listener.getsockname()) == errno.EAGAIN
        sock.settimeout(None)
        accepted = Call(accept_two, listener)
        # TCP waits for the connection that is under way. SMC has it made by a worker of the
        # kernel, and lets nobody else wait for that.
        expected = errno.EALREADY if smcsock.has_smc() else 0
        assert Call(sock.connect_ex, listener.getsockname()).result() == expected
        accepted.result().close()


def test_signals_do_not_prolong_a_connect(presentation: Presentation) -> None:
    handled: list[int] = []
    with black_hole(presentation) as listener, presentation.open() as sock:
        sock.settimeout(1)
        started = time.monotonic()
        with (
            time_limit(),
            every(0.05, lambda number, _: handled.append(number)),
            pytest.raises(TimeoutError, match=r"^timed out$"),
        ):
            sock.connect(listener.getsockname())
        assert time.monotonic() - started >= 1
        assert handled


def test_a_connect_can_time_out_during_the_smc_handshake(
    presentation: Presentation, smc_mode: Mode
) -> None:
    if presentation.expected_mode(smc_mode) is Mode.TCP:
        pytest.skip("needs SMC: over TCP no client waits for the peer's handshake")
    with presentation.listener() as listener, presentation.open() as sock:
        address = listener.getsockname()
        with slow_loopback():
            sock.settimeout(0.9)  # of a handshake that takes 0.6 s for TCP and as much for SMC
            with pytest.raises(TimeoutError, match=r"^timed out$"):
                sock.connect(address)
            sock.close()
        with presentation.open() as client:
            client.settimeout(LIMIT)
            client.connect(address)
            server, peer = listener.accept()
            with server:
                assert peer == client.getsockname()
                round_trip(client, server)


@pytest.mark.parametrize("timeout", [1e9, threading.TIMEOUT_MAX])
def test_connect_takes_a_timeout_of_any_length(presentation: Presentation, timeout: float) -> None:
    with presentation.listener() as listener, presentation.open() as client:
        client.settimeout(timeout)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            round_trip(client, server)


def test_a_connected_socket_is_connected_already(presentation: Presentation) -> None:
    def scenario(open_: Open) -> list[object]:
        results: list[object] = []
        with listening(open_, presentation.host) as listener, open_() as client:
            client.connect(listener.getsockname())
            for timeout in (None, 0.0, LIMIT):
                client.settimeout(timeout)
                results.append(client.connect_ex(listener.getsockname()))
                results.append(outcome(client.connect, listener.getsockname()))
        return results

    assert scenario(presentation.open) == scenario(presentation.tcp_socket)
    assert scenario(presentation.open)[0] == errno.EISCONN


def test_create_connection_hands_on_the_timeout(presentation: Presentation) -> None:
    with black_hole(presentation) as listener:
        address = listener.getsockname()[:2]
        ours = outcome(smcsock.create_connection, address, SHORT)
        assert ours == outcome(socket.create_connection, address, SHORT)
        assert ours == ("TimeoutError", "timed out")


def test_create_connection_takes_the_default_timeout(presentation: Presentation) -> None:
    with black_hole(presentation) as listener:
        socket.setdefaulttimeout(SHORT)
        assert outcome(smcsock.create_connection, listener.getsockname()[:2]) == (
            "TimeoutError",
            "timed out",
        )


# ----- connect without blocking


def test_a_connect_without_blocking_goes_on_by_itself(presentation: Presentation) -> None:
    def scenario(open_: Open) -> list[object]:
        with black_hole(presentation) as listener, open_() as sock:
            address = listener.getsockname()
            sock.setblocking(False)
            results: list[object] = [
                outcome(sock.connect, address),
                outcome(sock.connect, address),
                sock.connect_ex(address),
                outcome(sock.getpeername),
                select.select([], [sock], [], 0)[1] == [sock],
            ]
            with accept_two(listener):
                results += [
                    select.select([], [sock], [], LIMIT)[1] == [sock],
                    sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
                    sock.getpeername() == address,
                    sock.connect_ex(address),
                    sock.connect_ex(address),
                ]
            return results

    result = scenario(presentation.open)
    assert result == scenario(presentation.tcp_socket)
    assert result[0] == ("BlockingIOError", f"[Errno 115] {os.strerror(errno.EINPROGRESS)}")
    assert result[1] == ("BlockingIOError", f"[Errno 114] {os.strerror(errno.EALREADY)}")
    assert result[2] == errno.EALREADY
    assert result[-5:] == [True, 0, True, 0, errno.EISCONN]


@pytest.mark.parametrize(
    "selector", [selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector]
)
def test_a_connect_without_blocking_is_over_when_the_socket_is_writable(
    presentation: Presentation, selector: type[selectors.BaseSelector]
) -> None:
    with presentation.listener() as listener, presentation.open() as sock, selector() as waiting:
        sock.setblocking(False)
        assert sock.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        waiting.register(sock, selectors.EVENT_WRITE)
        ((_, events),) = waiting.select(LIMIT)
        assert events == selectors.EVENT_WRITE
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert sock.getpeername() == listener.getsockname()
        server, _ = listener.accept()
        with server:
            round_trip(sock, server)


def test_a_connection_made_without_blocking_is_smc(
    presentation: Presentation, smc_mode: Mode
) -> None:
    with presentation.listener() as listener, presentation.open() as sock:
        sock.setblocking(False)
        assert sock.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        assert select.select([], [sock], [], LIMIT)[1]
        assert sock.smc_info().mode is presentation.expected_mode(smc_mode)


# ----- connect, refused


@pytest.mark.parametrize("timeout", [None, LIMIT])
def test_a_refused_connect_says_so(presentation: Presentation, timeout: float | None) -> None:
    def scenario(open_: Open) -> Outcome:
        with refusing(presentation) as nobody, open_() as sock:
            sock.settimeout(timeout)
            return outcome(sock.connect, nobody.getsockname())

    assert scenario(presentation.open) == scenario(presentation.tcp_socket)
    assert scenario(presentation.open)[0] == "ConnectionRefusedError"


@pytest.mark.parametrize("timeout", [None, LIMIT])
def test_connect_ex_returns_econnrefused(presentation: Presentation, timeout: float | None) -> None:
    with refusing(presentation) as nobody, presentation.open() as sock:
        sock.settimeout(timeout)
        assert sock.connect_ex(nobody.getsockname()) == errno.ECONNREFUSED


def refused_events(sock: socket.socket, address: Any) -> int:
    """Connects without blocking; the events of poll() once that is refused."""
    sock.setblocking(False)
    assert sock.connect_ex(address) == errno.EINPROGRESS
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLOUT)
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        # An SMC socket hangs up a moment before it knows the error.
        for _, events in poll.poll(10):
            if events & select.POLLERR:
                return events
    raise AssertionError("no error to be seen")


def test_a_connect_without_blocking_that_is_refused_leaves_so_error(
    presentation: Presentation,
) -> None:
    with refusing(presentation) as nobody, presentation.open() as sock:
        refused_events(sock, nobody.getsockname())
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        with pytest.raises(OSError, match="107"):
            sock.getpeername()


def test_poll_events_of_a_refused_connect(presentation: Presentation) -> None:
    failed = select.POLLERR | select.POLLHUP
    # TCP reports a failed socket as readable and writable too; SMC does not.
    expected = failed if smcsock.has_smc() else failed | select.POLLIN | select.POLLOUT
    with refusing(presentation) as nobody, presentation.open() as sock:
        assert refused_events(sock, nobody.getsockname()) == expected


def test_a_refused_blocking_connect_may_be_repeated(presentation: Presentation) -> None:
    with refusing(presentation) as peer, presentation.open() as sock:
        address = peer.getsockname()
        assert [sock.connect_ex(address) for _ in range(3)] == [errno.ECONNREFUSED] * 3
        peer.listen()
        sock.connect(address)
        server, _ = peer.accept()
        with server:
            round_trip(sock, server)


@pytest.mark.parametrize("timeout", [0.0, LIMIT])
def test_connect_after_a_refusal_that_did_not_block(
    presentation: Presentation, timeout: float
) -> None:
    def scenario(open_: Open) -> list[int]:
        with refusing(presentation) as peer, open_() as sock:
            address = peer.getsockname()
            if timeout:
                sock.settimeout(timeout)
                assert sock.connect_ex(address) == errno.ECONNREFUSED
            else:
                refused_events(sock, address)
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
            peer.listen()
            sock.settimeout(LIMIT)
            codes = [sock.connect_ex(address) for _ in range(4)]
            sock.settimeout(None)
            return [*codes, sock.connect_ex(address)]

    codes = scenario(presentation.open)
    # TCP says once that the attempt is over, then makes another one. An SMC socket is dead.
    if smcsock.has_smc():
        assert codes == [errno.ECONNABORTED] * 5
    else:
        assert codes == scenario(presentation.tcp_socket)
    assert 0 in scenario(presentation.tcp_socket)


# ----- connect, host unreachable


@pytest.fixture(scope="module")
def silent_network() -> Iterator[dict[socket.AddressFamily, str]]:
    """A network of ours, and in it an address for each family that no host has."""
    if not IN_GUEST:
        pytest.skip("makes network interfaces: in a guest only")
    commands = (
        "link add smcsock0 type veth peer name smcsock1",
        "address add 10.77.0.1/24 dev smcsock0",
        "address add fd77::1/64 dev smcsock0 nodad",
        "link set smcsock0 up",
        "link set smcsock1 up",
    )
    try:
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)
        for version in ("ipv4", "ipv6"):
            # Three requests go unanswered before a host counts as unreachable.
            path = Path("/proc/sys/net", version, "neigh/smcsock0/retrans_time_ms")
            path.write_text("100")
        yield {socket.AF_INET: "10.77.0.2", socket.AF_INET6: "fd77::2"}
    finally:
        subprocess.run(["ip", "link", "delete", "smcsock0"], check=False)


def test_a_blocking_connect_says_that_the_host_is_unreachable(
    presentation: Presentation, silent_network: dict[socket.AddressFamily, str]
) -> None:
    def scenario(open_: Open) -> Outcome:
        with open_() as sock:
            return Call(outcome, sock.connect, (host, 9)).result()

    host = silent_network[socket.AddressFamily(presentation.inet)]
    ours = scenario(presentation.open)
    assert ours == scenario(presentation.tcp_socket)
    assert ours == ("OSError", f"[Errno 113] {os.strerror(errno.EHOSTUNREACH)}")


@pytest.mark.usefixtures("smc_mode")
def test_a_connect_with_a_timeout_to_an_unreachable_host_fails(
    presentation: Presentation, silent_network: dict[socket.AddressFamily, str]
) -> None:
    host = silent_network[socket.AddressFamily(presentation.inet)]
    with presentation.open() as sock:
        sock.settimeout(LIMIT)
        # The kernel hangs up on the socket and may forget why: TCP has EHOSTUNREACH here.
        code = errno.EHOSTUNREACH if KEEPS_CONNECT_ERRORS else errno.ECONNABORTED
        with pytest.raises(OSError, match=os.strerror(code)):
            sock.connect((host, 9))
        with pytest.raises(OSError, match="107"):
            sock.getpeername()
        with pytest.raises(BrokenPipeError):
            sock.send(b"to nobody")


# ----- data


def test_recv_times_out_like_tcp(pair: tuple[smcsock.socket, smcsock.socket]) -> None:
    client, _ = pair
    client.settimeout(SHORT)
    assert outcome(client.recv, 1) == ("TimeoutError", "timed out")
    client.setblocking(False)
    assert outcome(client.recv, 1)[0] == "BlockingIOError"


def test_sendall_times_out_when_nobody_reads(pair: tuple[smcsock.socket, smcsock.socket]) -> None:
    client, _ = pair
    client.settimeout(SHORT)
    assert outcome(client.sendall, bytes(64 << 20)) == ("TimeoutError", "timed out")
