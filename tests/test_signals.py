"""Signals while a call waits: PEP 475, and the SMC handshake that the kernel cannot resume."""

import contextlib
import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TypeVar

import pytest
from conftest import INET, INET6, SMC, Presentation
from descriptors import open_descriptors
from test_timeouts import (
    LIMIT,
    Call,
    Outcome,
    accept_two,
    black_hole,
    every,
    outcome,
    round_trip,
    slow_loopback,
    time_limit,
    wait_until_asleep,
)

import smcsock
from smcsock import HandshakeInterruptedError, Mode

HANDSHAKE_ENDED = (
    "a signal ended the SMC handshake (CLC), which the kernel cannot resume: "
    "connect a new socket; with a timeout set, signals do no harm"
)

T = TypeVar("T")

waiting = pytest.mark.parametrize("timeout", [None, 10 * LIMIT], ids=["blocking", "timeout"])


@pytest.fixture(params=[SMC, INET6], ids=lambda p: p.name)
def presentation(request: pytest.FixtureRequest) -> Presentation:
    """Two of the four: a second costs every test here that has to wait for a TCP timer."""
    result = request.param
    assert isinstance(result, Presentation)
    return result


class Interrupt(Exception):
    """Raised by a signal handler."""


def blocked(function: Callable[..., T], *args: object) -> T:
    """Calls a function, and marks the stack for Handler."""
    return function(*args)


class Handler:
    """A signal handler that counts its runs within blocked(), and may raise at one of them."""

    def __init__(
        self, raise_at: int | None = None, error: Exception | type[Exception] = Interrupt
    ) -> None:
        self.count = 0
        self._raise_at = raise_at
        self._error = error

    def __call__(self, _: int, frame: FrameType | None) -> None:
        while frame is not None and frame.f_code is not blocked.__code__:
            frame = frame.f_back
        if frame is None:
            return
        self.count += 1
        if self.count == self._raise_at:
            raise self._error


class Thrice(Handler):
    """A signal handler for three runs within blocked()."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        super().__call__(number, frame)
        if self.count == 3:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.over.set()


@pytest.fixture(autouse=True)
def no_leaked_descriptor() -> Iterator[None]:
    before = len(open_descriptors())
    yield
    deadline = time.monotonic() + 10
    # A thread that looks into /proc for a sleeping one may not have closed its file yet.
    while len(open_descriptors()) != before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(open_descriptors()) == before


@contextlib.contextmanager
def rescue(unblock: Callable[[], object]) -> Iterator[None]:
    """Ends a call that should have been ended by an exception, so that the test can fail."""
    timer = threading.Timer(LIMIT, unblock)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@contextlib.contextmanager
def interrupted_until(function: Callable[[], object]) -> Iterator[None]:
    """Interrupts a call three times, then calls a function in another thread."""
    handler = Thrice()

    def wait_and_call() -> None:
        assert handler.over.wait(LIMIT), "no signals within the call"
        function()

    call = Call(wait_and_call)
    with every(0.01, handler):
        yield
    call.result()


@contextlib.contextmanager
def one_signal_when(
    condition: Callable[[], bool], handler: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Interrupts the main thread once, and sees to it that it was."""
    handled: list[int] = []
    main_thread = threading.get_ident()

    def handle(number: int, _: object) -> None:
        handled.append(number)
        handler()

    def interrupt() -> None:
        deadline = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < deadline, "there was no occasion for the signal"
            time.sleep(0.005)
        signal.pthread_kill(main_thread, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    call = Call(interrupt)
    try:
        yield
    finally:
        call.result()
        signal.signal(signal.SIGUSR1, before)
    assert handled


def accept_from(listener: socket.socket, client: socket.socket) -> socket.socket:
    """The accepted socket of a client; those of connects that were interrupted are closed."""
    while True:
        server, peer = listener.accept()
        if peer == client.getsockname():
            return server
        server.close()


# ----- a handler that returns


@waiting
def test_accept_goes_on_after_signals(presentation: Presentation, timeout: float | None) -> None:
    with presentation.listener() as listener, presentation.open() as client:
        listener.settimeout(timeout)
        with time_limit(), interrupted_until(lambda: client.connect(listener.getsockname())):
            server, _ = blocked(listener.accept)
        with server:
            round_trip(client, server)


@waiting
def test_connect_goes_on_after_signals(presentation: Presentation, timeout: float | None) -> None:
    accepted: list[socket.socket] = []
    with black_hole(presentation) as listener, presentation.open() as client:
        client.settimeout(timeout)
        with time_limit(), interrupted_until(lambda: accepted.append(accept_two(listener))):
            blocked(client.connect, listener.getsockname())
        (server,) = accepted
        with server:
            assert client.getpeername() == listener.getsockname()
            round_trip(client, server)


def test_connect_ex_goes_on_after_signals(presentation: Presentation) -> None:
    accepted: list[socket.socket] = []
    with black_hole(presentation) as listener, presentation.open() as client:
        with time_limit(), interrupted_until(lambda: accepted.append(accept_two(listener))):
            assert blocked(client.connect_ex, listener.getsockname()) == 0
        (server,) = accepted
        with server:
            round_trip(client, server)


def test_a_signal_to_a_thread_does_not_end_its_accept(presentation: Presentation) -> None:
    handled: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: handled.append(number))
    try:
        with presentation.listener() as listener, presentation.open() as client, time_limit():
            call = Call(listener.accept)
            for number in range(1, 4):
                assert call.thread.ident is not None
                signal.pthread_kill(call.thread.ident, signal.SIGUSR1)
                # No lock: a signal to another thread would not wake this one for its handler.
                while len(handled) < number:
                    time.sleep(0.005)
            client.connect(listener.getsockname())
            server, _ = call.result()
            with server:
                round_trip(client, server)
    finally:
        signal.signal(signal.SIGUSR1, before)


