"""install() and programs that patch methods of socket.socket: guards, sandboxes, recorders."""

import _socket
import contextlib
import functools
import socket
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from test_install import connected, follows, modes, tcp_listener
from test_install import mode as mode
from test_install import nothing_left as nothing_left

import smcsock
from smcsock import Mode, Report

ANY = ("127.0.0.1", 0)


def use_connect(sock: socket.socket) -> None:
    with tcp_listener() as listener:
        sock.connect(listener.getsockname())


def use_connect_ex(sock: socket.socket) -> None:
    with tcp_listener() as listener:
        sock.connect_ex(listener.getsockname())


def use_accept(sock: socket.socket) -> None:
    with tcp_listener():
        sock.bind(ANY)
        sock.listen()
        sock.settimeout(0.01)
        sock.accept()


USES: dict[str, Callable[[socket.socket], object]] = {
    "connect": use_connect,
    "connect_ex": use_connect_ex,
    "bind": lambda sock: sock.bind(ANY),
    "listen": lambda sock: sock.listen(),
    "accept": use_accept,
    "_accept": use_accept,
    "setsockopt": lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    "getsockopt": lambda sock: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
    "shutdown": lambda sock: sock.shutdown(socket.SHUT_RDWR),
    "detach": lambda sock: sock.detach(),
    "send": lambda sock: sock.send(b"x"),
    "sendto": lambda sock: sock.sendto(b"x", ANY),
    "recv": lambda sock: sock.recv(1),
    "getpeername": lambda sock: sock.getpeername(),
}


class Forbidden(Exception):
    pass


def forbid(self: Any, *args: Any, **kwargs: Any) -> Any:
    raise Forbidden


@contextlib.contextmanager
def guarded(name: str) -> Iterator[None]:
    """As test suites and sandboxes do it."""
    with mock.patch.object(socket.socket, name, forbid):
        yield


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("first", ["guard", "install"])
@pytest.mark.parametrize("require_smc", [True, False])
def test_a_guard_holds(name: str, first: str, require_smc: bool) -> None:
    contexts = [guarded(name), smcsock.installed(require_smc=require_smc, fallback="tcp")]
    if first == "install":
        contexts.reverse()
    with contexts[0], contexts[1], socket.socket() as sock, pytest.raises(Forbidden):
        USES[name](sock)


@pytest.mark.parametrize("saved", ["before", "after"])
def test_a_recorder_sees_every_call_once(saved: str, mode: Mode) -> None:
    """It calls what it found, which may have been there before smcsock."""
    seen: list[str] = []

    def recorded(name: str) -> Any:
        method = getattr(socket.socket, name)

        @functools.wraps(method)
        def record(self: Any, *args: Any) -> Any:
            seen.append(name)
            return method(self, *args)

        return mock.patch.object(socket.socket, name, record)

    names = ["connect", "bind", "listen", "_accept"]
    report = Report()
    with contextlib.ExitStack() as stack:
        if saved == "after":
            stack.enter_context(smcsock.installed(report=report))
        for name in names:
            stack.enter_context(recorded(name))
        if saved == "before":
            stack.enter_context(smcsock.installed(report=report))
        with connected():
            pass
    assert sorted(seen) == sorted(names)
    assert modes(report) == {("connect", mode): 1, ("accept", mode): 1}


PATCHES: dict[str, Callable[[mock.Mock], Any]] = {
    "mock": lambda calls: calls,
    "mock with a specification": lambda calls: calls,
    "staticmethod": lambda calls: staticmethod(lambda address: calls(address)),
    "property": lambda calls: property(lambda self: calls),
    "partialmethod": lambda calls: functools.partialmethod(lambda self, x, y: calls(y), "x"),
}


@pytest.mark.parametrize("kind", PATCHES)
@pytest.mark.parametrize("report", [None, Report()])
@pytest.mark.parametrize("first", ["patch", "install"])
def test_what_stands_there_is_called_as_ever(kind: str, report: Report | None, first: str) -> None:
    """With a report there are more methods, once a socket is known: not over the patch."""
    calls = mock.Mock(spec=_socket.socket.connect) if "spec" in kind else mock.Mock()
    contexts = [
        mock.patch.object(socket.socket, "connect", PATCHES[kind](calls)),
        smcsock.installed(fallback="tcp", report=report),
    ]
    if first == "install":
        contexts.reverse()
    with contexts[0], contexts[1], socket.socket() as sock:
        sock.connect(ANY)
        calls.assert_called_once_with(ANY)


# ----- __init__()


@pytest.mark.parametrize("first", ["patch", "install"])
def test_options_of_a_patched_init_are_set(first: str, mode: Mode) -> None:
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE), (socket.IPPROTO_TCP, socket.TCP_NODELAY)]

    def patched() -> Any:
        init = socket.socket.__init__

        def __init__(self: Any, *args: Any, timeout: float = 60, **kwargs: Any) -> None:  # noqa: N807
            init(self, *args, **kwargs)
            self.settimeout(timeout)
            if "fileno" not in kwargs and len(args) < 4:
                for option in options:
                    self.setsockopt(*option, 1)

        return mock.patch.object(socket.socket, "__init__", __init__)

    report = Report()
    with contextlib.ExitStack() as stack:
        if first == "patch":
            stack.enter_context(patched())
        stack.enter_context(smcsock.installed(report=report))
        if first == "install":
            stack.enter_context(patched())
        with socket.socket(timeout=30) as client:  # type: ignore[call-arg]
            assert follows(client)
            assert client.gettimeout() == 30
            assert all(client.getsockopt(*option) for option in options)
            with socket.create_server(ANY) as listener:
                client.connect(listener.getsockname())
                server, _ = listener.accept()
                with server:
                    assert server.gettimeout() in (None, 60)
    assert modes(report) == {("connect", mode): 1, ("accept", mode): 1}


@pytest.mark.parametrize("first", ["guard", "install"])
def test_a_guard_in_init_holds(first: str) -> None:
    """One that lets pass who hands over a descriptor must not mistake smcsock's for that."""

    def guarded_init() -> Any:
        init = socket.socket.__init__

        def __init__(  # noqa: N807
            self: Any, family: int = -1, type: int = -1, proto: int = -1, fileno: Any = None
        ) -> None:
            if fileno is None and family in (-1, socket.AF_INET):
                raise Forbidden
            init(self, family, type, proto, fileno)

        return mock.patch.object(socket.socket, "__init__", __init__)

    with contextlib.ExitStack() as stack:
        if first == "guard":
            stack.enter_context(guarded_init())
        stack.enter_context(smcsock.installed())
        if first == "install":
            stack.enter_context(guarded_init())
        with pytest.raises(Forbidden):
            socket.socket()
        left, right = socket.socketpair()
        with left, right, socket.socket(socket.AF_INET6) as sock:
            assert follows(sock)
