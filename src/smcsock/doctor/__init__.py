"""Whether SMC works here, and what to fix if it does not.

``examine()`` goes through what SMC needs, in order: the kernel, its module, what
confines this process, devices, the names hosts find each other by, settings, and at
last real connections. It needs no privilege and changes nothing, but the kernel may
load its modules when it is asked for them.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import _smcsock
from .._kernel._machine import module_state, smcd_devices, smcr_devices
from .._kernel._smc_info import Mode
from ._confinement import check_confinement
from ._connections import check_connection, check_here, connect_here, connect_to, tcp_only, why_tcp
from ._devices import check_devices, check_eids, check_pnetids
from ._finding import Connection, Finding, Fix, Machine, Status
from ._kernel import check_diag, check_family, check_kernel, check_module, configuration
from ._settings import check_buffers, check_control, check_limitation, check_syn_cookies

if TYPE_CHECKING:
    from .. import diag

__all__ = ["Connection", "Finding", "Fix", "Report", "Status", "examine"]

_TIMEOUT = 30.0  # seconds; an SMC handshake may wait for its peer for more than 10

_CHECKS: tuple[Callable[[Machine], Iterator[Finding]], ...] = (
    check_kernel,
    check_module,
    check_family,
    check_confinement,
    check_diag,
    check_devices,
    check_pnetids,
    check_eids,
    check_buffers,
    check_limitation,
    check_control,
    check_syn_cookies,
    check_here,
)


@dataclass(frozen=True)
class Report:
    """What was found.

    ``works`` is whether SMC works: with a host, to that host; else within this
    machine. None if that could not be found out; ``summary`` says it in a sentence.
    """

    works: bool | None
    summary: str
    findings: tuple[Finding, ...]
    connections: tuple[Connection, ...]

    @property
    def first_problem(self) -> Finding | None:
        """What to begin with: the later problems may be its consequences."""
        problems = (found for found in self.findings if found.status is Status.PROBLEM)
        return next(problems, None)


def examine(
    host: str | None = None,
    port: int | None = None,
    *,
    timeout: float = _TIMEOUT,
    ueid: str | None = None,
) -> Report:
    """Examines this machine and, with ``host`` and ``port``, the way to that server.

    ``timeout`` is in seconds, for each connection. ``ueid`` is the user EID that the
    commands of the findings shall add where one is missing. What goes wrong is a
    finding, not an exception; ValueError for a host without a port.
    """
    if (host is None) != (port is None):
        raise ValueError("host and port belong together")
    machine = _look(ueid, timeout)
    findings = [finding for check in _CHECKS for finding in check(machine)]
    connections = list(machine.here)
    if host is not None and port is not None:
        if machine.refusal is not None:
            findings += tcp_only(host, port, timeout)
        else:
            connection, more = connect_to(host, port, timeout)
            findings += more
            if connection is not None:
                connections.append(connection)
                findings += check_connection(machine, connection)
    works, summary = _judge(machine, connections, host)
    return Report(works, summary, tuple(findings), tuple(connections))


def _look(ueid: str | None, timeout: float, root: Path = Path("/")) -> Machine:
    """Gathers what the checks look at."""
    refusal = _refusal()
    system = os.uname()
    here = connect_here(timeout) if refusal is None else []
    config, config_source = configuration(root, system.release)
    machine = Machine(
        root=root,
        release=system.release,
        architecture=system.machine,
        refusal=refusal,
        # The socket and its connections may have made the kernel load its modules.
        modules={name: module_state(root, name) for name in ("smc", "smc_diag")},
        smcd_devices=smcd_devices(root),
        roce_devices=smcr_devices(root),
        config=config,
        config_source=config_source,
        ueid=ueid,
        here=here,
    )
    return _ask_netlink(machine)


def _refusal() -> OSError | None:
    """What opening an SMC socket gives, None if it opens."""
    try:
        os.close(_smcsock.socket(1, _smcsock.SMCPROTO_SMC))
    except OSError as error:
        return error
    return None


def _ask_netlink(machine: Machine) -> Machine:
    """Adds what only generic netlink knows, if that can be asked."""
    if not machine.has_module:
        return replace(machine, no_netlink="the kernel has no SMC to ask")
    try:
        from .. import diag

        seid = diag.seid()
        ports = [
            (device.name, port)
            for device in diag.devices()
            if isinstance(device, diag.SmcrDevice)
            for port in device.ports
        ]
        return replace(
            machine,
            ueids=tuple(diag.ueids()),
            seid=(seid.name, seid.enabled) if seid.name else None,
            pnetids=(
                *(_pnetid(entry) for entry in diag.pnetids()),
                *(
                    f"{port.pnetid} by hardware: {name} port {port.number}"
                    for name, port in ports
                    if port.pnetid and not port.pnetid_by_user
                ),
            ),
            has_smcd=diag.system().ism_v2 or bool(machine.smcd_devices),
        )
    except ImportError as error:
        return replace(machine, has_diag=False, no_netlink=str(error))
    except OSError as error:
        return replace(machine, no_netlink=f"the kernel cannot be asked: {error.strerror}")


def _pnetid(entry: "diag.PnetId") -> str:
    """An entry of the PNET table as text: there are interfaces and devices of one name."""
    if entry.interface:
        return f"{entry.name}: interface {entry.interface}"
    return f"{entry.name}: device {entry.device} port {entry.port}"


def _judge(
    machine: Machine, connections: list[Connection], host: str | None
) -> tuple[bool | None, str]:
    """Whether SMC works, and that in a sentence."""
    if machine.refusal is not None:
        return False, "SMC does not work: this process cannot open SMC sockets"
    if host is not None:
        last = connections[-1] if connections and not connections[-1].is_local else None
        if last is None or last.is_smc is None:
            return None, f"there was no connection to {host} to see whether SMC works"
        kind = last.mode or "SMC"
        if last.is_smc:
            return True, f"SMC works: the connection to {last.target} is {kind}"
        return False, f"SMC does not work to {last.target}: {why_tcp(last)}"
    modes = sorted(
        {connection.mode or Mode.SMCD for connection in connections if connection.is_smc}
    )
    if modes:
        return True, f"SMC works: connections within this machine are {' or '.join(modes)}"
    if machine.usable_roce and not any("lo" in port.interfaces for port in machine.usable_roce):
        return None, (
            "connections within this machine do not use its RoCE device: give a host to see "
            "whether SMC works"
        )
    for connection in connections:
        if connection.is_smc is False:
            why = why_tcp(connection)
            return False, f"SMC does not work: connections within this machine are TCP, {why}"
    return None, "there was no connection to see whether SMC works"