# ----- a handler that raises


@waiting
def test_an_exception_of_a_handler_gets_out_of_accept(
    presentation: Presentation, timeout: float | None
) -> None:
    with (
        presentation.listener() as listener,
        presentation.open() as client,
        rescue(lambda: client.connect(listener.getsockname())),
    ):
        listener.settimeout(timeout)
        with every(0.01, Handler(raise_at=3)), pytest.raises(Interrupt):
            blocked(listener.accept)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            round_trip(client, server)


@waiting
def test_an_exception_of_a_handler_gets_out_of_connect(
    presentation: Presentation, timeout: float | None
) -> None:
    with (
        black_hole(presentation) as listener,
        presentation.open() as client,
        rescue(lambda: accept_two(listener).close()),
    ):
        client.settimeout(timeout)
        with every(0.01, Handler(raise_at=3)), pytest.raises(Interrupt):
            blocked(client.connect, listener.getsockname())


def test_a_blocking_connect_that_an_exception_ended_may_be_resumed(
    presentation: Presentation,
) -> None:
    with black_hole(presentation) as listener, presentation.open() as client:
        with (
            rescue(lambda: accept_two(listener).close()),
            every(0.01, Handler(raise_at=3)),
            pytest.raises(Interrupt),
        ):
            blocked(client.connect, listener.getsockname())
        main_thread = threading.current_thread()

        def answer() -> socket.socket:
            wait_until_asleep(main_thread)
            return accept_two(listener)

        call = Call(answer)
        with time_limit():
            client.connect(listener.getsockname())
        with call.result() as server:
            round_trip(client, server)


# ----- a TCP peer
#
# smc_connect() of the kernel takes the peer for one that does SMC each time it is called, and only
# the SYN-ACK of a TCP peer puts that right. Called again between the SYN-ACK and the decision how
# to go on, it sends the TCP peer the SMC handshake (CLC) as data, and then may even succeed.


def assert_no_foreign_data(client: socket.socket, server: socket.socket, result: Outcome) -> None:
    """A connect either made a clean connection or failed; the peer got nothing but our data."""
    if result == ("returned", None):
        round_trip(client, server)
        return
    assert result[0] == "HandshakeInterruptedError"
    client.close()
    server.settimeout(LIMIT)
    assert server.recv(1) == b""


def test_a_tcp_peer_gets_no_handshake_when_a_handler_takes_long(
    presentation: Presentation,
) -> None:
    counter = Handler()
    accepted: list[socket.socket] = []

    def handler(number: int, frame: FrameType | None) -> None:
        counter(number, frame)
        if counter.count == 2:
            signal.setitimer(signal.ITIMER_REAL, 0)
            accepted.append(accept_two(listener))

    with black_hole(presentation) as listener, presentation.open() as client, time_limit():
        with every(0.05, handler):
            result = blocked(outcome, client.connect, listener.getsockname())
        (server,) = accepted
        with server:
            assert_no_foreign_data(client, server, result)


def test_a_tcp_peer_gets_no_handshake_when_an_interrupted_connect_is_resumed_late(
    presentation: Presentation,
) -> None:
    with black_hole(presentation) as listener, presentation.open() as client, time_limit():
        with every(0.01, Handler(raise_at=3)), pytest.raises(Interrupt):
            blocked(client.connect, listener.getsockname())
        with accept_two(listener) as server:
            result = outcome(client.connect, listener.getsockname())
            assert_no_foreign_data(client, server, result)


