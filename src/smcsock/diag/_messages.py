# mypy: disallow-subclassing-any=false
"""The messages of the kernel's two SMC families of generic netlink.

Names and numbers are those of include/uapi/linux/smc.h. Importing this module needs
pyroute2, whose classes encode and decode the messages.
"""

import sys
from typing import Any

from pyroute2.netlink import (  # type: ignore[import-untyped]
    ctrlmsg,
    genlmsg,
    nla,
    nla_base_string,
)

from ._commands import Command, PnetCommand

__all__ = ["ControlMessage", "attributes", "message_class"]

ControlMessage = ctrlmsg


class _Number(nla_base_string):
    """An unsigned number: some are wider than smc.h says."""

    __slots__ = ()

    def decode(self) -> None:
        super().decode()
        self.setvalue(int.from_bytes(self["value"], sys.byteorder))


class _Text(nla_base_string):
    """A string, which the kernel pads with zeros or blanks."""

    __slots__ = ()
    zstring = 1

    def decode(self) -> None:
        super().decode()
        self.setvalue(bytes(self["value"]).partition(b"\0")[0].decode("ascii", "replace").strip())


class _Nest(nla):
    """Attributes within an attribute."""

    __slots__ = ()
    number = _Number
    text = _Text


class _Message(genlmsg):
    """A message: a command and its attributes."""

    __slots__ = ()
    number = _Number
    text = _Text


class _V2Common(_Nest):
    __slots__ = ()
    nla_map = (
        ("SMC_NLA_LGR_V2_VER", "number"),
        ("SMC_NLA_LGR_V2_REL", "number"),
        ("SMC_NLA_LGR_V2_OS", "number"),
        ("SMC_NLA_LGR_V2_NEG_EID", "text"),
        ("SMC_NLA_LGR_V2_PEER_HOST", "text"),
    )


class _Port(_Nest):
    __slots__ = ()
    nla_map = (
        ("SMC_NLA_DEV_PORT_UNSPEC", "none"),
        ("SMC_NLA_DEV_PORT_PNET_USR", "number"),
        ("SMC_NLA_DEV_PORT_PNETID", "text"),
        ("SMC_NLA_DEV_PORT_NETDEV", "number"),
        ("SMC_NLA_DEV_PORT_STATE", "number"),
        ("SMC_NLA_DEV_PORT_VALID", "number"),
        ("SMC_NLA_DEV_PORT_LNK_CNT", "number"),
    )


class _Device(_Nest):
    __slots__ = ()
    port = _Port
    nla_map = (
        ("SMC_NLA_DEV_UNSPEC", "none"),
        ("SMC_NLA_DEV_USE_CNT", "number"),
        ("SMC_NLA_DEV_IS_CRIT", "number"),
        ("SMC_NLA_DEV_PCI_FID", "number"),
        ("SMC_NLA_DEV_PCI_CHID", "number"),
        ("SMC_NLA_DEV_PCI_VENDOR", "number"),
        ("SMC_NLA_DEV_PCI_DEVICE", "number"),
        ("SMC_NLA_DEV_PCI_ID", "text"),
        ("SMC_NLA_DEV_PORT", "port"),
        ("SMC_NLA_DEV_PORT2", "port"),
        ("SMC_NLA_DEV_IB_NAME", "text"),
    )


class _Sizes(_Nest):
    __slots__ = ()
    nla_map = (
        ("SMC_NLA_STATS_PLOAD_PAD", "none"),
        ("SMC_NLA_STATS_PLOAD_8K", "number"),
        ("SMC_NLA_STATS_PLOAD_16K", "number"),
        ("SMC_NLA_STATS_PLOAD_32K", "number"),
        ("SMC_NLA_STATS_PLOAD_64K", "number"),
        ("SMC_NLA_STATS_PLOAD_128K", "number"),
        ("SMC_NLA_STATS_PLOAD_256K", "number"),
        ("SMC_NLA_STATS_PLOAD_512K", "number"),
        ("SMC_NLA_STATS_PLOAD_1024K", "number"),
        ("SMC_NLA_STATS_PLOAD_G_1024K", "number"),
    )


class _Buffers(_Nest):
    __slots__ = ()
    nla_map = (
        ("SMC_NLA_STATS_RMB_PAD", "none"),
        ("SMC_NLA_STATS_RMB_SIZE_SM_PEER_CNT", "number"),
        ("SMC_NLA_STATS_RMB_SIZE_SM_CNT", "number"),
        ("SMC_NLA_STATS_RMB_FULL_PEER_CNT", "number"),
        ("SMC_NLA_STATS_RMB_FULL_CNT", "number"),
        ("SMC_NLA_STATS_RMB_REUSE_CNT", "number"),
        ("SMC_NLA_STATS_RMB_ALLOC_CNT", "number"),
        ("SMC_NLA_STATS_RMB_DGRADE_CNT", "number"),
    )


