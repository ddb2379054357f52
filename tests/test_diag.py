"""smcsock.diag: what the kernel says, held against what is known otherwise."""

import asyncio
import contextlib
import ctypes
import dataclasses
import errno
import os
import pickle
import platform
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from conftest import INET, INET6, SMC, VM_KERNEL, VM_MODE, Presentation, on_host
from descriptors import open_descriptors
from test_smc_info import CLONE_NEWNET, NOBODY, in_child, need_root
from test_smc_info import no_smc_diag as no_smc_diag
from test_socket import Pair
from test_socket import time_limit as time_limit

import smcsock
from smcsock import AF_SMC, IPPROTO_SMC, SMC_LIMIT_HS, SOL_SMC, DiagUnavailableError, Mode, State
from smcsock._kernel._reasons import reason
from smcsock.diag import (
    DiagError,
    Direction,
    ExtraMissingError,
    Fallback,
    LinkState,
    Pci,
    PnetId,
    Sizes,
    SmcdDevice,
    SmcdLinkGroup,
    SmcrDevice,
    SmcrLinkGroup,
    Stats,
    System,
    SystemEid,
    Technology,
    add_pnetid,
    add_ueid,
    clear_pnetids,
    clear_ueids,
    devices,
    disable_seid,
    enable_seid,
    handshake_limitation,
    limit_handshakes,
    link_groups,
    links,
    pnetids,
    remove_pnetid,
    remove_ueid,
    seid,
    sockets,
    stats,
    system,
    ueids,
)
from smcsock.diag._commands import SmcCommand
from smcsock.diag._devices import _smcd_device
from smcsock.diag._errors import NOT_PERMITTED
from smcsock.diag._generic import _decode
from smcsock.diag._link_groups import interface_name
from smcsock.diag._messages import attributes, message_class

NOSMCDEV, PEERNOSMC, PEERDECL, NOUEID = 0x03030000, 0x03010000, 0x05000000, 0x03030008
EID = "SMCSOCK.TEST-1"
SO_NETNS_COOKIE = 71

READERS: list[Callable[[], object]] = [
    system,
    link_groups,
    links,
    devices,
    stats,
    ueids,
    seid,
    pnetids,
    handshake_limitation,
]
CHANGERS: dict[str, Callable[[], None]] = {
    "add_ueid": lambda: add_ueid(EID),
    "remove_ueid": lambda: remove_ueid(EID),
    "clear_ueids": clear_ueids,
    "enable_seid": enable_seid,
    "disable_seid": disable_seid,
    "add_pnetid": lambda: add_pnetid("TESTNET", interface="lo"),
    "remove_pnetid": lambda: remove_pnetid("TESTNET"),
    "clear_pnetids": clear_pnetids,
    "limit_handshakes": lambda: limit_handshakes(True),
}
DIBS = Path("/sys/class/dibs")
IS_IBM_Z = platform.machine() == "s390x"
without_smc = pytest.mark.skipif(smcsock.has_smc(), reason="this kernel has SMC")


def refused(number: int, text: str = "") -> contextlib.AbstractContextManager[object]:
    return pytest.raises(DiagError, match=rf"^\[Errno {number}\] .*{text}")


def only_in(mode: str) -> None:
    if mode != VM_MODE:
        pytest.skip(f"is about mode {mode} of the virtual machine")


@pytest.fixture
def changing(smc_mode: Mode) -> None:
    """For what changes the configuration of the host."""
    if VM_MODE is None:
        pytest.skip("changes the host's configuration: for virtual machines only")


def skip_if_seid_does() -> None:
    """Skips where a host is never without an EID: the last UEID that goes enables the SEID."""
    if seid().enabled:
        pytest.skip("has a system EID, which does for SMC-D")


@pytest.fixture
def own_ueids(changing: None) -> Iterator[list[str]]:
    """Puts back the user-defined EIDs; gives those that there are."""
    before = ueids()
    yield before
    clear_ueids()
    for name in before:
        add_ueid(name)


@pytest.fixture
def own_pnet_table(changing: None) -> Iterator[None]:
    """An empty PNET table, emptied again."""
    assert pnetids() == []
    yield
    clear_pnetids()


