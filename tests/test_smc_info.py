"""smc_info(): what the kernel says of a socket, held against what is known otherwise."""

import contextlib
import copy
import ctypes
import dataclasses
import errno
import os
import pickle
import random
import shutil
import socket
import struct
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from conftest import INET, INET6, SMC, SMC6, VM_MODE, Presentation
from descriptors import open_descriptors
from test_socket import LIMIT, Pair, drain, over_ipv4, raises, receive, tcp_pair
from test_socket import time_limit as time_limit

import smcsock
from smcsock import (
    AF_SMC,
    Connection,
    ConnectionFlag,
    Cursor,
    DiagUnavailableError,
    Dmb,
    FallbackError,
    LinkGroup,
    Mode,
    ProducerFlag,
    Reason,
    SmcInfo,
    State,
    _smcsock,
)
from smcsock._kernel._reasons import reason
from smcsock._kernel._smc_info import decode, query
from smcsock._kernel._sock_diag import each_record, records

NOSMCDEV, PEERNOSMC, PEERDECL, OPTUNSUPP = 0x03030000, 0x03010000, 0x05000000, 0x03060000

SO_COOKIE = 57
TCP_FASTOPEN_CONNECT = 30
CLONE_NEWNET = 0x40000000
NOBODY = 65534


@pytest.fixture
def smc_pair(presentation: Presentation, smc_mode: Mode) -> Iterator[Pair]:
    """A connection that is SMC-D or SMC-R."""
    if presentation.expected_mode(smc_mode) is Mode.TCP:
        pytest.skip("needs SMC-D or SMC-R: this connection is TCP here")
    with presentation.pair() as sockets:
        yield sockets


@pytest.fixture
def fallen_back_pair(presentation: Presentation, smc_mode: Mode) -> Iterator[Pair]:
    """A connection that is TCP, for want of devices."""
    if presentation.expected_mode(smc_mode) is not Mode.TCP:
        pytest.skip("needs a fallback to TCP: this connection is SMC here")
    with presentation.pair() as sockets:
        yield sockets


def eventually(sock: smcsock.socket, state: State) -> SmcInfo:
    """The information once the socket is in a state: a worker of the kernel sets it."""
    deadline = time.monotonic() + LIMIT / 2
    while (info := sock.smc_info()).state is not state and time.monotonic() < deadline:
        time.sleep(0.01)
    return info


def connection(sock: smcsock.socket) -> Connection:
    found = sock.smc_info().connection
    assert found is not None
    return found


# ----- the mode, and why


def test_mode_at_both_ends(presentation: Presentation, pair: Pair, smc_mode: Mode) -> None:
    expected = presentation.expected_mode(smc_mode)
    assert [sock.smc_info().mode for sock in pair] == [expected, expected]


def test_smc_has_no_reason_for_a_fallback(smc_pair: Pair) -> None:
    for info in (sock.smc_info() for sock in smc_pair):
        assert (info.is_smc, info.reason, info.peer_reason) == (True, None, None)


def test_client_falls_back_for_want_of_a_device(fallen_back_pair: Pair) -> None:
    info = fallen_back_pair[0].smc_info()
    assert (info.is_smc, info.reason, info.peer_reason) == (False, reason(NOSMCDEV), None)


def test_server_falls_back_with_the_clients_diagnosis(fallen_back_pair: Pair) -> None:
    info = fallen_back_pair[1].smc_info()
    expected = False, reason(PEERDECL), reason(NOSMCDEV)
    assert (info.is_smc, info.reason, info.peer_reason) == expected


def test_server_of_a_tcp_client_falls_back(presentation: Presentation, smc_mode: Mode) -> None:
    with presentation.listener() as listener, presentation.tcp_socket() as client:
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            info = server.smc_info()
            assert (info.mode, info.reason) == (Mode.TCP, reason(PEERNOSMC))


def test_client_of_a_tcp_server_falls_back(presentation: Presentation, smc_mode: Mode) -> None:
    with presentation.tcp_socket() as listener, presentation.open() as client:
        listener.bind((presentation.host, 0))
        listener.listen()
        client.connect(listener.getsockname())
        info = client.smc_info()
        assert (info.mode, info.reason) == (Mode.TCP, reason(PEERNOSMC))


def test_fast_open_falls_back_at_once(presentation: Presentation, smc_mode: Mode) -> None:
    with presentation.open() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        info = sock.smc_info()
        assert (info.mode, info.reason) == (Mode.TCP, reason(OPTUNSUPP))


