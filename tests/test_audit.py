"""Audit events: those of TCP sockets, with the same arguments, and refusals that hold.

A hook cannot be removed: there is one for the whole session, asleep outside of a test.
"""

import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import INET, INET6, SMC, SMC6, Presentation
from descriptors import open_descriptors

import smcsock

LIMIT = 60.0

Event = tuple[str, tuple[Any, ...]]


class Refused(Exception):
    pass


class Auditor:
    """Records the events of sockets; raises at one of them if told to."""

    def __init__(self) -> None:
        self.awake = False
        self.reset()

    def reset(self) -> None:
        self.events: list[Event] = []
        self.refused: str | None = None
        self.let_pass = 0
        self.probe: Callable[[], object] = lambda: None
        self.probed: list[object] = []

    def refuse(self, event: str, let_pass: int = 0) -> None:
        self.reset()
        self.refused, self.let_pass = event, let_pass

    def take(self) -> list[Event]:
        """The events since the last time."""
        events, self.events = self.events, []
        return events

    def take_names(self) -> list[tuple[object, ...]]:
        """As take(), with the class for each socket, the same whichever raised them."""
        return [
            (event, *("a socket" if isinstance(arg, socket.socket) else arg for arg in args))
            for event, args in self.take()
        ]

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.awake or not event.startswith("socket."):
            return
        self.events.append((event, args))
        self.probed.append(self.probe())
        if event == self.refused:
            self.let_pass -= 1
            if self.let_pass < 0:
                raise Refused(event)


@pytest.fixture(scope="session")
def session_auditor() -> Auditor:
    auditor = Auditor()
    sys.addaudithook(auditor)
    return auditor


@pytest.fixture
def auditor(session_auditor: Auditor) -> Iterator[Auditor]:
    session_auditor.reset()
    session_auditor.awake = True
    yield session_auditor
    session_auditor.awake = False
    session_auditor.reset()


@pytest.fixture
def listener(presentation: Presentation) -> Iterator[socket.socket]:
    """A standard library socket: whatever it raises is not the subject's."""
    with presentation.tcp_socket() as sock:
        sock.bind((presentation.host, 0))
        sock.listen()
        sock.settimeout(LIMIT)
        yield sock


# ---- What is raised --------------------------------------------------------------


@pytest.mark.parametrize("presentation", [INET, INET6], ids=lambda p: p.name)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_STREAM | socket.SOCK_NONBLOCK])
@pytest.mark.parametrize("proto", [0, socket.IPPROTO_TCP])
def test_new_socket_presenting_inet_as_tcp(
    presentation: Presentation, auditor: Auditor, kind: int, proto: int
) -> None:
    with socket.socket(presentation.inet, kind, proto):
        expected = auditor.take_names()
    with smcsock.socket(presentation.inet, kind, proto) as sock:
        events = auditor.take()
        assert events == [("socket.__new__", (sock, presentation.inet, kind, proto))]
        auditor.events = events
    assert auditor.take_names() == expected


@pytest.mark.parametrize("presentation", [SMC, SMC6], ids=lambda p: p.name)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_STREAM | socket.SOCK_NONBLOCK])
def test_new_socket_presenting_smc_says_so_first(
    presentation: Presentation, auditor: Auditor, kind: int
) -> None:
    with smcsock.socket(presentation.family, kind, presentation.proto) as sock:
        first, second = auditor.take()
    assert first == ("socket.__new__", (sock, smcsock.AF_SMC, kind, presentation.proto))
    # The base class, which holds the family of the addresses.
    assert second[0] == "socket.__new__"
    assert second[1][:3] == (sock, presentation.inet, kind)


def test_new_socket_without_arguments_says_what_it_is(auditor: Auditor) -> None:
    with smcsock.socket() as sock:
        event, args = auditor.take()[0]
    assert event == "socket.__new__"
    assert args == (sock, smcsock.AF_SMC, socket.SOCK_STREAM, smcsock.SMCPROTO_SMC)


def test_new_socket_is_opened_after_the_event(presentation: Presentation, auditor: Auditor) -> None:
    before = open_descriptors()
    for opener in presentation.tcp_socket, presentation.open:
        auditor.reset()
        auditor.probe = open_descriptors
        with opener():
            # One event, or both that a socket presenting AF_SMC raises.
            assert auditor.probed == [before] * len(auditor.events) != []


def test_has_smc_raises_none(auditor: Auditor) -> None:
    smcsock.has_smc()
    assert auditor.take() == []


