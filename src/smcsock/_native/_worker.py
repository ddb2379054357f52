"""The worker: answers what the filter tells, until nobody is under it any more."""

import errno
import os
import socket
from enum import Enum
from mmap import mmap

from . import _syscalls
from ._calls import Call, Calls
from ._filter import FAST_OPEN, IPPROTO_MPTCP
from ._kind import domain, is_smc
from ._notification import SIZE, Notification
from ._plan import Plan
from ._process import Process
from ._tcp import Listeners, become_tcp, replace_by_tcp

__all__ = ["End", "Worker"]

_NO_MORE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_TYPE_MASK = 0xF


class End(Enum):
    """How a worker came to its end; the values are exit statuses."""

    DONE = 0
    """No process is under the filter any more."""
    DIED = 1
    REPORTED = 2
    """The report is written; another worker, which counts no more, is to go on."""


class Worker:
    """Serves one listener; ``request`` is where a notification is while it is at work.

    An exception ends the process: another worker then takes its place.
    """

    def __init__(self, plan: Plan, listener: int, request: mmap, program: int) -> None:
        self._plan = plan
        self._listener = listener
        self._request = request
        self._program = program
        self._netns = Process(os.getpid()).inode(plan.mark)
        self._calls = Calls(plan.architectures)
        self._listeners = Listeners(plan)
        self._census = plan.ledger.census(program) if plan.ledger else None

    def run(self) -> End:
        """Serves until that is over."""
        plan = self._plan
        # Whoever counts has to see each socket.
        census = self._census
        calls = b"" if census else plan.socket_calls
        # A signal that comes before exit_group(2) is answered lets it fail, and only the thread
        # ends then: it is not to wait for what takes long.
        exits = plan.exit_calls if census and not plan.is_exact else b""
        while not (census and census.is_closed):
            event = _syscalls.serve(
                self._listener,
                census.fileno() if census else -1,
                self._request,
                calls,
                exits,
                self._program,
                plan.kind.inet,
                plan.kind.inet6,
                plan.sndbuf,
                plan.rcvbuf,
                plan.mark,
                self._netns,
                census.timeout if census else -1,
            )
            if event == _syscalls.REQUEST:
                self._answer()
            elif census:
                census.look()
            if event == _syscalls.END:
                return End.DONE
        return End.REPORTED

    def _answer(self) -> None:
        asked = Notification.unpack(self._listener, self._request[:SIZE])
        process = Process(asked.pid, lambda: asked.is_pending)
        try:
            call, args = self._calls.understand(asked, process)
            # What was learnt by the number of the thread is not another's.
            if asked.is_pending:
                self._do(asked, process, call, args)
        except OSError:
            pass  # out of reach: the kernel does as it is asked
        asked.go_on()  # nothing happens if it was answered
        self._request[:8] = bytes(8)

    def _do(self, asked: Notification, process: Process, call: Call, args: tuple[int, ...]) -> None:
        match call:
            case Call.SOCKET:
                self._socket(asked, process, *map(_int, args[:3]))
            case Call.CONNECT:
                self._connect(process, _int(args[0]), args[1], _int(args[2]))
            case Call.LISTEN:
                self._listen(asked, process, _int(args[0]))
            case Call.SETSOCKOPT:
                self._option(asked, process, *map(_int, args[:3]))
            case Call.CLOSE if self._census and process.is_socket(_int(args[0])):
                self._census.ask()
            case Call.EXIT if self._census:
                self._census.ends(process.pid)

    def _socket(
        self, asked: Notification, process: Process, family: int, type: int, protocol: int
    ) -> None:
        if (
            family not in (socket.AF_INET, socket.AF_INET6)
            or type & _TYPE_MASK != socket.SOCK_STREAM
            or protocol not in (0, socket.IPPROTO_TCP, IPPROTO_MPTCP)
            or process.inode(self._plan.mark) != self._netns
        ):
            return
        with self._plan.open(family, type) as sock:
            if self._census:
                self._census.add(sock)
            try:
                asked.give(sock.fileno(), is_inheritable=not type & socket.SOCK_CLOEXEC)
            except OSError as error:
                if error.errno not in _NO_MORE:
                    raise
                asked.fail(error.errno)

    def _connect(self, process: Process, number: int, address: int, length: int) -> None:
        assert self._plan.only
        peer = process.address(address, length)
        if peer is None or self._plan.only.matches(*peer):
            return
        with process.borrow(number) as sock:
            if is_smc(sock) and become_tcp(self._plan, sock) and self._census:
                self._census.not_selected(os.fstat(sock.fileno()).st_ino)

    def _listen(self, asked: Notification, process: Process, number: int) -> None:
        assert self._plan.only
        with process.borrow(number) as sock:
            if is_smc(sock) and not self._plan.only.matches(sock.getsockname(), domain(sock)):
                self._listeners.replace(sock, asked, process, number)

    def _option(
        self, asked: Notification, process: Process, number: int, level: int, name: int
    ) -> None:
        if (level, name) == (socket.SOL_SOCKET, socket.SO_REUSEPORT):
            with process.borrow(number) as sock:
                if is_smc(sock) and not self._plan.kind.can_share_ports:
                    replace_by_tcp(self._plan, sock, asked, process, number)
        elif level == socket.IPPROTO_TCP and name in FAST_OPEN and self._is_smc(process, number):
            # With any an SMC socket becomes a TCP socket, a listener even one whose
            # connections wake nobody. It is a matter of speed only: as if it were done.
            asked.succeed()

    def _is_smc(self, process: Process, number: int) -> bool:
        try:
            with process.borrow(number) as sock:
                return is_smc(sock)
        except PermissionError:
            return True


def _int(argument: int) -> int:
    """What the kernel makes of a register: an int."""
    return (argument & 0xFFFFFFFF ^ 0x80000000) - 0x80000000
