"""What others name, peers and devices among them, cannot command the terminal."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import on_host

from smcsock._cli._common import CommandError, complain, say
from smcsock._cli._info import _lines, collect
from smcsock._cli._json import say_json
from smcsock._cli._table import say_table
from smcsock._cli._text import printable

HOSTILE = "\x1b]0;owned\x07\x1b[31mred\r\n\x9b2J\u202etxt\u2066\u200b\udc80\x7f\x00"
HARMLESS = r"\x1b]0;owned\x07\x1b[31mred\r\n\x9b2J\u202etxt\u2066\u200b\udc80\x7f\x00"


@on_host
@pytest.mark.parametrize(
    "text",
    ["", "eth0", "[::1]:80", "Z/OS - V2R5", "Größe", "主机", "ネット", "e\u0301", "😀", r"\x1b"],
)
def test_what_can_be_read_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@on_host
def test_what_commands_a_terminal_is_escaped() -> None:
    assert printable(HOSTILE) == HARMLESS


@on_host
def test_no_character_gets_through_that_is_not_printable() -> None:
    assert printable("".join(map(chr, range(sys.maxunicode + 1)))).isprintable()


@on_host
def test_lines_of_commands_and_their_errors_are_escaped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say(f"connected to {HOSTILE}")
    complain(str(CommandError(f"{HOSTILE}: refused")))
    out, err = capsys.readouterr()
    assert out == f"connected to {HARMLESS}\n"
    assert err == f"smcsock: {HARMLESS}: refused\n"


@on_host
def test_cells_of_a_table_are_escaped_and_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    say_table(("Peer-Host", "EID"), [(HOSTILE, "A"), ("host", "B")])
    width = len(HARMLESS) + 2
    assert capsys.readouterr().out.splitlines() == [
        f"{'Peer-Host':<{width}}EID",
        f"{HARMLESS}  A",
        f"{'host':<{width}}B",
    ]


@on_host
def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    value: Any = {"hostname": HOSTILE, "eids": [HOSTILE]}
    say_json(value)
    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert all(line.isprintable() and line.isascii() for line in out.splitlines())


@on_host
def test_names_of_devices_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = tmp_path / "sys/class/infiniband/rxe\x1b[31m/ports/1"
    (port / "gid_attrs/ndevs").mkdir(parents=True)
    (port / "gid_attrs/ndevs/0").write_text("eth\x9b0")
    (port / "state").write_text("4: ACT\x07IVE")
    for line in _lines(collect(tmp_path)):
        say(line)
    out = capsys.readouterr().out
    assert r"rxe\x1b[31m port 1 (ACT\x07IVE, unknown, eth\x9b0)" in out
    assert all(map(str.isprintable, out.splitlines()))
