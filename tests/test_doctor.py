"""smcsock doctor: what it finds where SMC works, and where it was made not to.

The faults are real ones of the guest's kernel, each undone at the end of its test.
Only what doctor reads from files is shown to it in a directory.
"""

import contextlib
import ctypes
import errno
import gzip
import json
import os
import pickle
import platform
import re
import resource
import socket
import struct
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import VM_KERNEL, VM_MODE
from handshake_control import no_smc

import smcsock
from smcsock import AF_SMC, Mode, diag
from smcsock.__main__ import main
from smcsock._cli._address import DEFAULT_PORT, split_address
from smcsock._errors import NO_SMC
from smcsock._kernel._machine import RoceDevice, SmcdDevice, smcd_devices
from smcsock.doctor import Finding, Fix, Report, Status, examine
from smcsock.doctor._confinement import check_confinement
from smcsock.doctor._connections import _tcp_reaches, connect_to
from smcsock.doctor._devices import check_devices, check_eids, check_pnetids
from smcsock.doctor._finding import Machine
from smcsock.doctor._kernel import check_kernel, check_module, configuration
from smcsock.doctor._settings import check_buffers, check_control

LIMIT = 120
"""Seconds until what hangs fails."""

RELEASE = "6.12.0"

WORKS, FAILS, USAGE, UNKNOWN = 0, 1, 2, 5
"""Exit status."""


def named(report: Report, name: str) -> Finding:
    """The one finding of that name."""
    (finding,) = (finding for finding in report.findings if finding.name.startswith(name))
    return finding


@contextlib.contextmanager
def changed(path: str, value: str) -> Iterator[None]:
    """A setting of the kernel, for a while."""
    file = Path(path)
    before = file.read_text()
    file.write_text(value)
    try:
        yield
    finally:
        file.write_text(before)


@pytest.fixture(scope="module")
def sound(smc_mode: Mode) -> Report:
    """What doctor says of the guest as it is."""
    return examine()


@pytest.fixture
def no_ueids(smc_mode: Mode) -> Iterator[None]:
    """A kernel without any EID; on IBM Z there is always the system's, if for SMC-D only."""
    before = diag.ueids()
    diag.clear_ueids()
    if diag.seid().enabled:
        restore_ueids(before)
        pytest.skip("has a system EID, which does for SMC-D")
    yield
    restore_ueids(before)


def restore_ueids(names: list[str]) -> None:
    diag.clear_ueids()
    for name in names:
        diag.add_ueid(name)


@pytest.fixture
def listener(smc_mode: Mode) -> Iterator[smcsock.socket]:
    with smcsock.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def port_of(listener: socket.socket) -> int:
    port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port


# ----- where SMC works


def test_smc_works_where_connections_are_smc(smc_mode: Mode, sound: Report) -> None:
    if smc_mode is Mode.TCP:
        pytest.skip("connections here are TCP")
    assert sound.works is True
    assert sound.first_problem is None
    assert sound.summary == f"SMC works: connections within this machine are {smc_mode}"
    ipv4 = sound.connections[0]
    assert (ipv4.target, ipv4.mode, ipv4.is_smc, ipv4.error) == ("127.0.0.1", smc_mode, True, None)
    assert ipv4.client is not None
    assert ipv4.server is not None
    assert ipv4.server.mode is smc_mode
    found = diag.seid()
    system = f"; system EID: {found.name}, enabled" if found.enabled else ""
    assert named(sound, "EIDs").evidence == f"user EIDs: SMCSOCK-VM{system}"


def test_soft_roce_is_a_device_and_ipv6_is_not_for_it(smc_mode: Mode, sound: Report) -> None:
    if smc_mode is not Mode.SMCR:
        pytest.skip("connections here do not use SMC-R")
    assert named(sound, "RoCE device rxe0 port 1").evidence == "ACTIVE, Ethernet, lo"
    ipv4, ipv6 = (found for found in sound.findings if found.name == "connection here")
    assert (ipv4.status, ipv6.status) == (Status.OK, Status.WARNING)
    assert ipv4.evidence.startswith("IPv4: SMC-R by rxe0 port 1")
    assert "connect over IPv4" in ipv6.advice


def test_both_ways_to_a_host_are_shown(smc_mode: Mode, listener: smcsock.socket) -> None:
    report = examine("127.0.0.1", port_of(listener))
    assert report.works is (smc_mode is not Mode.TCP)
    finding = named(report, f"connection to 127.0.0.1:{port_of(listener)}")
    assert finding.evidence.startswith(smc_mode)


def test_exit_status_says_whether_smc_works(
    smc_mode: Mode, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["doctor"])
    output = capsys.readouterr().out
    assert status == (FAILS if smc_mode is Mode.TCP else WORKS)
    last = output.splitlines()[-1]
    assert last.startswith("SMC does not work: " if status else "SMC works: ")


