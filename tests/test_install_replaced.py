"""install() and programs that put something else in the place of socket.socket."""

import _socket
import contextlib
import importlib
import itertools
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
from conftest import on_host
from test_install import V4, follows, modes, tcp_listener
from test_install import mode as mode
from test_install import nothing_left as nothing_left

import smcsock
from smcsock import FallbackError, Mode, Report
from smcsock._dropin import _places

original = socket.socket


class Derived(original):
    """As PySocks': more arguments, and methods of its own."""

    def __init__(
        self, family: int = V4, type: int = socket.SOCK_STREAM, *args: Any, **kwargs: Any
    ) -> None:
        name = kwargs.pop("name", "")
        super().__init__(family, type, *args, **kwargs)
        self.name = name

    def connect(self, address: Any) -> None:
        self.name = "connected"
        super().connect(address)


class Guarded(original):
    """As pytest-socket's."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        raise PermissionError("no sockets here")


def function(*args: Any, **kwargs: Any) -> socket.socket:
    return original(*args, **kwargs)


@contextlib.contextmanager
def standing_in(replacement: Any) -> Iterator[None]:
    with mock.patch.object(socket, "socket", replacement):
        yield


def exchange(client: socket.socket, listener: socket.socket) -> None:
    """Connects the client, which is what any socket would be."""
    client.connect(listener.getsockname())
    server, _ = listener.accept()
    with server:
        server.sendall(b"x")
        assert client.recv(1) == b"x"


@pytest.mark.parametrize("replacement", [Derived, function])
@pytest.mark.parametrize("first", ["replacement", "install"])
def test_what_is_made_by_a_replacement_follows(replacement: Any, first: str, mode: Mode) -> None:
    report = Report()
    contexts = [standing_in(replacement), smcsock.installed(report=report)]
    if first == "install":
        contexts.reverse()
    with contexts[0], contexts[1]:
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
            assert type(client) is (Derived if replacement is Derived else original)
            assert follows(client)
            exchange(client, listener)
        assert modes(report) == {("connect", mode): 1, ("accept", mode): 1}


@pytest.mark.parametrize("replacement", [Derived, Guarded, function, mock.MagicMock()])
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_patches_come_and_go_in_any_order(replacement: Any, order: tuple[int, ...]) -> None:
    """Of two installations and a replacement each, in pairs: no error, nothing taken along."""
    patch = mock.patch.object(socket, "socket", replacement)
    steps: list[tuple[Callable[[], object], Callable[[], object]]] = [
        (smcsock.install, smcsock.uninstall),
        (patch.start, patch.stop),
    ]
    done: set[int] = set()
    members = dict(vars(replacement)) if isinstance(replacement, type) else {}
    for step in order:
        which = step // 2
        steps[which][which in done]()
        done.add(which)
    assert socket.socket is original
    if isinstance(replacement, type):
        assert dict(vars(replacement)) == members
    with smcsock.installed(), socket.socket() as sock:
        assert follows(sock)


@pytest.mark.parametrize("kwargs", [{}, {"autospec": True}, {"wraps": original}])
def test_installed_while_mocked(kwargs: Any) -> None:
    with mock.patch("socket.socket", **kwargs) as replacement:
        with smcsock.installed(require_smc=True, fallback="tcp"), original() as sock:
            assert follows(sock)
            socket.socket().close()
        assert replacement.called


def reload() -> Any:
    return importlib.reload(socket)


def load_anew() -> Any:
    """As eventlet and ddtrace do."""
    kept = sys.modules.pop("socket")
    try:
        return importlib.import_module("socket")
    finally:
        sys.modules["socket"] = kept


@pytest.fixture
def module_restored() -> Iterator[None]:
    """The module socket has its own names again."""
    kept = dict(vars(socket))
    yield
    vars(socket).clear()
    vars(socket).update(kept)


@pytest.mark.usefixtures("module_restored")
@pytest.mark.parametrize("load", [reload, load_anew])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_module_socket_of_another_execution(
    load: Callable[[], Any], is_first: bool, mode: Mode
) -> None:
    report = Report()
    module = load() if is_first else None
    with smcsock.installed(report=report):
        module = module or load()
        assert module.socket is not original
        assert module.__loader__ is module.__spec__.loader
        assert type(module.__loader__) is type(original_loader)
        with module.create_server(("127.0.0.1", 0)) as listener, module.socket() as client:
            assert follows(client)
            exchange(client, listener)
        assert modes(report) == {("connect", mode): 1, ("accept", mode): 1}
    meta_path = list(sys.meta_path)
    smcsock.uninstall()
    assert sys.meta_path == meta_path
    assert not any(type(finder).__module__.startswith("smcsock") for finder in meta_path)


original_loader = socket.__loader__


class Proxy:
    """As wrapt's: it says that it is the class."""

    __class__ = property(lambda self: type)

    def __call__(self, *args: Any, **kwargs: Any) -> socket.socket:
        return original(*args, **kwargs)


def test_a_proxy_of_the_class_is_followed() -> None:
    with standing_in(Proxy()), smcsock.installed(), socket.socket() as sock:
        assert follows(sock)
        assert _places.unfollowed() == []


class PastInit(original):
    def __init__(self) -> None:
        _socket.socket.__init__(self, V4, socket.SOCK_STREAM)
        self._io_refs, self._closed = 0, False  # as that of socket.socket does


@pytest.mark.parametrize("connect", ["connect", "connect_ex"])
def test_what_is_opened_past_init_is_in_the_report(connect: str) -> None:
    report = Report()
    with smcsock.installed(report=report), PastInit() as listener, PastInit() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        getattr(client, connect)(listener.getsockname())
        listener.accept()[0].close()
    expected = {("connect", Mode.TCP): 1, ("accept", Mode.TCP): 1}
    assert modes(report) == expected


# ----- methods that are put back


@pytest.mark.parametrize("name", ["connect", "connect_ex", "listen", "setsockopt", "_accept"])
def test_a_patch_from_before_that_is_undone(name: str) -> None:
    """What did not stand in the class before is deleted; the next socket sees to it."""
    with smcsock.installed():
        delattr(original, name)
        socket.socket().close()
        assert vars(original)[name].__name__ == name
        with socket.socket() as sock, tcp_listener() as listener:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(listener.getsockname())


def test_an_init_from_before_that_is_put_back() -> None:
    with tcp_listener() as listener, smcsock.installed(require_smc=True, fallback="tcp"):
        ours = original.__init__
        with (
            mock.patch.object(original, "__init__", ours.__wrapped__),  # type: ignore[attr-defined]
            socket.socket() as sock,
            pytest.raises(FallbackError, match="not opened through"),
        ):
            sock.connect(listener.getsockname())
        with socket.socket() as sock:
            assert follows(sock)


@on_host
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            "import _socket, socket\nclass Own(_socket.socket): pass\nsocket.socket = Own",
            "__main__.Own stands in the place of socket.socket",
        ),
        (  # as eventlet's, which has a socket.socket inside
            "import socket\nclass Own:\n  real = socket.socket\nsocket.socket = Own",
            "",
        ),
        (
            "import socket\nsocket.socket.__init__ = socket.socket.__init__.__wrapped__",
            "a socket.socket.__init__ from before was put back",
        ),
    ],
)
def test_run_says_what_it_cannot_follow(code: str, expected: str) -> None:
    command = [sys.executable, "-m", "smcsock", "run", "--fallback", "tcp", "-c", code]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    said = f"smcsock: {expected}: its sockets are plain TCP, and not counted\n"
    assert result.stderr == (said if expected else "")
