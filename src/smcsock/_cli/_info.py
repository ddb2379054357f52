"""smcsock info: what the kernel of this machine offers."""

import argparse
import errno
import json
import os
import socket as _stdlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .. import AF_SMC, IPPROTO_SMC, SMC_LIMIT_HS, SMCPROTO_SMC, SMCPROTO_SMC6, SOL_SMC, socket
from .._errors import NO_SMC
from ._common import ExitCode, explain, say

if TYPE_CHECKING:
    from ._common import Commands

__all__ = ["Answer", "Report", "RoceDevice", "SmcdDevice", "add", "collect"]

_DESCRIPTION = """\
Shows what the kernel offers for SMC: the socket family, IPPROTO_SMC, the modules
and whether smc_diag answers, the devices that show in /sys, and the sysctls.
Needs no privilege. The kernel may load its modules to answer.
"""

_EPILOG = """\
exit status:
  0    SMC sockets can be opened here (it takes a device as well for them not to
       fall back to TCP: see 'smcsock echo')
  1    they cannot
"""

# The ISM device of IBM Z and LinuxONE, as drivers/s390/net/ism_drv.c has it.
_ISM = ("0x1014", "0x04ed")

_PRESENT = ("loaded", "built in")


@dataclass(frozen=True)
class Answer:
    """Whether the kernel offers something; ``error`` is what it said if not."""

    available: bool
    error: str | None = None


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
    """A device for SMC-D, as far as /sys shows it; ``kind`` is "ism" or "dibs"."""

    name: str
    kind: str
    driver: str | None


@dataclass(frozen=True)
class Report:
    """What the kernel offers.

    ``modules`` maps a name to "loaded", "built in", "not loaded" (but installed) or
    "not found". ``diag`` and ``limit_handshakes`` are None where there is no
    socket to ask with, ``sysctls`` where the kernel has none.
    """

    release: str
    machine: str
    af_smc: Answer
    af_smc_ipv6: Answer
    ipproto_smc: Answer
    modules: dict[str, str]
    diag: Answer | None
    limit_handshakes: bool | None
    smcd_devices: list[SmcdDevice]
    smcr_devices: list[RoceDevice]
    sysctls: dict[str, int | str] | None
    advice: str | None

    @property
    def is_usable(self) -> bool:
        """Whether SMC sockets can be opened."""
        return self.af_smc.available


def add(commands: "Commands") -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser(
        "info",
        help="show what this machine's kernel offers",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=_run, fail=parser.error)
    parser.add_argument("--json", action="store_true", help="for programs")


def _run(options: argparse.Namespace) -> ExitCode:
    report = collect()
    if options.json:
        say(json.dumps({"usable": report.is_usable, **asdict(report)}, indent=2))
    else:
        for line in _lines(report):
            say(line)
    return ExitCode.OK if report.is_usable else ExitCode.FAILED


def collect(root: Path = Path("/")) -> Report:
    """Asks the kernel; ``root`` is where proc, sys and lib are."""
    af_smc = _ask(lambda: _open(SMCPROTO_SMC))
    af_smc_ipv6 = _ask(lambda: _open(SMCPROTO_SMC6))
    ipproto_smc = _ask(lambda: _stdlib.socket(_stdlib.AF_INET, _stdlib.SOCK_STREAM, IPPROTO_SMC))
    diag, limit_handshakes = _ask_socket() if af_smc.available else (None, None)
    # Last of all: the sockets above may have made the kernel load its modules.
    modules = {name: _module(root, name) for name in ("smc", "smc_diag")}
    system = os.uname()
    return Report(
        release=system.release,
        machine=system.machine,
        af_smc=af_smc,
        af_smc_ipv6=af_smc_ipv6,
        ipproto_smc=ipproto_smc,
        modules=modules,
        diag=diag,
        limit_handshakes=limit_handshakes,
        smcd_devices=_smcd_devices(root),
        smcr_devices=_smcr_devices(root),
        sysctls=_sysctls(root),
        advice=_advice(af_smc, diag, modules),
    )


def _open(proto: int) -> socket:
    return socket(AF_SMC, _stdlib.SOCK_STREAM, proto, fallback="error")


def _ask(attempt: Callable[[], _stdlib.socket]) -> Answer:
    try:
        attempt().close()
    except OSError as error:
        return Answer(False, os.strerror(error.errno) if error.errno else explain(error))
    return Answer(True)


def _ask_socket() -> tuple[Answer, bool | None]:
    """What an SMC socket can tell: whether smc_diag answers, and the handshake limitation."""
    with _open(SMCPROTO_SMC) as sock:
        try:
            sock.smc_info()
        except OSError as error:
            diag = Answer(False, explain(error))
        else:
            diag = Answer(True)
        try:
            return diag, bool(sock.getsockopt(SOL_SMC, SMC_LIMIT_HS))
        except OSError:  # before Linux 5.18
            return diag, None


