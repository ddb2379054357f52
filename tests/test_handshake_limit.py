"""The limitation of handshakes, as it acts: peers that begin an SMC handshake and say no more.

The kernel works on a few hundred handshakes at a time; when further ones queue up, a
listener with the limitation answers SYNs as if it knew no SMC. The peers are made of
packets, on the other side of a pair of network interfaces, as no socket can be one.
"""

import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_diag import PEERNOSMC, counted_fallbacks, only_in
from test_diag import changing as changing
from test_socket import time_limit as time_limit

import smcsock
from smcsock import Mode
from smcsock._kernel._reasons import reason
from smcsock.diag import limit_handshakes, stats

HERE, THERE = "smcsock0", "smcsock1"
ADDRESS, PEER = "10.99.0.1", "10.99.0.2"
FIN, SYN, RST, ACK = 1, 2, 4, 16
SMC = bytes.fromhex("e2d4c3d9")  # SMC in EBCDIC, in the experimental TCP option 254
OPTION = bytes([254, 2 + len(SMC)]) + SMC + bytes([1, 1])

ENOUGH = 4000
"""Handshakes at a time, whatever the kernel and its processors."""

PATIENCE = 40
"""Seconds to begin them; each one stays for 6 (CLC_WAIT_TIME)."""


def checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~total & 0xFFFF)


class Peers:
    """Peers by their ports; they never send the proposal that the listener waits for."""

    def __init__(self, ethernet: bytes) -> None:
        self._ethernet = ethernet
        self._ips = socket.inet_aton(PEER) + socket.inet_aton(ADDRESS)
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._sock.bind((THERE, 0))
        self._sock.settimeout(30)
        self._ports: list[tuple[int, int]] = []

    def close(self) -> None:
        for ports in self._ports:
            self._send(ports, 1001, 0, RST)
        self._sock.close()

    def connect(self, listener: smcsock.socket) -> bool:
        """Whether the listener answers that it knows SMC."""
        ports = 20000 + len(self._ports), listener.getsockname()[1]
        self._ports.append(ports)
        self._send(ports, 1000, 0, SYN, OPTION)
        while True:
            packet = self._sock.recv(2048)[14:]
            tcp = packet[(packet[0] & 15) * 4 :]
            if packet[9] == 6 and struct.unpack(">2H", tcp[:4]) == ports[::-1]:
                break
        assert tcp[13] == SYN | ACK
        (number,) = struct.unpack(">I", tcp[4:8])
        self._send(ports, 1001, number + 1, ACK)
        return SMC in tcp[20 : (tcp[12] >> 4) * 4]

    def _send(
        self, ports: tuple[int, int], number: int, ack: int, flags: int, options: bytes = b""
    ) -> None:
        length = 20 + len(options)
        tcp = struct.pack(
            ">2HIIBB3H", *ports, number, ack & 0xFFFFFFFF, length << 2, flags, 65535, 0, 0
        )
        tcp += options
        pseudo_header = self._ips + struct.pack(">2H", 6, length)
        tcp = tcp[:16] + checksum(pseudo_header + tcp) + tcp[18:]
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, 6, 0) + self._ips
        ip = ip[:10] + checksum(ip) + ip[12:]
        self._sock.send(self._ethernet + ip + tcp)


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, timeout=60)


def hardware_address(interface: str) -> str:
    return Path("/sys/class/net", interface, "address").read_text().strip()


@pytest.fixture
def peers(changing: None) -> Iterator[Peers]:
    only_in("tcp")
    ip(f"link add {HERE} type veth peer name {THERE}")
    try:
        ip(f"address add {ADDRESS}/24 dev {HERE}")
        for interface in (HERE, THERE):
            ip(f"link set {interface} up")
        ip(f"neighbour add {PEER} lladdr {hardware_address(THERE)} dev {HERE}")
        ends = (hardware_address(interface).replace(":", "") for interface in (HERE, THERE))
        peers = Peers(b"".join(map(bytes.fromhex, ends)) + b"\x08\x00")
        try:
            yield peers
        finally:
            peers.close()
    finally:
        ip(f"link delete {HERE}")


@pytest.fixture
def one_processor() -> Iterator[None]:
    """Handshakes queue up on each processor on its own."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def test_listener_that_limits_handshakes_takes_no_more_than_it_can(
    one_processor: None, peers: Peers, smc_mode: Mode
) -> None:
    with smcsock.create_server((ADDRESS, 0), backlog=ENOUGH) as unlimited:
        limit_handshakes(True)
        try:
            listener = smcsock.create_server((ADDRESS, 0), backlog=ENOUGH)
        finally:
            limit_handshakes(False)
        with listener:
            deadline = time.monotonic() + PATIENCE
            while peers.connect(listener):
                if time.monotonic() > deadline:
                    pytest.skip("handshakes end faster than they can be begun here")
            before = stats()
            with smcsock.socket() as client:
                client.connect(listener.getsockname())
                info = client.smc_info()
            assert (info.mode, info.reason) == (Mode.TCP, reason(PEERNOSMC))
            assert ("client", PEERNOSMC, 1) in counted_fallbacks(stats().since(before))
            assert peers.connect(unlimited)
