"""What /proc, /sys and /lib/modules tell about SMC, to any user.

``root`` is the directory that has them: "/", or that of another system.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "LOADED",
    "RoceDevice",
    "SmcdDevice",
    "entries",
    "has_dibs",
    "link_name",
    "module_state",
    "read",
    "smcd_devices",
    "smcr_devices",
    "sysctls",
]

# The ISM device of IBM Z and LinuxONE, as drivers/s390/net/ism_drv.c has it.
_ISM = ("0x1014", "0x04ed")

LOADED = ("loaded", "built in")
"""The states of a module that the kernel has."""


@dataclass(frozen=True)
class RoceDevice:
    """A port of an RDMA device; SMC-R can use it if the link layer is Ethernet."""

    name: str
    port: int
    state: str
    link_layer: str
    interfaces: list[str]


@dataclass(frozen=True)
class SmcdDevice:
    """A device for SMC-D, as far as /sys shows it; ``kind`` is "ism" or "dibs".

    ``name`` is that of the PCI function, if it is one. ``dibs`` is that in the class dibs,
    ``gid`` and ``fabric_id`` are as it writes them: None before Linux 6.18.
    """

    name: str
    kind: str
    driver: str | None
    dibs: str | None = None
    gid: str | None = None
    fabric_id: str | None = None

    @property
    def description(self) -> str:
        """What it is, in a few words."""
        driver = f"driver {self.driver}" if self.driver else None
        dibs = f"DIBS device {self.dibs}" if self.dibs not in (None, self.name) else None
        gid = f"GID {self.gid}" if self.gid else None
        fabric = f"fabric ID {self.fabric_id}" if self.fabric_id else None
        return ", ".join(filter(None, (self.kind, driver, dibs, gid, fabric)))


def read(path: Path) -> str | None:
    """The text of a file in /proc or /sys without the line end; None if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def entries(path: Path) -> list[Path]:
    """The entries of a directory, sorted; none if it is not there."""
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def link_name(path: Path) -> str | None:
    """The last part of where a symbolic link leads; None if there is none to be seen."""
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return None


def module_state(root: Path, name: str) -> str:
    """Of a kernel module: "loaded", "built in", "not loaded" (but installed), "not found".

    "unknown" where neither /sys/module nor /proc/modules lets this process see that.
    """
    directory = root / "sys/module" / name
    has_state = _exists(directory / "initstate")
    loaded = read(root / "proc/modules")
    if has_state or any(line.split()[:1] == [name] for line in (loaded or "").splitlines()):
        return "loaded"
    can_tell = has_state is not None or loaded is not None
    modules = root / "lib/modules" / os.uname().release
    for index, state in (("modules.builtin", "built in"), ("modules.dep", "not loaded")):
        for line in (read(modules / index) or "").splitlines():
            if Path(line.partition(":")[0]).name.partition(".")[0] == name:
                return state if can_tell or state in LOADED else "unknown"
    if _exists(directory):
        return "built in"
    return "not found" if can_tell else "unknown"


def _exists(path: Path) -> bool | None:
    """Whether there is a file; None if this process may not look."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return None
    return True


def has_dibs(release: str) -> bool:
    """Whether SMC has its devices for SMC-D from DIBS, without which it cannot be built."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) >= (6, 18)


def smcd_devices(root: Path) -> list[SmcdDevice]:
    """The devices for SMC-D that show in /sys: all of DIBS; of those before not loopback-ism."""
    dibs = {
        link_name(path / "device") or path.name: path for path in entries(root / "sys/class/dibs")
    }
    devices = []
    for path in entries(root / "sys/bus/pci/devices"):
        if (read(path / "vendor"), read(path / "device")) == _ISM:
            identity = _identity(dibs.pop(path.name, None))
            devices.append(SmcdDevice(path.name, "ism", link_name(path / "driver"), *identity))
    devices += [SmcdDevice(path.name, "dibs", None, *_identity(path)) for path in dibs.values()]
    return devices


def _identity(path: Path | None) -> tuple[str | None, str | None, str | None]:
    """Name, GID and fabric ID of a device of the class dibs."""
    return (path.name, read(path / "gid"), read(path / "fabric_id")) if path else (None,) * 3


def smcr_devices(root: Path) -> list[RoceDevice]:
    """The ports of all RDMA devices."""
    devices = []
    for device in entries(root / "sys/class/infiniband"):
        for port in entries(device / "ports"):
            # Unused entries of the GID table give EINVAL.
            names = (read(entry) for entry in entries(port / "gid_attrs/ndevs"))
            devices.append(
                RoceDevice(
                    name=device.name,
                    port=int(port.name),
                    state=(read(port / "state") or "unknown").rpartition(": ")[2],
                    link_layer=read(port / "link_layer") or "unknown",
                    interfaces=sorted({name for name in names if name}),
                )
            )
    return devices


def sysctls(root: Path) -> dict[str, int | str] | None:
    """The values of net.smc.*; None where the kernel has none."""
    values = {path.name: read(path) for path in entries(root / "proc/sys/net/smc")}
    return {
        name: int(value) if value.lstrip("-").isdecimal() else value
        for name, value in values.items()
        if value is not None
    } or None
