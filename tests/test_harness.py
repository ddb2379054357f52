"""tests/run and tests/vm, as far as they do not install, fetch or boot anything."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import run as runner
from conftest import on_host

TESTS = Path(__file__).resolve().parent
sys.path.append(str(TESTS / "vm"))
import cache  # noqa: E402
import tools  # noqa: E402
from errors import HarnessError  # noqa: E402

pytestmark = on_host

REPORT = """<testsuites><testsuite>
<testcase classname="test_a" name="test_passes[v4]"/>
<testcase classname="test_a" name="test_passes[v6]"><skipped message="no IPv6"/></testcase>
<testcase classname="test_a" name="test_fails"><failure message="no"/></testcase>
<testcase classname="test_a" name="test_fails"/>
<testcase classname="test_a" name="test_new"><skipped message="before Python 3.14 none"/></testcase>
<testcase classname="test_a" name="test_smc"><skipped message="this kernel has no SMC"/></testcase>
<testcase classname="" name="test_b"><skipped message="collection skipped">curl is not installed
</skipped></testcase>
</testsuite></testsuites>"""


def read(directory: Path, report: str = REPORT, name: str = "host") -> tuple[runner.Run, set[str]]:
    path = directory / f"{name}.xml"
    path.write_text(report)
    result = runner.Run(name)
    return result, runner.read_report(path, result)


def test_report_of_a_run(tmp_path: Path) -> None:
    result, reasons = read(tmp_path)
    assert result.outcomes == {
        "test_a::test_passes[v4]": "passed",
        "test_a::test_passes[v6]": "skipped",
        "test_a::test_fails": "failed",  # though its teardown passed
        "test_a::test_new": "skipped",
        "test_a::test_smc": "skipped",
        "::test_b": "skipped",
    }
    assert result.excused == {"test_a::test_new"}
    left_out = {reason.strip() for reason in reasons if runner.WANT_OF_PROGRAM.search(reason)}
    assert left_out == {"curl is not installed"}
    assert [reason for reason in reasons if runner.WANT_OF_SMC.search(reason)] == [
        "this kernel has no SMC"
    ]


def test_what_no_run_passed_is_named(tmp_path: Path) -> None:
    host, _ = read(tmp_path)
    guest, _ = read(tmp_path, REPORT.replace("this kernel has no SMC", "slow"), "smcd")
    assert runner.never_passed([host, guest]) == [
        "skipped everywhere: ::test_b",
        "skipped everywhere: test_a::test_smc",
    ]
    guest.outcomes["test_a::test_smc"] = "passed"
    assert runner.never_passed([host, guest]) == ["skipped everywhere: ::test_b"]


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["run", "nowhere"], 2, "no such run: nowhere (there are host, smcd,"),
        (["vm", "run", "--kernel", "6.1", "--", "true"], 2, "loopback-ism came with Linux 6.11"),
        (["vm", "run", "--mode", "tcp"], 2, "no command: it comes after --"),
        (["vm", "run", "--rwdir", "/proc/version", "--", "true"], 2, "not a directory"),
        (["vm", "fetch", "--arch", "s390x", "--kernel", "6.1"], 2, "no --kernel 6.1 with --arch"),
    ],
)
def test_wrong_usage_is_explained(words: list[str], status: int, text: str) -> None:
    script = TESTS / ("run.py" if words[0] == "run" else "vm")
    done = subprocess.run(
        [sys.executable, script, *words[1:]], capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert text in done.stderr


def test_missing_programs_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "SEARCH_PATH", "/nonexistent")
    with pytest.raises(HarnessError) as caught:
        tools.require(["modprobe", "depmod", "busybox", "virtme-run"])
    assert str(caught.value).splitlines() == [
        "missing on this machine: modprobe, depmod, busybox, virtme-run",
        "  apt-get install --no-install-recommends busybox-static kmod",
        f"  {sys.executable} -m pip install virtme-ng",
    ]


# ---- The cache


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The versions that were made, in a cache of its own."""
    monkeypatch.setenv("SMCSOCK_VM_CACHE", str(tmp_path))
    return []


def entry(made: list[str], version: str) -> cache.Entry:
    def find(_: Path) -> tuple[str, Callable[[Path], None]]:
        return version, make

    def make(path: Path) -> None:
        made.append(version)
        path.mkdir()

    return cache.Entry("6.12", "r1", find)


def test_thing_is_made_once(made: list[str]) -> None:
    for version in "1", "2":
        with entry(made, version).use() as path:
            assert path.name == "6.12-1-r1"
    assert made == ["1"]


def test_newer_one_takes_its_place_when_nobody_uses_it(made: list[str]) -> None:
    with ExitStack() as stack:
        old = stack.enter_context(entry(made, "1").use())
        entry(made, "2").fetch(refresh=True)
        assert old.exists()
        new = stack.enter_context(entry(made, "3").use())
        assert new.name == "6.12-2-r1"
    cache.clean()
    assert not old.exists()
    assert not new.exists()
    assert made == ["1", "2"]


def test_what_cannot_be_made_leaves_nothing(made: list[str]) -> None:
    def find(work: Path) -> tuple[str, Callable[[Path], None]]:
        (work / "half").touch()
        raise HarnessError("there is no network")

    failing = cache.Entry("6.12", "r1", find)
    with pytest.raises(HarnessError, match="no network"):
        failing.fetch()
    assert not failing.exists()
    assert [path.name for path in cache.directory().iterdir()] == ["lock"]
