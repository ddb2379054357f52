"""The command line, as processes of its own: what it prints and how it ends."""

import contextlib
import errno
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import COMMAND, invocation
from conftest import on_host, slow

import smcsock
from smcsock import DiagUnavailableError, Mode, SmcInfo, State
from smcsock.__main__ import main
from smcsock._cli._address import format_address
from smcsock._cli._info import collect
from smcsock._kernel._reasons import reason

# An emulated guest takes seconds to start a process.
LIMIT = 120

IPV4 = pytest.param("-4", "127.0.0.1", id="ipv4")
IPV6 = pytest.param("-6", "::1", id="ipv6")
families = pytest.mark.parametrize(("family", "host"), [IPV4, IPV6])
without_smc = pytest.mark.skipif(smcsock.has_smc(), reason="this kernel has SMC")

NO_SMC = "TCP (this kernel has no SMC)"


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONUTF8": "1", **changes}


def bare_environment() -> dict[str, str]:
    """Of a user who has not said what to do where the kernel has no SMC."""
    env = environment()
    env.pop("SMCSOCK_FALLBACK", None)
    return env


def run(
    *arguments: str | bytes, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    started = invocation(*arguments, env=env or environment())
    return subprocess.run(**started, capture_output=True, text=True, timeout=LIMIT)


def complaints(stderr: str) -> list[str]:
    """Standard error without the notice that a kernel without SMC is worth."""
    return [line for line in stderr.splitlines() if not line.endswith("Running over plain TCP")]


@dataclass
class Server:
    process: subprocess.Popen[str]
    first_line: str

    @property
    def port(self) -> int:
        return int(self.first_line.rpartition(":")[2])

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Its exit status, and what is left of its output and errors."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str, str]:
        stdout, stderr = self.process.communicate(timeout=LIMIT)
        return self.process.returncode, stdout, stderr


@contextlib.contextmanager
def serving(*arguments: str, files: int | None = None) -> Iterator[Server]:
    """An echo server on a free port; ``files`` limits its descriptors."""

    def prepare() -> None:
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    started = invocation(
        "echo", "--server", "-p", "0", *arguments, env=environment(), prepare=prepare
    )
    process = subprocess.Popen(**started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        server = Server(process, "")
        server.first_line = server.line()
        assert server.first_line.startswith("listening on "), process.communicate()
        yield server
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def peer(behave: Callable[[smcsock.socket], None]) -> Iterator[int]:
    """A server that does something to its one client: its port."""

    def attend() -> None:
        conn, _ = listener.accept()
        with conn, contextlib.suppress(OSError):
            behave(conn)

    with smcsock.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        thread = threading.Thread(target=attend)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def receive(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        chunk = sock.recv(length - len(data))
        assert chunk, f"closed after {data!r}"
        data += chunk
    return data


def mode_over(host: str, request: pytest.FixtureRequest) -> str:
    """What the command line shall call a connection to a loopback address: the beginning.

    IPv4 has the mode of the guest. IPv6 need not have: with SMC-R it takes a device
    that does RoCE version 1.
    """
    if not smcsock.has_smc():
        return NO_SMC
    mode = request.getfixturevalue("smc_mode")
    if ":" in host:
        with (
            smcsock.create_server((host, 0), family=socket.AF_INET6) as listener,
            smcsock.create_connection(listener.getsockname()[:2], LIMIT) as client,
        ):
            mode = client.smc_info().mode
        assert mode in (request.getfixturevalue("smc_mode"), Mode.TCP)
    return str(mode)


# ---- echo, alone


@families
def test_echo_alone_shows_the_exchange_and_the_mode_of_both_ends(
    family: str, host: str, request: pytest.FixtureRequest
) -> None:
    mode = mode_over(host, request)
    result = run("echo", family)
    lines = result.stdout.splitlines()
    addr = re.escape(f"[{host}]" if ":" in host else host) + r":(\d+)"
    listening = re.fullmatch(f"server: listening on {addr}", lines[0])
    connected = re.fullmatch(f"client: connected to {addr} from {addr}: (.*)", lines[1])
    assert listening
    assert connected
    assert connected[1] == listening[1]
    assert connected[3].startswith(mode)
    accepted = [line for line in lines if re.match(rf"server: {addr} connected: ", line)]
    assert len(accepted) == 1
    assert f":{connected[2]} connected: {mode}" in accepted[0]
    assert "client: sent 12 bytes: 'Hello, world'" in lines
    assert "client: received 12 bytes: 'Hello, world'" in lines
    assert lines[-1].endswith("closed: echoed 12 bytes")
    assert complaints(result.stderr) == []
    assert result.returncode == 0


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        pytest.param("", "0 bytes: ''", id="empty"),
        pytest.param("x", "1 byte: 'x'", id="one byte"),
        pytest.param("grüße €", "11 bytes: 'grüße €'", id="unicode"),
        pytest.param(b"\xff\xfe", r"2 bytes: b'\xff\xfe'", id="not UTF-8"),
        pytest.param("\x1b[2J", r"4 bytes: '\x1b[2J'", id="control characters"),
        pytest.param("x" * 100_000, f"100000 bytes: '{'x' * 59}...", id="longer than buffers"),
    ],
)
def test_echo_returns_any_message_whole(message: str | bytes, shown: str) -> None:
    result = run("echo", "-m", message)
    lines = result.stdout.splitlines()
    assert f"client: sent {shown}" in lines
    assert f"client: received {shown}" in lines
    assert result.returncode == 0


def test_echo_prints_what_the_terminal_cannot_show() -> None:
    result = run("echo", "-m", "€", env=environment(PYTHONIOENCODING="ascii"))
    assert r"client: received 3 bytes: '\u20ac'" in result.stdout.splitlines()
    assert result.returncode == 0


def test_echo_alone_listens_where_it_is_told_to() -> None:
    result = run("echo", "-a", "localhost", "-4")
    assert result.stdout.startswith("server: listening on 127.0.0.1:")
    assert result.returncode == 0


def test_a_mode_that_cannot_be_told_is_explained(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    mode = mode_over("127.0.0.1", request)

    def fail(sock: smcsock.socket) -> SmcInfo:
        raise DiagUnavailableError

    monkeypatch.setattr(smcsock.socket, "smc_info", fail)
    assert main(["echo"]) == 0
    known = "TCP, for a reason unknown" if mode.startswith("TCP") else "SMC-D or SMC-R"
    assert capsys.readouterr().out.count(f"{known} (the kernel does not answer sock_diag") == 2


# ---- a kernel without SMC


@without_smc
def test_echo_alone_says_in_a_line_that_there_is_no_smc_and_goes_on() -> None:
    result = run("echo", env=bare_environment())
    (notice,) = result.stderr.splitlines()
    assert notice.startswith("smcsock: this kernel has no SMC")
    assert "modprobe smc" in notice
    assert notice.endswith("Running over plain TCP")
    assert "client: received 12 bytes: 'Hello, world'" in result.stdout
    assert result.returncode == 0


@without_smc
@pytest.mark.parametrize("role", [["-s"], ["-c", "127.0.0.1"]], ids=["server", "client"])
def test_server_and_client_do_not_fall_back_by_themselves(role: list[str]) -> None:
    result = run("echo", *role, env=bare_environment())
    (error,) = result.stderr.splitlines()
    assert "no SMC" in error
    assert "--fallback tcp" in error
    assert result.stdout == ""
    assert result.returncode == 3


@without_smc
@pytest.mark.parametrize(
    "role", [[], ["-s"], ["-c", "127.0.0.1"]], ids=["alone", "server", "client"]
)
def test_require_smc_fails_whatever_the_environment_allows(role: list[str]) -> None:
    result = run("echo", "--require-smc", *role, env=environment(SMCSOCK_FALLBACK="tcp"))
    (error,) = result.stderr.splitlines()
    assert error.startswith("smcsock: this kernel has no SMC")
    assert result.stdout == ""
    assert result.returncode == 3


@without_smc
def test_the_environment_can_forbid_the_fallback() -> None:
    result = run("echo", env=environment(SMCSOCK_FALLBACK="error"))
    assert result.stdout == ""
    assert result.returncode == 3


# ---- server and client


@families
def test_server_and_client_show_the_mode_of_their_ends(
    family: str, host: str, request: pytest.FixtureRequest
) -> None:
    mode = mode_over(host, request)
    with serving("-a", host, "--once") as server:
        result = run("echo", "--client", host, "-p", str(server.port), "-m", "good morning")
        status, output, errors = server.wait()
    lines = result.stdout.splitlines()
    assert re.match(rf"connected to \S+:{server.port} from \S+: {re.escape(mode)}", lines[0])
    assert lines[-2:] == ["sent 12 bytes: 'good morning'", "received 12 bytes: 'good morning'"]
    assert complaints(result.stderr) == []
    assert result.returncode == 0
    served = output.splitlines()
    assert f" connected: {mode}" in served[0]
    assert served[-1].endswith(" closed: echoed 12 bytes")
    assert complaints(errors) == []
    assert status == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "localhost"])
