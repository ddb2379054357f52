"""smcsock bench: what it measures, and what its server allows."""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import invocation
from conftest import on_host, slow
from test_diag_cli import Shell, parser, shell
from test_socket import LIMIT
from test_socket import time_limit as time_limit

from smcsock import Mode, has_smc
from smcsock._bench import MAX_SIZE, Results, Run, Server

__all__ = ["parser", "shell"]

QUICK = "--seconds 0.4 --rounds 1 --sizes 1,70000"
NAMES = ["smc", "tcp", "smc large", "tcp large"]


@slow
def test_results_are_complete(shell: Shell) -> None:
    shown = json.loads(shell.output(f"bench {QUICK} --json"))
    assert list(shown["runs"]) == NAMES
    for name, run in shown["runs"].items():
        assert set(run["throughput_bytes_per_second"]) == {"1", "70000"}
        assert all(value > 0 for value in run["throughput_bytes_per_second"].values())
        assert all(value > 0 for value in run["server_cpu_nanoseconds_per_byte"].values())
        assert bool(run["connections_per_second"]) == (name in NAMES[:2])
    trips = shown["runs"]["smc"]["round_trip_seconds"]
    assert 0 < trips["median"] <= trips["p99"]


def test_mode_is_that_of_the_connections(shell: Shell, smc_mode: Mode) -> None:
    header, *rows, _, conclusion = shell.lines(f"bench {QUICK}")
    assert len(rows) == 9
    assert ("TCP" in conclusion.split("its connections")[-1]) or smc_mode is not Mode.TCP
    if smc_mode is not Mode.TCP:
        assert header.split()[:2] == ["TCP", smc_mode]
        assert conclusion.startswith(f"With {smc_mode} in place of TCP here, round trips are ")


@on_host
def test_kernel_without_smc(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    if has_smc():
        pytest.skip("this kernel has SMC")
    monkeypatch.setenv("SMCSOCK_FALLBACK", "error")
    status, out, err = shell.run(f"bench {QUICK}")
    assert (status, out) == (3, "")
    assert "modprobe smc" in err


@on_host
@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_picture(suffix: str, shell: Shell, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    path = tmp_path / f"bench.{suffix}"
    shell.output(f"bench {QUICK} --plot {path}")
    assert path.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml"}[suffix])


@on_host
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("--server host", "cannot be used with HOST"),
        ("--port 65533", "four ports"),
        ("--seconds 0", "must be 0.1 to"),
        ("--seconds nan", "must be 0.1 to"),
        ("--rounds 0", "must be 1 to"),
        ("--sizes 0", "not sizes"),
        (f"--sizes {MAX_SIZE + 1}", "not sizes"),
        ("--plot x.pdf", "needs a name that ends with .png or .svg"),
        ("--seconds 3600 --rounds 1", "take less --seconds or more --rounds"),
    ],
)
def test_wrong_usage(options: str, text: str, shell: Shell) -> None:
    status, out, err = shell.run(f"bench {options}")
    assert (status, out, text in err) == (2, "", True)


@on_host
def test_picture_that_cannot_be_written_is_told_at_once(shell: Shell, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    status, out, err = shell.run(f"bench --plot {tmp_path}/no/bench.png")
    assert (status, out) == (1, "")
    assert err.endswith("/no/bench.png: there is no such directory\n")


@on_host
def test_nobody_serves(shell: Shell) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        status, _, err = shell.run(f"bench 127.0.0.1 --port {min(unused.getsockname()[1], 65532)}")
    assert (status, err) == (1, "smcsock: cannot measure with 127.0.0.1: Connection refused\n")


# ----- the server


@pytest.fixture
def server() -> Iterator[Server]:
    with contextlib.closing(Server("127.0.0.1", 0, socket.AF_INET)) as server:
        server.start()
        yield server


def request(kind: int, size: int, magic: bytes = b"SMC1") -> bytes:
    return struct.pack("!4sBI", magic, kind, size)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        request(1, MAX_SIZE + 1),
        request(1, 0),
        request(3, 10),
        request(1, 10, b"SMC2"),
        b"SM",
    ],
    ids=repr,
)
def test_server_ends_what_is_no_request(data: bytes, server: Server) -> None:
    for port in server.ports[:2]:
        with socket.create_connection(("127.0.0.1", port), LIMIT) as client:
            client.sendall(data)
            with contextlib.suppress(OSError):  # it may have ended it already
                client.shutdown(socket.SHUT_WR)
                assert client.recv(100) == b""


