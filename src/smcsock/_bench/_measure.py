"""The client: the load that is measured."""

import socket as _stdlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ._result import Results, Run
from ._wire import VARIANTS, Kind, Place, Request, Variant, receive_exactly, receive_report

__all__ = ["Plan", "measure"]

_PLAIN_TCP = Variant(is_smc=False, is_large=False)

_MAX_CONNECTIONS = 10_000
"""Of a variant in all: each leaves a port in TIME_WAIT, of which there are 28,232."""


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
    places = _places(host, ports)
    runs = {variant.name: Run() for variant in VARIANTS}
    step = 0
    for _ in range(plan.rounds):
        for name, part, variants in _parts(plan):
            for variant, place in zip(VARIANTS, places, strict=True):
                if variant in variants:
                    progress(step, f"{variant.name}: {name}")
                    part(variant, place, runs[variant.name], plan)
                    step += 1
    return Results(runs)


def _places(host: str, ports: list[int]) -> list[Place]:
    """Where the listeners are at the first of the host's addresses that answers."""
    error: OSError = ConnectionError("the name has no address")
    for family, _, _, _, address in _stdlib.getaddrinfo(host, ports[0], type=_stdlib.SOCK_STREAM):
        places = [(int(family), (address[0], port, *address[2:])) for port in ports]
        try:
            _PLAIN_TCP.connect(places[VARIANTS.index(_PLAIN_TCP)]).close()
        except OSError as failed:
            error = failed
        else:
            return places
    raise error


_Part = Callable[[Variant, Place, Run, Plan], None]


def _parts(plan: Plan) -> list[tuple[str, _Part, list[Variant]]]:
    plain = [variant for variant in VARIANTS if not variant.is_large]
    return [
        ("connections", _connections, plain),
        ("round trips", _round_trips, plain),
        *((f"throughput of {size} B", _throughput(size), VARIANTS) for size in plan.sizes),
    ]


def _connections(variant: Variant, place: Place, run: Run, plan: Plan) -> None:
    """How many connections a second can be opened, used once and closed."""
    request = Request(Kind.ECHO, 1).pack()
    began = now = time.monotonic()
    count = 0
    while (now < began + plan.seconds and count < _MAX_CONNECTIONS // plan.rounds) or not count:
        with variant.connect(place) as sock:
            sock.sendall(request + b"x")
            receive_exactly(sock, 1)
        count += 1
        now = time.monotonic()
    run.connections.append(count / (now - began))


def _round_trips(variant: Variant, place: Place, run: Run, plan: Plan) -> None:
    with variant.connect(place) as sock:
        sock.sendall(Request(Kind.ECHO, 1).pack() + b"x")
        receive_exactly(sock, 1)  # the first one is dear
        run.modes.append(_mode(variant, sock))
        began = now = time.perf_counter()
        while now == began or now < began + plan.seconds:
            sock.sendall(b"x")
            receive_exactly(sock, 1)
            earlier, now = now, time.perf_counter()
            run.round_trips.append(now - earlier)


def _throughput(size: int) -> _Part:
    def part(variant: Variant, place: Place, run: Run, plan: Plan) -> None:
        message = bytes(size)
        with variant.connect(place) as sock:
            sock.sendall(Request(Kind.SINK, size).pack())
            if variant.is_large:
                run.modes.append(_mode(variant, sock))
            began, cpu = time.monotonic(), time.thread_time_ns()
            count = 0
            while not count or time.monotonic() < began + plan.seconds:
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