def test_bind_once_with_the_very_address(presentation: Presentation, auditor: Auditor) -> None:
    address = presentation.host, 0
    with presentation.open() as sock:
        auditor.take()
        sock.bind(address)
        events = auditor.take()
        assert events == [("socket.bind", (sock, address))]
        assert events[0][1][1] is address


@pytest.mark.parametrize("call", ["connect", "connect_ex"])
def test_connect_once_with_the_very_address(
    presentation: Presentation, listener: socket.socket, auditor: Auditor, call: str
) -> None:
    address = listener.getsockname()
    with presentation.open() as sock:
        auditor.take()
        getattr(sock, call)(address)
        events = auditor.take()
        assert events == [("socket.connect", (sock, address))]
        assert events[0][1][1] is address


def test_failing_calls_raise_them_once(presentation: Presentation, auditor: Auditor) -> None:
    with presentation.tcp_socket() as holder, presentation.open() as sock:
        holder.bind((presentation.host, 0))
        address = holder.getsockname()
        auditor.take()
        with pytest.raises(OSError, match="in use"):
            sock.bind(address)
        with pytest.raises(ConnectionRefusedError):
            sock.connect(address)
        assert auditor.take() == [
            ("socket.bind", (sock, address)),
            ("socket.connect", (sock, address)),
        ]


@pytest.mark.parametrize("call", ["bind", "connect", "connect_ex"])
def test_bad_address_raises_none(presentation: Presentation, auditor: Auditor, call: str) -> None:
    with presentation.open() as sock:
        auditor.take()
        with pytest.raises(OverflowError):
            getattr(sock, call)((presentation.host, 65536))
        assert auditor.take() == []


@pytest.mark.parametrize("call", ["bind", "connect"])
def test_closed_socket_raises_them_as_tcp(
    presentation: Presentation, auditor: Auditor, call: str
) -> None:
    names = []
    for opener in presentation.tcp_socket, presentation.open:
        with opener() as sock:
            pass
        auditor.take()
        with pytest.raises(OSError, match="Bad file descriptor"):
            getattr(sock, call)((presentation.host, 9))
        names.append(auditor.take_names())
    assert names[0] == names[1] == [(f"socket.{call}", "a socket", (presentation.host, 9))]


def new_from_accept(presentation: Presentation, sock: socket.socket) -> socket.socket:
    """A socket accepted by one that is bound to nothing yet."""
    sock.bind((presentation.host, 0))
    sock.listen()
    sock.settimeout(LIMIT)
    with presentation.tcp_socket() as client:
        client.connect(sock.getsockname())
        return sock.accept()[0]


def new_from_dup(_: Presentation, sock: socket.socket) -> socket.socket:
    return sock.dup()


@pytest.mark.parametrize("presentation", [INET, INET6], ids=lambda p: p.name)
@pytest.mark.parametrize("new_from", [new_from_accept, new_from_dup])
def test_derived_socket_as_tcp(
    presentation: Presentation,
    auditor: Auditor,
    new_from: Callable[[Presentation, socket.socket], socket.socket],
) -> None:
    names = []
    for opener in presentation.tcp_socket, presentation.open:
        with opener() as sock, new_from(presentation, sock) as new:
            event, args = auditor.take()[-1]
            assert args[0] is new
            names.append((event, *args[1:]))
    assert names[0] == names[1] == ("socket.__new__", presentation.inet, socket.SOCK_STREAM, 0)


def test_inherited_methods_as_tcp(
    presentation: Presentation, listener: socket.socket, auditor: Auditor
) -> None:
    names = []
    address = listener.getsockname()
    for opener in presentation.tcp_socket, presentation.open:
        with opener() as sock:
            sock.connect(address)
            auditor.take()
            sock.sendto(b"x", address)
            sock.sendto(b"x", 0, address)
            sock.sendmsg([b"x"])
            sock.sendmsg([b"x"], [], 0, address)
            names.append(auditor.take_names())
    assert names[0] == names[1]
    assert names[0] == [
        ("socket.sendto", "a socket", address),
        ("socket.sendto", "a socket", address),
        ("socket.sendmsg", "a socket", None),
        ("socket.sendmsg", "a socket", address),
    ]