def test_mode_is_undecided_before_there_is_a_connection(
    presentation: Presentation, smc_mode: Mode
) -> None:
    with presentation.open() as unconnected, presentation.listener() as listener:
        assert (unconnected.smc_info().mode, listener.smc_info().mode) == (None, None)


def test_tcp_socket_of_fallback_is_tcp_and_no_more(presentation: Presentation) -> None:
    with (
        tcp_pair(presentation) as (client, _),
        smcsock.fromfd(client.fileno(), fallback="tcp") as sock,
    ):
        assert sock.smc_info() == SmcInfo(Mode.TCP)


# ----- what socket.socket can tell too


def test_names_are_those_of_the_socket(pair: Pair, smc_mode: Mode) -> None:
    for sock in pair:
        info = sock.smc_info()
        assert (info.local, info.peer) == (sock.getsockname(), sock.getpeername())


def test_listener_has_a_local_name_only(presentation: Presentation, smc_mode: Mode) -> None:
    with presentation.listener() as sock:
        info = sock.smc_info()
        assert (info.local, info.peer) == (sock.getsockname(), None)


def test_unbound_socket_has_no_name(presentation: Presentation, smc_mode: Mode) -> None:
    with presentation.open() as sock:
        info = sock.smc_info()
        assert (info.local, info.peer) == (None, None)


def test_names_over_both_ip_versions(smc_mode: Mode) -> None:
    with INET6.open() as listener, INET.open() as client:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", 0))
        listener.listen()
        client.connect(("127.0.0.1", listener.getsockname()[1]))
        server, _ = listener.accept()
        with server:
            info = server.smc_info()
            assert info.peer == ("::ffff:127.0.0.1", client.getsockname()[1], 0, 0)
            assert (info.local, info.peer) == (server.getsockname(), server.getpeername())


def test_inode_is_the_descriptors(pair: Pair, smc_mode: Mode) -> None:
    for sock in pair:
        assert sock.smc_info().inode == os.fstat(sock.fileno()).st_ino


def test_uid_is_the_owners(pair: Pair, smc_mode: Mode) -> None:
    assert [sock.smc_info().uid for sock in pair] == [os.getuid(), os.getuid()]


def test_cookie_is_the_sockets(presentation: Presentation, smc_mode: Mode) -> None:
    with presentation.open() as sock:
        (cookie,) = struct.unpack("Q", sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))
        assert sock.smc_info().cookie == cookie


def test_family_is_the_kernels(pair: Pair, smc_mode: Mode) -> None:
    assert [sock.smc_info().family for sock in pair] == [AF_SMC, AF_SMC]


def test_interface_is_the_one_that_it_is_bound_to(
    presentation: Presentation, smc_mode: Mode
) -> None:
    with presentation.listener() as listener, presentation.open() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            indexes = client.smc_info().interface, server.smc_info().interface
            assert indexes == (socket.if_nametoindex("lo"), 0)


def test_closed_socket_is_ebadf(presentation: Presentation) -> None:
    sock = presentation.open()
    sock.close()
    with raises(errno.EBADF):
        sock.smc_info()


# ----- states


def test_states_before_there_is_a_connection(presentation: Presentation, smc_mode: Mode) -> None:
    with presentation.open() as unconnected, presentation.listener() as listener:
        states = unconnected.smc_info().state, listener.smc_info().state
        assert states == (State.INIT, State.LISTEN)


def test_connection_is_active(pair: Pair, smc_mode: Mode) -> None:
    for info in (sock.smc_info() for sock in pair):
        assert (info.state, info.shutdown) == (State.ACTIVE, 0)


def test_shutdown_wr_shows_at_both_ends(smc_pair: Pair) -> None:
    sock, peer = smc_pair
    sock.shutdown(socket.SHUT_WR)
    assert drain(peer) == b""
    here, there = sock.smc_info(), eventually(peer, State.APPCLOSEWAIT1)
    assert (here.state, here.shutdown) == (State.PEERCLOSEWAIT1, 2)
    assert (there.state, there.shutdown) == (State.APPCLOSEWAIT1, 1)
    assert connection(sock).tx_conn_flags is ConnectionFlag.SENDING_DONE
    assert connection(peer).rx_conn_flags is ConnectionFlag.SENDING_DONE