def test_any_user_may_ask(sound: Report) -> None:
    if os.geteuid():
        pytest.skip("needs root, to become another user")
    other = in_child(lambda: os.setuid(65534))
    assert other.works == sound.works
    assert [(found.name, found.status) for found in other.findings] == [
        (found.name, found.status) for found in sound.findings
    ]


# ----- faults


def test_no_device(smc_mode: Mode, listener: smcsock.socket) -> None:
    if smc_mode is not Mode.TCP:
        pytest.skip("there is an SMC device here")
    report = examine("127.0.0.1", port_of(listener))
    assert report.works is False
    assert report.first_problem is not None
    assert report.first_problem.name == "devices"
    here = named(report, "connection here")
    assert here.evidence.startswith("IPv4 and IPv6: client: TCP (0x03030000: ")
    assert "server: TCP (0x05000000: " in here.evidence
    assert "0x03030000" in named(report, "connection to").evidence


def test_no_ueid(smc_mode: Mode, no_ueids: None, listener: smcsock.socket) -> None:
    if smc_mode is Mode.TCP:
        pytest.skip("without a device a user EID changes nothing")
    report = examine("127.0.0.1", port_of(listener), ueid="HERE")
    assert report.works is False
    assert report.first_problem is not None
    assert report.first_problem.name == "EIDs"
    for name in ("EIDs", "connection to"):
        assert named(report, name).status is Status.PROBLEM
        assert named(report, name).fix == Fix(("smcsock", "ueid", "add", "HERE"), is_safe=True)
    # SMC-D is offered but declined by the peer; SMC-R is not even offered.
    says = {Mode.SMCD: "; peer: 0x03030008: ", Mode.SMCR: "TCP (0x03030000: "}[smc_mode]
    assert says in named(report, "connection to").evidence


