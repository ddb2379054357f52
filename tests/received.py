"""What another process does with a socket; a module of its own, quick to import."""

from typing import Any


def send_on(pipe: Any) -> None:
    """Receives a socket and sends on it of what module its type is."""
    with pipe, pipe.recv() as sock:
        sock.sendall(type(sock).__module__.encode())
