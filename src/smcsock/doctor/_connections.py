"""Real connections: within this machine, and to a host."""

import contextlib
import os
import socket as _stdlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .._helpers import _connect, create_connection, create_server
from .._kernel._reasons import Reason
from .._kernel._smc_info import SmcInfo
from .._socket import socket
from ._devices import add_ueid
from ._finding import Connection, Finding, Fix, Machine, Status
from ._settings import forces_syn_cookies, handshake_control, limits_handshakes

__all__ = [
    "check_connection",
    "check_here",
    "connect_here",
    "connect_to",
    "tcp_only",
    "why_tcp",
]

_NO_DEVICE = ("NOSMCDEV", "NOSMCDDEV", "NOSMCRDEV", "NOSMCD2DEV")
_NO_EID = ("NOUEID", "NOSEID")


def connect_here(timeout: float) -> list[Connection]:
    """Connects to a server of its own, over IPv4 and IPv6 as far as there is loopback."""
    return [
        connection
        for host, family in (("127.0.0.1", _stdlib.AF_INET), ("::1", _stdlib.AF_INET6))
        if (connection := _connect_here(host, family, timeout))
    ]


def _connect_here(host: str, family: int, timeout: float) -> Connection | None:
    try:
        listener = create_server((host, 0), family=family, fallback="error")
    except OSError as error:
        if family == _stdlib.AF_INET6:  # a machine without IPv6 is no finding
            return None
        return Connection(host, is_local=True, error=f"cannot listen: {_explain(error)}")
    with listener:
        listener.settimeout(timeout)
        try:
            with create_connection(listener.getsockname()[:2], timeout, fallback="error") as client:
                # accept() waits for the end of the handshake in the kernel's queue.
                connection = Connection(
                    host, is_local=True, is_smc=not client.fell_back(), client=_info(client)
                )
                try:
                    server, _ = listener.accept()
                except OSError as error:
                    return replace(connection, error=f"not accepted: {_explain(error)}")
                with server:
                    return replace(connection, server=_info(server))
        except OSError as error:
            return Connection(host, is_local=True, error=_explain(error))


