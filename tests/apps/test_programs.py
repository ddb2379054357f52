"""Programs in C, Go and JavaScript over SMC, and Python with C libraries that open sockets.

Each is unchanged, and both ends of its connections are SMC: smc_diag says so while they
are there.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_native import KIND

from apps.native import output, running, wait_for_ends, wait_until_listening
from apps.support import IS_FOR_HERE, application, free_port
from apps.test_databases import directory as directory
from apps.test_databases import make_cluster, postgres, program
from smcsock import Mode, _native

pytestmark = pytest.mark.skipif(
    IS_FOR_HERE and KIND is _native.TCP_SOCKETS, reason="no SMC: these are run in a guest"
)

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def port() -> int:
    return free_port()


@contextlib.contextmanager
def server(port: int, *command: str, **options: object) -> Iterator[None]:
    with running(*command, **options):
        wait_until_listening(port)
        yield


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A file to be served that takes a slow reader long."""
    path = tmp_path / "page"
    path.write_bytes(bytes(1_000_000))
    tmp_path.chmod(0o755)
    return path


def slow_curl(port: int, path: str = "page", host: str = "127.0.0.1") -> list[str]:
    curl = program("curl")
    return [curl, "-s", "--limit-rate", "1000", "-o", os.devnull, f"http://{host}:{port}/{path}"]


def test_redis(port: int, tmp_path: Path, mode: Mode) -> None:
    command = [program("redis-server"), "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    client = [program("redis-cli"), "-p", str(port)]
    with server(port, *command), running(*client, "subscribe", "channel"):
        wait_for_ends(port, mode)
        assert output(*client, "-n", "1", "incr", "n") == "1\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_nginx_with_workers_and_curl(
    host: str, port: int, page: Path, tmp_path: Path, mode: Mode
) -> None:
    config = tmp_path / "nginx.conf"
    # Nobody else may look into pytest's directories.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(
        f"""
        {user} daemon off; worker_processes 2; pid {tmp_path}/pid; error_log {tmp_path}/log;
        events {{}}
        http {{
            access_log off; client_body_temp_path {tmp_path}; proxy_temp_path {tmp_path};
            fastcgi_temp_path {tmp_path}; uwsgi_temp_path {tmp_path}; scgi_temp_path {tmp_path};
            server {{ listen {host}:{port} reuseport; root {tmp_path}; }}
        }}
        """
    )
    with (
        server(port, program("nginx"), "-c", str(config), "-e", str(tmp_path / "log")),
        running(*slow_curl(port, host=host)),
        running(*slow_curl(port, host=host)),
    ):
        wait_for_ends(port, mode, 2)


def test_postgresql_with_psql_and_psycopg(port: int, directory: Path, mode: Mode) -> None:
    """A server that forks for each connection; libpq in C and in Python."""
    psycopg = application("psycopg")
    cluster = directory / "native"
    user = make_cluster(cluster)
    uid = cluster.stat().st_uid if user else None
    address = f"host=127.0.0.1 port={port} user=postgres"
    code = f"""
        import psycopg
        connection = psycopg.connect({address!r})
        connection.execute("select pg_sleep(1000)")
    """
    assert psycopg
    with (
        # SIGTERM waits for the clients, which it takes for alive while they sleep.
        server(port, *postgres(cluster, port), user=uid, cwd=cluster, stop=signal.SIGINT),
        running(program("psql"), address, "-c", "select pg_sleep(1000)"),
        running(sys.executable, "-c", textwrap.dedent(code)),
    ):
        wait_for_ends(port, mode, 2)


def test_go_static(port: int, page: Path, mode: Mode) -> None:
    """Caddy: a server whose listener would be MPTCP, and as a reverse proxy a client."""
    caddy = shutil.which("caddy", path=os.path.dirname(sys.executable))
    if caddy is None:
        pytest.skip("caddy is not installed")
    proxy = free_port()
    env = {"HOME": str(page.parent), "XDG_CONFIG_HOME": str(page.parent)}
    files = [caddy, "file-server", "--listen", f"127.0.0.1:{port}", "--root", str(page.parent)]
    way = ["--from", f"http://127.0.0.1:{proxy}", "--to", f"127.0.0.1:{port}"]
    with (
        server(port, *files, env=env),
        server(proxy, caddy, "reverse-proxy", *way, env=env),
        running(*slow_curl(proxy)),
    ):
        wait_for_ends(port, mode)
        wait_for_ends(proxy, mode)


NODE = """
const http = require("http"), [port] = process.argv.slice(1).map(Number);
http.createServer((request, response) => response.write("x")).listen(port, "127.0.0.1", () =>
    http.get({port, host: "127.0.0.1"}, () => {}));
"""


def test_node(port: int, mode: Mode) -> None:
    with running(program("node"), "-e", NODE, str(port)):
        wait_for_ends(port, mode)


FREESTANDING = (
    "-m32",
    "-ffreestanding",
    "-nostdlib",
    "-fno-stack-protector",
    "-fno-pie",
    "-no-pie",
)


@pytest.mark.parametrize(
    ("compiler", "options", "source"),
    [
        ("gcc", (), "static.c"),
        ("musl-gcc", (), "static.c"),
        ("gcc", FREESTANDING, "client.c"),
    ],
    ids=["glibc", "musl", "i386"],
)
def test_static_c(
    compiler: str, options: tuple[str, ...], source: str, port: int, tmp_path: Path, mode: Mode
) -> None:
    """That of i386 opens its socket by socketcall(2), whose arguments are in memory."""
    if options and os.uname().machine != "x86_64":
        pytest.skip("this machine runs no i386 programs")
    client = tmp_path / "client"
    more = [*options, "-static", "-o", str(client), str(DATA / source)]
    subprocess.run([program(compiler), *more], check=True)
    code = f"""
        import socket
        listener = socket.create_server(("127.0.0.1", {port}))
        sock, _ = listener.accept()
        sock.recv(1)
        input()
        sock.sendall(b"y")
    """
    with (
        server(port, sys.executable, "-c", textwrap.dedent(code)),
        running(str(client), str(port)),
    ):
        wait_for_ends(port, mode)


LOOP = """
    import asyncio, sys, uvloop

    async def main(port):
        server = await asyncio.start_server(lambda *_: asyncio.sleep(1000), "127.0.0.1", port)
        streams = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(1000)

    uvloop.run(main(int(sys.argv[1])))
"""

GRPC = """
    import sys, time
    from concurrent import futures
    import grpc

    server = grpc.server(futures.ThreadPoolExecutor())
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}")
    grpc.channel_ready_future(channel).result()
    time.sleep(1000)
"""


@pytest.mark.parametrize(("name", "code"), [("uvloop", LOOP), ("grpc", GRPC)])
def test_c_libraries_in_python(name: str, code: str, port: int, mode: Mode) -> None:
    application(name)
    with running(sys.executable, "-c", textwrap.dedent(code), str(port)):
        wait_for_ends(port, mode)
