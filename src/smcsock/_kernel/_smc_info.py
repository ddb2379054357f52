"""The kernel's record of an SMC socket, decoded.

Source: include/uapi/linux/smc_diag.h and net/smc/smc_diag.c in the Linux kernel;
the cursors and flags are those of RFC 7609. All numbers of a record are in the
byte order of the host but for the ports and IP addresses.
"""

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag, StrEnum
from socket import AF_INET, AF_INET6, AddressFamily, inet_ntop
from typing import Any, Protocol, TypeAlias

from ._reasons import Reason, reason
from ._sock_diag import ask

__all__ = [
    "Connection",
    "ConnectionFlag",
    "Cursor",
    "Dmb",
    "LinkGroup",
    "Mode",
    "ProducerFlag",
    "SmcInfo",
    "State",
    "whole_gid",
]

Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int]


class Mode(StrEnum):
    """How a connection carries its data."""

    __module__ = "smcsock"

    SMCD = "SMC-D"
    SMCR = "SMC-R"
    TCP = "TCP"


class State(IntEnum):
    """State of an SMC socket (enum smc_state of net/smc/smc.h)."""

    __module__ = "smcsock"

    ACTIVE = 1
    INIT = 2
    CLOSED = 7
    LISTEN = 10
    PEERCLOSEWAIT1 = 20
    PEERCLOSEWAIT2 = 21
    APPCLOSEWAIT1 = 22
    APPCLOSEWAIT2 = 23
    APPFINCLOSEWAIT = 24
    PEERFINCLOSEWAIT = 25
    PEERABORTWAIT = 26
    PROCESSABORT = 27


class ProducerFlag(IntFlag):
    """What the producer of a buffer says (RFC 7609, CDC message)."""

    __module__ = "smcsock"

    WRITE_BLOCKED = 0x80
    URGENT_DATA_PENDING = 0x40
    URGENT_DATA_PRESENT = 0x20
    CONSUMER_CURSOR_UPDATE_REQUESTED = 0x10
    FAILOVER_VALIDATION = 0x08