@pytest.mark.parametrize("presentation", [INET, INET6], ids=lambda p: p.name)
def test_create_connection_as_the_standard_library(
    presentation: Presentation, listener: socket.socket, auditor: Auditor
) -> None:
    names = []
    host, port, *_ = listener.getsockname()
    for create in socket.create_connection, smcsock.create_connection:
        with create((host, port), LIMIT, (host, 0)):
            names.append(auditor.take_names())
    # The standard library asks for the protocol that getaddrinfo() gives.
    new = "socket.__new__", "a socket", presentation.inet, socket.SOCK_STREAM, socket.IPPROTO_TCP
    assert [name[0] for name in names[0]] == [
        "socket.getaddrinfo",
        "socket.__new__",
        "socket.bind",
        "socket.connect",
    ]
    assert names[0][1] == new
    assert names[1] == names[0]


@pytest.mark.parametrize("presentation", [INET, INET6], ids=lambda p: p.name)
def test_create_server_as_the_standard_library(
    presentation: Presentation, auditor: Auditor
) -> None:
    names = []
    address = presentation.host, 0
    for create in socket.create_server, smcsock.create_server:
        with create(address, family=presentation.inet):
            names.append(auditor.take_names())
    assert names[0] == names[1]
    assert names[0] == [
        ("socket.__new__", "a socket", presentation.inet, socket.SOCK_STREAM, 0),
        ("socket.bind", "a socket", address),
    ]


# ---- A hook that refuses ---------------------------------------------------------


def test_refused_socket_is_not_opened(presentation: Presentation, auditor: Auditor) -> None:
    before = open_descriptors()
    for let_pass in range(2 if presentation.family == smcsock.AF_SMC else 1):
        auditor.refuse("socket.__new__", let_pass)
        with pytest.raises(Refused):
            presentation.open()
        assert open_descriptors() == before


def test_refused_adoption_leaves_the_descriptor_alone(
    presentation: Presentation, auditor: Auditor
) -> None:
    with presentation.open() as sock:
        for adopt in (
            lambda: smcsock.socket(fileno=sock.fileno()),
            lambda: smcsock.fromfd(sock.fileno()),
            sock.dup,
            sock.to_stdlib,
        ):
            before = open_descriptors()
            auditor.refuse("socket.__new__")
            with pytest.raises(Refused):
                adopt()
            assert open_descriptors() == before
            assert sock.getsockname()[1] == 0


def test_refused_accept_closes_the_connection(presentation: Presentation, auditor: Auditor) -> None:
    with presentation.listener() as sock, presentation.tcp_socket() as client:
        client.settimeout(LIMIT)
        client.connect(sock.getsockname())
        before = open_descriptors()
        auditor.refuse("socket.__new__")
        with pytest.raises(Refused):
            sock.accept()
        assert open_descriptors() == before
        assert client.recv(1) == b""


def test_refused_bind_leaves_the_socket_unbound(
    presentation: Presentation, auditor: Auditor
) -> None:
    with presentation.open() as sock:
        auditor.refuse("socket.bind")
        with pytest.raises(Refused):
            sock.bind((presentation.host, 0))
        assert sock.getsockname()[1] == 0


@pytest.mark.parametrize("call", ["connect", "connect_ex"])
@pytest.mark.parametrize("timeout", [None, 0.0, LIMIT])
def test_refused_connect_does_not_connect(
    presentation: Presentation,
    listener: socket.socket,
    auditor: Auditor,
    call: str,
    timeout: float | None,
) -> None:
    listener.setblocking(False)
    with presentation.open() as sock:
        sock.settimeout(timeout)
        auditor.refuse("socket.connect")
        with pytest.raises(Refused):
            getattr(sock, call)(listener.getsockname())
        with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
            sock.getpeername()
        assert sock.getsockname()[1] == 0
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("event", ["getaddrinfo", "__new__", "bind", "connect"])
def test_refused_create_connection_leaves_nothing_behind(
    presentation: Presentation, listener: socket.socket, auditor: Auditor, event: str
) -> None:
    before = open_descriptors()
    auditor.refuse(f"socket.{event}")
    with pytest.raises(Refused):
        smcsock.create_connection(listener.getsockname()[:2], LIMIT, (presentation.host, 0))
    assert open_descriptors() == before
    # Once refused it is not tried again.
    assert [name for name, _ in auditor.take()].count(f"socket.{event}") == 1


@pytest.mark.parametrize("event", ["__new__", "bind"])
def test_refused_create_server_leaves_nothing_behind(
    presentation: Presentation, auditor: Auditor, event: str
) -> None:
    before = open_descriptors()
    auditor.refuse(f"socket.{event}")
    with pytest.raises(Refused):
        smcsock.create_server((presentation.host, 0), family=presentation.inet)
    assert open_descriptors() == before
