"""Where applications are run, and what their connections must be there."""

import contextlib
import socket
import ssl
from collections.abc import Iterator

import pytest
from test_socket import time_limit as time_limit

import smcsock
from apps.support import IS_FOR_HERE, TLS
from smcsock import Mode


@pytest.fixture(scope="session", autouse=True)  # before the fixtures that start servers
def is_for_here() -> None:
    if not IS_FOR_HERE:
        pytest.skip("applications are run over SMC-D only")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def mode(request: pytest.FixtureRequest) -> Mode:
    """The mode that a connection must have: TCP only on a host that cannot do better."""
    if not smcsock.has_smc():
        return Mode.TCP
    mode = request.getfixturevalue("smc_mode")
    assert isinstance(mode, Mode)
    return mode


@pytest.fixture
def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS)
    return context


@pytest.fixture
def client_tls() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=TLS)


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port that nobody listens on, and that is taken, so that nobody will."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port where no connection comes about: the backlog is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
