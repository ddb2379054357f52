"""smcsock stats: counters, as smcd stats and smcr stats show them."""

import argparse
import time
from collections.abc import Callable
from dataclasses import astuple
from typing import NoReturn

from ..diag import Direction, Stats, Technology, stats
from ._baseline import load, save
from ._common import ExitCode, parse_seconds, say
from ._diag import describe, kernel_errors
from ._json import add_json, plain, say_json
from ._table import Cell, say_table

__all__ = ["add"]

_DESCRIPTION = """\
Shows the counters of SMC in this network namespace, as 'smcd stats' and 'smcr stats' of
smc-tools do, both beside each other; fallbacks to TCP by reason; and how many buffers
and requests there were of each size.

After 'stats reset' they count from then on, for the user who did that, until the next
boot; --absolute still shows all. The kernel's own cannot be set back.

With --watch, what was counted in each interval, a line each, until Ctrl-C.
"""

_EPILOG = """\
A connection between two sockets of this host counts twice. Of the histograms, 16KB
counts what is above 8 KiB and up to 16 KiB, and so on: Bufs are send buffers, or RMBs
and DMBs; Reqs are calls that send or receive. Buffer usage is the size of the buffers
in use, where the kernel tells (Linux 6.12).

columns of --watch:
  Time                    of day
  D-Conns, R-Conns        connections of SMC-D and SMC-R
  Fback, HS-Err           fallbacks to TCP, handshake errors
  D-Rx, D-Tx, R-Rx, R-Tx  bytes received and sent
  Full                    how often a buffer was full, here or at the peer

--json: an object with the attributes of smcsock.diag.Stats:
  smcd, smcr: objects with client_v1, client_v2, server_v1, server_v2 (connections by
    role and version of SMC), sendpage, splice, cork, nodelay, urgent, and sent and
    received: requests, bytes, request_sizes, buffer_sizes (up_to_8k ... above_1024k),
    buffer_bytes (null if not known), full, peer_full, too_small, peer_too_small,
    reused, allocated, downgraded
  client_handshake_errors, server_handshake_errors, client_fallbacks, server_fallbacks
  fallbacks: a list of objects with role ("client" or "server"), reason (code, name,
    meaning, advice) and count
With --watch one such object a line, of the interval, with "seconds", its length.
"""

_SIZES = ("8KB", "16KB", "32KB", "64KB", "128KB", "256KB", "512KB", "1MB", ">1MB")
_WATCH = ("Time", "D-Conns", "R-Conns", "Fback", "HS-Err", "D-Rx", "D-Tx", "R-Rx", "R-Tx", "Full")
_WATCH_FORMAT = "{:8}  {:>8} {:>8} {:>7} {:>6}  {:>13} {:>13} {:>13} {:>13} {:>8}"
_HEADER_EVERY = 20  # lines


