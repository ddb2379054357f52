"""The type: what it is, and that it behaves as a TCP socket does.

Where the standard library is the oracle, a scenario runs on a TCP connection and on
an SMC connection, and has to have the same outcome: a result, or an exception's type
and text.
"""

import array
import asyncio
import contextlib
import copy
import errno
import fcntl
import gc
import hashlib
import inspect
import io
import os
import pickle
import re
import select
import selectors
import socket
import ssl
import struct
import sys
import tempfile
import termios
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import conftest
import pytest
from conftest import INET, INET6, SMC, VM_KERNEL, Presentation
from descriptors import open_descriptors

import smcsock
from smcsock import AF_SMC, IPPROTO_SMC, SMCPROTO_SMC, SMCPROTO_SMC6, Mode

LIMIT = 120
"""Seconds until a test that hangs fails."""

STREAM = socket.SOCK_STREAM
IPPROTO_MPTCP = 262

over_ipv4 = pytest.mark.parametrize("presentation", [SMC, INET], ids=lambda p: p.name)

T = TypeVar("T")
Scenario = Callable[[socket.socket, socket.socket], object]
Pair = tuple[smcsock.socket, smcsock.socket]


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    with conftest.time_limit(LIMIT):
        yield


@contextlib.contextmanager
def in_thread(function: Callable[..., T], *args: Any) -> Iterator[Future[T]]:
    """Runs a function in a thread, which has ended when the context is left."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield future
    future.result(LIMIT)
    thread.join(LIMIT)


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly size bytes, fewer at the end of the stream."""
    data = bytearray()
    while len(data) < size and (chunk := sock.recv(min(size - len(data), 1 << 20))):
        data += chunk
    return bytes(data)


def drain(sock: socket.socket) -> bytes:
    return receive(sock, sys.maxsize)


def raises(code: int) -> contextlib.AbstractContextManager[Any]:
    return pytest.raises(OSError, match=re.escape(f"[Errno {code}] {os.strerror(code)}"))


# ----- the same outcome as for TCP

SCENARIOS: list[Scenario] = []


def same_as_tcp(scenario: Scenario) -> Scenario:
    SCENARIOS.append(scenario)
    return scenario


def outcome(scenario: Callable[..., object], *args: Any) -> object:
    try:
        return scenario(*args)
    except Exception as error:
        return type(error), str(error)


@contextlib.contextmanager
def tcp_pair(presentation: Presentation) -> Iterator[tuple[socket.socket, socket.socket]]:
    with presentation.tcp_socket() as listener, presentation.tcp_socket() as client:
        listener.bind((presentation.host, 0))
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            yield client, server


def at_both_ends(
    scenario: Scenario, pair: Callable[[], contextlib.AbstractContextManager[Any]]
) -> dict[str, object]:
    with pair() as (client, server):
        at_client = outcome(scenario, client, server)
    with pair() as (client, server):
        return {"client": at_client, "server": outcome(scenario, server, client)}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_connection_does_as_tcp_does(presentation: Presentation, scenario: Scenario) -> None:
    expected = at_both_ends(scenario, lambda: tcp_pair(presentation))
    assert at_both_ends(scenario, presentation.pair) == expected


# sending and receiving


@same_as_tcp
def send_gives_the_number_of_bytes(sock: socket.socket, peer: socket.socket) -> object:
    return sock.send(b"hello"), receive(peer, 5)


@same_as_tcp
def send_takes_any_buffer(sock: socket.socket, peer: socket.socket) -> object:
    sent = [sock.send(data) for data in (b"", bytearray(b"ab"), array.array("I", [1, 2]))]
    return sent, receive(peer, 10)


@same_as_tcp
def send_refuses_text(sock: socket.socket, _: socket.socket) -> object:
    return sock.send("text")  # type: ignore[arg-type]


@same_as_tcp
def sendall_gives_none(sock: socket.socket, peer: socket.socket) -> object:
    return sock.sendall(b"hello"), receive(peer, 5)  # type: ignore[func-returns-value]


@same_as_tcp
def sendto_ignores_the_address(sock: socket.socket, peer: socket.socket) -> object:
    return sock.sendto(b"hello", peer.getsockname()), receive(peer, 5)


@same_as_tcp
def sendto_takes_flags(sock: socket.socket, peer: socket.socket) -> object:
    return sock.sendto(b"hello", socket.MSG_DONTWAIT, peer.getsockname()), receive(peer, 5)


@same_as_tcp
def sendto_without_address_is_refused(sock: socket.socket, _: socket.socket) -> object:
    return sock.sendto(b"hello")  # type: ignore[call-overload]


@same_as_tcp
def sendto_refuses_what_is_no_address(sock: socket.socket, _: socket.socket) -> object:
    return sock.sendto(b"hello", "nowhere")


@same_as_tcp
def sendmsg_joins_its_buffers(sock: socket.socket, peer: socket.socket) -> object:
    buffers: list[Any] = [b"one", bytearray(b"two"), b"", memoryview(b"three")]
    return sock.sendmsg(buffers), receive(peer, 11)


@same_as_tcp
def sendmsg_ignores_the_address(sock: socket.socket, peer: socket.socket) -> object:
    return sock.sendmsg([b"hello"], [], 0, peer.getsockname()), receive(peer, 5)


@same_as_tcp
def recv_gives_what_is_there(sock: socket.socket, peer: socket.socket) -> object:
    peer.sendall(b"hello")
    return receive(sock, 2), sock.recv(100)


@same_as_tcp
def recv_of_nothing(sock: socket.socket, peer: socket.socket) -> object:
    peer.sendall(b"hello")
    return sock.recv(0), receive(sock, 5)


@same_as_tcp
def recv_refuses_a_negative_size(sock: socket.socket, _: socket.socket) -> object:
    return sock.recv(-1)


@same_as_tcp
def recv_into_fills_the_buffer(sock: socket.socket, peer: socket.socket) -> object:
    peer.sendall(b"hello")
    buffer = bytearray(b"........")
    return sock.recv_into(buffer, 5, socket.MSG_WAITALL), buffer


@same_as_tcp
def recv_into_refuses_a_buffer_too_small(sock: socket.socket, _: socket.socket) -> object:
    return sock.recv_into(bytearray(1), 2)


@same_as_tcp
def recv_into_refuses_a_read_only_buffer(sock: socket.socket, _: socket.socket) -> object:
    return sock.recv_into(b"read-only")


@same_as_tcp
def recvfrom_names_no_peer(sock: socket.socket, peer: socket.socket) -> object:
    peer.sendall(b"hello")
    return sock.recvfrom(5, socket.MSG_WAITALL)


@same_as_tcp
def recvfrom_into_names_no_peer(sock: socket.socket, peer: socket.socket) -> object:
    peer.sendall(b"hello")
    buffer = bytearray(8)
    return sock.recvfrom_into(buffer, 5, socket.MSG_WAITALL), buffer


