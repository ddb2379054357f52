"""The kernel's SMC generic netlink family, as far as setting up a guest needs it.

Names and numbers are those of the kernel's include/uapi/linux/smc.h and genetlink.h.
"""

import os
import socket
import struct
from collections.abc import Iterator

NETLINK_GENERIC = 16
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
SMC_NETLINK_GET_SYS_INFO, SMC_NETLINK_GET_DEV_SMCR, SMC_NETLINK_ADD_UEID = 1, 6, 10
SMC_GEN_SYS_INFO, SMC_NLA_SYS_IS_ISM_V2 = 1, 3
SMC_NLA_EID_TABLE_ENTRY = 1
SMC_MAX_EID_LEN = 32

NLA_TYPE_MASK = 0x3FFF

NLMSGHDR = struct.Struct("=IHHII")
GENLMSGHDR = struct.Struct("=BBH")
NLATTR = struct.Struct("=HH")


class SmcNetlink:
    """A netlink socket that speaks to the SMC family. OSError where the kernel refuses."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        name = _attribute(CTRL_ATTR_FAMILY_NAME, b"SMC_GEN_NETLINK\0")
        (reply,) = self._request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, name)
        (self._family,) = struct.unpack("=H", _attributes(reply)[CTRL_ATTR_FAMILY_ID])

    def close(self) -> None:
        self._sock.close()

    def add_ueid(self, name: str) -> None:
        """Add a user-defined enterprise ID: without one, SMC v2 finds no common ID off IBM Z."""
        eid = name.encode("ascii").ljust(SMC_MAX_EID_LEN) + b"\0"
        body = _attribute(SMC_NLA_EID_TABLE_ENTRY, eid)
        list(self._request(self._family, SMC_NETLINK_ADD_UEID, body))

    def has_smcd(self) -> bool:
        """Whether there is an ISM device for SMC-D v2.

        The kernel's list of devices leaves loopback-ism out, but the system's capability counts it.
        """
        (reply,) = self._request(self._family, SMC_NETLINK_GET_SYS_INFO, dump=True)
        info = _attributes(_attributes(reply)[SMC_GEN_SYS_INFO])
        return info[SMC_NLA_SYS_IS_ISM_V2] != b"\0"

    def has_smcr(self) -> bool:
        """Whether there is an RDMA device for SMC-R."""
        return bool(list(self._request(self._family, SMC_NETLINK_GET_DEV_SMCR, dump=True)))

    def _request(
        self, family: int, command: int, body: bytes = b"", dump: bool = False
    ) -> Iterator[bytes]:
        """Send one request and give the attributes of every answer, up to the kernel's last."""
        flags = NLM_F_REQUEST | (NLM_F_DUMP if dump else NLM_F_ACK)
        body = GENLMSGHDR.pack(command, 1, 0) + body
        self._sock.send(NLMSGHDR.pack(NLMSGHDR.size + len(body), family, flags, 1, 0) + body)
        while True:
            data = self._sock.recv(65536)
            while data:
                length, kind, *_ = NLMSGHDR.unpack_from(data)
                payload = data[NLMSGHDR.size : length]
                data = data[_align(length) :]
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    (error,) = struct.unpack_from("=i", payload)
                    if error:
                        raise OSError(-error, os.strerror(-error))
                    return
                yield payload[GENLMSGHDR.size :]


def _align(length: int) -> int:
    return (length + 3) & ~3


def _attribute(kind: int, value: bytes) -> bytes:
    length = NLATTR.size + len(value)
    return NLATTR.pack(length, kind) + value + bytes(_align(length) - length)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while data:
        length, kind = NLATTR.unpack_from(data)
        found[kind & NLA_TYPE_MASK] = data[NLATTR.size : length]
        data = data[_align(length) :]
    return found