def test_shutdown_wr_of_both(smc_pair: Pair) -> None:
    sock, peer = smc_pair
    sock.shutdown(socket.SHUT_WR)
    drain(peer)
    eventually(peer, State.APPCLOSEWAIT1)
    peer.shutdown(socket.SHUT_WR)
    drain(sock)
    infos = eventually(sock, State.PEERCLOSEWAIT2), eventually(peer, State.APPCLOSEWAIT2)
    assert [info.state for info in infos] == [State.PEERCLOSEWAIT2, State.APPCLOSEWAIT2]
    assert [info.shutdown for info in infos] == [3, 3]


def test_shutdown_rdwr(smc_pair: Pair) -> None:
    sock, _ = smc_pair
    sock.shutdown(socket.SHUT_RDWR)
    info = sock.smc_info()
    assert (info.state, info.shutdown) == (State.PEERCLOSEWAIT1, 3)
    assert connection(sock).tx_conn_flags is ConnectionFlag.CLOSED


def test_close_of_the_peer(smc_pair: Pair) -> None:
    sock, peer = smc_pair
    peer.close()
    assert drain(sock) == b""
    info = eventually(sock, State.APPCLOSEWAIT1)
    assert (info.is_smc, info.state, info.shutdown) == (True, State.APPCLOSEWAIT1, 1)
    assert connection(sock).rx_conn_flags is ConnectionFlag.CLOSED


def test_fallback_stays_as_it_was_when_it_fell_back(fallen_back_pair: Pair) -> None:
    # The descriptor is the TCP socket's from then on: smc_diag no longer hears of it.
    sock, peer = fallen_back_pair
    sock.shutdown(socket.SHUT_WR)
    drain(peer)
    peer.close()
    assert drain(sock) == b""
    info = sock.smc_info()
    assert (info.mode, info.state, info.shutdown) == (Mode.TCP, State.ACTIVE, 0)


# ----- buffers, link group, DMBs


def test_buffer_sizes_are_the_peers_of_each_other(smc_pair: Pair) -> None:
    for sock, peer in (smc_pair, smc_pair[::-1]):
        assert connection(sock).rmbe_size == connection(peer).peer_rmbe_size > 0
        assert connection(sock).sndbuf_size > 0


def test_tokens_of_the_ends_differ(smc_pair: Pair) -> None:
    client, server = (connection(sock).token for sock in smc_pair)
    assert client != server


def test_cursors_of_a_new_connection_are_at_the_start(smc_pair: Pair) -> None:
    for found in map(connection, smc_pair):
        rx = found.rx_prod, found.rx_cons
        tx = found.tx_prod, found.tx_cons, found.tx_prep, found.tx_sent, found.tx_fin
        assert {*rx, *tx} == {Cursor(0, 0)}
        assert found.tx_prod_flags is found.rx_prod_flags is ProducerFlag(0)


def test_cursors_move_by_what_was_sent_and_received(smc_pair: Pair) -> None:
    for sock, peer in (smc_pair, smc_pair[::-1]):
        sock.sendall(bytes(1000))
        peer.recv(1000, socket.MSG_PEEK | socket.MSG_WAITALL)
        receive(peer, 400)
        sent, received = connection(sock), connection(peer)
        assert {sent.tx_prep, sent.tx_sent, sent.tx_prod} == {Cursor(0, 1000)}
        assert (received.rx_prod, received.tx_cons) == (Cursor(0, 1000), Cursor(0, 400))


def test_cursors_wrap_at_the_end_of_the_buffer(smc_pair: Pair) -> None:
    sock, peer = smc_pair
    total = 0
    while total <= 2 * connection(peer).rmbe_size:
        sock.sendall(bytes(10_000))
        total += len(receive(peer, 10_000))
    sent, received = connection(sock), connection(peer)

    def position(cursor: Cursor, size: int) -> int:
        return cursor.wrap * size + cursor.count

    assert position(sent.tx_prod, sent.peer_rmbe_size) == total
    assert position(sent.tx_sent, sent.sndbuf_size) == total
    assert position(received.rx_prod, received.rmbe_size) == total
    assert position(received.tx_cons, received.rmbe_size) == total


def test_dmbs_are_the_peers_of_each_other(smc_pair: Pair, smc_mode: Mode) -> None:
    if smc_mode is not Mode.SMCD:
        pytest.skip("needs SMC-D: this guest does SMC-R")
    client, server = (sock.smc_info().dmb for sock in smc_pair)
    assert client is not None
    assert server is not None
    assert (client.token, client.gid) == (server.peer_token, server.peer_gid)
    assert (server.token, server.gid) == (client.peer_token, client.peer_gid)
    assert client.token != server.token


