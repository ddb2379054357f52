"""smcsock metrics: SMC's state and counters for Prometheus."""

import argparse
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from ..diag import ExtraMissingError
from ._address import parse_port
from ._common import CommandError, ExitCode, complain, explain, put

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from .._metrics import FallbackReasons

__all__ = ["add"]

_DESCRIPTION = """\
Shows what the kernel knows of SMC in this network namespace as metrics for Prometheus:
as OpenMetrics, or with --output in the format that node_exporter's textfile collector
reads, or with --listen for Prometheus itself. Needs no privilege. Where the kernel has
no SMC, smc_up is 0.
"""

_EPILOG = """\
metrics (labels):
  smc_up, smc_read_error (part)
  smc_connections_total (technology, role, version), smc_fallbacks_total (role),
  smc_handshake_errors_total (role), smc_fallback_reasons_total (role, code, reason)
  smc_bytes_total, smc_requests_total, smc_buffers_reused_total,
  smc_buffers_allocated_total, smc_buffers_downgraded_total, smc_buffer_usage_bytes,
  smc_request_size_bytes, smc_buffer_size_bytes (technology, direction)
  smc_buffer_full_total, smc_buffer_too_small_total (technology, direction, end)
  smc_special_calls_total (technology, call)
  smc_sockets (state, mode), smc_link_groups (technology, type)
  smc_links (device, port, state), smc_port_active (device, port, interface, pnetid)
  smc_device_link_groups (device, pnetid), smc_device_critical (device)
  smc_info, smc_module_info, smc_setting (name), smc_handshake_limitation
  smcsock_info, smc_read_duration_seconds

The kernel counts fallbacks by reason in 16 bits, which wrap. With --listen they are
counted from the start on, with --output on from what is in FILE, so that no rate is
wrong; else they are smc_fallback_reasons_modulo_65536, of which there is no rate.

exit status:
  0    fine; also without SMC in the kernel
  1    failed: the file or the port; or a Python package is missing
  2    wrong usage
  130  interrupted by Ctrl-C
  141  the reader of the output has gone
"""


def add(parser: argparse.ArgumentParser) -> None:
    """Makes the parser that of the command."""
    parser.description, parser.epilog = _DESCRIPTION, _EPILOG
    parser.set_defaults(run=_run)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write FILE, all of it or nothing"
    )
    where.add_argument(
        "--listen",
        type=_parse_address,
        metavar="[ADDR]:PORT",
        help="answer Prometheus until SIGTERM or Ctrl-C",
    )


def _parse_address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"not ADDR:PORT: {text!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host or "::", parse_port(port)


def _run(options: argparse.Namespace) -> ExitCode:
    try:
        import prometheus_client  # noqa: F401
        import pyroute2  # type: ignore[import-untyped]  # noqa: F401
    except ModuleNotFoundError as error:
        raise CommandError(explain(ExtraMissingError(error.name or "", "metrics"))) from None
    if options.output:
        _write(options.output)
    elif options.listen:
        _serve(*options.listen)
    else:
        _show()
    return ExitCode.OK


def _registry(reasons: "FallbackReasons | None") -> "CollectorRegistry":
    from prometheus_client import CollectorRegistry

    from .._metrics import Collector

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(reasons))
    return registry


def _show() -> None:
    from prometheus_client.openmetrics.exposition import generate_latest

    text: bytes = generate_latest(_registry(None))  # type: ignore[no-untyped-call]
    put(text.decode().rstrip("\n"))


def _write(path: Path) -> None:
    from prometheus_client import write_to_textfile

    from .._metrics import last_reasons

    try:
        write_to_textfile(str(path), _registry(last_reasons(path)))
        path.chmod(0o644)  # node_exporter is another user
    except OSError as error:
        raise CommandError(f"cannot write {path}: {explain(error)}") from None


def _serve(host: str, port: int) -> None:
    from prometheus_client import start_http_server

    from .._metrics import FallbackReasons
    from ..diag import stats

    try:
        reasons = FallbackReasons.from_now_on(stats())
    except OSError:  # no SMC as yet
        reasons = FallbackReasons()
    try:
        server, thread = start_http_server(port, host, _registry(reasons))
    except OSError as error:
        raise CommandError(f"cannot listen on {host} port {port}: {explain(error)}") from None
    complain(f"metrics at {_url(host, server.server_port)}")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        thread.join()
    except _Terminated:
        pass
    finally:
        server.shutdown()
        server.server_close()


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"


class _Terminated(Exception):
    """SIGTERM came, which is how a service ends well."""


def _interrupt(*_: object) -> None:
    raise _Terminated
