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
from apps.support import LOOPS, application, in_thread, recipe
from smcsock import Mode

uvicorn = application("uvicorn")
application("gunicorn")

HERE = Path(__file__).parent


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
    await send({"type": "http.response.body", "body": b"hello"})


def connect(listener: socket.socket) -> Any:
    host, port = listener.getsockname()
    return recipe("http.client, urllib and xmlrpc").SMCConnection(host, port, timeout=60)


@pytest.fixture
def listener() -> Iterator[smcsock.socket]:
    with smcsock.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.mark.parametrize("loop", LOOPS)
def test_uvicorn(loop: str, listener: smcsock.socket, mode: Mode) -> None:
    if loop == "uvloop":
        application("uvloop")
    config = uvicorn.Config(hello, loop=loop, lifespan="off", log_level="warning", ws="none")
    server = uvicorn.Server(config)

    def stop() -> None:
        server.should_exit = True

    with in_thread(lambda: server.run(sockets=[listener]), stop):
        connection = connect(listener)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"hello"
            assert connection.sock.smc_info().mode is mode


def test_gunicorn_with_two_workers(listener: smcsock.socket, mode: Mode) -> None:
    fd = listener.fileno()
    command = [sys.executable, "-m", "gunicorn", f"--bind=fd://{fd}", "--workers=2"]
    command += ["--log-level=warning", f"--chdir={HERE}", "wsgi:app"]
    with contextlib.ExitStack() as stack:
        process = subprocess.Popen(command, pass_fds=[fd])
        stack.callback(process.wait)
        stack.callback(process.terminate)
        # One worker has to wait for the end of the first request, so the other serves.
        first, second = (stack.enter_context(contextlib.closing(connect(listener))) for _ in "12")
        first.putrequest("POST", "/")
        first.putheader("Content-Length", "1")
        first.endheaders()
        second.request("GET", "/")
        answers = [second.getresponse().read().decode().split(maxsplit=1)]
        first.send(b"x")
        answers.append(first.getresponse().read().decode().split(maxsplit=1))
        assert [text for _, text in answers] == [mode, mode]
        assert len({pid for pid, _ in answers} - {str(process.pid), str(os.getpid())}) == 2
