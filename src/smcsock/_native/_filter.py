"""The seccomp filter: which system calls of the program the side process is told of.

Source: seccomp(2), linux/filter.h; for the order of the checks seccomp_is_const_allow()
in the kernel: calls that the filter allows whatever their arguments are do not run it.
"""

import errno
import socket
import struct
import sys
from collections.abc import Callable, Iterable
from enum import Flag, auto
from itertools import groupby
from typing import TypeAlias

from ._architectures import X32_BIT, Architecture

__all__ = ["SocketCall", "Watch", "assemble", "assemble_refusal"]

_LOAD, _AND, _EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06  # BPF_LD|W|ABS, BPF_ALU|AND|K, ...
_ALLOW, _NOTIFY, _ERRNO = 0x7FFF0000, 0x7FC00000, 0x00050000  # SECCOMP_RET_*

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter

# struct seccomp_data
_NUMBER, _ARCH, _ARGS = 0, 4, 16

_IO_URING_SETUP = 425  # the same everywhere; on x32 with the bit that all have there

IPPROTO_MPTCP = 262
FAST_OPEN = (23, 30, 33, 34)  # TCP_FASTOPEN, _CONNECT, _KEY, _NO_COOKIE
_TYPE_MASK = 0xF  # SOCK_TYPE_MASK: the rest are SOCK_NONBLOCK and SOCK_CLOEXEC

_Instruction: TypeAlias = tuple[int, int, int, int]
_Code: TypeAlias = list[_Instruction]

_ALLOWED: _Code = [(_RETURN, 0, 0, _ALLOW)]
_NOTIFIED: _Code = [(_RETURN, 0, 0, _NOTIFY)]
_REFUSED: _Code = [(_RETURN, 0, 0, _ERRNO | errno.EPROTONOSUPPORT)]
_FORBIDDEN: _Code = [(_RETURN, 0, 0, _ERRNO | errno.EPERM)]


class Watch(Flag):
    """What the side process has to know of besides the sockets that are opened."""

    NOTHING = 0
    ADDRESSES = auto()
    """connect() and listen()"""
    SHARED_PORTS = auto()
    """setsockopt(SO_REUSEPORT)"""
    ENDS = auto()
    """exit_group()"""
    CLOSES = auto()
    """close()"""


class SocketCall:
    """The calls of socketcall(2)."""

    SOCKET, BIND, CONNECT, LISTEN, SETSOCKOPT = 1, 2, 3, 4, 14


def assemble(architectures: Iterable[Architecture], watch: Watch) -> bytes:
    """The filter as an array of struct sock_filter, in this machine's byte order."""
    return _assemble(architectures, lambda architecture: _calls(architecture, watch))


def assemble_refusal(architectures: Iterable[Architecture]) -> bytes:
    """A filter that tells nobody: there are no sockets of TCP.

    Nor any by socketcall(2), whose arguments are in memory, or io_uring, past all filters.
    """
    return _assemble(architectures, _refusals)


def _assemble(
    architectures: Iterable[Architecture], calls: Callable[[Architecture], _Code]
) -> bytes:
    code: _Code = [(_LOAD, 0, 0, _ARCH)]
    for audit, group in groupby(architectures, lambda architecture: architecture.audit):
        body: _Code = [(_LOAD, 0, 0, _NUMBER)]
        for architecture in group:
            body += calls(architecture)
        code += _when(audit, body + _ALLOWED)
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in code + _ALLOWED)


def _refusals(on: Architecture) -> _Code:
    code = _when(on.socket, _stream_sockets(_REFUSED))
    code += _when(on.socket & X32_BIT | _IO_URING_SETUP, _FORBIDDEN)
    if on.socketcall is not None:
        code += _when(on.socketcall, _unless_in(0, (SocketCall.SOCKET,)) + _REFUSED)
    return code


def _calls(on: Architecture, watch: Watch) -> _Code:
    """Of one architecture; the number is loaded, and stays so where nothing matches."""
    code = _when(on.socket, _stream_sockets(_NOTIFIED))
    code += _when(on.setsockopt, _options(watch))
    # Who changes the network namespace gets no more sockets of this one.
    code += _when(on.unshare, _NOTIFIED) + _when(on.setns, _NOTIFIED)
    if on.socketcall is not None:
        code += _when(on.socketcall, _socketcalls(watch))
    if Watch.ADDRESSES in watch:
        code += _when(on.connect, _NOTIFIED) + _when(on.listen, _NOTIFIED)
    if Watch.ENDS in watch:
        code += _when(on.exit_group, _NOTIFIED)
    if Watch.CLOSES in watch:
        code += _when(on.close, _NOTIFIED)
    return code


def _stream_sockets(answer: _Code) -> _Code:
    return [
        *_unless_in(0, (socket.AF_INET, socket.AF_INET6)),
        *_unless_in(1, (socket.SOCK_STREAM,), _TYPE_MASK),
        *_unless_in(2, (0, socket.IPPROTO_TCP, IPPROTO_MPTCP)),
        *answer,
    ]


def _options(watch: Watch) -> _Code:
    """Those that an SMC socket is no SMC socket with: level and name are in registers."""
    fast_open = _unless_in(2, FAST_OPEN) + _NOTIFIED
    code = [_argument(1), *_when(socket.IPPROTO_TCP, fast_open)]
    if Watch.SHARED_PORTS in watch:
        code += _when(socket.SOL_SOCKET, _unless_in(2, (socket.SO_REUSEPORT,)) + _NOTIFIED)
    return code + _ALLOWED


def _socketcalls(watch: Watch) -> _Code:
    """Their arguments are in memory, which no filter sees: the side process has to look."""
    calls = [SocketCall.SOCKET, SocketCall.SETSOCKOPT]
    if Watch.ADDRESSES in watch:
        calls += [SocketCall.CONNECT, SocketCall.LISTEN]
    return _unless_in(0, calls) + _NOTIFIED


def _argument(index: int) -> _Instruction:
    """Loads the low half of an argument: all that the kernel looks at."""
    low = 4 if sys.byteorder == "big" else 0
    return _LOAD, 0, 0, _ARGS + 8 * index + low


def _when(value: int, code: _Code) -> _Code:
    """Goes through the code, which returns, if the value is the one that is loaded."""
    return [(_EQUAL, 0, len(code), value), *code]


def _unless_in(argument: int, values: Iterable[int], mask: int | None = None) -> _Code:
    """Allows the call unless an argument is one of the values."""
    values = list(values)
    code = [_argument(argument)]
    if mask is not None:
        code.append((_AND, 0, 0, mask))
    code += [(_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
    return code + _ALLOWED
