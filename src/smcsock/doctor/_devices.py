"""The devices that SMC uses, and the names by which hosts find a common one."""

from collections.abc import Iterator
from pathlib import Path

from .._kernel._machine import RoceDevice, entries, has_dibs, link_name, module_state, read
from .._kernel._rnics import hardware_pnetid
from .._kernel._smc_info import Mode
from ._finding import Finding, Fix, Machine, Status

__all__ = ["add_ueid", "check_devices", "check_eids", "check_pnetids"]

# Drivers of network interfaces that have RDMA in a module of its own.
_RDMA_MODULES = {
    "mlx4_core": "mlx4_ib",
    "mlx5_core": "mlx5_ib",
    "bnxt_en": "bnxt_re",
    "ice": "irdma",
    "qede": "qedr",
}


def add_ueid(machine: Machine) -> tuple[str, Fix]:
    """How to add a user EID: advice and command, with the name that the user gave."""
    advice = (
        "give this host and its peers one common user EID, a name of your own (A-Z, 0-9, '-' "
        "and '.', up to 32); it lasts until the next boot"
    )
    if machine.ueid is None:
        return advice, Fix(("smcsock", "ueid", "add", "NAME"))
    return advice, Fix(("smcsock", "ueid", "add", machine.ueid), is_safe=machine.has_diag)


def check_devices(machine: Machine) -> Iterator[Finding]:
    """Every device for SMC-D and SMC-R, and whether it can be used."""
    findings = [*_ism(machine), *_roce(machine), *_rdma_missing(machine)]
    yield from findings
    if any(finding.status is Status.OK for finding in findings):
        return
    if Mode.SMCD in machine.modes_here() or machine.has_smcd:
        if not findings:
            which = " here" if has_dibs(machine.release) else ": loopback-ism"
            yield Finding("devices", Status.OK, f"one for SMC-D that /sys does not show{which}")
        return
    lists = "an SMC-D device" if machine.has_smcd is False else "an ISM device in /sys"
    some = "usable device" if findings else "device"
    yield Finding(
        "devices",
        Status.PROBLEM if machine.has_module or findings else Status.WARNING,
        f"no {some} for SMC: neither {lists} nor an active RoCE port",
        _advice_for_devices(machine),
        Fix(("rdma", "link", "add", "rxe0", "type", "rxe", "netdev", "NAME"))
        if machine.has_module and not findings
        else None,
    )


def _advice_for_devices(machine: Machine) -> str:
    if machine.architecture in ("s390x", "s390"):
        return (
            "attach an ISM PCI function to this system (it shows in lspci; its driver is "
            "CONFIG_ISM), for other machines a RoCE Express one"
        )
    loopback = "CONFIG_DIBS_LO" if has_dibs(machine.release) else "CONFIG_SMC_LO, from 6.11 on"
    return (
        "SMC-R needs a network card with RoCE and its driver. To try SMC without one: soft-RoCE "
        "('modprobe rdma_rxe', then 'rdma link add rxe0 type rxe netdev NAME'), or SMC-D within "
        f"one machine by a kernel with a loopback device ({loopback})"
    )


def _ism(machine: Machine) -> Iterator[Finding]:
    for device in machine.smcd_devices:
        name = f"SMC-D device {device.name}"
        if device.kind == "ism" and device.driver is None:
            yield Finding(
                name, Status.PROBLEM, "an ISM PCI function without a driver", *_ism_driver(machine)
            )
        else:
            yield Finding(name, Status.OK, device.description)
    if machine.architecture not in ("s390x", "s390"):
        return
    slots = entries(machine.root / "sys/bus/pci/slots")
    standby = [slot.name for slot in slots if read(slot / "power") == "0"]
    if standby and not machine.has_device:
        yield Finding(
            "PCI functions",
            Status.WARNING,
            f"in standby (power is 0): {', '.join(standby)}",
            "if one is an ISM or RoCE function, turn it on",
            Fix(("smcsock", "rnics", "--enable", "FID")),
        )


def _ism_driver(machine: Machine) -> tuple[str, Fix | None]:
    """How to get the driver of ISM: advice and command."""
    if module_state(machine.root, "ism") == "not found":
        return "this kernel was built without it: boot one with CONFIG_ISM", None
    return "load the driver, as root", Fix(("modprobe", "ism"), is_safe=True)


def _roce(machine: Machine) -> Iterator[Finding]:
    for device in machine.roce_devices:
        name = f"RoCE device {device.name} port {device.port}"
        interfaces = "/".join(device.interfaces)
        evidence = f"{device.state}, {device.link_layer}, {interfaces or 'no interface'}"
        status = Status.WARNING if machine.usable_roce or machine.smcd_devices else Status.PROBLEM
        if device.link_layer != "Ethernet":
            advice = "SMC-R needs RoCE: a port whose link layer is Ethernet"
            yield Finding(name, Status.WARNING, evidence, advice)
        elif device.state != "ACTIVE":
            yield Finding(name, status, evidence, *_how_to_activate(machine, device))
        elif not device.interfaces:
            yield Finding(
                name,
                status,
                evidence,
                "its network interface, by which SMC finds it, is in another network namespace",
            )
        else:
            yield Finding(name, Status.OK, evidence)


