"""smcsock echo: a server, a client, or both."""

import argparse
import contextlib
import errno
import os
import signal
import socket as _stdlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Literal, TypeAlias

from .. import FallbackError, SMCUnsupportedError, create_connection, create_server, socket
from .._errors import NO_SMC
from ._address import DEFAULT_PORT, format_address, parse_port, resolve
from ._common import CommandError, ExitCode, complain, explain, parse_seconds, say
from ._mode import mode_of, refusal

__all__ = ["add"]

Fallback: TypeAlias = Literal["tcp", "error"]

_MESSAGE = "Hello, world"
_TIMEOUT = 30.0  # seconds; an SMC handshake may wait for its peer for more than 10

# The smallest buffer that SMC has. The client waits for the echo of each chunk: if it
# did not, it and the server could both wait for the other one to receive.
_CHUNK = 16384

_DESCRIPTION = """\
Sends a message to a server that sends it back, and shows the mode of each
connection: SMC-D, SMC-R, or TCP and why.

Without --server and --client, runs both in one process. Where the kernel has no
SMC it says so, and goes on over TCP. --server and --client refuse that, unless
--fallback or SMCSOCK_FALLBACK in the environment says "tcp".
"""

_EPILOG = """\
exit status:
  0    the echo was right; --server: ended by SIGTERM, or --once and all was well
  1    failed: network error, wrong or missing echo
  2    wrong usage
  3    SMC was required, but the kernel has none or the connection fell back
  130  interrupted by Ctrl-C
  141  the reader of the output has gone

A server with --require-smc closes connections that fall back and goes on.
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of the command."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.set_defaults(run=_run)
    role = parser.add_mutually_exclusive_group()
    role.add_argument("-s", "--server", action="store_true", help="serve until Ctrl-C or SIGTERM")
    role.add_argument(
        "-c", "--client", type=_host, metavar="ADDR", help="connect to the server at ADDR"
    )
    family = parser.add_mutually_exclusive_group()
    family.add_argument(
        "-4", dest="family", action="store_const", const=_stdlib.AF_INET, help="IPv4 only"
    )
    family.add_argument(
        "-6", dest="family", action="store_const", const=_stdlib.AF_INET6, help="IPv6 only"
    )
    parser.set_defaults(family=_stdlib.AF_UNSPEC)
    parser.add_argument(
        "-a",
        "--address",
        type=_host,
        metavar="ADDR",
        help="where the server listens: an address or name (all addresses; alone: loopback)",
    )
    parser.add_argument(
        "-p",
        "--port",
        type=parse_port,
        help=f"of the server ({DEFAULT_PORT}; alone: a free one); with --server, 0 is a free one",
    )
    parser.add_argument(
        "-m", "--message", metavar="TEXT", help=f'what the client sends ("{_MESSAGE}")'
    )
    parser.add_argument(
        "--timeout",
        type=parse_seconds,
        metavar="SECONDS",
        help=f"for each step of the client ({_TIMEOUT:g})",
    )
    parser.add_argument("--once", action="store_true", help="serve one connection only")
    parser.add_argument(
        "--require-smc",
        action="store_true",
        help="fail where a connection would be TCP (overrides --fallback)",
    )
    parser.add_argument(
        "--fallback",
        # A string, so that argparse applies the type to what the environment says.
        default=os.environ.get("SMCSOCK_FALLBACK", ""),
        type=_fallback,
        metavar="{tcp,error}",
        help="what to do where the kernel has no SMC (error; alone: tcp)",
    )


def _host(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the address is empty")
    return text


def _fallback(text: str) -> str:
    if text not in ("tcp", "error", ""):
        raise argparse.ArgumentTypeError(
            f"it (or SMCSOCK_FALLBACK) must be 'tcp' or 'error', not {text!r}"
        )
    return text


def _run(options: argparse.Namespace) -> ExitCode:
    _check(options)
    fallback = _settle_fallback(options)
    if options.client is not None:
        return _run_client(options, fallback)
    if options.server:
        return _run_server(options, fallback)
    return _run_both(options, fallback)


def _check(options: argparse.Namespace) -> None:
    """Refuses options that the chosen role would ignore."""
    if options.server:
        role, alien = "with --server", ["message", "timeout"]
    elif options.client is not None:
        role, alien = "with --client", ["address", "once"]
    else:
        role, alien = "without --server", ["once"]
    for name in alien:
        if getattr(options, name) not in (None, False):
            options.fail(f"--{name} cannot be used {role}")
    if options.client is not None and options.port == 0:
        options.fail("--client cannot connect to port 0")


def _settle_fallback(options: argparse.Namespace) -> Fallback:
    """What a kernel without SMC means; CommandError if it means failure."""
    is_both = not options.server and options.client is None
    choice: Fallback = options.fallback or ("tcp" if is_both else "error")
    if options.require_smc:
        choice = "error"
    try:
        socket(fallback="error").close()
    except SMCUnsupportedError:
        if choice == "tcp":
            complain(f"{NO_SMC}. Running over plain TCP")
        elif options.require_smc:
            raise CommandError(NO_SMC, ExitCode.NO_SMC) from None
        else:
            hint = "to run over plain TCP instead, give --fallback tcp"
            raise CommandError(f"{NO_SMC}; {hint}", ExitCode.NO_SMC) from None
    except OSError as error:
        raise CommandError(f"cannot open an SMC socket: {explain(error)}") from None
    return choice


def _listen(host: str, port: int, family: int, fallback: Fallback) -> socket:
    """Listens on the first address of the host that allows it; CommandError if none does."""
    failures = []
    for inet, address in resolve(host, port, family):
        is_dual = (
            inet == _stdlib.AF_INET6
            and family == _stdlib.AF_UNSPEC
            and address[0] == "::"
            and _stdlib.has_dualstack_ipv6()
        )
        try:
            return create_server(address, family=inet, dualstack_ipv6=is_dual, fallback=fallback)
        except OSError as error:
            # The message of bind() repeats the address, as a tuple.
            why = os.strerror(error.errno) if error.errno else explain(error)
            failures.append(f"cannot listen on {format_address(address)}: {why}")
    raise CommandError("; ".join(failures))


def _connect(
    addresses: list[Any], timeout: float, require_smc: bool, fallback: Fallback
) -> tuple[socket, str]:
    """Connects to the first address that answers: the socket, and that address as text."""
    failures = []
    status = ExitCode.FAILED
    for address in addresses:
        name = format_address(address)
        # Numeric, and with the zone that create_connection() takes as part of the host.
        host, port = _stdlib.getnameinfo(address, _stdlib.NI_NUMERICHOST | _stdlib.NI_NUMERICSERV)
        try:
            sock = create_connection(
                (host, port), timeout, require_smc=require_smc, fallback=fallback
            )
        except FallbackError as error:
            status = ExitCode.NO_SMC
            failures.append(f"{name}: {refusal(error)}")
        except OSError as error:
            failures.append(f"cannot connect to {name}: {explain(error)}")
        else:
            return sock, name
    raise CommandError("; ".join(failures), status)


def _run_client(options: argparse.Namespace, fallback: Fallback) -> ExitCode:
    port = DEFAULT_PORT if options.port is None else options.port
    addresses = [address for _, address in resolve(options.client, port, options.family)]
    timeout = options.timeout or _TIMEOUT
    sock, peer = _connect(addresses, timeout, options.require_smc, fallback)
    with sock:
        _tell_connected(sock, peer)
        _converse(sock, peer, _message(options))
    return ExitCode.OK


def _run_server(options: argparse.Namespace, fallback: Fallback) -> ExitCode:
    host = options.address
    if host is None:
        only_ipv4 = options.family == _stdlib.AF_INET or (
            options.family == _stdlib.AF_UNSPEC and not _stdlib.has_dualstack_ipv6()
        )
        host = "0.0.0.0" if only_ipv4 else "::"
    port = DEFAULT_PORT if options.port is None else options.port
    with _exit_on_sigterm(), _listen(host, port, options.family, fallback) as listener:
        server = _Server(listener, require_smc=options.require_smc, once=options.once)
        say(f"listening on {format_address(listener.getsockname())}")
        server.start()
        while True:
            report = server.next_report()
            report.show()
            if options.once and report.is_last:
                return report.status


def _run_both(options: argparse.Namespace, fallback: Fallback) -> ExitCode:
    loopback = "::1" if options.family == _stdlib.AF_INET6 else "127.0.0.1"
    timeout = options.timeout or _TIMEOUT
    with _listen(
        options.address or loopback, options.port or 0, options.family, fallback
    ) as listener:
        listener.settimeout(timeout)
        address = listener.getsockname()
        say(f"server: listening on {format_address(address)}")
        server = _Server(listener, once=True)
        server.start()
        client, peer = _connect([address], timeout, options.require_smc, fallback)
        with client:
            _tell_connected(client, peer, "client: ")
            server.next_report(timeout).show("server: ")
            _converse(client, peer, _message(options), "client: ")
        report = server.next_report(timeout)
        report.show("server: ")
        return report.status


def _message(options: argparse.Namespace) -> bytes:
    return os.fsencode(_MESSAGE if options.message is None else options.message)


def _tell_connected(sock: socket, peer: str, prefix: str = "") -> None:
    mode = mode_of(sock)
    say(f"{prefix}connected to {peer} from {format_address(sock.getsockname())}: {mode.text}")
    for advice in mode.advice:
        say(f"{prefix}advice: {advice}")


def _converse(sock: socket, peer: str, message: bytes, prefix: str = "") -> None:
    """Sends a message and receives its echo; CommandError if that is not the same."""
    received = bytearray()
    try:
        for start in range(0, len(message), _CHUNK):
            sock.sendall(message[start : start + _CHUNK])
            _receive(sock, received, min(start + _CHUNK, len(message)))
    except TimeoutError:
        what = f"no echo within {sock.gettimeout():g} s"
    except OSError as error:
        what = explain(error)
    except EOFError:
        what = "the server closed the connection"
    else:
        say(f"{prefix}sent {_quote(message)}")
        say(f"{prefix}received {_quote(received)}")
        if received != message:
            raise CommandError(f"{peer}: the echo differs from what was sent")
        return
    raise CommandError(f"{peer}: {what}, after {len(received)} of {_count(message)}")


def _receive(sock: socket, received: bytearray, length: int) -> None:
    """Receives until there are ``length`` bytes; EOFError if the peer sends no more."""
    while len(received) < length:
        data = sock.recv(length - len(received))
        if not data:
            raise EOFError
        received += data


def _count(data: bytes | bytearray | int) -> str:
    number = data if isinstance(data, int) else len(data)
    return f"{number} byte" if number == 1 else f"{number} bytes"


def _quote(data: bytes | bytearray) -> str:
    """The size and the beginning of data, safe to print on a terminal."""
    try:
        text = repr(data.decode())
    except UnicodeDecodeError:
        text = repr(bytes(data))
    return f"{_count(data)}: {text[:60]}..." if len(text) > 63 else f"{_count(data)}: {text}"


@contextlib.contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the process in good order, also as process 1 of a container."""

    def handle(number: int, frame: object) -> None:
        sys.exit(ExitCode.OK)

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@dataclass(frozen=True)
class _Report:
    """What happened on the server; ``is_last`` if its connection is over."""

    lines: tuple[str, ...]
    status: ExitCode = ExitCode.OK
    is_last: bool = False

    def show(self, prefix: str = "") -> None:
        for line in self.lines:
            if self.status == ExitCode.OK:
                say(prefix + line)
            else:
                complain(prefix + line)