class NoPyroute2:
    """An importer that has no pyroute2."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pyroute2":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def hide_pyroute2() -> None:
    """As where smcsock was installed without its extra."""
    for name in list(sys.modules):
        if name.split(".")[0] == "pyroute2" or name == "smcsock.diag._messages":
            del sys.modules[name]
    vars(diag).pop("_messages", None)
    sys.meta_path.insert(0, NoPyroute2)


def test_without_the_extra_it_says_what_that_would_tell(smc_mode: Mode) -> None:
    report = in_child(hide_pyroute2)
    assert "pip install 'smcsock[diag]'" in named(report, "EIDs").evidence
    assert report.works is (smc_mode is not Mode.TCP)


def test_without_a_name_to_add_nothing_is_safe_to_run(smc_mode: Mode, no_ueids: None) -> None:
    assert named(examine(), "EIDs").fix == Fix(("smcsock", "ueid", "add", "NAME"))


def test_fix_adds_the_ueid_of_the_user(
    smc_mode: Mode, no_ueids: None, capsys: pytest.CaptureFixture[str]
) -> None:
    if smc_mode is Mode.TCP:
        pytest.skip("without a device a user EID changes nothing")
    status = main(["doctor", "--fix", "--yes", "--ueid", "HERE", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (status, report["works"]) == (WORKS, True)
    assert report["run"] == [["smcsock", "ueid", "add", "HERE"]]
    assert diag.ueids() == ["HERE"]


def test_peer_without_smc(smc_mode: Mode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        report = examine("127.0.0.1", port_of(tcp))
    assert report.works is False
    finding = named(report, "connection to")
    assert finding.evidence == "TCP (0x03010000: the peer did not indicate SMC)"
    assert "use an SMC socket on the peer" in finding.advice


def test_syn_cookies_for_all(smc_mode: Mode) -> None:
    with changed("/proc/sys/net/ipv4/tcp_syncookies", "2"):
        report = examine()
    assert named(report, "SYN cookies").status is Status.PROBLEM
    assert named(report, "SYN cookies").fix == Fix(("sysctl", "-w", "net.ipv4.tcp_syncookies=1"))
    here = named(report, "connection here")
    assert here.evidence == "IPv4 and IPv6: TCP (0x03010000: the peer did not indicate SMC)"
    assert "SYN cookies" in here.advice


def test_device_with_another_pnet_id_than_the_interface(smc_mode: Mode) -> None:
    if smc_mode is not Mode.SMCD:
        pytest.skip("is about devices for SMC-D")
    device = "lo" if Path("/sys/class/dibs").exists() else "loopback-ism"
    try:
        diag.add_pnetid("NET1", interface="lo")
        diag.add_pnetid("NET2", smcd_device=device)
        report = examine()
    finally:
        diag.clear_pnetids()
    expected = f"NET1: interface lo; NET2: device {device} port 1"
    assert named(report, "PNET IDs").evidence == expected
    here = named(report, "connection here")
    assert "no SMC device was found" in here.evidence
    assert "the PNET ID of the network interface" in here.advice


@contextlib.contextmanager
def congested() -> Iterator[None]:
    """Keeps a processor's queue of SMC handshakes full, and all packets on lo with it.

    Clients that nobody answers fill it: 256 at a time (WQ_DFL_ACTIVE; 1024 from Linux 6.15
    on), and then some. The test goes on on another processor, as a client that is on another
    machine does.
    """
    clients = 1040 if VM_KERNEL == "7.x" else 270
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    processors = sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        stack.enter_context(socket.create_connection(full.getsockname()))
        stack.callback(os.sched_setaffinity, 0, processors)
        os.sched_setaffinity(0, {processors[0]})
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2 * clients), limits[1]))
        for _ in range(clients):
            client = stack.enter_context(smcsock.socket())
            client.setblocking(False)
            assert client.connect_ex(full.getsockname()) == errno.EINPROGRESS
        os.sched_setaffinity(0, {processors[1]})
        mask = f"{1 << processors[0]:x}"
        stack.enter_context(changed("/sys/class/net/lo/queues/rx-0/rps_cpus", mask))
        yield


def test_limited_handshakes(smc_mode: Mode) -> None:
    diag.limit_handshakes(True)
    try:
        with smcsock.create_server(("127.0.0.1", 0)) as listener, congested():
            report = examine("127.0.0.1", port_of(listener), timeout=3)
    finally:
        diag.limit_handshakes(False)
    limitation = named(report, "handshake limitation")
    assert limitation.status is Status.WARNING
    assert limitation.fix == Fix(("smcsock", "hs-limit", "disable"), is_safe=True)
    assert report.works is False
    here, there = named(report, "connection here"), named(report, "connection to")
    # What the kernel has to do for accept() is in the same queue.
    assert here.evidence == (
        "IPv4 and IPv6: client: TCP (0x03010000: the peer did not indicate SMC); "
        "server: not accepted: timed out"
    )
    assert here.advice.startswith("handshakes are limited")
    assert there.evidence == "TCP (0x03010000: the peer did not indicate SMC)"
    assert "handshakes are not limited" in there.advice


def test_limited_handshakes_matter_only_under_load(sound: Report) -> None:
    diag.limit_handshakes(True)
    try:
        report = examine()
    finally:
        diag.limit_handshakes(False)
    assert named(report, "handshake limitation").status is Status.WARNING
    assert report.works is sound.works
    assert named(sound, "handshake limitation").status is Status.OK


def test_without_smc_diag_it_is_seen_whether_but_not_what(smc_mode: Mode) -> None:
    if VM_MODE != "smcd":
        pytest.skip("takes unloading a module, which is done in mode smcd only")
    forbidden = Path("/etc/modprobe.d/doctor-test.conf")
    forbidden.write_text("install smc_diag /bin/false\n")
    try:
        subprocess.run(["rmmod", "smc_diag"], check=True)  # modprobe would take smc with it
        report = examine()
    finally:
        forbidden.unlink()
        subprocess.run(["modprobe", "smc_diag"], check=True)
    finding = named(report, "smc_diag")
    assert (finding.status, finding.fix) == (
        Status.WARNING,
        Fix(("modprobe", "smc_diag"), is_safe=True),
    )
    assert report.works is True
    assert named(report, "connection here").evidence == "IPv4 and IPv6: SMC-D or SMC-R"


def in_child(prepare: Callable[[], Any]) -> Report:
    """What doctor says in a process of its own, which does something first."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            prepare()
            os.write(writer, pickle.dumps(examine()))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        data = stream.read()
    assert os.waitpid(pid, 0)[1] == 0
    report = pickle.loads(data)
    assert isinstance(report, Report)
    return report


def refuse_smc(code: int) -> None:
    """A seccomp filter that refuses socket(AF_SMC), as RestrictAddressFamilies= does."""
    number, argument = 0, 16  # of the system call; low half of its first argument
    instructions = (
        (0x20, 0, 0, number),
        (0x15, 0, 3, 41),  # socket
        (0x20, 0, 0, argument),
        (0x15, 0, 1, AF_SMC),
        (0x06, 0, 0, 0x00050000 | code),  # SECCOMP_RET_ERRNO
        (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    )
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(program)
    filter = struct.pack("@HP", len(instructions), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, filter, 0, 0) == 0, os.strerror(ctypes.get_errno())


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EPERM], ids=errno.errorcode.get)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter is written for x86_64")
def test_seccomp_is_told_from_a_kernel_that_has_none(code: int) -> None:
    report = in_child(lambda: refuse_smc(code))
    assert report.works is False
    assert errno.errorcode[code] in named(report, "AF_SMC").evidence
    confinement = named(report, "confinement")
    assert "a seccomp filter" in confinement.evidence
    if smcsock.has_smc():
        assert named(report, "module smc").status is Status.OK
        assert confinement.status is Status.PROBLEM
        assert report.summary == "SMC does not work: this process cannot open SMC sockets"
    else:
        assert confinement.status is Status.UNKNOWN


