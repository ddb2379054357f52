"""Threads: no call keeps the GIL, and none is confused by the others."""

import contextlib
import errno
import functools
import hashlib
import operator
import os
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SMC, Presentation, on_host
from test_processes import in_child
from test_timeouts import (
    IN_GUEST,
    LIMIT,
    Call,
    Open,
    Outcome,
    accept_two,
    black_hole,
    listening,
    outcome,
    round_trip,
    wait_until_asleep,
)

import smcsock
from smcsock import Mode, _smcsock

# ----- the GIL


def releases_the_gil(function: Callable[[], object], limit: float = LIMIT) -> bool:
    """Whether a thread that waits for the GIL gets it while a function is called repeatedly.

    The interpreter itself is made never to take the GIL away, so that it changes hands only if
    the function releases it.
    """
    release = threading.Lock()
    progress: list[bool] = []

    def other() -> None:
        with release:
            progress.append(True)

    release.acquire()
    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(10 * LIMIT)
    try:
        release.release()
        deadline = time.monotonic() + limit
        while not progress and time.monotonic() < deadline:
            function()
        result = bool(progress)
    finally:
        sys.setswitchinterval(interval)
    thread.join(LIMIT)
    return result


def quietly(function: Callable[..., object], *args: object) -> Callable[[], None]:
    def call() -> None:
        with contextlib.suppress(OSError):
            function(*args)

    return call


def lets_others_run(function: Callable[[], object]) -> bool:
    """As releases_the_gil(), for a function that is too short to be caught without the GIL.

    Here the interpreter does take the GIL away, but not between the calls, which are made from
    C. A thread that has waited for its switch interval is sure to get the GIL when the function
    next releases it, and then ends the calls.
    """
    release = threading.Lock()
    release.acquire()
    calls: list[Callable[[], object]] = [release.release, *[function] * 500_000]
    number = len(calls)

    def other() -> None:
        with release:
            calls.clear()

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    made = len(deque(map(operator.call, calls)))
    thread.join(LIMIT)
    return made < number


@on_host
@pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="this interpreter has no GIL"
)
def test_a_call_that_keeps_the_gil_is_told_apart() -> None:
    keeps = functools.partial(sum, range(100))
    assert not releases_the_gil(keeps, limit=0.5)
    assert not lets_others_run(keeps)


@pytest.fixture
def sock() -> Iterator[smcsock.socket]:
    with SMC.open() as sock:
        sock.bind((SMC.host, 0))
        sock.setblocking(False)
        yield sock


def test_socket_releases_the_gil() -> None:
    # An unknown protocol: no descriptor, whose close() would release the GIL too.
    assert releases_the_gil(quietly(_smcsock.socket, socket.SOCK_STREAM, 99))


def test_bind_releases_the_gil(sock: smcsock.socket) -> None:
    assert releases_the_gil(quietly(sock.bind, sock.getsockname()))


def test_listen_releases_the_gil(sock: smcsock.socket) -> None:
    assert lets_others_run(sock.listen)


def test_accept_releases_the_gil(sock: smcsock.socket) -> None:
    sock.listen()
    assert releases_the_gil(quietly(sock.accept))


def test_connect_releases_the_gil() -> None:
    with SMC.pair() as (client, server):
        assert releases_the_gil(quietly(client.connect, server.getsockname()))


def test_connect_ex_releases_the_gil() -> None:
    with SMC.pair() as (client, server):
        assert lets_others_run(functools.partial(client.connect_ex, server.getsockname()))


def test_resolving_a_name_releases_the_gil(sock: smcsock.socket) -> None:
    # An IPv6 address is no host of an IPv4 socket: bind() fails before its own system call.
    assert releases_the_gil(quietly(sock.bind, ("::1", 0)))


@pytest.mark.usefixtures("smc_mode")
def test_diag_releases_the_gil(sock: smcsock.socket) -> None:
    assert lets_others_run(sock._diag)


