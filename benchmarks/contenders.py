"""What is compared: ways to use a stream socket from Python, as the code one writes.

They are source text, compiled into the loops that run them, so that nothing but the
contender's own calls is between those loops and the kernel.
"""

import errno
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import smcsock

BASELINE = "IPPROTO_SMC"
CONTROL = "IPPROTO_SMC again"
"""The baseline a second time: what it is off by is noise."""
TCP = "TCP"
RUN = "run"


@dataclass(frozen=True)
class Contender:
    name: str
    what: str
    open: str
    bind: str = "sock.bind(address)"
    connect: str = "sock.connect(address)"
    accept: str = "conn, peer = listener.accept()"
    installs: bool = False
    reports: bool = False

    def installed(self) -> AbstractContextManager[None]:
        """What is in force while its calls are made: as 'smcsock run' has it, or nothing."""
        if not self.installs:
            return nullcontext()
        return smcsock.installed(report=smcsock.Report() if self.reports else None)

    @property
    def is_smc(self) -> bool:
        return self.name != TCP

    def compile(self, template: str) -> dict[str, Callable[..., Any]]:
        """The functions of a template with this contender's calls filled in."""
        namespace: dict[str, Any] = {}
        source = template.format(
            open=self.open, bind=self.bind, connect=self.connect, accept=self.accept
        )
        exec(compile(source, f"<{self.name}>", "exec"), namespace)
        return namespace


_PLAIN = "socket.socket(socket.AF_INET, socket.SOCK_STREAM{})"

ALL = [
    Contender("smcsock", "smcsock.socket()", "smcsock.socket()"),
    Contender(
        "smcsock INET",
        "smcsock.socket(AF_INET)",
        "smcsock.socket(socket.AF_INET, socket.SOCK_STREAM)",
    ),
    Contender(
        BASELINE, "socket.socket with IPPROTO_SMC", _PLAIN.format(f", {smcsock.IPPROTO_SMC}")
    ),
    Contender(CONTROL, "the same once more", _PLAIN.format(f", {smcsock.IPPROTO_SMC}")),
    Contender(TCP, "socket.socket over TCP", _PLAIN.format("")),
    Contender(RUN, "socket.socket under 'smcsock run'", _PLAIN.format(""), installs=True),
    Contender(
        f"{RUN} --report",
        "the same with --report",
        _PLAIN.format(""),
        installs=True,
        reports=True,
    ),
    Contender(
        "ctypes",
        "socket.socket with AF_SMC, and libc's bind, connect and accept",
        f"socket.socket({smcsock.AF_SMC}, socket.SOCK_STREAM, 0)",
        "seed.bind(sock, host, port)",
        "seed.connect(sock, host, port)",
        "conn, peer = seed.accept(listener)",
    ),
]


def available() -> list[Contender]:
    """Those that this kernel has."""
    if _has_ipproto_smc():
        return ALL
    return [c for c in ALL if c.name not in (BASELINE, CONTROL)]


def _has_ipproto_smc() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, smcsock.IPPROTO_SMC).close()
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT:
            return False
        raise
    return True
