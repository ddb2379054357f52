"""What /proc and /sys tell, where they do not tell everything."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import on_host

from smcsock import doctor
from smcsock._cli._info import collect
from smcsock._kernel._machine import link_name, module_state, smcd_devices
from smcsock.doctor import Finding, Status

pytestmark = on_host

RELEASE = os.uname().release
NOBODY = 65534

FORBIDDEN = [
    "sys/module",
    "sys/bus/pci/devices/0000:00:00.0",
    "sys/class",
    "proc",
    "run",
    "etc",
    "lib/modules",
    "boot",
]


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without the privilege to look where the mode of a directory forbids it."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory for /sys and the like, to which nobody has a way."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)
        for path in FORBIDDEN:
            with contextlib.suppress(FileNotFoundError):
                Path(directory, path).chmod(0o755)


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def forbid(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0)


def test_module_that_cannot_be_looked_for_is_unknown(root: Path) -> None:
    forbid(root / "sys/module")
    with as_nobody():
        assert module_state(root, "smc") == "unknown"


def test_module_that_is_installed_may_be_loaded_for_all_that_can_be_seen(root: Path) -> None:
    write(root / f"lib/modules/{RELEASE}/modules.dep", "kernel/net/smc/smc.ko.xz:\n")
    forbid(root / "sys/module")
    with as_nobody():
        assert module_state(root, "smc") == "unknown"


@pytest.mark.parametrize(
    ("name", "state"), [("smc", "loaded"), ("smc_diag", "not loaded"), ("sm", "not found")]
)
def test_list_of_modules_tells_where_sys_does_not(root: Path, name: str, state: str) -> None:
    write(root / "proc/modules", "smc 200704 1 - Live 0x0\nib_core 4096 1 smc_diag, Live 0x0\n")
    write(root / f"lib/modules/{RELEASE}/modules.dep", "kernel/net/smc/smc_diag.ko:\n")
    forbid(root / "sys/module")
    with as_nobody():
        assert module_state(root, name) == state


def test_module_is_built_in_wherever_that_can_be_seen(root: Path) -> None:
    write(root / f"lib/modules/{RELEASE}/modules.builtin", "kernel/net/smc/smc.ko\n")
    forbid(root / "sys/module")
    with as_nobody():
        assert module_state(root, "smc") == "built in"


def test_driver_that_cannot_be_seen_is_none(root: Path) -> None:
    device = root / "sys/bus/pci/devices/0000:00:00.0"
    write(device / "vendor", "0x1014\n")
    write(device / "device", "0x04ed\n")
    assert [found.driver for found in smcd_devices(root)] == [None]
    (device / "driver").symlink_to("../../drivers/ism")
    assert [found.driver for found in smcd_devices(root)] == ["ism"]
    assert link_name(device / "vendor") is None
    forbid(device)
    with as_nobody():
        assert link_name(device / "driver") is None
        assert smcd_devices(root) == []


@pytest.mark.parametrize("forbidden", FORBIDDEN)
def test_info_and_doctor_go_on_where_they_may_not_look(root: Path, forbidden: str) -> None:
    collect()  # loads what it needs
    forbid(root / forbidden)
    with as_nobody():
        report = collect(root)
        findings = examine(root)
    assert set(report.modules) == {"smc", "smc_diag"}
    assert {"kernel", "module smc", "confinement"} <= {finding.name for finding in findings}


def test_doctor_says_that_it_cannot_see_the_module(root: Path) -> None:
    forbid(root / "sys/module")
    with as_nobody():
        findings = examine(root)
    (finding,) = (finding for finding in findings if finding.name == "module smc")
    if finding.status is not Status.OK:  # there is SMC
        assert finding.status is Status.UNKNOWN
        assert "/sys/module" in finding.evidence


def examine(root: Path) -> list[Finding]:
    machine = doctor._look(None, 10.0, root)
    return [finding for check in doctor._CHECKS for finding in check(machine)]
