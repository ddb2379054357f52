"""The kernel's counters of fallbacks by reason, which are 16 bits wide and wrap.

To Prometheus a counter that is less than before began anew: each time that one wraps, a
rate would be wrong. What is exported is counted on from one reading to the next.
"""

from pathlib import Path
from typing import TypeAlias

from prometheus_client.parser import text_string_to_metric_families

from ..diag import Stats

__all__ = ["FallbackReasons", "last_reasons"]

_SIZE = 1 << 16

Key: TypeAlias = tuple[str, int]
"""Role and code of the reason."""


class FallbackReasons:
    """Counters by role and code of the reason that do not wrap: ``counts``.

    They go on from ``counts``, at which the kernel's are now; ``totals`` are its counters
    of all fallbacks by role, which do not wrap: one that is less tells that all the
    kernel's counters began anew, and then these do.
    """

    def __init__(
        self, counts: dict[Key, int] | None = None, totals: dict[str, int] | None = None
    ) -> None:
        self.counts = dict(counts or {})
        self._totals = dict(totals or {})
        self._seen = {key: count % _SIZE for key, count in self.counts.items()}

    @classmethod
    def from_now_on(cls, stats: Stats) -> "FallbackReasons":
        """Counters that are 0 now, as of a process that has just been started.

        What was counted before would seem to come again with each start.
        """
        new = cls()
        new.read(stats)
        new.counts = dict.fromkeys(new.counts, 0)
        return new

    def read(self, stats: Stats) -> None:
        """Counts on. Right as long as it is called once in 65,536 fallbacks of a reason."""
        totals = {"client": stats.client_fallbacks, "server": stats.server_fallbacks}
        for entry in stats.fallbacks:
            key = entry.role, entry.reason.code
            if totals[entry.role] < self._totals.get(entry.role, 0):
                self.counts.pop(key, None)
                self._seen.pop(key, None)
            new = (entry.count - self._seen.get(key, 0)) % _SIZE
            self.counts[key] = self.counts.get(key, 0) + new
            self._seen[key] = entry.count
        self._totals = totals


def last_reasons(path: Path) -> FallbackReasons:
    """The counters as they are in a file of metrics; new ones if there is none."""
    counts: dict[Key, int] = {}
    totals: dict[str, int] = {}
    try:
        text = path.read_text(encoding="utf-8")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = sample.labels
                if sample.name == "smc_fallback_reasons_total":
                    counts[labels["role"], int(labels["code"], 16)] = int(sample.value)
                elif sample.name == "smc_fallbacks_total":
                    totals[labels["role"]] = int(sample.value)
    except (OSError, ValueError, KeyError):  # none, or not ours
        return FallbackReasons()
    return FallbackReasons(counts, totals)
