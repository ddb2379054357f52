"""The commands for smcsock.diag: what they print and how they end."""

import argparse
import contextlib
import errno
import io
import json
import os
import pty
import re
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from conftest import SMC, SMC6, on_host
from test_diag import (
    DIBS,
    EID,
    IS_IBM_Z,
    changing,
    only_in,
    own_pnet_table,
    own_ueids,
    raw_around,
    without_smc,
)
from test_smc_info import NOBODY, in_child, need_root
from test_socket import LIMIT, Pair
from test_socket import time_limit as time_limit

from smcsock import AF_SMC, Mode, State, _cli, diag, has_smc
from smcsock._cli import main
from smcsock._cli._common import ExitCode
from smcsock._cli._devices import _is_wanted_smcd, _wanted_smcr
from smcsock._cli._filter import parse_filter
from smcsock._cli._json import say_items, say_lists
from smcsock._cli._table import say_table
from smcsock._smcsock import Record
from smcsock.diag import Pci, Port, SmcdDevice, SmcrDevice
from smcsock.diag._errors import NOT_PERMITTED as NOT_PERMITTED_TEXT

__all__ = ["changing", "own_pnet_table", "own_ueids"]

SHOWING = ["ss", "linkgroups", "devices", "stats", "system", "ueid", "seid", "pnet", "hs-limit"]
CHANGING = [
    f"ueid add {EID}",
    f"ueid del {EID}",
    "ueid flush",
    "seid enable",
    "seid disable",
    "pnet add TESTNET -I lo",
    "pnet del TESTNET",
    "pnet flush",
    "hs-limit enable",
    "hs-limit disable",
]
OK, FAILED, USAGE, NO_SMC, NOT_PERMITTED, INTERRUPTED, OUTPUT_GONE = 0, 1, 2, 3, 4, 130, 141


