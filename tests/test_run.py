"""smcsock run: programs as processes of their own."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from conftest import EXPECTED_MODE, VM_MODE, on_host, slow

import smcsock
from smcsock import Mode
from smcsock.__main__ import main
from smcsock._cli._common import ExitCode
from smcsock._native._architectures import OPENING_BY_SOCKETCALL

# An emulated guest takes seconds to start a process.
LIMIT = 240

RUN = (sys.executable, "-m", "smcsock", "run")

CONNECT = """
import socket, threading

def connect():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()):
            listener.accept()[0].close()
"""


@pytest.fixture
def mode() -> Mode:
    """That of connections over IPv4 where the tests run."""
    return EXPECTED_MODE.get(VM_MODE or "", Mode.TCP)


def program(directory: Path, code: str, name: str = "program.py") -> str:
    path = directory / name
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return str(path)


def call(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, **options)


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return call(*RUN, *arguments, **options)


def totals(report: str) -> dict[tuple[str, Mode], int]:
    """The counts of a JSON report, by side and mode."""
    counts: dict[tuple[str, Mode], int] = {}
    for fields in json.loads(report)["connections"]:
        key = fields["side"], Mode(fields["mode"])
        counts[key] = counts.get(key, 0) + fields["count"]
    return counts


# ----- a whole program


WEB = """
import http.server, os, sys, threading, urllib.request

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"page")

    def log_message(self, *args):
        pass

if __name__ == "__main__":
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{server.server_port}/") as answer:
            print(answer.read(), sys.argv[1:])
        server.shutdown()
"""


def test_a_program_runs_over_smc_and_the_report_says_so(tmp_path: Path, mode: Mode) -> None:
    report = tmp_path / "report"
    path = program(tmp_path, WEB)
    result = run("--report", "--report-to", str(report), path, "-m", "--report")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "b'page' ['-m', '--report']\n"
    title, connected, accepted, *advice = report.read_text(encoding="utf-8").splitlines()
    assert title == f"smcsock: 2 connections: 2 {mode}"
    assert connected.startswith(f"smcsock:   1 connected  {mode}")
    assert accepted.startswith(f"smcsock:   1 accepted   {mode}")
    assert bool(advice) is (VM_MODE == "tcp")


@slow
def test_debug_says_how_a_program_is_run(tmp_path: Path, mode: Mode) -> None:
    path = program(tmp_path, f"{CONNECT}\nconnect()")
    result = run("-d", "-t", "64k", "--only", "127.0.0.1:*", path)
    begun, *sockets, title, _connected, _accepted = result.stderr.splitlines()
    assert begun.startswith("smcsock: runs ")
    assert begun.endswith(f" {path}")
    if smcsock.has_smc():
        assert sockets == [
            "smcsock: TCP sockets of Python code become SMC sockets, for 127.0.0.1/32:* only",
            "smcsock: their send buffers have 65536 bytes",
        ]
        assert title == f"smcsock: 2 connections: 2 {mode}"
    else:
        assert sockets == ["smcsock: TCP sockets stay what they are: this kernel has no SMC"]


# ----- as if it were run by Python itself


SELF = """
import os, resource, sys
from pathlib import Path

def me():
    return __name__

