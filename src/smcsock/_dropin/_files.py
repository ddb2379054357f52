"""What is known of the files behind sockets.

By inode: whatever object or descriptor leads to a file, it is the same socket to the
kernel. So what is known survives detach(), dup(), ssl's wrapping, fork and adoption.
"""

import contextlib
import os
from collections.abc import Callable
from socket import SO_PROTOCOL, SOL_SOCKET
from typing import Any

from .. import _plain, _smcsock
from .._errors import FallbackError, refused
from .._kernel._smc_info import Mode, SmcInfo, decode
from .._kernel._sock_diag import records
from .._smcsock import AF_SMC, IPPROTO_SMC
from .._socket import socket as smcsock_socket
from . import _settings
from ._report import NOT_SELECTED, Outcome, Side
from ._settings import Settings

__all__ = [
    "File",
    "accepted",
    "add",
    "at",
    "check",
    "conclude",
    "ending",
    "fell_back",
    "forget",
    "is_of_program",
    "known",
    "made",
    "move",
    "of",
    "of_smc",
    "refusal",
    "refuse",
    "when_known",
]

_readlink, _listdir = os.readlink, os.listdir


class File:
    """A socket that was made under an installation, and what became of it.

    ``note`` says why it is TCP, "" for an SMC socket; ``is_hollow`` that it is the TCP
    socket inside an SMC socket. ``unmade`` has one element, for whoever finds that
    there is a connection. ``holders`` are the ids of the objects that have it open,
    ``opener`` the process that was the first.
    """

    __slots__ = (
        "has_ended",
        "holders",
        "is_hollow",
        "note",
        "opener",
        "refusal",
        "settings",
        "unmade",
    )

    def __init__(self, settings: Settings, note: str = "") -> None:
        self.settings = settings
        self.note = note
        self.opener = os.getpid()
        self.is_hollow = False
        self.has_ended = False  # a listener that was shut down
        self.holders: set[int] = set()
        self.unmade = [True]
        self.refusal: tuple[str, Any, SmcInfo | None] | None = None

    def selects(self, address: Any, sock: Any) -> bool:
        """Whether its installation wants SMC for an address, as this object understands it."""
        only = self.settings.only
        return only is None or only.matches(address, _plain.family_named(sock))

    @property
    def must_be_smc(self) -> bool:
        """Whether a connection must not be TCP."""
        return self.settings.require_smc and self.note != NOT_SELECTED


known: dict[int, File] = {}
"""By inode; to be read, for those that can do without the question if it is empty."""

_tidy_at = 1024


def of(sock: Any) -> File | None:
    """What is known of the file of a socket.socket."""
    return known.get(_smcsock.inode(sock)) if known else None


def of_smc(sock: Any) -> File | None:
    """The same; and if nothing is known of an SMC socket, it is from now on."""
    file = of(sock)
    if file is None and _settings.current is not None and is_of_program(sock):
        file = File(_settings.current)
        add(_smcsock.inode(sock), file, sock)
    return file


def is_of_program(sock: Any) -> bool:
    """Whether it is an SMC socket, but none that the program has asked for as such."""
    if isinstance(sock, smcsock_socket):
        return False
    try:
        _, domain, _, protocol = _smcsock.identify(_plain.fileno(sock))
    except OSError:
        return False  # closed
    return domain == AF_SMC or protocol == IPPROTO_SMC


def at(inode: int) -> File | None:
    """What is known of a file."""
    return known.get(inode)


_prepare: Callable[[], None] | None = None


def when_known(prepare: Callable[[], None]) -> None:
    """Calls a function before the first file is known; programs may never have one."""
    global _prepare
    if known:
        prepare()
    else:
        _prepare = prepare


def add(inode: int, file: File, sock: Any = None) -> None:
    """Remembers a file, and that this object has it open."""
    global _prepare, _tidy_at
    if _prepare is not None:
        prepare, _prepare = _prepare, None
        prepare()
    if sock is not None:
        file.holders.add(id(sock))
    known[inode] = file
    if len(known) >= _tidy_at:
        _tidy()
        _tidy_at = max(1024, 2 * len(known))


