"""Whether the kernel has SMC: its configuration, the modules, the socket family."""

import contextlib
import errno
import gzip
import os
import re
from collections.abc import Iterator
from pathlib import Path

from .. import _smcsock
from .._kernel._errors import DiagUnavailableError
from .._kernel._machine import LOADED, entries, has_dibs, module_state, read
from .._socket import socket
from ._confinement import container_kind
from ._finding import Finding, Fix, Machine, Status

__all__ = ["check_diag", "check_family", "check_kernel", "check_module", "configuration"]

_FIRST = (4, 11)
"""The Linux that SMC came with."""

_OPTION = re.compile(r"^(CONFIG_\w+)=(.*)$", re.MULTILINE)

_SHOWN = ("CONFIG_SMC", "CONFIG_SMC_DIAG", "CONFIG_SMC_LO", "CONFIG_DIBS", "CONFIG_DIBS_LO")

# Where modprobe.d(5) says that modprobe looks, in its order.
_MODPROBE_D = (
    "etc/modprobe.d",
    "run/modprobe.d",
    "usr/local/lib/modprobe.d",
    "usr/lib/modprobe.d",
    "lib/modprobe.d",
)


def check_kernel(machine: Machine) -> Iterator[Finding]:
    """The version of Linux, and what of SMC it was built with."""
    name = f"Linux {machine.release} {machine.architecture}"
    found = re.match(r"(\d+)\.(\d+)", machine.release)
    if found and (int(found[1]), int(found[2])) < _FIRST:
        yield Finding(
            "kernel",
            Status.PROBLEM,
            f"{name}: SMC came with Linux 4.11",
            "run a newer kernel",
        )
        return
    config, source = machine.config, machine.config_source
    if config is None:
        has_smc = machine.has_module or machine.modules["smc"] == "not loaded"
        detail = "has SMC" if has_smc else f"none of {source} to tell more"
        yield Finding("kernel", Status.OK if has_smc else Status.UNKNOWN, f"{name}; {detail}")
        return
    shown = ", ".join(f"{key}={config[key]}" for key in _SHOWN if key in config)
    if not machine.is_built_without_smc:
        yield Finding("kernel", Status.OK, f"{name}: {shown or 'CONFIG_SMC'} ({source})")
        return
    lacking = [key for key in ("CONFIG_INFINIBAND", "CONFIG_INET") if key not in config]
    if has_dibs(machine.release):
        lacking += [key for key in ("CONFIG_DIBS",) if key not in config]
    needed = f", which needs {' and '.join(lacking)} as well" if lacking else ""
    static = "" if "CONFIG_MODULES" in config else "; nor can it load modules (CONFIG_MODULES)"
    yield Finding(
        "kernel",
        Status.PROBLEM,
        f"{name} was built without CONFIG_SMC{static} ({source})",
        f"boot a kernel with CONFIG_SMC=m{needed}: {_other_kernel(machine)}",
    )


def _other_kernel(machine: Machine) -> str:
    """Where to get a kernel with SMC."""
    if machine.architecture in ("s390x", "s390"):
        return "those of RHEL, SLES and Ubuntu for IBM Z have it"
    if any(part in machine.release for part in ("cloud", "azure", "aws", "gcp", "kvm")):
        return "try the distribution's generic kernel instead of the one for this cloud"
    return (
        "Debian's linux-image-amd64 has it (6.1 and 6.12); a container has the kernel of its host, "
        "a virtual machine its own"
    )


def configuration(root: Path, release: str) -> tuple[dict[str, str] | None, str]:
    """The options of the running kernel and the file that has them, or where it was not."""
    paths = (
        "proc/config.gz",
        f"boot/config-{release}",
        f"lib/modules/{release}/config",
        f"usr/lib/modules/{release}/config",
    )
    for path in paths:
        with contextlib.suppress(OSError, EOFError):
            data = (root / path).read_bytes()
            if path.endswith(".gz"):
                data = gzip.decompress(data)
            return dict(_OPTION.findall(data.decode(errors="replace"))), f"/{path}"
    return None, ", ".join(f"/{path}" for path in paths[:3])


def check_module(machine: Machine) -> Iterator[Finding]:
    """Whether the module smc is loaded, and if not, what stands in the way."""
    state = machine.modules["smc"]
    if machine.has_module:
        detail = state if state in LOADED else "loaded, as far as this process can see"
        yield Finding("module smc", Status.OK, detail)
        return
    if machine.is_built_without_smc:
        yield Finding("module smc", Status.SKIPPED, "this kernel was built without it")
        return
    forbidden = _forbidden(machine)
    where = container_kind(machine.root)
    if state == "unknown":
        yield Finding(
            "module smc",
            Status.UNKNOWN,
            "neither /sys/module nor /proc/modules may be read here",
            "look for smc in what lsmod shows, as root and outside of what confines this process",
        )
    elif state == "not found":
        yield _module_not_found(machine, where)
    elif (read(machine.root / "proc/sys/kernel/modules_disabled") or "0") != "0":
        yield Finding(
            "module smc",
            Status.PROBLEM,
            "installed, but no module can be loaded any more (kernel.modules_disabled = 1)",
            "have smc loaded at boot before that is set, and boot again: a line 'smc' in "
            "/etc/modules-load.d/smc.conf",
        )
    elif forbidden is not None:
        line, fix, advice = forbidden
        yield Finding(
            "module smc", Status.PROBLEM, f"installed, but may not be loaded: {line}", advice, fix
        )
    else:
        on_host = f" on the host of this container ({where})" if where else ""
        yield Finding(
            "module smc",
            Status.PROBLEM,
            "installed, not loaded, and the kernel did not load it when asked for AF_SMC",
            f"load it, as root{on_host}; at every boot by a line 'smc' in "
            "/etc/modules-load.d/smc.conf",
            Fix(("modprobe", "smc"), is_safe=not where),
        )


