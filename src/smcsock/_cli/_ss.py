"""smcsock ss: all SMC sockets, as smcss shows them."""

from __future__ import annotations

import argparse
import socket as _stdlib
import sys
import time
from functools import lru_cache

from .._kernel._state import MODES, Mode, State
from ..diag._sockets import iter_records
from ._address import format_address
from ._common import ExitCode, complain, parse_seconds, put, say
from ._diag import describe, kernel_errors
from ._json import add_json, plain, say_items, say_json
from ._table import Cell, say_table
from ._text import format_gid

# A table takes what the kernel's records say as it is; objects are for JSON and details.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeAlias

    from .. import ConnectionFlag, Cursor, ProducerFlag, SmcInfo
    from .._smcsock import Record
    from ..diag import Process
    from ._filter import Filter

    Processes: TypeAlias = dict[int, list[Process]]

__all__ = ["add"]

_DESCRIPTION = """\
Shows the SMC sockets of this network namespace, as smcss of smc-tools does: those
that are connected, or with -a all. Needs neither privilege nor any extra.

With --watch, again every so often until Ctrl-C; a filter comes before it.
"""

_FILTER_HELP = """\
filters, in the words of ss:
  src ADDR, dst ADDR      local and peer address: 10.1.2.3, 10.1.0.0/16, [2001:db8::]/32,
                          each with :PORT if wanted; :PORT or *:PORT alone
  sport PORT, dport PORT  the same for ports; with an operator between: = != < <= > >=
  state NAME              a state as in the table, or all, connected, listening,
                          established (ACTIVE); not only connected sockets then
  exclude NAME            all states but that
  mode NAME               smcd, smcr or tcp
  and, or, not, ( )       'and' may be left out; '!' is not, '&' and, '|' or
"""

_EPILOG = f"""\
{_FILTER_HELP}
columns:
  State, UID, Inode       state of the SMC socket (after a fallback not kept up to
                          date), its owner, its inode
  Local, Peer Address     of the TCP connection that every SMC connection begins as
  Intf                    the interface that the socket is bound to
  Mode                    SMCD, SMCR, or TCP after a fallback
  Reason                  of the fallback at this end; what the peer said
  -d  Shutd               which directions are shut down: R for receiving, W for sending
      Token               of the connection (hexadecimal)
      Sndbuf, Rcvbuf, Peerbuf
                          sizes of the send buffer, of the RMB element (DMB) and
                          of the peer's, in bytes
      rxprod ... txfin    cursors, wrap:count (hexadecimal)
      rxFlags, txFlags    producer:connection flags of RFC 7609 (hexadecimal)
  -D  GID, Token, Peer-GID, Peer-Token, Linkid
                          of the DMBs, and of the link group (hexadecimal)
  -R  Role, IB-device, Port, Linkid, GID, Peer-GID
                          of the link, and of this end of the link group
  -p  Processes           that have the socket: name, process ID, descriptor

--json: a list of objects with the attributes of smcsock.SmcInfo:
  mode ("SMC-D", "SMC-R", "TCP" or null), reason and peer_reason (null, or code,
  name, meaning, advice), local and peer (null, or [host, port, ...]), family, state
  (a name, as above), shutdown, interface (its index), uid, inode, cookie, connection,
  link_group (SMC-R), dmb (SMC-D). GIDs, tokens and cookies are strings "0x...", GIDs of
128 bits UUIDs. With -p also processes: a list of objects with name, pid, fd. With --watch
such a list a line.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of the command."""
    describe(parser, _DESCRIPTION, _EPILOG)
    parser.set_defaults(run=_run)
    parser.add_argument("-a", "--all", action="store_true", help="listening and new sockets too")
    parser.add_argument("-l", "--listening", action="store_true", help="listening sockets only")
    parser.add_argument("-d", "--debug", action="store_true", help="buffers, cursors and flags")
    parser.add_argument("-D", "--smcd", action="store_true", help="SMC-D only, in detail")
    parser.add_argument("-R", "--smcr", action="store_true", help="SMC-R only, in detail")
    parser.add_argument("-W", "--wide", action="store_true", help="fold no lines at a terminal")
    parser.add_argument("-p", "--processes", action="store_true", help="who has the sockets")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=parse_seconds,
        const=1.0,
        metavar="SECONDS",
        help="again every so often (1)",
    )
    parser.add_argument("filter", nargs="*", metavar="FILTER", help="see below")
    add_json(parser)