@same_as_tcp
def recvmsg_gives_data_and_no_more(sock: socket.socket, peer: socket.socket) -> object:
    peer.sendall(b"hello")
    return sock.recvmsg(5, 100, socket.MSG_WAITALL)


@same_as_tcp
def recvmsg_into_fills_buffers_in_turn(sock: socket.socket, peer: socket.socket) -> object:
    peer.sendall(b"hello")
    buffers = [bytearray(2), bytearray(0), bytearray(8)]
    return sock.recvmsg_into(buffers, 0, socket.MSG_PEEK), buffers


@same_as_tcp
def peek_leaves_the_data(sock: socket.socket, peer: socket.socket) -> object:
    peer.sendall(b"hello")
    return sock.recv(5, socket.MSG_PEEK | socket.MSG_WAITALL), receive(sock, 5)


@same_as_tcp
def waitall_waits_for_all(sock: socket.socket, peer: socket.socket) -> object:
    peer.sendall(b"hel")
    with in_thread(sock.recv, 5, socket.MSG_WAITALL) as received:
        peer.sendall(b"lo, world")
    return received.result(), receive(sock, 7)


@same_as_tcp
def dontwait_does_not_wait(sock: socket.socket, _: socket.socket) -> object:
    return sock.recv(1, socket.MSG_DONTWAIT)


@same_as_tcp
def dontwait_sends_until_full(sock: socket.socket, _: socket.socket) -> object:
    while True:
        sock.send(bytes(1 << 20), socket.MSG_DONTWAIT)


@same_as_tcp
def trunc_throws_data_away(sock: socket.socket, peer: socket.socket) -> object:
    peer.sendall(b"hello")
    sock.recv(3, socket.MSG_PEEK | socket.MSG_WAITALL)
    return len(sock.recv(3, socket.MSG_TRUNC)), receive(sock, 2)


@same_as_tcp
def urgent_data_goes_beside_the_stream(sock: socket.socket, peer: socket.socket) -> object:
    peer.sendall(b"ab")
    sent = peer.send(b"!", socket.MSG_OOB)
    select.select([], [], [sock], LIMIT)
    return sent, sock.recv(1, socket.MSG_OOB), receive(sock, 2)


