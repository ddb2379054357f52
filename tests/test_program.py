"""What 'smcsock run' takes for the program, and what that says of its kind."""

import os
import subprocess
import sys
import textwrap
import zipapp
from pathlib import Path
from typing import Any

import pytest
from conftest import on_host

from smcsock._cli._common import CommandError, ExitCode
from smcsock._cli._program import Kind, Program, find_program

pytestmark = on_host

LIMIT = 120
THIS = ["this-python", "-q"]

PYENV = """\
    #!/usr/bin/env bash
    set -e
    program="${0##*/}"
    export PYENV_ROOT="/opt/pyenv"
    exec "/opt/pyenv/libexec/pyenv" exec "$program" "$@"
"""
ASDF = """\
    #!/usr/bin/env bash
    # asdf-plugin: python 3.12.1
    exec asdf exec "tool" "$@"
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; 'bin' in it is in front of PATH."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path


def write(path: Path, text: str = "", mode: int = 0o755) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    path.chmod(mode)
    return str(path)


def find(*words: str) -> Program:
    return find_program(words, lambda: THIS)


def refused(*words: str) -> tuple[ExitCode, str]:
    with pytest.raises(CommandError) as caught:
        find(*words)
    return caught.value.status, str(caught.value)


# ----- where it is


@pytest.mark.parametrize(
    "line",
    [
        "",
        f"#!{sys.executable} -u",
        "#!/usr/bin/env -S uv run --script",
        "#!/usr/bin/env -S pipx run",
        "#!/usr/libexec/platform-python -s",
        "#!/usr/bin/pypy3",
        "#!/usr/bin/python3-dbg",
        "#!/usr/bin/python2.7",
        "#!/gone/venv/bin/python3 -E",
        "#!/opt/tools/our-runner --fast",
        "#!/bin/sh\n'''exec' /a/path/python \"$0\" \"$@\"\n' '''",
        '#!/bin/sh\n""":"\nexec python3 "$0" "$@"\n":"""',
    ],
)
def test_a_file_runs_in_this_python(line: str, place: Path) -> None:
    tool = write(place / "tool", f"{line}\nprint('ran')\n", 0o644)
    for name in (tool, "./tool", "tool"):
        assert find(name, "-x") == Program(Kind.PYTHON, [*THIS, name, "-x"])


@pytest.mark.parametrize("name", ["tool.py", "tool.pyw", "tool.pyc", "tool.pyz"])
def test_a_file_with_a_suffix_of_python_is_one(name: str, place: Path) -> None:
    write(place / name, "#!/bin/sh\n", 0o644)
    assert find(name) == Program(Kind.PYTHON, [*THIS, name])


def test_standard_input_and_pipes_run_in_this_python(place: Path) -> None:
    assert find("-", "x").command == [*THIS, "-", "x"]
    os.mkfifo(place / "pipe")
    assert find("./pipe").command == [*THIS, "./pipe"]


def test_a_directory_is_a_program_unless_there_is_a_command_of_its_name(place: Path) -> None:
    write(place / "tool/__main__.py")
    assert find("tool").command == [*THIS, "tool"]
    command = write(place / "bin/tool", f"#!{sys.executable}\n")
    assert find("tool").command == [sys.executable, command]
    assert find("./tool").command == [*THIS, "./tool"]
    assert find("tool/").command == [*THIS, "tool/"]


def test_a_directory_without_main_is_none(place: Path) -> None:
    (place / "data").mkdir()
    status, text = refused("./data")
    assert status == ExitCode.CANNOT_RUN
    assert "directory without a __main__.py" in text


@pytest.mark.parametrize("name", ["none", "./none", "bin/none.py", ""])
def test_what_is_not_there(name: str, place: Path) -> None:
    assert refused(name) == (ExitCode.NOT_FOUND, f"there is no program {name!r}")


def test_a_command_must_be_executable(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(place / "bin/tool", f"#!{sys.executable}\n", 0o644)
    assert refused("tool") == (ExitCode.CANNOT_RUN, f"cannot run {path}: Permission denied")
    other = write(place / "more/tool", f"#!{sys.executable}\n")
    monkeypatch.setenv("PATH", f"{place}/bin:{place}/more")
    assert find("tool").command == [sys.executable, other]


@pytest.mark.parametrize("path", ["", ":/none", "/none:", "/none::/none"])
def test_an_empty_entry_of_path_is_the_working_directory(
    path: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(place / "tool", f"#!{sys.executable}\n")
    (place / "sub").mkdir()
    monkeypatch.setenv("PATH", path)
    monkeypatch.chdir(place / "sub")
    write(place / "sub/other", f"#!{sys.executable}\n", 0o644)
    assert refused("tool")[0] == ExitCode.NOT_FOUND
    monkeypatch.chdir(place)
    # Without the mode it would be a file.
    assert find("tool").command in ([*THIS, "tool"], [sys.executable, "./tool"])


# ----- commands


@pytest.mark.parametrize(
    "line",
    [
        "#!{python}",
        "#! {python} -u",
        "#!{python} -sP",
        "#!{python} -Es",
        "#!/usr/bin/env {python}",
        "#!/usr/bin/env -S {python} -I",
        "#!/bin/env -u HOME {python}",
        "#!/bin/sh\n'''exec' {python} \"$0\" \"$@\"\n' '''",
        "#!/bin/sh\n'''exec' '{python}' \"$0\" \"$@\"\n' '''",
        "#!/bin/sh\n'''exec' \"{python}\" -E \"$0\" \"$@\"\n' '''",
    ],
)
@pytest.mark.parametrize("name", ["python3", "python3.11-dbg", "platform-python3.6", "python3.13t"])
def test_a_command_runs_in_the_python_of_its_first_line(name: str, line: str, place: Path) -> None:
    python = write(place / "other" / name)
    tool = write(place / "bin/tool", line.format(python=python) + "\nimport os\n")
    assert find("tool", "x") == Program(Kind.PYTHON, [python, tool, "x"])


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_python_whose_path_has_a_space(quote: str, place: Path) -> None:
    python = write(place / "other env/python3")
    line = f"'''exec' {quote}{python}{quote} \"$0\" \"$@\""
    tool = write(place / "bin/tool", f"#!/bin/sh\n{line}\n' '''\nimport os\n")
    assert find("tool").command == [python, tool]


def test_env_finds_the_python_on_path_and_sets_variables(place: Path) -> None:
    python = write(place / "bin/python3.99")
    tool = write(place / "bin/tool", "#!/usr/bin/env -S A=1 B=2 python3.99 -u\n")
    assert find("tool").command == ["env", "A=1", "B=2", python, tool]
    os.unlink(python)
    status, text = refused("tool")
    assert status == ExitCode.CANNOT_RUN
    assert text == f"cannot run {tool}: there is no python3.99, which is to run it"


@pytest.mark.parametrize(
    "option",
    ["-S '{}' -u", "-S{} -u", "-S'{}' -u", "-vS {}", "--split-string={} -u", "--split-string {}"],
)
def test_env_splits_the_first_line(option: str, place: Path) -> None:
    python = write(place / "bin/python3.99")
    tool = write(place / "bin/tool", f"#!/usr/bin/env {option.format(python)}\n")
    assert find("tool") == Program(Kind.PYTHON, [python, tool])


def test_a_command_whose_python_is_gone(place: Path) -> None:
    tool = write(place / "bin/tool", "#!/gone/bin/python3\n")
    status, text = refused("tool")
    assert status == ExitCode.CANNOT_RUN
    assert text == f"cannot run {tool}: there is no /gone/bin/python3, which is to run it"


@pytest.mark.parametrize("script", [f"#!{sys.executable}\nprint()\n", PYENV])
def test_a_link_keeps_its_name(script: str, place: Path) -> None:
    (place / "bin/tool").symlink_to(write(place / "lib/real", script))
    assert find("tool").command[-1] == str(place / "bin/tool")
    assert find("tool").is_python


@pytest.mark.parametrize(
    "script",
    [
        PYENV,
        ASDF,
        "#!/usr/bin/env -S uv run --script\nimport os\n",
        "#!/usr/bin/env -S uv run --script --python 3.12\nimport os\n",
        "#!/opt/uv run\nimport os\n",
        '#!/bin/sh\nexec python3 -m tool "$@"\n',
        "#!/bin/sh\n'''exec' \"$(dirname -- \"$0\")\"/'python3' \"$0\" \"$@\"\n' '''\n",
    ],
)
def test_what_starts_python_is_run_as_it_is(script: str, place: Path) -> None:
    tool = write(place / "bin/tool", script)
    assert find("tool", "x") == Program(Kind.LAUNCHER, [tool, "x"], called="tool")


@pytest.mark.parametrize("name", ["uv", "mise"])
def test_a_binary_that_starts_python_is_run_as_it_is(name: str, place: Path) -> None:
    binary = place / "lib" / name
    write(binary)
    binary.write_bytes(b"\x7fELF")
    (place / "bin/tool").symlink_to(binary)
    assert find("tool", "x") == Program(
        Kind.LAUNCHER, [str(place / "bin/tool"), "x"], called="tool"
    )


def test_a_python_by_name_keeps_its_arguments(place: Path) -> None:
    for name in ("python3", "python3.12", "python3-dbg", "platform-python", "python3.13t"):
        path = write(place / "bin" / name, PYENV)
        assert find(name, "-u", "x.py") == Program(Kind.PYTHON, [path, "-u", "x.py"])
        assert refused(name, "-I", "x.py")[0] == ExitCode.FAILED
        words = ("--check-hash-based-pycs", "never", "-I", "x.py")
        assert refused(name, *words)[0] == ExitCode.FAILED


def test_a_link_to_a_python_is_one(place: Path) -> None:
    link = place / "bin/interpreter"
    link.symlink_to(write(place / "lib/python3.12", PYENV))
    assert find("interpreter", "x.py") == Program(Kind.PYTHON, [str(link), "x.py"])
    tool = write(place / "bin/tool", f"#!{link}\n")
    assert find("tool") == Program(Kind.PYTHON, [str(link), tool])


@pytest.mark.parametrize("name", ["pypy", "pypy3", "pypy3.10", "graalpy"])
def test_a_command_of_another_python_is_told_apart(name: str, place: Path) -> None:
    path = write(place / "bin" / name, PYENV)
    write(place / "bin/tool", f"#!{path}\nprint()\n")
    write(place / "bin/tool2", f"#!/usr/bin/env {name}\nprint()\n")
    (place / "bin/python3.9").symlink_to(path)
    for words in ((name, "x.py"), ("tool",), ("tool2",), ("python3.9", "x.py")):
        assert find(*words).kind is Kind.OTHER_PYTHON
    assert find("tool").what == f"for {name}"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x7fELF\2\1\1", "a binary"),
        (b"#!/bin/sh -e\nls\n", "a script of '/bin/sh -e'"),
        (b"#!/usr/bin/env perl\nprint 1;\n", "a script of '/usr/bin/env perl'"),
        (b"#!/usr/bin/env -S node --x\nlet x = 1;\n", "a script of '/usr/bin/env -S node --x'"),
    ],
)
def test_what_is_not_python(content: bytes, what: str, place: Path) -> None:
    for name, words in (("bin/tool", "tool"), ("./script", "./script")):
        write(place / name)
        (place / name).write_bytes(content)
        program = find(words, "x")
        assert (program.kind, program.what) == (Kind.FOREIGN, what)
        assert os.path.samefile(program.command[0], name)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("import sys\nprint(sys.argv)\n", [*THIS, "{tool}"]),
        ("if true; then python3 -m x; fi\n", ["/bin/sh", "{tool}"]),
    ],
)
def test_a_command_without_a_first_line(text: str, command: list[str], place: Path) -> None:
    tool = write(place / "bin/tool", text)
    assert find("tool").command == [word.format(tool=tool) for word in command]


def test_a_zipapp_is_a_command_and_a_file(place: Path) -> None:
    write(place / "source/__main__.py", "print()")
    for name, interpreter in (("tool", sys.executable), ("bare", None)):
        zipapp.create_archive(place / "source", place / "bin" / name, interpreter)
        (place / "bin" / name).chmod(0o755)
        python = [interpreter] if interpreter else THIS
        assert find(name).command == [*python, str(place / "bin" / name)]
        assert find(f"bin/{name}").command == [*THIS, f"bin/{name}"]


# ----- and it runs


SHOW = "import socket, sys; print(sys.argv[1:], 'socket' if socket.socket() else '')\n"


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "smcsock", "run", "--report", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, **options)


@pytest.mark.parametrize("kind", ["shim", "launcher", "pip", "zipapp", "without first line"])
def test_the_python_of_a_command_follows(kind: str, place: Path) -> None:
    tool = place / "bin/tool"
    if kind == "shim":
        write(place / "pyenv/bin/tool", f"#!{sys.executable}\n{SHOW}")
        text = f'#!/usr/bin/env bash\n# pyenv\nexec "{place}/pyenv/bin/${{0##*/}}" "$@"\n'
        write(tool, text)
    elif kind == "launcher":  # which waits for the Python that it starts
        write(place / "bin/uv", f'#!/bin/sh\nshift 2\n{sys.executable} "$@"\necho "$?" >&2\n')
        write(tool, f"#!/usr/bin/env -S uv run --script\n{SHOW}")
    elif kind == "pip":
        write(tool, f"#!/bin/sh\n'''exec' {sys.executable} \"$0\" \"$@\"\n' '''\n{SHOW}")
    elif kind == "zipapp":
        write(place / "source/__main__.py", SHOW)
        zipapp.create_archive(place / "source", tool, sys.executable)
    else:
        write(tool, SHOW)
    tool.chmod(0o755)
    result = run("tool", "-x", "y z")
    assert result.stdout == "['-x', 'y z'] socket\n"
    # Its report: it is under smcsock.
    assert result.stderr == "smcsock: no connections\n" + ("0\n" if kind == "launcher" else "")


WORKER = """
import multiprocessing, socket

def work(sock):
    sock.sendall(b"x")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socket.create_connection(listener.getsockname()).close()
    return type(sock) is socket.socket

if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()) as sock:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.apply(work, (sock,)))
"""


@pytest.mark.parametrize("options", [(), ("--children",)], ids=str)
def test_workers_of_an_environment_that_lacks_smcsock(
    options: tuple[str, ...], place: Path
) -> None:
    environment = place / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin/python"
    absent = "import importlib.util, sys; sys.exit(importlib.util.find_spec('smcsock') is not None)"
    subprocess.run([python, "-c", absent], check=True)
    write(place / "bin/tool", f"#!{python}\n{WORKER}")
    result = run(*options, "tool")
    assert result.stdout == "True\n"
    connections = 1 + len(options)  # the worker's, too
    assert result.stderr.startswith(f"smcsock: {connections} connection")