class ConnectionFlag(IntFlag):
    """State of a side of the connection (RFC 7609, CDC message)."""

    __module__ = "smcsock"

    SENDING_DONE = 0x80
    CLOSED = 0x40
    ABNORMAL_CLOSE = 0x20


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a ring buffer: bytes from its start, and how often it wrapped."""

    __module__ = "smcsock"

    wrap: int
    count: int


@dataclass(frozen=True, slots=True)
class Connection:
    """The buffers of an SMC-R or SMC-D connection; sizes in bytes.

    ``rx_*`` are the cursors of the local RMBE (or DMB), ``tx_*`` those of the
    peer's; ``tx_prep``, ``tx_sent`` and ``tx_fin`` those of the send buffer:
    prepared to be sent, sent, and confirmed.
    """

    __module__ = "smcsock"

    token: int
    sndbuf_size: int
    rmbe_size: int
    peer_rmbe_size: int
    rx_prod: Cursor
    rx_cons: Cursor
    tx_prod: Cursor
    tx_cons: Cursor
    rx_prod_flags: ProducerFlag
    rx_conn_flags: ConnectionFlag
    tx_prod_flags: ProducerFlag
    tx_conn_flags: ConnectionFlag
    tx_prep: Cursor
    tx_sent: Cursor
    tx_fin: Cursor


@dataclass(frozen=True, slots=True)
class LinkGroup:
    """The SMC-R link that a connection uses, and its side of the link group.

    ``role`` is "client" or "server", ``device`` the RDMA device's name, ``port``
    its port, ``gid`` and ``peer_gid`` the GIDs as text.
    """

    __module__ = "smcsock"

    role: str
    link_id: int
    device: str
    port: int
    gid: str
    peer_gid: str


@dataclass(frozen=True, slots=True)
class Dmb:
    """The DMBs of an SMC-D connection.

    ``link_id`` names the link group. GIDs are 64 bits wide for an ISM device and
    128 bits for a virtual one such as loopback-ism: those are UUIDs, ``uuid.UUID(int=gid)``.
    """

    __module__ = "smcsock"

    link_id: int
    gid: int
    peer_gid: int
    token: int
    peer_token: int


@dataclass(frozen=True, slots=True)
class SmcInfo:
    """What the kernel knows of an SMC socket.

    ``mode`` says what the connection is; None while that is undecided (not
    connected, listening) or no longer so (closed). For a fallback, ``reason`` is
    why this side fell back and ``peer_reason`` the peer's diagnosis if it sent
    one. ``state`` and the numbers below it are None for a socket that is not SMC
    at all, the TCP socket that ``fallback="tcp"`` opens.

    ``family`` is the one that the kernel opened the socket with: AF_SMC, or AF_INET
    or AF_INET6 for IPPROTO_SMC. ``interface`` is the index of the interface that the
    connection is bound to, 0 for none; ``shutdown`` has bit 0 set when receiving is
    shut down and bit 1 when sending is. After a fallback the kernel keeps neither
    ``state`` nor ``shutdown`` up to date. ``connection`` is there for SMC-R and SMC-D,
    ``link_group`` for SMC-R, ``dmb`` for SMC-D.
    """

    __module__ = "smcsock"

    mode: Mode | None
    reason: Reason | None = None
    peer_reason: Reason | None = None
    local: Address | None = None
    peer: Address | None = None
    family: int | None = None
    state: State | int | None = None
    shutdown: int | None = None
    interface: int | None = None
    uid: int | None = None
    inode: int | None = None
    cookie: int | None = None
    connection: Connection | None = None
    link_group: LinkGroup | None = None
    dmb: Dmb | None = None

    @property
    def is_smc(self) -> bool:
        """Whether data goes over shared memory: SMC-D or SMC-R."""
        return self.mode in (Mode.SMCD, Mode.SMCR)

    def __str__(self) -> str:
        """The mode in a line: "SMC-D", or "TCP (0x03030000: no SMC device ...)"."""
        if self.mode is None:
            return "undecided" if self.state is None else _state_name(self.state)
        why = "; ".join(
            text
            for text in (
                str(self.reason) if self.reason else "",
                f"peer: {self.peer_reason}" if self.peer_reason else "",
            )
            if text
        )
        return f"{self.mode} ({why})" if why else str(self.mode)


def _state_name(state: State | int) -> str:
    return state.name.lower() if isinstance(state, State) else f"state {state}"


# struct smc_diag_msg: family, state, mode, shutdown; source and destination port
# (big-endian) and address, interface, cookie (struct inet_diag_sockid); uid, inode.
_MSG = struct.Struct("=4B 2s2s 16s16s I 2I I Q")
_ATTRIBUTE = struct.Struct("=HH")
_CONNINFO, _LGRINFO, _SHUTDOWN, _DMBINFO, _FALLBACK = range(1, 6)

_CONNINFO_STRUCT = struct.Struct("=4I 32x 4B 24x")  # but for its cursors
_CURSOR = struct.Struct("=2xHI")
_LGRINFO_STRUCT = struct.Struct("=B 64s B 40s 40s B")
_DMBINFO_STRUCT = struct.Struct("=I 4x 4Q")
_DMBINFO_EXT = struct.Struct("=2Q")  # from Linux 6.8 on
_FALLBACK_STRUCT = struct.Struct("=2I")

_SIZES = {
    _CONNINFO: _CONNINFO_STRUCT.size,
    _LGRINFO: _LGRINFO_STRUCT.size,
    _SHUTDOWN: 1,
    _DMBINFO: _DMBINFO_STRUCT.size,
    _FALLBACK: _FALLBACK_STRUCT.size,
}

_MODES = {1: Mode.TCP, 2: Mode.SMCD}
_STATES: dict[int, State] = {int(state): state for state in State}


def _attributes(record: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes of a record, kind and payload; unknown and truncated ones left out."""
    at = _MSG.size
    while at + _ATTRIBUTE.size <= len(record):
        length, kind = _ATTRIBUTE.unpack_from(record, at)
        if length < _ATTRIBUTE.size:
            break
        payload = record[at + _ATTRIBUTE.size : at + length]
        if len(payload) >= _SIZES.get(kind, sys.maxsize):
            yield kind, payload
        at += (length + 3) & ~3


def _address(family: int, host: bytes, port: bytes) -> Address:
    number = int.from_bytes(port, "big")
    if family == AF_INET6:
        return inet_ntop(AF_INET6, host), number, 0, 0
    return inet_ntop(AF_INET, host[:4]), number


def _connection(payload: bytes) -> Connection:
    token, sndbuf, rmbe, peer_rmbe, *flags = _CONNINFO_STRUCT.unpack_from(payload)
    rx_prod, rx_cons, tx_prod, tx_cons = (
        Cursor(*_CURSOR.unpack_from(payload, 16 + 8 * i)) for i in range(4)
    )
    tx_prep, tx_sent, tx_fin = (Cursor(*_CURSOR.unpack_from(payload, 52 + 8 * i)) for i in range(3))
    return Connection(
        token=token,
        sndbuf_size=sndbuf,
        rmbe_size=rmbe,
        peer_rmbe_size=peer_rmbe,
        rx_prod=rx_prod,
        rx_cons=rx_cons,
        tx_prod=tx_prod,
        tx_cons=tx_cons,
        rx_prod_flags=ProducerFlag(flags[0]),
        rx_conn_flags=ConnectionFlag(flags[1]),
        tx_prod_flags=ProducerFlag(flags[2]),
        tx_conn_flags=ConnectionFlag(flags[3]),
        tx_prep=tx_prep,
        tx_sent=tx_sent,
        tx_fin=tx_fin,
    )


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("ascii", "replace")