@pytest.fixture
def pair_ipv4(smc_mode: Mode) -> Iterator[Pair]:
    with SMC.pair() as sockets_of_pair:
        yield sockets_of_pair


@contextlib.contextmanager
def closing(*opened: socket.socket) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for sock in opened:
            stack.enter_context(sock)
        yield


def record_of(sock: smcsock.socket) -> smcsock.SmcInfo:
    (found,) = [info for info in sockets() if info.inode == os.fstat(sock.fileno()).st_ino]
    return found


# ----- sockets


@dataclasses.dataclass(frozen=True)
class Raw:
    """A record of struct smc_diag_msg, decoded with nothing of smcsock."""

    family: int
    state: int
    mode: int
    ports: tuple[int, int]
    uid: int
    inode: int
    reasons: tuple[int, int]
    buffers: tuple[int, ...] | None

    @classmethod
    def of(cls, info: smcsock.SmcInfo) -> "Raw":
        assert info.family is not None
        assert info.state is not None
        assert info.uid is not None
        assert info.inode is not None
        found = info.connection
        buffers = None
        if found:
            buffers = found.token, found.sndbuf_size, found.rmbe_size, found.peer_rmbe_size
        return cls(
            family=info.family,
            state=int(info.state),
            mode={Mode.TCP: 1, Mode.SMCD: 2}.get(info.mode or Mode.SMCR, 0),
            ports=(info.local[1] if info.local else 0, info.peer[1] if info.peer else 0),
            uid=info.uid,
            inode=info.inode,
            reasons=(
                info.reason.code if info.reason else 0,
                info.peer_reason.code if info.peer_reason else 0,
            ),
            buffers=buffers,
        )