def _run(options: argparse.Namespace) -> ExitCode:
    if options.smcd and options.smcr:
        options.fail("--smcd cannot be used with --smcr")
    for name in ("all", "debug", "smcd", "smcr"):
        if options.listening and getattr(options, name):
            options.fail(f"--listening cannot be used with --{name}")
    try:
        is_wanted, has_state = _filter(options.filter)
    except ValueError as error:
        options.fail(str(error))
    if has_state and not options.listening:
        options.all = True
    if options.watch is None:
        with kernel_errors():
            _show(options, is_wanted)
        return ExitCode.OK
    while True:  # until KeyboardInterrupt or OutputError
        began = time.monotonic()
        _show_again(options, is_wanted)
        time.sleep(max(0, began + options.watch - time.monotonic()))


def _filter(words: list[str]) -> tuple[Filter | None, bool]:
    if not words:
        return None, False
    from ._filter import parse_filter

    return parse_filter(words)


def _show(options: argparse.Namespace, is_wanted: Filter | None) -> None:
    records = _records(options, is_wanted)
    processes, hidden = _processes(options)
    if options.json:
        say_items(_entries(records, processes))
    else:
        rows = (_row(record, options, processes) for record in records)
        say_table(_headers(options), rows, wide=options.wide)
    if hidden:
        complain(f"{hidden} processes of other users do not show their sockets: try as root")


def _show_again(options: argparse.Namespace, is_wanted: Filter | None) -> None:
    with kernel_errors():
        if options.json:
            processes, _ = _processes(options)
            entries = list(_entries(_records(options, is_wanted), processes))
            say_json(entries, indent=None)
            return
        if sys.stdout is not None and sys.stdout.isatty():
            put("\x1b[H\x1b[2J" + time.strftime("%H:%M:%S"))
        else:
            say(time.strftime("%H:%M:%S"))
        _show(options, is_wanted)
        say("")


def _processes(options: argparse.Namespace) -> tuple[Processes | None, int]:
    """Who has the sockets, by inode, if that is asked for; how many processes hide theirs."""
    if not options.processes:
        return None, 0
    from ..diag import socket_processes

    return socket_processes()


def _records(options: argparse.Namespace, is_wanted: Filter | None) -> Iterator[Record]:
    details = options.json or options.debug or options.smcd or options.smcr
    for record in iter_records(details=details):
        if _is_asked_for(record, options) and (is_wanted is None or is_wanted(record)):
            yield record


def _is_asked_for(record: Record, options: argparse.Namespace) -> bool:
    if options.listening:
        return record.state == _LISTEN
    if not options.all and record.state in (_LISTEN, _INIT):
        return False
    if options.smcd or options.smcr:
        return MODES.get(record.mode) is (Mode.SMCD if options.smcd else Mode.SMCR)
    return True


def _entries(records: Iterator[Record], processes: Processes | None) -> Iterator[Any]:
    """What JSON has of the sockets."""
    from .._kernel._smc_info import decode

    for record in records:
        entry = plain(decode(record))
        if processes is not None:
            entry["processes"] = plain(processes.get(record.inode, []))
        yield entry


_LISTEN, _INIT = int(State.LISTEN), int(State.INIT)
_STATES = {int(state): state.name for state in State}
_MODES = {number: mode.replace("-", "") for number, mode in MODES.items()}

_DEBUG_HEADERS = (
    "Shutd",
    "Token",
    "Sndbuf",
    "Rcvbuf",
    "Peerbuf",
    "rxprod-Cursor",
    "rxcons-Cursor",
    "rxFlags",
    "txprod-Cursor",
    "txcons-Cursor",
    "txFlags",
    "txprep-Cursor",
    "txsent-Cursor",
    "txfin-Cursor",
)
_SMCD_HEADERS = ("GID", "Token", "Peer-GID", "Peer-Token", "Linkid")
_SMCR_HEADERS = ("Role", "IB-device", "Port", "Linkid", "GID", "Peer-GID")