def count_while_accept_blocks() -> None:
    with SMC.listener() as listener, SMC.open() as client:
        call = Call(listener.accept)
        wait_until_asleep(call.thread)
        assert sum(1 for _ in range(100_000)) == 100_000
        client.connect(listener.getsockname())
        call.result()[0].close()


def count_while_connect_blocks() -> None:
    with black_hole(SMC) as listener, SMC.open() as client:
        call = Call(client.connect, listener.getsockname())
        wait_until_asleep(call.thread)
        assert sum(1 for _ in range(100_000)) == 100_000
        accept_two(listener).close()
        call.result()


def answer_while_a_name_is_resolved() -> None:
    def answer() -> None:
        query, address = name_server.recvfrom(512)
        question = query[12 : query.index(b"\0", 12) + 5]
        header = query[:2] + bytes.fromhex("8180 0001 0001 0000 0000")
        record = bytes.fromhex("c00c 0001 0001 00000001 0004") + socket.inet_aton(SMC.host)
        name_server.sendto(header + question + record, address)

    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as name_server,
        SMC.listener() as listener,
        SMC.open() as client,
    ):
        name_server.bind((SMC.host, 53))
        call = Call(answer)
        client.connect(("peer.smcsock.test", listener.getsockname()[1]))
        call.result()
        assert client.getpeername() == listener.getsockname()


@pytest.mark.parametrize("function", [count_while_accept_blocks, count_while_connect_blocks])
def test_other_threads_run_while_a_call_blocks(function: Callable[[], None]) -> None:
    in_child(function)  # which may hang with the GIL


def test_other_threads_run_while_a_name_is_resolved() -> None:
    if not IN_GUEST:
        pytest.skip("replaces /etc/resolv.conf: in a guest only")
    path = Path("/etc/resolv.conf")
    before = path.read_text() if path.exists() else ""
    path.write_text("nameserver 127.0.0.1\n")
    try:
        in_child(answer_while_a_name_is_resolved)
    finally:
        path.write_text(before)


# ----- many threads


@pytest.mark.parametrize("timeout", [None, LIMIT], ids=["blocking", "timeout"])
def test_64_threads_connect_and_64_accept(
    presentation: Presentation, timeout: float | None
) -> None:
    threads, size = 64, 50_000
    at_once = threading.Barrier(threads)

    def serve() -> None:
        server, _ = listener.accept()
        with server:
            server.settimeout(LIMIT)
            server.sendall(b"".join(iter(lambda: server.recv(1 << 16), b"")))

    def connect(number: int) -> None:
        data = hashlib.shake_128(number.to_bytes()).digest(size)
        with presentation.open() as client:
            client.settimeout(timeout)
            at_once.wait(LIMIT)
            client.connect(listener.getsockname())
            client.settimeout(LIMIT)
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            assert b"".join(iter(lambda: client.recv(1 << 16), b"")) == data

    with presentation.listener() as listener:
        listener.settimeout(timeout)
        calls = [Call(serve) for _ in range(threads)]
        calls += [Call(connect, number) for number in range(threads)]
        for call in calls:
            call.result()


def test_smc_info_is_that_of_the_socket_while_others_come_and_go(
    presentation: Presentation, smc_mode: Mode
) -> None:
    def ask() -> None:
        for _ in range(10):
            with presentation.pair() as sockets:
                for sock in sockets:
                    info = sock.smc_info()
                    assert info.inode == os.fstat(sock.fileno()).st_ino
                    assert info.mode is presentation.expected_mode(smc_mode)
                    assert info.peer == sock.getpeername()

    for call in [Call(ask) for _ in range(8)]:
        call.result()


# ----- one socket, two threads


def test_a_listener_closed_in_a_blocking_accept_serves_that_accept(
    presentation: Presentation,
) -> None:
    # The call holds the kernel's socket: it ends with the next connection.
    def scenario(open_: Open) -> str:
        with listening(open_, presentation.host) as listener, open_() as client:
            address = listener.getsockname()
            call = Call(outcome, listener.accept)
            wait_until_asleep(call.thread)
            listener.close()
            client.connect(address)
            result, accepted = call.result()
            with accepted[0]:
                round_trip(client, accepted[0])
            return result

    assert scenario(presentation.open) == scenario(presentation.tcp_socket) == "returned"