@same_as_tcp
def several_megabytes_arrive_whole(sock: socket.socket, peer: socket.socket) -> object:
    block = bytes(range(256)) * 1021  # no divisor of any buffer's size
    size = 3_000_000
    data = (block * (size // len(block) + 1))[:size]
    with in_thread(receive, peer, size) as received:
        sock.sendall(data)
    return hashlib.sha256(received.result()).hexdigest()


@same_as_tcp
def both_directions_at_once(sock: socket.socket, peer: socket.socket) -> object:
    data = bytes(500_000)
    with (
        in_thread(receive, sock, len(data)) as here,
        in_thread(receive, peer, len(data)) as there,
        in_thread(peer.sendall, data),
    ):
        sock.sendall(data)
    return here.result() == there.result() == data


# files


@same_as_tcp
def makefile_reads(sock: socket.socket, peer: socket.socket) -> object:
    peer.sendall(b"one\ntwo\n")
    peer.shutdown(socket.SHUT_WR)
    with sock.makefile("rb") as file:
        return file.readline(), file.read(), file.read(), type(file)


@same_as_tcp
def makefile_writes(sock: socket.socket, peer: socket.socket) -> object:
    with sock.makefile("wb") as file:
        written = file.write(b"hello"), type(file)
    return written, receive(peer, 5)


@same_as_tcp
def makefile_reads_and_writes(sock: socket.socket, peer: socket.socket) -> object:
    with sock.makefile("rwb") as file:
        file.write(b"question\n")
        file.flush()
        asked = receive(peer, 9)
        peer.sendall(b"answer\n")
        return asked, file.readline(), type(file)


@same_as_tcp
def makefile_of_text(sock: socket.socket, peer: socket.socket) -> object:
    with sock.makefile("rw", encoding="utf-16-le", newline="\r\n") as file:
        file.write("grün\n")
        file.flush()
        asked = receive(peer, 12)
        peer.sendall(asked)
        return asked, file.readline(), type(file)


@same_as_tcp
def makefile_without_buffer(sock: socket.socket, peer: socket.socket) -> object:
    with sock.makefile("rwb", buffering=0) as file:
        written = file.write(b"hello")
        return written, receive(peer, 5), type(file)


@same_as_tcp
def makefile_refuses_other_modes(sock: socket.socket, _: socket.socket) -> object:
    return sock.makefile("a")  # type: ignore[call-overload]


@same_as_tcp
def makefile_refuses_unbuffered_text(sock: socket.socket, _: socket.socket) -> object:
    return sock.makefile("r", buffering=0)


@same_as_tcp
def makefile_keeps_a_closed_socket_open(sock: socket.socket, peer: socket.socket) -> object:
    with sock.makefile("rb") as file:
        sock.close()
        peer.sendall(b"hello")
        data = file.read(5)
    return data, outcome(os.fstat, sock.fileno()), drain(peer)


@same_as_tcp
def makefile_times_out(sock: socket.socket, _: socket.socket) -> object:
    sock.settimeout(0.01)
    with sock.makefile("rb") as file:
        return outcome(file.read, 1), outcome(file.read, 1)


@same_as_tcp
def sendfile_sends_a_file(sock: socket.socket, peer: socket.socket) -> object:
    with tempfile.TemporaryFile() as file, in_thread(drain, peer) as received:
        file.write(bytes(range(256)) * 1021)
        file.seek(0)
        sent = sock.sendfile(file), file.tell()
        sock.shutdown(socket.SHUT_WR)
    return sent, hashlib.sha256(received.result()).hexdigest()


@same_as_tcp
def sendfile_sends_a_part(sock: socket.socket, peer: socket.socket) -> object:
    with tempfile.TemporaryFile() as file:
        file.write(b"0123456789")
        file.flush()
        return sock.sendfile(file, offset=2, count=5), file.tell(), receive(peer, 5)


@same_as_tcp
def sendfile_with_a_timeout_leaves_nothing_behind(
    sock: socket.socket, peer: socket.socket
) -> object:
    # As above, but the stream goes on: nothing pushes out what the kernel keeps back.
    sock.settimeout(LIMIT)
    data = bytes(range(256)) * 1021
    with tempfile.TemporaryFile() as file, in_thread(receive, peer, len(data)) as received:
        file.write(data)
        file.flush()
        sent = sock.sendfile(file)
    return sent, hashlib.sha256(received.result()).hexdigest()


@same_as_tcp
def sendfile_from_an_offset_leaves_nothing_behind(
    sock: socket.socket, peer: socket.socket
) -> object:
    with tempfile.TemporaryFile() as file:
        file.write(b"0123456789")
        file.flush()
        return [
            (sock.sendfile(file, offset=2), file.tell(), receive(peer, 8)),
            (sock.sendfile(file, offset=4, count=100), file.tell(), receive(peer, 6)),
            (sock.sendfile(file, offset=10), sock.sendfile(file, offset=12)),
        ]


@same_as_tcp
def sendfile_sends_what_is_no_file(sock: socket.socket, peer: socket.socket) -> object:
    return sock.sendfile(io.BytesIO(b"0123456789"), 2, 5), receive(peer, 5)


@same_as_tcp
def sendfile_refuses_text(sock: socket.socket, _: socket.socket) -> object:
    return sock.sendfile(io.StringIO("text"))  # type: ignore[arg-type]


@same_as_tcp
def sendfile_refuses_a_count_of_none(sock: socket.socket, _: socket.socket) -> object:
    with tempfile.TemporaryFile() as file:
        return sock.sendfile(file, count=0)


@same_as_tcp
def sendfile_refuses_a_non_blocking_socket(sock: socket.socket, _: socket.socket) -> object:
    sock.setblocking(False)
    with tempfile.TemporaryFile() as file:
        return sock.sendfile(file)


# shutdown and close


@same_as_tcp
def shutdown_rd_ends_reading(sock: socket.socket, peer: socket.socket) -> object:
    sock.shutdown(socket.SHUT_RD)
    return sock.recv(1), sock.send(b"hello"), receive(peer, 5)


@same_as_tcp
def shutdown_wr_ends_the_peers_stream(sock: socket.socket, peer: socket.socket) -> object:
    sock.sendall(b"hello")
    sock.shutdown(socket.SHUT_WR)
    return drain(peer), outcome(sock.send, b"more")


@same_as_tcp
def shutdown_wr_leaves_the_other_direction(sock: socket.socket, peer: socket.socket) -> object:
    sock.shutdown(socket.SHUT_WR)
    drain(peer)
    peer.sendall(b"still here")
    peer.close()
    return drain(sock)


@same_as_tcp
def shutdown_rdwr_ends_both(sock: socket.socket, peer: socket.socket) -> object:
    sock.shutdown(socket.SHUT_RDWR)
    return drain(peer), sock.recv(1), outcome(sock.send, b"more")


@same_as_tcp
def shutdown_refuses_what_it_does_not_know(sock: socket.socket, _: socket.socket) -> object:
    return outcome(sock.shutdown, 3), outcome(sock.shutdown, -1)


@same_as_tcp
def data_sent_before_close_arrives(sock: socket.socket, peer: socket.socket) -> object:
    sock.sendall(b"hello")
    sock.close()
    return drain(peer), peer.recv(1)


@same_as_tcp
def context_closes(sock: socket.socket, peer: socket.socket) -> object:
    with sock as same:
        assert same is sock
    return sock.fileno(), drain(peer)


@same_as_tcp
def close_may_be_repeated(sock: socket.socket, _: socket.socket) -> object:
    sock.close()
    return sock.close(), sock.fileno()  # type: ignore[func-returns-value]


@same_as_tcp
def detach_gives_up_the_descriptor(sock: socket.socket, peer: socket.socket) -> object:
    fd = sock.detach()
    try:
        sock.close()
        return os.write(fd, b"hello"), receive(peer, 5), sock.fileno(), sock.detach()
    finally:
        os.close(fd)


@same_as_tcp
def dup_outlives_its_original(sock: socket.socket, peer: socket.socket) -> object:
    with sock.dup() as other:
        sock.close()
        return other.send(b"hello"), receive(peer, 5)


@same_as_tcp
def dup_has_the_same_timeout(sock: socket.socket, _: socket.socket) -> object:
    timeouts = []
    for timeout in (None, 0.0, 2.5):
        sock.settimeout(timeout)
        with sock.dup() as other:
            timeouts.append(other.gettimeout())
    return timeouts


@same_as_tcp
def dup_is_not_inherited(sock: socket.socket, _: socket.socket) -> object:
    sock.set_inheritable(True)
    with sock.dup() as other:
        return other.get_inheritable()


# timeouts, waiting


@same_as_tcp
def timeouts_read_back(sock: socket.socket, _: socket.socket) -> object:
    states = []
    for timeout in (None, 0, 0.0, 2, 2.5, 1e-12):
        sock.settimeout(timeout)
        states.append((sock.gettimeout(), sock.getblocking(), os.get_blocking(sock.fileno())))
    return states


@same_as_tcp
def bad_timeouts_are_refused(sock: socket.socket, _: socket.socket) -> object:
    bad: list[Any] = [-1, float("nan"), 1e300, "1"]
    return [outcome(sock.settimeout, timeout) for timeout in bad]


@same_as_tcp
def setblocking_sets_the_timeout(sock: socket.socket, _: socket.socket) -> object:
    sock.setblocking(False)
    states = [(sock.gettimeout(), sock.getblocking())]
    sock.setblocking(True)
    return [*states, (sock.gettimeout(), sock.getblocking())]


@same_as_tcp
def recv_times_out(sock: socket.socket, _: socket.socket) -> object:
    sock.settimeout(0.01)
    return sock.recv(1)


@same_as_tcp
def sendall_times_out(sock: socket.socket, _: socket.socket) -> object:
    sock.settimeout(0.01)
    return sock.sendall(bytes(1 << 25))  # type: ignore[func-returns-value]


@same_as_tcp
def non_blocking_recv_does_not_wait(sock: socket.socket, _: socket.socket) -> object:
    sock.setblocking(False)
    return sock.recv(1)


@same_as_tcp
def select_waits_for_data(sock: socket.socket, peer: socket.socket) -> object:
    before = [len(ready) for ready in select.select([sock], [sock], [sock], 0)]
    peer.sendall(b"hello")
    return before, select.select([sock], [], [], LIMIT) == ([sock], [], [])


def events_once(sock: socket.socket, wanted: int) -> int:
    """What poll() says of a socket as soon as it says one of the events that are wanted."""
    poll = select.poll()
    poll.register(sock, wanted)
    poll.poll(LIMIT * 1000)
    poll.modify(sock, select.POLLIN | select.POLLPRI | select.POLLOUT | select.POLLRDHUP)
    return dict(poll.poll(0)).get(sock.fileno(), 0)


@same_as_tcp
def poll_of_an_idle_connection(sock: socket.socket, _: socket.socket) -> object:
    return events_once(sock, select.POLLOUT)


@same_as_tcp
def poll_with_data(sock: socket.socket, peer: socket.socket) -> object:
    peer.sendall(b"hello")
    return events_once(sock, select.POLLIN)


@same_as_tcp
def poll_after_the_peers_shutdown(sock: socket.socket, peer: socket.socket) -> object:
    peer.shutdown(socket.SHUT_WR)
    return events_once(sock, select.POLLRDHUP)


@same_as_tcp
def poll_after_shutdown_of_both(sock: socket.socket, peer: socket.socket) -> object:
    sock.shutdown(socket.SHUT_WR)
    drain(peer)
    peer.shutdown(socket.SHUT_WR)
    return events_once(sock, select.POLLHUP)


@same_as_tcp
def poll_after_the_peers_close(sock: socket.socket, peer: socket.socket) -> object:
    peer.close()
    return events_once(sock, select.POLLRDHUP)


@same_as_tcp
def epoll_at_edges(sock: socket.socket, peer: socket.socket) -> object:
    seen: list[object] = []
    with select.epoll() as epoll:
        epoll.register(sock, select.EPOLLIN | select.EPOLLET)
        for data in (b"hello", b"again"):
            peer.sendall(data)
            seen.append([events for _, events in epoll.poll(LIMIT)])
            seen.append(receive(sock, 5))
    return seen


@same_as_tcp
def selector_waits_for_data(sock: socket.socket, peer: socket.socket) -> object:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ, "data")
        before = selector.select(0)
        peer.sendall(b"hello")
        return before, [(key.data, events) for key, events in selector.select(LIMIT)]


@same_as_tcp
def fionread_counts_what_is_there(sock: socket.socket, peer: socket.socket) -> object:
    def count() -> int:
        (size,) = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))
        return int(size)

    before = count()
    peer.sendall(b"hello")
    sock.recv(5, socket.MSG_PEEK | socket.MSG_WAITALL)
    return before, count()