print(me(), sys.argv[1:], Path(sys.path[0]).name, __file__ if "__file__" in globals() else "-")
print(sys.path, {k: v for k, v in os.environ.items() if k.startswith(("SMC", "PY"))})
print(sys.flags, sys.stdout.line_buffering, sys.warnoptions, resource.__file__)
"""


@on_host
@pytest.mark.parametrize("kind", ["file", "module", "code", "directory"])
def test_the_program_sees_what_it_always_sees(kind: str, tmp_path: Path) -> None:
    path = program(tmp_path, SELF)
    program(tmp_path, SELF, "__main__.py")
    program(tmp_path, "# by the name of one that smcsock imports", "resource.py")
    how = {
        "file": [path],
        "module": ["-m", "program"],
        "code": ["-c", SELF],
        "directory": [str(tmp_path)],
    }[kind]
    arguments = [*how, "one", "--two", "-m", "--", ""]
    python = [sys.executable, "-O", "-W", "error", "-X", "utf8"]
    expected = call(*python, *arguments, cwd=tmp_path)
    assert expected.returncode == 0, expected.stderr
    result = call(*python, "-m", "smcsock", "run", *arguments, cwd=tmp_path)
    assert result.stdout == expected.stdout
    assert (result.stderr, result.returncode) == ("", 0)


@on_host
@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit(42)",
        "raise SystemExit('words')",
        "1 / 0",
        "raise KeyboardInterrupt",
        "import os; os._exit(7)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "x = (",
        "import sys; sys.stdout.close(); sys.stderr.close()",
    ],
)
@pytest.mark.parametrize("options", [(), ("--report-to", os.devnull)], ids=["", "report"])
def test_the_program_ends_as_it_always_does(
    code: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    path = program(tmp_path, code)
    expected = call(sys.executable, path)
    result = run(*options, path)
    assert result.returncode == expected.returncode
    assert (result.stdout, result.stderr) == (expected.stdout, expected.stderr)


@on_host
def test_signal_handlers_are_pythons_own() -> None:
    code = "import signal; print([signal.getsignal(n) for n in signal.valid_signals()])"
    assert run("-c", code).stdout == call(sys.executable, "-c", code).stdout


@on_host
def test_commands_on_the_path(tmp_path: Path) -> None:
    script = tmp_path / "some-command"
    script.write_text(f"#!{sys.executable} -u\nimport sys; print(sys.argv)\n")
    script.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert run("some-command", "x", env=env).stdout == f"{[str(script), 'x']}\n"
    code = "import sys; print('smcsock._dropin._session' in sys.modules)"
    result = run("--", sys.executable, "-W", "ignore", "-c", code)
    assert result.stdout == "True\n"
    result = run("python3", "-", "-I", env=env, input="import sys; print(sys.argv)")
    assert result.stdout == "['-', '-I']\n"


@on_host
def test_a_command_runs_in_its_own_python(tmp_path: Path) -> None:
    """As the kernel finds it: 'env python3' is the one on PATH."""
    program(
        tmp_path, "#!/usr/bin/env python3\nimport sys; print(sys.argv[0], sys.flags.dev_mode)", "it"
    )
    program(tmp_path, f'#!/bin/sh\nexec {sys.executable} -X dev "$@"\n', "python3")
    for name in ("it", "python3"):
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert run("it", env=env).stdout == f"{tmp_path / 'it'} True\n"
    assert run(str(tmp_path / "it"), env=env).stdout == f"{tmp_path / 'it'} False\n"


@on_host
def test_another_sitecustomize_is_run(tmp_path: Path) -> None:
    program(tmp_path, "print('customized')", "sitecustomize.py")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    code = "import os, sitecustomize; print(sitecustomize.__file__, os.environ['PYTHONPATH'])"
    result = run("-c", code, env=env)
    assert result.stdout.splitlines() == [
        *call(sys.executable, "-c", "", env=env).stdout.splitlines(),
        "customized",
        f"{tmp_path / 'sitecustomize.py'} {tmp_path}",
    ]


# ----- child processes


CHILDREN = f"""
import multiprocessing, os, subprocess, sys
{CONNECT}
def spawn(method):
    process = multiprocessing.get_context(method).Process(target=connect)
    process.start()
    process.join()

if __name__ == "__main__":
    connect()
    spawn("fork")
    if len(sys.argv) > 1:
        spawn("spawn")
        subprocess.run([sys.executable, "-c", {CONNECT!r} + "connect()"])
