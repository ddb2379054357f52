"""The examples, run as a user does: each in processes of its own."""

import contextlib
import errno
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import IO

from conftest import EXPECTED_MODE, VM_MODE, slow
from test_socket import LIMIT
from test_socket import time_limit as time_limit

import smcsock
from smcsock import Mode

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

pytestmark = slow

MODE = EXPECTED_MODE.get(VM_MODE or "", Mode.TCP)
"""Of the examples' connections, which go over 127.0.0.1."""


def command(name: str, *arguments: str) -> list[str]:
    # Not -X dev: a slow guest would have asyncio complain of its own speed.
    return [sys.executable, "-W", "default", str(EXAMPLES / name), *arguments]


def start(name: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(name, *arguments),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        text=True,
    )


def run(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(name, *arguments), input="", capture_output=True, text=True, timeout=LIMIT
    )


def stdout(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


@contextlib.contextmanager
def serving(name: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server on a free port, and the port; in the end Ctrl-C has to stop it quietly."""
    with start(name, "--port", "0", *arguments) as process:
        try:
            found = re.fullmatch(r"listening on 127\.0\.0\.1 (\d+)\n", stdout(process).readline())
            assert found
            yield process, found[1]
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=LIMIT)
            assert "Traceback" not in errors
            assert process.returncode == 0
        finally:
            process.kill()


def test_every_example_is_tested() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == {"chat.py", "echo_server.py", "pool.py", "transfer.py"}


def test_echo_server() -> None:
    with serving("echo_server.py") as (server, port):
        with smcsock.create_connection(("127.0.0.1", int(port)), LIMIT) as sock:
            assert sock.smc_info().mode is MODE
            sock.sendall(b"Hello, world")
            echo = b""
            while len(echo) < 12:
                echo += sock.recv(12)
            assert echo == b"Hello, world"
        report = stdout(server).readline()
        assert re.fullmatch(rf"127\.0\.0\.1:\d+ over {MODE}: 12 bytes echoed\n", report)


def test_chat() -> None:
    with contextlib.ExitStack() as stack:
        with serving("chat.py", "serve") as (_, port):
            ada = stack.enter_context(start("chat.py", "--port", port, "join", "Ada"))
            assert stdout(ada).readline() == f"Welcome, Ada: you are here over {MODE}\n"
            with start("chat.py", "--port", port, "join", "Ben") as ben:
                assert stdout(ben).readline() == f"Welcome, Ben: you are here over {MODE}\n"
                assert stdout(ada).readline() == f"* Ben is here, over {MODE}\n"
                say(ada, "Hello, Ben\n")
                assert stdout(ben).readline() == "Ada: Hello, Ben\n"
                # The end of standard input is a goodbye.
                assert ben.communicate(timeout=LIMIT) == ("", "")
                assert ben.returncode == 0
            assert stdout(ada).readline() == "* Ben has left\n"
            with start("chat.py", "--port", port, "join", "Cy") as cy:
                assert stdout(cy).readline() == f"Welcome, Cy: you are here over {MODE}\n"
                cy.send_signal(signal.SIGINT)
                assert cy.communicate(timeout=LIMIT) == ("", "")
                assert cy.returncode == 0
            assert stdout(ada).readline() == f"* Cy is here, over {MODE}\n"
            assert stdout(ada).readline() == "* Cy has left\n"
        # The end of the server, which does not wait for her, is that of Ada's chat.
        assert ada.communicate(timeout=LIMIT) == ("", "")
        assert ada.returncode == 0


def test_transfer(tmp_path: Path) -> None:
    into = tmp_path / "into"
    into.mkdir()
    with serving("transfer.py", "receive", "--into", str(into)) as (receiver, port):
        for name, size in (("large", 3_000_000), ("empty", 0)):
            file = tmp_path / name
            file.write_bytes(os.urandom(size))
            sent = run("transfer.py", "--port", port, "send", str(file))
            assert sent.returncode == 0, sent.stderr
            assert sent.stdout == f"{name}: {size} bytes over {MODE}\n"
            assert ("100%" in sent.stderr) == bool(size)
            assert stdout(receiver).readline() == f"{into / name} over {MODE}\n"
            assert (into / name).read_bytes() == file.read_bytes()
        # What is there already stays as it is.
        again = run("transfer.py", "--port", port, "send", str(file))
        assert again.returncode == 1
        assert again.stderr.startswith(f"transfer: [Errno {errno.EEXIST}]")
        assert stdout(receiver).readline().startswith(f"failed: [Errno {errno.EEXIST}]")
        # What comes in part only is not kept.
        with smcsock.create_connection(("127.0.0.1", int(port)), LIMIT) as sock:
            sock.sendall(b'{"name": "part", "size": 9}\n')
            assert sock.recv(3) == b"go\n"
            sock.sendall(b"half")
            sock.shutdown(socket.SHUT_WR)
            assert stdout(receiver).readline() == "failed: part ended after 4 of 9 bytes\n"
            assert sock.recv(1000) == b"part ended after 4 of 9 bytes\n"
        assert {path.name for path in into.iterdir()} == {"large", "empty"}


def test_pool_uses_connections_again() -> None:
    with serving("echo_server.py") as (server, port):
        pool = run("pool.py", "--port", port, "--requests", "50", "--size", "3")
        if MODE is Mode.TCP:
            assert pool.returncode == 1
            assert pool.stderr.startswith("pool: refused: SMC was required but the connection is")
            return
        found = re.fullmatch(r"50 of 50 answers right, over (\d) connections\n", pool.stdout)
        assert found, pool.stderr
        assert 1 <= int(found[1]) <= 3
        assert f"over {MODE}: " in stdout(server).readline()


def test_without_server_there_is_an_error() -> None:
    with smcsock.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    commands = {"chat": ["join", "Ada"], "transfer": ["send", __file__], "pool": []}
    processes = {
        name: start(f"{name}.py", "--port", port, *arguments)
        for name, arguments in commands.items()
    }
    for name, process in processes.items():
        with process:
            _, errors = process.communicate(timeout=LIMIT)
        assert process.returncode == 1
        assert errors.startswith(f"{name}: [Errno {errno.ECONNREFUSED}]")