def test_gid_of_loopback_is_one_of_128_bits(smc_pair: Pair, smc_mode: Mode) -> None:
    if smc_mode is not Mode.SMCD:
        pytest.skip("needs SMC-D: this guest does SMC-R")
    for dmb in (sock.smc_info().dmb for sock in smc_pair):
        assert dmb is not None
        assert dmb.gid == dmb.peer_gid > 1 << 64


@over_ipv4
def test_link_group_has_a_client_and_a_server(smc_pair: Pair, smc_mode: Mode) -> None:
    if smc_mode is not Mode.SMCR:
        pytest.skip("needs SMC-R: this guest does SMC-D")
    client, server = (sock.smc_info().link_group for sock in smc_pair)
    assert client is not None
    gid = "0000:0000:0000:0000:0000:ffff:7f00:0001"
    assert client == LinkGroup("client", client.link_id, "rxe0", 1, gid, gid)
    assert server == dataclasses.replace(client, role="server")


def test_details_are_those_of_the_mode(
    presentation: Presentation, pair: Pair, smc_mode: Mode
) -> None:
    mode = presentation.expected_mode(smc_mode)
    for info in (sock.smc_info() for sock in pair):
        assert (info.connection is not None) is (mode is not Mode.TCP)
        assert (info.link_group is not None) is (mode is Mode.SMCR)
        assert (info.dmb is not None) is (mode is Mode.SMCD)


# ----- as a value


def test_information_cannot_be_changed(pair: Pair) -> None:
    info = pair[0].smc_info()
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.mode = None  # type: ignore[misc]


def test_information_may_be_copied_and_stored(pair: Pair) -> None:
    for sock in pair:
        info = sock.smc_info()
        for same in (copy.deepcopy(info), pickle.loads(pickle.dumps(info))):
            assert same == info
            assert hash(same) == hash(info)


TEXTS = {
    "SMC-D": SmcInfo(Mode.SMCD),
    "SMC-R": SmcInfo(Mode.SMCR, state=State.ACTIVE),
    "TCP": SmcInfo(Mode.TCP),
    "TCP (0x03010000: the peer did not indicate SMC)": SmcInfo(Mode.TCP, reason(PEERNOSMC)),
    "TCP (0x05000000: the peer declined during the handshake; "
    "peer: 0x12345678: a code that Linux does not define)": SmcInfo(
        Mode.TCP, reason(PEERDECL), reason(0x12345678)
    ),
    "undecided": SmcInfo(None),
    "listen": SmcInfo(None, state=State.LISTEN),
    "state 99": SmcInfo(None, state=99),
}


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_the_mode_in_a_line(text: str) -> None:
    assert str(TEXTS[text]) == text


# ----- who may ask, and when there is no answer


