"""A pool of connections that are SMC, or are not at all.

    python examples/echo_server.py --port 7000
    python examples/pool.py --port 7000

Connections are kept and used again, as setting one up costs most over SMC. The pool
refuses a connection that fell back to TCP: where latency was promised it is better
to know that than to be slow.
"""

import argparse
import contextlib
import queue
import select
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import smcsock


class Pool:
    """At most ``size`` connections to an address; threads take turns to use them."""

    def __init__(self, address: tuple[str, int], size: int, timeout: float = 10) -> None:
        self.address = address
        self.timeout = timeout  # seconds, to connect and for each operation
        self.opened = 0
        self._lock = threading.Lock()
        # None stands for a connection that is not open.
        self._slots: queue.LifoQueue[smcsock.socket | None] = queue.LifoQueue()
        for _ in range(size):
            self._slots.put(None)

    @contextlib.contextmanager
    def connection(self) -> Iterator[smcsock.socket]:
        """Lends a connection; after an error it is not used again.

        Waits while all are lent. Raises smcsock.FallbackError if a new one is TCP.
        """
        sock = self._slots.get()
        try:
            if sock is not None and is_stale(sock):
                sock.close()
                sock = None
            if sock is None:
                sock = smcsock.create_connection(self.address, self.timeout, require_smc=True)
                with self._lock:
                    self.opened += 1
            yield sock
        except BaseException:
            if sock is not None:
                sock.close()
            sock = None
            raise
        finally:
            self._slots.put(sock)

    def close(self) -> None:
        """Closes the connections that nobody uses."""
        with contextlib.suppress(queue.Empty):
            while True:
                if sock := self._slots.get_nowait():
                    sock.close()


def is_stale(sock: smcsock.socket) -> bool:
    """Whether the peer has closed, or sent what nobody asked for."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def ask(pool: Pool, question: bytes) -> bytes:
    """One request to an echo server."""
    with pool.connection() as sock:
        sock.sendall(question)
        answer = bytearray()
        while len(answer) < len(question):
            if not (data := sock.recv(len(question) - len(answer))):
                raise ConnectionError("the server has closed the connection")
            answer += data
    return bytes(answer)


def main() -> None:
    """Asks many times, from many threads, over few connections."""
    parser = argparse.ArgumentParser(description="Asks an echo server over pooled connections.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7000)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--size", type=int, default=4, help="connections at most (4)")
    options = parser.parse_args()
    questions = [f"question {number}".encode() for number in range(options.requests)]
    with contextlib.closing(Pool((options.host, options.port), options.size)) as pool:
        try:
            with ThreadPoolExecutor(2 * options.size) as threads:
                answers = list(threads.map(lambda question: ask(pool, question), questions))
        except smcsock.FallbackError as error:
            sys.exit(f"pool: refused: {error.strerror}")
        except OSError as error:
            sys.exit(f"pool: {error}")
    right = sum(map(bytes.__eq__, questions, answers))
    print(f"{right} of {len(questions)} answers right, over {pool.opened} connections")


if __name__ == "__main__":
    main()
