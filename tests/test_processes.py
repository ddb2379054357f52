"""Descriptors: over fork and exec, in sub-interpreters, and none of them leaked."""

import contextlib
import errno
import gc
import importlib
import multiprocessing
import os
import resource
import select
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import INET, SMC, SMC6, Presentation, slow
from descriptors import open_descriptors
from test_timeouts import LIMIT, Call, Open, black_hole, outcome, receive, refusing, round_trip

import smcsock
from smcsock import Mode

Pair = tuple[smcsock.socket, smcsock.socket]


@contextlib.contextmanager
def child(function: Callable[..., object], *args: object) -> Iterator[None]:
    """Runs a function in a forked process; a hang there is a failure and no more."""
    process = multiprocessing.get_context("fork").Process(target=function, args=args)
    process.start()
    try:
        yield
        process.join(LIMIT)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
        process.close()


def in_child(function: Callable[..., object], *args: object) -> None:
    with child(function, *args):
        pass


# ----- fork


def test_a_child_accepts_on_its_parents_listener(presentation: Presentation) -> None:
    def accept() -> None:
        server, peer = listener.accept()
        with server:
            server.sendall(repr(peer).encode())

    with presentation.listener() as listener, presentation.open() as client, child(accept):
        client.settimeout(LIMIT)
        client.connect(listener.getsockname())
        expected = repr(client.getsockname()).encode()
        assert receive(client, len(expected)) == expected
        assert client.recv(1) == b""


def test_a_child_connects_to_its_parents_listener(presentation: Presentation) -> None:
    def connect() -> None:
        with presentation.open() as client:
            client.connect(listener.getsockname())
            client.sendall(b"child")

    with presentation.listener() as listener, child(connect):
        listener.settimeout(LIMIT)
        server, _ = listener.accept()
        with server:
            server.settimeout(LIMIT)
            assert receive(server, 5) == b"child"
            assert server.recv(1) == b""


def test_parent_and_child_send_over_one_connection(pair: Pair) -> None:
    client, server = pair
    server.settimeout(LIMIT)
    in_child(client.sendall, b"child")
    client.sendall(b"parent")
    assert receive(server, 11) == b"childparent"


def test_a_connection_that_the_parent_closes_lives_on_in_its_child(pair: Pair) -> None:
    client, server = pair

    def send_when_closed() -> None:
        assert closed.wait(LIMIT)
        client.sendall(b"child")

    closed = multiprocessing.get_context("fork").Event()
    server.settimeout(LIMIT)
    with child(send_when_closed):
        client.close()
        closed.set()
        assert receive(server, 5) == b"child"
        assert server.recv(1) == b""


def test_a_child_that_ends_leaves_its_parents_connection_alone(pair: Pair) -> None:
    in_child(os.getpid)
    round_trip(*pair)


# ----- exec


def is_seen_by_another_program(sock: socket.socket) -> bool:
    test = ["sh", "-c", '[ -e "/proc/self/fd/$0" ]', str(sock.fileno())]
    return subprocess.run(test, close_fds=False, check=False).returncode == 0


@pytest.fixture(
    params=["socket", "accept", "dup", "fromfd", "fileno", "create_server", "create_connection"]
)
def new_socket(request: pytest.FixtureRequest) -> Iterator[smcsock.socket]:
    """A socket out of each function that makes descriptors."""
    with contextlib.ExitStack() as stack:
        client, server = stack.enter_context(INET.pair())
        listener = stack.enter_context(smcsock.create_server((INET.host, 0)))
        make: dict[str, Callable[[], smcsock.socket]] = {
            "socket": INET.open,
            "accept": lambda: server,
            "dup": client.dup,
            "fromfd": lambda: smcsock.fromfd(client.fileno()),
            "fileno": lambda: smcsock.socket(fileno=os.dup(client.fileno())),
            "create_server": lambda: listener,
            "create_connection": lambda: smcsock.create_connection(listener.getsockname()),
        }
        yield stack.enter_context(make[request.param]())


def test_a_descriptor_does_not_pass_over_exec(new_socket: smcsock.socket) -> None:
    assert not new_socket.get_inheritable()
    assert not is_seen_by_another_program(new_socket)


def test_an_inheritable_descriptor_passes_over_exec(new_socket: smcsock.socket) -> None:
    new_socket.set_inheritable(True)
    assert new_socket.get_inheritable()
    assert is_seen_by_another_program(new_socket)
    new_socket.set_inheritable(False)
    assert not is_seen_by_another_program(new_socket)


def test_another_program_talks_over_an_inherited_connection(pair: Pair) -> None:
    client, server = pair
    code = """
        import smcsock, sys
        with smcsock.socket(fileno=int(sys.argv[1])) as sock:
            sock.sendall(repr(sock.getpeername()).encode())
    """
    client.set_inheritable(True)
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(client.fileno())],
        close_fds=False,
        timeout=LIMIT,
        check=True,
    )
    server.settimeout(LIMIT)
    assert server.recv(100) == repr(server.getsockname()).encode()


# ----- sub-interpreters