# names, options, the rest


@same_as_tcp
def names_are_the_peers_of_each_other(sock: socket.socket, peer: socket.socket) -> object:
    name = sock.getsockname()
    return name == peer.getpeername(), sock.getpeername() == peer.getsockname(), name[0], name[2:]


@same_as_tcp
def inheritable_reads_back(sock: socket.socket, _: socket.socket) -> object:
    states = [sock.get_inheritable()]
    for inheritable in (True, False):
        sock.set_inheritable(inheritable)
        states.append(sock.get_inheritable())
    return states


OPTIONS: dict[str, tuple[int, int, int | bytes]] = {
    "SO_BROADCAST": (socket.SOL_SOCKET, socket.SO_BROADCAST, 1),
    "SO_KEEPALIVE": (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    "SO_LINGER": (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3)),
    "SO_OOBINLINE": (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),
    "SO_RCVBUF": (socket.SOL_SOCKET, socket.SO_RCVBUF, 40_000),
    "SO_RCVLOWAT": (socket.SOL_SOCKET, socket.SO_RCVLOWAT, 2),
    "SO_RCVTIMEO": (socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 1, 500_000)),
    "SO_REUSEADDR": (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
    "SO_SNDBUF": (socket.SOL_SOCKET, socket.SO_SNDBUF, 40_000),
    "SO_SNDTIMEO": (socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 1, 500_000)),
    "TCP_CORK": (socket.IPPROTO_TCP, socket.TCP_CORK, 1),
    "TCP_KEEPIDLE": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77),
    "TCP_KEEPINTVL": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 7),
    "TCP_NODELAY": (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    "TCP_USER_TIMEOUT": (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 7000),
}


@pytest.mark.parametrize("connected", [False, True], ids=["unconnected", "connected"])
@pytest.mark.parametrize("option", OPTIONS)
def test_option_does_as_for_tcp(presentation: Presentation, option: str, connected: bool) -> None:
    level, number, value = OPTIONS[option]

    def scenario(sock: socket.socket) -> object:
        size = 16
        sock.setsockopt(level, number, value)
        if isinstance(value, bytes):
            return sock.getsockopt(level, number, size)
        return sock.getsockopt(level, number), sock.getsockopt(level, number, size)

    if connected:
        with tcp_pair(presentation) as (tcp, _), presentation.pair() as (smc, _):
            assert outcome(scenario, smc) == outcome(scenario, tcp)
    else:
        with presentation.tcp_socket() as tcp, presentation.open() as smc:
            assert outcome(scenario, smc) == outcome(scenario, tcp)


@same_as_tcp
def option_that_does_not_exist(sock: socket.socket, _: socket.socket) -> object:
    return outcome(sock.getsockopt, socket.SOL_SOCKET, 9999), outcome(
        sock.setsockopt, socket.SOL_SOCKET, 9999, 1
    )


@same_as_tcp
def options_that_tell(sock: socket.socket, _: socket.socket) -> object:
    options = (socket.SO_TYPE, socket.SO_ERROR, socket.SO_ACCEPTCONN)
    return [sock.getsockopt(socket.SOL_SOCKET, option) for option in options]


@same_as_tcp
def pickling_is_refused(sock: socket.socket, _: socket.socket) -> object:
    protocols = range(pickle.HIGHEST_PROTOCOL + 1)
    return [outcome(pickle.dumps, sock, protocol) for protocol in protocols]


@same_as_tcp
def copying_is_refused(sock: socket.socket, _: socket.socket) -> object:
    return outcome(copy.copy, sock), outcome(copy.deepcopy, sock)


@same_as_tcp
def other_attributes_are_refused(sock: socket.socket, _: socket.socket) -> object:
    sock.other = 1  # type: ignore[attr-defined]
    return sock


@same_as_tcp
def connecting_again_is_refused(sock: socket.socket, peer: socket.socket) -> object:
    return outcome(sock.connect, peer.getsockname()), sock.connect_ex(peer.getsockname())


@same_as_tcp
def a_connection_does_not_accept(sock: socket.socket, _: socket.socket) -> object:
    return outcome(sock.accept)


CALLS: dict[str, Callable[[socket.socket, Presentation], object]] = {
    "accept": lambda sock, _: sock.accept(),
    "bind": lambda sock, at: sock.bind((at.host, 0)),
    "connect": lambda sock, at: sock.connect((at.host, 9)),
    "connect_ex": lambda sock, at: sock.connect_ex((at.host, 9)),
    "dup": lambda sock, _: sock.dup(),
    "getpeername": lambda sock, _: sock.getpeername(),
    "getsockname": lambda sock, _: sock.getsockname(),
    "getsockopt": lambda sock, _: sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
    "get_inheritable": lambda sock, _: sock.get_inheritable(),
    "gettimeout": lambda sock, _: sock.gettimeout(),
    "listen": lambda sock, _: sock.listen(),
    "recv": lambda sock, _: sock.recv(1),
    "recv_into": lambda sock, _: sock.recv_into(bytearray(1)),
    "recvfrom": lambda sock, _: sock.recvfrom(1),
    "recvfrom_into": lambda sock, _: sock.recvfrom_into(bytearray(1)),
    "recvmsg": lambda sock, _: sock.recvmsg(1),
    "recvmsg_into": lambda sock, _: sock.recvmsg_into([bytearray(1)]),
    "send": lambda sock, _: sock.send(b"a"),
    "sendall": lambda sock, _: sock.sendall(b"a"),
    "sendfile": lambda sock, _: sock.sendfile(io.BytesIO(b"a")),
    "sendmsg": lambda sock, _: sock.sendmsg([b"a"]),
    "sendto": lambda sock, at: sock.sendto(b"a", (at.host, 9)),
    "setblocking": lambda sock, _: sock.setblocking(False),
    "set_inheritable": lambda sock, _: sock.set_inheritable(True),
    "setsockopt": lambda sock, _: sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    "settimeout": lambda sock, _: sock.settimeout(1),
    "shutdown": lambda sock, _: sock.shutdown(socket.SHUT_RDWR),
}


