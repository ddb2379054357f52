"""smcsock doctor: whether SMC works, and what to fix if it does not."""

import argparse
import shutil
import subprocess
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import Reason, SmcInfo
from ..diag._eids import check_eid
from ..doctor import Connection, Finding, Fix, Report, Status, examine
from ._address import DEFAULT_PORT, split_address
from ._common import (
    CommandError,
    ExitCode,
    OutputError,
    complain,
    explain,
    parse_seconds,
    say,
)
from ._json import add_json, say_json
from ._text import printable

__all__ = ["add"]

_DESCRIPTION = f"""\
Goes through what SMC needs, in order: the kernel and its modules, what confines
this process, devices, PNET IDs, enterprise IDs, settings. Then connects: within
this machine, and with HOST to a server there, such as 'smcsock echo --server'
(PORT is {DEFAULT_PORT} unless given). Each line has what was seen; a problem has what to
do about it and the command that does it.

Needs no privilege and changes nothing, unless --fix does.
"""

_EPILOG = """\
exit status:
  0    SMC works: to HOST, or without one within this machine
  1    it does not: no SMC in the kernel, or the connection was TCP
  2    wrong usage
  5    that could not be found out: nobody answers at HOST, say
  130  interrupted by Ctrl-C
  141  the reader of the output has gone

--fix runs only commands that add what is missing and take nothing away (load a
module, add the EID of --ueid, lift the handshake limitation), and asks before each.
It takes root; nothing of it outlives the next boot.

--json: an object; "works" is true, false or null (not found out), "summary" says it;
"findings" have name, status (ok, problem, warning, unknown, skipped), evidence,
advice and fix (command, is_safe); "connections" have the mode and the decline codes
of each end that is known; "run" has the commands that --fix has run.
"""

_LABELS = {
    Status.OK: "ok",
    Status.PROBLEM: "PROBLEM",
    Status.WARNING: "warning",
    Status.UNKNOWN: "unknown",
    Status.SKIPPED: "skipped",
}

_STATUS_WIDTH, _NAME_WIDTH = 9, 26
_MIN_WIDTH, _WIDTH = 60, 100