def test_a_tcp_peer_gets_no_handshake_however_often_connect_is_asked(
    presentation: Presentation,
) -> None:
    with presentation.tcp_socket() as listener, time_limit():
        listener.bind((presentation.host, 0))
        listener.listen()
        listener.settimeout(LIMIT)
        for _ in range(200):
            with presentation.open() as client:
                client.setblocking(False)
                under_way = (errno.EINPROGRESS, errno.EALREADY)
                while (code := client.connect_ex(listener.getsockname())) in under_way:
                    pass
                assert code in (0, errno.EISCONN)
                server, _ = listener.accept()
                with server:
                    round_trip(client, server)


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Does what Ctrl-C does, to a main thread that blocks.

    A signal just before a system call begins to block is not noticed until it ends: so it is
    with the standard library too.
    """
    main_thread = threading.current_thread()
    assert main_thread.ident is not None
    ident = main_thread.ident

    def press() -> None:
        wait_until_asleep(main_thread)
        signal.pthread_kill(ident, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield press
    signal.signal(signal.SIGINT, before)


@waiting
def test_ctrl_c_gets_out_of_accept(
    presentation: Presentation, timeout: float | None, ctrl_c: Callable[[], None]
) -> None:
    with (
        presentation.listener() as listener,
        presentation.open() as client,
        rescue(lambda: client.connect(listener.getsockname())),
    ):
        listener.settimeout(timeout)
        with interrupted_until(ctrl_c), pytest.raises(KeyboardInterrupt):
            blocked(listener.accept)


@waiting
def test_ctrl_c_gets_out_of_connect(
    presentation: Presentation, timeout: float | None, ctrl_c: Callable[[], None]
) -> None:
    with (
        black_hole(presentation) as listener,
        presentation.open() as client,
        rescue(lambda: accept_two(listener).close()),
    ):
        client.settimeout(timeout)
        with interrupted_until(ctrl_c), pytest.raises(KeyboardInterrupt):
            blocked(client.connect, listener.getsockname())


# ----- the SMC handshake


@waiting
def test_signals_before_the_handshake_do_no_harm(
    presentation: Presentation, smc_mode: Mode, timeout: float | None
) -> None:
    handler = Thrice()
    with presentation.listener() as listener, presentation.open() as client:
        client.settimeout(timeout)
        with slow_loopback(), time_limit(), every(0.01, handler):
            blocked(client.connect, listener.getsockname())
        assert handler.over.is_set()
        assert client.smc_info().mode is presentation.expected_mode(smc_mode)
        with accept_from(listener, client) as server:
            round_trip(client, server)


class SlowHandshake:
    """A listener over a loopback so slow that a handshake with it can be interrupted."""

    def __init__(self, listener: smcsock.socket) -> None:
        self.listener = listener
        self.address = listener.getsockname()

    def has_begun(self) -> bool:
        """Whether a client's TCP connection is there and its proposal (CLC) on the way."""
        for table in ("tcp", "tcp6"):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                _, _, remote, state, queues, *_ = line.split()
                port, unacknowledged = remote.rpartition(":")[2], queues.partition(":")[0]
                if state == "01" and int(port, 16) == self.address[1] and int(unacknowledged, 16):
                    return True
        return False


@pytest.fixture
def handshake(presentation: Presentation, smc_mode: Mode) -> Iterator[SlowHandshake]:
    if presentation.expected_mode(smc_mode) is Mode.TCP:
        pytest.skip("needs SMC: over TCP no client waits for the peer's handshake")
    with presentation.listener() as listener, slow_loopback(), time_limit():
        yield SlowHandshake(listener)


def test_a_signal_during_the_handshake_ends_a_blocking_connect(
    presentation: Presentation, handshake: SlowHandshake
) -> None:
    with presentation.open() as client:
        with (
            one_signal_when(handshake.has_begun),
            pytest.raises(HandshakeInterruptedError) as raised,
        ):
            client.connect(handshake.address)
        assert (raised.value.errno, raised.value.strerror) == (errno.EINTR, HANDSHAKE_ENDED)


def test_a_socket_whose_handshake_was_interrupted_is_of_no_more_use(
    presentation: Presentation, handshake: SlowHandshake
) -> None:
    with presentation.open() as client:
        with one_signal_when(handshake.has_begun):
            assert client.connect_ex(handshake.address) == errno.EINTR
        assert client.connect_ex(handshake.address) == errno.EINTR
        with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
            client.getpeername()
        with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
            client.send(b"to nobody")


