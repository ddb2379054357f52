"""smcsock rnics, shown a directory of the shape that IBM Z has: only what it reads from files.

The attributes are those of arch/s390/pci/pci_sysfs.c, in the formats that it writes.
"""

import errno
import importlib
import os
from pathlib import Path

import pytest
from conftest import on_host
from test_diag_cli import Shell, parser, shell

from smcsock._cli import _rnics
from smcsock.diag import PnetId

__all__ = ["parser", "shell"]

pytestmark = on_host

ROOT = Path(__file__).resolve().parent.parent
OK, FAILED, USAGE, NOT_PERMITTED = 0, 1, 2, 4


class Sys:
    """The part of /sys with PCI functions, of which ``add`` adds one."""

    def __init__(self, root: Path) -> None:
        self._bus = root / "sys/bus/pci"

    def add(self, fid: int, power: int = 1) -> Path:
        """A slot: the file of its power."""
        slot = self._bus / "slots" / f"{fid:08x}"
        slot.mkdir(parents=True)
        (slot / "power").write_text(f"{power}\n")
        return slot / "power"

    def device(
        self,
        fid: int,
        ids: str,
        pft: int,
        *,
        vfn: int = 0,
        port: int = 0,
        pnetids: str = "",
        interfaces: tuple[str, ...] = (),
        rdma: tuple[str, int] = ("", 0),
        firmware: str = "",
    ) -> None:
        path = self._bus / "devices" / f"{fid:04x}:00:00.0"
        vendor, device = ids.split(":")
        values = {
            "function_id": f"0x{fid:08x}",
            "vendor": f"0x{vendor}",
            "device": f"0x{device}",
            "pchid": "0x01c4",
            "pft": f"0x{pft:02x}",
            "vfn": f"0x{vfn:04x}",
            "port": f"{port}",
        }
        for n, name in enumerate(interfaces):
            values[f"net/{name}/dev_port"] = f"{n}"
        if rdma[1]:
            values[f"infiniband/{rdma[0]}/fw_ver"] = firmware
        for name, value in values.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(f"{value}\n")
        for number in range(1, rdma[1] + 1):
            (path / "infiniband" / rdma[0] / "ports" / f"{number}").mkdir(parents=True)
        text = "".join(name.ljust(16) for name in pnetids.split(",")).encode("cp500")
        (path / "util_string").write_bytes(text.ljust(64, b"\0"))


@pytest.fixture
def sys_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sys:
    monkeypatch.setattr(_rnics, "ROOT", tmp_path)
    monkeypatch.setattr(_rnics, "_pnet_table", list)
    found = Sys(tmp_path)
    for fid in (0x8, 0x18, 0x1C, 0x21, 0x2F, 0x30, 0x40):
        found.add(fid)
    found.add(0x10, power=0)
    found.device(
        0x8,
        "15b3:1004",
        2,
        pnetids="NET1,NET2",
        interfaces=("ens8", "ens8d1"),
        rdma=("mlx4_0", 2),
    )
    found.device(
        0x18,
        "15b3:1016",
        0x0A,
        port=2,
        vfn=3,
        pnetids="NET1",
        interfaces=("ens24",),
        rdma=("mlx5_0", 1),
        firmware="14.32.1010",
    )
    found.device(0x1C, "15b3:101e", 0x0A, port=1, interfaces=("ens28",))
    found.device(0x21, "1014:04ed", 5, pnetids="NET1")
    found.device(0x2F, "1014:044b", 0, vfn=1)
    found.device(0x30, "15b3:1021", 0x0F, port=1, interfaces=("eno48",))
    found.device(0x40, "15b3:1021", 0x0F, port=1, vfn=2)
    return found


def rows(shell: Shell, command: str) -> list[list[str]]:
    header, *lines = shell.lines(command)
    assert header.split()[:6] == ["FID", "Power", "PCI-ID", "PCHID", "Type", "PFT"]
    return [line.split() for line in lines]


def test_what_is_on_is_listed_by_interface(sys_: Sys, shell: Shell) -> None:
    z = "00:00.0"
    assert rows(shell, "rnics") == [
        ["8", "1", f"0008:{z}", "01c4", "RoCE_Express", "ROC", "y", "0", "NET1", "ens8"],
        ["8", "1", f"0008:{z}", "01c4", "RoCE_Express", "ROC", "y", "1", "NET2", "ens8d1"],
        ["18", "1", f"0018:{z}", "01c4", "RoCE_Express2", "ROC2", "y", "1", "NET1", "ens24"],
        ["1c", "1", f"001c:{z}", "01c4", "RoCE_Express3", "ROC2", "y", "0", "n/a", "ens28"],
        ["21", "1", f"0021:{z}", "01c4", "ISM", "ISM", "y", "n/a", "NET1", "n/a"],
        ["30", "1", f"0030:{z}", "01c4", "Network_Express", "NETD", "n", "0", "n/a", "eno48"],
        ["40", "1", f"0040:{z}", "01c4", "Network_Express", "NETD", "y", "0", "n/a", "n/a"],
    ]


