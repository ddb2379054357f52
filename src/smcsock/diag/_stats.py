"""Counters of SMC since the module was loaded or the network namespace made.

Source: net/smc/smc_stats.c and smc_stats.h in the Linux kernel.
"""

from collections import Counter
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from .._kernel._reasons import Reason, reason
from ._commands import SmcCommand
from ._generic import Attributes, dump, entries

__all__ = ["Direction", "Fallback", "Sizes", "Stats", "Technology", "stats"]

# Counters of fallbacks by reason are 16 bits wide in the kernel, and wrap.
_FALLBACK_COUNTER_SIZE = 1 << 16


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many buffers or requests there were of each size, in bytes: a histogram.

    ``up_to_16k`` counts those above 8 KiB and up to 16 KiB, and so on.
    """

    up_to_8k: int
    up_to_16k: int
    up_to_32k: int
    up_to_64k: int
    up_to_128k: int
    up_to_256k: int
    up_to_512k: int
    up_to_1024k: int
    above_1024k: int


@dataclass(frozen=True, slots=True)
class Direction:
    """What was sent, or what was received.

    ``requests`` is calls that send or receive, ``bytes`` what they moved, ``request_sizes``
    their sizes. ``buffer_sizes`` is the buffers given to connections: send buffers,
    or RMBs and DMBs. ``buffer_bytes`` is the size of those in use now, None before
    Linux 6.12. ``full`` counts how often the buffer was full, ``peer_full`` how often the
    peer's was. ``too_small`` counts requests that were larger than the send buffer, or
    that asked for less than had arrived; ``peer_too_small`` those larger than the peer's
    buffer. Of the buffers ``reused`` were taken from an earlier connection, ``allocated``
    were new, ``downgraded`` are smaller than wanted for want of memory.
    """

    requests: int
    bytes: int
    request_sizes: Sizes
    buffer_sizes: Sizes
    buffer_bytes: int | None = field(metadata={"is_gauge": True})
    full: int
    peer_full: int
    too_small: int
    peer_too_small: int
    reused: int
    allocated: int
    downgraded: int


@dataclass(frozen=True, slots=True)
class Technology:
    """Counters of SMC-D or of SMC-R.

    ``client_v1`` to ``server_v2`` are connections by role and version of SMC; ``sendpage``,
    ``splice``, ``cork``, ``nodelay`` and ``urgent`` count special calls and urgent data.
    """

    client_v1: int
    client_v2: int
    server_v1: int
    server_v2: int
    sent: Direction
    received: Direction
    sendpage: int
    splice: int
    cork: int
    nodelay: int
    urgent: int

    @property
    def connections(self) -> int:
        """All connections: one between two sockets of this host counts twice."""
        return self.client_v1 + self.client_v2 + self.server_v1 + self.server_v2


@dataclass(frozen=True, slots=True)
class Fallback:
    """How often connections fell back to TCP for a reason.

    ``role`` is "client" or "server": which end this host was. The kernel's counter
    starts again at 0 after 65535.
    """

    role: Literal["client", "server"]
    reason: Reason
    count: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters of SMC in this network namespace.

    ``client_fallbacks`` and ``server_fallbacks`` count all fallbacks, ``fallbacks`` those of
    each reason, of which the kernel keeps the first 36 for each role.
    """

    smcd: Technology
    smcr: Technology
    client_handshake_errors: int
    server_handshake_errors: int
    client_fallbacks: int
    server_fallbacks: int
    fallbacks: tuple[Fallback, ...]

    def since(self, earlier: "Stats") -> "Stats":
        """What was counted since ``earlier``; ``fallbacks`` without those that were not.

        ``buffer_bytes`` stays as it is now. A counter that has become less was started
        again in between (the module was loaded anew), and stays as it is now, too.
        """
        difference: Stats = _difference(self, earlier)
        return replace(difference, fallbacks=_fallbacks_since(self, earlier))


def stats() -> Stats:
    """The counters now. Raises DiagError and ExtraMissingError."""
    counters: Attributes = {}
    for message in dump(SmcCommand.GET_STATS):
        counters = message.get("SMC_GEN_STATS", counters)
    totals: Attributes = {}
    fallbacks = []
    for part in entries(SmcCommand.GET_FBACK_STATS, "SMC_GEN_FBACK_STATS"):
        totals |= part  # they come with the first one only
        fallbacks.append(_fallback(part))
    return Stats(
        smcd=_technology(counters["SMC_NLA_STATS_SMCD_TECH"]),
        smcr=_technology(counters["SMC_NLA_STATS_SMCR_TECH"]),
        client_handshake_errors=counters["SMC_NLA_STATS_CLNT_HS_ERR_CNT"],
        server_handshake_errors=counters["SMC_NLA_STATS_SRV_HS_ERR_CNT"],
        client_fallbacks=totals.get("SMC_NLA_FBACK_STATS_CLNT_CNT", 0),
        server_fallbacks=totals.get("SMC_NLA_FBACK_STATS_SRV_CNT", 0),
        fallbacks=tuple(fallbacks),
    )


