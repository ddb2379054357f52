"""uvicorn and gunicorn, which are given a listening SMC socket."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.asgi import app
from apps.support import LOOPS, application, connect, free_port, in_thread, recipe, recipe_code
from smcsock import Mode

uvicorn = application("uvicorn")
application("gunicorn")


@pytest.mark.parametrize("loop", LOOPS)
def test_uvicorn(loop: str, mode: Mode) -> None:
    if loop == "uvloop":
        application("uvloop")
    port = free_port()
    config = uvicorn.Config(
        app, port=port, loop=loop, lifespan="off", log_level="warning", ws="none"
    )
    server = recipe("uvicorn").SMCServer(config)

    def stop() -> None:
        server.should_exit = True

    with in_thread(server.run, stop), contextlib.closing(connect(port)) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello"
        assert connection.sock.smc_info().mode is mode


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
