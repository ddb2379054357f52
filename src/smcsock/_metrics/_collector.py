"""What is exported, read from the kernel when it is asked for."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple
from pathlib import Path
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector as _Base

from .. import DiagUnavailableError, State, __version__
from .._kernel._machine import module_state, sysctls
from .._kernel._reasons import reason
from ..diag import (
    Direction,
    LinkState,
    Port,
    SmcdDevice,
    Stats,
    Technology,
    devices,
    handshake_limitation,
    iter_links,
    iter_smcd_link_groups,
    iter_smcr_link_groups,
    iter_sockets,
    stats,
    system,
)
from ._wrapping import FallbackReasons

__all__ = ["Collector"]

_BOUNDS = ("8192", "16384", "32768", "65536", "131072", "262144", "524288", "1048576", "+Inf")
"""The upper bounds of smcsock.diag.Sizes, in bytes."""


class Collector(_Base):
    """Reads SMC's state in this network namespace; for a registry of prometheus_client.

    ``reasons`` counts fallbacks by reason from one reading to the next. Without it they
    are given as the kernel has them, modulo 65536.
    """

    def __init__(self, reasons: FallbackReasons | None = None) -> None:
        self._reasons = reasons
        self._lock = threading.Lock()

    def describe(self) -> Iterable[Any]:
        """Nothing, so that a registry does not read all when the collector is added."""
        return ()

    def collect(self) -> Iterator[Any]:
        """All families of metrics; none that the kernel does not answer."""
        with self._lock:
            yield from self._collect()

    def _collect(self) -> Iterator[Any]:
        began = time.monotonic()
        yield InfoMetricFamily("smcsock", "What reads these metrics", {"version": __version__})
        errors = GaugeMetricFamily(
            "smc_read_error", "Whether a part of SMC's state could not be read", labels=["part"]
        )
        parts: dict[str, Callable[[], Iterable[Any]]] = {
            "system": _system,
            "stats": lambda: _stats(stats(), self._reasons),
            "sockets": _sockets,
            "linkgroups": _link_groups,
            "links": _links,
            "devices": _devices,
        }
        is_up = True
        for name, read in parts.items():
            families: list[Any] = []
            try:
                families = list(read())
            except (OSError, DiagUnavailableError):
                is_up &= name != "system"
                errors.add_metric([name], 1)
            else:
                errors.add_metric([name], 0)
            yield from families
            if not is_up:
                break
        yield GaugeMetricFamily("smc_up", "Whether the kernel has SMC", value=int(is_up))
        yield errors
        yield from _settings()
        yield GaugeMetricFamily(
            "smc_read_duration_seconds",
            "How long it took to read all this",
            value=time.monotonic() - began,
        )


def _gauge(name: str, text: str, labels: list[str], counts: dict[Any, int]) -> Any:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, count in sorted(counts.items()):
        family.add_metric(list(map(str, values)), count)
    return family


def _counter(name: str, text: str, labels: list[str], counts: dict[Any, int]) -> Any:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in counts.items():
        family.add_metric(list(map(str, values)), count)
    return family


def _system() -> Iterator[Any]:
    found = system()
    yield InfoMetricFamily(
        "smc",
        "What the kernel's SMC can do",
        {
            "version": f"{found.version}.{found.release}",
            "ism_v2": str(found.ism_v2).lower(),
            "smcr_v2": str(found.smcr_v2).lower(),
            "hostname": found.hostname or "",
            "seid": found.seid or "",
        },
    )


def _settings() -> Iterator[Any]:
    root = Path("/")
    state = module_state(root, "smc")
    yield InfoMetricFamily("smc_module", "The kernel's module smc", {"state": state or "unknown"})
    settings = {
        (name,): value for name, value in (sysctls(root) or {}).items() if isinstance(value, int)
    }
    yield _gauge("smc_setting", "Values of net.smc", ["name"], settings)
    try:
        limited = handshake_limitation()
    except OSError:  # before Linux 5.18
        return
    yield GaugeMetricFamily(
        "smc_handshake_limitation", "Whether SMC handshakes are limited", value=int(limited)
    )


def _stats(now: Stats, reasons: FallbackReasons | None) -> Iterator[Any]:
    technologies = {"smcd": now.smcd, "smcr": now.smcr}
    yield from _connections(now, technologies, reasons)
    yield from _traffic(technologies)
    if now.smcd.sent.buffer_bytes is None:  # before Linux 6.12
        return
    usage = {
        (name, way): direction.buffer_bytes or 0
        for name, technology in technologies.items()
        for way, direction in _directions(technology)
    }
    yield _gauge(
        "smc_buffer_usage_bytes", "Size of the buffers in use", ["technology", "direction"], usage
    )


def _connections(
    now: Stats, technologies: dict[str, Technology], reasons: FallbackReasons | None
) -> Iterator[Any]:
    yield _counter(
        "smc_connections",
        "Connections by SMC; one between two sockets of this host counts twice",
        ["technology", "role", "version"],
        {
            (name, role, version): getattr(of, f"{role}_v{version}")
            for name, of in technologies.items()
            for role in ("client", "server")
            for version in (1, 2)
        },
    )
    yield _counter(
        "smc_fallbacks",
        "Connections that fell back to TCP",
        ["role"],
        {("client",): now.client_fallbacks, ("server",): now.server_fallbacks},
    )
    yield _counter(
        "smc_handshake_errors",
        "Handshakes of SMC that ended with an error",
        ["role"],
        {("client",): now.client_handshake_errors, ("server",): now.server_handshake_errors},
    )
    labels = ["role", "code", "reason"]
    if reasons is None:
        counts: dict[tuple[str, int], int] = {
            (entry.role, entry.reason.code): entry.count for entry in now.fallbacks
        }
        yield _gauge(
            "smc_fallback_reasons_modulo_65536",
            "Fallbacks by reason as the kernel counts them; the rate of a gauge means nothing",
            labels,
            _with_names(counts),
        )
        return
    reasons.read(now)
    yield _counter(
        "smc_fallback_reasons", "Fallbacks by reason", labels, _with_names(reasons.counts)
    )


def _with_names(counts: dict[tuple[str, int], int]) -> dict[tuple[str, str, str], int]:
    return {
        (role, f"0x{code:08x}", reason(code).name): count for (role, code), count in counts.items()
    }


def _directions(technology: Technology) -> list[tuple[str, Direction]]:
    return [("sent", technology.sent), ("received", technology.received)]


def _traffic(technologies: dict[str, Technology]) -> Iterator[Any]:
    both = [
        ((name, way), direction)
        for name, technology in technologies.items()
        for way, direction in _directions(technology)
    ]
    labels = ["technology", "direction"]
    for metric, text, attribute in (
        ("smc_bytes", "Bytes that were moved over SMC", "bytes"),
        ("smc_requests", "Calls that send or receive", "requests"),
        ("smc_buffers_reused", "Buffers taken from an earlier connection", "reused"),
        ("smc_buffers_allocated", "Buffers that were new", "allocated"),
        ("smc_buffers_downgraded", "Buffers smaller than wanted, for memory", "downgraded"),
    ):
        counts = {key: getattr(direction, attribute) for key, direction in both}
        yield _counter(metric, text, labels, counts)
    for metric, text, attribute in (
        ("smc_buffer_full", "How often a buffer was full", "full"),
        ("smc_buffer_too_small", "Requests that did not fit a buffer", "too_small"),
    ):
        by_end = {
            (*key, end): getattr(direction, prefix + attribute)
            for key, direction in both
            for end, prefix in (("local", ""), ("peer", "peer_"))
        }
        yield _counter(metric, text, [*labels, "end"], by_end)
    yield _counter(
        "smc_special_calls",
        "Calls that SMC does otherwise than TCP",
        ["technology", "call"],
        {
            (name, call): getattr(technology, call)
            for name, technology in technologies.items()
            for call in ("sendpage", "splice", "cork", "nodelay", "urgent")
        },
    )
    yield _histogram(
        "smc_request_size_bytes",
        "Sizes of requests",
        {key: (astuple(of.request_sizes), of.bytes) for key, of in both},
    )
    yield _histogram(
        "smc_buffer_size_bytes",
        "Sizes of the buffers that connections were given",
        {key: (astuple(of.buffer_sizes), None) for key, of in both},
    )


def _histogram(
    name: str, text: str, values: dict[tuple[str, str], tuple[tuple[int, ...], int | None]]
) -> Any:
    family = HistogramMetricFamily(name, text, labels=["technology", "direction"])
    for labels, (counts, total) in values.items():
        buckets = [
            (bound, sum(counts[: n + 1])) for n, bound in enumerate(_BOUNDS)
        ]  # each has those below, too
        family.add_metric(list(labels), buckets=buckets, sum_value=total)
    return family


def _sockets() -> Iterator[Any]:
    counts = Counter(
        (
            info.state.name.lower() if isinstance(info.state, State) else "unknown",
            str(info.mode or "").replace("-", "").lower() or "undecided",
        )
        for info in iter_sockets(details=False)
    )
    yield _gauge("smc_sockets", "Sockets", ["state", "mode"], counts)


def _link_groups() -> Iterator[Any]:
    counts = Counter(("smcd", "") for _ in iter_smcd_link_groups())
    for group in iter_smcr_link_groups():
        counts["smcr", getattr(group.type, "name", "unknown").lower()] += 1
    yield _gauge("smc_link_groups", "Link groups of this host", ["technology", "type"], counts)


def _links() -> Iterator[Any]:
    counts = Counter(
        (
            link.device,
            link.port,
            link.state.name.lower() if isinstance(link.state, LinkState) else "unknown",
        )
        for link in iter_links()
    )
    yield _gauge("smc_links", "Links of SMC-R", ["device", "port", "state"], counts)


def _devices() -> Iterator[Any]:
    smcd: dict[Any, int] = {}
    active: dict[Any, int] = {}
    critical: dict[Any, int] = {}
    for n, device in enumerate(devices()):
        if isinstance(device, SmcdDevice):
            name = device.pci.id if device.pci else f"device{n}"
            smcd[name, device.pnetid] = device.link_groups
            continue
        critical[device.name,] = int(device.is_critical)
        for port in device.ports:
            active[_port_labels(device.name, port)] = int(port.active)
    yield _gauge(
        "smc_device_link_groups", "Link groups on an SMC-D device", ["device", "pnetid"], smcd
    )
    yield _gauge(
        "smc_port_active",
        "Whether a port of an RDMA device is active",
        ["device", "port", "interface", "pnetid"],
        active,
    )
    yield _gauge(
        "smc_device_critical",
        "Whether link groups have no other RDMA device",
        ["device"],
        critical,
    )


def _port_labels(device: str, port: Port) -> tuple[str, int, str, str]:
    return device, port.number, port.interface or "", port.pnetid
