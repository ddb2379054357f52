"""Processes that serve on a socket which was bound before they were started."""

import contextlib
import errno
import os
import signal
import socket
from collections.abc import Iterator

from smcsock._native._kind import is_smc


@contextlib.contextmanager
def listening_workers(bound: socket.socket, count: int) -> Iterator[list[bytes]]:
    """So many forks that listen, accept one connection each, and send ``b"x"`` on it.

    The value is what each said of itself: ``b"T"`` for a TCP socket, ``b"S"`` for SMC, or the
    name of an error. They are killed in the end.
    """
    told, tell = os.pipe()
    workers, heard = [], []
    try:
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                _serve(bound, tell)
            workers.append(pid)
            heard.append(os.read(told, 99))
        yield heard
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(told)
        os.close(tell)


def _serve(listener: socket.socket, tell: int) -> None:
    try:
        listener.listen()
        os.write(tell, b"S" if is_smc(listener) else b"T")
        server, _ = listener.accept()
        server.sendall(b"x")
    except OSError as error:
        os.write(tell, errno.errorcode[error.errno or 0].encode())
    finally:
        os._exit(0)