"""


@pytest.mark.parametrize(
    "children", [pytest.param(True, marks=slow), pytest.param(False, marks=on_host)]
)
def test_children_follow_when_asked(children: bool, tmp_path: Path, mode: Mode) -> None:
    path = program(tmp_path, CHILDREN)
    options = ["--report", "--json", *(["--children"] if children else [])]
    result = run(*options, path, "all")
    assert result.returncode == 0
    report = json.loads(result.stderr)
    assert report["processes"] == (4 if children else 2)
    count = report["processes"]
    assert totals(result.stderr) == {("connect", mode): count, ("accept", mode): count}


@on_host
def test_a_child_that_is_terminated_has_counted(tmp_path: Path) -> None:
    code = f"""
    import multiprocessing, time
    {textwrap.indent(CONNECT, "    ").strip()}

    def work(event):
        connect()
        event.set()
        time.sleep(60)

    if __name__ == "__main__":
        context = multiprocessing.get_context("fork")
        event = context.Event()
        process = context.Process(target=work, args=(event,))
        process.start()
        event.wait()
        process.terminate()
        process.join()
        print(process.exitcode)
    """
    result = run("--report", "--json", program(tmp_path, code))
    assert result.stdout == "-15\n"
    assert json.loads(result.stderr)["processes"] == 2


@on_host
@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("smcsock.py", "raise ImportError('none here')"),
        ("smcsock/_dropin/_session.py", "def begin(*_): raise TypeError('none here')"),
    ],
)
def test_a_python_without_smcsock_says_so(
    name: str, content: str, required: bool, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
    for package in (tmp_path / name).relative_to(tmp_path).parents:
        (tmp_path / package / "__init__.py").touch()
    program(tmp_path, content, name)
    options = {"require_smc": required}
    env = {
        **os.environ,
        "PYTHONPATH": f"{Path(smcsock.__file__).parent / '_dropin/_site'}:{tmp_path}",
        "SMCSOCK_RUN": json.dumps(options),
    }
    result = call(sys.executable, "-c", "print('running')", env=env)
    outcome = "SMC was required" if required else "its connections are plain TCP"
    expected = f"smcsock: {sys.executable} cannot use smcsock (none here): {outcome}\n"
    assert result.stderr == expected
    assert (result.returncode, result.stdout) == ((3, "") if required else (0, "running\n"))


OLD = ("2.7", "3.6", "3.10")


def old_python(version: str) -> str:
    """A Python that smcsock does not run in; skips if there is none."""
    places = Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}")
    for path in (*places, shutil.which(f"python{version}")):
        if path and call(str(path), "-S", "-c", "").returncode == 0:
            return str(path)
    pytest.skip(f"there is no Python {version} here")


@on_host
@pytest.mark.parametrize("version", OLD)
def test_an_old_python_says_so(version: str) -> None:
    python = old_python(version)
    site = str(Path(smcsock.__file__).parent / "_dropin/_site")
    for required in (True, False):
        env = {"PYTHONPATH": site, "SMCSOCK_RUN": json.dumps({"require_smc": required})}
        result = call(python, "-B", "-c", "print('running')", env=env)
        assert "cannot use smcsock (it needs Python 3.11)" in result.stderr
        assert (result.returncode, result.stdout) == ((3, "") if required else (0, "running\n"))


@on_host
@pytest.mark.parametrize("options", [(), ("--children",)], ids=["", "children"])
def test_a_wrapper_may_put_its_sitecustomize_in_front(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    """As opentelemetry-instrument does, whose sitecustomize looks for no other one."""
    (tmp_path / "front").mkdir()
    program(tmp_path, "print('wrapped')", "front/sitecustomize.py")
    code = f"""
    import os, sys
    old = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = {str(tmp_path / "front")!r} + (os.pathsep + old if old else "")
    os.execl(sys.executable, sys.executable, *sys.argv[1:])
    """
    inner = program(tmp_path, f"{CONNECT}\nconnect()", "inner.py")
    result = run("--report", "--json", *options, program(tmp_path, code), inner)
    assert result.stdout == "wrapped\n"
    report = json.loads(result.stderr)
    assert report["processes"] == 1
    assert sum(totals(result.stderr).values()) == 2


PROTOCOLS = """
import socket
for arguments in (
    (socket.AF_INET,), (socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK),
    (socket.AF_INET, socket.SOCK_STREAM, 262), (socket.AF_INET, socket.SOCK_DGRAM),
    (socket.AF_UNIX,),
):
    try:
        socket.socket(*arguments).close()
        print("open")
    except OSError as error:
        print(error.errno)
"""


@on_host
def test_tcp_can_be_forbidden_to_a_process_and_its_children() -> None:
    code = f"""
