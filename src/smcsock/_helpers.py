"""create_connection and create_server, with the standard library's signatures."""

from __future__ import annotations

import errno
import os
import socket as _stdlib

from ._errors import HandshakeInterruptedError
from ._opening import open_ipproto_smc
from ._socket import Fallback, socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["create_connection", "create_server"]

# What the standard library's own callers (http.client, ftplib) pass for "not given".
_DEFAULT_TIMEOUT: Any = _stdlib._GLOBAL_DEFAULT_TIMEOUT  # type: ignore[attr-defined]


def set_buffers(sock: _stdlib.socket, sndbuf: int | None, rcvbuf: int | None) -> None:
    """Sets the sizes of a socket's buffers in bytes, where they are given."""
    for option, size in ((_stdlib.SO_SNDBUF, sndbuf), (_stdlib.SO_RCVBUF, rcvbuf)):
        if size is not None:
            sock.setsockopt(_stdlib.SOL_SOCKET, option, size)


def _connect(
    family: int,
    proto: int,
    address: Any,
    timeout: Any,
    source_address: Any,
    require_smc: bool,
    fallback: Fallback | None,
    buffers: tuple[int | None, int | None] = (None, None),
) -> socket:
    sock = socket(family, _stdlib.SOCK_STREAM, proto, fallback=fallback)
    try:
        set_buffers(sock, *buffers)
        if timeout is not _DEFAULT_TIMEOUT:
            sock.settimeout(timeout)
        if source_address:
            sock.bind(source_address)
        sock.connect(address)
        if require_smc:
            sock._refuse_fallback(address)
    except BaseException:
        sock.close()
        raise
    return sock


def create_connection(
    address: tuple[str | None, int | str | None],
    timeout: float | None = _DEFAULT_TIMEOUT,
    source_address: Any = None,
    *,
    all_errors: bool = False,
    require_smc: bool = False,
    fallback: Fallback | None = None,
    sndbuf: int | None = None,
    rcvbuf: int | None = None,
) -> socket:
    """Connects to (host, port), trying each address of the host in turn.

    As socket.create_connection(): ``timeout`` in seconds for each attempt,
    ``source_address`` to bind to first, ``all_errors`` for an ExceptionGroup in
    place of the last error. With ``require_smc`` a connection that falls back to
    TCP counts as failed, with FallbackError. ``fallback`` as for smcsock.socket.
    ``sndbuf`` and ``rcvbuf`` are the sizes of the buffers in bytes, which without them
    hold 64 KiB (SO_SNDBUF, SO_RCVBUF): once connected they are what they are.

    The socket presents AF_INET or AF_INET6.
    """
    host, port = address
    errors: list[OSError] = []
    for family, _, proto, _, sockaddr in _stdlib.getaddrinfo(host, port, 0, _stdlib.SOCK_STREAM):
        while True:
            try:
                return _connect(
                    family,
                    proto,
                    sockaddr,
                    timeout,
                    source_address,
                    require_smc,
                    fallback,
                    (sndbuf, rcvbuf),
                )
            except HandshakeInterruptedError:
                # Unlike connect() on a caller's socket, this can go on with a new one.
                continue
            except OSError as error:
                if not all_errors:
                    errors.clear()
                errors.append(error)
            break
    try:
        if not errors:
            raise OSError("getaddrinfo returns an empty list")
        if not all_errors:
            raise errors[0]
        raise ExceptionGroup("create_connection failed", errors)
    finally:
        errors.clear()  # breaks the cycle of frame and traceback


def open_shared(family: int, proto: int, fallback: Fallback | None) -> socket:
    """A socket that shares its port with others.

    Linux has refused SO_REUSEPORT to AF_SMC since 2025 (sk_is_inet()); an SMC socket
    that shares its port then has to be one of IPPROTO_SMC, there from Linux 6.11 on.
    """
    sock = socket(family, _stdlib.SOCK_STREAM, proto, fallback=fallback)
    try:
        sock.setsockopt(_stdlib.SOL_SOCKET, _stdlib.SO_REUSEPORT, 1)
    except OSError as refused:
        with sock:
            if refused.errno != errno.EOPNOTSUPP:
                raise
            try:
                fd = open_ipproto_smc(sock._inet)
            except OSError:
                raise refused from None
        try:
            sock = socket(family, proto=proto, fileno=fd)
        except BaseException:
            os.close(fd)
            raise
        sock.setsockopt(_stdlib.SOL_SOCKET, _stdlib.SO_REUSEPORT, 1)
    return sock


def create_server(
    address: tuple[str, int] | tuple[str, int, int, int],
    *,
    family: int = _stdlib.AF_INET,
    backlog: int | None = None,
    reuse_port: bool = False,
    dualstack_ipv6: bool = False,
    fallback: Fallback | None = None,
    sndbuf: int | None = None,
    rcvbuf: int | None = None,
) -> socket:
    """A listening socket bound to an address, SO_REUSEADDR set.

    As socket.create_server(): ``family`` AF_INET or AF_INET6, ``backlog`` for
    listen(), ``reuse_port`` to set SO_REUSEPORT (EOPNOTSUPP for SMC before Linux
    6.11), ``dualstack_ipv6`` to serve IPv4 on an AF_INET6 socket too. ``fallback``
    as for smcsock.socket. ``sndbuf`` and ``rcvbuf`` are the sizes in bytes of the
    buffers that the accepted sockets will have.
    """
    if dualstack_ipv6:
        if not _stdlib.has_dualstack_ipv6():
            raise ValueError("dualstack_ipv6 not supported on this platform")
        if family != _stdlib.AF_INET6:
            raise ValueError("dualstack_ipv6 requires AF_INET6 family")
    sock = open_shared(family, -1, fallback) if reuse_port else socket(family, fallback=fallback)
    try:
        sock.setsockopt(_stdlib.SOL_SOCKET, _stdlib.SO_REUSEADDR, 1)
        set_buffers(sock, sndbuf, rcvbuf)
        if sock._inet == _stdlib.AF_INET6:
            v6only = 0 if dualstack_ipv6 else 1
            sock.setsockopt(_stdlib.IPPROTO_IPV6, _stdlib.IPV6_V6ONLY, v6only)
        try:
            sock.bind(address)
        except OSError as error:
            message = f"{error.strerror} (while attempting to bind on address {address!r})"
            raise OSError(error.errno, message) from None
        if backlog is None:
            sock.listen()
        else:
            sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock
