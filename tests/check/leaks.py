"""See that nothing grows with the number of calls.

    python tests/check/leaks.py [--iterations N] [CASE ...]

Every function of the extension, and what the package builds on them, is called over and
over, in all ways that it can succeed and fail. Afterwards there must be no more open
descriptors, blocks of Python's and bytes of C's allocator, and references to the objects
that were used, than before; with a debug build of Python, references at all.

Runs on any kernel: without SMC with TCP sockets, as the tests do.
"""

import argparse
import array
import contextlib
import ctypes
import errno
import faulthandler
import functools
import gc
import importlib.util
import mmap
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("SMCSOCK_FALLBACK", "tcp")

import smcsock.diag
from smcsock import _smcsock
from smcsock._native import _syscalls

AF_INET, AF_INET6, SOCK_STREAM = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM
MOST_ROUNDS = 10
WARM_UP = 20

Case = Callable[[], object]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


def fails(
    name: str, expected: type[BaseException], call: Callable[..., object], *args: Any
) -> None:
    """Add a case that raises."""

    def run() -> None:
        try:
            call(*args)
        except expected:
            return
        raise AssertionError(f"{name} did not raise {expected.__name__}")

    assert name not in CASES
    CASES[name] = run
    WATCHED.extend(args)


class Handler(Exception):
    """Raised by the handler of a signal, or of an audit event."""


class NoSocket(_smcsock.SocketMethods):
    """Methods of a socket, and no socket to them."""

    def __init__(self) -> None:
        pass


def new_socket(family: int = AF_INET) -> smcsock.socket:
    return smcsock.socket(family)


def new_listener() -> smcsock.socket:
    listener = new_socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener


LISTENER = new_listener()
ADDRESS = LISTENER.getsockname()
QUIET = new_listener()  # nobody connects to it
UNUSED = {AF_INET: new_socket(), AF_INET6: new_socket(AF_INET6)}
STRANGE = smcsock.socket.__new__(smcsock.socket)
socket.socket.__init__(STRANGE, socket.AF_UNIX)
CLOSED = new_socket()
CLOSED.close()
UDP = socket.socket(AF_INET, socket.SOCK_DGRAM)
with new_listener() as _listener:
    REFUSING = _listener.getsockname()

# What lives longer than the calls that get or make it: a reference that is not given
# back shows here, where no debug build counts them all.
WATCHED: list[Any] = [
    *(LISTENER, ADDRESS, QUIET, *UNUSED.values(), CLOSED, UDP, REFUSING),
    *(None, True, False, (), b"", "", "127.0.0.1", AF_INET, AF_INET6),
    *map(sys.intern, ("socket.bind", "socket.connect", "fileno", "gettimeout")),
    *(OSError, TimeoutError, TypeError, ValueError, OverflowError, socket.gaierror, Handler),
    smcsock.HandshakeInterruptedError,
    *(smcsock.socket, smcsock.SmcInfo, _smcsock, _smcsock.SocketMethods, sys.audit),
]

# ----- arguments

fails("socket: no arguments", TypeError, _smcsock.socket)
fails("socket: too many arguments", TypeError, _smcsock.socket, 1, 2, 3, 4)
fails("socket: type of type", TypeError, _smcsock.socket, "1", 0)
fails("socket: type of proto", TypeError, _smcsock.socket, SOCK_STREAM, None)
fails("socket: type of family", TypeError, _smcsock.socket, SOCK_STREAM, 0, "2")
fails("socket: overflow", OverflowError, _smcsock.socket, SOCK_STREAM, 2**31)
fails("socket: overflow of long", OverflowError, _smcsock.socket, -(2**64), 0)
fails("socket: bad protocol", OSError, _smcsock.socket, SOCK_STREAM, 99)

for name in ("bind", "connect", "connect_ex"):
    fails(f"{name}: no arguments", TypeError, getattr(LISTENER, name))
    fails(f"{name}: no socket", TypeError, getattr(NoSocket(), name), ADDRESS)
    fails(f"{name}: bad family", OSError, getattr(STRANGE, name), ADDRESS)