def _headers(options: argparse.Namespace) -> list[str]:
    headers = ["State", "UID", "Inode", "Local Address", "Peer Address", "Intf", "Mode"]
    if options.debug:
        headers += _DEBUG_HEADERS
    if options.smcd:
        headers += _SMCD_HEADERS
    elif options.smcr:
        headers += _SMCR_HEADERS
    else:
        headers.append("Reason")
    if options.processes:
        headers.append("Processes")
    return headers


def _row(record: Record, options: argparse.Namespace, processes: Processes | None) -> list[Cell]:
    # Quicker than by their names.
    mode, reason, peer_reason, local, peer, _, state, _, interface, uid, inode, *_ = record
    row: list[Cell] = [
        _STATES.get(state) or f"{state:#x}?",
        uid,
        inode,
        format_address(local) if local else "",
        format_address(peer) if peer else "",
        _interface(interface) if interface else "",
        _MODES.get(mode, ""),
    ]
    if options.debug or options.smcd or options.smcr:
        row += _details(record, options)
    if not (options.smcd or options.smcr):
        row.append(_reasons(reason, peer_reason))
    if processes is not None:
        row.append(_users(processes.get(inode, [])))
    return row


def _interface(index: int) -> str:
    try:
        return _stdlib.if_indextoname(index)
    except OSError:
        return str(index)


@lru_cache(maxsize=100)  # the same few for many sockets
def _reasons(code: int, peer_code: int) -> str:
    texts = [_reason(code)] if code else []
    if peer_code:
        texts.append(f"peer: {_reason(peer_code)}")
    return "; ".join(texts)


def _reason(code: int) -> str:
    from .._kernel._reasons import reason

    known = reason(code)
    name = f" {known.name}" if known.name else ""
    return f"0x{code:08x}{name}: {known.meaning}"


def _users(users: list[Process]) -> str:
    return " ".join(f"{user.name}({user.pid}):{user.fd}" for user in users)


def _details(record: Record, options: argparse.Namespace) -> list[Cell]:
    from .._kernel._smc_info import decode

    info = decode(record)
    details = _debug(info) if options.debug else []
    if options.smcd:
        details += _smcd(info)
    elif options.smcr:
        details += _smcr(info)
    return details


def _debug(info: SmcInfo) -> list[Cell]:
    connection = info.connection
    if connection is None:
        return [""] * len(_DEBUG_HEADERS)
    shutdown = info.shutdown or 0
    return [
        f"{'R' if shutdown & 1 else '<'}-{'W' if shutdown & 2 else '>'}",
        f"{connection.token:08x}",
        connection.sndbuf_size,
        connection.rmbe_size,
        connection.peer_rmbe_size,
        _cursor(connection.rx_prod),
        _cursor(connection.rx_cons),
        _flags(connection.rx_prod_flags, connection.rx_conn_flags),
        _cursor(connection.tx_prod),
        _cursor(connection.tx_cons),
        _flags(connection.tx_prod_flags, connection.tx_conn_flags),
        _cursor(connection.tx_prep),
        _cursor(connection.tx_sent),
        _cursor(connection.tx_fin),
    ]


def _cursor(cursor: Cursor) -> str:
    return f"{cursor.wrap:04x}:{cursor.count:08x}"


def _flags(producer: ProducerFlag, connection: ConnectionFlag) -> str:
    return f"{producer:02x}:{connection:02x}"


def _smcd(info: SmcInfo) -> list[Cell]:
    dmb = info.dmb
    if dmb is None:
        return [""] * len(_SMCD_HEADERS)
    return [
        format_gid(dmb.gid),
        f"{dmb.token:016x}",
        format_gid(dmb.peer_gid),
        f"{dmb.peer_token:016x}",
        f"{dmb.link_id:08x}",
    ]


def _smcr(info: SmcInfo) -> list[Cell]:
    link = info.link_group
    if link is None:
        return [""] * len(_SMCR_HEADERS)
    return [
        "SERV" if link.role == "server" else "CLNT",
        link.device,
        f"{link.port:02x}",
        f"{link.link_id:02x}",
        link.gid,
        link.peer_gid,
    ]