def test_a_server_on_all_addresses_serves_ipv4_and_ipv6(host: str) -> None:
    with serving() as server:
        result = run("echo", "-c", host, "-p", str(server.port))
        line = server.line()
    assert "received 12 bytes: 'Hello, world'" in result.stdout.splitlines()
    assert line.startswith("127.0.0.1:" if host == "127.0.0.1" else ("[::1]:", "127.0.0.1:"))


@families
def test_a_family_restricts_the_server(family: str, host: str) -> None:
    other = {"::1": "127.0.0.1", "127.0.0.1": "::1"}[host]
    with serving(family) as server:
        assert run("echo", "-c", host, "-p", str(server.port)).returncode == 0
        refused = run("echo", "-c", other, "-p", str(server.port))
    assert "Connection refused" in refused.stderr
    assert refused.returncode == 1


@families
def test_a_server_serves_many_clients_at_once(family: str, host: str) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving("-a", host))
        clients = [
            stack.enter_context(smcsock.create_connection((host, server.port), LIMIT))
            for _ in range(20)
        ]
        for number, client in enumerate(clients):
            client.sendall(b"%06d" % number)
        for number, client in reversed(list(enumerate(clients))):
            assert receive(client, 6) == b"%06d" % number


def test_a_server_out_of_descriptors_serves_those_who_wait_later() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving("-4", files=10))
        clients = [
            stack.enter_context(smcsock.create_connection(("127.0.0.1", server.port), LIMIT))
            for _ in range(12)
        ]
        assert server.process.stderr is not None
        errors = iter(server.process.stderr.readline, "")
        reason = os.strerror(errno.EMFILE)
        assert f"smcsock: cannot accept a connection: {reason}\n" in errors
        for client in clients:
            client.sendall(b"patience")
            assert receive(client, 8) == b"patience"
            client.close()
        status, _, _ = server.stop()
    assert status == 0


def test_a_server_survives_a_client_that_aborts() -> None:
    with serving("-4") as server:
        with smcsock.create_connection(("127.0.0.1", server.port), LIMIT) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(bytes(100_000))
        assert run("echo", "-c", "127.0.0.1", "-p", str(server.port)).returncode == 0
        status, _, errors = server.stop()
    assert "Traceback" not in errors
    assert status == 0


# ---- SMC required, and fallback of single connections


def test_a_server_tells_why_a_connection_is_tcp(smc_mode: Mode) -> None:
    with serving("-4", "--once") as server:
        with socket.create_connection(("127.0.0.1", server.port), LIMIT) as client:
            client.sendall(b"plain")
            assert receive(client, 5) == b"plain"
        status, output, _ = server.wait()
    connected, advice, closed = output.splitlines()
    assert connected.endswith(" connected: TCP (0x03010000: the peer did not indicate SMC)")
    assert " advice: use an SMC socket on the peer too" in advice
    assert closed.endswith(" closed: echoed 5 bytes")
    assert status == 0


def test_a_server_that_requires_smc_refuses_a_tcp_client_and_serves_the_next(
    smc_mode: Mode,
) -> None:
    with serving("-4", "--require-smc") as server:
        with socket.create_connection(("127.0.0.1", server.port), LIMIT) as client:
            client.settimeout(LIMIT)
            assert client.recv(1) == b""
        smc = run("echo", "-c", "127.0.0.1", "-p", str(server.port))
        assert smc.returncode == (1 if smc_mode is Mode.TCP else 0)
        status, _, errors = server.stop()
    refusal = complaints(errors)[0]
    assert refusal.startswith("smcsock: refused ")
    assert "SMC was required but the connection is TCP (0x" in refusal
    assert "; advice: " in refusal
    assert status == 0


