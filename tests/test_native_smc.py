"""What only a kernel with SMC shows of 'smcsock run' for any program: selection and report."""

import json
import os
import select
import socket
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import EXPECTED_MODE, VM_MODE, slow
from test_native import KIND, under
from workers import listening_workers

from smcsock import Mode, _native
from smcsock._dropin._selection import Selection
from smcsock._native._kind import is_smc

pytestmark = pytest.mark.skipif(
    KIND is _native.TCP_SOCKETS, reason="this kernel has no SMC: run the tests in a guest, tests/vm"
)

HOSTS = pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
LIMIT = 240


def family_of(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def is_woken(sender: socket.socket, reader: socket.socket) -> bool:
    """Whether who waits for data is told that there is some."""
    with select.epoll() as poller:
        poller.register(reader, select.EPOLLIN)
        sender.sendall(b"x")
        return bool(poller.poll(10))


# ----- --only


@HOSTS
def test_a_server_that_is_not_selected_is_tcp_in_every_respect(host: str) -> None:
    def work() -> list[Any]:
        listener = socket.socket(family_of(host))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        before = socket.SOL_SOCKET, socket.SO_RCVBUF
        size = listener.getsockopt(*before)
        listener.setblocking(False)
        listener.bind((host, 0))
        address = listener.getsockname()
        listener.listen()
        with listener, socket.socket(family_of(host)) as client:
            client.connect(address)
            client.send(b"x")
            select.select([listener], [], [])
            server, _ = listener.accept()
            server.recv(1)
            options = [
                listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR),
                listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT),
                listener.getsockopt(*before) == size,
                listener.getsockname() == address,
                os.get_blocking(listener.fileno()),
                os.get_inheritable(listener.fileno()),
            ]
            with server:
                return [*map(is_smc, (listener, client)), is_woken(client, server), options]

    only = Selection(["192.0.2.1:*"])
    assert under(work, only=only) == [False, False, True, [1, 1, True, True, False, False]]


@HOSTS
def test_a_client_that_is_not_selected_keeps_its_descriptor_and_registrations(host: str) -> None:
    def work() -> list[Any]:
        with (
            socket.create_server((host, 0), family=family_of(host)) as listener,
            socket.socket(family_of(host)) as client,
            select.epoll() as poller,
        ):
            poller.register(client, select.EPOLLIN | select.EPOLLET)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77)
            client.settimeout(60)
            copy = client.dup()
            was_smc = is_smc(client)
            client.connect(listener.getsockname())
            server, _ = listener.accept()
            with server, copy:
                server.sendall(b"there")
                events = poller.poll(10)
                return [
                    was_smc,
                    *map(is_smc, (client, copy, listener, server)),
                    bool(events),
                    client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                    client.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                    copy.recv(9),
                ]

    expected = [True, False, False, False, False, True, 1, 77, b"there"]
    assert under(work, only=Selection(["192.0.2.1:*"])) == expected


def test_a_server_that_is_not_selected_may_be_told_to_listen_in_each_worker() -> None:
    """Bound before, as by uvicorn and node's cluster: one listener, and not one for each."""

    def work() -> tuple[list[bytes], list[bytes]]:
        received = []
        with socket.socket() as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(("127.0.0.1", 0))
            with listening_workers(bound, 3) as heard:
                if heard == 3 * [b"T"]:
                    for _ in heard:
                        with socket.create_connection(bound.getsockname()) as client:
                            received.append(client.recv(1))
        return heard, received

    only = Selection(["192.0.2.1:*"])
    assert under(work, only=only) == (3 * [b"T"], 3 * [b"x"])


@HOSTS
def test_what_is_selected_is_smc(host: str) -> None:
    def work() -> list[bool]:
        with (
            socket.create_server((host, 0), family=family_of(host)) as listener,
            socket.create_connection(listener.getsockname()[:2]) as client,
            listener.accept()[0] as server,
        ):
            fell_back = EXPECTED_MODE.get(VM_MODE or "") is not Mode.SMCD
            return [is_smc(sock) or fell_back for sock in (listener, client, server)]

    only = Selection([f"[{host}]:*" if ":" in host else f"{host}:*"])
    assert under(work, only=only) == [True, True, True]


# ----- --report


CONNECT = """
    import contextlib, ctypes, os, socket, sys

    libc = ctypes.CDLL(None)

    def by_c_library(address):
        fd = libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
        raw = socket.AF_INET.to_bytes(2, sys.byteorder) + address[1].to_bytes(2, "big")
        assert libc.connect(fd, raw + socket.inet_aton(address[0]) + bytes(8), 16) == 0
        return fd

    def round_trip(listener, connect):
        fd = connect(listener.getsockname())
        server, _ = listener.accept()
        os.write(fd, b"x")
        server.recv(1)
        server.close()
        os.close(fd)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "smcsock", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)


def totals(report: dict[str, Any]) -> dict[tuple[str, Mode], int]:
    counts: Counter[tuple[str, Mode]] = Counter()
    for fields in report["connections"]:
        counts[fields["side"], Mode(fields["mode"])] += fields["count"]
    return dict(counts)


@slow
def test_native_and_python_connections_are_one_sum(tmp_path: Path, smc_mode: Mode) -> None:
    path = tmp_path / "program.py"
    more = """
    import time

    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as client:
            server, _ = listener.accept()
            fd = by_c_library(listener.getsockname())
            other, _ = listener.accept()
            time.sleep(1)
    """
    path.write_text(textwrap.dedent(CONNECT) + textwrap.dedent(more))
    result = run("--native", "--report", "--json", str(path))
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stderr)
    assert totals(report) == {("connect", smc_mode): 2, ("accept", smc_mode): 2}
    assert report["processes"] == 1


@slow
@pytest.mark.parametrize("options", [(), ("--exact",)], ids=["", "exact"])
def test_short_connections_are_counted_or_said_to_be_missing(
    options: tuple[str, ...], tmp_path: Path, smc_mode: Mode
) -> None:
    """In a program of the shell's, whose Python knows nothing of smcsock."""
    path = tmp_path / "program.py"
    more = """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(20):
            round_trip(listener, by_c_library)
    """
    path.write_text(textwrap.dedent(CONNECT) + textwrap.dedent(more))
    result = run(*options, "--report", "--json", "sh", "-c", f"{sys.executable} {path}; exit 7")
    assert result.returncode == 7, result.stderr
    report = json.loads(result.stderr)
    counts = totals(report)
    if options:
        assert counts == {("connect", smc_mode): 20, ("accept", smc_mode): 20}
        assert not report["missing"]
    else:
        seen, unseen = counts.get(("connect", smc_mode), 0), report["missing"].get("unseen", 0)
        # Who saw a connection saw the listener, which else is a socket that nobody saw, too.
        assert seen + unseen == 20 or (not counts and unseen == 21)


@slow
@pytest.mark.parametrize("outer", [["env"], []], ids=["of any program", "of Python"])
def test_a_run_inside_a_run(outer: list[str], smc_mode: Mode) -> None:
    code = "import socket; print(socket.socket().getsockopt(1, 38) in (0, 256))"
    inner = [sys.executable, "-m", "smcsock", "run", "env", sys.executable, "-c", code]
    result = run(*outer, *inner)
    assert (result.returncode, result.stdout) == (0, "True\n"), result.stderr