class Shell:
    """Runs commands in this process."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def run(self, command: str) -> tuple[int, str, str]:
        """Exit status, output and errors."""
        self._capture.readouterr()
        try:
            status = main(command.split())
        except SystemExit as exit:
            status = int(exit.code or 0)
        out, err = self._capture.readouterr()
        return status, out, err

    def output(self, command: str) -> str:
        status, out, err = self.run(command)
        assert (status, err) == (OK, "")
        return out

    def lines(self, command: str) -> list[str]:
        return self.output(command).splitlines()

    def json(self, command: str) -> Any:
        return json.loads(self.output(f"{command} --json"))


@pytest.fixture(scope="session")
def parser() -> argparse.ArgumentParser:
    return _cli.parser()


@pytest.fixture
def shell(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    parser: argparse.ArgumentParser,
) -> Shell:
    # A guest takes a second to make one.
    monkeypatch.setattr(_cli, "parser", lambda _: parser)
    return Shell(capsys)


@pytest.fixture
def pair(smc_mode: Mode) -> Iterator[Pair]:
    with SMC.pair() as sockets:
        yield sockets


def inode_of(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


# ----- ss


def test_ss_as_json_agrees_with_a_raw_dump(shell: Shell, pair: Pair) -> None:
    with SMC6.listener(), SMC.open():
        shown, expected = raw_around(lambda: shell.json("ss -a"))
    assert {entry["inode"] for entry in shown} >= set(expected)
    assert {inode_of(sock) for sock in pair} <= set(expected)
    for entry in shown:
        raw = expected.get(entry["inode"])
        if raw is None:
            continue
        assert (entry["family"], entry["uid"]) == (raw.family, raw.uid)
        assert entry["state"] == State(raw.state).name
        reasons = (
            (entry["reason"] or {}).get("code", 0),
            (entry["peer_reason"] or {}).get("code", 0),
        )
        assert reasons == raw.reasons
        ports = tuple(entry[end][1] if entry[end] else 0 for end in ("local", "peer"))
        assert ports == raw.ports
        if entry["mode"]:
            assert {"TCP": 1, "SMC-D": 2, "SMC-R": 0}[entry["mode"]] == raw.mode


def test_ss_shows_a_connection_in_a_line(shell: Shell, pair: Pair, smc_mode: Mode) -> None:
    header, *rows = shell.lines("ss")
    assert header.split("  ")[0] == "State"
    for sock in pair:
        (row,) = [row.split() for row in rows if row.split()[2] == str(inode_of(sock))]
        host, port = sock.getsockname()
        peer_host, peer_port = sock.getpeername()
        assert row[:2] == ["ACTIVE", "0"]
        assert row[3:5] == [f"{host}:{port}", f"{peer_host}:{peer_port}"]
        assert row[5] == {Mode.SMCD: "SMCD", Mode.SMCR: "SMCR", Mode.TCP: "TCP"}[smc_mode]


def test_ss_tells_the_reason_of_a_fallback(shell: Shell, smc_mode: Mode) -> None:
    with SMC.listener() as listener, SMC.tcp_socket() as client:
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            (line,) = [line for line in shell.lines("ss") if f" {inode_of(server)} " in line]
    assert line.endswith("TCP   0x03010000 PEERNOSMC: the peer did not indicate SMC")


@pytest.mark.parametrize(
    ("options", "states"),
    [
        ("", ["connected"]),
        ("-a", ["connected", "listening", "new"]),
        ("-l", ["listening"]),
        ("-D", ["SMC-D"]),
        ("-R", ["SMC-R"]),
        ("-a -D", ["SMC-D"]),
        ("-a -R", ["SMC-R"]),
    ],
)
def test_ss_shows_what_is_asked_for(
    options: str, states: list[str], shell: Shell, pair: Pair, smc_mode: Mode
) -> None:
    with SMC.listener() as listener, SMC.open() as new:
        known = {
            inode_of(new): {"new"},
            inode_of(listener): {"listening"},
            **{inode_of(sock): {"connected", str(smc_mode)} for sock in pair},
        }
        shown = {entry["inode"] for entry in shell.json(f"ss {options}")}
        rows = shell.lines(f"ss {options}")[1:]
    expected = {inode for inode, kinds in known.items() if kinds & set(states)}
    assert shown & set(known) == expected
    assert {int(row.split()[2]) for row in rows} == shown


def test_ss_shows_buffers_and_cursors(shell: Shell, pair: Pair, smc_mode: Mode) -> None:
    client, server = pair
    client.sendall(b"x" * 0x123)
    assert server.recv(0x123, socket.MSG_WAITALL)
    header, *rows = shell.lines("ss -d")
    assert "Shutd  Token     Sndbuf  Rcvbuf  Peerbuf  rxprod-Cursor" in header or (
        smc_mode is Mode.TCP
    )
    (row,) = [row.split() for row in rows if f" {inode_of(server)} " in row]
    connection = server.smc_info().connection
    if connection:
        assert row[6:11] == [
            "<->",
            f"{connection.token:08x}",
            str(connection.sndbuf_size),
            str(connection.rmbe_size),
            str(connection.peer_rmbe_size),
        ]
        assert row[11] == "0000:00000123"


def test_ss_shows_dmbs(shell: Shell, pair: Pair, smc_mode: Mode) -> None:
    if smc_mode is not Mode.SMCD:
        pytest.skip("needs SMC-D")
    rows = shell.lines("ss -D")[1:]
    for sock in pair:
        dmb = sock.smc_info().dmb
        assert dmb is not None
        (row,) = [row.split() for row in rows if f" {inode_of(sock)} " in row]
        assert [int(cell.replace("-", ""), 16) for cell in row[6:]] == [
            dmb.gid,
            dmb.token,
            dmb.peer_gid,
            dmb.peer_token,
            dmb.link_id,
        ]
        assert str(UUID(int=dmb.gid)) in row


def test_ss_shows_links(shell: Shell, pair: Pair, smc_mode: Mode) -> None:
    if smc_mode is not Mode.SMCR:
        pytest.skip("needs SMC-R")
    rows = shell.lines("ss -R")[1:]
    for sock, role in zip(pair, ("CLNT", "SERV"), strict=True):
        link = sock.smc_info().link_group
        assert link is not None
        (row,) = [row.split() for row in rows if f" {inode_of(sock)} " in row]
        assert row[6:] == [
            role,
            link.device,
            f"{link.port:02x}",
            f"{link.link_id:02x}",
            link.gid,
            link.peer_gid,
        ]


@pytest.mark.parametrize("words", ["sport = :{port}", "src 127.0.0.0/8:{port} or dst [::2]:1"])
def test_ss_filters(words: str, shell: Shell, pair: Pair) -> None:
    client, _ = pair
    words = words.format(port=client.getsockname()[1])
    shown = [entry["inode"] for entry in shell.json(f"ss {words}")]
    assert shown == [inode_of(client)]


def test_ss_filter_of_states_is_not_about_connected_sockets_only(
    shell: Shell, smc_mode: Mode
) -> None:
    with SMC.listener() as listener, SMC.open() as new:
        found = {
            words: {entry["inode"] for entry in shell.json(f"ss {words}")}
            for words in ("state listening", "exclude init", "state init or state closed")
        }
        of_listener, of_new = inode_of(listener), inode_of(new)
    assert [shown & {of_listener, of_new} for shown in found.values()] == [
        {of_listener},
        {of_listener},
        {of_new},
    ]


def test_ss_names_the_processes_that_have_a_socket(shell: Shell, pair: Pair) -> None:
    by_inode = {entry["inode"]: entry["processes"] for entry in shell.json("ss -p")}
    name = Path("/proc/self/comm").read_text().strip()
    for sock in pair:
        own = {"name": name, "pid": os.getpid(), "fd": sock.fileno()}
        assert by_inode[inode_of(sock)] == [own]
        assert any(
            line.endswith(f"  {name}({os.getpid()}):{sock.fileno()}")
            for line in shell.lines("ss -p")
        )


def test_ss_says_that_processes_of_others_are_hidden(shell: Shell, pair: Pair) -> None:
    need_root()

    def ask() -> str:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        status, out, err = shell.run("ss -p")
        return repr((status, f" {inode_of(pair[0])} " in out, "try as root" in err))

    assert in_child(ask) == repr((OK, True, True))


@pytest.mark.parametrize("options", ["", "-p", "--json", "--json -p"])
def test_ss_watches_until_ctrl_c(
    options: str, shell: Shell, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    status, out, _ = shell.run(f"ss -a {options} --watch 3600")
    assert status == INTERRUPTED
    if "--json" in options:
        shown = [{entry["inode"] for entry in json.loads(line)} for line in out.splitlines()]
        assert len(shown) == 2
        assert all(inode_of(sock) in inodes for sock in pair for inodes in shown)
    else:
        assert out.count(" Peer Address ") == 2
        assert out.count(f" {inode_of(pair[0])} ") == 2


def made_up(local: object, peer: object = None) -> Record:
    """The record of an SMC-D connection."""
    return Record((2, 0, 0, local, peer, AF_SMC, State.ACTIVE, 0, 0, 0, 1, 1, None, None, None))


MADE_UP = made_up(("10.1.2.3", 80), ("2001:db8::1", 5432, 0, 0))


@on_host
@pytest.mark.parametrize(
    ("words", "matches"),
    [
        ("", True),
        ("src 10.1.2.3", True),
        ("src 10.1.0.0/16:80", True),
        ("src 10.1.0.0/16:81", False),
        ("src != 10.1.2.3", False),
        ("src :80 dst *:5432", True),
        ("dst [2001:db8::]/32:5432", True),
        ("dst 2001:db8::1", True),
        ("dst 10.1.2.3", False),
        ("sport = :80 and dport >= 5432", True),
        ("sport lt 80 or dport gt 5432", False),
        ("not sport 80", False),
        ("! ( sport 80 and dport 1 ) & state established", True),
        ("dport 1 or sport 80 dport 2", False),
        ("( dport 1 or sport 80 ) dport 5432", True),
        ("state active", True),
        ("state connected", True),
        ("exclude listen", True),
        ("state listening", False),
        ("mode SMC-D", True),
        ("mode tcp", False),
    ],
)
def test_filter_of_sockets(words: str, matches: bool) -> None:
    is_wanted, has_state = parse_filter(words.split())
    assert is_wanted(MADE_UP) is matches
    assert has_state is ("state" in words or "exclude" in words)


@on_host
def test_filter_takes_ipv4_written_as_ipv6_for_ipv4() -> None:
    is_wanted, _ = parse_filter(["src", "10.0.0.0/8"])
    assert is_wanted(made_up(("::ffff:10.1.2.3", 80, 0, 0)))
    assert not is_wanted(made_up(("fe80::1%eth0", 80, 0, 2)))
    assert not is_wanted(made_up(None))


# ----- the others


def test_link_groups_are_filtered(shell: Shell, pair: Pair, smc_mode: Mode) -> None:
    if smc_mode is Mode.TCP:
        pytest.skip("needs a link group")
    groups = diag.link_groups()
    wanted = groups[0]
    assert len(shell.json(f"linkgroups --id {wanted.id:x}")[smc_mode.replace("-", "").lower()]) == 1
    nothing: dict[str, list[Any]] = {"smcd": [], "smcr": [], "links": []}
    assert shell.json("linkgroups --id fffffff") == nothing
    assert shell.json("linkgroups --netdev none") == nothing
    assert shell.json("linkgroups --pnetid NONE") == nothing
    if smc_mode is Mode.SMCR:
        shown = shell.json("linkgroups --netdev lo --ibdev rxe0")
        assert [group["id"] for group in shown["smcr"]] == [group.id for group in groups]
        assert len(shown["links"]) == len(diag.links())


def test_link_groups_and_links(shell: Shell, pair: Pair, smc_mode: Mode) -> None:
    groups = diag.link_groups()
    shown = shell.json("linkgroups")
    assert sorted(shown) == ["links", "smcd", "smcr"]
    assert [group["id"] for group in shown["smcd"] + shown["smcr"]] == [g.id for g in groups]
    assert len(shown["links"]) == len(diag.links())
    assert [sorted(shell.json(f"linkgroups {option}")) for option in ("-D", "-R", "-l")] == [
        ["smcd"],
        ["links", "smcr"],
        ["links"],
    ]
    for details in ("", " -d"):
        lines = shell.lines(f"linkgroups{details}")
        assert [line for line in lines if line.startswith("SMC-")] == ["SMC-D", "SMC-R"]
        assert [f"{group.id:08x}" for group in groups] == [
            line.split()[0] for line in lines if re.match("[0-9a-f]{8} ", line)
        ]
    lines = shell.lines("linkgroups --links")[1:]
    assert [line.split()[0] for line in lines] == [
        f"{link.link_group:08x}" for link in diag.links()
    ]
    if smc_mode is Mode.SMCR:
        assert {line.split()[3] for line in lines} == {"lo"}
        assert {line.split()[4] for line in lines} == {"ACTIVE"}


def test_devices(shell: Shell, smc_mode: Mode) -> None:
    shown = shell.json("devices")
    assert (shown["smcd"], shown["ism_v2"]) == ([], smc_mode is Mode.SMCD)
    assert [device["name"] for device in shown["smcr"]] == (
        ["rxe0"] if smc_mode is Mode.SMCR else []
    )
    lines = shell.lines("devices")
    dibs = [line.split() for line in lines if line.startswith("lo  ") and line.endswith("0xffff")]
    # From Linux 6.18 on /sys shows the loopback device that the kernel does not list.
    if DIBS.exists() and smc_mode is Mode.SMCD:
        gid = (DIBS / "lo/gid").read_text().strip()
        assert shown["dibs"] == [{"name": "lo", "pci_id": None, "gid": gid, "fabric_id": "0xffff"}]
        assert dibs == [["lo", gid, "0xffff"]]
    else:
        assert (shown["dibs"], dibs) == ([], [])
        assert ("loopback-ism" in "\n".join(lines)) == (smc_mode is Mode.SMCD)
    assert any(line.startswith("lo       rxe0 ") for line in lines) == (smc_mode is Mode.SMCR)
    assert (list(shell.json("devices -D")), list(shell.json("devices -R"))) == (
        ["smcd", "ism_v2", "dibs"],
        ["smcr"],
    )


def test_stats(shell: Shell, pair: Pair, smc_mode: Mode) -> None:
    shown = shell.json("stats")
    now = diag.stats()
    assert shown["smcd"]["client_v2"] == now.smcd.client_v2
    assert shown["smcr"]["sent"]["request_sizes"]["up_to_8k"] == (
        now.smcr.sent.request_sizes.up_to_8k
    )
    counts = [
        (entry["role"], entry["reason"]["code"], entry["count"]) for entry in shown["fallbacks"]
    ]
    assert counts == [(entry.role, entry.reason.code, entry.count) for entry in now.fallbacks]
    lines = shell.lines("stats")
    (connections,) = [line.split() for line in lines if line.startswith("SMC connections")]
    assert connections[2:] == [str(now.smcd.connections), str(now.smcr.connections)]
    (fallbacks,) = [line.split() for line in lines if line.startswith("TCP fallback")]
    assert fallbacks[2:] == [str(now.client_fallbacks), str(now.server_fallbacks)]
    assert sum("0x" in line for line in lines) == len(now.fallbacks)
    (sent,) = [line.split() for line in lines if line.startswith("SMC-D TX Reqs")]
    assert int(sent[-1]) == sum(map(int, sent[3:-1]))
    with_percent = shell.lines("stats --percent")
    assert len(with_percent) == len(lines) + 8
    (shares,) = [line.split() for line in with_percent if line.strip().startswith("of all that")]
    assert all(0 <= float(share.removesuffix("%")) <= 100 for share in shares[-2:])


@pytest.mark.parametrize(("as_json", "intervals"), [("", 21), (" --json", 3)])
def test_watch_goes_on_until_ctrl_c(
    as_json: str,
    intervals: int,
    shell: Shell,
    smc_mode: Mode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) > intervals:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    status, out, err = shell.run(f"stats --watch 3600{as_json}")
    assert (status, err) == (INTERRUPTED, "")
    assert slept[0] == pytest.approx(3600, abs=LIMIT)
    lines = out.splitlines()
    if as_json:
        shown = [json.loads(line) for line in lines]
        assert len(shown) == intervals
        assert all(0 < entry["seconds"] < LIMIT for entry in shown)
        assert {entry["smcd"]["client_v2"] for entry in shown} == {0}
    else:
        headers = [n for n, line in enumerate(lines) if line.split()[:2] == ["Time", "D-Conns"]]
        assert headers == [0, 21]
        assert len(lines) == intervals + len(headers)
        assert re.fullmatch(r"\d\d:\d\d:\d\d( +0){9}", lines[1])


def test_watch_ends_when_its_reader_has_gone(smc_mode: Mode) -> None:
    only_in("smcd")
    command = [sys.executable, "-m", "smcsock", "stats", "--watch", "0.01"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().split()[0] == "Time"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == OUTPUT_GONE


def test_system(shell: Shell, smc_mode: Mode) -> None:
    shown = shell.json("system")
    assert shown["version"] == 2
    assert shown["ism_v2"] == (smc_mode is Mode.SMCD)
    version = f"{shown['version']}.{shown['release']}"
    assert f"SMC Version     {version}" in shell.lines("system")


def test_ueids(shell: Shell, own_ueids: list[str]) -> None:
    assert shell.run(f"ueid add {EID}") == (OK, "", "")
    assert shell.lines("ueid") == shell.lines("ueid show") == ["UEID", *own_ueids, EID]
    assert shell.json("ueid") == shell.json("ueid show") == [*own_ueids, EID]
    assert json.loads(shell.output("ueid --json show")) == [*own_ueids, EID]
    status, out, err = shell.run(f"ueid add {EID}")
    assert (status, out, err) == (FAILED, "", f"smcsock: the UEID {EID} is defined already\n")
    assert shell.run(f"ueid del {EID}") == (OK, "", "")
    assert shell.run("ueid flush") == (OK, "", "")
    assert shell.lines("ueid") == ["UEID"]


@pytest.mark.skipif(IS_IBM_Z, reason="is IBM Z")
def test_there_is_no_system_eid_off_ibm_z(shell: Shell, changing: None) -> None:
    assert shell.lines("seid") == ["SEID  State", "n/a   n/a"]
    assert shell.json("seid") == {"name": None, "enabled": False}
    for action in ("enable", "disable"):
        status, _, err = shell.run(f"seid {action}")
        assert (status, err) == (FAILED, "smcsock: only IBM Z has a system EID\n")


@pytest.mark.skipif(not IS_IBM_Z, reason="needs IBM Z")
def test_system_eid(shell: Shell, own_ueids: list[str], smc_mode: Mode) -> None:
    if smc_mode is not Mode.SMCD:
        pytest.skip("needs SMC-D: the kernel shows no system EID without it")
    name = diag.seid().name
    for action in ("disable", "enable"):
        assert shell.run(f"seid {action}") == (OK, "", "")
        assert shell.lines("seid")[1].split() == [name, f"{action}d"]
        assert shell.json("seid") == {"name": name, "enabled": action == "enable"}


def test_pnet_table(shell: Shell, own_pnet_table: None) -> None:
    assert shell.run("pnet add testnet -I lo -D none -P 2") == (OK, "", "")
    assert [line.split() for line in shell.lines("pnet")] == [
        ["PNET-ID", "Net-Dev", "IB-Dev", "IB-P"],
        ["TESTNET", "lo"],
        ["TESTNET", "none", "2"],
    ]
    assert shell.json("pnet") == [
        {"name": "TESTNET", "interface": "lo", "device": None, "port": None},
        {"name": "TESTNET", "interface": None, "device": "none", "port": 2},
    ]
    assert shell.run("pnet del testnet") == (OK, "", "")
    assert shell.run("pnet del testnet") == (FAILED, "", "smcsock: the PNET table has no TESTNET\n")
    assert shell.run("pnet flush") == (OK, "", "")
    assert len(shell.lines("pnet")) == 1


def test_limitation_of_handshakes(shell: Shell, changing: None) -> None:
    try:
        assert shell.run("hs-limit enable") == (OK, "", "")
        assert shell.lines("hs-limit") == ["Handshake limitation", "enabled"]
    finally:
        assert shell.run("hs-limit disable") == (OK, "", "")
    assert shell.json("hs-limit") == {"enabled": False}


# ----- how they end


@on_host
@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("ss -D -R", "--smcd cannot be used with --smcr"),
        ("ss -l -a", "--listening cannot be used with --all"),
        ("ss -l -d", "--listening cannot be used with --debug"),
        ("ss -l -R", "--listening cannot be used with --smcr"),
        ("ss --watch 0", "not a number of seconds"),
        ("ss dst", "the filter ends where an address is expected"),
        ("ss dst example.com", "not an IP address or network: 'example.com'"),
        ("ss dst 10.0.0.0/33", "not an IP address or network"),
        ("ss src 10.0.0.1:70000", "not a port number (0 to 65535): '70000'"),
        ("ss dst > 10.0.0.1", "addresses are equal or not"),
        ("ss sport http", "not a port number"),
        ("ss state wrong", "not a state: 'wrong'"),
        ("ss mode smc", "not a mode: 'smc'"),
        ("ss ( dst 10.0.0.1", "the filter ends where ')' is expected"),
        ("ss dst 10.0.0.1 )", "not expected here: ')'"),
        ("ss dst 10.0.0.1 or", "the filter ends where a condition is expected"),
        ("ss 10.0.0.1", "not a word of a filter: '10.0.0.1'"),
        ("linkgroups --id x", "not a hexadecimal number: 'x'"),
        ("linkgroups -D -l", "not allowed with"),
        ("devices -D -R", "not allowed with"),
        ("stats --watch 0", "not a number of seconds"),
        ("stats --watch nan", "not a number of seconds"),
        ("ueid add", "required: EID"),
        ("ueid add lower", "not an EID: 'lower'"),
        ("ueid wrong", "invalid choice"),
        ("ueid --json flush", "--json is for what shows something"),
        ("seid off", "invalid choice"),
        ("pnet add NET", "needs a network interface or a device"),
        ("pnet add N-T -I lo", "not a PNET ID: 'N-T'"),
        ("pnet add NET -D none -P 3", "not a port"),
        ("pnet add NET -D none -P x", "invalid int value"),
    ],
)
def test_wrong_usage(command: str, text: str, shell: Shell) -> None:
    status, out, err = shell.run(command)
    assert (status, out) == (USAGE, "")
    assert err.startswith(f"usage: smcsock {command.split()[0]}")
    assert text in err


@on_host
@pytest.mark.parametrize("command", [*SHOWING, "ueid add", "pnet add", "pnet del", "seid enable"])
def test_help(command: str, shell: Shell) -> None:
    text = shell.output(f"{command} --help")
    assert text.startswith(f"usage: smcsock {command} ")
    if command in SHOWING:
        assert "\n--json: " in text
        assert f"\n  {NOT_PERMITTED}    not permitted" in text
        assert max(map(len, text.splitlines())) <= 90


@without_smc
@pytest.mark.parametrize("command", [*SHOWING, *(f"{name} --json" for name in SHOWING), *CHANGING])
def test_kernel_has_none(command: str, shell: Shell) -> None:
    status, out, err = shell.run(command)
    assert (status, out) == (NO_SMC, "")
    assert "try 'modprobe smc' as root" in err


def test_changing_takes_privilege(shell: Shell, smc_mode: Mode) -> None:
    need_root()
    shell.output("ueid")

    def attempt() -> str:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return repr({shell.run(command) for command in CHANGING})

    text = f"smcsock: {NOT_PERMITTED_TEXT}\n"
    assert in_child(attempt) == repr({(ExitCode.NOT_PERMITTED, "", text)})


def test_devices_are_filtered(shell: Shell, smc_mode: Mode) -> None:
    nothing: dict[str, list[Any]] = {"smcd": [], "dibs": [], "smcr": []}
    for words in ("--netdev none", "--ibdev none", "--pnetid NONE", "--id none"):
        shown = shell.json(f"devices {words}")
        assert {name: shown[name] for name in nothing} == nothing
    header, *rows = shell.lines("devices --by-pnetid")
    assert header.split() == ["PNET-ID", "For", "Device", "Port", "Net-Dev", "InUse"]
    if smc_mode is Mode.SMCR:
        assert [row.split()[:4] for row in rows] == [["SMC-R", "rxe0", "1", "lo"]]
        assert len(shell.json("devices --netdev lo --ibdev rxe0")["smcr"]) == 1


@on_host
@pytest.mark.parametrize(("words", "found"), [("", 2), ("8", 1), ("0008", 1), ("0018:00:00.0", 1)])
def test_devices_are_filtered_by_id(words: str, found: int) -> None:
    options = _cli.parse(["devices", *(["--id", words] if words else [])])
    smcd = SmcdDevice(Pci("0008:00:00.0", 8, 0x1C4, 0x1014, 0x4ED), 0, "", False)
    port = Port(1, True, "ens24", 0, "", False)
    smcr = SmcrDevice("mlx5_0", Pci("0018:00:00.0", 0x18, 0x1C5, 0x15B3, 0x1016), False, (port,))
    wanted = [_is_wanted_smcd(smcd, options), _wanted_smcr(smcr, options) is not None]
    assert wanted.count(True) == found


def test_stats_count_from_a_reset_on(
    shell: Shell, smc_mode: Mode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with SMC.pair() as (client, _):
        client.sendall(b"x" * 1000)
    absolute = shell.json("stats")
    assert shell.run("stats reset") == (OK, "", "")
    assert shell.json("stats --absolute") == absolute
    counted = shell.json("stats")
    assert counted["smcd"]["client_v2"] == counted["client_fallbacks"] == 0
    assert counted["fallbacks"] == []
    assert "since 'smcsock stats reset'" in shell.lines("stats")[-1]
    with SMC.pair():
        pass
    counted = shell.json("stats")
    of = "smcr" if smc_mode is Mode.SMCR else "smcd"
    assert counted[of]["client_v2"] + counted["client_fallbacks"] == 1
    (file,) = (tmp_path / "state/smcsock").iterdir()
    for text in ("", "[]", file.read_text().replace('"stats"', '"other"')):
        file.write_text(text)
        assert shell.json("stats")[of]["client_v2"] >= absolute[of]["client_v2"]


@on_host
@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("dev", "devices"),
        ("l", "linkgroups"),
        ("u a", "ueid add"),
        ("sei e", "seid enable"),
        ("hs dis", "hs-limit disable"),
        ("pn f", "pnet flush"),
    ],
)
def test_abbreviated_command(words: str, command: str, shell: Shell) -> None:
    assert shell.output(f"{words} --help").startswith(f"usage: smcsock {command} ")


@on_host
@pytest.mark.parametrize(
    ("words", "action"),
    [
        ("linkg l", "link-show"),
        ("linkg sh", "show"),
        ("dev s", "show"),
        ("stat res", "reset"),
        ("sys s", "show"),
        ("linkg --id 1 show", "show"),
        ("dev --netdev s", "show"),
    ],
)
def test_abbreviated_action(words: str, action: str, parser: argparse.ArgumentParser) -> None:
    assert _cli.parse(words.split()).action == action


@on_host
def test_actions_are_those_of_the_parsers(parser: argparse.ArgumentParser) -> None:
    def choices(of: argparse.ArgumentParser) -> Any:
        return next(
            (each.choices for each in of._actions if each.choices and not each.option_strings), ()
        )

    found = {name: tuple(choices(command)) for name, command in choices(parser).items()}
    assert {name: actions for name, actions in found.items() if actions} == _cli.ACTIONS


@on_host
@pytest.mark.parametrize(
    "words", ["s", "x", "ss2", "de-v", "ueid x", "seid able", "stats s-", "ueid --json s"]
)
def test_word_that_abbreviates_nothing(words: str, shell: Shell) -> None:
    status, _, err = shell.run(words)
    assert (status, f"invalid choice: '{words.split()[-1]}'" in err) == (USAGE, True)


def test_collected_report(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "report.tar.gz"
    shell.output(f"doctor --collect {path}")
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        texts = {
            entry.name.removeprefix("smcsock-report/"): (archive.extractfile(entry) or io.BytesIO())
            .read()
            .decode()
            for entry in archive
        }
    assert json.loads(texts["versions.json"])["kernel"] == os.uname().release
    assert json.loads(texts["doctor_json.txt"].partition("\n# ")[0])["findings"]
    if has_smc():
        assert json.loads(texts["stats_absolute_json.txt"])["smcd"]
    else:
        assert "modprobe smc" in texts["stats_absolute_json.txt"]
    status, _, err = shell.run(f"doctor --collect {path}")
    assert (status, err) == (FAILED, f"smcsock: cannot write {path}: File exists\n")


@on_host
def test_missing_pyroute2_is_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyroute2", "pyroute2.netlink"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "smcsock.diag._messages", raising=False)
    monkeypatch.delattr("smcsock.diag._messages", raising=False)
    for command in (*SHOWING[1:], *CHANGING):
        status, out, err = shell.run(command)
        assert (status, out) == (FAILED, "")
        assert (
            err == "smcsock: this needs the Python package pyroute2: pip install 'smcsock[diag]'\n"
        )


# ----- tables

HEADERS = ("Address", "Count", "Reason")
ROWS = [("[::1]:80", 7, "a [bold] :smile: reason " * 8), ("*", 12345, "")]


def table(headers: Sequence[str], rows: Any, **kwargs: Any) -> Callable[[], None]:
    return lambda: say_table(headers, rows, **kwargs)


def at_a_terminal(columns: int, show: Callable[[], None], *, strip: bool = True) -> list[str]:
    """The lines that are printed at a terminal, without its control sequences."""
    pid, terminal = pty.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.environ.pop("NO_COLOR", None)
            os.environ.update(COLUMNS=str(columns), TERM="xterm")
            sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
            show()
        os._exit(0)
    with open(terminal, "rb", buffering=0) as stream:
        data = bytearray()
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while chunk := stream.read(65536):
                data += chunk
    os.waitpid(pid, 0)
    text = re.sub(r"\x1b\[[\d;]*m", "", data.decode()) if strip else data.decode()
    return text.split("\r\n")[:-1]


@on_host
def test_table_leaves_nothing_out(capsys: pytest.CaptureFixture[str]) -> None:
    say_table(HEADERS, ROWS)
    assert capsys.readouterr().out.splitlines() == [
        "Address   Count  Reason",
        f"[::1]:80      7  {ROWS[0][2].rstrip()}",
        "*         12345",
    ]


@on_host
def test_table_is_printed_as_its_rows_come(capsys: pytest.CaptureFixture[str]) -> None:
    printed: list[int] = []

    def rows() -> Iterator[tuple[str, int]]:
        for n in range(10000):
            yield f"name {n}", n
            if n in (5000, 9999):
                printed.append(len(capsys.readouterr().out.splitlines()))

    say_table(("Name", "Number"), rows())
    assert printed[0] > 4000
    assert len(capsys.readouterr().out.splitlines()) + sum(printed) >= 10000


@on_host
def test_columns_grow_with_later_rows(capsys: pytest.CaptureFixture[str]) -> None:
    say_table(("N", "Text"), [*[(1, "x")] * 1000, (12345, "y" * 30), (2, "z")])
    lines = capsys.readouterr().out.splitlines()
    assert (lines[1], lines[-2], lines[-1]) == ("1  x", f"12345  {'y' * 30}", "    2  z")


@on_host
def test_error_in_place_of_the_first_row_comes_before_any_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def rows() -> Iterator[Any]:
        raise OSError(errno.EPERM, "no")
        yield

    shows: list[Callable[[], None]] = [
        lambda: say_table(("Name",), rows(), title="Title"),
        lambda: say_items(rows()),
        lambda: say_lists({"name": rows()}),
    ]
    for show in shows:
        with pytest.raises(OSError, match="no"):
            show()
    assert capsys.readouterr().out == ""


@on_host
@pytest.mark.parametrize("items", [[], [{"a": 1}], [{"a": 1}, {"a": [2]}]])
def test_items_are_json_in_lines(items: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    say_items(iter(items))
    assert json.loads(capsys.readouterr().out) == items
    say_lists({"one": iter(items), "two": items})
    assert json.loads(capsys.readouterr().out) == {"one": items, "two": items}


@on_host
def test_table_does_not_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say_table(("Name", "N"), [("a\x1b[2J\nb", 1)])
    assert capsys.readouterr().out.splitlines()[1].split() == ["a\\x1b[2J\\nb", "1"]


@on_host
@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_headers_are_plain_where_wanted(env: dict[str, str]) -> None:
    def show() -> None:
        os.environ.update(env)
        say_table(HEADERS, ROWS[1:])

    assert "\x1b" not in "".join(at_a_terminal(80, show, strip=False))
    assert "\x1b[1m" in "".join(at_a_terminal(80, table(HEADERS, ROWS), strip=False))


@on_host
def test_last_column_is_folded_at_a_terminal() -> None:
    lines = at_a_terminal(60, table(HEADERS, ROWS))
    assert max(map(len, lines)) <= 60
    assert " ".join(line[17:] for line in lines[1:-1]).split() == ROWS[0][2].split()


@on_host
@pytest.mark.parametrize(("columns", "wide"), [(60, True), (20, False), (500, False)])
def test_table_is_not_folded(columns: int, wide: bool) -> None:
    lines = at_a_terminal(columns, table(HEADERS, ROWS, wide=wide))
    assert len(lines) == 3


@on_host
def test_empty_table_has_its_headers(capsys: pytest.CaptureFixture[str]) -> None:
    say_table(HEADERS, [])
    assert capsys.readouterr().out == "Address  Count  Reason\n"


@on_host
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_table_fits_any_character_set(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    monkeypatch.setattr(sys, "stdout", stream)
    say_table(("Name",), [("…",)])
    assert stream.buffer.getvalue().decode(encoding) == "Name\n\\u2026\n"