def forget(inode: int, sock: Any, *, is_closed: bool) -> None:
    """An object lets go of a file, which is closed if nothing else has it open."""
    file = known.get(inode)
    if file is not None:
        file.holders.discard(id(sock))
        if is_closed and not file.holders:
            known.pop(inode, None)


def move(inode: int, new_inode: int) -> None:
    """Another file has taken the place of one."""
    file = known.pop(inode, None)
    if file is not None:
        known[new_inode] = file


def _tidy() -> None:
    """Forgets files that were closed by other ways than their objects' close()."""
    before = list(known)
    try:
        numbers = _listdir("/proc/self/fd")
    except OSError:
        return
    links = set()
    for number in numbers:
        try:
            links.add(_readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue  # closed meanwhile
    for inode in before:
        if f"socket:[{inode}]" not in links:
            known.pop(inode, None)


# ---- Connections


def made(sock: Any, inode: int, file: File, peer: Any) -> None:
    """A socket is connected: counts it; ends the connection if it must not be TCP."""
    try:
        file.unmade.pop()
    except IndexError:
        return  # known already
    if file.settings.report is None and not file.must_be_smc:
        return
    is_tcp = bool(file.note) or fell_back(sock)
    if is_tcp and file.must_be_smc:
        refuse(sock, inode, file, peer)
    _count(inode, file, "connect", is_tcp)


def accepted(inode: int, file: File, peer: Any, *, is_tcp: bool) -> None:
    """A connection was accepted: counts it; to be closed if it has a refusal then."""
    file.unmade.clear()
    if is_tcp and file.must_be_smc:
        file.refusal = refusal(inode, peer, file.note)
    _count(inode, file, "accept", is_tcp)


def _count(inode: int, file: File, side: Side, is_tcp: bool) -> None:
    report = file.settings.report
    if report is None:
        return
    if file.refusal is not None:
        info = file.refusal[2]
        reasons = (info.reason, info.peer_reason) if info else (None, None)
        report.add(Outcome(side, Mode.TCP, *reasons, note=file.note, refused=True))
    elif file.note:
        report.add(Outcome(side, Mode.TCP, note=file.note))
    else:
        report.opened(inode, side, is_tcp)


def conclude(sock: Any, file: File) -> None:
    """Looks whether a connect that was under way has succeeded; raises nothing."""
    if file.unmade:
        try:
            peer = _plain.getpeername(sock)
        except OSError:
            return
        made(sock, _smcsock.inode(sock), file, peer)


def ending(sock: Any, inode: int, file: File) -> None:
    """To be called before a connection may be no more; raises nothing."""
    conclude(sock, file)
    if file.settings.report is not None:
        file.settings.report.closing(inode)


def fell_back(sock: Any) -> bool:
    """Whether a socket is TCP to every system call."""
    try:
        return _plain.getsockopt(sock, SOL_SOCKET, SO_PROTOCOL) in _plain.TCP_PROTOCOLS
    except OSError:
        return False  # closed meanwhile


def refuse(sock: Any, inode: int, file: File, peer: Any) -> None:
    """Ends a connection that must not be TCP; its descriptor stays, event loops know it."""
    file.refusal = refusal(inode, peer, file.note)
    with contextlib.suppress(OSError):  # it has ended on its own
        _plain.shutdown(sock, _plain.SHUT_RDWR)


def refusal(inode: int, peer: Any, note: str) -> tuple[str, Any, SmcInfo | None]:
    """What FallbackError() is to be told of a connection."""
    if note:
        return f"SMC was required but the connection is TCP ({note})", peer, None
    return refused(peer, lambda: _info(inode))


def _info(inode: int) -> SmcInfo | None:
    found = records([inode])
    return decode(found[0]) if found else None


def check(sock: Any, file: File) -> None:
    """Raises FallbackError of a connection that must not be TCP and is."""
    if file.unmade and file.must_be_smc:
        conclude(sock, file)
    if file.refusal is not None:
        raise FallbackError(*file.refusal)
