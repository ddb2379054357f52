"""uvicorn and gunicorn, which are given a listening SMC socket."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import smcsock
from apps.support import (
    LOOPS,
    Program,
    application,
    connect,
    free_port,
    in_thread,
    recipe,
    recipe_code,
)
from smcsock import Mode

uvicorn = application("uvicorn")
application("gunicorn")


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"hello"})


def check_uvicorn(server_class: Any, loop: str, mode: Mode) -> None:
    if loop == "uvloop":
        application("uvloop")
    port = free_port()
    config = uvicorn.Config(app, port=port, loop=loop, lifespan="off", log_level="warning")
    server = server_class(config)

    def stop() -> None:
        server.should_exit = True

    with in_thread(server.run, stop), contextlib.closing(connect(port)) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello"
        assert connection.sock.smc_info().mode is mode


@pytest.mark.parametrize("loop", LOOPS)
def test_uvicorn(loop: str, mode: Mode) -> None:
    check_uvicorn(recipe("uvicorn").SMCServer, loop, mode)


@pytest.mark.parametrize("loop", LOOPS)
def test_uvicorn_unchanged(loop: str, mode: Mode) -> None:
    with smcsock.installed():
        check_uvicorn(uvicorn.Server, loop, mode)


@pytest.fixture
def control_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps gunicorn's out of the user's directories."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.mark.usefixtures("control_socket")
def test_gunicorn_with_two_workers(mode: Mode) -> None:
    port = free_port()
    arguments = ("127.0.0.1", port), "--workers=2", "--log-level=warning", "wsgi:app"
    with running("-c", f"{recipe_code('gunicorn')}\nexec_gunicorn(*{arguments})"):
        check_two_workers(port, mode)


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[None]:
    """Runs Python in this directory until the context is left."""
    with subprocess.Popen([sys.executable, *arguments], cwd=Path(__file__).parent) as process:
        try:
            yield
        finally:
            process.terminate()


@pytest.mark.usefixtures("control_socket")
@pytest.mark.parametrize("options", [(), ("--preload", "-u", "nobody", "-g", "nogroup")], ids=str)
def test_gunicorn_under_run(options: tuple[str, ...], tmp_path: Path, mode: Mode) -> None:
    """Its workers too, which may run as another user than the master that has the report."""
    if options and os.geteuid() != 0:
        pytest.skip("only root can become another user")
    port = free_port()
    arguments = f"--bind=127.0.0.1:{port}", "--workers=2", "--log-level=warning", "wsgi:app"
    program = Program(tmp_path, "--children", "-m", "gunicorn", *options, *arguments)
    with program.running():
        check_two_workers(port, mode)
    assert program.connections() == {("accept", mode, None): 2}


def check_two_workers(port: int, mode: Mode) -> None:
    """Two requests at once, of which one waits for the other's end: it takes two to serve them."""
    with (
        contextlib.closing(connect(port)) as first,
        contextlib.closing(connect(port)) as second,
    ):
        first.putrequest("POST", "/")
        first.putheader("Content-Length", "1")
        first.endheaders()
        second.request("GET", "/")
        answers = [second.getresponse().read().decode().split(maxsplit=1)]
        first.send(b"x")
        answers.append(first.getresponse().read().decode().split(maxsplit=1))
    assert [text for _, text in answers] == [mode, mode]
    assert len({pid for pid, _ in answers}) == 2


# ----- listeners that are handed over


@pytest.fixture
def handed_over() -> Iterator[socket.socket]:
    """A listener that another program has opened."""
    with smcsock.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def check_hello(port: int, mode: Mode) -> None:
    with contextlib.closing(connect(port)) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().read().endswith((b"hello", str(mode).encode()))


def accepted(program: Program) -> dict[tuple[str, str], int]:
    return {(side, mode): count for (side, mode, _), count in program.connections().items()}


# Workers that take longer to start, as in an emulated guest, are killed and started again.
WORKERS = ["--workers=2", "--timeout-worker-healthcheck=100", "--host=127.0.0.1"]


@pytest.mark.parametrize("options", [[], WORKERS])
def test_uvicorn_with_a_descriptor_and_with_workers(
    options: list[str], handed_over: socket.socket, tmp_path: Path, mode: Mode
) -> None:
    fd, port = handed_over.fileno(), handed_over.getsockname()[1]
    where = f"--fd={fd}"
    if options:
        port = free_port()
        where = f"--port={port}"
    arguments = "--loop=asyncio", "--lifespan=off", "--log-level=warning", "asgi:app"
    program = Program(tmp_path, "--children", "-m", "uvicorn", where, *options, *arguments)
    with program.running(pass_fds=[fd]):
        check_hello(port, mode)
    assert accepted(program) == {("accept", mode): 1}


@pytest.mark.usefixtures("control_socket")
def test_gunicorn_activated_by_systemd(
    handed_over: socket.socket, tmp_path: Path, mode: Mode
) -> None:
    program = Program(tmp_path, "--children", "-m", "gunicorn", "--log-level=warning", "wsgi:app")
    activate = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""
    fd = handed_over.fileno()
    with program.running(sys.executable, "-c", activate, str(fd), pass_fds=[fd]):
        check_hello(handed_over.getsockname()[1], mode)
    assert accepted(program) == {("accept", mode): 1}