# ----- a kernel without SMC


def test_a_kernel_without_smc_is_examined_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    if smcsock.has_smc():
        pytest.skip("this kernel has SMC")
    assert main(["doctor", "--json"]) == FAILS
    report = json.loads(capsys.readouterr().out)
    assert report["works"] is False
    assert report["connections"] == []
    findings = {finding["name"]: finding for finding in report["findings"]}
    assert findings["AF_SMC"]["evidence"].startswith("socket(AF_SMC) fails with EAFNOSUPPORT")
    assert {finding["status"] for finding in report["findings"]} <= set(Status)
    first = next(name for name in findings if findings[name]["status"] == "problem")
    assert first in ("kernel", "module smc")


def test_without_smc_tcp_tells_whether_the_host_is_there() -> None:
    if smcsock.has_smc():
        pytest.skip("this kernel has SMC")
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        port = port_of(tcp)
        report = examine("127.0.0.1", port)
    assert report.works is False
    finding = named(report, f"connect 127.0.0.1:{port}")
    assert finding.evidence.startswith(f"TCP connects to 127.0.0.1:{port}")


# ----- hosts that cannot be connected to


def test_host_that_refuses_is_no_matter_of_smc(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        port = port_of(tcp)
    status = main(["doctor", f"127.0.0.1:{port}"])
    output = " ".join(capsys.readouterr().out.split())
    assert "Connection refused" in output
    assert status == (UNKNOWN if smcsock.has_smc() else FAILS)
    if smcsock.has_smc():
        assert "this is not about SMC" in output


def test_name_without_an_address(smc_mode: Mode) -> None:
    report = examine("name.invalid", 4343)
    assert report.works is None
    assert named(report, "name name.invalid").status is Status.PROBLEM


def test_address_of_a_family_that_the_kernel_lacks_is_not_reached() -> None:
    # A name can have IPv6 addresses where the kernel has no IPv6.
    with pytest.raises(OSError, match="not supported"):
        socket.socket(socket.AF_ASH, socket.SOCK_STREAM)
    assert not _tcp_reaches(socket.AF_ASH, ("127.0.0.1", 1), 1)


def test_host_without_a_port_is_an_error() -> None:
    with pytest.raises(ValueError, match="belong together"):
        examine("127.0.0.1")


def test_handshake_that_does_not_end_is_told_from_a_dead_host(smc_mode: Mode) -> None:
    # With the backlog full SMC's listener lets TCP connect and says no more.
    if smc_mode is Mode.TCP:
        pytest.skip("without a device there is no handshake to wait for")
    with (
        smcsock.create_server(("127.0.0.1", 0), backlog=0) as full,
        smcsock.create_connection(full.getsockname()),
    ):
        time.sleep(0.5)  # until the connection is in the backlog
        connection, (finding,) = connect_to("127.0.0.1", port_of(full), 2)
    assert connection is not None
    assert (connection.is_smc, connection.mode) == (None, None)
    assert "yet TCP alone connects" in finding.evidence


# ----- the command line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host", ("host", DEFAULT_PORT)),
        ("host:80", ("host", 80)),
        ("192.0.2.1:80", ("192.0.2.1", 80)),
        ("[2001:db8::1]:80", ("2001:db8::1", 80)),
        ("[2001:db8::1]", ("2001:db8::1", DEFAULT_PORT)),
        ("2001:db8::1", ("2001:db8::1", DEFAULT_PORT)),
        ("::1", ("::1", DEFAULT_PORT)),
        ("fe80::1%eth0", ("fe80::1%eth0", DEFAULT_PORT)),
    ],
)
def test_addresses_are_split(text: str, expected: tuple[str, int]) -> None:
    assert split_address(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":80", "host:", "host:0", "host:65536", "host:http", "[::1", "[::1]80", "[]:80"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        split_address(text)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--yes"], "--yes needs --fix"),
        (["--fix", "--json"], "--fix with --json needs --yes"),
        (["host:0"], "port 0"),
        (["--timeout", "0"], "not a number of seconds"),
        (["--ueid", "lower"], "not an EID: 'lower'"),
        (["a", "b"], "unrecognized arguments: b"),
    ],
)
def test_wrong_usage_is_status_2(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["doctor", *arguments])
    assert raised.value.code == USAGE
    assert error in capsys.readouterr().err


def report_with(*fixes: Fix) -> Report:
    findings = tuple(
        Finding("something", Status.PROBLEM, "is wrong", "mend it", fix) for fix in fixes
    )
    return Report(False, "SMC does not work", findings, ())


