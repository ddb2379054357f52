"""install() and uninstall()."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

from .._socket import Fallback, _tcp_allowed, until_end
from . import _methods, _settings
from ._report import Report
from ._selection import Selection
from ._settings import Settings

__all__ = ["install", "installed", "uninstall"]

_os_sendfile, _os_lseek = os.sendfile, os.lseek


def install(
    *,
    require_smc: bool = False,
    fallback: Fallback | None = None,
    only: Iterable[str] | str | None = None,
    report: Report | None = None,
    sndbuf: int | None = None,
    rcvbuf: int | None = None,
) -> None:
    """Makes every TCP socket that Python code opens from now on an SMC socket.

    ``socket.socket(AF_INET or AF_INET6, SOCK_STREAM)`` gives the socket.socket that it
    always gave, and classes derived from it their own objects; the descriptor inside is
    that of an SMC socket. All that is built on socket.socket follows: socketserver,
    http, asyncio, selectors, multiprocessing.connection, ssl. Whether a connection is
    SMC tells ``smcsock.smc_info(sock)``.

    With ``require_smc`` a connection that fell back to TCP is ended: connect(), accept()
    and whatever uses it raise FallbackError, connect_ex() and SO_ERROR are
    EPROTONOSUPPORT.

    ``fallback`` is for a kernel without SMC, as for smcsock.socket.

    ``only`` selects by address, HOST:PORT: of the peer for connect(), of the socket
    itself for listen(). HOST is an IP address, a network (10.1.0.0/16), a name or "*",
    IPv6 in brackets, PORT a number or "*". Names are resolved now. All else is TCP.

    ``report`` counts the connections by mode and reason. ``sndbuf`` and ``rcvbuf`` are
    the sizes of the buffers of SMC connections in bytes, for sockets whose program sets
    none: SO_SNDBUF and SO_RCVBUF.

    Installations nest: the last one counts until its uninstall(). Sockets keep the
    settings of the one that they were made under.

    Raises ValueError for settings that make no sense, socket.gaierror for a name in
    ``only`` that cannot be resolved.
    """
    _push(_checked(require_smc, fallback, only, report, sndbuf, rcvbuf))


def uninstall() -> None:
    """Undoes the last install(); nothing happens if there is none.

    Sockets that were made meanwhile remain what they are.
    """
    _settings.pop()
    _leave()


@contextlib.contextmanager
def installed(
    *,
    require_smc: bool = False,
    fallback: Fallback | None = None,
    only: Iterable[str] | str | None = None,
    report: Report | None = None,
    sndbuf: int | None = None,
    rcvbuf: int | None = None,
) -> Iterator[None]:
    """A context manager: install() on entry, and undone on exit.

    It holds for the whole process, all threads and tasks.
    """
    settings = _checked(require_smc, fallback, only, report, sndbuf, rcvbuf)
    _push(settings)
    try:
        yield
    finally:
        _settings.remove(settings)
        _leave()


def _checked(
    require_smc: bool,
    fallback: Fallback | None,
    only: Iterable[str] | str | None,
    report: Report | None,
    sndbuf: int | None,
    rcvbuf: int | None,
) -> Settings:
    if fallback is not None:
        _tcp_allowed(fallback)
    for name, size in (("sndbuf", sndbuf), ("rcvbuf", rcvbuf)):
        if size is not None and not 0 < size < 2**31:
            raise ValueError(f"{name} must be a number of bytes below 2 GiB, not {size}")
    selection = None
    if only is not None:
        selection = Selection([only] if isinstance(only, str) else only)
    is_simple = not (require_smc or selection or report or sndbuf or rcvbuf)
    return Settings(require_smc, fallback, selection, report, sndbuf, rcvbuf, is_simple)


def _push(settings: Settings) -> None:
    _methods.place_all()
    if settings.require_smc:
        _methods.place_required()
    if os.sendfile is _os_sendfile:
        os.sendfile = _sendfile
    _settings.push(settings)


def _leave() -> None:
    if _settings.current is None:
        _methods.leave()
        if os.sendfile is _sendfile:
            os.sendfile = _os_sendfile


def _sendfile(out_fd: int, in_fd: int, offset: int | None, count: int, *rest: Any) -> int:
    """In the place of os.sendfile(): sends the same, but does not ask for more than there is.

    See until_end(); asyncio calls it with the descriptor of the socket.
    """
    with contextlib.suppress(OSError, TypeError):
        start = _os_lseek(in_fd, 0, os.SEEK_CUR) if offset is None else offset
        count = until_end(in_fd, start, count) or 0
    return _os_sendfile(out_fd, in_fd, offset, count, *rest)
