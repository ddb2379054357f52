"""redis-py and pg8000 with the real servers.

Those know TCP only, so that an SMC socket connected to one falls back, and says so. In
front of them is put what a host would have that wants SMC as far as it goes: a relay.
"""

import contextlib
import os
import shutil
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import smcsock
from apps.support import Program, application, free_port, http_server, in_thread, recipe
from smcsock import Mode

PEERNOSMC = 0x03010000

redis = application("redis")
pg8000 = application("pg8000.dbapi", "pg8000")


def program(name: str) -> str:
    """The path of a server; the newest if there are some."""
    directories = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent)
    path = os.pathsep.join([*map(str, reversed(directories)), os.environ["PATH"], "/usr/sbin"])
    if found := shutil.which(name, path=path):
        return found
    pytest.skip(f"{name} is not installed")


@contextlib.contextmanager
def tcp_server(command: list[str], user: str | None, cwd: Path) -> Iterator[None]:
    """Runs redis-server or postgres until the context is left; begins when it is ready."""
    log = cwd / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, user=user, cwd=cwd, stdout=file, stderr=file, stdin=subprocess.DEVNULL
        )
    try:
        deadline = time.monotonic() + 60
        # Both say so in the same words.
        while "ready to accept connections" not in log.read_text().lower():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[0]} did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


class Relay(socketserver.BaseRequestHandler):
    """Passes what comes over SMC on to a TCP server on this host, and its answers back."""

    port: int

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as behind:
            back = threading.Thread(target=copy, args=(behind, self.request))
            back.start()
            copy(self.request, behind)
            back.join()


def copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):  # one of the two hung up
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def relay(port: int) -> Iterator[int]:
    """An SMC server before a TCP server; yields its port."""
    mixin = recipe("http.server and socketserver").SMCServer

    class Server(mixin, socketserver.ThreadingTCPServer):  # type: ignore[misc, valid-type]
        pass

    handler = type("Handler", (Relay,), {"port": port})
    with (
        Server(("127.0.0.1", 0), handler) as server,
        in_thread(lambda: server.serve_forever(0.05), server.shutdown),
    ):
        yield server.server_address[1]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Not tmp_path, which only its owner may enter."""
    with tempfile.TemporaryDirectory(prefix="smcsock-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def redis_port(directory: Path) -> Iterator[int]:
    port = free_port()
    command = [program("redis-server"), f"--port {port}", "--bind 127.0.0.1", "--save ''"]
    with tcp_server(command, None, directory):
        yield port


def make_cluster(path: Path) -> str | None:
    """A cluster of PostgreSQL, and the user that is to run it, None for this one."""
    # Root may not run it: Debian's package brings a user for that.
    user = "postgres" if os.geteuid() == 0 else None
    shutil.rmtree(path, ignore_errors=True)  # of an attempt that failed
    path.mkdir()
    if user:
        shutil.chown(path.parent, user)
        shutil.chown(path, user)
    init = [program("initdb"), "--no-sync", "--no-locale", "--auth=trust", "--username=postgres"]
    subprocess.run(
        [*init, f"--pgdata={path}"],
        user=user,
        cwd=path,
        env={**os.environ, "TZ": "UTC"},  # else it may compare this machine's with all there are
        check=True,
        stdout=subprocess.PIPE,
        timeout=300,
    )
    return user


def postgres(cluster: Path, port: int) -> list[str]:
    """The command that serves a cluster."""
    return [program("postgres"), f"-D{cluster}", f"-p{port}", f"-k{cluster}", "-F"]


@pytest.fixture(scope="module")
def postgres_port(directory: Path) -> Iterator[int]:
    port = free_port()
    cluster = directory / "postgres"
    user = make_cluster(cluster)
    with tcp_server(postgres(cluster, port), user, cluster):
        yield port


@pytest.fixture(params=["TCP server", "SMC relay"])
def is_smc(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "SMC relay")


@contextlib.contextmanager
def server(port: int, is_smc: bool) -> Iterator[int]:
    with relay(port) if is_smc else contextlib.nullcontext(port) as port:
        yield port


def check(sock: smcsock.socket, is_smc: bool, mode: Mode) -> None:
    info = sock.smc_info()
    assert info.mode is (mode if is_smc else Mode.TCP)
    if not is_smc and smcsock.has_smc():
        assert info.reason
        assert info.reason.code == PEERNOSMC


def test_redis(redis_port: int, is_smc: bool, mode: Mode) -> None:
    value = os.urandom(100_000)
    connection_class = recipe("redis-py").SMCConnection
    with server(redis_port, is_smc) as port:
        pool = redis.ConnectionPool(
            connection_class=connection_class, host="127.0.0.1", port=port, socket_timeout=60
        )
        with redis.Redis(connection_pool=pool) as client:
            client.set("key", value)
            assert client.get("key") == value
            with client.pipeline() as pipeline:
                assert pipeline.incr("n").incr("n").delete("n").execute() == [1, 2, 1]
            connection = pool.get_connection()
            check(connection._sock, is_smc, mode)
            pool.release(connection)
        pool.close()


def test_postgres(postgres_port: int, is_smc: bool, mode: Mode) -> None:
    value = os.urandom(100_000)
    connect = recipe("pg8000").connect_smc
    with (
        server(postgres_port, is_smc) as port,
        contextlib.closing(connect("127.0.0.1", port, user="postgres")) as connection,
    ):
        check(connection._usock, is_smc, mode)
        cursor = connection.cursor()
        cursor.execute("CREATE TEMPORARY TABLE t (n int, value bytea)")
        cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(1, b"one"), (2, value)])
        cursor.execute("SELECT value FROM t ORDER BY n")
        assert cursor.fetchall() == ([b"one"], [value])


PROGRAM = """
import sys, pg8000.native, redis, requests

url, *ports = sys.argv[1:]
print(requests.get(url).text)
for redis_port, postgres_port in (ports[:2], ports[2:]):
    with redis.Redis(port=int(redis_port)) as client:
        client.set("key", b"x" * 100_000)
        print(len(client.get("key")))
    client = pg8000.native.Connection("postgres", host="127.0.0.1", port=int(postgres_port))
    print(len(client.run("SELECT repeat('x', 100000)")[0][0]))
    client.close()
"""


def test_clients_under_run(redis_port: int, postgres_port: int, tmp_path: Path, mode: Mode) -> None:
    application("requests")
    with http_server() as url, relay(redis_port) as redis_relay, relay(postgres_port) as pg_relay:
        ports = redis_port, postgres_port, redis_relay, pg_relay
        program = Program(tmp_path, "-c", PROGRAM, url, *map(str, ports))
        assert program.run().split() == [mode, *["100000"] * 4]
    expected: Counter[tuple[str, Mode, int | None]] = Counter()
    expected["connect", mode, None] += 3
    expected["connect", Mode.TCP, PEERNOSMC if smcsock.has_smc() else None] += 2
    assert program.connections() == expected
