"""A program in BPF for net.smc.hs_ctrl (Linux 6.19) that lets no connection be SMC.

Made of system calls, as neither a compiler nor a loader of BPF is in the guests. Source:
net/smc/smc_hs_bpf.c, kernel/bpf/bpf_struct_ops.c and Documentation/bpf/btf.rst in the Linux kernel.
"""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_SYSCALL = 321  # x86_64
_MAP_CREATE, _MAP_UPDATE, _MAP_DELETE, _PROG_LOAD, _BTF_LOAD = 0, 2, 3, 5, 18
_BY_FD, _FD_BY_ID, _NEXT_ID = 15, 19, 23
_STRUCT_OPS_MAP, _STRUCT_OPS_PROGRAM, _OF_MODULE = 26, 27, 1 << 15
_STRUCT = 4
_RETURN_0 = bytes.fromhex("b7000000000000009500000000000000")
_TYPES = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, 16, 16, 5) + struct.pack(
    "=4I5s", 1, 1 << 24, 4, 1 << 24 | 32, b"\0int\0"
)
"""The types of the program itself, which has none: int, so that there is one."""

_SIZES = {
    1: (4, 0),
    3: (12, 0),
    14: (4, 0),
    17: (4, 0),
    **dict.fromkeys((6, 13), (0, 8)),
    **dict.fromkeys((4, 5, 15, 19), (0, 12)),
}
"""By kind of type, what follows its three words: bytes, and bytes for each member."""

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    buffer = ctypes.create_string_buffer(attributes.ljust(152, b"\0"), 152)
    result = _libc.syscall(_SYSCALL, command, buffer, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"bpf({command}): {os.strerror(ctypes.get_errno())}")
    return result, buffer.raw


def _btf_of_smc() -> int:
    """A descriptor of the types of the module."""
    number = 0
    while True:
        _, answer = _bpf(_NEXT_ID, struct.pack("=3I", number, 0, 0))
        (number,) = struct.unpack_from("=I", answer, 4)
        fd, _ = _bpf(_FD_BY_ID, struct.pack("=I", number))
        name = ctypes.create_string_buffer(64)
        about = struct.pack("=QIIQII", 0, 0, 0, ctypes.addressof(name), 64, 0)
        information = ctypes.create_string_buffer(about, len(about))
        _bpf(_BY_FD, struct.pack("=IIQ", fd, len(about), ctypes.addressof(information)))
        if name.value == b"smc":
            return fd
        os.close(fd)


def _structs() -> dict[str, tuple[int, int, dict[str, tuple[int, int]]]]:
    """The structs of kernel and module: number, size, members with index and offset."""
    found: dict[str, tuple[int, int, dict[str, tuple[int, int]]]] = {}
    number, strings = 1, b""
    for name in ("vmlinux", "smc"):
        data = Path("/sys/kernel/btf", name).read_bytes()
        head, types, length, texts, size = struct.unpack_from("=5I", data, 4)
        strings += data[head + texts : head + texts + size]
        position, end = head + types, head + types + length

        def text(offset: int, strings: bytes = strings) -> str:
            return strings[offset : strings.index(b"\0", offset)].decode()

        while position < end:
            called, info, size = struct.unpack_from("=3I", data, position)
            kind, count = info >> 24 & 31, info & 0xFFFF
            position += 12
            if kind == _STRUCT and "smc_hs_ctrl" in text(called):
                members = struct.iter_unpack("=3I", data[position : position + 12 * count])
                places = {
                    text(member): (index, bits // 8)
                    for index, (member, _, bits) in enumerate(members)
                }
                found.setdefault(text(called), (number, size, places))
            fixed, each = _SIZES.get(kind, (0, 0))
            position += fixed + each * count
            number += 1
    return found


@contextlib.contextmanager
def no_smc(name: str) -> Iterator[None]:
    """Makes the program known to the kernel by a name, which net.smc.hs_ctrl then takes."""
    structs = _structs()
    operations, _, members = structs["smc_hs_ctrl"]
    container, size, parts = structs["bpf_struct_ops_smc_hs_ctrl"]
    _, data = parts["data"]
    with contextlib.ExitStack() as stack:

        def opened(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        btf = opened(_btf_of_smc())
        value = ctypes.create_string_buffer(size)
        struct.pack_into("=16s", value, data + members["name"][1], name.encode())
        code, license_ = ctypes.create_string_buffer(_RETURN_0), ctypes.create_string_buffer(b"GPL")
        for member in ("syn_option", "synack_option"):
            index, offset = members[member]
            load = struct.pack(
                "=IIQQ44xI36xIi",
                *(_STRUCT_OPS_PROGRAM, len(_RETURN_0) // 8),
                *(ctypes.addressof(code), ctypes.addressof(license_)),
                *(index, operations, btf),
            )
            program = opened(_bpf(_PROG_LOAD, load)[0])
            struct.pack_into("=Q", value, data + offset, program)
        types = ctypes.create_string_buffer(_TYPES)
        load = struct.pack("=QQI", ctypes.addressof(types), 0, len(_TYPES))
        own = opened(_bpf(_BTF_LOAD, load)[0])
        create = struct.pack(
            "=5I28xI8xI8xi4x", _STRUCT_OPS_MAP, 4, size, 1, _OF_MODULE, own, container, btf
        )
        table = opened(_bpf(_MAP_CREATE, create)[0])
        key = ctypes.create_string_buffer(4)
        element = struct.pack("=IxxxxQ", table, ctypes.addressof(key))
        _bpf(_MAP_UPDATE, element + struct.pack("=QQ", ctypes.addressof(value), 0))
        try:
            yield
        finally:
            _bpf(_MAP_DELETE, element)
