"""Which call a notification is about, whichever way the program made it."""

from collections.abc import Iterable
from enum import Enum, auto

from ._architectures import Architecture
from ._filter import SocketCall
from ._notification import Notification
from ._process import Process

__all__ = ["Call", "Calls"]


class Call(Enum):
    """The calls that the filter tells of."""

    SOCKET = auto()
    CONNECT = auto()
    LISTEN = auto()
    SETSOCKOPT = auto()
    CLOSE = auto()
    EXIT = auto()
    OTHER = auto()


_MULTIPLEXED = {
    SocketCall.SOCKET: (Call.SOCKET, 3),
    SocketCall.CONNECT: (Call.CONNECT, 3),
    SocketCall.LISTEN: (Call.LISTEN, 2),
    SocketCall.SETSOCKOPT: (Call.SETSOCKOPT, 5),
}
"""Calls of socketcall(2), and how many arguments each has in memory."""

_INT_MASK = 0xFFFFFFFF


class Calls:
    """Tells system calls apart by architecture and number."""

    def __init__(self, architectures: Iterable[Architecture]) -> None:
        self._direct: dict[tuple[int, int], Call] = {}
        self._multiplexers: dict[tuple[int, int | None], Architecture] = {}
        for each in architectures:
            self._direct |= {
                (each.audit, each.socket): Call.SOCKET,
                (each.audit, each.connect): Call.CONNECT,
                (each.audit, each.listen): Call.LISTEN,
                (each.audit, each.setsockopt): Call.SETSOCKOPT,
                (each.audit, each.close): Call.CLOSE,
                (each.audit, each.exit_group): Call.EXIT,
            }
            self._multiplexers[each.audit, each.socketcall] = each

    def understand(self, asked: Notification, process: Process) -> tuple[Call, tuple[int, ...]]:
        """The call and its arguments; OSError if those are in memory that cannot be read."""
        key = asked.arch, asked.number
        if key in self._direct:
            return self._direct[key], asked.args
        architecture = self._multiplexers.get(key)
        number = asked.args[0] & _INT_MASK
        if architecture is None or number not in _MULTIPLEXED:
            return Call.OTHER, ()
        call, count = _MULTIPLEXED[number]
        return call, process.numbers(asked.args[1], count, architecture.is_wide)