def test_server_has_so_many_clients_at_a_time(server: Server) -> None:
    port = server.ports[1]
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(9):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), LIMIT))
            client.sendall(request(1, 1) + b"x")
            clients.append(client)
        assert [client.recv(1) for client in clients[:8]] == [b"x"] * 8
        clients[8].settimeout(0.2)
        with pytest.raises(TimeoutError):
            clients[8].recv(1)
        clients[0].close()
        clients[8].settimeout(LIMIT)
        assert clients[8].recv(1) == b"x"


def dribble(sock: socket.socket) -> None:
    while True:
        sock.sendall(b"x")
        time.sleep(0.05)


def test_server_ends_a_client_that_takes_its_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it sends a byte of what it has said."""
    monkeypatch.setattr("smcsock._bench._server.MAX_SECONDS", 0.5)
    for port in server.ports[:2]:
        with socket.create_connection(("127.0.0.1", port), LIMIT) as client:
            client.sendall(request(1, MAX_SIZE))
            with pytest.raises(ConnectionError):
                dribble(client)


def test_server_outlives_clients_that_are_gone(server: Server) -> None:
    """Resets, half-closed and idle connections, and one that reads nothing of its echo."""
    with contextlib.ExitStack() as stack:
        for port in server.ports[:2]:
            for data in (b"", b"SM", request(1, 100), request(2, MAX_SIZE) + bytes(1000)):
                client = socket.create_connection(("127.0.0.1", port), LIMIT)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.sendall(data)
                client.close()
            for data in (b"", request(1, 70000) + bytes(70000)):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", port), LIMIT))
                client.sendall(data)
        client = stack.enter_context(
            socket.create_connection(("127.0.0.1", server.ports[1]), LIMIT)
        )
        client.sendall(request(1, 1) + b"x")
        assert client.recv(1) == b"x"


def test_server_counts_what_it_got(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.ports[1]), LIMIT) as client:
        client.sendall(request(2, 100) + b"x" * 12345)
        client.shutdown(socket.SHUT_WR)
        count, cpu = struct.unpack("!QQ", client.recv(16, socket.MSG_WAITALL))
    assert (count, cpu > 0) == (12345, True)


@slow
def test_server_of_others_ends_with_sigterm(shell: Shell) -> None:
    words = invocation("bench", "--server", "-a", "127.0.0.1", env=dict(os.environ))
    with subprocess.Popen(**words, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert process.stderr.readline() == "smcsock: serving on ports 4350 to 4353\n"
            shown = json.loads(shell.output(f"bench 127.0.0.1 {QUICK} --json"))
            assert list(shown["runs"]) == NAMES
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT) == 0
        finally:
            process.kill()


# ----- what it means


def results(mode: str, **values: Any) -> Results:
    def run(name: str, factor: float) -> Run:
        return Run(
            modes=[mode if name.startswith("smc") else "TCP"],
            connections=[1000 / factor],
            round_trips=[1e-5 / factor],
            throughput={64: [1e6], 131072: [1e9 * factor]},
        )

    return Results({name: run(name, 2 if name.startswith("smc") else 1) for name in NAMES})


@on_host
def test_conclusion() -> None:
    assert results("SMC-D").conclusion() == (
        "With SMC-D in place of TCP here, round trips are 2.0 times as fast, throughput is "
        "2.0 times as fast with messages of 128 KiB and as fast with 64 B, connections are "
        "opened 2.0 times slower."
    )
    assert results("TCP (0x03030000: no SMC device)").conclusion() == (
        "This says nothing of SMC: its connections were TCP (0x03030000: no SMC device)."
    )
