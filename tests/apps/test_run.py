"""Programs that know nothing of SMC, under 'smcsock run'."""

import contextlib
from pathlib import Path

from apps.support import Program, application, connect, free_port, http_server
from apps.test_servers import check_two_workers
from smcsock import Mode

application("gunicorn")
application("requests")
application("uvicorn")


def test_requests(tmp_path: Path, mode: Mode) -> None:
    code = "import requests, sys; print(requests.get(sys.argv[1]).text)"
    with http_server() as url:
        program = Program(tmp_path, "-c", code, url)
        assert program.run().strip() == mode
    assert program.connections() == {("connect", mode, None): 1}


def test_gunicorn_with_two_workers(tmp_path: Path, mode: Mode) -> None:
    port = free_port()
    arguments = f"--bind=127.0.0.1:{port}", "--workers=2", "--log-level=warning", "wsgi:app"
    program = Program(tmp_path, "--children", "-m", "gunicorn", *arguments)
    with program.running():
        check_two_workers(port, mode)
    assert program.connections() == {("accept", mode, None): 2}


def test_uvicorn(tmp_path: Path, mode: Mode) -> None:
    port = free_port()
    arguments = f"--port={port}", "--loop=asyncio", "--lifespan=off", "--log-level=warning"
    program = Program(tmp_path, "-m", "uvicorn", *arguments, "asgi:app")
    with program.running(), contextlib.closing(connect(port)) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello"
        assert connection.sock.smc_info().mode is mode
    assert program.connections() == {("accept", mode, None): 1}