import subprocess, sys
from smcsock._native._refusal import forbid_tcp
forbid_tcp()
subprocess.run([sys.executable, "-I", "-c", {PROTOCOLS!r}], check=True)
"""
    result = call(sys.executable, "-c", code)
    if "NativeError" in result.stderr:
        pytest.skip(f"no seccomp filter here: {result.stderr.splitlines()[-1]}")
    refused = str(errno.EPROTONOSUPPORT)
    assert result.stdout.split() == [refused, refused, refused, "open", "open"], result.stderr


@slow
def test_no_child_gets_round_a_requirement(tmp_path: Path, smc_mode: Mode) -> None:
    if smc_mode is Mode.TCP:
        pytest.skip("nothing can be required of TCP sockets")
    code = f"""
    {textwrap.indent(CONNECT, "    ").strip()}
    import subprocess, sys, time

    if __name__ == "__main__":
        connect()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=accept, args=(listener,))
            thread.start()
            time.sleep(0.5)
            listener.shutdown(socket.SHUT_RDWR)  # which needs a connection to wake accept()
            thread.join()
        code = {CONNECT + "connect()"!r}
        for options in ([], ["-I"], ["-S"], ["-E"]):
            child = subprocess.run([sys.executable, *options, "-c", code], stderr=subprocess.PIPE)
            print(child.returncode, child.stderr.decode().split("\\n")[-2:])
    """
    accept = """
def accept(listener):
    try:
        listener.accept()
    except OSError as error:
        print(error.errno)

