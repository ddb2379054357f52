"""install() and descriptors from elsewhere: handed over, sent, inherited, adopted in any family."""

import _socket
import asyncio
import contextlib
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
from conftest import INET, on_host
from descriptors import open_sockets
from test_install import LIMIT, V4, V6, connected, is_smc, modes, tcp_listener
from test_install import mode as mode
from test_install import nothing_left as nothing_left

import smcsock
from smcsock import FallbackError, Mode, Outcome, Report

STREAM = socket.SOCK_STREAM
HANDED_OVER = "its socket was opened elsewhere"


def sent(fd: int) -> socket.socket:
    """By SCM_RIGHTS."""
    left, right = socket.socketpair()
    with left, right:
        socket.send_fds(left, [b"x"], [fd])
        _, (received,), *_ = socket.recv_fds(right, 1, 1)
    return socket.socket(fileno=received)


def pickled(fd: int) -> socket.socket:
    with socket.socket(fileno=os.dup(fd)) as sock:
        received = pickle.loads(ForkingPickler.dumps(sock))
    assert isinstance(received, socket.socket)
    return received


def put_over_another(fd: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    os.dup2(fd, sock.fileno())
    return socket.socket(fileno=sock.detach())


ADOPTED: list[Any] = [
    lambda fd: socket.socket(fileno=os.dup(fd)),  # LISTEN_FDS
    lambda fd: socket.fromfd(fd, socket.AF_UNIX, STREAM),  # uvicorn --fd, gunicorn
    lambda fd: socket.fromfd(fd, V4, STREAM),
    lambda fd: socket.fromfd(fd, V6, STREAM),
    lambda fd: socket.socket(V4, STREAM, socket.IPPROTO_TCP, os.dup(fd)),
    sent,
    pickled,
    put_over_another,
]

adopted = pytest.mark.parametrize(
    "adopt", ADOPTED, ids=["fileno", "unix", "v4", "v6", "tcp", "sent", "pickled", "dup2"]
)


def plain_client() -> Any:
    """Of exactly the C type, which require_smc lets alone."""
    return contextlib.closing(_socket.socket())


@contextlib.contextmanager
def dual_stack() -> Any:
    """A listener of SMC, opened elsewhere, that serves IPv4 and IPv6."""
    with smcsock.socket(V6) as listener:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", 0))
        listener.listen()
        yield listener


@adopted
def test_a_listener_of_smc_keeps_to_the_report(
    adopt: Callable[[int], socket.socket], mode: Mode
) -> None:
    report = Report()
    with dual_stack() as handed_over, INET.open() as client:
        address = "127.0.0.1", handed_over.getsockname()[1]
        with smcsock.installed(report=report), adopt(handed_over.fileno()) as listener:
            client.connect(address)
            conn, peer = listener.accept()
            with conn:
                assert peer[1] == client.getsockname()[1]
    if smcsock.has_smc():
        assert modes(report) == {("accept", mode): 1}
    else:
        assert report.connections() == {Outcome("accept", Mode.TCP, note=HANDED_OVER): 1}


@adopted
@pytest.mark.parametrize("is_tcp", [True, False])
def test_a_required_listener_refuses_tcp(
    adopt: Callable[[int], socket.socket], is_tcp: bool
) -> None:
    """And no descriptor is left."""
    report = Report()
    with INET.listener() as other:
        adopt(other.fileno()).close()  # multiprocessing keeps a socket of its own
    before = open_sockets()
    with (
        tcp_listener() if is_tcp else dual_stack() as handed_over,
        smcsock.installed(require_smc=True, fallback="tcp", report=report),
        adopt(handed_over.fileno()) as listener,
        plain_client() as client,
    ):
        client.connect(("127.0.0.1", handed_over.getsockname()[1]))
        with pytest.raises(FallbackError):
            listener.accept()
        client.settimeout(LIMIT)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
    assert open_sockets() <= before
    assert [(o.side, o.refused) for o in report.connections()] == [("accept", True)]


@adopted
def test_a_connection_that_is_handed_over_must_be_smc(
    adopt: Callable[[int], socket.socket],
) -> None:
    with tcp_listener() as listener, plain_client() as client:
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server, smcsock.installed(require_smc=True), adopt(server.fileno()) as same:
            with pytest.raises(FallbackError):
                same.send(b"secret")
            assert client.recv(100) == b""


@adopted
def test_a_listener_that_is_adopted_before_it_listens(
    adopt: Callable[[int], socket.socket], smc_mode: Mode
) -> None:
    """As uvicorn's workers do. Not selected, it becomes TCP, in whatever family."""
    report = Report()
    with smcsock.socket(V4) as bound, plain_client() as client:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        address = bound.getsockname()
        with smcsock.installed(report=report, only="192.0.2.1:*"):
            listener = adopt(bound.fileno())
        with listener:
            listener.listen()
            assert not is_smc(listener)
            client.connect(address)
            listener.accept()[0].close()
    assert report.connections() == {Outcome("accept", Mode.TCP, note="not selected"): 1}


def test_asyncio_sets_tcp_nodelay(mode: Mode) -> None:
    """It looks at the proto of a socket, which it is given as a descriptor."""

    async def main(fd: int) -> None:
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        _, writer = await asyncio.open_connection(sock=sock)
        same = writer.get_extra_info("socket")
        assert same.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
        await writer.wait_closed()

    with smcsock.installed(), connected() as (client, _):
        asyncio.run(main(client.detach()))


@on_host
def test_a_descriptor_survives_exec() -> None:
    """A listener that the program's successor finds under a number, as after a reload."""
    code = """
import os, socket, sys
if len(sys.argv) == 1:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.set_inheritable(True)
    os.execv(sys.executable, ["python", "-c", os.environ["CODE"], str(listener.fileno())])
with socket.socket(fileno=int(sys.argv[1])) as listener:
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    client.close()
    server.close()
"""
    command = [sys.executable, "-m", "smcsock", "run", "--fallback=tcp", "--children", "--report"]
    env = {**os.environ, "CODE": code}
    result = subprocess.run([*command, "-c", code], env=env, stderr=subprocess.PIPE, text=True)
    assert "2 connections: 2 TCP" in result.stderr
