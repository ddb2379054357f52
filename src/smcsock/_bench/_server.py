"""The server: does what it is asked within limits, and touches nothing but its sockets."""

import contextlib
import socket as _stdlib
import threading
import time
from typing import Any

from ._wire import MAX_SECONDS, TIMEOUT, VARIANTS, Kind, Request, pack_report, receive_exactly

__all__ = ["Server"]

_MAX_CLIENTS = 8
"""Connections at a time; others wait."""

_LOOK = 0.5
"""Seconds after which one who waits for a client looks whether its listener was closed.

That alone would not wake it, and the kernel would keep the listener for it.
"""


class Server:
    """Listens on four ports from ``port`` on; with 0 the kernel chooses them."""

    def __init__(self, host: str, port: int, family: int) -> None:
        self._slots = threading.BoundedSemaphore(_MAX_CLIENTS)
        self.listeners: list[Any] = []
        try:
            for n, variant in enumerate(VARIANTS):
                self.listeners.append(variant.listen(host, port and port + n, family))
        except BaseException:
            self.close()
            raise

    @property
    def ports(self) -> list[int]:
        """Of the variants."""
        return [listener.getsockname()[1] for listener in self.listeners]

    def close(self) -> None:
        """Closes the listeners."""
        for listener in self.listeners:
            listener.close()

    def start(self) -> None:
        """Serves in threads of its own, which end with the process."""
        for listener in self.listeners:
            listener.settimeout(_LOOK)
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: Any) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                if listener.fileno() == -1:
                    return
                time.sleep(0.1)  # no descriptor left, for one
                continue
            self._slots.acquire()
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: Any) -> None:
        # Whatever a client does wrong ends its own connection only.
        try:
            with sock, contextlib.suppress(OSError, ValueError):
                sock.settimeout(TIMEOUT)
                sock.setsockopt(_stdlib.IPPROTO_TCP, _stdlib.TCP_NODELAY, 1)
                deadline = time.monotonic() + MAX_SECONDS
                request = Request.receive(sock, deadline)
                serve = _echo if request.kind is Kind.ECHO else _sink
                serve(sock, request.size, deadline)
        finally:
            self._slots.release()


def _echo(sock: Any, size: int, deadline: float) -> None:
    while True:
        sock.sendall(receive_exactly(sock, size, deadline))


def _sink(sock: Any, size: int, deadline: float) -> None:
    buffer = bytearray(size)
    began = time.thread_time_ns()
    count = 0
    while time.monotonic() < deadline:
        received = sock.recv_into(buffer)
        if not received:
            sock.sendall(pack_report(count, time.thread_time_ns() - began))
            return
        count += received