@pytest.mark.parametrize("name", CALLS)
def test_call_on_a_closed_socket_does_as_for_tcp(presentation: Presentation, name: str) -> None:
    tcp, smc = presentation.tcp_socket(), presentation.open()
    tcp.close()
    smc.close()
    assert outcome(CALLS[name], smc, presentation) == outcome(CALLS[name], tcp, presentation)


SENDING = sorted(name for name in CALLS if name.startswith("send"))
RECEIVING = sorted(name for name in CALLS if name.startswith("recv"))


@pytest.mark.parametrize("name", ["accept", "getpeername", "shutdown", *RECEIVING])
def test_call_on_an_unconnected_socket_does_as_for_tcp(
    presentation: Presentation, name: str
) -> None:
    with presentation.tcp_socket() as tcp, presentation.open() as smc:
        assert outcome(CALLS[name], smc, presentation) == outcome(CALLS[name], tcp, presentation)


@pytest.mark.parametrize("name", ["getpeername", *RECEIVING, *SENDING])
def test_call_on_a_listener_does_as_for_tcp(presentation: Presentation, name: str) -> None:
    with presentation.tcp_socket() as tcp, presentation.listener() as smc:
        tcp.bind((presentation.host, 0))
        tcp.listen()
        assert outcome(CALLS[name], smc, presentation) == outcome(CALLS[name], tcp, presentation)


# ----- where the kernel differs from TCP


@pytest.mark.parametrize("name", SENDING)
def test_send_on_an_unconnected_socket_is_not_connected(
    presentation: Presentation, smc_mode: Mode, name: str
) -> None:
    with presentation.open() as sock, raises(errno.ENOTCONN):  # TCP: EPIPE
        CALLS[name](sock, presentation)


def test_listener_cannot_connect(presentation: Presentation, smc_mode: Mode) -> None:
    with presentation.listener() as sock, raises(errno.EINVAL):  # TCP: EISCONN
        sock.connect((presentation.host, 9))


def test_listener_cannot_be_shut_down(presentation: Presentation, smc_mode: Mode) -> None:
    with presentation.listener() as sock, raises(errno.ENOTCONN):  # TCP: ends listening
        sock.shutdown(socket.SHUT_RDWR)


def test_port_cannot_be_shared(presentation: Presentation, smc_mode: Mode) -> None:
    # Linux allows SO_REUSEPORT to sockets of AF_INET and AF_INET6 only.
    with presentation.open() as sock, raises(errno.EOPNOTSUPP):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


# ----- how it presents itself


def test_is_a_standard_library_socket(presentation: Presentation) -> None:
    with presentation.open() as sock:
        assert isinstance(sock, socket.socket)


def test_default_is_smc_over_ipv4() -> None:
    with smcsock.socket() as sock:
        assert (sock.family, sock.type, sock.proto) == (AF_SMC, socket.SOCK_STREAM, SMCPROTO_SMC)


def presented(sock: socket.socket) -> tuple[type, int, int, int]:
    return type(sock), sock.family, sock.type, sock.proto


def test_both_ends_present_as_opened(presentation: Presentation, pair: Pair) -> None:
    asked = smcsock.socket, presentation.family, socket.SOCK_STREAM, presentation.proto
    assert [presented(sock) for sock in pair] == [asked, asked]


def test_family_is_the_enumerator(presentation: Presentation) -> None:
    with presentation.open() as sock:
        inet = presentation.family != AF_SMC
        assert isinstance(sock.family, socket.AddressFamily) is inet
        assert isinstance(sock.type, socket.SocketKind)


@pytest.mark.parametrize("proto", [0, socket.IPPROTO_TCP])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_inet_presentation_has_the_protocol_that_was_asked_for(family: int, proto: int) -> None:
    with smcsock.socket(family, socket.SOCK_STREAM, proto) as sock:
        assert presented(sock) == (smcsock.socket, family, socket.SOCK_STREAM, proto)
        with sock.dup() as other:
            assert other.proto == proto


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_inet_presentation_hides_the_protocol_of_smc(family: int) -> None:
    # asyncio hands sock.proto to getaddrinfo(), which knows no 256.
    with smcsock.socket(family, socket.SOCK_STREAM, IPPROTO_SMC) as sock:
        assert sock.proto == 0


def test_kernel_has_an_smc_socket(presentation: Presentation, smc_mode: Mode) -> None:
    with presentation.open() as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == AF_SMC


def test_repr_of_a_connection(pair: Pair) -> None:
    for sock, peer in (pair, pair[::-1]):
        assert repr(sock) == (
            f"<smcsock.socket fd={sock.fileno()}, family={sock.family}, type={sock.type}, "
            f"proto={sock.proto}, laddr={peer.getpeername()}, raddr={peer.getsockname()}>"
        )


def test_repr_of_a_closed_socket(presentation: Presentation) -> None:
    sock = presentation.open()
    sock.close()
    assert repr(sock) == (
        f"<smcsock.socket [closed] fd=-1, family={sock.family}, type={sock.type}, "
        f"proto={sock.proto}>"
    )


def test_dup_presents_as_its_original(presentation: Presentation, pair: Pair) -> None:
    for sock in pair:
        with sock.dup() as other:
            assert presented(other) == presented(sock)


def test_accepted_takes_the_default_timeout(presentation: Presentation) -> None:
    with presentation.listener() as listener, presentation.open() as client:
        client.connect(listener.getsockname())
        socket.setdefaulttimeout(3.5)
        server, _ = listener.accept()
        with server:
            assert server.gettimeout() == 3.5


def test_accepted_blocks_whatever_the_listener_does(presentation: Presentation) -> None:
    with presentation.listener() as listener, presentation.open() as client:
        client.connect(listener.getsockname())
        listener.settimeout(LIMIT)
        server, _ = listener.accept()
        with server:
            assert server.gettimeout() is None
            assert os.get_blocking(server.fileno())


# ----- as an object


class Derived(smcsock.socket):
    __slots__ = ("extra",)


def test_subclass_may_be_duplicated(presentation: Presentation) -> None:
    with Derived(presentation.family, proto=presentation.proto) as sock, sock.dup() as other:
        assert type(other) is Derived


