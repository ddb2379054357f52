"""What was measured, and what it means."""

import statistics
from dataclasses import dataclass, field

__all__ = ["Results", "Run"]


@dataclass
class Run:
    """Of a variant: what each round found.

    ``modes`` are those of its connections; ``connections`` are per second, ``round_trips``
    in seconds; ``throughput`` is bytes per second by the size of messages; ``client_cpu``
    and ``server_cpu`` are nanoseconds per byte of the two threads, by size too.
    """

    modes: list[str] = field(default_factory=list)
    connections: list[float] = field(default_factory=list)
    round_trips: list[float] = field(default_factory=list)
    throughput: dict[int, list[float]] = field(default_factory=dict)
    client_cpu: dict[int, list[float]] = field(default_factory=dict)
    server_cpu: dict[int, list[float]] = field(default_factory=dict)

    def summary(self) -> dict[str, object]:
        """Medians, and the 99th percentile of the round trips."""
        return {
            "modes": self.modes,
            "connections_per_second": _median(self.connections),
            "round_trip_seconds": {
                "median": _median(self.round_trips),
                "p99": _percentile(self.round_trips, 0.99),
            },
            "throughput_bytes_per_second": _medians(self.throughput),
            "client_cpu_nanoseconds_per_byte": _medians(self.client_cpu),
            "server_cpu_nanoseconds_per_byte": _medians(self.server_cpu),
        }


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _medians(values: dict[int, list[float]]) -> dict[str, float | None]:
    return {str(size): _median(found) for size, found in values.items()}


def _percentile(values: list[float], part: float) -> float | None:
    return sorted(values)[int(part * (len(values) - 1))] if values else None


@dataclass
class Results:
    """By the variants' names: "tcp", "smc", "tcp large", "smc large"."""

    runs: dict[str, Run]

    def rows(self) -> list[tuple[str, float | None, float | None]]:
        """What is measured, in which unit, and the medians of TCP and SMC."""
        rows: list[tuple[str, float | None, float | None]] = []
        tcp, smc = self.runs["tcp"], self.runs["smc"]
        rows.append(("Connections/s", _median(tcp.connections), _median(smc.connections)))
        for label, part in (("median", 0.5), ("99 %", 0.99)):
            times = (_percentile(run.round_trips, part) for run in (tcp, smc))
            of_tcp, of_smc = (None if time is None else time * 1e6 for time in times)
            rows.append((f"Round trip, {label} (us)", of_tcp, of_smc))
        for suffix, label in (("", ""), (" large", ", larger buffers")):
            tcp, smc = self.runs["tcp" + suffix], self.runs["smc" + suffix]
            for size in tcp.throughput:
                speeds = [_median(run.throughput[size]) for run in (tcp, smc)]
                of_tcp, of_smc = (speed and speed / 1e6 for speed in speeds)
                rows.append((f"MB/s, {format_size(size)}{label}", of_tcp, of_smc))
        for end in ("client", "server"):
            size = max(self.runs["tcp"].throughput, default=0)
            used = [
                _median(getattr(self.runs[name], f"{end}_cpu").get(size, []))
                for name in ("tcp", "smc")
            ]
            of_tcp, of_smc = (cpu and cpu * 1024 for cpu in used)
            rows.append((f"CPU of the {end} (ns/KiB), {format_size(size)}", of_tcp, of_smc))
        return rows

    @property
    def mode(self) -> str:
        """What the SMC connections were, "SMC-D" for one; each once."""
        return ", ".join(dict.fromkeys(self.runs["smc"].modes + self.runs["smc large"].modes))

    @property
    def is_of_smc(self) -> bool:
        """Whether all SMC connections were."""
        return self.mode.startswith("SMC-") and "TCP" not in self.mode

    def conclusion(self) -> str:
        """One sentence on what it means."""
        if not self.is_of_smc:
            return f"This says nothing of SMC: its connections were {self.mode or 'none'}."
        tcp, smc = self.runs["tcp"], self.runs["smc"]
        parts = []
        round_trips = _ratio(_median(tcp.round_trips), _median(smc.round_trips))
        if round_trips:
            parts.append(f"round trips are {_compare(round_trips)}")
        best = [
            (size, _ratio(_median(smc.throughput[size]), _median(tcp.throughput[size])) or 0.0)
            for size in tcp.throughput
        ]
        if best:
            size, ratio = max(best, key=lambda item: item[1])
            worst_size, worst = min(best, key=lambda item: item[1])
            text = f"throughput is {_compare(ratio)} with messages of {format_size(size)}"
            if size != worst_size:
                text += f" and {_compare(worst)} with {format_size(worst_size)}"
            parts.append(text)
        opening = _ratio(_median(smc.connections), _median(tcp.connections))
        if opening:
            parts.append(f"connections are opened {_compare(opening)}")
        return f"With {self.mode} in place of TCP here, {', '.join(parts)}."


def _ratio(over: float | None, under: float | None) -> float | None:
    return over / under if over and under else None


def _compare(ratio: float) -> str:
    if 0.95 < ratio < 1.05:
        return "as fast"
    return f"{ratio:.1f} times as fast" if ratio >= 1 else f"{1 / ratio:.1f} times slower"


def format_size(size: int) -> str:
    """Bytes as people write them."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"
