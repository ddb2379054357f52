"""Sockets of many threads at once: opened, connected, accepted, used and closed.

    python tests/check/stress.py [--threads N] [--rounds N]

First connections whose data is checked, through smcsock and through the socket module
while smcsock.install() comes and goes. Then close() against accept() and connect() of
other threads: those may fail with OSError, and with nothing else. In the end nothing is
left open, and install() has left nothing behind.

Runs on any kernel: without SMC with TCP sockets, as the tests do. Meant for free-threaded
Pythons, also for one with a thread sanitizer in it.
"""

import argparse
import contextlib
import faulthandler
import functools
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("SMCSOCK_FALLBACK", "tcp")
sys.path.insert(0, str(Path(__file__).parent.parent))

from descriptors import open_sockets

import smcsock

LIMIT = 60
"""Seconds that a call may wait for its peer."""

SHORT = 0.05
"""Seconds that a call waits whose socket another thread may have closed."""

Module = Any  # smcsock or socket: create_server() and create_connection() of both are used


def main() -> int:
    parser = argparse.ArgumentParser(description="Sockets of many threads at once.")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=40, help="of each thread, in each part")
    options = parser.parse_args()
    faulthandler.dump_traceback_later(20 * LIMIT, exit=True)
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    what = f"Python {sys.version.split()[0]}, {'with' if gil else 'without'} a GIL"
    before = open_sockets()

    stop = threading.Event()
    installer = threading.Thread(target=install_and_uninstall, args=(stop,))
    installer.start()
    try:
        for module in smcsock, socket:
            in_threads(options, functools.partial(exchange, module))
    finally:
        stop.set()
        installer.join()
    with socket.socket() as plain:
        assert type(plain) is socket.socket
        assert plain.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_INET
    # Not with settimeout(): until then a new listener blocks, and may get the descriptor that
    # another thread closes and accepts from at that moment, which would wait for ever.
    socket.setdefaulttimeout(SHORT)
    in_threads(options, close_against_accept)
    socket.setdefaulttimeout(None)
    # One listener for all: a new one could get a descriptor that another thread closes and
    # connects at that moment, and be connected itself.
    stop.clear()
    with smcsock.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=accept_all, args=(listener, stop))
        server.start()
        try:
            address = listener.getsockname()
            in_threads(options, functools.partial(close_against_connect, address))
        finally:
            stop.set()
            server.join()

    for _ in range(LIMIT * 10):  # the kernel's workers may hold on to what was closed
        if open_sockets() <= before:
            break
        time.sleep(0.1)
    assert open_sockets() <= before, f"left open: {open_sockets() - before}"
    print(f"{what}: {options.threads} threads, {options.rounds} rounds each: ok")
    return 0


def in_threads(options: argparse.Namespace, function: Callable[[int], None]) -> None:
    """Run a function in every thread, as often as there are rounds; its errors are raised."""
    start = threading.Barrier(options.threads)

    def work(thread: int) -> None:
        start.wait(LIMIT)
        for number in range(options.rounds):
            function(thread * options.rounds + number)

    with ThreadPoolExecutor(options.threads) as pool:
        for done in [pool.submit(work, thread) for thread in range(options.threads)]:
            done.result()


def install_and_uninstall(stop: threading.Event) -> None:
    while not stop.is_set():
        smcsock.install()
        time.sleep(random.random() / 100)
        smcsock.uninstall()
        time.sleep(random.random() / 100)


def exchange(module: Module, number: int) -> None:
    """A connection, with data in both directions."""
    data = number.to_bytes(4, "big") * 1000
    with module.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT)
        with module.create_connection(listener.getsockname(), timeout=LIMIT) as client:
            server, address = listener.accept()
            with server:
                server.settimeout(LIMIT)
                assert address == client.getsockname()
                client.sendall(data)
                assert receive(server, len(data)) == data
                server.sendall(data[::-1])
                assert receive(client, len(data)) == data[::-1]
                if isinstance(client, smcsock.socket):
                    assert client.smc_info().mode is not None


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (chunk := sock.recv(size - len(data))):
        data += chunk
    return data


def close_against_accept(number: int) -> None:
    listener = smcsock.create_server(("127.0.0.1", 0))
    assert listener.gettimeout() == SHORT
    address = listener.getsockname()
    client = smcsock.create_connection(address, timeout=LIMIT) if number % 2 else None
    against_close(listener, lambda: listener.accept()[0].close())
    if client is not None:
        client.close()


def close_against_connect(address: tuple[str, int], number: int) -> None:
    client = smcsock.socket(socket.AF_INET)
    if number % 2:
        client.settimeout(SHORT)
    against_close(client, lambda: client.connect(address))


def accept_all(listener: smcsock.socket, stop: threading.Event) -> None:
    listener.settimeout(SHORT)
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            listener.accept()[0].close()


def against_close(sock: socket.socket, call: Callable[[], object]) -> None:
    """A call in this thread, while another one closes the socket."""

    def close() -> None:
        time.sleep(random.random() / 1000)
        sock.close()

    closer = threading.Thread(target=close)
    closer.start()
    try:
        call()
    except OSError:  # which one depends on who came first, and whose the descriptor is by then
        pass
    finally:
        closer.join()


if __name__ == "__main__":
    sys.exit(main())