def run_in_interpreter(code: str, own_gil: bool) -> None:
    """Runs code in a sub-interpreter, which ends with it."""
    if sys.version_info >= (3, 13):
        interpreters: Any = importlib.import_module("_interpreters")
        interpreter = interpreters.create("isolated" if own_gil else "legacy")
        error = interpreters.exec(interpreter, code)
        interpreters.destroy(interpreter)
        assert error is None, error
    else:
        interpreters = importlib.import_module("_xxsubinterpreters")
        interpreter = interpreters.create(isolated=own_gil)
        try:
            interpreters.run_string(interpreter, code)
        finally:
            interpreters.destroy(interpreter)


CONNECT = f"""
import contextlib, socket, smcsock
for proto, host in {[(p.proto, p.host) for p in (SMC, SMC6)]}:
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            listener, client = (
                stack.enter_context(smcsock.socket({SMC.family}, socket.SOCK_STREAM, proto))
                for _ in range(2)
            )
            listener.bind((host, 0))
            listener.listen()
            client.connect(listener.getsockname())
            server = stack.enter_context(listener.accept()[0])
            client.sendall(b"payload")
            assert server.recv(7) == b"payload"
            client.smc_info()
            with contextlib.suppress(TypeError):
                client.connect(None)
"""


@slow
def test_a_sub_interpreter_has_sockets_of_its_own() -> None:
    with SMC.pair() as pair:
        for _ in range(3):
            run_in_interpreter(CONNECT, own_gil=False)
            round_trip(*pair)


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="before Python 3.12 all interpreters share one GIL"
)
def test_interpreters_with_a_gil_of_their_own_run_at_once() -> None:
    with SMC.pair() as pair:
        for call in [Call(run_in_interpreter, CONNECT, True) for _ in range(4)]:
            call.result()
        round_trip(*pair)


# ----- leaks


@slow
def test_250_connections_leak_neither_descriptors_nor_memory(presentation: Presentation) -> None:
    def connect(times: int) -> None:
        for _ in range(times):
            with presentation.open() as client:
                client.connect(listener.getsockname())
                server, _ = listener.accept()
                with server:
                    client.sendall(b"payload")
                    assert receive(server, 7) == b"payload"
                    client.smc_info()
        gc.collect()

    with presentation.listener() as listener:
        connect(50)
        descriptors, blocks = open_descriptors(), sys.getallocatedblocks()
        connect(250)
        assert open_descriptors() == descriptors
        # One object for every connection would be 250.
        assert sys.getallocatedblocks() - blocks < 125


def connect_in_vain(address: Any, timeout: float | None = None) -> Callable[[], None]:
    def call() -> None:
        with SMC.open() as sock:
            sock.settimeout(timeout)
            sock.connect(address)

    return call


def connect_unanswered() -> None:
    with black_hole(SMC) as listener:
        connect_in_vain(listener.getsockname(), 0.1)()


def connect_refused(timeout: float | None) -> Callable[[], None]:
    def call() -> None:
        with refusing(SMC) as nobody:
            connect_in_vain(nobody.getsockname(), timeout)()

    return call


def create_connection_refused() -> None:
    with refusing(SMC) as nobody:
        smcsock.create_connection(nobody.getsockname())


def create_connection_unanswered() -> None:
    with black_hole(SMC) as listener:
        smcsock.create_connection(listener.getsockname(), 0.1)


def create_connection_from(source: Any) -> Callable[[], None]:
    def call() -> None:
        with SMC.listener() as listener:
            smcsock.create_connection(listener.getsockname(), source_address=source)

    return call


def create_connection_to_tcp_where_smc_is_required() -> None:
    with SMC.tcp_socket() as listener:
        listener.bind((SMC.host, 0))
        listener.listen()
        smcsock.create_connection(listener.getsockname(), require_smc=True)


def accept_tcp_where_smc_is_required() -> None:
    with SMC.listener() as listener, SMC.tcp_socket() as client:
        client.connect(listener.getsockname())
        listener.accept(require_smc=True)


def accept_nothing() -> None:
    with SMC.listener() as listener:
        listener.settimeout(0.1)
        listener.accept()


def accept_without_listening() -> None:
    with SMC.open() as sock:
        sock.accept()


def bind(address: Any) -> Callable[[], None]:
    def call() -> None:
        with SMC.open() as sock:
            sock.bind(address)

    return call


def create_server_twice() -> None:
    with SMC.listener() as listener:
        smcsock.create_server(listener.getsockname())


def adopt_tcp(adopt: Callable[[int], smcsock.socket]) -> Callable[[], None]:
    def call() -> None:
        with SMC.tcp_socket() as sock:
            try:
                adopt(sock.fileno())
            finally:
                assert sock.getsockname()  # the descriptor stays its owner's

    return call


def adopt_file(adopt: Callable[[int], smcsock.socket]) -> Callable[[], None]:
    def call() -> None:
        with open(os.devnull) as file:
            try:
                adopt(file.fileno())
            finally:
                assert os.fstat(file.fileno())

    return call