def test_subclass_accepts_the_base_class(presentation: Presentation) -> None:
    with (
        Derived(presentation.family, proto=presentation.proto) as listener,
        presentation.open() as client,
    ):
        listener.bind((presentation.host, 0))
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            assert type(server) is smcsock.socket


def test_may_be_referenced_weakly(presentation: Presentation) -> None:
    with presentation.open() as sock:
        reference = weakref.ref(sock)
        assert reference() is sock
    del sock
    gc.collect()
    assert reference() is None


def test_unclosed_socket_warns_and_is_closed(presentation: Presentation) -> None:
    unclosed = [presentation.open()]
    fd = unclosed[0].fileno()
    with pytest.warns(ResourceWarning, match=rf"unclosed <smcsock\.socket fd={fd}, "):
        unclosed.clear()
    with raises(errno.EBADF):
        os.fstat(fd)


# ----- the constructor

BAD_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "family is text": ("AF_INET",),
    "family is a float": (2.0,),
    "family is None": (None,),
    "family is too large": (1 << 40,),
    "type is text": (socket.AF_INET, "SOCK_STREAM"),
    "type is a float": (socket.AF_INET, 1.0),
    "type does not exist": (socket.AF_INET, 77),
    "type is too large": (socket.AF_INET, 1 << 40),
    "protocol is text": (socket.AF_INET, STREAM, "tcp"),
    "protocol is a float": (socket.AF_INET, STREAM, 6.0),
    "protocol is UDP": (socket.AF_INET, STREAM, socket.IPPROTO_UDP),
    "protocol does not exist": (socket.AF_INET6, STREAM, 250),
    "protocol is too large": (socket.AF_INET, STREAM, 1 << 40),
    "descriptor is negative": (-1, -1, -1, -1),
    "descriptor is text": (-1, -1, -1, "0"),
    "descriptor is a float": (-1, -1, -1, 0.0),
    "descriptor is too large": (-1, -1, -1, 1 << 40),
    "descriptor is closed": (-1, -1, -1, 1 << 20),
    "too many arguments": (-1, -1, -1, None, None),
}


@pytest.mark.parametrize("arguments", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_constructor_refuses_as_the_standard_librarys(arguments: tuple[Any, ...]) -> None:
    assert outcome(smcsock.socket, *arguments) == outcome(socket.socket, *arguments)


def test_constructor_refuses_other_families() -> None:
    with pytest.raises(OSError, match=r"AF_SMC, AF_INET and AF_INET6, not 1$") as caught:
        smcsock.socket(socket.AF_UNIX)
    assert caught.value.errno == errno.EAFNOSUPPORT


@pytest.mark.parametrize("type", [socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET])
def test_constructor_refuses_other_types(presentation: Presentation, type: int) -> None:
    with raises(errno.ESOCKTNOSUPPORT):
        smcsock.socket(presentation.family, type, presentation.proto)


@pytest.mark.parametrize("proto", [2, socket.IPPROTO_TCP, IPPROTO_SMC])
def test_constructor_refuses_protocols_that_are_not_smcs(proto: int) -> None:
    with raises(errno.EPROTONOSUPPORT):
        smcsock.socket(AF_SMC, STREAM, proto)


def test_refused_constructor_leaks_no_descriptor(presentation: Presentation) -> None:
    before = open_descriptors()
    with raises(errno.ESOCKTNOSUPPORT):
        smcsock.socket(presentation.family, socket.SOCK_DGRAM, presentation.proto)
    with raises(errno.EPROTONOSUPPORT):
        smcsock.socket(presentation.family, STREAM, socket.IPPROTO_UDP)
    with raises(errno.EAFNOSUPPORT):
        smcsock.socket(socket.AF_UNIX)
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "flags",
    [0, socket.SOCK_NONBLOCK, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC],
)
def test_flags_in_the_type_do_as_for_tcp(presentation: Presentation, flags: int) -> None:
    def state(sock: socket.socket) -> object:
        fd = sock.fileno()
        return sock.type, sock.gettimeout(), os.get_blocking(fd), os.get_inheritable(fd)

    with (
        smcsock.socket(presentation.family, STREAM | flags, presentation.proto) as smc,
        socket.socket(presentation.inet, STREAM | flags) as tcp,
    ):
        assert state(smc) == state(tcp)


def test_takes_the_default_timeout(presentation: Presentation) -> None:
    socket.setdefaulttimeout(2.5)
    with presentation.open() as sock:
        assert (sock.gettimeout(), os.get_blocking(sock.fileno())) == (2.5, False)


# ----- descriptors of others


@pytest.fixture(params=["unconnected", "listening", "connected", "accepted"])
def descriptor(
    request: pytest.FixtureRequest, presentation: Presentation, smc_mode: Mode
) -> Iterator[int]:
    """A descriptor of an SMC socket in some state, to be taken over or closed."""
    with contextlib.ExitStack() as stack:
        if request.param == "unconnected":
            sock = presentation.open()
        elif request.param == "listening":
            sock = presentation.listener()
        else:
            client, server = stack.enter_context(presentation.pair())
            sock = (client if request.param == "connected" else server).dup()
        fd = sock.detach()
        try:
            yield fd
        finally:
            with contextlib.suppress(OSError):
                os.close(fd)


def smc_proto(presentation: Presentation) -> int:
    return SMCPROTO_SMC if presentation.inet == socket.AF_INET else SMCPROTO_SMC6


def test_descriptor_of_an_smc_socket_presents_smc(
    presentation: Presentation, descriptor: int
) -> None:
    with smcsock.socket(fileno=descriptor) as sock:
        assert sock.fileno() == descriptor
        assert presented(sock) == (smcsock.socket, AF_SMC, STREAM, smc_proto(presentation))


def test_descriptor_may_present_inet(presentation: Presentation, descriptor: int) -> None:
    with smcsock.socket(presentation.inet, fileno=descriptor) as sock:
        assert presented(sock) == (smcsock.socket, presentation.inet, STREAM, 0)


def test_descriptor_may_present_tcps_protocol(presentation: Presentation, descriptor: int) -> None:
    with smcsock.socket(presentation.inet, -1, socket.IPPROTO_TCP, descriptor) as sock:
        assert sock.proto == socket.IPPROTO_TCP


def test_descriptor_of_the_other_ip_version_is_refused(
    presentation: Presentation, descriptor: int
) -> None:
    other = socket.AF_INET6 if presentation.inet == socket.AF_INET else socket.AF_INET
    with pytest.raises(ValueError, match=f"not of family {int(other)}$"):
        smcsock.socket(other, fileno=descriptor)
    os.fstat(descriptor)


@over_ipv4  # SMCPROTO_SMC is 0, which stands for any protocol too
def test_descriptor_of_the_other_smc_protocol_is_refused(
    presentation: Presentation, descriptor: int
) -> None:
    with pytest.raises(ValueError, match=f"descriptor {descriptor} is of"):
        smcsock.socket(AF_SMC, STREAM, SMCPROTO_SMC6, descriptor).close()
    os.fstat(descriptor)


