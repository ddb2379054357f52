"""What a check finds, and the machine that the checks look at."""

import shlex
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from .._kernel._machine import LOADED, RoceDevice, SmcdDevice
from .._kernel._smc_info import Mode, SmcInfo

__all__ = ["Connection", "Finding", "Fix", "Machine", "Status"]


class Status(StrEnum):
    """What a check came to."""

    OK = "ok"
    PROBLEM = "problem"
    WARNING = "warning"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Fix:
    """A command that fixes a problem, word by word; it runs without a shell.

    ``is_safe`` says that it adds something that the machine lacks and takes nothing
    away, so that a program may run it when the user agrees. Others are for people:
    they may contain a NAME in capitals that only the user knows.
    """

    command: tuple[str, ...]
    is_safe: bool = False

    def __str__(self) -> str:
        return shlex.join(self.command)


@dataclass(frozen=True)
class Finding:
    """The result of one check: what was seen, what to do, and the command that does it."""

    name: str
    status: Status
    evidence: str
    advice: str = ""
    fix: Fix | None = None


@dataclass(frozen=True)
class Connection:
    """A connection that was made to find out.

    ``target`` is the address as text, ``is_local`` says that both ends were doctor's
    own: then ``server`` is the accepting end's record. ``mode`` is None where there
    was no connection, or no smc_diag to tell SMC-D from SMC-R; ``is_smc`` is None only
    without a connection. ``error`` says why there was none, or no accepting end.
    """

    target: str
    is_local: bool
    is_smc: bool | None = None
    client: SmcInfo | None = None
    server: SmcInfo | None = None
    error: str | None = None

    @property
    def mode(self) -> Mode | None:
        """How it carried its data, as far as known."""
        if self.client is not None:
            return self.client.mode
        return Mode.TCP if self.is_smc is False else None

    @property
    def is_ipv6(self) -> bool:
        """Whether the target is an IPv6 address."""
        return self.target.count(":") > 1


@dataclass(frozen=True)
class Machine:
    """What the checks look at; ``root`` is where proc, sys, etc, boot and lib are.

    ``refusal`` is what opening an SMC socket gave, None if it opened. ``ueid`` is the
    enterprise ID that the user would give this machine. ``config`` is the kernel's
    configuration, None if it cannot be read; ``config_source`` says where it
    was. What has to be asked over generic netlink is None where it could not be;
    ``no_netlink`` says why.
    """

    root: Path
    release: str
    architecture: str
    refusal: OSError | None
    modules: dict[str, str]
    smcd_devices: list[SmcdDevice]
    roce_devices: list[RoceDevice]
    config: dict[str, str] | None
    config_source: str
    ueid: str | None = None
    here: list[Connection] = field(default_factory=list)
    has_diag: bool = True
    no_netlink: str = ""
    ueids: tuple[str, ...] | None = None
    seid: tuple[str, bool] | None = None
    pnetids: tuple[str, ...] | None = None
    has_smcd: bool | None = None

    @property
    def has_module(self) -> bool:
        """Whether the kernel has SMC now, whether or not this process may use it."""
        return self.refusal is None or self.modules["smc"] in LOADED

    @property
    def is_built_without_smc(self) -> bool:
        """Whether it is known that this kernel cannot have SMC."""
        return (
            not self.has_module
            and self.config is not None
            and self.config.get("CONFIG_SMC") not in ("y", "m")
        )

    @property
    def usable_roce(self) -> list[RoceDevice]:
        """The RDMA ports that SMC-R can use."""
        return [
            device
            for device in self.roce_devices
            if device.state == "ACTIVE" and device.link_layer == "Ethernet" and device.interfaces
        ]

    @property
    def has_device(self) -> bool:
        """Whether a device for SMC is known, in whatever state."""
        return bool(self.smcd_devices or self.roce_devices or self.has_smcd)

    def modes_here(self) -> set[Mode]:
        """The modes of the connections within this machine."""
        return {connection.mode for connection in self.here if connection.mode}
