"""What counting.py runs under callgrind: one contender's calls, with marks around them.

counted.py MARKS CONTENDER
"""

import ctypes
import gc
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import contenders

HOST = "127.0.0.1"

TEMPLATE = """
import socket
import seed
import smcsock

def listen(host):
    port = 0
    address = host, port
    sock = {open}
    {bind}
    sock.listen(128)
    return sock

def calls(n, begin, end, listener, host, port):
    address = host, port
    socks = [None] * n
    conns = [None] * n

    begin()
    for i in range(n):
        socks[i] = {open}
    end(b"socket:%d" % n)

    begin()
    for sock in socks:
        {connect}
    end(b"connect:%d" % n)

    begin()
    for i in range(n):
        {accept}
        conns[i] = conn
    end(b"accept:%d" % n)
    conn = peer = None

    begin()
    for conn in conns:
        conn.send(b"x")
    end(b"send:%d" % n)

    begin()
    for sock in socks:
        sock.recv(1)
    end(b"recv:%d" % n)
    conn = None

    begin()
    for sock in conns:
        sock.close()
    end(b"close:%d" % n)

    for sock in socks:
        sock.close()
    sock = None

    # What close() leaves for the end of the object, without which an object
    # could be cheap to make and dear to be rid of.
    begin()
    conns.clear()
    end(b"free:%d" % n)
"""

COUNTS = (100, 20)
REPEATS = 4
"""The least counts: the others have the interpreter specialising, or memory running out."""


def main() -> None:
    marks = ctypes.PyDLL(sys.argv[1])
    (contender,) = (c for c in contenders.ALL if c.name == sys.argv[2])
    with contender.installed():
        count(contender.compile(TEMPLATE), marks)


def count(run: dict[str, Callable[..., Any]], marks: ctypes.PyDLL) -> None:
    """Makes the calls."""
    listener = run["listen"](HOST)
    fd = os.dup(listener.fileno())
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fd) as plain:
        port = plain.getsockname()[1]
    # A collection would be counted with whatever call it comes upon.
    gc.disable()
    marks.start()
    for _ in range(REPEATS):
        for count in COUNTS:
            run["calls"](count, marks.begin, marks.end, listener, HOST, port)
    listener.close()


if __name__ == "__main__":
    main()