def _link_group(payload: bytes) -> LinkGroup:
    link_id, device, port, gid, peer_gid, role = _LGRINFO_STRUCT.unpack_from(payload)
    return LinkGroup(
        role="server" if role else "client",
        link_id=link_id,
        device=_text(device),
        port=port,
        gid=_text(gid),
        peer_gid=_text(peer_gid),
    )


def whole_gid(gid: int, extension: int) -> int:
    """The GID of an SMC-D device, which the kernel gives in two halves, the first one first."""
    return gid << 64 | extension if extension else gid


def _dmb(payload: bytes) -> Dmb:
    link_id, peer_gid, gid, token, peer_token = _DMBINFO_STRUCT.unpack_from(payload)
    if len(payload) >= _DMBINFO_STRUCT.size + _DMBINFO_EXT.size:
        peer_ext, ext = _DMBINFO_EXT.unpack_from(payload, _DMBINFO_STRUCT.size)
        gid = whole_gid(gid, ext)
        peer_gid = whole_gid(peer_gid, peer_ext)
    return Dmb(link_id, gid, peer_gid, token, peer_token)


def decode(record: bytes, family: int, *, details: bool = True) -> SmcInfo:
    """A sock_diag record of a socket of IP family ``family`` as an SmcInfo.

    Without ``details`` the connection, the link group and the DMBs are left out, which
    takes a third of the time.
    """
    if not details:
        return _outline(record, family)
    (
        diag_family,
        state,
        mode,
        shutdown,
        sport,
        dport,
        src,
        dst,
        interface,
        cookie_low,
        cookie_high,
        uid,
        inode,
    ) = _MSG.unpack_from(record)
    fields: dict[str, Any] = {"mode": _MODES.get(mode)}
    for kind, payload in _attributes(record):
        if kind == _CONNINFO:
            # Mode 0 is SMC-R but also everything that is undecided; a socket
            # without a connection to a link group has no CONNINFO.
            if mode == 0:
                fields["mode"] = Mode.SMCR
            fields["connection"] = _connection(payload)
        elif kind == _LGRINFO:
            fields["link_group"] = _link_group(payload)
        elif kind == _DMBINFO:
            fields["dmb"] = _dmb(payload)
        elif kind == _SHUTDOWN:
            shutdown = payload[0]
        elif kind == _FALLBACK:
            code, peer_code = _FALLBACK_STRUCT.unpack_from(payload)
            fields["reason"] = reason(code) if code else None
            fields["peer_reason"] = reason(peer_code) if peer_code else None
    if sport != b"\0\0":
        fields["local"] = _address(family, src, sport)
    if dport != b"\0\0":
        fields["peer"] = _address(family, dst, dport)
    return SmcInfo(
        family=diag_family,
        state=_STATES.get(state, state),
        shutdown=shutdown,
        interface=interface,
        uid=uid,
        inode=inode,
        cookie=cookie_high << 32 | cookie_low,
        **fields,
    )


class _InetSocket(Protocol):
    """A smcsock.socket, as far as this module needs it."""

    _inet: AddressFamily

    def _diag(self) -> bytes | None: ...


def _outline(record: bytes, family: int) -> SmcInfo:
    """decode() without the details, for tables of many sockets."""
    header = _MSG.unpack_from(record)
    diag_family, state, mode, shutdown, sport, dport, src, dst, interface, low, high, uid, inode = (
        header
    )
    known = _MODES.get(mode)
    why = peer_why = None
    at, end = _MSG.size, len(record) - _ATTRIBUTE.size
    while at <= end:
        length, kind = _ATTRIBUTE.unpack_from(record, at)
        if length < _ATTRIBUTE.size:
            break
        if min(at + length, len(record)) < at + _ATTRIBUTE.size + _SIZES.get(kind, 0):
            pass  # truncated
        elif kind == _CONNINFO and mode == 0:
            known = Mode.SMCR
        elif kind == _SHUTDOWN:
            shutdown = record[at + _ATTRIBUTE.size]
        elif kind == _FALLBACK:
            code, peer_code = _FALLBACK_STRUCT.unpack_from(record, at + _ATTRIBUTE.size)
            why = reason(code) if code else None
            peer_why = reason(peer_code) if peer_code else None
        at += (length + 3) & ~3
    return SmcInfo(
        known,
        why,
        peer_why,
        None if sport == b"\0\0" else _address(family, src, sport),
        None if dport == b"\0\0" else _address(family, dst, dport),
        diag_family,
        _STATES.get(state, state),
        shutdown,
        interface,
        uid,
        inode,
        high << 32 | low,
    )


def query(sock: _InetSocket) -> SmcInfo | None:
    """Asks the kernel for the record of an SMC socket; None if it lists none.

    Raises DiagUnavailableError where smc_diag is missing, else OSError.
    """
    record = ask(sock._diag)
    return None if record is None else decode(record, sock._inet)