def in_child(function: Callable[[], str]) -> str:
    """What a function returns in a process of its own, or the traceback."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = function()
        except BaseException:
            text = traceback.format_exc()
        os.write(writable, text.encode())
        os._exit(0)
    os.close(writable)
    with open(readable, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(pid, 0)
    return text


def need_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


def test_needs_no_privilege(presentation: Presentation, pair: Pair, smc_mode: Mode) -> None:
    need_root()

    def ask() -> str:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        with presentation.pair() as own:
            infos = [sock.smc_info() for sock in (*pair, *own)]
        return " ".join(f"{info.mode},{info.uid}" for info in infos)

    mode = presentation.expected_mode(smc_mode)
    assert in_child(ask) == f"{mode},0 {mode},0 {mode},{NOBODY} {mode},{NOBODY}"


def test_socket_of_another_network_namespace_is_not_listed(
    presentation: Presentation, smc_mode: Mode
) -> None:
    need_root()

    def ask() -> str:
        with presentation.open() as sock:
            assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
            with pytest.raises(DiagUnavailableError) as caught:
                sock.smc_info()
        return str(caught.value)

    assert in_child(ask).endswith("does not list this socket in this network namespace")


def run_kmod(*command: str) -> None:
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    subprocess.run([shutil.which(command[0], path=path) or command[0], *command[1:]], check=True)


@pytest.fixture
def no_smc_diag(smc_mode: Mode) -> Iterator[None]:
    """Takes the kernel its smc_diag, and the way to load it again when it is asked for."""
    if VM_MODE is None:
        pytest.skip("unloads a module of the kernel: for virtual machines only")
    loader = Path("/proc/sys/kernel/modprobe")
    before = loader.read_text()
    loader.write_text("/bin/false")
    try:
        run_kmod("rmmod", "smc_diag")  # modprobe -r would take smc with it, and its EIDs
        yield
    finally:
        loader.write_text(before)
        run_kmod("modprobe", "smc_diag")


def test_without_smc_diag_there_is_no_information(
    presentation: Presentation, pair: Pair, no_smc_diag: None
) -> None:
    for sock in pair:
        with pytest.raises(DiagUnavailableError, match="modprobe smc_diag") as caught:
            sock.smc_info()
        assert caught.value.errno == errno.ENOENT


def test_without_smc_diag_smc_can_be_required(
    presentation: Presentation, smc_mode: Mode, no_smc_diag: None
) -> None:
    with presentation.listener() as listener, presentation.open() as client:
        client.connect(listener.getsockname())
        if presentation.expected_mode(smc_mode) is Mode.TCP:
            with pytest.raises(FallbackError, match=r"reason unknown.*smc_diag") as caught:
                listener.accept(require_smc=True)
            assert caught.value.info is None
        else:
            server, _ = listener.accept(require_smc=True)
            with server:
                server.sendall(b"hello")
                assert receive(client, 5) == b"hello"


def test_without_smc_diag_a_fallback_is_taken_for_tcp(
    fallen_back_pair: Pair, no_smc_diag: None
) -> None:
    for sock in fallen_back_pair:
        with pytest.raises(ValueError, match=r"as far as can be told.*smc_diag"):
            smcsock.fromfd(sock.fileno(), fallback="error")


def test_each_of_many_sockets_is_found(smc_mode: Mode) -> None:
    # The kernel's answer takes some 100 bytes a socket and comes in parts of 32 KiB.
    with contextlib.ExitStack() as stack:
        openers = [SMC.open] * 400 + [SMC6.open] * 400
        socks = [stack.enter_context(opener()) for opener in openers]
        pairs = [stack.enter_context(presentation.pair()) for presentation in (SMC, SMC6)]
        paired = [sock for pair in pairs for sock in pair]
        asked = [*socks[::25], socks[-1], *paired]
        found = [sock.smc_info().inode for sock in asked]
        assert found == inodes(asked)
        assert sorted(map(inode_of, records(inodes(asked)))) == sorted(inodes(asked))
        everyone = inodes([*socks, *paired])
        assert sorted(map(inode_of, records(everyone * 2))) == sorted(everyone)
        assert set(map(inode_of, each_record())) >= set(everyone)


def inodes(socks: list[smcsock.socket]) -> list[int]:
    return [os.fstat(sock.fileno()).st_ino for sock in socks]


def inode_of(record: bytes) -> int:
    inode = decode(record, socket.AF_INET).inode
    assert inode is not None
    return inode


def test_records_are_those_of_the_sockets_asked_for(pair: Pair, smc_mode: Mode) -> None:
    (inode,) = inodes([pair[0]])
    (record,) = records({inode, 1, 2**64 - 1})
    assert decode(record, pair[0]._inet) == query(pair[0])
    assert records(iter([inode])) == [record]
    assert records([1, 2]) == []


def test_without_smc_diag_there_are_no_records(pair: Pair, no_smc_diag: None) -> None:
    with pytest.raises(DiagUnavailableError):
        records(inodes(list(pair)))
    with pytest.raises(DiagUnavailableError):
        list(each_record())


def test_no_inodes_have_no_records() -> None:
    assert _smcsock.records([]) == _smcsock.records(set()) == []


@pytest.mark.parametrize("inodes", [1, ["1"], [1.0], [None]], ids=repr)
def test_inodes_of_another_type(inodes: Any) -> None:
    with pytest.raises(TypeError):
        _smcsock.records(inodes)


@pytest.mark.parametrize("inode", [-1, 2**64])
def test_inodes_of_another_size(inode: int) -> None:
    with pytest.raises(OverflowError):
        _smcsock.records([3, inode])


# ----- require_smc


def test_required_smc_refuses_a_tcp_client(presentation: Presentation) -> None:
    before = open_descriptors()
    with presentation.listener() as listener, presentation.tcp_socket() as client:
        client.connect(listener.getsockname())
        within = open_descriptors()
        with pytest.raises(FallbackError, match=r"SMC was required but .* TCP") as caught:
            listener.accept(require_smc=True)
        assert caught.value.errno == errno.EPROTONOSUPPORT
        assert caught.value.info is not None
        assert caught.value.info.mode is Mode.TCP
        assert open_descriptors() == within
        assert drain(client) == b""
    assert open_descriptors() == before


def test_required_smc_has_the_reason(presentation: Presentation, smc_mode: Mode) -> None:
    with presentation.listener() as listener, presentation.tcp_socket() as client:
        client.connect(listener.getsockname())
        with pytest.raises(FallbackError, match="0x03010000") as caught:
            listener.accept(require_smc=True)
        assert caught.value.info is not None
        assert caught.value.info.reason == reason(PEERNOSMC)


def test_listener_goes_on_after_it_refused_a_client(
    presentation: Presentation, smc_mode: Mode
) -> None:
    is_smc = presentation.expected_mode(smc_mode) is not Mode.TCP
    with (
        presentation.listener() as listener,
        presentation.tcp_socket() as refused,
        presentation.open() as client,
    ):
        refused.connect(listener.getsockname())
        with pytest.raises(FallbackError):
            listener.accept(require_smc=True)
        client.connect(listener.getsockname())
        server, address = listener.accept(require_smc=is_smc)
        with server:
            assert server.getpeername() == address == client.getsockname()
            assert server.smc_info().is_smc is is_smc


# ----- the record of the kernel, built from the structures of linux/smc_diag.h

u8, u16, u32, u64 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64


class SockId(ctypes.Structure):
    _fields_ = (
        ("sport", u8 * 2),
        ("dport", u8 * 2),
        ("src", u8 * 16),
        ("dst", u8 * 16),
        ("interface", u32),
        ("cookie", u32 * 2),
    )


class Message(ctypes.Structure):
    _fields_ = (
        ("family", u8),
        ("state", u8),
        ("mode", u8),
        ("shutdown", u8),
        ("id", SockId),
        ("uid", u32),
        ("inode", u64),
    )


class DiagCursor(ctypes.Structure):
    _fields_ = (("reserved", u16), ("wrap", u16), ("count", u32))


class ConnInfo(ctypes.Structure):
    _fields_ = (
        ("token", u32),
        ("sndbuf_size", u32),
        ("rmbe_size", u32),
        ("peer_rmbe_size", u32),
        ("rx_prod", DiagCursor),
        ("rx_cons", DiagCursor),
        ("tx_prod", DiagCursor),
        ("tx_cons", DiagCursor),
        ("rx_prod_flags", u8),
        ("rx_conn_state_flags", u8),
        ("tx_prod_flags", u8),
        ("tx_conn_state_flags", u8),
        ("tx_prep", DiagCursor),
        ("tx_sent", DiagCursor),
        ("tx_fin", DiagCursor),
    )


class LgrInfo(ctypes.Structure):
    _fields_ = (
        ("link_id", u8),
        ("ibname", ctypes.c_char * 64),
        ("ibport", u8),
        ("gid", ctypes.c_char * 40),
        ("peer_gid", ctypes.c_char * 40),
        ("role", u8),
    )


class OlderDmbInfo(ctypes.Structure):
    _fields_ = (
        ("linkid", u32),
        ("peer_gid", u64),
        ("my_gid", u64),
        ("token", u64),
        ("peer_token", u64),
    )


class DmbInfo(ctypes.Structure):
    _fields_ = (*OlderDmbInfo._fields_, ("peer_gid_ext", u64), ("my_gid_ext", u64))


class Fallback(ctypes.Structure):
    _fields_ = (("reason", u32), ("peer_diagnosis", u32))


CONNINFO, LGRINFO, SHUTDOWN, DMBINFO, FALLBACK = range(1, 6)
PADDING = 4


Payload: TypeAlias = ctypes.Structure | ctypes.c_uint8 | bytes


def attribute(kind: int, payload: Payload) -> bytes:
    data = bytes(payload)
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % PADDING)


def message(inet: int = socket.AF_INET, **fields: int) -> bytes:
    host, peer = ("10.1.2.3", "10.4.5.6") if inet == socket.AF_INET else ("fe80::1", "2001:db8::2")
    fixed = Message(
        family=AF_SMC,
        id=SockId(
            (u8 * 2)(*(0x1234).to_bytes(2, "big")),
            (u8 * 2)(*(0xFEDC).to_bytes(2, "big")),
            (u8 * 16)(*socket.inet_pton(inet, host)),
            (u8 * 16)(*socket.inet_pton(inet, peer)),
            7,
            (u32 * 2)(0x89ABCDEF, 0x01234567),
        ),
        uid=4_000_000_001,
        inode=(1 << 63) + 5,
        **fields,
    )
    return bytes(fixed)


CONN_INFO = ConnInfo(
    0xF0000001,
    65536,
    65504,
    131072,
    *[DiagCursor(0xFFFF, 0xFF00 + number, 0xFFFF0000 + number) for number in range(4)],
    *(0x80, 0xA0, 0x58, 0x40),
    *[DiagCursor(0xFFFF, 0xFE00 + number, 0xEEEE0000 + number) for number in range(3)],
)
LGR_INFO = LgrInfo(3, b"mlx5_0", 2, b"fe80::1", b"fe80::2", 0)
DMB_INFO = DmbInfo(0xC0000001, 1 << 63, 3, (1 << 63) + 4, 5, (1 << 63) + 6, 7)
ALL_ATTRIBUTES: dict[int, Payload] = {
    CONNINFO: CONN_INFO,
    LGRINFO: LGR_INFO,
    SHUTDOWN: u8(3),
    DMBINFO: DMB_INFO,
    FALLBACK: Fallback(PEERDECL, NOSMCDEV),
}


def decoded(*attributes: bytes, **fields: int) -> SmcInfo:
    return decode(message(**fields) + b"".join(attributes), socket.AF_INET)


def test_record_has_the_socket() -> None:
    assert decoded(state=10, mode=1) == SmcInfo(
        Mode.TCP,
        local=("10.1.2.3", 0x1234),
        peer=("10.4.5.6", 0xFEDC),
        family=AF_SMC,
        state=State.LISTEN,
        shutdown=0,
        interface=7,
        uid=4_000_000_001,
        inode=(1 << 63) + 5,
        cookie=0x0123456789ABCDEF,
    )


def test_record_has_ipv6_addresses() -> None:
    info = decode(message(socket.AF_INET6), socket.AF_INET6)
    assert (info.local, info.peer) == (
        ("fe80::1", 0x1234, 0, 0),
        ("2001:db8::2", 0xFEDC, 0, 0),
    )


def test_record_has_the_connection() -> None:
    info = decoded(attribute(CONNINFO, CONN_INFO))
    assert info.connection == Connection(
        token=0xF0000001,
        sndbuf_size=65536,
        rmbe_size=65504,
        peer_rmbe_size=131072,
        rx_prod=Cursor(0xFF00, 0xFFFF0000),
        rx_cons=Cursor(0xFF01, 0xFFFF0001),
        tx_prod=Cursor(0xFF02, 0xFFFF0002),
        tx_cons=Cursor(0xFF03, 0xFFFF0003),
        rx_prod_flags=ProducerFlag.WRITE_BLOCKED,
        rx_conn_flags=ConnectionFlag.SENDING_DONE | ConnectionFlag.ABNORMAL_CLOSE,
        tx_prod_flags=ProducerFlag.URGENT_DATA_PENDING
        | ProducerFlag.CONSUMER_CURSOR_UPDATE_REQUESTED
        | ProducerFlag.FAILOVER_VALIDATION,
        tx_conn_flags=ConnectionFlag.CLOSED,
        tx_prep=Cursor(0xFE00, 0xEEEE0000),
        tx_sent=Cursor(0xFE01, 0xEEEE0001),
        tx_fin=Cursor(0xFE02, 0xEEEE0002),
    )


@pytest.mark.parametrize(("number", "role"), [(0, "client"), (1, "server")])
def test_record_has_the_link_group(number: int, role: str) -> None:
    info = decoded(attribute(LGRINFO, LgrInfo(3, b"mlx5_0", 2, b"fe80::1", b"fe80::2", number)))
    assert info.link_group == LinkGroup(role, 3, "mlx5_0", 2, "fe80::1", "fe80::2")


def test_record_has_the_dmbs() -> None:
    assert decoded(attribute(DMBINFO, DMB_INFO)).dmb == Dmb(
        link_id=0xC0000001,
        gid=(3 << 64) + 7,
        peer_gid=((1 << 63) << 64) + (1 << 63) + 6,
        token=(1 << 63) + 4,
        peer_token=5,
    )


def test_record_of_older_kernels_has_gids_of_64_bits() -> None:
    older = OlderDmbInfo(0xC0000001, 1 << 63, 3, 4, 5)
    assert ctypes.sizeof(older) == 40
    assert decoded(attribute(DMBINFO, older)).dmb == Dmb(0xC0000001, 3, 1 << 63, 4, 5)


def test_record_has_what_is_shut_down() -> None:
    assert decoded(attribute(SHUTDOWN, u8(2)), shutdown=0).shutdown == 2


def test_record_has_both_reasons() -> None:
    info = decoded(attribute(FALLBACK, Fallback(PEERDECL, NOSMCDEV)), mode=1)
    assert (info.reason, info.peer_reason) == (reason(PEERDECL), reason(NOSMCDEV))


def test_record_without_reasons_has_none() -> None:
    info = decoded(attribute(FALLBACK, Fallback(0, 0)), mode=2)
    assert (info.reason, info.peer_reason) == (None, None)


def test_reason_that_linux_does_not_define_keeps_its_number() -> None:
    info = decoded(attribute(FALLBACK, Fallback(0x7F000001, 0x99990000)), mode=1)
    assert isinstance(info.reason, Reason)
    assert isinstance(info.peer_reason, Reason)
    assert (info.reason.code, info.peer_reason.code) == (0x7F000001, 0x99990000)


def test_state_that_is_not_known_keeps_its_number() -> None:
    assert decoded(state=99).state == 99


MODES = {
    "SMC-R": ((0, True), Mode.SMCR),
    "undecided": ((0, False), None),
    "TCP": ((1, False), Mode.TCP),
    "SMC-D": ((2, True), Mode.SMCD),
    "unknown": ((3, False), None),
}


@pytest.mark.parametrize("name", MODES)
def test_mode_of_a_record(name: str) -> None:
    (number, has_connection), expected = MODES[name]
    attributes = [attribute(CONNINFO, CONN_INFO)] if has_connection else []
    assert decoded(*attributes, mode=number).mode is expected


def test_attributes_that_are_not_known_are_skipped() -> None:
    unknown = attribute(99, b"12345")
    known = [attribute(kind, payload) for kind, payload in ALL_ATTRIBUTES.items()]
    mixed = [unknown, *(part for data in known for part in (data, unknown))]
    assert decoded(*mixed) == decoded(*known)


@pytest.mark.parametrize("kind", ALL_ATTRIBUTES)
def test_attribute_that_has_grown_is_read_as_far_as_known(kind: int) -> None:
    payload = bytes(ALL_ATTRIBUTES[kind])
    assert decoded(attribute(kind, payload + b"more")) == decoded(attribute(kind, payload))


@pytest.mark.parametrize("cut", ["one byte less", "nothing"])
@pytest.mark.parametrize("kind", ALL_ATTRIBUTES)
def test_attribute_that_is_too_short_is_left_out(kind: int, cut: str) -> None:
    payload = bytes(OlderDmbInfo() if kind == DMBINFO else ALL_ATTRIBUTES[kind])
    short = payload[:-1] if cut == "one byte less" else b""
    assert decoded(attribute(kind, short)) == decoded()


@pytest.mark.parametrize("length", [0, 3, 5, 0xFFFF])
def test_attribute_with_a_wrong_length_ends_the_record(length: int) -> None:
    wrong = struct.pack("=HH", length, 99)
    assert decoded(wrong) == decoded()


def test_record_without_details_is_the_same_but_for_them() -> None:
    payloads = {
        1: bytes(104),
        2: bytes(147),
        3: b"\1",
        4: bytes(56),
        5: struct.pack("=2I", NOSMCDEV, 7),
        9: b"newer",
    }
    choice = random.Random(1)
    for _ in range(2000 if VM_MODE is None else 200):
        record = struct.pack(
            "=4B 2s2s 16s16s I 2I I Q",
            *(choice.choice([socket.AF_INET6, AF_SMC]), choice.choice([1, 2, 10, 99])),
            *(choice.randrange(4), 3, choice.choice([b"\0\0", b"\1\2"]), b"\3\4"),
            *(bytes(range(16)), bytes(16), 4, 5, 6, 7, 8),
        )
        for kind in choice.sample(list(payloads), choice.randrange(6)):
            size = len(payloads[kind]) + 4
            record += struct.pack("=HH", size, kind) + payloads[kind] + bytes(-size % 4)
        record = record[: choice.randrange(72, len(record) + 72)]
        for family in (socket.AF_INET, socket.AF_INET6):
            whole = decode(record, family)
            expected = dataclasses.replace(whole, connection=None, link_group=None, dmb=None)
            assert decode(record, family, details=False) == expected
