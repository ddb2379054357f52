"""TLS: ssl.SSLSocket for SMC."""

import select
import socket as _stdlib
import ssl as _ssl
from collections.abc import Callable
from typing import Any

from ._socket import Fallback, socket

__all__ = ["SSLSocket", "handshaking", "reading"]

_base_recv = _stdlib.socket.recv

# To an end of the stream without close_notify OpenSSL answers with an alert. TCP takes
# it; SMC refuses it at once (smc_tx_sendmsg), and OpenSSL 3.5 tells of that instead of
# the end. These make methods of ssl.SSLSocket that tell of the end, for sockets of any class.


def reading(base: Callable[..., Any]) -> Callable[..., Any]:
    """The method read(), with what receives through it."""

    def read(self: Any, len: int = 1024, buffer: Any = None) -> Any:
        """As ssl.SSLSocket.read(); over SMC an end without close_notify is that of TCP, too.

        So it is no data if the socket suppresses ragged ends, else ssl.SSLEOFError.
        """
        try:
            return base(self, len, buffer)
        except (BrokenPipeError, ConnectionResetError):
            if not _has_ended(self):
                raise
        if self.suppress_ragged_eofs:
            return b"" if buffer is None else 0
        raise _ragged_end()

    return read


def handshaking(base: Callable[..., None]) -> Callable[..., None]:
    """The method do_handshake()."""

    def do_handshake(self: Any, block: bool = False) -> None:
        """As ssl.SSLSocket.do_handshake(); over SMC, too, the peer's end is ssl.SSLEOFError."""
        try:
            base(self, block)
        except (BrokenPipeError, ConnectionResetError):
            if not _has_ended(self):
                raise
            raise _ragged_end() from None

    return do_handshake


def _has_ended(sock: _ssl.SSLSocket) -> bool:
    """Whether this is SMC and there is nothing more to receive: the peer has ended the stream."""
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLIN)
    try:
        # Over TCP, a fallback too, an end that was a reset looks the same afterwards.
        protocol = sock.getsockopt(_stdlib.SOL_SOCKET, _stdlib.SO_PROTOCOL)
        if protocol == _stdlib.IPPROTO_TCP or not poll.poll(0):
            return False
        return _base_recv(sock, 1, _stdlib.MSG_PEEK) == b""
    except OSError:
        return False


def _ragged_end() -> _ssl.SSLEOFError:
    return _ssl.SSLEOFError(_ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol")


class SSLSocket(_ssl.SSLSocket, socket):
    """A TLS connection over SMC: an ssl.SSLSocket that is a smcsock.socket too.

    Made by a context whose ``sslsocket_class`` it is, of a smcsock.socket of any
    presentation, which it goes on to have::

        context.sslsocket_class = smcsock.SSLSocket
        tls = context.wrap_socket(sock, server_hostname="server.example")

    Of any other socket such a context makes an ssl.SSLSocket, as it did before. For
    sockets that present AF_INET or AF_INET6 a context without it works as well; what
    it makes lacks the methods of smcsock.socket.

    Where both base classes have a method, it is that of ssl.SSLSocket: data is never
    sent in the clear, ``dup()`` is not implemented. As any ssl.SSLSocket it is for one
    thread at a time: OpenSSL crashes when one sends while another receives.
    """

    __module__ = "smcsock"

    @classmethod
    def _create(
        cls,
        sock: Any,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> _ssl.SSLSocket:
        """What ssl.SSLContext.wrap_socket() calls."""
        if not isinstance(sock, socket):
            create = _ssl.SSLSocket._create  # type: ignore[attr-defined]
            plain: _ssl.SSLSocket = create(
                sock, server_side, do_handshake_on_connect, *args, **kwargs
            )
            return plain
        is_tcp = sock._is_tcp
        # The handshake is left to the end: its callbacks may want to know all about the
        # socket, and the standard library, before 3.13, forgets to close it on Ctrl-C.
        self: SSLSocket = super()._create(  # type: ignore[misc]
            sock, server_side, False, *args, **kwargs
        )
        try:
            self._is_tcp = is_tcp
            self.do_handshake_on_connect = do_handshake_on_connect
            if do_handshake_on_connect and self._sslobj is not None:
                if self.gettimeout() == 0:
                    raise ValueError(
                        "do_handshake_on_connect should not be specified for non-blocking sockets"
                    )
                self.do_handshake()
        except BaseException:
            self.close()
            raise
        return self

    read = reading(_ssl.SSLSocket.read)
    do_handshake = handshaking(_ssl.SSLSocket.do_handshake)

    _sslobj: Any  # of the base class: None before connect() and after unwrap()

    def _recognise(self, family: int, proto: int, fallback: Fallback | None) -> None:
        """Called by the constructor of smcsock.socket: the descriptor is one's."""
        self._present(family, proto)

    def accept(self, *, require_smc: bool = False) -> tuple["SSLSocket", Any]:
        """Waits for a connection; returns it as an SSLSocket, and the peer's address.

        The handshake is part of it unless wrap_socket() was told otherwise; a
        connection that fails in it is closed. With ``require_smc`` one that fell back
        to TCP is closed before, and FallbackError raised.
        """
        # Not that of ssl.SSLSocket, but what comes after it: smcsock.install() has its own.
        conn, address = super(_ssl.SSLSocket, self).accept(require_smc=require_smc)
        with conn:  # wrap_socket() leaves it without a descriptor
            tls = self.context.wrap_socket(
                conn,
                server_side=True,
                do_handshake_on_connect=self.do_handshake_on_connect,
                suppress_ragged_eofs=self.suppress_ragged_eofs,
            )
        return tls, address  # type: ignore[return-value]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """TypeError: a TLS session stays in its process."""
        return object.__reduce_ex__(self, protocol)

    do_handshake_on_connect: bool
    suppress_ragged_eofs: bool

    def to_stdlib(self) -> Any:
        """As smcsock.socket.to_stdlib(), once the connection is no more a TLS one.

        That is after unwrap(); before, NotImplementedError is raised: a plain socket
        would send in the clear.
        """
        if self._sslobj is not None:
            raise NotImplementedError(
                f"to_stdlib not allowed on instances of {self.__class__} before unwrap()"
            )
        return super().to_stdlib()