FAILURES: dict[str, Callable[[], object]] = {
    "a family that is none": lambda: smcsock.socket(socket.AF_UNIX),
    "a type that is none": lambda: smcsock.socket(type=socket.SOCK_DGRAM),
    "a protocol that is none": lambda: smcsock.socket(smcsock.AF_SMC, socket.SOCK_STREAM, 99),
    "a fallback that is none": lambda: smcsock.socket(fallback="udp"),  # type: ignore[arg-type]
    "bind to no address": bind(None),
    "bind to a bad port": bind((SMC.host, 1 << 16)),
    "bind to a bad host": bind(("::1", 0)),
    "bind to a foreign host": bind(("192.0.2.1", 0)),
    "connect to no address": connect_in_vain("nowhere"),
    "connect to a bad port": connect_in_vain((SMC.host, -1)),
    "connect to a bad host": connect_in_vain(("::1", 1)),
    "connect to no name": connect_in_vain(("\0", 1)),
    "connect, refused": connect_refused(None),
    "connect with a timeout, refused": connect_refused(LIMIT),
    "connect without blocking": connect_refused(0.0),
    "connect, unanswered": connect_unanswered,
    "accept, nothing there": accept_nothing,
    "accept without listen": accept_without_listening,
    "accept a fallback": accept_tcp_where_smc_is_required,
    "create_connection, bad address": lambda: smcsock.create_connection(("\0", 1)),
    "create_connection, refused": create_connection_refused,
    "create_connection, unanswered": create_connection_unanswered,
    "create_connection, bad source": create_connection_from("nowhere"),
    "create_connection, foreign source": create_connection_from(("192.0.2.1", 0)),
    "create_connection, fallback": create_connection_to_tcp_where_smc_is_required,
    "create_server, bad address": lambda: smcsock.create_server(("::1", 0)),
    "create_server, taken": create_server_twice,
    "create_server, bad backlog": lambda: smcsock.create_server((SMC.host, 0), backlog="x"),  # type: ignore[arg-type]
    "fileno, no descriptor": lambda: smcsock.socket(fileno=-1),
    "fileno, closed": lambda: smcsock.socket(fileno=1 << 20),
    "fileno, TCP": adopt_tcp(lambda fd: smcsock.socket(fileno=fd, fallback="error")),
    "fileno, no socket": adopt_file(lambda fd: smcsock.socket(fileno=fd)),
    "fromfd, TCP": adopt_tcp(lambda fd: smcsock.fromfd(fd, fallback="error")),
    "fromfd, no socket": adopt_file(smcsock.fromfd),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
def test_a_failure_leaks_no_descriptor(failure: Callable[[], object]) -> None:
    before = open_descriptors()
    for _ in range(3):
        with pytest.raises((OSError, TypeError, ValueError, OverflowError)):
            failure()
        assert open_descriptors() == before


class Denied(Exception):
    """Raised by an audit hook."""


@pytest.mark.parametrize("event", ["socket.__new__", "socket.bind", "socket.connect"])
def test_a_denial_by_an_audit_hook_leaks_no_descriptor(
    presentation: Presentation, event: str
) -> None:
    def hook(name: str, _: object) -> None:
        if name == event:
            raise Denied

    def use_socket() -> None:
        with presentation.open() as sock:
            sock.bind(source)
            sock.connect(address)

    def run() -> None:
        sys.addaudithook(hook)
        before = open_descriptors()
        with pytest.raises(Denied):
            use_socket()
        assert open_descriptors() == before
        with pytest.raises(Denied):
            smcsock.create_connection(address, source_address=source)
        assert open_descriptors() == before

    source = presentation.host, 0
    # A hook cannot be removed: it ends with the child.
    with presentation.listener() as listener:
        address = listener.getsockname()[:2]
        in_child(run)


# ----- no descriptor left


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    lowest_free = os.dup(0)
    os.close(lowest_free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_socket_says_that_no_descriptor_is_left(presentation: Presentation) -> None:
    with no_descriptor_left():
        ours, tcp = outcome(presentation.open), outcome(presentation.tcp_socket)
    assert ours == tcp == ("OSError", f"[Errno 24] {os.strerror(errno.EMFILE)}")


def test_accept_without_a_descriptor_leaves_the_connection_for_the_next(
    presentation: Presentation,
) -> None:
    def scenario(open_: Open) -> object:
        with open_() as listener, open_() as client:
            listener.bind((presentation.host, 0))
            listener.listen()
            client.connect(listener.getsockname())
            assert select.select([listener], [], [], LIMIT)[0]
            with no_descriptor_left():
                result = outcome(listener.accept)
            server, _ = listener.accept()
            with server:
                round_trip(client, server)
            return result

    ours = scenario(presentation.open)
    assert ours == scenario(presentation.tcp_socket)
    assert ours == ("OSError", f"[Errno 24] {os.strerror(errno.EMFILE)}")


@pytest.mark.usefixtures("smc_mode")
def test_smc_info_says_that_no_descriptor_is_left(pair: Pair) -> None:
    with no_descriptor_left():
        assert outcome(pair[0].smc_info)[0] == "OSError"
    assert isinstance(pair[0].smc_info().mode, Mode)