def test_a_server_for_one_tells_by_its_status_that_it_refused(smc_mode: Mode) -> None:
    with serving("-4", "--require-smc", "--once") as server:
        with socket.create_connection(("127.0.0.1", server.port), LIMIT) as client:
            client.settimeout(LIMIT)
            assert client.recv(1) == b""
        status, _, _ = server.wait()
    assert status == 3


def test_a_client_that_requires_smc_refuses_a_tcp_server(smc_mode: Mode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = run("echo", "--require-smc", "-c", "127.0.0.1", "-p", str(port))
    (error,) = result.stderr.splitlines()
    assert error.startswith(
        f"smcsock: 127.0.0.1:{port}: SMC was required but the connection is TCP"
    )
    assert result.stdout == ""
    assert result.returncode == 3


def test_echo_alone_can_require_smc(smc_mode: Mode) -> None:
    assert run("echo", "--require-smc").returncode == (3 if smc_mode is Mode.TCP else 0)


# ---- what goes wrong


@families
def test_an_address_in_use_is_named(family: str, host: str) -> None:
    with serving("-a", host) as server:
        result = run("echo", "-s", "-a", host, "-p", str(server.port))
    (error,) = complaints(result.stderr)
    shown = f"[{host}]" if ":" in host else host
    reason = os.strerror(errno.EADDRINUSE)
    assert error == f"smcsock: cannot listen on {shown}:{server.port}: {reason}"
    assert result.returncode == 1


@families
def test_a_refused_connection_is_named(family: str, host: str) -> None:
    inet = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(inet) as unused:
        unused.bind((host, 0))
        port = unused.getsockname()[1]
        result = run("echo", "-c", host, "-p", str(port))
    (error,) = complaints(result.stderr)
    shown = f"[{host}]" if ":" in host else host
    assert error == f"smcsock: cannot connect to {shown}:{port}: Connection refused"
    assert result.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["-6", "-c", "127.0.0.1"], "cannot resolve '127.0.0.1' to an IPv6 address: "),
        (["-4", "-c", "::1"], "cannot resolve '::1' to an IPv4 address: "),
        (["-s", "-a", "bad..name"], "cannot resolve 'bad..name' to an address: "),
        (["-c", "fe80::1%nosuchif"], "cannot resolve 'fe80::1%nosuchif' to an address: "),
        (
            ["-a", "192.0.2.1"],
            f"cannot listen on 192.0.2.1:0: {os.strerror(errno.EADDRNOTAVAIL)}",
        ),
    ],
)
def test_a_bad_address_is_named(arguments: list[str], error: str) -> None:
    result = run("echo", *arguments)
    (line,) = complaints(result.stderr)
    assert line.startswith(f"smcsock: {error}")
    assert result.stdout == ""
    assert result.returncode == 1


def test_a_zone_reaches_the_kernel() -> None:
    # Nobody listens there, but which error that is differs with the interface.
    result = run("echo", "-c", "fe80::1%lo", "--timeout", "2")
    (line,) = complaints(result.stderr)
    assert line.startswith("smcsock: cannot connect to [fe80::1%lo]:4343: ")
    assert "Invalid argument" not in line  # which is what a missing zone gives
    assert result.returncode == 1


def shut(conn: smcsock.socket) -> None:
    conn.sendall(receive(conn, 12)[:5])


def reset(conn: smcsock.socket) -> None:
    receive(conn, 12)
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def distort(conn: smcsock.socket) -> None:
    conn.sendall(receive(conn, 12).upper())
    conn.recv(1)


def keep_silent(conn: smcsock.socket) -> None:
    while conn.recv(100):
        pass


def dribble(conn: smcsock.socket) -> None:
    for byte in receive(conn, 12):
        conn.sendall(bytes([byte]))
    conn.recv(1)