def _how_to_activate(machine: Machine, device: RoceDevice) -> tuple[str, Fix | None]:
    for interface in device.interfaces or _interfaces_of(machine.root, device.name):
        flags = read(machine.root / "sys/class/net" / interface / "flags")
        if flags is not None and not int(flags, 16) & 1:  # IFF_UP
            advice = f"the interface {interface} is down: bring it up"
            return advice, Fix(("ip", "link", "set", "dev", interface, "up"))
    return "the port has no link: look at the cable, the switch and the kernel log", None


def _interfaces_of(root: Path, device: str) -> list[str]:
    """The interfaces on the PCI function of an RDMA device."""
    return [path.name for path in entries(root / "sys/class/infiniband" / device / "device/net")]


def _rdma_missing(machine: Machine) -> Iterator[Finding]:
    """Network cards that can RDMA but whose RDMA driver is not there."""
    if machine.usable_roce:
        return
    with_rdma = {name for device in machine.roce_devices for name in device.interfaces}
    for path in entries(machine.root / "sys/class/net"):
        driver = link_name(path / "device/driver")
        module = _RDMA_MODULES.get(driver or "")
        if module is None or path.name in with_rdma or entries(path / "device/infiniband"):
            continue
        yield Finding(
            f"interface {path.name}",
            Status.WARNING,
            f"driver {driver}, but no RDMA device",
            "if the card has RoCE, its driver is a module of its own",
            Fix(("modprobe", module)),
        )


def check_pnetids(machine: Machine) -> Iterator[Finding]:
    """The PNET IDs, by which SMC finds the device that goes with an interface."""
    hardware = [
        f"{path.name} {name}"
        for path in entries(machine.root / "sys/class/net")
        if (name := _hardware_pnetid(machine.root, path))
    ]
    entered = machine.pnetids
    shown = [*hardware, *(entered or ())]
    if shown:
        yield Finding("PNET IDs", Status.OK, "; ".join(shown))
        return
    if not machine.has_module or not machine.has_device:
        yield Finding("PNET IDs", Status.SKIPPED, "there is no device yet that they could name")
        return
    none = "none" if entered is not None else f"none by hardware; else {machine.no_netlink}"
    yield Finding(
        "PNET IDs",
        Status.OK if entered is not None else Status.UNKNOWN,
        f"{none}. Needed for SMC-Dv1, and for SMC-R where the connection does not go through the "
        "RoCE device's own interface",
    )


def _hardware_pnetid(root: Path, interface: Path) -> str:
    """The PNET ID that the hardware of IBM Z gives an interface, "" for none.

    A PCI function has those of its ports; those of an OSA card are its channel path's.
    """
    channel_path = read(interface / "device/chpid")
    if channel_path is None:
        path = interface / "device/util_string"
    else:
        path = root / f"sys/devices/css0/chp0.{channel_path.lower()}/util_string"
    port = read(interface / "dev_port") or "0"
    return hardware_pnetid(path, int(port) if port.isdecimal() else 0)


def check_eids(machine: Machine) -> Iterator[Finding]:
    """The enterprise IDs, of which SMC version 2 needs one in common with the peer."""
    if not machine.has_module:
        yield Finding("EIDs", Status.SKIPPED, "the kernel keeps them only once it has SMC")
        return
    if machine.ueids is None:
        if machine.modes_here() - {Mode.TCP}:
            evidence = f"the connections within this machine agreed on one; {machine.no_netlink}"
            yield Finding("EIDs", Status.OK, evidence)
            return
        yield Finding("EIDs", Status.UNKNOWN, machine.no_netlink, *add_ueid(machine))
        return
    user = f"user EIDs: {', '.join(machine.ueids) or 'none'}"
    seid, enabled = machine.seid or ("", False)
    system = f"system EID: {seid}, {'enabled' if enabled else 'disabled'}" if seid else ""
    evidence = "; ".join(filter(None, (user, system)))
    if machine.ueids:
        yield Finding("EIDs", Status.OK, evidence)
    elif enabled:
        advice, fix = add_ueid(machine)
        yield Finding(
            "EIDs",
            Status.WARNING if machine.roce_devices else Status.OK,
            evidence,
            f"the system EID is for SMC-D on one machine; for SMC-Rv2 {advice}",
            fix if machine.roce_devices else None,
        )
    elif seid and machine.ueid is None:
        yield Finding(
            "EIDs",
            Status.PROBLEM,
            evidence,
            "enable the system EID, or add a user EID",
            Fix(("smcsock", "seid", "enable"), is_safe=machine.has_diag),
        )
    else:
        advice, fix = add_ueid(machine)
        status = Status.PROBLEM if machine.has_device else Status.WARNING
        yield Finding("EIDs", status, evidence, f"SMC version 2 needs one: {advice}", fix)
