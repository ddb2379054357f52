"""With whom smcsock talks: programs that use ctypes, IPPROTO_SMC or plain TCP."""

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import seed_ctypes
from conftest import INET, INET6, SMC, SMC6, VM_KERNEL, Presentation
from test_socket import STREAM, drain, over_ipv4, receive
from test_socket import time_limit as time_limit

import smcsock
from smcsock import IPPROTO_SMC, Mode


class Other:
    """How another program opens its sockets."""

    is_smc = True

    def open(self, inet: int) -> socket.socket:
        raise NotImplementedError

    def bind(self, sock: socket.socket, host: str) -> None:
        sock.bind((host, 0))

    def accept(self, sock: socket.socket) -> socket.socket:
        return sock.accept()[0]

    def connect(self, sock: socket.socket, address: Any) -> None:
        sock.connect(address)

    def name(self, sock: socket.socket) -> Any:
        return sock.getsockname()


class Ctypes(Other):
    def open(self, inet: int) -> socket.socket:
        return socket.socket(seed_ctypes.AF_SMC, STREAM, seed_ctypes.SMCPROTO_SMC)

    def bind(self, sock: socket.socket, host: str) -> None:
        seed_ctypes.bind(sock, host, 0)

    def accept(self, sock: socket.socket) -> socket.socket:
        return seed_ctypes.accept(sock)[0]

    def connect(self, sock: socket.socket, address: Any) -> None:
        seed_ctypes.connect(sock, *address)

    def name(self, sock: socket.socket) -> Any:
        with socket.socket(socket.AF_INET, fileno=os.dup(sock.fileno())) as same:
            return same.getsockname()


class IpprotoSmc(Other):
    def open(self, inet: int) -> socket.socket:
        if VM_KERNEL == "6.1":
            pytest.skip("needs IPPROTO_SMC, which Linux has from 6.11 on")
        return socket.socket(inet, STREAM, IPPROTO_SMC)


class Tcp(Other):
    is_smc = False

    def open(self, inet: int) -> socket.socket:
        return socket.socket(inet, STREAM)


Combination = tuple[Presentation, Other]
COMBINATIONS: dict[str, Combination] = {
    f"{presentation.name}-{name}": (presentation, other)
    for presentation in (SMC, SMC6, INET, INET6)
    for name, other in (("ctypes", Ctypes()), ("IPPROTO_SMC", IpprotoSmc()), ("TCP", Tcp()))
    # The document's functions know IPv4 addresses only.
    if name != "ctypes" or presentation.inet == socket.AF_INET
}
IS_SMC = {name: them for name, them in COMBINATIONS.items() if them[1].is_smc}


@contextlib.contextmanager
def our_server(
    presentation: Presentation, other: Other
) -> Iterator[tuple[smcsock.socket, socket.socket]]:
    """Our end of a connection, which the other program asked for, and its end."""
    with presentation.listener() as listener, other.open(presentation.inet) as theirs:
        other.connect(theirs, listener.getsockname())
        ours, address = listener.accept()
        with ours:
            assert address == other.name(theirs)
            yield ours, theirs


@contextlib.contextmanager
def our_client(
    presentation: Presentation, other: Other
) -> Iterator[tuple[smcsock.socket, socket.socket]]:
    """Our end of a connection, which the other program accepted, and its end."""
    with other.open(presentation.inet) as listener, presentation.open() as ours:
        other.bind(listener, presentation.host)
        listener.listen()
        ours.connect(other.name(listener))
        with other.accept(listener) as theirs:
            assert ours.getsockname() == theirs.getpeername()
            yield ours, theirs


both_ways = pytest.mark.parametrize("connection", [our_server, our_client])
all_others = pytest.mark.parametrize("combination", COMBINATIONS.values(), ids=COMBINATIONS)


@all_others
@both_ways
def test_data_passes_in_both_directions(
    combination: Combination, connection: Any, smc_mode: Mode
) -> None:
    with connection(*combination) as (ours, theirs):
        ours.sendall(b"Hello, world")
        assert receive(theirs, 12) == b"Hello, world"
        theirs.sendall(b"Hello, smcsock")
        assert receive(ours, 14) == b"Hello, smcsock"


@all_others
@both_ways
def test_either_end_may_end_the_stream(
    combination: Combination, connection: Any, smc_mode: Mode
) -> None:
    with connection(*combination) as (ours, theirs):
        theirs.sendall(b"the end")
        theirs.shutdown(socket.SHUT_WR)
        assert drain(ours) == b"the end"
        ours.sendall(b"of it")
        ours.close()
        assert drain(theirs) == b"of it"


@all_others
@both_ways
def test_connection_is_smc_if_both_ends_are(
    combination: Combination, connection: Any, smc_mode: Mode
) -> None:
    presentation, other = combination
    expected = presentation.expected_mode(smc_mode) if other.is_smc else Mode.TCP
    with connection(*combination) as (ours, theirs):
        assert ours.smc_info().mode is expected
        with smcsock.fromfd(theirs.fileno(), fallback="tcp") as taken_over:
            assert taken_over.smc_info().mode is expected


@pytest.mark.parametrize("combination", IS_SMC.values(), ids=IS_SMC)
@both_ways
def test_taken_over_end_knows_its_names(
    combination: Combination, connection: Any, smc_mode: Mode
) -> None:
    # sock_diag leaves the addresses of IPPROTO_SMC sockets out.
    with (
        connection(*combination) as (ours, theirs),
        smcsock.fromfd(theirs.fileno()) as taken_over,
    ):
        info = taken_over.smc_info()
        assert (info.local, info.peer) == (ours.getpeername(), ours.getsockname())


@over_ipv4
def test_echo_server_of_the_document(presentation: Presentation, smc_mode: Mode) -> None:
    with socket.socket(seed_ctypes.AF_SMC, STREAM, seed_ctypes.SMCPROTO_SMC) as sock:
        seed_ctypes.bind(sock, "127.0.0.1", 0)
        sock.listen(1)
        with presentation.open() as client:
            client.connect(Ctypes().name(sock))
            client.sendall(b"Hello, world")
            client.shutdown(socket.SHUT_WR)
            conn, _ = seed_ctypes.accept(sock)
            with conn:
                while data := conn.recv(1024):
                    conn.sendall(data)
            assert drain(client) == b"Hello, world"
