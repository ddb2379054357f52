"""The PNET table: which devices are on the same physical network.

Source: net/smc/smc_pnet.c in the Linux kernel; smc_pnet(8).
"""

import errno
import re
from dataclasses import dataclass

from ._commands import PnetCommand
from ._generic import Attributes, change, dump

__all__ = ["PnetId", "add_pnetid", "clear_pnetids", "pnetids", "remove_pnetid"]

_PNETID = re.compile(r"[A-Za-z0-9]{1,16}")
_INTERFACE_LENGTH, _DEVICE_LENGTH = 15, 63  # IFNAMSIZ and IB_DEVICE_NAME_MAX
_NOT_AVAILABLE = "n/a"


@dataclass(frozen=True, slots=True)
class PnetId:
    """An entry of the PNET table: the PNET ID of a network interface or of a device.

    Either ``interface`` is its name, or ``device`` and ``port`` name an RDMA device's
    port; SMC-D devices have port 1. The others are None.
    """

    name: str
    interface: str | None = None
    device: str | None = None
    port: int | None = None


def pnetids() -> list[PnetId]:
    """The PNET table of this network namespace.

    PNET IDs that the hardware has are not in it: see devices(). Those of devices are
    in that of the initial network namespace. Raises DiagError and ExtraMissingError.
    """
    return [_entry(message) for message in dump(PnetCommand.GET)]


def add_pnetid(
    name: str,
    *,
    interface: str | None = None,
    ib_device: str | None = None,
    ib_port: int | None = None,
    smcd_device: str | None = None,
) -> None:
    """Gives a PNET ID to a network interface, an RDMA device's port (1), an SMC-D device.

    ``name`` is up to 16 letters and digits, which become uppercase. An interface and a
    device can be given in one call, but not both kinds of device. An SMC-D device is
    called by its PCI ID or, from Linux 6.18 on, as in /sys/class/dibs. What does not exist
    gets the PNET ID when it appears. Only the initial network namespace takes devices,
    and its table has one entry for a device, whatever the port.

    Takes CAP_NET_ADMIN. Raises ValueError for a wrong name or port or for want of
    a device, DiagError (EEXIST if the device has a PNET ID; with an interface and a
    device, only if both have) and ExtraMissingError.
    """
    attributes: Attributes = {"SMC_PNETID_NAME": _pnetid(name)}
    if ib_device is not None and smcd_device is not None:
        raise ValueError("give an RDMA device or an SMC-D device, not both")
    if ib_port is not None and ib_device is None:
        raise ValueError("a port needs its RDMA device")
    if ib_port not in (None, 1, 2):
        raise ValueError(f"not a port of an RDMA device (1 or 2): {ib_port!r}")
    device = smcd_device if ib_device is None else ib_device
    if interface is not None:
        attributes["SMC_PNETID_ETHNAME"] = _device(interface, _INTERFACE_LENGTH)
    if device is not None:
        attributes["SMC_PNETID_IBNAME"] = _device(device, _DEVICE_LENGTH)
        attributes["SMC_PNETID_IBPORT"] = ib_port or 1
    if len(attributes) == 1:
        raise ValueError("a PNET ID needs a network interface or a device")
    taken = (
        f"{' and '.join(filter(None, (interface, device)))}: there is a PNET ID already, from the "
        "hardware or in the PNET table (remove that first), or this is not the initial network "
        "namespace, which alone takes devices"
    )
    change(PnetCommand.ADD, attributes, {errno.EEXIST: taken})


def remove_pnetid(name: str) -> None:
    """Removes a PNET ID from all that have it in the PNET table.

    Takes CAP_NET_ADMIN. Raises ValueError for what cannot be one, DiagError (ENOENT
    if the table has no such PNET ID) and ExtraMissingError.
    """
    change(
        PnetCommand.DEL,
        {"SMC_PNETID_NAME": _pnetid(name)},
        {errno.ENOENT: f"the PNET table has no {name.upper()}"},
    )


def clear_pnetids() -> None:
    """Empties the PNET table. Takes CAP_NET_ADMIN; raises DiagError and ExtraMissingError."""
    change(PnetCommand.FLUSH)


def _entry(message: Attributes) -> PnetId:
    interface = message.get("SMC_PNETID_ETHNAME", _NOT_AVAILABLE)
    device = message.get("SMC_PNETID_IBNAME", _NOT_AVAILABLE)
    has_device = device != _NOT_AVAILABLE
    return PnetId(
        name=message["SMC_PNETID_NAME"],
        interface=None if interface == _NOT_AVAILABLE else interface,
        device=device if has_device else None,
        port=message["SMC_PNETID_IBPORT"] if has_device else None,
    )


def _pnetid(name: str) -> str:
    if not _PNETID.fullmatch(name):
        raise ValueError(f"not a PNET ID: {name!r} (up to 16 letters A-Z and digits)")
    return name.upper()


def _device(name: str, length: int) -> str:
    if not name.isascii() or not 0 < len(name) <= length or not name.isprintable():
        raise ValueError(f"not the name of a device: {name!r} (up to {length} characters)")
    return name
