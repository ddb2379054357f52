"""What the host and the guest say to each other over one virtio-serial port.

Both directions carry frames: one byte of kind, four bytes of length, then the payload. One port
for everything keeps the order of what the command wrote and of its end, and leaves nothing of it
to the kernel's console.
"""

import struct
from typing import TypedDict

PORT_NAME = "smcsock"
"""The name of the virtio-serial port, in QEMU and in the guest's sysfs."""

HEADER = struct.Struct(">cI")
MAX_PAYLOAD = 32768 - HEADER.size
"""The guest's driver takes at most 32 KiB at a time; larger frames would only be cut up."""

# Host to guest.
SPEC = b"S"
"""The first frame: a ``Spec`` in JSON."""
STDIN = b"I"
"""Bytes for the command's standard input; empty at its end."""

# Guest to host.
READY = b"R"
"""The guest is what the mode promises; the command starts now. No payload."""
FAILED = b"F"
"""The guest is not what the mode promises: the reason, as text. Nothing follows."""
STDOUT = b"O"
STDERR = b"E"
EXIT = b"X"
"""The command's exit status as a decimal number, 128 + N for signal N. Nothing follows."""


class Spec(TypedDict):
    """What the host asks for. Paths are absolute and the same on both sides."""

    command: list[str]
    environment: dict[str, str]
    cwd: str
    hostname: str
    mode: str
    home: str
    exports: dict[str, str]
    """9p mount tag to directory of the host, for what the guest sees of it and may write to
    without its being kept. The first one is /, the last the entry of the kernel in the cache."""
    modules: str
    """The directory in that entry with lib/modules/RELEASE, as the mode wants it."""
    binds: dict[str, str]
    """File to the place of another, which it hides."""
    rwdirs: dict[str, str]
    """9p mount tag to directory, for what the guest may really write to."""


def pack(kind: bytes, payload: bytes = b"") -> bytes:
    """One frame, ready to be written."""
    return HEADER.pack(kind, len(payload)) + payload