def test_descriptor_with_another_protocol_is_refused(
    presentation: Presentation, descriptor: int
) -> None:
    with raises(errno.EPROTONOSUPPORT):
        smcsock.socket(presentation.inet, STREAM, socket.IPPROTO_UDP, descriptor)
    os.fstat(descriptor)


def test_fromfd_leaves_the_descriptor_open(presentation: Presentation, descriptor: int) -> None:
    with smcsock.fromfd(descriptor) as sock:
        assert sock.fileno() != descriptor
        assert os.path.samestat(os.fstat(sock.fileno()), os.fstat(descriptor))
        assert presented(sock) == (smcsock.socket, AF_SMC, STREAM, smc_proto(presentation))
    os.fstat(descriptor)


def test_taken_over_connection_is_what_it_was(
    presentation: Presentation, pair: Pair, smc_mode: Mode
) -> None:
    for sock, peer in (pair, pair[::-1]):
        with smcsock.fromfd(sock.fileno()) as same:
            same.sendall(b"hello")
            assert receive(peer, 5) == b"hello"
            deadline = time.monotonic() + LIMIT
            # The cursors move until the peer has confirmed what it was sent.
            while (info := same.smc_info()) != sock.smc_info():
                assert time.monotonic() < deadline, info
            assert same.smc_info().mode == presentation.expected_mode(smc_mode)


def test_taken_over_descriptor_keeps_its_blocking_mode(presentation: Presentation) -> None:
    # As socket.socket(fileno=), which sets it only where a default timeout is set.
    fd = presentation.open().detach()
    os.set_blocking(fd, False)
    with (
        smcsock.socket(presentation.inet, fileno=fd, fallback="tcp") as smc,
        presentation.tcp_socket() as plain,
    ):
        os.set_blocking(plain.fileno(), False)
        with socket.socket(fileno=os.dup(plain.fileno())) as tcp:
            assert smc.gettimeout() == tcp.gettimeout()
            assert os.get_blocking(smc.fileno()) == os.get_blocking(tcp.fileno())


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
def kernel_smc(request: pytest.FixtureRequest, smc_mode: Mode) -> Iterator[socket.socket]:
    """A standard library socket of IPPROTO_SMC."""
    if VM_KERNEL == "6.1":
        pytest.skip("needs IPPROTO_SMC, which Linux has from 6.11 on")
    with socket.socket(request.param, STREAM, IPPROTO_SMC) as sock:
        yield sock


def test_descriptor_of_ipproto_smc_presents_inet(kernel_smc: socket.socket) -> None:
    with smcsock.fromfd(kernel_smc.fileno()) as sock:
        assert presented(sock) == (smcsock.socket, kernel_smc.family, STREAM, 0)


def test_descriptor_of_ipproto_smc_may_present_smc(kernel_smc: socket.socket) -> None:
    proto = SMCPROTO_SMC if kernel_smc.family == socket.AF_INET else SMCPROTO_SMC6
    with smcsock.socket(AF_SMC, fileno=os.dup(kernel_smc.fileno())) as sock:
        assert presented(sock) == (smcsock.socket, AF_SMC, STREAM, proto)


def test_connection_of_ipproto_smc_may_be_taken_over(
    kernel_smc: socket.socket, smc_mode: Mode
) -> None:
    inet = INET if kernel_smc.family == socket.AF_INET else INET6
    with inet.listener() as listener:
        kernel_smc.connect(listener.getsockname())
        server, _ = listener.accept()
        with server, smcsock.fromfd(kernel_smc.fileno()) as sock:
            assert presented(sock) == (smcsock.socket, kernel_smc.family, STREAM, 0)
            info = sock.smc_info()
            assert (info.mode, info.family) == (inet.expected_mode(smc_mode), inet.family)


def tcp_listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def udp_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def unix_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, STREAM)


FOREIGN: dict[str, tuple[Callable[[], socket.socket], str]] = {
    "TCP": (INET.tcp_socket, "is a TCP socket, not an SMC socket"),
    "TCP over IPv6": (INET6.tcp_socket, "is a TCP socket, not an SMC socket"),
    "TCP listener": (tcp_listener, "is a TCP socket, not an SMC socket"),
    "UDP": (udp_socket, "is no SMC socket: its protocol is 17$"),
    "Unix": (unix_socket, "is no SMC socket: its family is 1$"),
}


def mptcp_socket(inet: int = socket.AF_INET) -> socket.socket:
    try:
        return socket.socket(inet, STREAM, IPPROTO_MPTCP)
    except OSError as error:
        pytest.skip(f"this kernel has no Multipath TCP: {error.strerror}")


FOREIGN["Multipath TCP"] = mptcp_socket, "is no SMC socket: its protocol is Multipath TCP$"


@pytest.mark.parametrize("kind", FOREIGN)
def test_descriptor_of_another_socket_is_refused(kind: str) -> None:
    opener, text = FOREIGN[kind]
    with opener() as sock:
        before = open_descriptors()
        with pytest.raises(ValueError, match=f"^descriptor {sock.fileno()} {text}"):
            smcsock.socket(fileno=sock.fileno(), fallback="error")
        with pytest.raises(ValueError, match=text):
            smcsock.fromfd(sock.fileno(), fallback="error")
        assert open_descriptors() == before


@pytest.mark.parametrize("kind", ["UDP", "Unix"])
def test_fallback_allows_tcp_only(kind: str) -> None:
    opener, text = FOREIGN[kind]
    with opener() as sock, pytest.raises(ValueError, match=text):
        smcsock.fromfd(sock.fileno(), fallback="tcp")


def test_descriptor_that_is_no_socket_is_refused_as_by_the_standard_library() -> None:
    with tempfile.TemporaryFile() as file:
        readable, writable = os.pipe()
        before = open_descriptors()
        try:
            for fd in (file.fileno(), readable):
                expected = outcome(socket.socket, -1, -1, -1, fd)
                assert outcome(smcsock.socket, -1, -1, -1, fd) == expected
            assert open_descriptors() == before
        finally:
            os.close(readable)
            os.close(writable)


def test_fallback_allows_a_tcp_descriptor(presentation: Presentation) -> None:
    with tcp_pair(presentation) as ends:
        for sock, peer in (ends, ends[::-1]):
            with smcsock.fromfd(sock.fileno(), fallback="tcp") as same:
                assert presented(same) == (smcsock.socket, presentation.inet, STREAM, 0)
                assert same.smc_info().mode is Mode.TCP
                same.sendall(b"hello")
                assert receive(peer, 5) == b"hello"