def _fallback(part: Attributes) -> Fallback:
    return Fallback(
        role="server" if part["SMC_NLA_FBACK_STATS_TYPE"] else "client",
        reason=reason(part["SMC_NLA_FBACK_STATS_RSN_CODE"]),
        count=part["SMC_NLA_FBACK_STATS_RSN_CNT"],
    )


def _sizes(sizes: Attributes) -> Sizes:
    return Sizes(
        up_to_8k=sizes["SMC_NLA_STATS_PLOAD_8K"],
        up_to_16k=sizes["SMC_NLA_STATS_PLOAD_16K"],
        up_to_32k=sizes["SMC_NLA_STATS_PLOAD_32K"],
        up_to_64k=sizes["SMC_NLA_STATS_PLOAD_64K"],
        up_to_128k=sizes["SMC_NLA_STATS_PLOAD_128K"],
        up_to_256k=sizes["SMC_NLA_STATS_PLOAD_256K"],
        up_to_512k=sizes["SMC_NLA_STATS_PLOAD_512K"],
        up_to_1024k=sizes["SMC_NLA_STATS_PLOAD_1024K"],
        above_1024k=sizes["SMC_NLA_STATS_PLOAD_G_1024K"],
    )


def _direction(technology: Attributes, name: Literal["TX", "RX"]) -> Direction:
    prefix = f"SMC_NLA_STATS_T_{name}"
    buffers = technology[f"{prefix}_RMB_STATS"]
    return Direction(
        requests=technology[f"{prefix}_CNT"],
        bytes=technology[f"{prefix}_BYTES"],
        request_sizes=_sizes(technology[f"{prefix}PLOAD_SIZE"]),
        buffer_sizes=_sizes(technology[f"{prefix}_RMB_SIZE"]),
        buffer_bytes=technology.get(f"{prefix}_RMB_USAGE"),
        full=buffers["SMC_NLA_STATS_RMB_FULL_CNT"],
        peer_full=buffers["SMC_NLA_STATS_RMB_FULL_PEER_CNT"],
        too_small=buffers["SMC_NLA_STATS_RMB_SIZE_SM_CNT"],
        peer_too_small=buffers["SMC_NLA_STATS_RMB_SIZE_SM_PEER_CNT"],
        reused=buffers["SMC_NLA_STATS_RMB_REUSE_CNT"],
        allocated=buffers["SMC_NLA_STATS_RMB_ALLOC_CNT"],
        downgraded=buffers["SMC_NLA_STATS_RMB_DGRADE_CNT"],
    )


def _technology(technology: Attributes) -> Technology:
    return Technology(
        client_v1=technology["SMC_NLA_STATS_T_CLNT_V1_SUCC"],
        client_v2=technology["SMC_NLA_STATS_T_CLNT_V2_SUCC"],
        server_v1=technology["SMC_NLA_STATS_T_SRV_V1_SUCC"],
        server_v2=technology["SMC_NLA_STATS_T_SRV_V2_SUCC"],
        sent=_direction(technology, "TX"),
        received=_direction(technology, "RX"),
        sendpage=technology["SMC_NLA_STATS_T_SENDPAGE_CNT"],
        splice=technology["SMC_NLA_STATS_T_SPLICE_CNT"],
        cork=technology["SMC_NLA_STATS_T_CORK_CNT"],
        nodelay=technology["SMC_NLA_STATS_T_NDLY_CNT"],
        urgent=technology["SMC_NLA_STATS_T_URG_DATA_CNT"],
    )


def _difference(now: Any, then: Any) -> Any:
    """The counters of ``now`` less those of ``then``, which has the same type."""
    if isinstance(now, int):
        return now - then if now >= then else now
    if isinstance(now, tuple):
        return now  # fallbacks are for _fallbacks_since()
    changed = {
        item.name: getattr(now, item.name)
        if item.metadata.get("is_gauge")
        else _difference(getattr(now, item.name), getattr(then, item.name))
        for item in fields(now)
    }
    return replace(now, **changed)


def _fallbacks_since(now: Stats, then: Stats) -> tuple[Fallback, ...]:
    # Those of each reason wrap, the totals do not: with a total that is less, all began anew.
    is_continued = {
        "client": now.client_fallbacks >= then.client_fallbacks,
        "server": now.server_fallbacks >= then.server_fallbacks,
    }
    before = Counter(
        {
            (entry.role, entry.reason): entry.count
            for entry in then.fallbacks
            if is_continued[entry.role]
        }
    )
    counted = (
        replace(
            entry,
            count=(entry.count - before[entry.role, entry.reason]) % _FALLBACK_COUNTER_SIZE,
        )
        for entry in now.fallbacks
    )
    return tuple(entry for entry in counted if entry.count)