class _Technology(_Nest):
    __slots__ = ()
    sizes = _Sizes
    buffers = _Buffers
    nla_map = (
        ("SMC_NLA_STATS_T_PAD", "none"),
        ("SMC_NLA_STATS_T_TX_RMB_SIZE", "sizes"),
        ("SMC_NLA_STATS_T_RX_RMB_SIZE", "sizes"),
        ("SMC_NLA_STATS_T_TXPLOAD_SIZE", "sizes"),
        ("SMC_NLA_STATS_T_RXPLOAD_SIZE", "sizes"),
        ("SMC_NLA_STATS_T_TX_RMB_STATS", "buffers"),
        ("SMC_NLA_STATS_T_RX_RMB_STATS", "buffers"),
        ("SMC_NLA_STATS_T_CLNT_V1_SUCC", "number"),
        ("SMC_NLA_STATS_T_CLNT_V2_SUCC", "number"),
        ("SMC_NLA_STATS_T_SRV_V1_SUCC", "number"),
        ("SMC_NLA_STATS_T_SRV_V2_SUCC", "number"),
        ("SMC_NLA_STATS_T_SENDPAGE_CNT", "number"),
        ("SMC_NLA_STATS_T_SPLICE_CNT", "number"),
        ("SMC_NLA_STATS_T_CORK_CNT", "number"),
        ("SMC_NLA_STATS_T_NDLY_CNT", "number"),
        ("SMC_NLA_STATS_T_URG_DATA_CNT", "number"),
        ("SMC_NLA_STATS_T_RX_BYTES", "number"),
        ("SMC_NLA_STATS_T_TX_BYTES", "number"),
        ("SMC_NLA_STATS_T_RX_CNT", "number"),
        ("SMC_NLA_STATS_T_TX_CNT", "number"),
        ("SMC_NLA_STATS_T_RX_RMB_USAGE", "number"),
        ("SMC_NLA_STATS_T_TX_RMB_USAGE", "number"),
    )