def test_fallback_allows_a_descriptor_of_mptcp(presentation: Presentation) -> None:
    with mptcp_socket(presentation.inet) as listener, mptcp_socket(presentation.inet) as client:
        listener.bind((presentation.host, 0))
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            for sock, peer in ((client, server), (server, client)):
                with smcsock.fromfd(sock.fileno(), fallback="tcp") as same:
                    assert presented(same) == (smcsock.socket, presentation.inet, STREAM, 0)
                    assert same.smc_info().mode is Mode.TCP
                    assert same.fell_back()
                    same.sendall(b"hello")
                    assert receive(peer, 5) == b"hello"


def test_tcp_descriptor_may_present_smc(presentation: Presentation) -> None:
    with presentation.tcp_socket() as plain:
        fd = os.dup(plain.fileno())
        with smcsock.socket(AF_SMC, fileno=fd, fallback="tcp") as sock:
            assert presented(sock) == (smcsock.socket, AF_SMC, STREAM, smc_proto(presentation))


# ----- to the standard library


def test_to_stdlib_is_the_exact_type(presentation: Presentation) -> None:
    with presentation.open().to_stdlib() as plain:
        assert presented(plain) == (socket.socket, presentation.inet, STREAM, 0)


@pytest.mark.parametrize("timeout", [None, 0.0, 2.5])
def test_to_stdlib_keeps_descriptor_and_timeout(
    presentation: Presentation, timeout: float | None
) -> None:
    sock = presentation.open()
    sock.settimeout(timeout)
    fd = sock.fileno()
    socket.setdefaulttimeout(77)
    with sock.to_stdlib() as plain:
        assert (plain.fileno(), plain.gettimeout()) == (fd, timeout)
        assert os.get_blocking(fd) is (timeout is None)


def test_to_stdlib_detaches(presentation: Presentation) -> None:
    sock = presentation.open()
    with sock.to_stdlib():
        assert sock.fileno() == -1
        assert "[closed]" in repr(sock)


def test_to_stdlib_keeps_the_connection(presentation: Presentation) -> None:
    with presentation.listener() as listener, presentation.open() as client:
        client.connect(listener.getsockname())
        server, address = listener.accept()
        with server.to_stdlib() as here, client.to_stdlib() as there:
            assert here.getpeername() == there.getsockname() == address
            here.sendall(b"question")
            assert receive(there, 8) == b"question"
            there.sendall(b"answer")
            assert receive(here, 6) == b"answer"


def test_to_stdlib_of_a_closed_socket_is_ebadf(presentation: Presentation) -> None:
    sock = presentation.open()
    sock.close()
    with raises(errno.EBADF):
        sock.to_stdlib()


# ----- with the standard library's own users of sockets, which decide by the family


@pytest.fixture(params=[INET, INET6], ids=lambda presentation: presentation.name)
def inet(request: pytest.FixtureRequest) -> Presentation:
    result = request.param
    assert isinstance(result, Presentation)
    return result


TLS = Path(__file__).with_name("data") / "tls.pem"


def test_tls_over_inet_presentation(inet: Presentation) -> None:
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(TLS)
    asking = ssl.create_default_context(cafile=TLS)

    def serve(sock: smcsock.socket) -> None:
        with serving.wrap_socket(sock, server_side=True) as tls:
            tls.sendall(receive(tls, 300_000)[::-1])
            tls.unwrap()

    data = bytes(range(250)) * 1200
    with inet.listener() as listener, inet.open() as client:
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with (
            in_thread(serve, server),
            asking.wrap_socket(client, server_hostname=inet.host) as tls,
        ):
            tls.sendall(data)
            assert receive(tls, len(data)) == data[::-1]
            assert tls.version() == "TLSv1.3"
            tls.unwrap()


def test_asyncio_loop_uses_the_socket(inet: Presentation) -> None:
    async def serve(listener: smcsock.socket) -> None:
        loop = asyncio.get_running_loop()
        server, _ = await loop.sock_accept(listener)
        with server:
            assert type(server) is smcsock.socket
            while data := await loop.sock_recv(server, 100_000):
                await loop.sock_sendall(server, data)

    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        data = bytes(500_000)
        with inet.listener() as listener, inet.open() as client:
            listener.setblocking(False)
            client.setblocking(False)
            serving = asyncio.create_task(serve(listener))
            await loop.sock_connect(client, listener.getsockname())
            sending = asyncio.create_task(loop.sock_sendall(client, data))
            echo = bytearray()
            while len(echo) < len(data):
                echo += await loop.sock_recv(client, 100_000)
            await sending
            client.shutdown(socket.SHUT_WR)
            await serving
            return bytes(echo)

    assert asyncio.run(asyncio.wait_for(main(), LIMIT)) == bytes(500_000)


def test_asyncio_streams_use_the_socket(inet: Presentation) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read())[::-1])
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> bytes:
        listener, client = inet.listener(), inet.open()
        server = await asyncio.start_server(serve, sock=listener)
        client.connect(listener.getsockname())
        reader, writer = await asyncio.open_connection(sock=client)
        assert writer.get_extra_info("peername") == listener.getsockname()
        writer.write(bytes(range(250)) * 1000)
        writer.write_eof()
        data = await reader.read()
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        return data

    assert asyncio.run(asyncio.wait_for(main(), LIMIT)) == (bytes(range(250)) * 1000)[::-1]


# ----- what the constructor does without Python


@pytest.mark.parametrize("arguments", [(), (socket.AF_INET,), (socket.AF_INET6, 1, 0)], ids=repr)
def test_later_sockets_are_as_the_first(arguments: tuple[Any, ...]) -> None:
    """The constructor opens by itself what was opened before."""
    with smcsock.socket(*arguments) as first, smcsock.socket(*arguments) as later:
        for name in ("family", "type", "proto", "_inet", "_is_tcp", "_io_refs", "_closed"):
            assert getattr(later, name) == getattr(first, name)
            assert type(getattr(later, name)) is type(getattr(first, name))
        assert later.gettimeout() == first.gettimeout()
        assert not os.get_inheritable(later.fileno())


def test_constructor_sets_what_the_standard_librarys_sets() -> None:
    with socket.socket() as plain, smcsock.socket(), smcsock.socket() as sock:
        for name in socket.socket.__slots__:
            assert hasattr(sock, name) == hasattr(plain, name)
            assert getattr(sock, name, None) == getattr(plain, name, None)


def test_constructor_can_be_looked_at() -> None:
    parameters = inspect.signature(smcsock.socket).parameters
    assert list(parameters) == ["family", "type", "proto", "fileno", "fallback"]
    assert parameters["fallback"].kind is inspect.Parameter.KEYWORD_ONLY


def test_constructor_of_a_derived_class_can_be_looked_at() -> None:
    class Derived(smcsock.socket):
        pass

    class Other(smcsock.socket):
        def __init__(self, name: str) -> None:
            super().__init__()

    assert inspect.signature(Derived) == inspect.signature(smcsock.socket)
    assert list(inspect.signature(Other).parameters) == ["name"]