def _read(path: Path) -> str | None:
    """The text of a file in /proc or /sys without the line end; None if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _entries(path: Path) -> list[Path]:
    """The entries of a directory, sorted; none if it is not there."""
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def _module(root: Path, name: str) -> str:
    if (root / "sys/module" / name / "initstate").exists():
        return "loaded"
    directory = root / "lib/modules" / os.uname().release
    for index, state in (("modules.builtin", "built in"), ("modules.dep", "not loaded")):
        for line in (_read(directory / index) or "").splitlines():
            if Path(line.partition(":")[0]).name.partition(".")[0] == name:
                return state
    return "built in" if (root / "sys/module" / name).exists() else "not found"


def _smcd_devices(root: Path) -> list[SmcdDevice]:
    devices = []
    for path in _entries(root / "sys/bus/pci/devices"):
        if (_read(path / "vendor"), _read(path / "device")) == _ISM:
            driver = (path / "driver").resolve().name if (path / "driver").exists() else None
            devices.append(SmcdDevice(path.name, "ism", driver))
    # Newer kernels list ISM and loopback devices in a class of their own.
    devices += [SmcdDevice(path.name, "dibs", None) for path in _entries(root / "sys/class/dibs")]
    return devices


def _smcr_devices(root: Path) -> list[RoceDevice]:
    devices = []
    for device in _entries(root / "sys/class/infiniband"):
        for port in _entries(device / "ports"):
            # Unused entries of the GID table give EINVAL.
            names = (_read(entry) for entry in _entries(port / "gid_attrs/ndevs"))
            devices.append(
                RoceDevice(
                    name=device.name,
                    port=int(port.name),
                    state=(_read(port / "state") or "unknown").rpartition(": ")[2],
                    link_layer=_read(port / "link_layer") or "unknown",
                    interfaces=sorted({name for name in names if name}),
                )
            )
    return devices


def _sysctls(root: Path) -> dict[str, int | str] | None:
    values = {path.name: _read(path) for path in _entries(root / "proc/sys/net/smc")}
    return {
        name: int(value) if value.lstrip("-").isdecimal() else value
        for name, value in values.items()
        if value is not None
    } or None


def _advice(af_smc: Answer, diag: Answer | None, modules: dict[str, str]) -> str | None:
    if not af_smc.available:
        if af_smc.error != os.strerror(errno.EAFNOSUPPORT) or modules["smc"] in _PRESENT:
            return (
                "this process may not open SMC sockets: look at what confines it (a container, "
                "seccomp, SELinux, RestrictAddressFamilies= of a systemd service)"
            )
        if modules["smc"] == "not loaded":
            return "the module is installed but not loaded: try 'modprobe smc' as root"
        return NO_SMC
    if diag is not None and not diag.available:
        return diag.error
    return None


def _lines(report: Report) -> list[str]:
    diag = "unknown" if report.diag is None else _yes_no(report.diag)
    limited = {None: "unknown", False: "off", True: "on"}[report.limit_handshakes]
    smcd = [
        f"{device.name} ({device.kind}{f', driver {device.driver}' if device.driver else ''})"
        for device in report.smcd_devices
    ]
    smcr = [
        f"{device.name} port {device.port} ({device.state}, {device.link_layer}, "
        f"{'/'.join(device.interfaces) or 'no interface'})"
        for device in report.smcr_devices
    ]
    rows = [
        ("kernel", [f"{report.release} {report.machine}"]),
        ("AF_SMC", [_yes_no(report.af_smc)]),
        ("AF_SMC, IPv6", [_yes_no(report.af_smc_ipv6)]),
        ("IPPROTO_SMC", [_yes_no(report.ipproto_smc)]),
        *((f"module {name}", [state]) for name, state in report.modules.items()),
        ("smc_diag answers", [diag]),
        ("handshakes limited", [limited]),
        ("SMC-D devices", smcd or ["none in /sys, which need not show loopback-ism"]),
        ("SMC-R devices", smcr or ["none"]),
        ("sysctls", [f"net.smc.{k} = {v}" for k, v in (report.sysctls or {}).items()] or ["none"]),
        *([("advice", [report.advice])] if report.advice else []),
    ]
    return [
        f"{label if first else '':<20}{value}"
        for label, values in rows
        for first, value in zip([True] + [False] * len(values), values, strict=False)
    ]


def _yes_no(answer: Answer) -> str:
    return "yes" if answer.available else f"no ({answer.error})"
