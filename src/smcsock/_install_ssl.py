"""TLS over the sockets of smcsock.install()."""

import ssl as _ssl
from typing import Any

from . import _ssl as _smcsock_ssl
from ._install import Socket

__all__ = ["SSLSocket"]


class SSLSocket(_smcsock_ssl.SSLSocket, Socket):
    """What ssl.SSLContext.wrap_socket() makes of a socket while installed."""

    __module__ = "smcsock"

    @classmethod
    def _create(cls, sock: Any, *args: Any, **kwargs: Any) -> _ssl.SSLSocket:
        if not isinstance(sock, Socket):
            return _smcsock_ssl.SSLSocket._create(sock, *args, **kwargs)
        sock._conclude()  # a connection that must not be TCP ends here
        names = ("_settings", "_note", "_options", "_is_bound", "_is_pending", "_is_made")
        state = {name: getattr(sock, name) for name in names}
        self = super()._create(sock, *args, **kwargs)
        for name, value in state.items():
            setattr(self, name, value)
        return self

    def _checkClosed(self, msg: Any = None) -> None:  # noqa: N802
        # What the methods that use the connection begin with: an unfinished handshake
        # is part of their work.
        self._conclude()

    def do_handshake(self, *args: Any, **kwargs: Any) -> None:
        """As that of ssl.SSLSocket; FallbackError as smcsock.install() has it."""
        self._conclude()
        super().do_handshake(*args, **kwargs)