fails("bind: closed", OSError, CLOSED.bind, ADDRESS)
fails(
    "bind: a zone, which getaddrinfo() resolves", OSError, UNUSED[AF_INET6].bind, ("fe80::1%lo", 0)
)
fails("connect: closed", OSError, CLOSED.connect, ADDRESS)
fails("listen: too many arguments", TypeError, LISTENER.listen, 1, 2)
fails("listen: type of backlog", TypeError, QUIET.listen, "1")
fails("listen: overflow", OverflowError, QUIET.listen, 2**31)
fails("listen: no socket", TypeError, NoSocket().listen)
fails("listen: closed", OSError, CLOSED.listen)
fails("accept: too many arguments", TypeError, LISTENER._accept, 1)
fails("accept: no socket", TypeError, NoSocket()._accept)
fails("accept: closed", OSError, CLOSED._accept)
fails("accept: not listening", OSError, UNUSED[AF_INET].accept)
fails("diag: too many arguments", TypeError, LISTENER._diag, 1)
fails("diag: no socket", TypeError, NoSocket()._diag)
fails("diag: closed", OSError, CLOSED._diag)
fails("records: too many arguments", TypeError, _smcsock.records, [], [])
fails("records: no iterable", TypeError, _smcsock.records, 1)
fails("records: type of an inode", TypeError, _smcsock.records, [1, "2"])
fails("records: overflow", OverflowError, _smcsock.records, [1, -1])
fails("parse: type", TypeError, _smcsock.parse, "")

# ----- addresses

ADDRESSES: list[tuple[str, socket.AddressFamily, Any, type[BaseException]]] = [
    ("not a tuple", AF_INET, "127.0.0.1:1", TypeError),
    ("not a tuple, heap type", AF_INET, NoSocket(), TypeError),
    ("not a tuple, type of a module", AF_INET, array.array("i"), TypeError),
    ("not a tuple, inet6", AF_INET6, ["::1", 1], TypeError),
    ("empty", AF_INET, (), TypeError),
    ("short", AF_INET, ("127.0.0.1",), TypeError),
    ("long", AF_INET, ("127.0.0.1", 1, 2), TypeError),
    ("long, inet6", AF_INET6, ("::1", 1, 2, 3, 4), TypeError),
    ("host: type", AF_INET, (1, 1), TypeError),
    ("host: None", AF_INET, (None, 1), TypeError),
    ("host: zero in str", AF_INET, ("127.0.0.1\0", 1), TypeError),
    ("host: zero in bytes", AF_INET, (b"127.0.0.1\0", 1), TypeError),
    ("host: zero in bytearray", AF_INET, (bytearray(b"127.0.0.1\0"), 1), TypeError),
    ("host: surrogate", AF_INET, ("\udc80.invalid", 1), TypeError),
    ("host: label too long for idna", AF_INET, ("ü" * 100, 1), TypeError),
    ("host: of the other family", AF_INET, ("::1", 1), socket.gaierror),
    ("host: of the other family, bytes", AF_INET6, (b"127.0.0.1", 1), socket.gaierror),
    ("host: broadcast, inet6", AF_INET6, ("<broadcast>", 1), OSError),
    ("port: type", AF_INET, ("127.0.0.1", "1"), TypeError),
    ("port: type, bytes host", AF_INET, (b"127.0.0.1", "1"), TypeError),
    ("port: type, bytearray host", AF_INET, (bytearray(b"127.0.0.1"), "1"), TypeError),
    ("port: negative", AF_INET, ("127.0.0.1", -1), OverflowError),
    ("port: too high", AF_INET, (b"127.0.0.1", 65536), OverflowError),
    ("port: too high, after a name", AF_INET, ("localhost", 65536), OverflowError),
    ("port: overflow", AF_INET, ("127.0.0.1", 2**40), OverflowError),
    ("flowinfo", AF_INET6, ("::1", 1, 2**20, 0), OverflowError),
]
for label, family, address, error in ADDRESSES:
    for name in ("bind", "connect", "connect_ex"):
        fails(f"{name}: {label}", error, getattr(UNUSED[family], name), address)

for label, family, host in (
    ("str", AF_INET, "127.0.0.1"),
    ("bytes", AF_INET, b"127.0.0.1"),
    ("bytearray", AF_INET, bytearray(b"127.0.0.1")),
    ("wildcard", AF_INET, ""),
    ("wildcard, inet6", AF_INET6, b""),
    ("name", AF_INET, "localhost"),
    ("inet6", AF_INET6, "::1"),
):

    def binds(family: int = family, address: Any = (host, 0)) -> None:
        with new_socket(family) as sock:
            sock.bind(address)
            sock.getsockname()

    CASES[f"bind to {label}"] = binds
    WATCHED.append(host)

# ----- calls that do something


