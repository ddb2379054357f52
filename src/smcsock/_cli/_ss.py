"""smcsock ss: all SMC sockets, as smcss shows them."""

import argparse
import socket as _stdlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .. import ConnectionFlag, Cursor, Mode, ProducerFlag, Reason, SmcInfo, State
from ..diag import Process, socket_processes
from ..diag import iter_sockets as sockets
from ._address import format_address
from ._common import ExitCode, complain, parse_seconds, put, say
from ._diag import (
    Cell,
    add_json,
    describe,
    format_gid,
    kernel_errors,
    plain,
    say_items,
    say_json,
    say_table,
)

if TYPE_CHECKING:
    from ._filter import Filter

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
  link_group (SMC-R), dmb (SMC-D). GIDs, tokens and cookies are strings "0x...". With -p
also processes: a list of objects with name, pid, fd. With --watch such a list a line.
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


def _filter(words: list[str]) -> tuple["Filter", bool]:
    if not words:
        return lambda info: True, False
    from ._filter import parse_filter

    return parse_filter(words)


def _show(options: argparse.Namespace, is_wanted: "Filter") -> None:
    found = _found(options, is_wanted)
    if options.processes:
        _show_with_processes(found, options)
    elif options.json:
        say_items(found)
    else:
        rows = (_row(info, options) for info in found)
        say_table(_headers(options), rows, wide=options.wide)


def _show_again(options: argparse.Namespace, is_wanted: "Filter") -> None:
    with kernel_errors():
        if options.json:
            entries: list[Any] = list(_found(options, is_wanted))
            if options.processes:
                processes, _ = socket_processes()
                entries = [_with_processes(info, processes) for info in entries]
            say_json(entries, indent=None)
            return
        if sys.stdout is not None and sys.stdout.isatty():
            put("\x1b[H\x1b[2J" + time.strftime("%H:%M:%S"))
        else:
            say(time.strftime("%H:%M:%S"))
        _show(options, is_wanted)
        say("")


def _show_with_processes(found: Iterator[SmcInfo], options: argparse.Namespace) -> None:
    processes, hidden = socket_processes()
    if options.json:
        say_items(_with_processes(info, processes) for info in found)
    else:
        rows = ([*_row(info, options), _users(info, processes)] for info in found)
        say_table([*_headers(options), "Processes"], rows, wide=options.wide)
    if hidden:
        complain(f"{hidden} processes of other users do not show their sockets: try as root")


def _with_processes(info: SmcInfo, processes: dict[int, list[Process]]) -> dict[str, Any]:
    return {**plain(info), "processes": plain(processes.get(info.inode or 0, []))}


def _users(info: SmcInfo, processes: dict[int, list[Process]]) -> str:
    users = processes.get(info.inode or 0, [])
    return " ".join(f"{user.name}({user.pid}):{user.fd}" for user in users)


def _found(options: argparse.Namespace, is_wanted: "Filter") -> Iterator[SmcInfo]:
    details = options.json or options.debug or options.smcd or options.smcr
    for info in sockets(details=details):
        if _is_asked_for(info, options) and is_wanted(info):
            yield info


def _is_asked_for(info: SmcInfo, options: argparse.Namespace) -> bool:
    if options.listening:
        return info.state is State.LISTEN
    if not options.all and info.state in (State.LISTEN, State.INIT):
        return False
    if options.smcd or options.smcr:
        return info.mode is (Mode.SMCD if options.smcd else Mode.SMCR)
    return True


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
    return headers


def _row(info: SmcInfo, options: argparse.Namespace) -> list[Cell]:
    row: list[Cell] = [
        info.state.name if isinstance(info.state, State) else f"{info.state:#x}?",
        info.uid or 0,
        info.inode or 0,
        format_address(info.local) if info.local else "",
        format_address(info.peer) if info.peer else "",
        _interface(info.interface),
        info.mode.replace("-", "") if info.mode else "",
    ]
    if options.debug:
        row += _debug(info)
    if options.smcd:
        row += _smcd(info)
    elif options.smcr:
        row += _smcr(info)
    else:
        row.append(_reasons(info))
    return row


def _interface(index: int | None) -> str:
    try:
        return _stdlib.if_indextoname(index) if index else ""
    except OSError:
        return str(index)


def _reasons(info: SmcInfo) -> str:
    texts = [_reason(info.reason)] if info.reason else []
    if info.peer_reason:
        texts.append(f"peer: {_reason(info.peer_reason)}")
    return "; ".join(texts)


def _reason(reason: Reason) -> str:
    name = f" {reason.name}" if reason.name else ""
    return f"0x{reason.code:08x}{name}: {reason.meaning}"


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
