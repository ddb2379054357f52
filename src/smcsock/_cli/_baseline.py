"""The counters that a user wants to count from: ``smcsock stats reset``.

The kernel's own cannot be set back. A baseline is of one boot and network namespace.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .._kernel._reasons import reason
from ..diag import Direction, Fallback, Sizes, Stats, Technology
from ._common import CommandError, explain

__all__ = ["load", "save"]


def save(stats: Stats) -> None:
    """Has the counters begin at these; CommandError if they cannot be kept."""
    path = _path()
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"of": _place(), "stats": asdict(stats)}))
        partial.replace(path)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {explain(error)}") from None


def load() -> Stats | None:
    """The last ones that were saved, if they still count."""
    try:
        found = json.loads(_path().read_text())
        return _stats(found["stats"]) if found["of"] == _place() else None
    except (OSError, ValueError, KeyError, TypeError):  # none, or of another version
        return None


def _path() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state, "smcsock", "stats.json")


def _place() -> list[Any]:
    """Which boot and network namespace this is."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = os.stat("/proc/self/ns/net")
    return [boot, namespace.st_dev, namespace.st_ino]


def _stats(found: dict[str, Any]) -> Stats:
    fallbacks = tuple(
        Fallback(entry["role"], reason(entry["reason"]["code"]), entry["count"])
        for entry in found["fallbacks"]
    )
    technologies = {name: _technology(found[name]) for name in ("smcd", "smcr")}
    return Stats(**{**found, **technologies, "fallbacks": fallbacks})


def _technology(found: dict[str, Any]) -> Technology:
    ways = {name: _direction(found[name]) for name in ("sent", "received")}
    return Technology(**{**found, **ways})


def _direction(found: dict[str, Any]) -> Direction:
    sizes = {name: Sizes(**found[name]) for name in ("request_sizes", "buffer_sizes")}
    return Direction(**{**found, **sizes})