def connect_to(host: str, port: int, timeout: float) -> tuple[Connection | None, list[Finding]]:
    """Connects to a server: the connection, and findings about the way to it.

    Without a connection (the Connection has the error), TCP is tried too, to tell the
    network from SMC. None if the name has no address.
    """
    name = _text((host, port))
    try:
        addresses = _stdlib.getaddrinfo(host, port, type=_stdlib.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        advice = "check the name, and the resolver (getent hosts NAME)"
        finding = Finding(f"name {host}", Status.PROBLEM, _explain(error), advice)
        return None, [finding]
    failures = []
    for family, _, _, _, address in addresses:
        shown = _text(address)
        try:
            sock = _connect(
                *(family, 0, address, timeout),
                source_address=None,
                require_smc=False,
                fallback="error",
            )
        except OSError as error:
            failures.append((family, address, f"{shown}: {_explain(error)}"))
            continue
        with sock:
            connection = Connection(
                shown, is_local=False, is_smc=not sock.fell_back(), client=_info(sock)
            )
        return connection, []
    error_text = "; ".join(text for _, _, text in failures)
    reached = [
        _text(address) for family, address, _ in failures if _tcp_reaches(family, address, timeout)
    ]
    connection = Connection(name, is_local=False, error=error_text)
    if reached:
        finding = Finding(
            f"connect {name}",
            Status.PROBLEM,
            f"{error_text}; yet TCP alone connects to {', '.join(reached)}",
            "the peer answers the SYN with SMC's option but then does not take part in the "
            "handshake: see whether its program accepts connections (a full backlog does this), "
            "whether something between the hosts copies TCP options, and its kernel log",
        )
    else:
        finding = Finding(
            f"connect {name}",
            Status.PROBLEM,
            f"{error_text}; nor does TCP alone connect",
            "this is not about SMC: start a server there ('smcsock echo --server' on the peer), "
            "look for a firewall (refused: nobody listens; timed out: packets are dropped)",
        )
    return connection, [finding]


def _tcp_reaches(family: int, address: Any, timeout: float) -> bool:
    with contextlib.suppress(OSError), _stdlib.socket(family, _stdlib.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect(address)
        return True
    return False


def tcp_only(host: str, port: int, timeout: float) -> list[Finding]:
    """Where this kernel has no SMC: whether the host can be reached at all."""
    name = _text((host, port))
    try:
        with _stdlib.create_connection((host, port), timeout) as sock:
            peer = _text(sock.getpeername())
    except (OSError, UnicodeError) as error:
        return [
            Finding(
                f"connect {name}",
                Status.PROBLEM,
                f"TCP does not connect either: {_explain(error)}",
                "check the name, the server and the firewall, apart from SMC",
            )
        ]
    evidence = f"TCP connects to {peer}; SMC cannot be tried from here"
    return [Finding(f"connect {name}", Status.SKIPPED, evidence)]


def check_here(machine: Machine) -> Iterator[Finding]:
    """What the connections within this machine came to; one finding if they agree."""
    if not machine.here:
        yield Finding("connection here", Status.SKIPPED, "there are no SMC sockets to connect with")
    findings: dict[Finding, list[str]] = {}
    for connection in machine.here:
        family = "IPv6" if connection.is_ipv6 else "IPv4"
        findings.setdefault(_judge_here(machine, connection), []).append(family)
    for finding, families in findings.items():
        yield replace(finding, evidence=f"{' and '.join(families)}: {finding.evidence}")


def _judge_here(machine: Machine, connection: Connection) -> Finding:
    name = "connection here"
    if connection.is_smc is None:
        advice = "look at the firewall rules for lo, and at the kernel log"
        return Finding(name, Status.PROBLEM, connection.error or "", advice)
    if connection.is_smc:
        return Finding(name, Status.OK, _evidence(connection))
    advice, fix = _explain_fallback(machine, connection)
    status = Status.PROBLEM
    if connection.is_ipv6 and any(other.is_smc for other in machine.here):
        status, fix = Status.WARNING, None
    elif machine.usable_roce and not _is_on_loopback(machine):
        # The device is on another interface than connections within the machine.
        status = Status.WARNING
        advice = (
            "that may be no fault: connections within this machine do not go through the RoCE "
            f"device; try one to another host (smcsock doctor HOST). Else: {advice}"
        )
    return Finding(name, status, _evidence(connection), advice, fix)


def _is_on_loopback(machine: Machine) -> bool:
    return any("lo" in device.interfaces for device in machine.usable_roce)


def check_connection(machine: Machine, connection: Connection) -> Iterator[Finding]:
    """What the connection to a host came to."""
    name = f"connection to {connection.target}"
    if connection.is_smc:
        yield Finding(name, Status.OK, _evidence(connection))
    elif connection.is_smc is False:
        advice, fix = _explain_fallback(machine, connection)
        yield Finding(name, Status.PROBLEM, _evidence(connection), advice, fix)


def _evidence(connection: Connection) -> str:
    """What both ends say, as far as both are known."""
    client = _describe(connection, connection.client)
    if not connection.is_local:
        return client
    server = connection.error or _describe(connection, connection.server)
    if client == server:
        return client
    # The end that was declined has the code of the other one, too.
    for text, other in ((client, connection.server), (server, connection.client)):
        if other is not None and other.reason is not None:
            shorter = text.replace(f"; peer: {other.reason}", ", with that code")
            client, server = (shorter, server) if text is client else (client, shorter)
    return f"client: {client}; server: {server}"


def _describe(connection: Connection, info: SmcInfo | None) -> str:
    if info is None:
        return "SMC-D or SMC-R" if connection.is_smc else "TCP, for a reason that only smc_diag has"
    text = str(info)
    if info.link_group is not None:
        text += f" by {info.link_group.device} port {info.link_group.port}"
    if info.connection is not None:
        sizes = f"{info.connection.sndbuf_size} and {info.connection.rmbe_size}"
        text += f", buffers of {sizes} bytes"
    return text


def _deciding_reason(connection: Connection) -> tuple[Reason | None, bool]:
    """The code of the end that declined, and whether that was the peer."""
    info = connection.client
    if info is None:
        return None, False
    if info.peer_reason is not None and info.reason is not None and info.reason.name == "PEERDECL":
        return info.peer_reason, True
    return info.reason, False


def why_tcp(connection: Connection) -> str:
    """Why a connection fell back, in a few words."""
    reason, by_peer = _deciding_reason(connection)
    if reason is None:
        return "the connection is TCP"
    return f"the peer declined, '{reason.meaning}'" if by_peer else reason.meaning


def _explain_fallback(machine: Machine, connection: Connection) -> tuple[str, Fix | None]:
    """What to do about a fallback: the code's own advice unless the machine tells more."""
    reason, by_peer = _deciding_reason(connection)
    if reason is None:
        return "load smc_diag, it tells why", None
    if reason.name == "PEERNOSMC" and handshake_control(machine):
        return "it may be the program of net.smc.hs_ctrl: see above", None
    if reason.name == "PEERNOSMC" and connection.is_local:
        if forces_syn_cookies(machine):
            return "it is the SYN cookies: see there", None
        if limits_handshakes(machine):
            return "handshakes are limited, and too many are under way: see above", None
        advice = "something strips TCP option 254 from packets on lo (nftables, a BPF program)"
        return advice, None
    if reason.name in _NO_EID or (reason.name in _NO_DEVICE and _lacks_ueid(machine)):
        advice, fix = add_ueid(machine)
        if reason.name in _NO_DEVICE:
            advice = f"SMC-Rv2 offers no device while there is no user EID: {advice}"
        return advice, fix
    if reason.name in _NO_DEVICE and connection.is_ipv6 and machine.usable_roce:
        return "SMC-Rv2 is IPv4 only (in Linux 7.2, too): connect over IPv4", None
    if reason.name in _NO_DEVICE and not (by_peer or machine.has_device):
        return "it is the device that is missing: see above", None
    return (
        f"at the peer: {reason.advice}" if by_peer and not connection.is_local else reason.advice
    ), None


def _lacks_ueid(machine: Machine) -> bool:
    """Whether there is a RoCE device that SMC leaves alone for want of a user EID."""
    return bool(machine.usable_roce) and machine.ueids == ()


def _info(sock: socket) -> SmcInfo | None:
    try:
        return sock.smc_info()
    except OSError:
        return None


def _text(address: Any) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _explain(error: Exception) -> str:
    if isinstance(error, TimeoutError) and error.errno is None:
        return "timed out"
    if isinstance(error, OSError) and error.errno and not isinstance(error, _stdlib.gaierror):
        return os.strerror(error.errno)
    return str(getattr(error, "strerror", None) or error)