@case
def open_and_close() -> None:
    with contextlib.suppress(OSError):  # without SMC in the kernel
        os.close(_smcsock.socket(SOCK_STREAM, smcsock.SMCPROTO_SMC))
    os.close(_smcsock.socket(SOCK_STREAM, 0, AF_INET))


@case
def listen() -> None:
    with new_socket() as sock:
        sock.listen()
        sock.listen(-1)


@case
def address_in_use() -> None:
    with new_socket() as sock, contextlib.suppress(OSError):
        sock.bind(ADDRESS)
        raise AssertionError


def connect_and_accept(family: int, timeout: float | None) -> None:
    with new_socket(family) as client:
        client.settimeout(timeout)
        LISTENER.settimeout(timeout)
        assert client.connect_ex(ADDRESS) == 0
        fd, _ = LISTENER._accept()
        os.close(fd)
        client.connect_ex(ADDRESS)  # EISCONN, or 0 if poll() was what told of the first


CASES["connect_and_accept"] = functools.partial(connect_and_accept, AF_INET, None)
CASES["connect_and_accept_with_timeout"] = functools.partial(connect_and_accept, AF_INET, 10)
CASES["connect_and_accept_as_smc"] = functools.partial(connect_and_accept, smcsock.AF_SMC, 10)


@case
def connect_nonblocking() -> None:
    with new_socket() as client:
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect(ADDRESS)
        LISTENER.settimeout(None)
        LISTENER.accept()[0].close()


def refused(timeout: float | None) -> None:
    with new_socket() as client, contextlib.suppress(ConnectionRefusedError):
        client.settimeout(timeout)
        client.connect(REFUSING)
        raise AssertionError


CASES["connect_refused"] = functools.partial(refused, None)
CASES["connect_refused_with_timeout"] = functools.partial(refused, 10.0)


@case
def connect_ex_refused() -> None:
    with new_socket() as client:
        assert client.connect_ex(REFUSING) == errno.ECONNREFUSED


def accept_fails(timeout: float | None, expected: type[BaseException]) -> None:
    QUIET.settimeout(timeout)
    with contextlib.suppress(expected):
        QUIET.accept()
        raise AssertionError


def accept_interrupted(timeout: float | None) -> None:
    QUIET.settimeout(timeout)
    with contextlib.suppress(Handler):
        # Again and again: one signal alone might come just before accept() begins to wait.
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        QUIET.accept()
        raise AssertionError


CASES["accept_times_out"] = functools.partial(accept_fails, 0.0001, TimeoutError)
CASES["accept_would_block"] = functools.partial(accept_fails, 0, BlockingIOError)
CASES["accept_interrupted"] = functools.partial(accept_interrupted, None)
CASES["accept_interrupted_with_timeout"] = functools.partial(accept_interrupted, 10)


@case
def connect_times_out() -> None:
    # Nothing answers a connection that the listener's queue has no room for.
    with full_listener() as address, new_socket() as client:
        client.settimeout(0.001)
        with contextlib.suppress(TimeoutError):
            client.connect(address)
            raise AssertionError
    with full_listener() as address, new_socket() as client:
        client.settimeout(0.001)
        assert client.connect_ex(address) == errno.EWOULDBLOCK


@contextlib.contextmanager
def full_listener() -> Iterator[Any]:
    with socket.socket() as listener, socket.socket() as first:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        first.connect(listener.getsockname())
        yield listener.getsockname()


@case
def refused_by_audit_hook() -> None:
    with new_socket() as sock, audit_hook_raises():
        for method in (sock.bind, sock.connect, sock.connect_ex):
            with contextlib.suppress(Handler):
                method(ADDRESS)
                raise AssertionError


AUDITING = False


@contextlib.contextmanager
def audit_hook_raises() -> Iterator[None]:
    global AUDITING
    AUDITING = True
    try:
        yield
    finally:
        AUDITING = False


def audit_hook(event: str, _: Any) -> None:
    if AUDITING and event in ("socket.bind", "socket.connect"):
        raise Handler


@case
def diag() -> None:
    with contextlib.suppress(OSError):  # without SMC in the kernel
        LISTENER._diag()


@case
def records() -> None:
    assert _smcsock.records(()) == []
    inodes = [os.fstat(sock.fileno()).st_ino for sock in (LISTENER, QUIET, LISTENER)]
    for wanted in (set(inodes), [*inodes, 1]):
        with contextlib.suppress(OSError):  # without SMC in the kernel
            _smcsock.records(wanted)