def test_an_accept_whose_listener_is_closed_takes_no_connection_of_another(
    presentation: Presentation,
) -> None:
    # Waiting with a timeout, poll() looks its descriptor up again whenever it is woken.
    def scenario(open_: Open) -> Outcome:
        with listening(open_, presentation.host) as listener, open_() as first, open_() as second:
            address, number = listener.getsockname(), listener.fileno()
            listener.settimeout(LIMIT)
            call = Call(outcome, listener.accept)
            wait_until_asleep(call.thread)
            listener.close()
            with listening(open_, presentation.host) as other:
                assert other.fileno() == number
                first.connect(other.getsockname())
                assert select.select([other], [], [], LIMIT)[0]
                # It wakes the accept; the listener it reaches may be gone before it is connected.
                with contextlib.suppress(ConnectionError):
                    second.connect(address)
                result = call.result()
                conn = result[1][0] if result[0] == "returned" else other.accept()[0]
                conn.close()
                return result

    assert scenario(presentation.tcp_socket) == ("OSError", "[Errno 9] Bad file descriptor")
    assert scenario(presentation.open) == ("OSError", "[Errno 9] Bad file descriptor")


def test_a_connect_whose_socket_is_closed_does_not_ask_another_how_it_went(
    presentation: Presentation,
) -> None:
    def scenario(open_: Open) -> Outcome:
        with (
            black_hole(presentation) as listener,
            listening(presentation.tcp_socket, presentation.host) as peer,
            open_() as client,
        ):
            number = client.fileno()
            client.settimeout(LIMIT)
            call = Call(outcome, client.connect, listener.getsockname())
            wait_until_asleep(call.thread)
            client.close()
            with open_() as other:
                assert other.fileno() == number
                other.connect(peer.getsockname())
                with accept_two(listener):
                    return call.result()

    assert scenario(presentation.tcp_socket) == ("OSError", "[Errno 9] Bad file descriptor")
    assert scenario(presentation.open) == ("OSError", "[Errno 9] Bad file descriptor")


@pytest.mark.parametrize("timeout", [None, LIMIT], ids=["blocking", "timeout"])
def test_shutdown_of_a_listener_in_accept(
    presentation: Presentation, timeout: float | None
) -> None:
    def scenario(open_: Open) -> list[Any]:
        with listening(open_, presentation.host) as listener, open_() as client:
            address = listener.getsockname()
            listener.settimeout(timeout)
            call = Call(outcome, listener.accept)
            wait_until_asleep(call.thread)
            results: list[Any] = [outcome(listener.shutdown, socket.SHUT_RDWR)[0]]
            results.append(client.connect_ex(address))
            how, accepted = call.result()
            results.append(how)
            if how == "returned":
                accepted[0].close()
            return results

    assert scenario(presentation.tcp_socket) == ["returned", errno.ECONNREFUSED, "OSError"]
    if smcsock.has_smc():
        # The kernel refuses to shut an SMC listener down (ENOTCONN): it goes on.
        assert scenario(presentation.open) == ["OSError", 0, "returned"]
    else:
        assert scenario(presentation.open) == scenario(presentation.tcp_socket)


def test_two_threads_that_connect_one_socket_both_come_back(presentation: Presentation) -> None:
    with black_hole(presentation) as listener, presentation.open() as client:
        calls = [Call(client.connect_ex, listener.getsockname()) for _ in range(2)]
        for call in calls:
            wait_until_asleep(call.thread)
        with accept_two(listener) as server:
            codes = sorted(call.result() for call in calls)
            # TCP lets both wait for the connection; SMC lets the second one in afterwards.
            assert codes == ([0, errno.EISCONN] if smcsock.has_smc() else [0, 0])
            round_trip(client, server)
