"""The decline codes: those of the kernel's source, and codes that it does not have."""

import os
import re
from pathlib import Path

import pytest

from smcsock import Reason
from smcsock._kernel._reasons import reason

SOURCE = os.environ.get("SMCSOCK_VM_SOURCE")
"""The source of the guest's kernel, as far as tests/vm keeps it: net/smc."""

NOT_DEFINED = 0x7F000001

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def defined() -> dict[str, int]:
    """The codes that the kernel's source defines, by name."""
    if SOURCE is None:
        pytest.skip("needs SMCSOCK_VM_SOURCE: the source of the kernels that tests/vm builds")
    text = Path(SOURCE, "net/smc/smc_clc.h").read_text()
    found = re.findall(r"^#define\s+SMC_CLC_DECL_(\w+)\s+(0x[0-9a-fA-F]{8})\b", text, re.MULTILINE)
    assert len(found) == len(re.findall(r"^#define\s+SMC_CLC_DECL_", text, re.MULTILINE)) > 30
    return {name: int(code, 16) for name, code in found}


def test_every_code_of_the_kernel_is_known_by_its_name(defined: dict[str, int]) -> None:
    assert {reason(code).name: reason(code).code for code in defined.values()} == defined


def test_every_code_of_the_kernel_is_explained(defined: dict[str, int]) -> None:
    unexplained = [
        name
        for name, code in defined.items()
        if not (reason(code).meaning and reason(code).advice)
        or reason(code).meaning == reason(NOT_DEFINED).meaning
    ]
    assert unexplained == []


def test_code_that_linux_does_not_define_keeps_its_number() -> None:
    unknown = reason(NOT_DEFINED)
    assert (unknown.code, unknown.name) == (NOT_DEFINED, "")


def test_text_is_the_code_and_its_meaning() -> None:
    assert str(reason(0x03010000)) == "0x03010000: the peer did not indicate SMC"


def test_text_of_an_unknown_code() -> None:
    assert str(reason(NOT_DEFINED)) == "0x7f000001: a code that Linux does not define"


def test_reasons_are_values() -> None:
    code = 0x03010000
    assert reason(code) == reason(code) != reason(NOT_DEFINED)
    assert len({reason(code), reason(code), reason(NOT_DEFINED)}) == 2
    assert isinstance(reason(code), Reason)


def test_documents_show_them_as_they_are() -> None:
    shown = 0
    for path in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        text = path.read_text(encoding="utf-8")
        for code, meaning in re.findall(r"\((0x[0-9a-f]{8}): ([^)]*)\)", text):
            assert str(reason(int(code, 16))) == f"{code}: {meaning}", path
            shown += 1
        for advice in re.findall(r"^smcsock: +advice: (.*)$", text, re.MULTILINE):
            assert advice == reason(0x03010000).advice, path
            shown += 1
    assert shown >= 3