@case
def datagram() -> None:
    """Of sock_diag: a record with addresses and an attribute; the end; an error."""
    record = bytes([_smcsock.AF_SMC, 1, 2, 0, 1, 2, 3, 4]) + bytes(range(56))
    record += struct.pack("=HH", 80, 1) + bytes(76)
    data = struct.pack("=IHHII", 16 + len(record), 20, 0, 1, 0) + record
    assert len(_smcsock.parse(data)[0]) == 1
    assert _smcsock.parse(data + struct.pack("=IHHIIi", 20, 3, 0, 1, 0, 0))[1]
    with contextlib.suppress(OSError):
        _smcsock.parse(data + struct.pack("=IHHIIi", 20, 3, 0, 1, 0, -2))


@case
def memory_of_a_process() -> None:
    buffer = ctypes.create_string_buffer(b"there", 4096)
    data = _syscalls.process_vm_readv(os.getpid(), ctypes.addressof(buffer), 4096)
    assert data == buffer.raw


@case
def child_without_signal() -> None:
    pid = _syscalls.clone()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0x40000000) == (pid, 0)  # __WALL


@case
def descriptor_of_a_process() -> None:
    pidfd = os.pidfd_open(os.getpid())
    os.close(_syscalls.pidfd_getfd(pidfd, 0))
    os.close(pidfd)
    assert not _syscalls.is_child_subreaper()
    assert _syscalls.prctl(3, 0) == 1  # PR_GET_DUMPABLE


def serve(listener: int, other: int, request: mmap.mmap, calls: bytes = b"") -> int:
    inet, inet6 = (AF_INET, 0), (AF_INET6, 0)
    buffers = 0, 0
    return _syscalls.serve(
        listener, other, request, calls, b"", 0, inet, inet6, *buffers, "net/dev", 0, 0
    )


@case
def serve_nothing() -> None:
    with mmap.mmap(-1, 4096) as request:
        reader, writer = os.pipe()
        assert serve(reader, -1, request) == _syscalls.OTHER  # after no time
        os.write(writer, b"x")
        assert serve(-1, reader, request) == _syscalls.OTHER
        with contextlib.suppress(OSError):
            serve(reader, -1, request)  # no listener
            raise AssertionError
        os.close(writer)
        os.read(reader, 1)
        assert serve(reader, -1, request) == _syscalls.END
        os.close(reader)


fails("serve too many calls", ValueError, serve, -1, -1, mmap.mmap(-1, 4096), bytes(1000))
fails("seccomp without a filter", OSError, _syscalls.seccomp, 1, 0, b"")
fails("seccomp with half a filter", ValueError, _syscalls.seccomp, 1, 0, b"x")
fails("prctl", OSError, _syscalls.prctl, -1, 0)
fails("pidfd_getfd", OSError, _syscalls.pidfd_getfd, -1, 0)
fails("process_vm_readv of nothing", OSError, _syscalls.process_vm_readv, os.getpid(), 0, 1)
fails("process_vm_readv of much", ValueError, _syscalls.process_vm_readv, 1, 0, 1 << 20)


@case
def module() -> None:
    spec = importlib.util.spec_from_file_location("smcsock._smcsock", _smcsock.__file__)
    assert spec
    assert spec.loader
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


# ----- the package


@case
def whole_connection() -> None:
    with smcsock.create_connection(ADDRESS) as client:
        server, _ = LISTENER.accept()
        with server:
            client.sendall(b"x")
            assert server.recv(1) == b"x"
            with contextlib.suppress(smcsock.DiagUnavailableError):
                str(client.smc_info())
                str(server.smc_info())
            repr(client)
            client.dup().close()
            server.to_stdlib().close()


@case
def whole_connection_smc_family() -> None:
    with new_socket(smcsock.AF_SMC) as client:
        client.connect(ADDRESS)
        server, _ = LISTENER.accept()
        with server, contextlib.suppress(smcsock.DiagUnavailableError):
            client.smc_info()
        smcsock.fromfd(client.fileno(), fallback="tcp").close()


@case
def smc_required() -> None:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(smcsock.create_connection(ADDRESS, require_smc=True))
        except smcsock.FallbackError as error:
            str(error)
        # Before the client closes, or the connection may be lost (docs/kernel.md).
        LISTENER.accept()[0].close()


@case
def server() -> None:
    smcsock.create_server(("127.0.0.1", 0)).close()
    with contextlib.suppress(OSError):
        smcsock.create_server(ADDRESS)
        raise AssertionError