def add(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of the command."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.set_defaults(run=_run)
    parser.add_argument(
        "target",
        nargs="?",
        type=split_address,
        metavar="HOST[:PORT]",
        help="a server to connect to: a name, an IPv4 address, an IPv6 one ([ADDR]:PORT)",
    )
    parser.add_argument(
        "--timeout",
        type=parse_seconds,
        default=30.0,
        metavar="SECONDS",
        help="for each connection (30)",
    )
    parser.add_argument("--fix", action="store_true", help="run the commands that are safe")
    parser.add_argument("--yes", action="store_true", help="with --fix: do not ask")
    parser.add_argument(
        "--ueid",
        type=_parse_ueid,
        metavar="NAME",
        help="the user EID to add where one is missing (A-Z, 0-9, -, .)",
    )
    parser.add_argument(
        "--collect",
        type=Path,
        metavar="FILE.tar.gz",
        help="write what a bug report needs: this, the output of the other commands, versions "
        "and settings; it names hosts and addresses, but nothing secret",
    )
    add_json(parser)


def _parse_ueid(text: str) -> str:
    try:
        check_eid(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _run(options: argparse.Namespace) -> ExitCode:
    if options.yes and not options.fix:
        options.fail("--yes needs --fix")
    if options.json and options.fix and not options.yes:
        options.fail("--fix with --json needs --yes: nobody can be asked")
    if options.collect:
        return _collect(options)
    host, port = options.target or (None, None)
    done: list[Fix] = []
    while True:
        report = examine(host, port, timeout=options.timeout, ueid=options.ueid)
        if not options.json:
            _show(report)
        fixes = _safe_fixes(report, done) if options.fix else []
        if not _fix(fixes, done, options):
            break
    if options.json:
        say_json(_as_json(report, done))
    if report.works is None:
        return ExitCode.UNKNOWN
    return ExitCode.OK if report.works else ExitCode.FAILED


def _collect(options: argparse.Namespace) -> ExitCode:
    if options.target or options.fix or options.json or options.ueid:
        options.fail("--collect is used alone")
    from . import parse
    from ._collect import collect

    collect(options.collect, parse)
    say(f"{options.collect} is written: look at what is in it before you send it")
    return ExitCode.OK


def _safe_fixes(report: Report, done: list[Fix]) -> list[Fix]:
    """The commands that may be run, each once."""
    found = [finding.fix for finding in report.findings if finding.fix and finding.fix.is_safe]
    return [fix for fix in dict.fromkeys(found) if fix not in done]


def _fix(fixes: list[Fix], done: list[Fix], options: argparse.Namespace) -> bool:
    """Runs what the user agrees to; whether it is worth to examine the machine again."""
    if not fixes:
        return False
    # Standard streams that are closed are None.
    if not options.yes and not (sys.stdout and sys.stdin and sys.stdin.isatty()):
        complain("nothing was fixed: to run without a terminal, --fix needs --yes")
        return False
    is_changed = False
    for fix in fixes:
        done.append(fix)
        if options.yes or _agrees(fix):
            is_changed |= _execute(fix, quiet=options.json)
    return is_changed


def _agrees(fix: Fix) -> bool:
    say("")
    try:
        answer = input(f"run '{printable(str(fix))}'? [y/N] ")
    except EOFError:
        return False
    except OSError as error:
        raise OutputError(error) from None
    return answer.strip().lower() in ("y", "yes")


def _execute(fix: Fix, *, quiet: bool) -> bool:
    """Runs a command, without a shell; whether it went well."""
    if not quiet:
        say(f"+ {fix}")
    if fix.command[0] == "smcsock":
        return _execute_own(fix)
    try:
        done = subprocess.run(
            fix.command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except OSError as error:
        complain(f"cannot run {fix.command[0]}: {explain(error)}")
        return False
    if done.returncode:
        said = "; ".join(map(str.strip, (done.stderr or done.stdout).strip().splitlines()))
        complain(f"'{fix}' failed ({done.returncode}){f': {said}' if said else ''}")
    return done.returncode == 0


def _execute_own(fix: Fix) -> bool:
    """Runs a command of smcsock in this process; whether it went well.

    A process of its own would take seconds on a slow machine, and smcsock from where
    root happens to be.
    """
    from . import parse

    options = parse(fix.command[1:])
    try:
        options.run(options)
    except CommandError as error:
        complain(f"'{fix}' failed: {error}")
        return False
    return True


def _show(report: Report) -> None:
    for finding in report.findings:
        for line in _lines(finding):
            say(line)
    begin = report.first_problem if report.works is not True else None
    say("")
    say(f"{report.summary}; begin with '{begin.name}'" if begin else report.summary)


def _lines(finding: Finding) -> list[str]:
    label = _LABELS[finding.status]
    indent = " " * (_STATUS_WIDTH + _NAME_WIDTH)
    head = f"{label:<{_STATUS_WIDTH}}{finding.name:<{_NAME_WIDTH - 1}} "
    lines = _wrap(head, finding.evidence, indent)
    if finding.advice:
        lines += _wrap(f"{indent}-> ", finding.advice, f"{indent}   ")
    if finding.fix:
        # Not wrapped: it is there to be copied.
        lines.append(f"{indent}$  {finding.fix}")
    return lines


def _wrap(head: str, text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        max(_MIN_WIDTH, min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)),
        initial_indent=head,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [head.rstrip()]


def _as_json(report: Report, done: list[Fix]) -> dict[str, Any]:
    return {
        "works": report.works,
        "summary": report.summary,
        "findings": report.findings,
        "connections": [_connection(connection) for connection in report.connections],
        "run": [fix.command for fix in done],
    }


def _connection(connection: Connection) -> dict[str, Any]:
    return {
        "target": connection.target,
        "is_local": connection.is_local,
        "is_smc": connection.is_smc,
        "mode": connection.mode,
        "error": connection.error,
        "client": _end(connection.client),
        "server": _end(connection.server),
    }


def _end(info: SmcInfo | None) -> dict[str, Any] | None:
    if info is None:
        return None
    return {
        "mode": info.mode,
        "reason": _reason(info.reason),
        "peer_reason": _reason(info.peer_reason),
    }


def _reason(reason: Reason | None) -> dict[str, Any] | None:
    return None if reason is None else asdict(reason)
