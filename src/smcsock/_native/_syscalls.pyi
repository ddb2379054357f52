from mmap import mmap
from typing import Final

IOCTL_SEND: Final[int]
IOCTL_ID_VALID: Final[int]
IOCTL_ADDFD: Final[int]
REQUEST: Final = 0
OTHER: Final = 1
END: Final = 2

def clone() -> int: ...
def seccomp(operation: int, flags: int, program: bytes, /) -> int: ...
def prctl(option: int, argument: int, /) -> int: ...
def is_child_subreaper() -> bool: ...
def pidfd_getfd(pidfd: int, fd: int, /) -> int: ...
def process_vm_readv(pid: int, address: int, size: int, /) -> bytes: ...
def serve(
    listener: int,
    other: int,
    request: mmap,
    calls: bytes,
    exits: bytes,
    program: int,
    inet: tuple[int, int],
    inet6: tuple[int, int],
    sndbuf: int,
    rcvbuf: int,
    mark: str,
    netns: int,
    timeout: int,
    /,
) -> int: ...