def add(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of the command."""
    describe(parser, _DESCRIPTION, _EPILOG)
    parser.set_defaults(run=_run)
    parser.add_argument(
        "action",
        nargs="?",
        choices=("show", "reset"),
        default="show",
        help="reset: count from now on, for this user until the next boot",
    )
    parser.add_argument(
        "--absolute", action="store_true", help="count from the beginning, whatever was reset"
    )
    parser.add_argument("--percent", action="store_true", help="what part of all each size is, too")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=parse_seconds,
        const=1.0,
        metavar="SECONDS",
        help="what was counted in each interval (1)",
    )
    add_json(parser)


def _requests_per_connection(technology: Technology) -> str:
    requests = technology.sent.requests + technology.received.requests
    return f"{requests / technology.connections if technology.connections else 0:.1f}"


def _usage(direction: Direction) -> Cell:
    return "n/a" if direction.buffer_bytes is None else direction.buffer_bytes


_COUNTERS: dict[str, Callable[[Technology], Cell]] = {
    "SMC connections": lambda of: of.connections,
    "  client v1": lambda of: of.client_v1,
    "  client v2": lambda of: of.client_v2,
    "  server v1": lambda of: of.server_v1,
    "  server v2": lambda of: of.server_v2,
    "Avg requests per SMC conn": _requests_per_connection,
    "RX Data transmitted (Bytes)": lambda of: of.received.bytes,
    "RX Total requests": lambda of: of.received.requests,
    "RX Buffer usage (Bytes)": lambda of: _usage(of.received),
    "RX Buffer full": lambda of: of.received.full,
    "RX Buffer downgrades": lambda of: of.received.downgraded,
    "RX Buffer reuses": lambda of: of.received.reused,
    "TX Data transmitted (Bytes)": lambda of: of.sent.bytes,
    "TX Total requests": lambda of: of.sent.requests,
    "TX Buffer usage (Bytes)": lambda of: _usage(of.sent),
    "TX Buffer full": lambda of: of.sent.full,
    "TX Buffer full (remote)": lambda of: of.sent.peer_full,
    "TX Buffer too small": lambda of: of.sent.too_small,
    "TX Buffer too small (remote)": lambda of: of.sent.peer_too_small,
    "TX Buffer downgrades": lambda of: of.sent.downgraded,
    "TX Buffer reuses": lambda of: of.sent.reused,
    "Special calls: cork": lambda of: of.cork,
    "  nodelay": lambda of: of.nodelay,
    "  sendpage": lambda of: of.sendpage,
    "  splice": lambda of: of.splice,
    "  urgent data": lambda of: of.urgent,
}


def _run(options: argparse.Namespace) -> ExitCode:
    if options.action == "reset":
        if options.watch is not None or options.json or options.absolute:
            options.fail("reset shows nothing")
        with kernel_errors():
            save(stats())
        return ExitCode.OK
    if options.watch is not None:
        _watch(options.watch, options.json)
    with kernel_errors():
        now = stats()
    baseline = None if options.absolute else load()
    if baseline is not None:
        now = now.since(baseline)
    if options.json:
        say_json(now)
        return ExitCode.OK
    _show(now, percent=options.percent)
    if baseline is not None:
        say("")
        say("Counted since 'smcsock stats reset'; --absolute shows all.")
    return ExitCode.OK


def _watch(interval: float, as_json: bool) -> NoReturn:
    """Shows what each interval counted until KeyboardInterrupt or OutputError."""
    with kernel_errors():
        earlier = stats()
    began = due = time.monotonic()
    lines = 0
    while True:
        due = max(due + interval, time.monotonic())
        time.sleep(max(0, due - time.monotonic()))
        with kernel_errors():
            now = stats()
        at = time.monotonic()
        counted = now.since(earlier)
        if as_json:
            say_json({"seconds": round(at - began, 3), **plain(counted)}, indent=None)
        else:
            if lines % _HEADER_EVERY == 0:
                say(_WATCH_FORMAT.format(*_WATCH))
            say(_WATCH_FORMAT.format(time.strftime("%H:%M:%S"), *_counts(counted)))
            lines += 1
        earlier, began = now, at


def _counts(counted: Stats) -> list[int]:
    smcd, smcr = counted.smcd, counted.smcr
    return [
        smcd.connections,
        smcr.connections,
        counted.client_fallbacks + counted.server_fallbacks,
        counted.client_handshake_errors + counted.server_handshake_errors,
        smcd.received.bytes,
        smcd.sent.bytes,
        smcr.received.bytes,
        smcr.sent.bytes,
        sum(
            direction.full + direction.peer_full
            for technology in (smcd, smcr)
            for direction in (technology.sent, technology.received)
        ),
    ]


def _shares(counts: tuple[int, ...]) -> list[Cell]:
    """What part of all each count is."""
    return [f"{100 * count / max(1, sum(counts)):.1f}%" for count in counts]


def _fallback_shares(now: Stats) -> list[Cell]:
    shares: list[Cell] = []
    for role in ("client", "server"):
        fallbacks = getattr(now, f"{role}_fallbacks")
        made = sum(
            getattr(technology, f"{role}_v{version}")
            for technology in (now.smcd, now.smcr)
            for version in (1, 2)
        )
        shares.append(_shares((fallbacks, made))[0])
    return shares


def _show(now: Stats, *, percent: bool) -> None:
    say_table(
        ("Counter", "SMC-D", "SMC-R"),
        [(label, value(now.smcd), value(now.smcr)) for label, value in _COUNTERS.items()],
    )
    say("")
    rows: list[tuple[Cell, ...]] = []
    for name, technology in (("SMC-D", now.smcd), ("SMC-R", now.smcr)):
        for way, direction in (("RX", technology.received), ("TX", technology.sent)):
            for what, sizes in (
                ("Bufs", direction.buffer_sizes),
                ("Reqs", direction.request_sizes),
            ):
                counts = astuple(sizes)
                rows.append((f"{name} {way} {what}", *counts, sum(counts)))
                if percent:
                    rows.append(("", *_shares(counts), ""))
    say_table(("Size", *_SIZES, "Total"), rows)
    say("")
    say_table(
        ("Of all connections", "Client", "Server"),
        [
            ("Handshake errors", now.client_handshake_errors, now.server_handshake_errors),
            ("TCP fallback", now.client_fallbacks, now.server_fallbacks),
            ("  of all that were made", *_fallback_shares(now)),
        ],
    )
    say("")
    say_table(
        ("Fallback", "Count", "Reason"),
        [
            (
                entry.role.capitalize(),
                entry.count,
                f"0x{entry.reason.code:08x} {entry.reason.name or '?'}: {entry.reason.meaning}",
            )
            for entry in sorted(now.fallbacks, key=lambda entry: -entry.count)
        ],
    )
