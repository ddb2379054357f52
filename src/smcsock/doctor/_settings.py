"""Settings of the kernel that make SMC slow, or turn it off."""

from collections.abc import Iterator

from .._kernel._machine import read, sysctls
from .._smcsock import SMC_LIMIT_HS, SOL_SMC
from .._socket import socket
from ._finding import Finding, Fix, Machine, Status

__all__ = [
    "check_buffers",
    "check_control",
    "check_limitation",
    "check_syn_cookies",
    "forces_syn_cookies",
    "handshake_control",
    "limits_handshakes",
]

_DEFAULT = 65536
"""Of net.smc.rmem and wmem, in bytes (net/smc/smc_sysctl.c)."""

_CONTIGUOUS = 4 << 20
"""The largest piece of memory that a kernel with pages of 4 KiB gives out whole."""


def check_buffers(machine: Machine) -> Iterator[Finding]:
    """The sizes of the buffers, net.smc.rmem and net.smc.wmem."""
    values = sysctls(machine.root)
    if values is None:
        reason = "there is no net.smc here" if machine.has_module else "they come with the module"
        yield Finding("sysctls", Status.SKIPPED, reason)
        return
    evidence = ", ".join(
        f"net.smc.{name} = {value}" for name, value in values.items() if value != ""
    )
    sizes = {name: values[name] for name in ("rmem", "wmem") if isinstance(values.get(name), int)}
    for name, size in sizes.items():
        if int(size) < _DEFAULT:
            yield Finding(
                "sysctls",
                Status.WARNING,
                evidence,
                f"net.smc.{name} is below the kernel's default: SMC works, but slowly",
                Fix(("sysctl", "-w", f"net.smc.{name}={_DEFAULT}")),
            )
            return
    if values.get("smcr_buf_type") == 0 and any(int(size) > _CONTIGUOUS for size in sizes.values()):
        yield Finding(
            "sysctls",
            Status.WARNING,
            evidence,
            "buffers of SMC-R that have to be contiguous are seldom to be had this large; those "
            "of type 2 need not be",
            Fix(("sysctl", "-w", "net.smc.smcr_buf_type=2")),
        )
        return
    yield Finding("sysctls", Status.OK, evidence)


def check_control(machine: Machine) -> Iterator[Finding]:
    """A BPF program that has a say in which connections may be SMC (Linux 6.19)."""
    if name := handshake_control(machine):
        yield Finding(
            "handshake control",
            Status.WARNING,
            f"net.smc.hs_ctrl = {name}: a BPF program decides which connections may be SMC",
            "turn it off to see whether connections are TCP for that",
            Fix(("sysctl", "-w", "net.smc.hs_ctrl=")),
        )


def handshake_control(machine: Machine) -> str | None:
    """The BPF program of net.smc.hs_ctrl; None or "" where there is none."""
    return read(machine.root / "proc/sys/net/smc/hs_ctrl")


def check_limitation(machine: Machine) -> Iterator[Finding]:
    """The limitation of handshakes: under load the kernel answers as a host without SMC."""
    limited = limits_handshakes(machine)
    if limited is None:
        yield Finding("handshake limitation", Status.SKIPPED, "not to be had from this kernel")
    elif limited:
        yield Finding(
            "handshake limitation",
            Status.WARNING,
            "on: while many handshakes are under way, new connections to this machine are TCP",
            "turn it off if SMC matters more than the time to connect; it is for sockets opened "
            "from then on",
            Fix(("smcsock", "hs-limit", "disable"), is_safe=machine.has_diag),
        )
    else:
        yield Finding("handshake limitation", Status.OK, "off")


def limits_handshakes(machine: Machine) -> bool | None:
    """Whether new sockets limit handshakes; None if that is not to be had (Linux 5.18)."""
    if machine.refusal is not None:
        return None
    try:
        with socket(fallback="error") as sock:
            return bool(sock.getsockopt(SOL_SMC, SMC_LIMIT_HS))
    except OSError:
        return None


def forces_syn_cookies(machine: Machine) -> bool:
    """Whether every SYN is answered with a cookie, which has no room for the SMC option."""
    return read(machine.root / "proc/sys/net/ipv4/tcp_syncookies") == "2"


def check_syn_cookies(machine: Machine) -> Iterator[Finding]:
    """SYN cookies: a connection that is accepted by one cannot be SMC (tcp_conn_request)."""
    value = read(machine.root / "proc/sys/net/ipv4/tcp_syncookies")
    evidence = f"net.ipv4.tcp_syncookies = {value}"
    if forces_syn_cookies(machine):
        yield Finding(
            "SYN cookies",
            Status.PROBLEM,
            f"{evidence}: every connection to this machine is accepted without SMC",
            "2 is for tests of cookies; 1 sends them when a backlog overflows",
            Fix(("sysctl", "-w", "net.ipv4.tcp_syncookies=1")),
        )
    elif value is not None:
        more = ": only when a backlog overflows; such connections are TCP" if value == "1" else ""
        yield Finding("SYN cookies", Status.OK, evidence + more)