@pytest.mark.parametrize(
    ("behave", "error"),
    [
        (shut, r"the server closed the connection, after 5 of 12 bytes"),
        (
            reset,
            r"(Connection reset by peer|the server closed the connection), after 0 of 12 bytes",
        ),
        (distort, r"the echo differs from what was sent"),
        (keep_silent, r"no echo within 2 s, after 0 of 12 bytes"),
    ],
)
def test_a_missing_or_wrong_echo_fails(
    behave: Callable[[smcsock.socket], None], error: str
) -> None:
    with peer(behave) as port:
        result = run("echo", "-c", "127.0.0.1", "-p", str(port), "--timeout", "2")
    (line,) = complaints(result.stderr)
    assert re.fullmatch(rf"smcsock: 127\.0\.0\.1:{port}: {error}", line)
    assert result.returncode == 1


def test_an_echo_in_pieces_is_put_together() -> None:
    with peer(dribble) as port:
        result = run("echo", "-c", "127.0.0.1", "-p", str(port))
    assert "received 12 bytes: 'Hello, world'" in result.stdout.splitlines()
    assert result.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "required: COMMAND"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["echo", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["echo", "-p", "65536"], "not a port number (0 to 65535): '65536'"),
        (["echo", "-p", "http"], "not a port number (0 to 65535): 'http'"),
        (["echo", "-p=-1"], "not a port number (0 to 65535): '-1'"),
        (["echo", "-c", "::1", "-p", "0"], "cannot connect to port 0"),
        (["echo", "-c", ""], "the address is empty"),
        (["echo", "-c"], "expected one argument"),
        (["echo", "-s", "-c", "::1"], "not allowed with"),
        (["echo", "-4", "-6"], "not allowed with"),
        (["echo", "-s", "-m", ""], "--message cannot be used with --server"),
        (["echo", "-s", "--timeout", "1"], "--timeout cannot be used with --server"),
        (["echo", "-c", "::1", "-a", "::1"], "--address cannot be used with --client"),
        (["echo", "-c", "::1", "--once"], "--once cannot be used with --client"),
        (["echo", "--once"], "--once cannot be used without --server"),
        (["echo", "--timeout", "0"], "not a number of seconds"),
        (["echo", "--timeout", "nan"], "not a number of seconds"),
        (["echo", "--timeout", "inf"], "not a number of seconds"),
        (["echo", "--fallback", "udp"], "must be 'tcp' or 'error', not 'udp'"),
        (["info", "extra"], "unrecognized arguments: extra"),
    ],
)
def test_wrong_usage_is_status_2(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    output = capsys.readouterr()
    assert error in output.err
    assert output.out == ""
    assert raised.value.code == 2


def test_a_wrong_environment_is_wrong_usage() -> None:
    result = run("echo", env=environment(SMCSOCK_FALLBACK="maybe"))
    assert "SMCSOCK_FALLBACK" in result.stderr
    assert "'maybe'" in result.stderr
    assert result.returncode == 2


# ---- signals and standard streams


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_ends_a_server_quietly_with_clients_connected(number: int, expected: int) -> None:
    with serving("-4") as server:
        with smcsock.create_connection(("127.0.0.1", server.port), LIMIT) as client:
            client.sendall(b"x")
            assert receive(client, 1) == b"x"
            status, _, errors = server.stop(number)
        assert complaints(errors) == []
        assert status == expected


def test_ctrl_c_ends_a_waiting_client_quietly() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        process = subprocess.Popen(
            **invocation("echo", "-c", "127.0.0.1", "-p", port, env=environment()),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline().startswith("connected to ")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=LIMIT)
    assert complaints(errors) == []
    assert process.returncode == 130


@on_host
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", [["echo"], ["info"], ["--help"], ["echo", "--help"]])
def test_a_reader_that_has_gone_ends_it_quietly(arguments: list[str], unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        result = subprocess.run(
            [*COMMAND, *arguments],
            env=environment(PYTHONUNBUFFERED=unbuffered),
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT,
        )
    assert complaints(result.stderr) == []
    assert result.returncode == 141


def test_a_server_whose_reader_has_gone_ends_quietly() -> None:
    with serving("-4") as server:
        assert server.process.stdout is not None
        server.process.stdout.close()
        with smcsock.create_connection(("127.0.0.1", server.port), LIMIT):
            status = server.process.wait(LIMIT)
        assert server.process.stderr is not None
        assert complaints(server.process.stderr.read()) == []
        server.process.stdout = None
    assert status == 141


@on_host
def test_a_full_disk_is_told() -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*COMMAND, "info"],
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT,
        )
    assert result.stderr == "smcsock: cannot write the output: No space left on device\n"
    assert result.returncode == 1


@slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_do_no_harm(closed: str) -> None:
    script = f'exec "$@" {closed}'
    result = subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, "echo"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert ("received 12 bytes" in result.stdout) == (">&-" not in closed.split())
    assert "Traceback" not in result.stderr
    assert result.returncode == 0


@pytest.mark.parametrize("arguments", [["--help"], ["echo", "--help"], ["info", "--help"]])
def test_help_documents_the_exit_status(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(SystemExit):
        assert main(arguments) == 0
    assert re.search(r"exit status:\n  0 +\w", capsys.readouterr().out)


def test_the_script_is_the_same_program() -> None:
    script = Path(sys.executable).parent / "smcsock"
    if not script.exists():
        pytest.skip("the package's scripts are not installed beside the interpreter")
    result = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=LIMIT)
    assert result.stdout == f"smcsock {smcsock.__version__}\n"


def test_the_library_does_not_load_what_few_need() -> None:
    few = {"argparse", "asyncio", "ipaddress", "json", "pyroute2", "ssl", "smcsock._cli"}
    few |= {f"smcsock.{name}" for name in ("_install", "_only", "_session", "_ssl", "_tally")}
    code = f"import smcsock, sys; print(sorted({few!r} & {{*sys.modules}}))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT
    )
    assert result.stdout == "[]\n"


@on_host
@pytest.mark.parametrize("option", ["--version", "--help"])
def test_version_and_help_load_no_more_than_they_need(option: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "smcsock", option]
    result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not loaded & {"argparse", "dataclasses", "re", "socket", "typing"}
    own = {name for name in loaded if name.startswith("smcsock")}
    assert own == {"smcsock", *(f"smcsock._cli{name}" for name in ("", "._common", "._text"))}