"""
    path = program(tmp_path, f"import socket\n{accept}{textwrap.dedent(code)}")
    result = run("--require-smc", "--children", "--report", "--json", path)
    if os.uname().machine in OPENING_BY_SOCKETCALL:
        assert (result.returncode, result.stdout) == (ExitCode.NO_SMC, "")
        assert "socketcall(2)" in result.stderr
        return
    failed = f"1 ['OSError: [Errno {errno.EPROTONOSUPPORT}] Protocol not supported', '']"
    lines = result.stdout.splitlines()
    assert lines == [str(errno.EINVAL), "0 ['']", failed, failed, failed], result.stderr
    assert totals(result.stderr) == {("connect", smc_mode): 2, ("accept", smc_mode): 2}


# ----- the report


@on_host
def test_a_server_that_is_terminated_reports(tmp_path: Path) -> None:
    code = f"{CONNECT}\nimport time\nconnect()\nprint('ready', flush=True)\ntime.sleep(60)"
    process = subprocess.Popen(
        [*RUN, "--report", program(tmp_path, code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == -signal.SIGTERM
    assert errors.startswith("smcsock: 2 connections: 2 TCP\n")


@on_host
def test_a_signal_ends_a_program_that_is_writing_to_standard_error(tmp_path: Path) -> None:
    code = """
    import io, os, signal, sys

    class Raw(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            if not killed:
                killed.append(True)
                os.kill(os.getpid(), signal.SIGTERM)
            return len(data)

    killed = []
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(io.BufferedWriter(Raw()))
    sys.stderr.write("x")
    sys.stderr.flush()
    print("goes on", flush=True)
    """
    result = run("--report", program(tmp_path, code))
    assert (result.returncode, result.stdout) == (-signal.SIGTERM, "")


@on_host
def test_the_report_may_go_to_a_descriptor() -> None:
    assert run("--report-to", "/dev/stderr", "-c", "").stderr == "smcsock: no connections\n"
    assert run("--report-to", "/dev/fd/1", "-c", "").stdout == "smcsock: no connections\n"


@on_host
def test_the_report_may_go_to_a_fifo(tmp_path: Path) -> None:
    """Who reads it is not told of an end before the end; if nobody does, nobody is waited for."""
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    result = run("--report-to", fifo, "-c", "")
    assert result.stderr.endswith(": No such device or address\nsmcsock: no connections\n")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run("--report-to", fifo, "-c", "").stderr == ""
        assert os.read(reader, 100) == b"smcsock: no connections\n"
    finally:
        os.close(reader)


@on_host
def test_nothing_is_left_of_a_run(tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    assert run("--report", "-c", "", env=env).stderr == "smcsock: no connections\n"
    assert run("--report", "--", str(tmp_path / "none"), env=env).returncode == 127
    assert not list(tmp_path.iterdir())


# ----- choosing


@slow
def test_a_required_connection_fails_the_program(tmp_path: Path, smc_mode: Mode) -> None:
    code = """
    import socket, sys
    for port in sys.argv[1:]:
        with socket.socket() as sock:
            try:
                sock.connect(("127.0.0.1", int(port)))
            except Exception as error:
                print(type(error).__name__)
    """
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        ports = [str(listener.getsockname()[1]) for listener in (one, other)]
        only = ["--only", f"localhost:{ports[0]}"]
        result = run("--require-smc", *only, "--report", program(tmp_path, code), *ports)
    assert result.stdout == "FallbackError\n"
    assert result.stderr.startswith("smcsock: 2 connections: 1 TCP; 1 TCP, refused\n")
    assert "  1 connected  TCP (not selected)\n" in result.stderr


@on_host
def test_a_program_inherits_nothing_of_pythons_start() -> None:
    """Neither the signals that Python ignores, nor the locale that it takes for C."""
    # With its path, or it would not be started as Python is: posix_spawn(3) leaves marks, too.
    command = ["/bin/sh", "-c", "grep SigIgn /proc/self/status; env | grep -v ^_="]
    env = {"PATH": os.defpath, "SMCSOCK_FALLBACK": "tcp"}
    expected = call(*command, env=env)
    result = call(sys.executable, "-m", "smcsock", "run", *command, env=env)
    assert (result.stdout, result.stderr) == (expected.stdout, "")
    assert not ignores_sigpipe(result.stdout)


@on_host
@pytest.mark.parametrize("name", ["sh", "/bin/sh", "./script"])
def test_a_program_is_called_as_it_is_elsewhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "script").write_text('#!/bin/sh\nshift; eval "$1"')
    (tmp_path / "script").chmod(0o755)
    command = [name, "-c", "echo $0"]
    env = {"PATH": os.defpath, "SMCSOCK_FALLBACK": "tcp"}
    expected = call("/usr/bin/env", *command, env=env, cwd=tmp_path)
    result = call(sys.executable, "-m", "smcsock", "run", *command, env=env, cwd=tmp_path)
    assert (result.stdout, result.stderr) == (expected.stdout, "")
    assert result.stdout == f"{name}\n"


@on_host
def test_a_service_goes_on_to_ignore_sigpipe() -> None:
    """As systemd has it in all that it starts."""
    start = ["sh", "-c", 'SYSTEMD_EXEC_PID=$$ exec "$@"', "sh", sys.executable, "-m", "smcsock"]
    result = call(*start, "run", "grep", "SigIgn", "/proc/self/status")
    assert ignores_sigpipe(result.stdout)


def ignores_sigpipe(status: str) -> bool:
    """By /proc/PID/status. nohup, say, has these tests ignore other signals."""
    mask = int(status.split("SigIgn:")[1].split()[0], 16)
    return bool(mask >> signal.SIGPIPE - 1 & 1)


# ----- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to run"),
        (("--",), "nothing to run"),
        (("-m",), "argument -m: expected a module"),
        (("-c",), "argument -c: expected a code"),
        (("--json", "x"), "--json is for --report"),
        (("--only", "host", "x"), "argument --only: not HOST:PORT: 'host'"),
        (("--fallback", "udp", "x"), "invalid choice: 'udp'"),
        (("--sockets", "x"), "unrecognized arguments"),
        (("--require-smc", "ls"), "can refuse the connections of /"),
        (("--native", "--require-smc", "-c", ""), "can refuse the connections of C libraries"),
        (("--exact", "ls"), "--exact is for --report of --native, or"),
        (("--exact", "--report", "-c", ""), "--exact is for --report of --native, or"),
    ],
    ids=str,
)
def test_wrong_usage(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["run", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("no-such-program",), 127, "there is no program 'no-such-program'"),
        (("./none.py",), 127, "there is no program './none.py'"),
        (("python3", "-I", "-c", ""), 1, "not with -I, -E or -S"),
        (("python3", "-W", "error", "-uXdev", "-qS"), 1, "not with -I, -E or -S"),
        (("--report-to", "/dev/full/x", "-c", ""), 1, "cannot write the report to /dev/full/x"),
    ],
    ids=str,
)
def test_what_cannot_be_run(
    arguments: tuple[str, ...],
    status: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", *arguments]) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.skipif(smcsock.has_smc(), reason="this kernel has SMC")
@pytest.mark.parametrize("options", [(), ("--require-smc", "--fallback", "tcp")], ids=str)
def test_a_kernel_without_smc(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SMCSOCK_FALLBACK")
    assert main(["run", *options, "-c", ""]) == 3
    captured = capsys.readouterr()
    assert "this kernel has no SMC" in captured.err
    assert ("give --fallback tcp" in captured.err) is (not options)