def raw_dump() -> list[Raw]:
    request = struct.pack("=B2xB48x", AF_SMC, 0b1011)
    header = struct.pack("=IHHII", 16 + len(request), 20, 0x301, 7, 0)
    found: list[Raw] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as sock:
        sock.send(header + request)
        while True:
            data = sock.recv(1 << 17)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind == 3:
                    return found
                assert kind == 20
                found.append(raw_record(data[16:length]))
                data = data[-(-length // 4) * 4 :]


def raw_around(ask: Callable[[], Any]) -> tuple[Any, dict[int, Raw]]:
    """What ``ask`` gives, and by inode the sockets that a raw dump had before and after.

    Not those that something closed just before and that the kernel is not done with.
    """
    before = {raw.inode: raw for raw in raw_dump()}
    answer = ask()
    after = {raw.inode: raw for raw in raw_dump()}
    return answer, {inode: raw for inode, raw in after.items() if before.get(inode) == raw}


def raw_record(record: bytes) -> Raw:
    family, state, mode = record[:3]
    uid, inode = struct.unpack_from("=IQ", record, 52)
    reasons, buffers = (0, 0), None
    rest = record[64:]
    while rest:
        length, kind = struct.unpack_from("=HH", rest)
        if kind == 1:
            buffers = struct.unpack_from("=4I", rest, 4)
        elif kind == 5:
            reasons = struct.unpack_from("=2I", rest, 4)
        rest = rest[-(-length // 4) * 4 :]
    ports = struct.unpack_from(">2H", record, 4)
    return Raw(family, state, mode, ports, uid, inode, reasons, buffers)


def test_sockets_agree_with_a_raw_dump(presentation: Presentation, smc_mode: Mode) -> None:
    with presentation.listener() as listener, presentation.open() as unconnected:
        clients = [presentation.open(), presentation.tcp_socket()]
        with closing(*clients):
            for client in clients:
                client.connect(listener.getsockname())
            servers = [listener.accept()[0] for _ in clients]
            with closing(*servers):
                found, expected = raw_around(
                    lambda: {info.inode: Raw.of(info) for info in sockets()}
                )
                own = {
                    os.fstat(sock.fileno()).st_ino
                    for sock in (listener, unconnected, clients[0], *servers)
                }
    assert own <= set(expected)
    assert {inode: found.get(inode) for inode in expected} == expected
    assert {expected[inode].reasons[0] for inode in own} >= {0, PEERNOSMC}


def test_sockets_are_what_smc_info_says(presentation: Presentation, smc_mode: Mode) -> None:
    with presentation.pair() as pair, presentation.listener() as listener:
        for sock in (*pair, listener):
            assert record_of(sock) == sock.smc_info()


def test_unconnected_socket_has_no_addresses(presentation: Presentation, smc_mode: Mode) -> None:
    with presentation.open() as sock:
        info = record_of(sock)
    assert (info.state, info.local, info.peer, info.mode) == (State.INIT, None, None, None)


def test_closed_socket_is_not_listed(presentation: Presentation, smc_mode: Mode) -> None:
    with presentation.open() as sock:
        inode = record_of(sock).inode
    assert inode not in {info.inode for info in sockets()}


@pytest.mark.parametrize("presentation", [INET, INET6], ids=lambda p: p.name)
def test_addresses_of_ipproto_smc_sockets(presentation: Presentation, smc_mode: Mode) -> None:
    try:
        listener = socket.socket(presentation.inet, socket.SOCK_STREAM, IPPROTO_SMC)
    except OSError:
        pytest.skip("IPPROTO_SMC came with Linux 6.11")
    client = socket.socket(presentation.inet, socket.SOCK_STREAM, IPPROTO_SMC)
    with closing(listener, client):
        listener.bind((presentation.host, 0))
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            by_inode = {info.inode: info for info in sockets()}
            for sock in (listener, client, server):
                info = by_inode[os.fstat(sock.fileno()).st_ino]
                assert info.local == sock.getsockname()
                assert info.peer == (None if sock is listener else sock.getpeername())


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_wildcard_address_is_of_the_listeners_family(wildcard: str, smc_mode: Mode) -> None:
    family = socket.AF_INET6 if ":" in wildcard else socket.AF_INET
    with smcsock.create_server((wildcard, 0), family=family) as listener:
        assert record_of(listener).local == listener.getsockname()


def test_address_that_could_be_one_of_two_stays_unspecified(smc_mode: Mode) -> None:
    with smcsock.create_server(("::", 0), family=socket.AF_INET6) as inet6:
        port = inet6.getsockname()[1]
        with smcsock.create_server(("0.0.0.0", port)) as inet:
            assert record_of(inet).local == record_of(inet6).local == ("0.0.0.0", port)


def test_sockets_come_in_several_parts(smc_mode: Mode) -> None:
    opened = [smcsock.socket() for _ in range(400)]  # the kernel fits fewer into one
    with closing(*opened):
        inodes = [info.inode for info in sockets()]
        assert {os.fstat(sock.fileno()).st_ino for sock in opened} <= set(inodes)
    assert len(inodes) == len(set(inodes))


def test_without_smc_diag_there_is_no_list(no_smc_diag: None) -> None:
    with pytest.raises(DiagUnavailableError, match="modprobe smc_diag"):
        sockets()


# ----- system and devices


def test_system(smc_mode: Mode) -> None:
    found = system()
    assert found == System(
        version=2,
        release=found.release,
        ism_v2=smc_mode is Mode.SMCD,
        smcr_v2=True,
        hostname=os.uname().nodename[:32],
        seid=seid().name,
    )
    assert found.release == (0 if VM_KERNEL == "6.1" else 1)


def test_device_for_smcr(smc_mode: Mode) -> None:
    only_in("smcr")
    (device,) = devices()
    assert isinstance(device, SmcrDevice)
    (port,) = device.ports
    assert (device.name, device.pci) == ("rxe0", None)
    assert (port.number, port.active, port.interface) == (1, True, "lo")
    with SMC.pair():
        (device,) = devices()
        assert isinstance(device, SmcrDevice)
        assert device.in_use
        assert device.is_critical
        # Each end of a connection within a host has a link of its own.
        assert device.ports[0].links == len(links())


def test_kernel_lists_no_loopback_device(smc_mode: Mode) -> None:
    only_in("smcd")
    assert devices() == []
    assert system().ism_v2


def test_no_device(smc_mode: Mode) -> None:
    only_in("tcp")
    assert (devices(), link_groups(), links()) == ([], [], [])


# ----- link groups


def test_link_group_of_an_smcd_connection(pair_ipv4: Pair) -> None:
    only_in("smcd")
    groups = {group.id: group for group in link_groups()}
    for sock in pair_ipv4:
        dmb = sock.smc_info().dmb
        assert dmb is not None
        group = groups[dmb.link_id]
        assert isinstance(group, SmcdLinkGroup)
        assert group.is_loopback
        if DIBS.exists():
            assert str(UUID(int=group.gid)) == (DIBS / "lo/gid").read_text().strip()
        assert (group.gid, group.peer_gid) == (dmb.gid, dmb.peer_gid)
        assert group.connections > 0
        assert group.dmb_size
        assert group.v2 is not None
        assert (group.v2.version, group.v2.os) == (2, "Linux")
        assert group.v2.hostname == os.uname().nodename
        assert group.v2.eid in (*ueids(), seid().name)


def test_link_group_of_an_smcr_connection(pair_ipv4: Pair) -> None:
    only_in("smcr")
    groups = {group.id: group for group in link_groups()}
    uids = {(link.uid, link.peer_uid) for link in links()}
    for sock in pair_ipv4:
        of_socket = sock.smc_info().link_group
        assert of_socket is not None
        link = next(
            link
            for link in links()
            if isinstance(group := groups[link.link_group], SmcrLinkGroup)
            and group.role == of_socket.role
            and group.connections
        )
        assert (link.id, link.device, link.port, link.gid, link.peer_gid) == (
            of_socket.link_id,
            of_socket.device,
            of_socket.port,
            of_socket.gid,
            of_socket.peer_gid,
        )
        assert (link.state, link.interface) == (LinkState.ACTIVE, "lo")
        assert link.connections > 0
        assert (link.peer_uid, link.uid) in uids
        group = groups[link.link_group]
        assert isinstance(group, SmcrLinkGroup)
        cookie = sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
        assert group.net_cookie == int.from_bytes(cookie, sys.byteorder)
        assert group.rmb_size
        assert group.sndbuf_size
        assert group.v2 is not None
        assert group.v2.eid in ueids()
        assert group.v2.direct


# ----- counters


def counted_fallbacks(counted: Stats) -> set[tuple[str, int, int]]:
    return {(entry.role, entry.reason.code, entry.count) for entry in counted.fallbacks}


def test_smc_connection_is_counted(presentation: Presentation, smc_mode: Mode) -> None:
    mode = presentation.expected_mode(smc_mode)
    if mode is Mode.TCP:
        pytest.skip("needs SMC-D or SMC-R: this connection is TCP here")
    before = stats()
    with presentation.pair() as (client, server):
        client.sendall(b"x" * 9000)
        assert server.recv(9000, socket.MSG_WAITALL) == b"x" * 9000
        counted = stats().since(before)
    smcd, smcr = counted.smcd, counted.smcr
    used, unused = (smcd, smcr) if mode is Mode.SMCD else (smcr, smcd)
    assert (used.client_v2, used.server_v2, used.connections) == (1, 1, 2)
    assert (unused.connections, unused.sent.bytes, unused.received.bytes) == (0, 0, 0)
    assert (used.sent.requests, used.sent.bytes, used.received.bytes) == (1, 9000, 9000)
    assert used.sent.request_sizes == Sizes(0, 1, 0, 0, 0, 0, 0, 0, 0)
    assert used.received.buffer_sizes == Sizes(0, 0, 0, 2, 0, 0, 0, 0, 0)
    assert used.received.allocated + used.received.reused == 2
    assert used.received.buffer_bytes
    assert (counted.client_fallbacks, counted.server_fallbacks, counted.fallbacks) == (0, 0, ())


def test_fallback_for_want_of_a_device_is_counted(
    presentation: Presentation, smc_mode: Mode
) -> None:
    if presentation.expected_mode(smc_mode) is not Mode.TCP:
        pytest.skip("needs a fallback to TCP: this connection is SMC here")
    before = stats()
    with presentation.pair():
        counted = stats().since(before)
    assert counted_fallbacks(counted) == {("client", NOSMCDEV, 1), ("server", PEERDECL, 1)}
    assert (counted.client_fallbacks, counted.server_fallbacks) == (1, 1)
    assert (counted.smcd.connections, counted.smcr.connections) == (0, 0)


def test_fallback_for_a_tcp_client_is_counted(presentation: Presentation, smc_mode: Mode) -> None:
    with presentation.listener() as listener, presentation.tcp_socket() as client:
        before = stats()
        client.connect(listener.getsockname())
        listener.accept()[0].close()
        assert counted_fallbacks(stats().since(before)) == {("server", PEERNOSMC, 1)}


def test_fallback_for_want_of_a_ueid_is_counted(own_ueids: list[str]) -> None:
    only_in("smcd")
    clear_ueids()
    skip_if_seid_does()
    before = stats()
    with SMC.pair() as (client, server):
        counted = stats().since(before)
        infos = client.smc_info(), server.smc_info()
    assert counted_fallbacks(counted) == {("client", PEERDECL, 1), ("server", NOUEID, 1)}
    assert [(info.mode, info.reason, info.peer_reason) for info in infos] == [
        (Mode.TCP, reason(PEERDECL), reason(NOUEID)),
        (Mode.TCP, reason(NOUEID), None),
    ]
    add_ueid(own_ueids[0])
    with SMC.pair() as (client, _):
        assert client.smc_info().mode is Mode.SMCD


NO_SIZES = Sizes(0, 0, 0, 0, 0, 0, 0, 0, 0)
NOTHING = Direction(0, 0, NO_SIZES, NO_SIZES, None, 0, 0, 0, 0, 0, 0, 0)
IDLE = Technology(0, 0, 0, 0, NOTHING, NOTHING, 0, 0, 0, 0, 0)
NEVER = Stats(IDLE, IDLE, 0, 0, 0, 0, ())


@on_host
def test_difference_of_counters() -> None:
    def at(requests: int, size: int, buffer_bytes: int) -> Stats:
        sizes = dataclasses.replace(NO_SIZES, up_to_8k=size)
        sent = dataclasses.replace(
            NOTHING, requests=requests, request_sizes=sizes, buffer_bytes=buffer_bytes
        )
        return dataclasses.replace(NEVER, smcd=dataclasses.replace(IDLE, sent=sent))

    assert at(7, 5, 100).since(at(3, 5, 300)) == at(4, 0, 100)
    assert at(7, 5, 100).since(NEVER) == at(7, 5, 100)


@on_host
def test_counter_that_was_started_again_counts_from_then() -> None:
    now = dataclasses.replace(
        NEVER, client_fallbacks=2, fallbacks=(Fallback("client", reason(NOSMCDEV), 2),)
    )
    earlier = dataclasses.replace(
        NEVER, client_fallbacks=9, fallbacks=(Fallback("client", reason(NOSMCDEV), 9),)
    )
    assert now.since(earlier) == now


@on_host
def test_counters_of_reasons_wrap_at_16_bits() -> None:
    def at(*counts: int) -> Stats:
        codes = (NOSMCDEV, PEERDECL)
        return dataclasses.replace(
            NEVER,
            fallbacks=tuple(
                Fallback("client", reason(code), count)
                for code, count in zip(codes, counts, strict=False)
            ),
        )

    assert at(3, 5).since(at(65534, 5)) == at(5)
    assert at(3, 5).since(NEVER) == at(3, 5)


# ----- enterprise IDs


def test_ueid_is_added_and_removed(own_ueids: list[str]) -> None:
    add_ueid(EID)
    assert ueids() == [*own_ueids, EID]
    with refused(errno.EEXIST, f"{EID} is defined already"):
        add_ueid(EID)
    remove_ueid(EID)
    assert ueids() == own_ueids
    with refused(errno.ENOENT, f"{EID} is not defined"):
        remove_ueid(EID)


def test_there_are_four_ueids_at_most(own_ueids: list[str]) -> None:
    clear_ueids()
    assert ueids() == []
    names = ["A", "0", "A-.B", "Z" * 32]
    for name in names:
        add_ueid(name)
    assert ueids() == names
    with refused(errno.ERANGE, "remove one first"):
        add_ueid("E")


@on_host
@pytest.mark.parametrize(
    "name", ["", " ", "a", "Ab", ".A", "-A", "A..B", "A B", "A ", "Ä", "A_", "A" * 33, "A\0", "A\n"]
)
def test_what_cannot_be_a_ueid_is_refused(name: str) -> None:
    for change in (add_ueid, remove_ueid):
        with pytest.raises(ValueError, match=r"^not an EID"):
            change(name)


@pytest.mark.skipif(IS_IBM_Z, reason="is IBM Z")
def test_there_is_no_system_eid_off_ibm_z(changing: None) -> None:
    assert seid() == SystemEid(None, False)
    for change in (enable_seid, disable_seid):
        with refused(errno.EOPNOTSUPP, "only IBM Z"):
            change()


@pytest.mark.skipif(not IS_IBM_Z, reason="needs IBM Z")
def test_system_eid_is_needed_without_a_ueid(own_ueids: list[str], smc_mode: Mode) -> None:
    if smc_mode is not Mode.SMCD:
        pytest.skip("needs SMC-D: the kernel shows no system EID without it")
    found = seid()
    assert found.enabled
    assert found.name is not None
    assert found.name.startswith("IBM-SYSZ-ISMSEID")
    disable_seid()
    assert seid() == SystemEid(found.name, False)
    remove_ueid(own_ueids[0])
    assert seid() == found
    with refused(errno.ENOENT, "add one first"):
        disable_seid()
    with SMC.pair() as (client, _):
        assert client.smc_info().mode is Mode.SMCD
    add_ueid(own_ueids[0])
    disable_seid()
    enable_seid()
    assert seid() == found


# ----- the PNET table


def test_pnetid_of_an_interface(own_pnet_table: None) -> None:
    add_pnetid("testNet1", interface="lo")
    assert pnetids() == [PnetId("TESTNET1", interface="lo")]
    with refused(errno.EEXIST, "lo: there is a PNET ID already"):
        add_pnetid("TESTNET2", interface="lo")
    with refused(errno.ENOENT, "has no TESTNET2"):
        remove_pnetid("TestNet2")
    remove_pnetid("testnet1")
    assert pnetids() == []


def test_pnetid_of_a_device_that_may_come(own_pnet_table: None) -> None:
    add_pnetid("A" * 16, interface="eth-none", ib_device="mlx-none", ib_port=2)
    assert pnetids() == [
        PnetId("A" * 16, interface="eth-none"),
        PnetId("A" * 16, device="mlx-none", port=2),
    ]
    clear_pnetids()
    assert pnetids() == []


def test_pnet_table_has_one_port_of_a_device(own_pnet_table: None) -> None:
    add_pnetid("FIRST", ib_device="none")
    with refused(errno.EEXIST, "none: there is a PNET ID already"):
        add_pnetid("SECOND", ib_device="none", ib_port=2)
    # Of two in one call one is enough for the kernel.
    add_pnetid("THIRD", interface="lo", ib_device="none")
    assert pnetids() == [
        PnetId("FIRST", device="none", port=1),
        PnetId("THIRD", interface="lo"),
    ]


def test_pnetid_of_an_rdma_device(own_pnet_table: None) -> None:
    only_in("smcr")

    def port() -> tuple[str, bool]:
        (device,) = devices()
        assert isinstance(device, SmcrDevice)
        return device.ports[0].pnetid, device.ports[0].pnetid_by_user

    add_pnetid("ROCE", ib_device="rxe0")
    assert (pnetids(), port()) == ([PnetId("ROCE", device="rxe0", port=1)], ("ROCE", True))
    remove_pnetid("ROCE")
    assert port() == ("", False)


def test_pnetid_of_an_smcd_device(own_pnet_table: None, pair_ipv4: Pair) -> None:
    only_in("smcd")
    name = "lo" if DIBS.exists() else "loopback-ism"
    add_pnetid("ISM", smcd_device=name)
    assert pnetids() == [PnetId("ISM", device=name, port=1)]
    assert {group.pnetid for group in link_groups()} == {"ISM"}


@on_host
@pytest.mark.parametrize("name", ["", "A" * 17, "NET-1", "NET 1", "NÖT", "NET1\n", " NET1"])
def test_what_cannot_be_a_pnetid_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^not a PNET ID"):
        add_pnetid(name, interface="lo")
    with pytest.raises(ValueError, match=r"^not a PNET ID"):
        remove_pnetid(name)


@on_host
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "needs a network interface or a device"),
        ({"ib_device": "a", "smcd_device": "b"}, "not both"),
        ({"interface": "lo", "ib_port": 1}, "needs its RDMA device"),
        ({"smcd_device": "a", "ib_port": 1}, "needs its RDMA device"),
        ({"ib_device": "a", "ib_port": 0}, "not a port"),
        ({"ib_device": "a", "ib_port": 3}, "not a port"),
        ({"interface": "i" * 16}, "not the name"),
        ({"interface": ""}, "not the name"),
        ({"ib_device": "i" * 64}, "not the name"),
        ({"smcd_device": "i\0"}, "not the name"),
    ],
)
def test_what_cannot_have_a_pnetid_is_refused(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        add_pnetid("NET", **arguments)  # type: ignore[arg-type]


# ----- the limitation of handshakes


def test_limitation_of_handshakes_is_that_of_new_sockets(changing: None) -> None:
    assert handshake_limitation() is False
    with SMC.open() as older:
        try:
            limit_handshakes(True)
            assert handshake_limitation() is True
            with SMC.open() as newer:
                limits = [sock.getsockopt(SOL_SMC, SMC_LIMIT_HS) for sock in (older, newer)]
        finally:
            limit_handshakes(False)
    assert limits == [0, 1]
    assert handshake_limitation() is False


# ----- who may ask, and when there is no answer


def test_reading_needs_no_privilege(smc_mode: Mode) -> None:
    need_root()

    def read() -> str:
        return repr([function() for function in READERS])

    def ask() -> str:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return read()

    assert in_child(ask) == read()


def test_changing_takes_privilege(smc_mode: Mode) -> None:
    need_root()

    def attempt() -> str:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        said = set()
        for change in CHANGERS.values():
            with pytest.raises(DiagError) as caught:
                change()
            said.add(str(caught.value))
        return "\n".join(said)

    system()  # the child has pyroute2 from here
    assert in_child(attempt) == str(DiagError(errno.EPERM, NOT_PERMITTED))


def test_root_of_a_user_namespace_is_not_root(smc_mode: Mode) -> None:
    need_root()

    def attempt() -> str:
        clone_newuser = 0x10000000
        assert ctypes.CDLL(None).unshare(clone_newuser | CLONE_NEWNET) == 0
        with pytest.raises(DiagError) as caught:
            limit_handshakes(True)
        return str(caught.value.errno)

    system()  # the child has pyroute2 from here
    assert in_child(attempt) == str(errno.EPERM)


def test_network_namespaces_have_sockets_counters_and_pnet_tables(
    own_pnet_table: None, pair_ipv4: Pair
) -> None:
    add_pnetid("TESTNET", interface="lo")

    def ask() -> str:
        assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
        found = sockets(), pnetids(), stats().fallbacks
        with pytest.raises(DiagError) as caught:
            add_pnetid("TESTNET", ib_device="none")
        return f"{found} {caught.value.errno}"

    assert in_child(ask) == f"([], [], ()) {errno.EEXIST}"


@without_smc
@pytest.mark.parametrize("ask", [sockets, *READERS, *CHANGERS.values()])
def test_kernel_has_none(ask: Callable[[], object]) -> None:
    before = open_descriptors()
    with refused(errno.EAFNOSUPPORT, "modprobe smc"):
        ask()
    assert open_descriptors() == before


def test_nothing_leaks(smc_mode: Mode) -> None:
    system()
    before = open_descriptors()
    for read in (sockets, *READERS):
        read()
    with pytest.raises(OSError, match=r"is not defined|only root"):
        remove_ueid("NOT-THERE")
    assert open_descriptors() == before


def test_default_timeout_does_not_matter(smc_mode: Mode) -> None:
    socket.setdefaulttimeout(0)
    assert (system(), sockets()) == (system(), sockets())


def test_in_an_event_loop(smc_mode: Mode) -> None:
    async def ask() -> System:
        return system()

    assert asyncio.run(ask()) == system()


def test_in_many_threads(smc_mode: Mode) -> None:
    expected = system(), ueids()
    barrier = threading.Barrier(4)

    def ask(_: int) -> object:
        barrier.wait()
        return system(), ueids()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [expected] * 4


@on_host
def test_interfaces_have_names_for_a_process_without_af_unix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: int) -> str:
        raise OSError(errno.EAFNOSUPPORT, "no")

    index = socket.if_nametoindex("lo")
    assert (interface_name(index), interface_name(0), interface_name(2**30)) == ("lo", None, None)
    monkeypatch.setattr(socket, "if_indextoname", refuse)
    assert (interface_name(index), interface_name(2**30)) == ("lo", None)


# ----- the extra


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, check=True, text=True, timeout=120).stdout


