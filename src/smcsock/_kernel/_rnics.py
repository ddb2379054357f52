"""The PCI functions of IBM Z, by their function IDs (FIDs): RoCE and network cards, ISM.

A function has a slot in /sys/bus/pci/slots also while it is off; what it is shows only while it
is on. ``root`` is the directory that has sys. Source: arch/s390/pci/pci_sysfs.c and
drivers/pci/hotplug/s390_pci_hpc.c in the Linux kernel.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from ._machine import entries, read

__all__ = ["IbPort", "Interface", "PciFunction", "hardware_pnetid", "pci_functions", "set_power"]

_PNETID_SIZE = 16
_FID = re.compile(r"[0-9a-f]{8}")

# PCI function types, and how smc_rnics calls them.
_ROCE, _ISM, _ROCE_V2, _NETH, _NETD = 0x02, 0x05, 0x0A, 0x0C, 0x0F
_NAMES = {_ROCE: "ROC", _ISM: "ISM", _ROCE_V2: "ROC2", _NETH: "NETH", _NETD: "NETD"}
_TYPES = {
    _ROCE: "RoCE_Express",
    _ISM: "ISM",
    _NETH: "Network_Express",
    _NETD: "Network_Express",
}
# The two cards of one type: by the first part of their firmware's version, else by device.
_BY_FIRMWARE = {"14": "RoCE_Express2", "22": "RoCE_Express3"}
_BY_DEVICE = {0x1016: "RoCE_Express2", 0x101E: "RoCE_Express3"}


@dataclass(frozen=True)
class Interface:
    """A network interface of a function; ``port`` is the physical one, from 0 on."""

    name: str
    port: int | None
    pnetid: str


@dataclass(frozen=True)
class IbPort:
    """A port, from 1 on, of the RDMA device of a function."""

    device: str
    port: int
    pnetid: str


@dataclass(frozen=True)
class PciFunction:
    """A PCI function; of one that is off only the first two are known, the others None.

    ``type`` is what it is as smc_rnics calls it, and None of what SMC has no use for;
    ``pft`` is the PCI function type, ``vfn`` the number as a virtual function, ``port``
    the physical port from 0 on. A PNET ID is the hardware's, "" for none.
    """

    fid: int
    is_on: bool
    pci_id: str | None = None
    pchid: int | None = None
    vendor: int | None = None
    device: int | None = None
    pft: int | None = None
    vfn: int | None = None
    type: str | None = None
    port: int | None = None
    pnetid: str | None = None
    interfaces: tuple[Interface, ...] = ()
    ib_ports: tuple[IbPort, ...] = ()

    @property
    def pft_name(self) -> str:
        """The function type in letters, or its number in hexadecimal."""
        return "" if self.pft is None else _NAMES.get(self.pft, f"{self.pft:#04x}")

    @property
    def is_virtual(self) -> bool | None:
        """Whether it is a virtual function; only a Network Express card has others."""
        if self.pft in (_ROCE, _ISM, _ROCE_V2, _NETH):
            return True
        return None if self.vfn is None else self.vfn != 0


def pci_functions(root: Path) -> list[PciFunction]:
    """All of them by FID; none off IBM Z."""
    places = {
        number: path
        for path in entries(root / "sys/bus/pci/devices")
        if (number := _number(path / "function_id")) is not None
    }
    return [
        _function(slot, places.get(int(slot.name, 16)))
        for slot in entries(root / "sys/bus/pci/slots")
        if _FID.fullmatch(slot.name)
    ]


def set_power(root: Path, fid: int, *, on: bool) -> None:
    """Has a function there or not, as it is configured: OSError from the kernel."""
    (root / "sys/bus/pci/slots" / f"{fid:08x}" / "power").write_text(f"{on:d}")


def hardware_pnetid(path: Path, port: int) -> str:
    """That of a port in a file util_string: EBCDIC, 16 bytes each; "" for none."""
    at = port * _PNETID_SIZE
    try:
        return path.read_bytes()[at : at + _PNETID_SIZE].decode("cp500").strip(" \0")
    except OSError:
        return ""


def _function(slot: Path, path: Path | None) -> PciFunction:
    fid, is_on = int(slot.name, 16), read(slot / "power") == "1"
    if not is_on or path is None:
        return PciFunction(fid, is_on)
    pft = _number(path / "pft")
    return PciFunction(
        fid,
        is_on,
        pci_id=path.name,
        pchid=_number(path / "pchid"),
        vendor=_number(path / "vendor"),
        device=_number(path / "device"),
        pft=pft,
        vfn=_number(path / "vfn"),
        type=_roce_type(path) if pft == _ROCE_V2 else _TYPES.get(pft or 0),
        port=_physical_port(path),
        pnetid=hardware_pnetid(path / "util_string", 0),
        interfaces=tuple(_interface(path, pft, each) for each in entries(path / "net")),
        ib_ports=tuple(
            _ib_port(path, pft, device.name, int(port.name))
            for device in entries(path / "infiniband")
            for port in entries(device / "ports")
        ),
    )


def _interface(path: Path, pft: int | None, interface: Path) -> Interface:
    # Only the first RoCE card has its two ports on one function.
    port = _number(interface / "dev_port") if pft == _ROCE else None
    pnetid = hardware_pnetid(path / "util_string", port or 0)
    return Interface(interface.name, _physical_port(path) if port is None else port, pnetid)


def _ib_port(path: Path, pft: int | None, device: str, port: int) -> IbPort:
    at = port - 1 if pft == _ROCE else 0
    return IbPort(device, port, hardware_pnetid(path / "util_string", at))


def _roce_type(path: Path) -> str:
    for device in entries(path / "infiniband"):
        version = (read(device / "fw_ver") or "").partition(".")[0]
        if version in _BY_FIRMWARE:
            return _BY_FIRMWARE[version]
    return _BY_DEVICE.get(_number(path / "device") or 0, "RoCE_Express")


def _physical_port(path: Path) -> int | None:
    port = _number(path / "port")  # from 1 on, 0 where there is none
    return port - 1 if port else None


def _number(path: Path) -> int | None:
    """A number in a file, hexadecimal if it says so; None if there is none."""
    try:
        return int(read(path) or "", 0)
    except ValueError:
        return None