class SmcMessage(_Message):
    """What all commands answer that are named GET."""

    __slots__ = ()
    nla_map = (
        ("SMC_GEN_UNSPEC", "none"),
        ("SMC_GEN_SYS_INFO", "system"),
        ("SMC_GEN_LGR_SMCR", "smcr_link_group"),
        ("SMC_GEN_LINK_SMCR", "link"),
        ("SMC_GEN_LGR_SMCD", "smcd_link_group"),
        ("SMC_GEN_DEV_SMCD", "device"),
        ("SMC_GEN_DEV_SMCR", "device"),
        ("SMC_GEN_STATS", "stats"),
        ("SMC_GEN_FBACK_STATS", "fallbacks"),
    )
    device = _Device

    class system(_Nest):
        __slots__ = ()
        nla_map = (
            ("SMC_NLA_SYS_UNSPEC", "none"),
            ("SMC_NLA_SYS_VER", "number"),
            ("SMC_NLA_SYS_REL", "number"),
            ("SMC_NLA_SYS_IS_ISM_V2", "number"),
            ("SMC_NLA_SYS_LOCAL_HOST", "text"),
            ("SMC_NLA_SYS_SEID", "text"),
            ("SMC_NLA_SYS_IS_SMCR_V2", "number"),
        )

    class smcr_link_group(_Nest):
        __slots__ = ()
        v2_common = _V2Common
        nla_map = (
            ("SMC_NLA_LGR_R_UNSPEC", "none"),
            ("SMC_NLA_LGR_R_ID", "number"),
            ("SMC_NLA_LGR_R_ROLE", "number"),
            ("SMC_NLA_LGR_R_TYPE", "number"),
            ("SMC_NLA_LGR_R_PNETID", "text"),
            ("SMC_NLA_LGR_R_VLAN_ID", "number"),
            ("SMC_NLA_LGR_R_CONNS_NUM", "number"),
            ("SMC_NLA_LGR_R_V2_COMMON", "v2_common"),
            ("SMC_NLA_LGR_R_V2", "v2"),
            ("SMC_NLA_LGR_R_NET_COOKIE", "number"),
            ("SMC_NLA_LGR_R_PAD", "none"),
            ("SMC_NLA_LGR_R_BUF_TYPE", "number"),
            ("SMC_NLA_LGR_R_SNDBUF_ALLOC", "number"),
            ("SMC_NLA_LGR_R_RMB_ALLOC", "number"),
        )

        class v2(_Nest):
            __slots__ = ()
            nla_map = (
                ("SMC_NLA_LGR_R_V2_UNSPEC", "none"),
                ("SMC_NLA_LGR_R_V2_DIRECT", "number"),
                ("SMC_NLA_LGR_R_V2_MAX_CONNS", "number"),
                ("SMC_NLA_LGR_R_V2_MAX_LINKS", "number"),
            )

    class link(_Nest):
        __slots__ = ()
        nla_map = (
            ("SMC_NLA_LINK_UNSPEC", "none"),
            ("SMC_NLA_LINK_ID", "number"),
            ("SMC_NLA_LINK_IB_DEV", "text"),
            ("SMC_NLA_LINK_IB_PORT", "number"),
            ("SMC_NLA_LINK_GID", "text"),
            ("SMC_NLA_LINK_PEER_GID", "text"),
            ("SMC_NLA_LINK_CONN_CNT", "number"),
            ("SMC_NLA_LINK_NET_DEV", "number"),
            ("SMC_NLA_LINK_UID", "number"),
            ("SMC_NLA_LINK_PEER_UID", "number"),
            ("SMC_NLA_LINK_STATE", "number"),
        )

    class smcd_link_group(_Nest):
        __slots__ = ()
        v2_common = _V2Common
        nla_map = (
            ("SMC_NLA_LGR_D_UNSPEC", "none"),
            ("SMC_NLA_LGR_D_ID", "number"),
            ("SMC_NLA_LGR_D_GID", "number"),
            ("SMC_NLA_LGR_D_PEER_GID", "number"),
            ("SMC_NLA_LGR_D_VLAN_ID", "number"),
            ("SMC_NLA_LGR_D_CONNS_NUM", "number"),
            ("SMC_NLA_LGR_D_PNETID", "text"),
            ("SMC_NLA_LGR_D_CHID", "number"),
            ("SMC_NLA_LGR_D_PAD", "none"),
            ("SMC_NLA_LGR_D_V2_COMMON", "v2_common"),
            ("SMC_NLA_LGR_D_EXT_GID", "number"),
            ("SMC_NLA_LGR_D_PEER_EXT_GID", "number"),
            ("SMC_NLA_LGR_D_SNDBUF_ALLOC", "number"),
            ("SMC_NLA_LGR_D_DMB_ALLOC", "number"),
        )

    class stats(_Nest):
        __slots__ = ()
        technology = _Technology
        nla_map = (
            ("SMC_NLA_STATS_PAD", "none"),
            ("SMC_NLA_STATS_SMCD_TECH", "technology"),
            ("SMC_NLA_STATS_SMCR_TECH", "technology"),
            ("SMC_NLA_STATS_CLNT_HS_ERR_CNT", "number"),
            ("SMC_NLA_STATS_SRV_HS_ERR_CNT", "number"),
        )

    class fallbacks(_Nest):
        __slots__ = ()
        nla_map = (
            ("SMC_NLA_FBACK_STATS_PAD", "none"),
            ("SMC_NLA_FBACK_STATS_TYPE", "number"),
            ("SMC_NLA_FBACK_STATS_SRV_CNT", "number"),
            ("SMC_NLA_FBACK_STATS_CLNT_CNT", "number"),
            ("SMC_NLA_FBACK_STATS_RSN_CODE", "number"),
            ("SMC_NLA_FBACK_STATS_RSN_CNT", "number"),
        )


class UeidMessage(_Message):
    """A user-defined EID."""

    __slots__ = ()
    nla_map = (
        ("SMC_NLA_EID_TABLE_UNSPEC", "none"),
        ("SMC_NLA_EID_TABLE_ENTRY", "text"),
    )


class SeidMessage(_Message):
    """The system EID."""

    __slots__ = ()
    nla_map = (
        ("SMC_NLA_SEID_UNSPEC", "none"),
        ("SMC_NLA_SEID_ENTRY", "text"),
        ("SMC_NLA_SEID_ENABLED", "number"),
    )


class HandshakeMessage(_Message):
    """Whether handshakes are limited."""

    __slots__ = ()
    nla_map = (
        ("SMC_NLA_HS_LIMITATION_UNSPEC", "none"),
        ("SMC_NLA_HS_LIMITATION_ENABLED", "number"),
    )


class PnetMessage(_Message):
    """An entry of the PNET table."""

    __slots__ = ()
    nla_map = (
        ("SMC_PNETID_UNSPEC", "none"),
        ("SMC_PNETID_NAME", "text"),
        ("SMC_PNETID_ETHNAME", "text"),
        ("SMC_PNETID_IBNAME", "text"),
        ("SMC_PNETID_IBPORT", "uint8"),
    )


_BY_NAME = {"UEID": UeidMessage, "SEID": SeidMessage, "HS_LIMITATION": HandshakeMessage}


def message_class(command: Command) -> Any:
    """The class of a command's messages."""
    if isinstance(command, PnetCommand):
        return PnetMessage
    return _BY_NAME.get(command.name.partition("_")[2], SmcMessage)


def attributes(message: Any) -> dict[str, Any]:
    """The attributes of a message or nest by their names, nested ones as dicts."""
    return {
        name: attributes(value) if isinstance(value, dict) else value
        for name, value in message.get("attrs", ())
    }
