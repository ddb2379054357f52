"""What the tests run on, and sockets of every presentation.

The same tests run everywhere. In a guest (tests/vm) the sockets are SMC sockets of
a real kernel, and a kernel without SMC is a failure. On a host whose kernel has no
SMC they are the TCP sockets of ``fallback="tcp"``, and tests of SMC itself, which
ask for the fixture ``smc_mode``, are skipped.
"""

import contextlib
import os
import platform
import re
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import smcsock
from smcsock import AF_SMC, SMCPROTO_SMC, SMCPROTO_SMC6, Mode

VM_MODE = os.environ.get("SMCSOCK_VM_MODE")
VM_KERNEL = os.environ.get("SMCSOCK_VM_KERNEL")
EXPECTED_MODE = {"smcd": Mode.SMCD, "smcr": Mode.SMCR, "tcp": Mode.TCP}

LONGEST = 600
"""Seconds that no test takes."""

# Linux 6.12 forgets why a connect without blocking came to nothing, 7.2 does not.
KEEPS_CONNECT_ERRORS = tuple(map(int, re.findall(r"\d+", platform.release())[:2])) >= (7, 2)

# An emulated guest takes seconds to start a Python; few tests of processes need its kernel.
slow = pytest.mark.skipif(VM_MODE not in (None, "smcd"), reason="slow, and shown elsewhere")
on_host = pytest.mark.skipif(VM_MODE is not None, reason="the kernel does not matter")

if VM_MODE not in EXPECTED_MODE and not smcsock.has_smc():
    os.environ["SMCSOCK_FALLBACK"] = "tcp"

# A shell's background jobs ignore Ctrl-C and Ctrl-\, and so would what the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@dataclass(frozen=True)
class Presentation:
    """How a socket is opened and presents itself; inet is the family of its addresses."""

    name: str
    family: int
    proto: int
    inet: int
    host: str

    def open(self, **kwargs: Any) -> smcsock.socket:
        return smcsock.socket(self.family, socket.SOCK_STREAM, self.proto, **kwargs)

    def expected_mode(self, mode: Mode) -> Mode:
        """The mode of a loopback connection where ``mode`` is that of an IPv4 one.

        Soft-RoCE offers SMC-Rv2 only, which Linux does over IPv4 alone.
        """
        return Mode.TCP if mode is Mode.SMCR and self.inet == socket.AF_INET6 else mode

    def tcp_socket(self) -> socket.socket:
        """The oracle: a standard library socket for the same addresses."""
        return socket.socket(self.inet, socket.SOCK_STREAM)

    def listener(self, backlog: int = 128) -> smcsock.socket:
        sock = self.open()
        sock.bind((self.host, 0))
        sock.listen(backlog)
        return sock

    @contextlib.contextmanager
    def pair(self) -> Iterator[tuple[smcsock.socket, smcsock.socket]]:
        """A connected client and the accepted socket of its connection."""
        with self.listener() as listener, self.open() as client:
            client.connect(listener.getsockname())
            server, _ = listener.accept()
            with server:
                yield client, server


SMC = Presentation("smc", AF_SMC, SMCPROTO_SMC, socket.AF_INET, "127.0.0.1")
SMC6 = Presentation("smc6", AF_SMC, SMCPROTO_SMC6, socket.AF_INET6, "::1")
INET = Presentation("inet", socket.AF_INET, 0, socket.AF_INET, "127.0.0.1")
INET6 = Presentation("inet6", socket.AF_INET6, 0, socket.AF_INET6, "::1")


@pytest.fixture(params=[SMC, SMC6, INET, INET6], ids=lambda p: p.name)
def presentation(request: pytest.FixtureRequest) -> Presentation:
    result = request.param
    assert isinstance(result, Presentation)
    return result


@pytest.fixture
def pair(presentation: Presentation) -> Iterator[tuple[smcsock.socket, smcsock.socket]]:
    with presentation.pair() as sockets:
        yield sockets


@pytest.fixture(scope="session")
def smc_mode() -> Mode:
    """The mode that connections over loopback have here; skips where there is no SMC."""
    if VM_MODE in EXPECTED_MODE:
        if not smcsock.has_smc():
            pytest.fail(f"the guest was set up for {VM_MODE} but its kernel has no SMC")
        return EXPECTED_MODE[VM_MODE]
    if not smcsock.has_smc():
        pytest.skip("this kernel has no SMC: run the tests in a guest, tests/vm")
    with SMC.pair() as (client, _):
        mode = client.smc_info().mode
    assert mode is not None
    return mode


@pytest.fixture(autouse=True)
def no_default_timeout() -> Iterator[None]:
    """Tests may set the default timeout: it does not outlive them."""
    yield
    socket.setdefaulttimeout(None)


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Ends a call of the main thread that would block for ever."""

    def fail(*_: object) -> None:
        pytest.fail(f"not over after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def no_endless_wait() -> Iterator[None]:
    """For tests without a limit of their own, which takes the alarm from this one."""
    with time_limit(LONGEST):
        yield


@pytest.fixture(autouse=True)
def no_sharing_thread() -> Iterator[None]:
    """What multiprocessing starts to send a descriptor: from 3.15 on a fork would warn of it."""
    yield
    if sharer := sys.modules.get("multiprocessing.resource_sharer"):
        sharer.stop(timeout=60)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Why a test was repeated: pytest-rerunfailures names it only."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"repeated: {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)
        for title, text in report.sections:
            terminalreporter.write_line(f"{title}: {text}")
