"""The pages of the documentation: what they say is what happens.

The code of README.md and docs/*.md runs as it is there, but for the address: that is of a
server here. docs/recipes.md has tests of its own in tests/apps, docs/kernel.md in
test_kernel.py.
"""

import ast
import asyncio
import contextlib
import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from conftest import VM_MODE, on_host
from test_socket import LIMIT
from test_socket import time_limit as time_limit
from tls import CERTIFICATES, server_context

import smcsock
from smcsock import _cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted({*ROOT.glob("docs/*.md")} - {ROOT / "docs/recipes.md", ROOT / "docs/README.md"}),
]

FOLDERS = sorted(
    page
    for name in ("benchmarks", "changes", "contrib", "docs", "examples", "tests")
    for page in ROOT.glob(f"{name}/**/README.md")
)

over_smcd = pytest.mark.skipif(VM_MODE != "smcd", reason="what the pages show is SMC-D")


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """The blocks of code of a page in a language: the line each begins at, and its text."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.M | re.S):
        yield text.count("\n", 0, found.start(1)), found[1]


SNIPPETS = [
    pytest.param(page, line, code, id=f"{page.name}:{line}")
    for page in PAGES
    for line, code in blocks(page, "python")
    if not code.startswith("# ")  # a file, of the tutorial
]


@over_smcd
@pytest.mark.parametrize(("page", "line", "code"), SNIPPETS)
def test_snippet(page: Path, line: int, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "ca.pem"))
    with echo_server(with_tls="ssl" in code) as port, fallen_back() as sock:
        code = code.replace("server.example", "localhost").replace("7000", str(port))
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        program = compile("\n" * line + code, page, "exec", flags=flags)
        # What the pages have shown before.
        names: dict[str, Any] = {"__name__": page.name, "smcsock": smcsock, "sock": sock}
        exec("import asyncio, ssl", names)
        if program.co_flags & inspect.CO_COROUTINE:
            asyncio.run(awaited(program, names))
        else:
            exec(program, names)


async def awaited(program: Any, names: dict[str, Any]) -> None:
    await eval(program, names)
    if "writer" in names:
        names["writer"].close()
        with contextlib.suppress(OSError):
            await names["writer"].wait_closed()


@contextlib.contextmanager
def echo_server(with_tls: bool) -> Iterator[int]:
    """A server for one connection at a time; yields its port."""
    context = server_context() if with_tls else None

    def serve() -> None:
        while True:
            conn: Any = listener.accept()[0]
            if stopping:
                conn.close()
                return
            with contextlib.suppress(OSError):
                if context:
                    conn = context.wrap_socket(conn, server_side=True)
                while data := conn.recv(4096):
                    conn.sendall(data)
            conn.close()

    stopping: list[bool] = []
    with smcsock.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield port
        finally:
            stopping.append(True)
            smcsock.create_connection(("127.0.0.1", port)).close()
            thread.join(LIMIT)


@contextlib.contextmanager
def fallen_back() -> Iterator[smcsock.socket]:
    """A connection, for the snippets that begin with one and ask why it is TCP."""
    with (
        socket.create_server(("127.0.0.1", 0)) as plain,
        smcsock.create_connection(plain.getsockname()) as sock,
    ):
        yield sock


@on_host
@pytest.mark.parametrize(
    "page",
    [*sorted(ROOT.glob("*.md")), *PAGES[1:], *FOLDERS],
    ids=lambda page: page.name,
)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", text)
    missing = [link for pair in links if not (page.parent / (link := "".join(pair))).exists()]
    assert missing == []


COMMAND = re.compile(
    r"^ *(?:[$#] +)?(?:ip netns exec \w+ |\S*python tests/vm run -- )?smcsock (.*)$", re.M
)
COMMANDS = [
    pytest.param(shlex.split(found[1], comments=True), id=f"{page.name}: {found[1]}")
    for page in PAGES
    for language in ("console", "sh", "")
    for _, text in blocks(page, language)
    for found in COMMAND.finditer(text)
    if "[OPTION ...]" not in found[1]
]


@on_host
@pytest.mark.parametrize("words", COMMANDS)
def test_command_is_one(words: list[str]) -> None:
    end = next((n for n, word in enumerate(words) if word in ("&", "|", "&&")), None)
    _cli.parse(words[:end])


@on_host
def test_every_recipe_is_one_of_the_tests() -> None:
    """tests/apps names the headings whose code it runs."""
    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    titles = [
        section.partition("\n")[0] for section in text.split("\n## ") if "\n```python\n" in section
    ]
    tests = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/apps/*.py"))
    assert titles
    assert [title for title in titles if title not in re.findall("[\"'](.*?)[\"']", tests)] == []


PROGRAM = re.compile(r"(?:^|python |\./|[$#] )((?:tests|benchmarks|docs|examples)/[\w./]+)", re.M)


@on_host
def test_programs_of_the_project_are_there() -> None:
    pages = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "tests/vm/README.md"]
    texts = [code for page in pages for word in ("console", "sh") for _, code in blocks(page, word)]
    programs = {program for text in texts for program in PROGRAM.findall(text)}
    assert {program for program in programs if not (ROOT / program).exists()} == set()
    assert programs


@over_smcd
def test_namespaces() -> None:
    """What docs/containers.md has root type makes an SMC-D connection between two namespaces."""
    if shutil.which("ip") is None:
        pytest.skip("there is no iproute2")
    (text,) = (
        text for _, text in blocks(ROOT / "docs/containers.md", "console") if "netns add" in text
    )
    *setup, client = (line.removeprefix("# ") for line in text.splitlines())
    script = "\n".join([*setup, f"until {client}; do sleep 1; done"])
    smcsock_command = f"{shlex.quote(sys.executable)} -m smcsock"
    with subprocess.Popen(
        ["sh", "-c", script.replace("smcsock", smcsock_command)],
        stdout=PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout
            lines = iter(process.stdout.readline, "")
            assert any(
                line.startswith("connected to 10.9.0.2:") and "SMC-D" in line for line in lines
            )
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", "blue"], check=True)


@on_host
def test_systemd_units(tmp_path: Path) -> None:
    systemd_analyze = shutil.which("systemd-analyze")
    if systemd_analyze is None:
        pytest.skip("there is no systemd-analyze")
    units = [text for _, text in blocks(ROOT / "docs/systemd.md", "ini")]
    for name, unit in zip(["smc-eid.service", "app.service"], units, strict=True):
        text = re.sub(r"/opt/app/bin/\w+", sys.executable, unit)
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [systemd_analyze, "verify", *map(str, tmp_path.iterdir())],
        stderr=PIPE,
        text=True,
        env=os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert [line for line in done.stderr.splitlines() if str(tmp_path) in line] == []


TUTORIAL = ROOT / "docs/tutorial.md"
FILES = {code.split()[1]: code for _, code in blocks(TUTORIAL, "python")}


@over_smcd
def test_tutorial(tmp_path: Path) -> None:
    """Every line that the tutorial shows of its programs is one that they print."""
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    printed = []
    for server, clients in {
        "server.py": ["client.py", "look.py"],
        "service.py": ["ask.py"],
    }.items():
        with start(tmp_path, server) as process:
            assert process.stdout
            printed.append(process.stdout.readline())
            for client in clients:
                with start(tmp_path, client) as other:
                    printed += [other.communicate(timeout=LIMIT)[0]]
                assert other.returncode == 0
            process.send_signal(signal.SIGTERM)
            printed.append(process.communicate(timeout=LIMIT)[0])
    shown = [
        line
        for _, text in blocks(TUTORIAL, "console")
        if any(f"python {name}" in text for name in FILES)
        for line in text.splitlines()
        if not line.startswith("$ ")
    ]
    assert shown
    assert set(shown) == set("".join(printed).splitlines())


def start(directory: Path, name: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, name],
        cwd=directory,
        stdout=PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": ""},
    )


@over_smcd
@pytest.mark.parametrize("arguments", [["ss", "-a"], ["devices"], ["linkgroups"], ["stats"],
    ["system"], ["ueid"], ["seid"], ["pnet"], ["hs-limit"], ["info"], ["doctor"],
    ["bench", "--seconds=2", "--rounds=1", "--sizes=1024"]],
    ids=lambda arguments: arguments[0])  # fmt: skip
def test_json_is_of_its_schema(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fastjsonschema = pytest.importorskip("fastjsonschema")
    monkeypatch.syspath_prepend(ROOT / "docs/_ext")
    schemas = importlib.import_module("types_of_json")
    with (
        smcsock.create_server(("127.0.0.1", 0)) as listener,
        smcsock.create_connection(listener.getsockname()),
    ):
        assert _cli.main([*arguments, "--json"]) == 0
    fastjsonschema.compile(schemas.schema(arguments[0]))(json.loads(capsys.readouterr().out))