@case
def connection_refused() -> None:
    with contextlib.suppress(ConnectionRefusedError):
        smcsock.create_connection(REFUSING)
        raise AssertionError


@case
def refused_descriptors() -> None:
    for call in (
        functools.partial(smcsock.socket, fileno=UDP.fileno()),
        functools.partial(smcsock.fromfd, UDP.fileno()),
        functools.partial(smcsock.socket, fileno=-1),
        functools.partial(smcsock.socket, AF_INET6, fileno=LISTENER.fileno()),
        functools.partial(smcsock.socket, socket.AF_UNIX),
        functools.partial(smcsock.socket, AF_INET, socket.SOCK_DGRAM),
        functools.partial(smcsock.socket, AF_INET, SOCK_STREAM, 17),
    ):
        with contextlib.suppress(OSError, ValueError):
            call()
            raise AssertionError


def connection_installed(only: str | None) -> None:
    report = smcsock.Report()
    with smcsock.installed(only=only, report=report):
        with socket.create_connection(ADDRESS) as client:
            server, _ = LISTENER.accept()
            with server:
                client.sendall(b"x")
        str(report)


CASES["installed"] = functools.partial(connection_installed, None)
CASES["installed_selected"] = functools.partial(connection_installed, "127.0.0.1:*")
CASES["installed_not_selected"] = functools.partial(connection_installed, "127.0.0.2:*")


@case
def installed_refused() -> None:
    with smcsock.installed(only="*:*"), contextlib.suppress(ConnectionRefusedError):
        socket.create_connection(REFUSING)
        raise AssertionError


@case
def diag_sockets() -> None:
    with contextlib.suppress(OSError):  # without SMC in the kernel
        smcsock.diag.sockets()


# ----- measuring


class MallInfo2(ctypes.Structure):
    """struct mallinfo2 of the GNU C library; musl has none."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


mallinfo2: Any = getattr(ctypes.CDLL(None), "mallinfo2", None)
if mallinfo2:
    mallinfo2.restype = MallInfo2


# Python's cache of attributes of types takes thousands of calls to fill: each new type has
# places of its own in it.
if sys.version_info >= (3, 13):
    clear_type_cache = sys._clear_internal_caches
else:
    clear_type_cache = sys._clear_type_cache


def measure() -> list[int]:
    """The numbers that may not grow, as in LABELS."""
    clear_type_cache()
    gc.collect()
    info = mallinfo2() if mallinfo2 else None
    return [
        len(os.listdir("/proc/self/fd")),
        info.uordblks + info.hblkhd if info else 0,
        sys.getallocatedblocks(),
        getattr(sys, "gettotalrefcount", int)(),
        *map(sys.getrefcount, WATCHED),
    ]


LABELS = ["descriptors", "bytes of malloc", "blocks", "references"]
LABELS += [f"references to {watched!r:.80}" for watched in WATCHED]


def growth(function: Case, iterations: int) -> list[str]:
    """What grew with the number of calls in every round: caches do so in the first ones."""
    for _ in range(WARM_UP):
        function()
    suspects = set(range(len(LABELS)))
    grown: list[int] = []
    before = measure()
    for _ in range(MOST_ROUNDS):
        for _ in range(iterations):
            function()
        after = measure()
        grown = [new - old for new, old in zip(after, before, strict=True)]
        suspects &= {i for i, number in enumerate(grown) if number >= iterations // 2}
        if not suspects:
            break
        before = after
    return [f"{LABELS[i]} by {grown[i] / iterations:.1f}" for i in sorted(suspects)]


def raise_handler(*_: object) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    raise Handler


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--iterations", type=int, default=300, metavar="N", help="calls per round")
    parser.add_argument("-v", "--verbose", action="store_true", help="say how long each case took")
    parser.add_argument("cases", nargs="*", metavar="CASE", choices=[[], *CASES])
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, raise_handler)
    sys.addaudithook(audit_hook)
    leaks = 0
    for name in options.cases or CASES:
        faulthandler.dump_traceback_later(300, exit=True)
        started = time.monotonic()
        found = growth(CASES[name], options.iterations)
        if options.verbose:
            print(f"{time.monotonic() - started:8.3f} s {name}", flush=True)
        if found:
            print(f"{name}: each call adds {', '.join(found)}")
            leaks += 1
    counted = "all references" if hasattr(sys, "gettotalrefcount") else "no debug build"
    print(
        f"{len(options.cases or CASES)} cases, {leaks} leaks ({counted};  SMC: {smcsock.has_smc()})"
    )
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main())
