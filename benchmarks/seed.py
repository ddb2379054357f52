"""What there was before smcsock: AF_SMC through ctypes, as commonly published."""

import ctypes
import ctypes.util
import ipaddress
import socket

LIBC = ctypes.CDLL(ctypes.util.find_library("c"))


class SockaddrIn(ctypes.Structure):
    _fields_ = (
        ("sin_family", ctypes.c_ushort),
        ("sin_port", ctypes.c_uint16),
        ("sin_addr", ctypes.c_uint32),
        ("sin_zero", ctypes.c_ubyte * 8),
    )

    def __init__(self, address: str | int = 0, port: int = 0) -> None:
        super().__init__()
        self.sin_family = ctypes.c_ushort(socket.AF_INET)
        self.sin_port = ctypes.c_uint16(socket.htons(int(port)))
        self.sin_addr = ctypes.c_uint32(socket.htonl(int(ipaddress.IPv4Address(address))))

    def __len__(self) -> int:
        return ctypes.sizeof(self)


def bind(sock: socket.socket, address: str, port: int) -> None:
    sockaddr = SockaddrIn(address, port)
    LIBC.bind(sock.fileno(), ctypes.byref(sockaddr), len(sockaddr))


def accept(sock: socket.socket) -> tuple[socket.socket, SockaddrIn]:
    sockaddr = SockaddrIn()
    sockaddr_len = ctypes.c_int(len(sockaddr))
    client_sock = LIBC.accept(sock.fileno(), ctypes.byref(sockaddr), ctypes.byref(sockaddr_len))
    return socket.socket(fileno=client_sock), sockaddr


def connect(sock: socket.socket, address: str, port: int) -> None:
    sockaddr = SockaddrIn(address, port)
    LIBC.connect(sock.fileno(), ctypes.byref(sockaddr), len(sockaddr))
