"""The numbers of system calls, by the architectures that a kernel runs programs of.

Sources: arch/*/entry/syscalls/*.tbl, include/uapi/asm-generic/unistd.h and
include/uapi/linux/audit.h in the Linux kernel.
"""

from typing import NamedTuple

__all__ = ["ALL", "BY_MACHINE", "OPENING_BY_SOCKETCALL", "X32_BIT", "Architecture"]

_64BIT = 0x80000000
_LITTLE = 0x40000000


class Architecture(NamedTuple):
    """What a program calls the kernel by: ``audit`` is its AUDIT_ARCH_*.

    ``socketcall`` is None where there is none; ``is_wide`` if the numbers that it is
    given in memory have 64 bits.
    """

    name: str
    audit: int
    socket: int
    bind: int
    connect: int
    listen: int
    setsockopt: int
    close: int
    exit_group: int
    unshare: int
    setns: int
    socketcall: int | None = None

    @property
    def is_wide(self) -> bool:
        return bool(self.audit & _64BIT)


X32_BIT = 0x40000000

# In the order of the fields.
_X86_64 = (41, 49, 42, 50, 54, 3, 231, 272, 308)
_X32 = tuple(X32_BIT | number for number in (41, 49, 42, 50, 541, 3, 231, 272, 308))
_I386 = (359, 361, 362, 363, 366, 6, 252, 310, 346, 102)
_ARM = (281, 282, 283, 284, 294, 6, 248, 337, 375, 102)
_GENERIC = (198, 200, 203, 201, 208, 57, 94, 97, 268)
_S390 = (359, 361, 362, 363, 366, 6, 248, 303, 339, 102)
_PPC64 = (326, 327, 328, 329, 339, 6, 234, 282, 350, 102)

X86_64 = Architecture("x86_64", _64BIT | _LITTLE | 62, *_X86_64)
X32 = Architecture("x32", _64BIT | _LITTLE | 62, *_X32)
I386 = Architecture("i386", _LITTLE | 3, *_I386)
AARCH64 = Architecture("aarch64", _64BIT | _LITTLE | 183, *_GENERIC)
ARM = Architecture("arm", _LITTLE | 40, *_ARM)
RISCV64 = Architecture("riscv64", _64BIT | _LITTLE | 243, *_GENERIC)
S390X = Architecture("s390x", _64BIT | 22, *_S390)
S390 = Architecture("s390", 22, *_S390)
PPC64LE = Architecture("ppc64le", _64BIT | _LITTLE | 21, *_PPC64)

ALL = (X86_64, X32, I386, AARCH64, ARM, RISCV64, S390X, S390, PPC64LE)

BY_MACHINE: dict[str, tuple[Architecture, ...]] = {
    "x86_64": (X86_64, X32, I386),
    "i686": (I386,),
    "aarch64": (AARCH64, ARM),
    "s390x": (S390X, S390),
    "ppc64le": (PPC64LE,),
    "riscv64": (RISCV64,),
}
"""os.uname().machine to the architectures of the programs that it runs."""

OPENING_BY_SOCKETCALL = {"i686", "s390x"}
"""The machines where glibc and Go open sockets by socketcall(2), which older kernels had alone."""
