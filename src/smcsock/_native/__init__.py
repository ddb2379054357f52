"""SMC for any program: its TCP sockets are opened by a process beside it.

A seccomp filter stops socket(2) of TCP in the program and its children, whatever they are
written in, and tells the side process, which opens an SMC socket and puts it into the program
in the place of the TCP socket (seccomp user notification). What else is done with the socket
goes to the kernel as ever.
"""

from ._architectures import BY_MACHINE
from ._kind import TCP_SOCKETS, Kind, kind_here
from ._launch import NativeError, begin
from ._plan import Plan, Publish

__all__ = [
    "BY_MACHINE",
    "TCP_SOCKETS",
    "Kind",
    "NativeError",
    "Plan",
    "Publish",
    "begin",
    "kind_here",
]
