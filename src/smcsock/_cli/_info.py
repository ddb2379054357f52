"""smcsock info: what the kernel of this machine offers."""

import argparse
import errno
import os
import socket as _stdlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from .. import AF_SMC, IPPROTO_SMC, SMC_LIMIT_HS, SMCPROTO_SMC, SMCPROTO_SMC6, SOL_SMC, socket
from .._errors import NO_SMC
from .._kernel._machine import (
    LOADED,
    RoceDevice,
    SmcdDevice,
    has_dibs,
    module_state,
    smcd_devices,
    smcr_devices,
    sysctls,
)
from ._common import ExitCode, explain, say
from ._json import add_json, say_json

__all__ = ["Answer", "Report", "add", "collect"]

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

_NO_SMCD = "none"
_NO_ISM = "none in /sys, which does not show loopback-ism"


@dataclass(frozen=True)
class Answer:
    """Whether the kernel offers something; ``error`` is what it said if not."""

    available: bool
    error: str | None = None


@dataclass(frozen=True)
class Report:
    """What the kernel offers.

    ``modules`` maps a name to "loaded", "built in", "not loaded" (but installed), "not
    found", or "unknown" where this process may not look. ``diag`` and
    ``limit_handshakes`` are None where there is no socket to ask with, ``sysctls`` where
    the kernel has none.
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


def add(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of the command."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.set_defaults(run=_run)
    add_json(parser)


def _run(options: argparse.Namespace) -> ExitCode:
    report = collect()
    if options.json:
        say_json({"usable": report.is_usable, **asdict(report)})
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
    modules = {name: module_state(root, name) for name in ("smc", "smc_diag")}
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
        smcd_devices=smcd_devices(root),
        smcr_devices=smcr_devices(root),
        sysctls=sysctls(root),
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


def _advice(af_smc: Answer, diag: Answer | None, modules: dict[str, str]) -> str | None:
    if not af_smc.available:
        if af_smc.error != os.strerror(errno.EAFNOSUPPORT) or modules["smc"] in LOADED:
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
    smcd = [f"{device.name} ({device.description})" for device in report.smcd_devices]
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
        ("SMC-D devices", smcd or [_NO_SMCD if has_dibs(report.release) else _NO_ISM]),
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
