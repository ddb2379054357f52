"""Programs that know nothing of SMC, under the engine of 'smcsock run'."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from smcsock import Mode, _native
from smcsock._kernel._smc_info import decode
from smcsock._kernel._sock_diag import each_record

LIMIT = 120

Ends = Counter[tuple[str, Mode | None]]


@contextlib.contextmanager
def running(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Runs a program over SMC until the context is left, which ``stop`` ends.

    Its standard input is a pipe.
    """
    stop = options.pop("stop", signal.SIGTERM)
    native = _native.Options(**options.pop("native", {}))
    env = {**os.environ, **options.pop("env", {})}
    user = options.pop("user", None)

    def become() -> None:
        if user is not None:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        _native.prepare(command[0], native)

    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(
        command, text=True, env=env, preexec_fn=become, **{**streams, **options}
    )
    with process:
        try:
            yield process
        finally:
            process.send_signal(stop)


def output(*command: str, **options: Any) -> str:
    """What a program prints that ends by itself."""
    with running(*command, **options) as process:
        text, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, text
        return text


def ends(port: int) -> Ends:
    """The ends of all connections to a port, as smc_diag lists them."""
    found: Ends = Counter()
    for record in each_record():
        info = decode(record, socket.AF_INET)
        if info.local and info.peer and port in (info.local[1], info.peer[1]):
            found["accept" if info.local[1] == port else "connect", info.mode] += 1
    return found


def wait_for_ends(port: int, mode: Mode, count: int = 1) -> None:
    """Returns when there are so many connections to a port, both ends in that mode."""
    expected = {("accept", mode): count, ("connect", mode): count}
    wait_until(lambda: ends(port) == expected, lambda: str(ends(port)))


def wait_until_listening(port: int) -> None:
    """Returns when somebody listens on a port: TCP connects there, too."""

    def listens() -> bool:
        for record in each_record():
            info = decode(record, socket.AF_INET)
            if info.local and info.local[1] == port:
                return True
        return False

    wait_until(listens, lambda: f"nobody listens on {port}")


def wait_until(condition: Callable[[], bool], explain: Callable[[], str]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.05)