@on_host
def test_import_loads_neither_the_extra_nor_an_event_loop() -> None:
    heavy = {"asyncio", "pyroute2", "rich", "argparse", "logging"}
    code = f"import sys, smcsock.diag; print(sorted({heavy} & set(sys.modules)))"
    assert run(code) == "[]\n"


@on_host
def test_import_costs_little_more_than_the_socket_modules() -> None:
    code = """
import sys, socket
import operator, select  # small; before Python 3.14 socket brings them
before = set(sys.modules)
import smcsock
print(sorted({name for name in sys.modules if "smcsock" not in name} - before - {"__future__"}))
"""
    assert run(code) == "[]\n"


@on_host
def test_smc_info_works_after_a_change_of_the_root(tmp_path: Path) -> None:
    need_root()
    code = f"""
import os, smcsock
sock = smcsock.socket(fallback="tcp")
os.chroot({str(tmp_path)!r})
print(sock.smc_info().peer, smcsock.socket(fallback="tcp").fileno() > 0)
"""
    assert run(code) == "None True\n"


@on_host
def test_sockets_can_be_opened_after_a_change_of_the_root(tmp_path: Path) -> None:
    need_root()
    code = f"""
import os, smcsock
os.chroot({str(tmp_path)!r})
with smcsock.create_server(("127.0.0.1", 0), fallback="tcp") as listener:
    with smcsock.socket(fallback="tcp") as client:
        client.connect(listener.getsockname())
        print(listener.accept()[1] == client.getsockname())
"""
    assert run(code) == "True\n"