@pytest.fixture
def touch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose one problem is gone when a file is there."""
    path = tmp_path / "a file; with $(odd) name"
    fix = Fix(("touch", str(path)), is_safe=True)

    def examine(*_: Any, **__: Any) -> Report:
        return report_with(*([] if path.exists() else [fix]))

    monkeypatch.setattr("smcsock._cli._doctor.examine", examine)
    return path


def test_fix_asks_and_examines_again(
    touch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = []

    def answer(question: str) -> str:
        questions.append(question)
        return "y"

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answer)
    main(["doctor", "--fix"])
    assert touch.exists()
    assert len(questions) == 1
    assert str(touch) in questions[0]
    output = capsys.readouterr().out
    assert output.count("something") == 2  # the finding, and what to begin with
    assert output.count("SMC does not work") == 2  # examined twice


@pytest.mark.parametrize("answer", ["", "n", "nonsense"])
def test_fix_takes_no_for_an_answer(
    touch: Path, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: answer)
    assert main(["doctor", "--fix"]) == FAILS
    assert not touch.exists()


def test_fix_without_a_terminal_does_nothing(
    touch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    assert main(["doctor", "--fix"]) == FAILS
    assert not touch.exists()
    assert "--fix needs --yes" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["stdin", "stdout"])
def test_fix_cannot_ask_with_a_closed_stream(
    name: str, touch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with monkeypatch.context() as context:
        context.setattr(sys, name, None)
        assert main(["doctor", "--fix"]) == FAILS
    assert not touch.exists()
    assert "--fix needs --yes" in capsys.readouterr().err


def test_fix_that_is_a_command_of_ours_may_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fix = Fix(("smcsock", "ueid", "del", "NOT-THERE"), is_safe=True)
    monkeypatch.setattr("smcsock._cli._doctor.examine", lambda *_, **__: report_with(fix))
    assert main(["doctor", "--fix", "--yes"]) == FAILS
    output, errors = capsys.readouterr()
    assert "\n+ smcsock ueid del NOT-THERE\n" in output
    why = "the UEID NOT-THERE is not defined" if smcsock.has_smc() else NO_SMC
    assert errors == f"smcsock: 'smcsock ueid del NOT-THERE' failed: {why}\n"


def test_what_fails_is_told_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fixes = (
        Fix(("sh", "-c", "echo no luck >&2; exit 1"), is_safe=True),
        Fix(("no-such-program-as-this",), is_safe=True),
        Fix(("sh", "-c", "echo must not run >&2; exit 1")),
    )
    monkeypatch.setattr("smcsock._cli._doctor.examine", lambda *_, **__: report_with(*fixes))
    assert main(["doctor", "--fix", "--yes"]) == FAILS
    errors = capsys.readouterr().err
    assert errors.count("failed (1): no luck") == 1
    assert "cannot run no-such-program-as-this: No such file or directory" in errors
    assert "must not run" not in errors


def test_commands_of_ours_that_advice_names_exist() -> None:
    source = Path(smcsock.__file__).parent
    texts = [*source.glob("doctor/*.py"), source / "_kernel/_reasons.py"]
    found = {
        match
        for path in texts
        for match in re.findall(
            r"smcsock(?: |\", \")(ueid|seid|hs-limit|pnet)(?: |\", \")(\w+)",
            re.sub(r'"\s*\n\s*"', "", path.read_text()),
        )
    }
    assert {("ueid", "add"), ("seid", "enable"), ("hs-limit", "disable")} <= found
    for command, action in found:
        with pytest.raises(SystemExit) as raised:
            main([command, action, "--help"])
        assert raised.value.code == 0


# ----- what is read from files


def write(path: Path, text: str | bytes = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """An x86_64 machine whose kernel has SMC but nothing else."""
    return Machine(
        root=tmp_path,
        release=RELEASE,
        architecture="x86_64",
        refusal=None,
        modules={"smc": "loaded", "smc_diag": "loaded"},
        smcd_devices=[],
        roce_devices=[],
        config=None,
        config_source="",
        has_smcd=False,
        ueids=(),
        pnetids=(),
    )


@pytest.fixture
def bare(machine: Machine) -> Machine:
    """The same with its module not loaded."""
    refusal = OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    return replace(machine, refusal=refusal, modules=dict.fromkeys(machine.modules, "not loaded"))


@pytest.mark.parametrize(
    ("path", "pack"),
    [
        ("proc/config.gz", gzip.compress),
        (f"boot/config-{RELEASE}", bytes),
        (f"lib/modules/{RELEASE}/config", bytes),
    ],
)
def test_configuration_is_found_and_read(
    bare: Machine, path: str, pack: Callable[[bytes], bytes]
) -> None:
    write(bare.root / path, pack(b"CONFIG_INET=y\nCONFIG_MODULES=y\n# CONFIG_SMC is not set\n"))
    config, source = configuration(bare.root, RELEASE)
    assert (config, source) == ({"CONFIG_INET": "y", "CONFIG_MODULES": "y"}, f"/{path}")
    lacking = replace(
        bare, config=config, config_source=source, modules=dict.fromkeys(bare.modules, "not found")
    )
    (finding,) = check_kernel(lacking)
    assert finding.status is Status.PROBLEM
    assert "built without CONFIG_SMC" in finding.evidence
    assert "CONFIG_INFINIBAND" in finding.advice
    (module,) = check_module(lacking)
    assert module.status is Status.SKIPPED


def test_kernel_older_than_smc(bare: Machine) -> None:
    (finding,) = check_kernel(replace(bare, release="3.10.0-1160.el7.x86_64"))
    assert finding.status is Status.PROBLEM
    assert "4.11" in finding.evidence


def test_module_that_is_there_can_be_loaded(bare: Machine) -> None:
    (finding,) = check_module(bare)
    assert finding.fix == Fix(("modprobe", "smc"), is_safe=True)


@pytest.mark.parametrize(
    ("path", "text", "evidence", "command"),
    [
        (
            "etc/modprobe.d/a.conf",
            "# no\ninstall smc /bin/false\n",
            "'install smc /bin/false' in /etc/modprobe.d/a.conf, line 2",
            "modprobe --ignore-install smc",
        ),
        (
            "usr/lib/modprobe.d/b.conf",
            "blacklist smc\n",
            "'blacklist smc' in /usr/lib/modprobe.d/b.conf, line 1",
            "modprobe smc",
        ),
        (
            "proc/cmdline",
            "quiet modprobe.blacklist=sctp,smc\n",
            "modprobe.blacklist=sctp,smc on the kernel command line",
            "modprobe smc",
        ),
        (
            "proc/cmdline",
            "module_blacklist=smc quiet\n",
            "module_blacklist=smc on the kernel command line",
            None,
        ),
        ("proc/sys/kernel/modules_disabled", "1\n", "kernel.modules_disabled = 1", None),
    ],
)
def test_what_forbids_the_module_is_named_and_not_overridden(
    bare: Machine, path: str, text: str, evidence: str, command: str | None
) -> None:
    write(bare.root / path, text)
    (finding,) = check_module(bare)
    assert evidence in finding.evidence
    assert (str(finding.fix) if finding.fix else None) == command
    assert finding.fix is None or not finding.fix.is_safe


def test_other_modules_may_be_forbidden(bare: Machine) -> None:
    write(bare.root / "etc/modprobe.d/a.conf", "blacklist smc_diag\ninstall smc-x /bin/false\n")
    write(bare.root / "etc/modprobe.d/README", "install smc /bin/false\n")
    (finding,) = check_module(bare)
    assert finding.fix == Fix(("modprobe", "smc"), is_safe=True)


@pytest.mark.parametrize(
    ("path", "text", "advice"),
    [
        (".dockerenv", "", "load it on the host"),
        ("etc/os-release", "", "boot again"),
        (f"lib/modules/{RELEASE}/modules.dep", "", "install the package"),
    ],
)
def test_module_that_is_not_there(bare: Machine, path: str, text: str, advice: str) -> None:
    write(bare.root / path, text)
    (finding,) = check_module(replace(bare, modules={"smc": "not found", "smc_diag": "not found"}))
    assert finding.status is Status.PROBLEM
    assert advice in finding.advice


def test_ubuntu_has_the_module_in_a_package_of_its_own(bare: Machine) -> None:
    write(bare.root / f"lib/modules/{RELEASE}/modules.dep")
    write(bare.root / "etc/os-release", 'NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n')
    (finding,) = check_module(replace(bare, modules={"smc": "not found", "smc_diag": "not found"}))
    assert finding.fix == Fix(("apt-get", "install", f"linux-modules-extra-{RELEASE}"))


@pytest.mark.parametrize(
    ("code", "files", "expected"),
    [
        (
            errno.EACCES,
            {"sys/fs/selinux/enforce": "1", "proc/self/attr/current": "system_u:a:b:s0\0"},
            ("SELinux enforcing, as system_u:a:b:s0", "smc_socket"),
        ),
        (
            errno.EACCES,
            {
                "sys/module/apparmor/parameters/enabled": "Y",
                "proc/self/attr/apparmor/current": "/usr/bin/x (enforce)",
            },
            ("AppArmor, as /usr/bin/x (enforce)", "network smc stream,"),
        ),
        (
            errno.EPERM,
            {"proc/self/status": "Seccomp:\t2\n", "run/.containerenv": ""},
            ("a seccomp filter; a container (podman)", "--security-opt seccomp="),
        ),
        (errno.EAFNOSUPPORT, {}, ("nothing: no seccomp", "bpftool")),
    ],
)
def test_what_confines_is_named(
    machine: Machine, code: int, files: dict[str, str], expected: tuple[str, str]
) -> None:
    for path, text in files.items():
        write(machine.root / path, text)
    (finding,) = check_confinement(replace(machine, refusal=OSError(code, os.strerror(code))))
    assert finding.status is Status.PROBLEM
    assert expected[0] in finding.evidence
    assert expected[1] in finding.advice


def test_a_service_is_told_how_to_allow_smc(machine: Machine) -> None:
    write(machine.root / "proc/self/status", "Seccomp:\t2\n")
    write(machine.root / "proc/self/cgroup", "0::/system.slice/doctor-test.service\n")
    refusal = OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    (finding,) = check_confinement(replace(machine, refusal=refusal))
    assert "RestrictAddressFamilies=" in finding.advice
    assert finding.fix == Fix(("systemctl", "edit", "doctor-test.service"))


def test_roce_port_whose_interface_is_down(machine: Machine) -> None:
    write(machine.root / "sys/class/net/eth1/flags", "0x1002\n")
    device = RoceDevice("mlx5_0", 1, "DOWN", "Ethernet", ["eth1"])
    port, devices = check_devices(replace(machine, roce_devices=[device]))
    assert (port.status, devices.status) == (Status.PROBLEM, Status.PROBLEM)
    # Who took an interface down may have meant it.
    assert port.fix == Fix(("ip", "link", "set", "dev", "eth1", "up"))


@pytest.mark.parametrize(
    ("device", "advice"),
    [
        (RoceDevice("mlx5_0", 1, "DOWN", "Ethernet", ["eth1"]), "no link"),
        (RoceDevice("mlx5_0", 1, "ACTIVE", "InfiniBand", ["ib0"]), "Ethernet"),
        (RoceDevice("mlx5_0", 1, "ACTIVE", "Ethernet", []), "network namespace"),
    ],
)
def test_rdma_port_that_smc_cannot_use(machine: Machine, device: RoceDevice, advice: str) -> None:
    port, devices = check_devices(replace(machine, roce_devices=[device]))
    assert port.status in (Status.PROBLEM, Status.WARNING)
    assert advice in port.advice
    assert devices.evidence.startswith("no usable device")


def test_card_whose_rdma_driver_is_missing(machine: Machine) -> None:
    driver = machine.root / "sys/bus/pci/drivers/mlx5_core"
    driver.mkdir(parents=True)
    (machine.root / "sys/class/net/eth1/device").mkdir(parents=True)
    (machine.root / "sys/class/net/eth1/device/driver").symlink_to(driver)
    card, _ = check_devices(machine)
    assert card.fix == Fix(("modprobe", "mlx5_ib"))


def test_ism_function_without_its_driver(machine: Machine) -> None:
    devices = [SmcdDevice("0000:00:00.0", "ism", "ism"), SmcdDevice("0001:00:00.0", "ism", None)]
    bound, unbound = check_devices(replace(machine, smcd_devices=devices, has_smcd=True))
    assert (bound.status, unbound.status) == (Status.OK, Status.PROBLEM)
    assert unbound.fix is None
    assert "CONFIG_ISM" in unbound.advice
    modules = machine.root / "lib/modules" / os.uname().release
    write(modules / "modules.dep", "kernel/drivers/s390/net/ism.ko:\n")
    _, unbound = check_devices(replace(machine, smcd_devices=devices, has_smcd=True))
    assert unbound.fix == Fix(("modprobe", "ism"), is_safe=True)


@pytest.mark.parametrize(
    ("release", "option"),
    [("6.12.117", "CONFIG_SMC_LO"), ("6.17.1", "CONFIG_SMC_LO"), ("6.18.0", "CONFIG_DIBS_LO")],
)
def test_loopback_device_that_the_kernel_could_have(
    machine: Machine, release: str, option: str
) -> None:
    (finding,) = check_devices(replace(machine, release=release))
    assert option in finding.advice


@pytest.mark.parametrize(
    ("release", "end"), [("6.12.0", "not show: loopback-ism"), ("7.2.13", "not show here")]
)
def test_device_that_sys_does_not_show(machine: Machine, release: str, end: str) -> None:
    (finding,) = check_devices(replace(machine, release=release, has_smcd=True))
    assert finding.status is Status.OK
    assert finding.evidence.endswith(end)


def test_program_that_controls_handshakes(machine: Machine) -> None:
    setting = machine.root / "proc/sys/net/smc/hs_ctrl"
    write(setting, "\n")
    assert not list(check_control(machine))
    write(setting, "linux_wo_smc\n")
    (finding,) = check_control(machine)
    assert finding.status is Status.WARNING
    assert finding.fix == Fix(("sysctl", "-w", "net.smc.hs_ctrl="))


def test_program_that_lets_no_connection_be_smc(smc_mode: Mode) -> None:
    setting = Path("/proc/sys/net/smc/hs_ctrl")
    if not setting.exists():
        pytest.skip("before Linux 6.19 BPF has no say in handshakes")
    with no_smc("tcp_only"), changed(str(setting), "tcp_only"):
        report = examine()
    assert named(report, "handshake control").evidence.startswith("net.smc.hs_ctrl = tcp_only: ")
    here = named(report, "connection here")
    assert here.evidence == "IPv4 and IPv6: TCP (0x03010000: the peer did not indicate SMC)"
    assert "net.smc.hs_ctrl" in here.advice
    assert setting.read_text() == "\n"


def test_ism_function_that_is_in_the_class_dibs_too_is_one_device(tmp_path: Path) -> None:
    function = tmp_path / "sys/devices/pci0001:00/0001:00:00.0"
    write(function / "vendor", "0x1014\n")
    write(function / "device", "0x04ed\n")
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    (tmp_path / "sys/bus/pci/devices/0001:00:00.0").symlink_to(function)
    (tmp_path / "sys/class/dibs/ism10").mkdir(parents=True)
    (tmp_path / "sys/class/dibs/ism10/device").symlink_to(function)
    gids = "1b0e1d8f-0000-0000-0000-000000000000", "8a0e8b0a-6ca5-4e0c-9f6e-0f4dbb3bd7a1"
    for name, gid, fabric_id in (("ism10", gids[0], "0x0001"), ("lo", gids[1], "0xffff")):
        write(tmp_path / f"sys/class/dibs/{name}/gid", f"{gid}\n")
        write(tmp_path / f"sys/class/dibs/{name}/fabric_id", f"{fabric_id}\n")
    assert smcd_devices(tmp_path) == [
        SmcdDevice("0001:00:00.0", "ism", None, "ism10", gids[0], "0x0001"),
        SmcdDevice("lo", "dibs", None, "lo", gids[1], "0xffff"),
    ]


def test_functions_of_ibm_z_in_standby(machine: Machine) -> None:
    for name, power in (("00000010", "0"), ("00000011", "1"), ("00000012", "0")):
        write(machine.root / "sys/bus/pci/slots" / name / "power", f"{power}\n")
    functions, _ = check_devices(replace(machine, architecture="s390x"))
    assert functions.evidence == "in standby (power is 0): 00000010, 00000012"


def test_pnet_id_of_the_hardware_is_decoded(machine: Machine) -> None:
    write(machine.root / "sys/class/net/enc600/device/util_string", "NET1".encode("cp500"))
    (finding,) = check_pnetids(replace(machine, pnetids=("NET2: interface eth0",)))
    assert finding.evidence == "enc600 NET1; NET2: interface eth0"


def test_pnet_id_of_a_port_and_of_an_osa_card(machine: Machine) -> None:
    ports = b"".join(name.ljust(16).encode("cp500") for name in ("ONE", "TWO"))
    interfaces = machine.root / "sys/class/net"
    write(interfaces / "eno1/device/util_string", ports)
    write(interfaces / "eno1/dev_port", "1\n")
    write(interfaces / "enc600/device/chpid", "1F\n")
    write(interfaces / "enc600/dev_port", "0\n")
    write(machine.root / "sys/devices/css0/chp0.1f/util_string", ports)
    (interfaces / "lo").mkdir()
    (finding,) = check_pnetids(machine)
    assert finding.evidence == "enc600 ONE; eno1 TWO"


@pytest.mark.parametrize(
    ("seid", "ueids", "status", "command"),
    [
        (("IBM-SYSZ-ISMSEID0000000012345678", True), (), Status.OK, None),
        (("IBM-SYSZ-ISMSEID0000000012345678", False), (), Status.PROBLEM, "smcsock seid enable"),
        (("IBM-SYSZ-ISMSEID0000000012345678", False), ("A",), Status.OK, None),
        (None, (), Status.PROBLEM, "smcsock ueid add NAME"),
    ],
)
def test_enterprise_ids(
    machine: Machine,
    seid: tuple[str, bool] | None,
    ueids: tuple[str, ...],
    status: Status,
    command: str | None,
) -> None:
    device = SmcdDevice("0000:00:00.0", "ism", "ism")
    (finding,) = check_eids(replace(machine, seid=seid, ueids=ueids, smcd_devices=[device]))
    assert finding.status is status
    assert (str(finding.fix) if finding.fix else None) == command


@pytest.mark.parametrize(
    ("values", "command"),
    [
        ({"rmem": 65536, "wmem": 65536}, None),
        ({"rmem": 65536, "wmem": 16384}, "sysctl -w net.smc.wmem=65536"),
        (
            {"rmem": 16 << 20, "wmem": 65536, "smcr_buf_type": 0},
            "sysctl -w net.smc.smcr_buf_type=2",
        ),
        ({"rmem": 16 << 20, "wmem": 65536, "smcr_buf_type": 2}, None),
    ],
)
def test_buffers(machine: Machine, values: dict[str, int], command: str | None) -> None:
    for name, value in values.items():
        write(machine.root / "proc/sys/net/smc" / name, f"{value}\n")
    (finding,) = check_buffers(machine)
    assert finding.status is (Status.WARNING if command else Status.OK)
    assert (str(finding.fix) if finding.fix else None) == command
    assert f"net.smc.wmem = {values['wmem']}" in finding.evidence