@on_host
def test_names_that_the_command_does_without_are_there() -> None:
    code = """
import sys
sys.argv[0] = "/usr/bin/smcsock"
import smcsock
print("socket" in sys.modules)
from smcsock import *
print(sorted({*smcsock.__all__} - {*globals()}), smcsock.socket is socket)
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert result.stdout == "False\n[] True\n"


# ---- info


def test_info_shows_what_the_kernel_offers() -> None:
    result = run("info")
    fields = dict(re.findall(r"^(\S.{19})(.*)$", result.stdout, re.MULTILINE))
    fields = {label.rstrip(): value for label, value in fields.items()}
    assert fields["kernel"] == f"{os.uname().release} {os.uname().machine}"
    if smcsock.has_smc():
        assert fields["AF_SMC"] == "yes"
        assert fields["module smc"] in ("loaded", "built in")
        assert result.returncode == 0
    else:
        assert fields["AF_SMC"] == "no (Address family not supported by protocol)"
        assert "modprobe smc" in fields["advice"]
        assert result.returncode == 1
    assert result.stderr == ""


def test_info_as_json_agrees_with_the_kernel() -> None:
    result = run("info", "--json")
    report = json.loads(result.stdout)
    assert report["usable"] == report["af_smc"]["available"] == smcsock.has_smc()
    assert result.returncode == (0 if smcsock.has_smc() else 1)
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, smcsock.IPPROTO_SMC).close()
    except OSError as error:
        expected = {"available": False, "error": error.strerror}
    else:
        expected = {"available": True, "error": None}
    assert report["ipproto_smc"] == expected
    directory = Path("/proc/sys/net/smc")
    # Texts: that of net.smc.hs_ctrl, from Linux 6.19 on, is the name of a program.
    texts = {p.name: p.read_text().strip() for p in directory.glob("*")}
    assert {name: str(value) for name, value in (report["sysctls"] or {}).items()} == texts
    names = (
        sorted(os.listdir("/sys/class/infiniband"))
        if Path("/sys/class/infiniband").exists()
        else []
    )
    assert sorted({device["name"] for device in report["smcr_devices"]}) == names


def test_info_tells_that_smc_diag_answers(smc_mode: Mode) -> None:
    with smcsock.socket() as sock:
        sock.smc_info()
    report = collect()
    assert report.diag is not None
    assert report.diag.available
    assert report.modules["smc_diag"] in ("loaded", "built in")
    assert report.advice is None


def test_info_shows_the_device_that_smc_r_uses(smc_mode: Mode) -> None:
    if smc_mode is not Mode.SMCR:
        pytest.skip("connections here do not use SMC-R")
    with smcsock.create_server(("127.0.0.1", 0)) as listener:
        with smcsock.create_connection(listener.getsockname()) as client:
            group = client.smc_info().link_group
        assert group is not None
    devices = [(device.name, device.port) for device in collect().smcr_devices]
    assert (group.device, group.port) in devices


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_info_reads_devices_and_sysctls(tmp_path: Path) -> None:
    port = tmp_path / "sys/class/infiniband/mlx5_0/ports/1"
    write(port / "state", "4: ACTIVE\n")
    write(port / "link_layer", "Ethernet\n")
    write(port / "gid_attrs/ndevs/0", "eth1\n")
    write(port / "gid_attrs/ndevs/1", "eth1\n")
    (port / "gid_attrs/ndevs/2").mkdir()  # unreadable, as an unused entry is
    for name, vendor, device in (("0000:00:00.0", "0x1014", "0x04ed"), ("1", "0x8086", "0x1234")):
        write(tmp_path / f"sys/bus/pci/devices/{name}/vendor", vendor + "\n")
        write(tmp_path / f"sys/bus/pci/devices/{name}/device", device + "\n")
    (tmp_path / "sys/bus/pci/drivers/ism").mkdir(parents=True)
    driver = tmp_path / "sys/bus/pci/devices/0000:00:00.0/driver"
    driver.symlink_to(tmp_path / "sys/bus/pci/drivers/ism")
    write(tmp_path / "sys/class/dibs/lo/gid", "8a0e8b0a-6ca5-4e0c-9f6e-0f4dbb3bd7a1\n")
    write(tmp_path / "sys/class/dibs/lo/fabric_id", "0xffff\n")
    write(tmp_path / "proc/sys/net/smc/rmem", "65536\n")
    write(tmp_path / "proc/sys/net/smc/odd", "1 2 3\n")
    report = collect(tmp_path)
    (roce,) = report.smcr_devices
    assert (roce.name, roce.port, roce.state) == ("mlx5_0", 1, "ACTIVE")
    assert (roce.link_layer, roce.interfaces) == ("Ethernet", ["eth1"])
    shown = [(device.name, device.kind, device.driver) for device in report.smcd_devices]
    assert shown == [("0000:00:00.0", "ism", "ism"), ("lo", "dibs", None)]
    assert report.sysctls == {"rmem": 65536, "odd": "1 2 3"}


@pytest.mark.parametrize(
    ("path", "text", "state"),
    [
        ("sys/module/smc/initstate", "live\n", "loaded"),
        ("lib/modules/{release}/modules.builtin", "kernel/net/smc/smc.ko\n", "built in"),
        ("lib/modules/{release}/modules.dep", "kernel/net/smc/smc.ko.xz: a.ko\n", "not loaded"),
        ("sys/module/smc/parameters", "", "built in"),
        ("sys/module/other/initstate", "live\n", "not found"),
    ],
)
def test_info_tells_the_state_of_a_module(tmp_path: Path, path: str, text: str, state: str) -> None:
    write(tmp_path / path.format(release=os.uname().release), text)
    assert collect(tmp_path).modules["smc"] == state


# ---- addresses and modes


def test_of_a_peer_that_declined_its_own_diagnosis_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = SmcInfo(Mode.TCP, reason(0x05000000), reason(0x03030000), state=State.ACTIVE)
    monkeypatch.setattr(smcsock.socket, "smc_info", lambda sock: info)
    assert main(["echo"]) == 0
    output = capsys.readouterr().out
    assert output.count(": TCP (0x05000000: ") == 2
    assert output.count("advice: ") == output.count("advice: at the peer: give the host") == 2


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        (("fe80::1", 80, 0, 1), f"[fe80::1%{socket.if_indextoname(1)}]:80"),
        (("fe80::1", 80, 0, 2**31 - 1), f"[fe80::1%{2**31 - 1}]:80"),
        (("::ffff:192.0.2.1", 80, 0, 0), "192.0.2.1:80"),
    ],
)
def test_addresses_are_written_as_they_are_read(address: tuple[str, int], text: str) -> None:
    assert format_address(address) == text
