"""The client: the load that is measured."""

import socket as _stdlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ._result import Results, Run
from ._wire import VARIANTS, Kind, Request, Variant, receive_exactly, receive_report

__all__ = ["Plan", "measure"]


@dataclass(frozen=True)
class Plan:
    """What is measured: each part takes ``seconds``, in each of ``rounds``, for each variant."""

    sizes: tuple[int, ...]
    rounds: int
    seconds: float

    @property
    def steps(self) -> int:
        """How many parts there are."""
        return self.rounds * (4 + len(VARIANTS) * len(self.sizes))


def measure(
    host: str, ports: list[int], plan: Plan, progress: Callable[[int, str], None]
) -> Results:
    """Measures all variants in turn, so that what else the machines do falls on all of them.

    ``progress`` gets the number of each part and its name. Raises OSError.
    """
    runs = {variant.name: Run() for variant in VARIANTS}
    step = 0
    for _ in range(plan.rounds):
        for name, part, variants in _parts(plan):
            for variant, port in zip(VARIANTS, ports, strict=True):
                if variant in variants:
                    progress(step, f"{variant.name}: {name}")
                    part(variant, (host, port), runs[variant.name], plan.seconds)
                    step += 1
    return Results(runs)


_Part = Callable[[Variant, tuple[str, int], Run, float], None]


def _parts(plan: Plan) -> list[tuple[str, _Part, list[Variant]]]:
    plain = [variant for variant in VARIANTS if not variant.is_large]
    return [
        ("connections", _connections, plain),
        ("round trips", _round_trips, plain),
        *((f"throughput of {size} B", _throughput(size), VARIANTS) for size in plan.sizes),
    ]


def _connections(variant: Variant, address: tuple[str, int], run: Run, seconds: float) -> None:
    """How many connections a second can be opened, used once and closed."""
    request = Request(Kind.ECHO, 1).pack()
    began = now = time.monotonic()
    count = 0
    while now < began + seconds or not count:
        with variant.connect(address) as sock:
            sock.sendall(request + b"x")
            receive_exactly(sock, 1)
        count += 1
        now = time.monotonic()
    run.connections.append(count / (now - began))


def _round_trips(variant: Variant, address: tuple[str, int], run: Run, seconds: float) -> None:
    with variant.connect(address) as sock:
        sock.sendall(Request(Kind.ECHO, 1).pack() + b"x")
        receive_exactly(sock, 1)  # the first one is dear
        run.modes.append(_mode(variant, sock))
        began = now = time.perf_counter()
        while now < began + seconds:
            sock.sendall(b"x")
            receive_exactly(sock, 1)
            earlier, now = now, time.perf_counter()
            run.round_trips.append(now - earlier)


def _throughput(size: int) -> _Part:
    def part(variant: Variant, address: tuple[str, int], run: Run, seconds: float) -> None:
        message = bytes(size)
        with variant.connect(address) as sock:
            sock.sendall(Request(Kind.SINK, size).pack())
            if variant.is_large:
                run.modes.append(_mode(variant, sock))
            began, cpu = time.monotonic(), time.thread_time_ns()
            count = 0
            while time.monotonic() < began + seconds:
                sock.sendall(message)
                count += size
            cpu = time.thread_time_ns() - cpu
            sock.shutdown(_stdlib.SHUT_WR)
            received, server_cpu = receive_report(sock)
            took = time.monotonic() - began
        if received != count:
            raise ConnectionError(f"{count} bytes were sent, but {received} arrived")
        run.throughput.setdefault(size, []).append(count / took)
        run.client_cpu.setdefault(size, []).append(cpu / count)
        run.server_cpu.setdefault(size, []).append(server_cpu / count)

    return part


def _mode(variant: Variant, sock: Any) -> str:
    if not variant.is_smc:
        return "TCP"
    try:
        return str(sock.smc_info())
    except OSError:  # no smc_diag
        return "TCP" if sock.fell_back() else "SMC-D or SMC-R"
