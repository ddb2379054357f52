"""The devices that SMC can use.

Source: net/smc/smc_ism.c and smc_ib.c in the Linux kernel.
"""

from dataclasses import dataclass

from ._commands import SmcCommand
from ._generic import Attributes, entries
from ._link_groups import interface_name

__all__ = ["Pci", "Port", "SmcdDevice", "SmcrDevice", "devices"]

_PORTS = ("SMC_NLA_DEV_PORT", "SMC_NLA_DEV_PORT2")

# As smc-tools call them.
_TYPES = {
    0x04ED: "ISM",
    0x1004: "RoCE_Express",
    0x1016: "RoCE_Express2",
    0x101E: "RoCE_Express3",
}


@dataclass(frozen=True, slots=True)
class Pci:
    """A PCI function: its address, and on IBM Z its function ID and PCHID."""

    id: str
    fid: int
    pchid: int
    vendor: int
    device: int

    @property
    def type(self) -> str:
        """What smc-tools call it: "ISM", "RoCE_Express2", or the device ID in hexadecimal."""
        return _TYPES.get(self.device, f"{self.device:#x}")


@dataclass(frozen=True, slots=True)
class SmcdDevice:
    """A device for SMC-D.

    ``pci`` is None for one that is no PCI function. ``link_groups`` is how many use it.
    ``pnetid`` is "" for none, and ``pnetid_by_user`` tells one of the PNET table from the
    hardware's.
    """

    pci: Pci | None
    link_groups: int
    pnetid: str
    pnetid_by_user: bool

    @property
    def in_use(self) -> bool:
        """Whether a link group uses it."""
        return self.link_groups > 0


@dataclass(frozen=True, slots=True)
class Port:
    """A port of an RDMA device.

    ``interface`` is the name of its network interface, None if there is none in this
    network namespace; ``links`` is how many SMC-R links use it.
    """

    number: int
    active: bool
    interface: str | None
    links: int
    pnetid: str
    pnetid_by_user: bool


@dataclass(frozen=True, slots=True)
class SmcrDevice:
    """A device for SMC-R.

    ``pci`` is None for one that is no PCI function, such as soft-RoCE. ``is_critical`` says that
    link groups would be lost with it: they have no second device.
    """

    name: str
    pci: Pci | None
    is_critical: bool
    ports: tuple[Port, ...]

    @property
    def in_use(self) -> bool:
        """Whether a link uses it."""
        return any(port.links for port in self.ports)


def devices() -> list[SmcdDevice | SmcrDevice]:
    """The devices that the kernel lists for SMC, those for SMC-D first.

    It does not list loopback devices; ``system().ism_v2`` without any device for SMC-D
    tells that there is one. Raises DiagError and ExtraMissingError.
    """
    return [
        *map(_smcd_device, entries(SmcCommand.GET_DEV_SMCD, "SMC_GEN_DEV_SMCD")),
        *map(_smcr_device, entries(SmcCommand.GET_DEV_SMCR, "SMC_GEN_DEV_SMCR")),
    ]


def _pci(device: Attributes) -> Pci | None:
    if "SMC_NLA_DEV_PCI_ID" not in device:
        return None
    return Pci(
        id=device["SMC_NLA_DEV_PCI_ID"],
        fid=device["SMC_NLA_DEV_PCI_FID"],
        pchid=device["SMC_NLA_DEV_PCI_CHID"],
        vendor=device["SMC_NLA_DEV_PCI_VENDOR"],
        device=device["SMC_NLA_DEV_PCI_DEVICE"],
    )


def _smcd_device(device: Attributes) -> SmcdDevice:
    port = device.get("SMC_NLA_DEV_PORT", {})
    return SmcdDevice(
        pci=_pci(device),
        link_groups=device["SMC_NLA_DEV_USE_CNT"],
        pnetid=port.get("SMC_NLA_DEV_PORT_PNETID", ""),
        pnetid_by_user=bool(port.get("SMC_NLA_DEV_PORT_PNET_USR")),
    )


def _smcr_device(device: Attributes) -> SmcrDevice:
    return SmcrDevice(
        name=device["SMC_NLA_DEV_IB_NAME"],
        pci=_pci(device),
        is_critical=bool(device["SMC_NLA_DEV_IS_CRIT"]),
        ports=tuple(
            _port(number, device[name]) for number, name in enumerate(_PORTS, 1) if name in device
        ),
    )


def _port(number: int, port: Attributes) -> Port:
    return Port(
        number=number,
        active=bool(port["SMC_NLA_DEV_PORT_STATE"]),
        interface=interface_name(port["SMC_NLA_DEV_PORT_NETDEV"]),
        links=port["SMC_NLA_DEV_PORT_LNK_CNT"],
        pnetid=port["SMC_NLA_DEV_PORT_PNETID"],
        pnetid_by_user=bool(port["SMC_NLA_DEV_PORT_PNET_USR"]),
    )