def test_rdma_devices_are_listed_by_port(sys_: Sys, shell: Shell) -> None:
    assert shell.lines("rnics -I")[0].split()[7:] == ["IPrt", "PNET-ID", "IB-Dev"]
    assert [row[7:] for row in rows(shell, "rnics --ib-dev")][:4] == [
        ["1", "NET1", "mlx4_0"],
        ["2", "NET2", "mlx4_0"],
        ["1", "NET1", "mlx5_0"],
        ["0", "n/a", "n/a"],
    ]


def test_all_has_what_is_off_and_what_is_for_something_else(sys_: Sys, shell: Shell) -> None:
    shown = {row[0]: row for row in rows(shell, "rnics --all")}
    assert shown["10"] == ["10", "0"]
    assert shown["2f"][4:7] == ["1014:044b", "0x00", "y"]


def test_raw_ids(sys_: Sys, shell: Shell) -> None:
    assert shell.lines("rnics -r")[0].split()[6] == "VFN"
    shown = {row[0]: row for row in rows(shell, "rnics -r")}
    assert shown["18"][4:8] == ["15b3:1016", "0x0a", "3", "1"]
    assert shown["2f"][4:7] == ["1014:044b", "0x00", "1"]
    assert "10" not in shown


@pytest.mark.parametrize("fid", ["10", "0x10", "00000010"])
def test_one_function_is_shown_whatever_it_is(fid: str, sys_: Sys, shell: Shell) -> None:
    assert rows(shell, f"rnics {fid}") == [["10", "0"]]


def test_pnet_table_has_what_the_hardware_has_not(
    sys_: Sys, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = [
        PnetId("ONE", interface="ens28"),
        PnetId("TWO", device="0040:00:00.0", port=1),
        PnetId("NONE", interface="ens24"),
    ]
    monkeypatch.setattr(_rnics, "_pnet_table", lambda: table)
    shown = {row[0]: row[8] for row in rows(shell, "rnics")}
    assert (shown["1c"], shown["40"], shown["18"]) == ("ONE*", "TWO*", "NET1")


def test_json_has_all_that_is_known(
    sys_: Sys, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    fastjsonschema = pytest.importorskip("fastjsonschema")
    monkeypatch.syspath_prepend(ROOT / "docs/_ext")
    schemas = importlib.import_module("types_of_json")
    found = shell.json("rnics -a")
    fastjsonschema.compile(schemas.schema("rnics"))(found)
    shown = {each["fid"]: each for each in found}
    assert shown[0x10]["is_on"] is False
    assert shown[0x10]["pft"] is None
    assert shown[0x18]["vfn"] == 3
    assert shown[0x8]["interfaces"][1] == {"name": "ens8d1", "port": 1, "pnetid": "NET2"}
    assert shown[0x8]["ib_ports"][1] == {"device": "mlx4_0", "port": 2, "pnetid": "NET2"}


def test_slot_without_a_device_is_told(sys_: Sys, shell: Shell) -> None:
    sys_.add(0x50)
    status, out, err = shell.run("rnics 50")
    assert (status, out.splitlines()[1].split()) == (OK, ["50", "1"])
    assert err == "smcsock: function 50 is on, but there is no device of it\n"


def test_functions_are_turned_on_and_off(sys_: Sys, shell: Shell) -> None:
    power = sys_.add(0x60, power=0)
    assert shell.run("rnics -e 60") == (OK, "", "")
    assert power.read_text() == "1"
    assert shell.run("rnics --enable 60") == (FAILED, "", "smcsock: function 60 is on already\n")
    assert shell.run("rnics -d 0x60") == (OK, "", "")
    assert power.read_text() == "0"
    assert shell.run("rnics --disable 60") == (FAILED, "", "smcsock: function 60 is off already\n")


@pytest.mark.parametrize(("number", "status"), [(errno.EACCES, NOT_PERMITTED), (errno.EIO, FAILED)])
def test_what_the_kernel_refuses_is_told(
    number: int, status: int, sys_: Sys, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_rnics, "set_power", refuse)
    text = f"smcsock: cannot disable function 21: {os.strerror(number)}\n"
    assert shell.run("rnics -d 21") == (status, "", text)


@pytest.mark.parametrize("command", ["rnics 99", "rnics -e 99", "rnics -d 99"])
def test_no_such_function(command: str, sys_: Sys, shell: Shell) -> None:
    assert shell.run(command) == (FAILED, "", "smcsock: there is no function 99\n")


@pytest.mark.parametrize(
    "command",
    [
        "rnics xyz",
        "rnics -1",
        "rnics 100000000",
        "rnics -e 8 -d 8",
        "rnics -e 8 8",
        "rnics -e 8 -a",
    ],
)
def test_wrong_usage(command: str, sys_: Sys, shell: Shell) -> None:
    status, out, err = shell.run(command)
    assert (status, out, err.startswith("usage: ")) == (USAGE, "", True)


def test_elsewhere_there_are_none(shell: Shell) -> None:
    if os.uname().machine == "s390x":
        pytest.skip("this is IBM Z")
    assert shell.run("rnics") == (FAILED, "", "smcsock: only IBM Z has PCI functions with IDs\n")
