"""The manual pages and shell completions are those of the parsers."""

import argparse
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import on_host

from smcsock import _cli

pytestmark = on_host

SHARE = Path(__file__).resolve().parent.parent / "share"
BASH = SHARE / "bash-completion/completions/smcsock"


def options(parser: argparse.ArgumentParser) -> set[str]:
    """The long options of a parser."""
    return {option for option in parser._option_string_actions if option.startswith("--")}


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (a for a in _cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(action.choices)


@pytest.mark.parametrize("name", _cli.SUMMARIES)
def test_page_has_all_options(name: str) -> None:
    text = (SHARE / f"man/man1/smcsock-{name}.1").read_text().replace("\\-", "-")
    assert f"smcsock-{name} - {_cli.SUMMARIES[name]}" in text
    assert options(commands()[name]) - {"--help"} <= set(re.findall(r"--[a-z0-9-]+", text)), (
        "run docs/pages.py"
    )
    assert "/root" not in text


def test_overview_has_all_commands() -> None:
    text = (SHARE / "man/man1/smcsock.1").read_text().replace("\\-", "-")
    assert [name for name in _cli.SUMMARIES if name not in text] == []


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("smcsock linkg", "linkgroups"),
        ("smcsock ss --js", "--json"),
        ("smcsock bench --pl", "--plot"),
    ],
)
def test_bash_completes(words: str, completed: str) -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    parts = words.split()
    script = (
        f"source {BASH}; COMP_WORDS=({words}); COMP_CWORD={len(parts) - 1}; "
        f"_shtab_smcsock smcsock {parts[-1]} {parts[-2]}; echo ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )
    assert done.stdout.split() == [completed], done.stderr


def test_zsh_has_all_commands() -> None:
    text = (SHARE / "zsh/site-functions/_smcsock").read_text()
    assert text.startswith("#compdef smcsock")
    assert [name for name in _cli.SUMMARIES if f"{name}:" not in text] == []
