"""What the tests with applications share."""

import asyncio
import contextlib
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import pytest
from conftest import VM_MODE

import smcsock
from smcsock import Mode

ROOT = Path(__file__).resolve().parents[2]
TLS = ROOT / "tests/data/tls.pem"
HERE = Path(__file__).parent
RECIPES = ROOT / "docs/recipes.md"

IS_FOR_HERE = VM_MODE in (None, "smcd")
"""Applications run over SMC-D, and over TCP on a host that has no SMC: that is cheap."""


class HasDescriptor(Protocol):
    def fileno(self) -> int: ...


def application(name: str, package: str | None = None) -> Any:
    """A third-party module, or else the skip of the test module that asks for it.

    None where its tests are skipped anyway: to import takes seconds in a guest.
    """
    if not IS_FOR_HERE:
        return None
    return pytest.importorskip(name, reason=f"{package or name} is not installed")


def recipe_code(title: str) -> str:
    """The code under a heading of docs/recipes.md, on the lines where it is there."""
    text = RECIPES.read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", text, re.M | re.S)
    assert section, f"no recipe called {title}"
    code = ""
    for block in re.finditer(r"^```python\n(.*?)^```$", section[0], re.M | re.S):
        lines_before = text.count("\n", 0, section.start() + block.start(1))
        code += "\n" * (lines_before - code.count("\n")) + block[1]
    assert code, f"no code in {title}"
    return code


def recipe(title: str) -> Any:
    """What the code under a heading of docs/recipes.md defines."""
    names: dict[str, Any] = {"__name__": f"recipe: {title}"}
    exec(compile(recipe_code(title), RECIPES, "exec"), names)
    return SimpleNamespace(**names)


LOOPS = ["asyncio", "uvloop"]


def run_on(loop: str, main: Coroutine[Any, Any, None]) -> None:
    """asyncio.run() on asyncio's own event loop or on uvloop's."""
    factory = None
    if loop == "uvloop":
        with contextlib.ExitStack() as stack:
            stack.callback(main.close)  # else Python warns that nobody has awaited it
            factory = application(loop).new_event_loop
            stack.pop_all()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def free_port() -> int:
    """A port for a server that cannot tell which one it got."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def mode_of(sock: HasDescriptor) -> Mode | None:
    """The mode of a connection, asked of the kernel by its descriptor."""
    with smcsock.fromfd(sock.fileno()) as same:
        return same.smc_info().mode


@contextlib.contextmanager
def in_thread(serve: Callable[[], object], stop: Callable[[], object]) -> Iterator[None]:
    """Serves in a thread until the context is left."""
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join()


class ModeHandler(BaseHTTPRequestHandler):
    """Answers with the mode of the connection that the request came over."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = str(mode_of(self.connection)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def http_server(
    host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, is_smc_only: bool = False
) -> Iterator[str]:
    """The standard library's HTTP server with ModeHandler, over SMC; yields its URL."""
    recipes = recipe("http.server and socketserver")
    mixin = recipes.SMCOnlyServer if is_smc_only else recipes.SMCServer
    is_ipv6 = ":" in host

    class Server(mixin, ThreadingHTTPServer):  # type: ignore[misc, valid-type]
        address_family = socket.AF_INET6 if is_ipv6 else socket.AF_INET

    with Server((host, 0), ModeHandler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        netloc = f"[{host}]" if is_ipv6 else host
        with in_thread(lambda: server.serve_forever(0.05), server.shutdown):
            yield f"{'https' if tls else 'http'}://{netloc}:{server.server_port}/"


def connect(port: int) -> Any:
    """A connection to a server that may have to start first."""
    connection_class = recipe("http.client, urllib and xmlrpc").SMCConnection
    connection = connection_class("127.0.0.1", port, timeout=60)
    deadline = time.monotonic() + 110
    while True:
        try:
            connection.connect()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return connection


class Program:
    """A Python program under 'smcsock run', and what that reported of it."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self._report = directory / "report"
        run = [sys.executable, "-m", "smcsock", "run", f"--report-to={self._report}", "--json"]
        self.command = [*run, *arguments]

    def run(self) -> str:
        """Runs it; what it printed."""
        return subprocess.run(
            self.command, cwd=HERE, check=True, stdout=subprocess.PIPE, text=True, timeout=100
        ).stdout

    @contextlib.contextmanager
    def running(self, *prefix: str, **kwargs: Any) -> Iterator[None]:
        """Runs it until the context is left, then ends it with SIGTERM.

        ``prefix`` is a command that executes it, ``kwargs`` are those of Popen().
        """
        with subprocess.Popen([*prefix, *self.command], cwd=HERE, **kwargs) as process:
            try:
                yield
            finally:
                process.send_signal(signal.SIGTERM)

    def connections(self) -> dict[tuple[str, str, int | None], int]:
        """How many connections there were by side, mode and reason."""
        report = json.loads(self._report.read_text())
        return {(c["side"], c["mode"], c["reason"]): c["count"] for c in report["connections"]}