@on_host
def test_without_the_extra_only_sockets_are_listed() -> None:
    code = """
import sys
sys.modules["pyroute2"] = None
from smcsock import diag
try:
    print(isinstance(diag.sockets(), list))
except diag.DiagError as error:
    print(error.errno == 97)
for ask in (diag.system, diag.stats, diag.clear_ueids, diag.pnetids):
    try:
        ask()
    except diag.ExtraMissingError as error:
        print(error)
"""
    first, *others = run(code).splitlines()
    assert first == "True"
    assert others == ["this needs the Python package pyroute2: pip install 'smcsock[diag]'"] * 4


@on_host
@pytest.mark.parametrize("error", [ExtraMissingError("rich"), DiagError(errno.EPERM, "no")])
def test_errors_can_be_pickled(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))


def test_what_is_read_can_be_pickled_and_hashed(smc_mode: Mode) -> None:
    for found in (stats(), system(), *link_groups(), *devices()):
        assert pickle.loads(pickle.dumps(found)) == found
        assert hash(found) == hash(dataclasses.replace(found))


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


@on_host
def test_ism_device_as_the_kernel_writes_it() -> None:
    port = attribute(1, b"\1") + attribute(2, b"NET1            \0")
    device = b"".join(
        (
            attribute(1, struct.pack("=I", 2)),
            attribute(2, b"\1"),
            attribute(3, struct.pack("=I", 0x1234)),
            attribute(4, struct.pack("=H", 0x7C0)),
            attribute(5, struct.pack("=H", 0x1014)),
            attribute(6, struct.pack("=H", 0x04ED)),
            attribute(7, b"0001:00:00.0\0"),
            attribute(8 | 0x8000, port),
            attribute(99, b"of a newer kernel"),
        )
    )
    payload = struct.pack("=BBH", 5, 1, 0) + attribute(5 | 0x8000, device)
    message = struct.pack("=IHHII", 16 + len(payload), 30, 2, 1, 0) + payload
    decoded = attributes(_decode(message_class(SmcCommand.GET_DEV_SMCD), message))
    found = _smcd_device(decoded["SMC_GEN_DEV_SMCD"])
    pci = Pci("0001:00:00.0", 0x1234, 0x7C0, 0x1014, 0x04ED)
    assert found == SmcdDevice(pci, 2, "NET1", True)
    assert (found.in_use, pci.type) == (True, "ISM")