class _Server:
    """Accepts connections and sends back what they send, in threads of its own.

    The threads print nothing: they report, and the main thread, which gets the
    signals, prints. With ``once`` only the first connection is accepted.
    """

    def __init__(self, listener: socket, *, require_smc: bool = False, once: bool = False) -> None:
        self._listener = listener
        self._require_smc = require_smc
        self._once = once
        self._reports: SimpleQueue[_Report | CommandError] = SimpleQueue()
        self._has_room = threading.Event()

    def start(self) -> None:
        """Begins to accept, and returns at once."""
        threading.Thread(target=self._accept_all, daemon=True).start()

    def next_report(self, timeout: float | None = None) -> _Report:
        """Waits, at most ``timeout`` seconds; CommandError if the server cannot go on."""
        try:
            report = self._reports.get(timeout=timeout)
        except Empty:
            raise CommandError("the server does not answer") from None
        if isinstance(report, CommandError):
            raise report
        return report

    def _report(self, *lines: str, status: ExitCode = ExitCode.OK, is_last: bool = False) -> None:
        self._reports.put(_Report(lines, status, is_last))

    def _accept_all(self) -> None:
        try:
            while not (self._accept() and self._once):
                pass
        except OSError as error:
            self._reports.put(CommandError(f"cannot accept connections: {explain(error)}"))

    def _accept(self) -> bool:
        """Accepts a connection; False if it is not worth a report, or must be retried."""
        try:
            sock, address = self._listener.accept(require_smc=self._require_smc)
        except FallbackError as error:
            name = format_address(error.peer)
            self._report(f"refused {name}: {refusal(error)}", status=ExitCode.NO_SMC, is_last=True)
            return True
        except ConnectionError:  # it was gone before it was accepted
            return False
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            self._wait_for_room(error)
            return False
        try:
            threading.Thread(
                target=self._attend, args=(sock, format_address(address)), daemon=True
            ).start()
        except RuntimeError as error:  # no more threads
            sock.close()
            self._wait_for_room(error)
            return False
        return True

    def _wait_for_room(self, error: Exception) -> None:
        self._report(f"cannot accept a connection: {explain(error)}", status=ExitCode.FAILED)
        self._has_room.clear()
        self._has_room.wait(1)

    def _attend(self, sock: socket, peer: str) -> None:
        """Serves one connection until its end."""
        try:
            with sock:
                sock.settimeout(None)
                mode = mode_of(sock)
                self._report(
                    f"{peer} connected: {mode.text}",
                    *(f"{peer} advice: {advice}" for advice in mode.advice),
                )
                count = _echo(sock)
        except OSError as error:
            self._report(f"{peer}: {explain(error)}", status=ExitCode.FAILED, is_last=True)
        else:
            self._report(f"{peer} closed: echoed {_count(count)}", is_last=True)
        self._has_room.set()


_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def _echo(sock: socket) -> int:
    """Sends back what the peer sends until its end: how many bytes."""
    count = 0
    while data := sock.recv(_CHUNK):
        sock.sendall(data)
        count += len(data)
    return count
