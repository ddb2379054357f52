"""A kernel whose module smc is not loaded: found out once, and noticed when it comes."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import VM_MODE, Presentation
from test_smc_info import run_kmod

import smcsock
from smcsock import DiagUnavailableError, Mode, SMCUnsupportedError, _opening
from smcsock._kernel import _sock_diag
from smcsock._kernel._machine import module_state

HELPER = Path("/proc/sys/kernel/modprobe")
"""The program that the kernel runs to have a module loaded."""

LIMIT = 60.0


@pytest.fixture(autouse=True)
def modprobes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Takes the kernel its SMC; tells how often the kernel looked for a module since."""
    if VM_MODE not in ("tcp", "none"):
        pytest.skip("takes the guest its SMC, in mode tcp, where nothing of it is set up")
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(0o755)
    log, helper = tmp_path / "log", tmp_path / "modprobe"
    log.touch()
    helper.write_text(f'#!/bin/sh\necho "$*" >> {log}\nexit 1\n')
    helper.chmod(0o755)
    before = HELPER.read_text()
    HELPER.write_text(str(helper))
    try:
        unload("smc_diag")
        unload("smc")
        monkeypatch.setattr(_opening, "_was_lacking", None)
        monkeypatch.setattr(_sock_diag, "_was_lacking", False)
        monkeypatch.delenv("SMCSOCK_FALLBACK", raising=False)
        yield lambda: len(log.read_text().splitlines())
    finally:
        HELPER.write_text(before)
        if VM_MODE != "none":
            run_kmod("modprobe", "smc")
            run_kmod("modprobe", "smc_diag")


def unload(module: str) -> None:
    deadline = time.monotonic() + LIMIT
    while module_state(Path("/"), module) == "loaded":
        # Sockets that were closed hold it for a while.
        with contextlib.suppress(subprocess.CalledProcessError):
            run_kmod("rmmod", module)
            return
        assert time.monotonic() < deadline, f"{module} stays in use"
        time.sleep(0.1)


def test_the_kernel_looks_for_the_module_once(
    presentation: Presentation, modprobes: Callable[[], int]
) -> None:
    for _ in range(3):
        with presentation.open(fallback="tcp") as sock:
            assert sock.fell_back()
        with pytest.raises(SMCUnsupportedError):
            presentation.open(fallback="error")
    assert modprobes() == 1


def test_the_child_of_a_fork_knows(
    presentation: Presentation, modprobes: Callable[[], int]
) -> None:
    presentation.open(fallback="tcp").close()
    pid = os.fork()
    if pid == 0:
        presentation.open(fallback="tcp").close()
        os._exit(0)
    assert os.waitpid(pid, 0) == (pid, 0)
    assert modprobes() == 1


def test_adopted_tcp_sockets_do_not_ask_again(
    presentation: Presentation, modprobes: Callable[[], int]
) -> None:
    for _ in range(3):
        with (
            presentation.tcp_socket() as tcp,
            smcsock.fromfd(tcp.fileno(), fallback="tcp") as same,
        ):
            assert same.smc_info().mode is Mode.TCP
    assert modprobes() == 1


def test_has_smc_asks_the_kernel(modprobes: Callable[[], int]) -> None:
    assert not smcsock.has_smc()
    assert not smcsock.has_smc()
    assert modprobes() == 2


@pytest.mark.skipif(VM_MODE == "none", reason="no module can be loaded here")
def test_a_module_that_is_loaded_later_is_noticed(presentation: Presentation) -> None:
    presentation.open(fallback="tcp").close()
    run_kmod("modprobe", "smc")
    with presentation.open(fallback="error") as sock:
        domain = sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
        assert domain == smcsock.AF_SMC
    assert smcsock.has_smc()


@pytest.mark.skipif(VM_MODE == "none", reason="no module can be loaded here")
def test_the_kernel_looks_for_smc_diag_once(
    presentation: Presentation, modprobes: Callable[[], int]
) -> None:
    run_kmod("modprobe", "smc")
    with presentation.open() as sock:
        for _ in range(3):
            with pytest.raises(DiagUnavailableError):
                sock.smc_info()
            with pytest.raises(DiagUnavailableError):
                list(_sock_diag.each_record())
        assert modprobes() == 1
        run_kmod("modprobe", "smc_diag")
        assert sock.smc_info().mode is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        sock.smc_info()