def _module_not_found(machine: Machine, container: str) -> Finding:
    directory = machine.root / "lib/modules" / machine.release
    if container:
        return Finding(
            "module smc",
            Status.PROBLEM,
            f"not loaded; this is a container ({container}), whose kernel is that of its host",
            "load it on the host: 'modprobe smc' there, as root",
        )
    if not entries(directory):
        return Finding(
            "module smc",
            Status.PROBLEM,
            f"not loaded, and there is no /lib/modules/{machine.release} to load it from",
            "after an update of the kernel package, boot again; else install the modules of "
            "this kernel, if it can load any",
        )
    fix = None
    if "ubuntu" in _distribution(machine.root):
        fix = Fix(("apt-get", "install", f"linux-modules-extra-{machine.release}"))
    return Finding(
        "module smc",
        Status.PROBLEM,
        f"not in /lib/modules/{machine.release}",
        "install the package with the full set of this kernel's modules (linux-image-* on "
        "Debian, linux-modules-extra-* on Ubuntu), or another kernel",
        fix,
    )


def _distribution(root: Path) -> list[str]:
    """What /etc/os-release calls the distribution, and what it is like."""
    text = read(root / "etc/os-release") or ""
    return re.findall(r"[\w.-]+", " ".join(re.findall(r"^ID(?:_LIKE)?=(.*)$", text, re.MULTILINE)))


def _forbidden(machine: Machine) -> tuple[str, Fix | None, str] | None:
    """What forbids to load the module: the line, a command if one helps, and advice."""
    for option in (read(machine.root / "proc/cmdline") or "").split():
        key, _, value = option.partition("=")
        if "smc" not in value.split(","):
            continue
        if key == "module_blacklist":
            advice = "take smc out of that option of the kernel command line and boot again"
            return f"{option} on the kernel command line", None, advice
        if key == "modprobe.blacklist":
            advice = "load it by hand; take smc out of that option if it shall load by itself"
            return f"{option} on the kernel command line", Fix(("modprobe", "smc")), advice
    for path, number, words in _modprobe_lines(machine.root):
        if words[:2] == ["install", "smc"]:
            return (
                f"'{' '.join(words)}' in {path}, line {number}",
                Fix(("modprobe", "--ignore-install", "smc")),
                "remove that line if nothing speaks for it; the command loads it all the same",
            )
        if words[:2] == ["blacklist", "smc"]:
            return (
                f"'{' '.join(words)}' in {path}, line {number}",
                Fix(("modprobe", "smc")),
                "remove that line if nothing speaks for it; the command loads it all the same",
            )
    return None


def _modprobe_lines(root: Path) -> Iterator[tuple[str, int, list[str]]]:
    """The lines of modprobe's configuration: file, number, words."""
    seen = set()
    for directory in _MODPROBE_D:
        for path in entries(root / directory):
            # A file hides those of the same name in the directories that come later.
            if path.suffix == ".conf" and path.name not in seen:
                seen.add(path.name)
                for number, line in enumerate((read(path) or "").splitlines(), 1):
                    yield f"/{directory}/{path.name}", number, line.replace("-", "_").split()


def check_family(machine: Machine) -> Iterator[Finding]:
    """Whether this process can open sockets of AF_SMC."""
    if machine.refusal is None:
        offered = ["IPv4", *(["IPv6"] if _opens_ipv6() else [])]
        yield Finding("AF_SMC", Status.OK, f"sockets open ({', '.join(offered)})")
        return
    name = errno.errorcode.get(machine.refusal.errno or 0, "?")
    evidence = f"socket(AF_SMC) fails with {name}: {os.strerror(machine.refusal.errno or 0)}"
    if machine.refusal.errno not in (errno.EAFNOSUPPORT, errno.EPERM, errno.EACCES):
        yield Finding("AF_SMC", Status.UNKNOWN, evidence, "free descriptors or memory, try again")
    elif not machine.has_module:
        lacking = "SMC" if machine.is_built_without_smc else "the module"
        yield Finding(
            "AF_SMC", Status.PROBLEM, evidence, f"it is {lacking} that is missing: see above"
        )
    else:
        yield Finding(
            "AF_SMC",
            Status.PROBLEM,
            f"{evidence}, though the kernel has SMC",
            "something confines this process: see the next line",
        )


def _opens_ipv6() -> bool:
    try:
        os.close(_smcsock.socket(1, _smcsock.SMCPROTO_SMC6))
    except OSError:
        return False
    return True


def check_diag(machine: Machine) -> Iterator[Finding]:
    """Whether smc_diag answers, by which smc_info() and smcss tell what a connection is."""
    if machine.refusal is not None:
        yield Finding("smc_diag", Status.SKIPPED, "there are no SMC sockets to ask about")
        return
    try:
        with socket(fallback="error") as sock:
            sock.smc_info()
    except DiagUnavailableError:
        state = module_state(machine.root, "smc_diag")
        advice = "without it SMC works, but nobody can see whether it does and why not"
        fix = Fix(("modprobe", "smc_diag"), is_safe=True) if state == "not loaded" else None
        yield Finding("smc_diag", Status.WARNING, f"does not answer; module: {state}", advice, fix)
    except OSError as error:
        yield Finding(
            "smc_diag",
            Status.WARNING,
            f"cannot be asked: {error.strerror}",
            "what confines this process may forbid netlink sockets (AF_NETLINK)",
        )
    else:
        yield Finding("smc_diag", Status.OK, "answers")
