"""What confines this process: seccomp, containers, SELinux, AppArmor, systemd.

The kernel says EAFNOSUPPORT, EPERM or EACCES for these as well, and so they are
mistaken for a kernel without SMC, or that for them.
"""

import errno
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .._kernel._machine import read
from ._finding import Finding, Fix, Machine, Status

__all__ = ["check_confinement", "container_kind"]

_SECONDS = 10
"""What systemctl may take to answer."""


def check_confinement(machine: Machine) -> Iterator[Finding]:
    """What could keep this process from SMC; a problem if it does."""
    root = machine.root
    seccomp = _status(root, "Seccomp") == "2"
    container = container_kind(root)
    selinux = _selinux(root)
    apparmor = _apparmor(root)
    unit = _unit(root)
    signs = [
        *(["a seccomp filter"] if seccomp else []),
        *([f"a container ({container})"] if container else []),
        *([f"SELinux enforcing, as {selinux}"] if selinux else []),
        *([f"AppArmor, as {apparmor}"] if apparmor else []),
        *([f"the systemd service {unit}"] if unit else []),
    ]
    evidence = "; ".join(signs) or "nothing: no seccomp filter, container, SELinux or AppArmor"
    if machine.refusal is None:
        suffix = "; SMC sockets open all the same" if signs else ""
        yield Finding("confinement", Status.OK, evidence + suffix)
        return
    if not machine.has_module:
        status = Status.UNKNOWN if signs else Status.OK
        suffix = "; whether SMC gets through shows once the kernel has it" if signs else ""
        yield Finding("confinement", status, evidence + suffix)
        return
    code = machine.refusal.errno
    if code == errno.EACCES and selinux:
        advice = (
            "SELinux: allow the domain the class smc_socket; the command shows what it denied, "
            "audit2allow makes a module of that"
        )
        fix: Fix | None = Fix(("ausearch", "-m", "avc", "-ts", "recent"))
    elif code == errno.EACCES and apparmor:
        advice = "AppArmor: add the rule 'network smc stream,' to the profile"
        fix = None
    elif seccomp and unit:
        allowed = _allowed_families(unit)
        evidence += f" with RestrictAddressFamilies={allowed}" if allowed else ""
        advice = "systemd: add AF_SMC to RestrictAddressFamilies= of the service and restart it"
        fix = Fix(("systemctl", "edit", unit))
    elif seccomp:
        advice = (
            "the seccomp profile refuses socket(AF_SMC): let it allow address family 43 "
            "(--security-opt seccomp=PROFILE for docker and podman)"
        )
        fix = None
    elif container:
        advice = "run the same outside the container to see whether it is the container"
        fix = None
    else:
        advice = "look for a security module or a BPF program (bpftool prog) that refuses sockets"
        fix = None
    yield Finding("confinement", Status.PROBLEM, evidence, advice, fix)


def _status(root: Path, key: str) -> str:
    """A field of /proc/self/status."""
    found = re.search(rf"^{key}:\s*(\S+)", read(root / "proc/self/status") or "", re.MULTILINE)
    return found[1] if found else ""


def container_kind(root: Path) -> str:
    """The kind of container that this process is in: "docker", "podman", ...; "" if none shows."""
    for path, kind in (("run/.containerenv", "podman"), (".dockerenv", "docker")):
        if os.path.exists(root / path):  # False, not an error, where nobody may look
            return kind
    # What systemd leaves for those who cannot read the environment of process 1.
    if systemd := read(root / "run/systemd/container"):
        return systemd
    for path in ("proc/1/cgroup", "proc/self/cgroup"):
        if found := re.search(r"kubepods|docker|lxc|libpod|containerd", read(root / path) or ""):
            return found[0]
    return ""


def _selinux(root: Path) -> str:
    """The context of this process if SELinux is enforcing, else ""."""
    if read(root / "sys/fs/selinux/enforce") != "1":
        return ""
    return (read(root / "proc/self/attr/current") or "unknown context").rstrip("\0")


def _apparmor(root: Path) -> str:
    """The AppArmor profile that confines this process, "" for none."""
    if read(root / "sys/module/apparmor/parameters/enabled") != "Y":
        return ""
    profile = (read(root / "proc/self/attr/apparmor/current") or "").rstrip("\0")
    return "" if profile == "unconfined" else profile


def _unit(root: Path) -> str:
    """The systemd service that this process belongs to, "" for none."""
    found = re.findall(r"/([^/]+\.service)\b", read(root / "proc/self/cgroup") or "")
    # Of a user's session it is the service of the user manager, which confines nobody.
    return next((unit for unit in reversed(found) if not unit.startswith("user@")), "")


def _allowed_families(unit: str) -> str:
    command = ["systemctl", "show", "--value", "--property=RestrictAddressFamilies", unit]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