def test_a_signal_during_the_handshake_does_not_end_a_connect_with_a_timeout(
    presentation: Presentation, handshake: SlowHandshake, smc_mode: Mode
) -> None:
    with presentation.open() as client:
        client.settimeout(LIMIT)
        with one_signal_when(handshake.has_begun):
            client.connect(handshake.address)
        assert client.smc_info().mode is smc_mode


def test_an_exception_of_a_handler_gets_out_of_the_handshake(
    presentation: Presentation, handshake: SlowHandshake
) -> None:
    def handler() -> None:
        raise Interrupt

    with (
        presentation.open() as client,
        one_signal_when(handshake.has_begun, handler),
        pytest.raises(Interrupt),
    ):
        client.connect(handshake.address)


@pytest.mark.parametrize("presentation", [INET, INET6], ids=lambda p: p.name)
@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_installed_connect_goes_on_when_a_signal_has_ended_the_handshake(
    presentation: Presentation, method: str, handshake: SlowHandshake, smc_mode: Mode
) -> None:
    """The program, written for TCP, knows of no handshake that a signal could end."""
    with smcsock.installed(), socket.socket(presentation.inet) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        with one_signal_when(handshake.has_begun):
            assert not getattr(client, method)(handshake.address)
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert smcsock.smc_info(client).mode is smc_mode
        with accept_from(handshake.listener, client) as server:
            round_trip(client, server)


def test_create_connection_goes_on_when_a_signal_has_ended_the_handshake(
    handshake: SlowHandshake, smc_mode: Mode
) -> None:
    with one_signal_when(handshake.has_begun):
        client = smcsock.create_connection(handshake.address[:2])
    with client, accept_from(handshake.listener, client) as server:
        assert client.smc_info().mode is smc_mode
        round_trip(client, server)


# ----- a storm of signals


def storm(connections: int, handler: Handler) -> Iterator[int]:
    """Counts connections, and goes on until signals have hit connect() a few times."""
    number = 0
    while number < connections or handler.count < 10:
        yield number
        number += 1


@pytest.fixture
def pace(presentation: Presentation) -> float:
    """Seconds that a connection takes here: what is a storm to one machine drowns another."""
    started = time.monotonic()
    for _ in range(10):
        with presentation.pair():
            pass
    return max((time.monotonic() - started) / 10, 0.001)


@pytest.mark.parametrize("interval", [2.0, 10.0])
def test_every_connect_with_a_timeout_succeeds_in_a_storm(
    presentation: Presentation, pace: float, interval: float
) -> None:
    handler = Handler()
    with presentation.listener() as listener, time_limit(), every(interval * pace, handler):
        listener.settimeout(LIMIT)
        for _ in storm(40, handler):
            with presentation.open() as client:
                client.settimeout(LIMIT)
                blocked(client.connect, listener.getsockname())
                with accept_from(listener, client) as server:
                    round_trip(client, server)


@pytest.mark.parametrize("interval", [2.0, 10.0])
def test_a_blocking_connect_in_a_storm_succeeds_or_says_that_it_was_interrupted(
    presentation: Presentation, pace: float, interval: float
) -> None:
    handler = Handler()
    interrupted: list[str | None] = []
    with presentation.listener() as listener, time_limit(), every(interval * pace, handler):
        for _ in storm(40, handler):
            with presentation.open() as client:
                try:
                    blocked(client.connect, listener.getsockname())
                except HandshakeInterruptedError as error:
                    interrupted.append(error.strerror)
                    continue
                with accept_from(listener, client) as server:
                    round_trip(client, server)
    # TCP has no handshake to be interrupted.
    assert set(interrupted) <= ({HANDSHAKE_ENDED} if smcsock.has_smc() else set())


@pytest.mark.parametrize("presentation", [INET, INET6], ids=lambda p: p.name)
@pytest.mark.parametrize("create", [socket.create_connection, smcsock.create_connection])
def test_an_interrupted_error_of_a_handler_ends_create_connection(
    presentation: Presentation, create: Callable[..., socket.socket]
) -> None:
    error = InterruptedError(errno.EINTR, "enough, says the program")
    with (
        black_hole(presentation) as listener,
        time_limit(),
        every(0.05, Handler(1, error)),
        pytest.raises(InterruptedError) as raised,
    ):
        blocked(create, listener.getsockname()[:2])
    assert raised.value is error


@pytest.mark.parametrize("presentation", [INET, INET6], ids=lambda p: p.name)
def test_every_create_connection_succeeds_in_a_storm(
    presentation: Presentation, pace: float
) -> None:
    handler = Handler()
    with presentation.listener() as listener, time_limit(), every(pace, handler):
        for _ in storm(40, handler):
            client = blocked(smcsock.create_connection, listener.getsockname()[:2])
            with client, accept_from(listener, client) as server:
                round_trip(client, server)
