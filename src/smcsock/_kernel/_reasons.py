"""Why a connection is not SMC: the decline codes of the CLC handshake.

Source: net/smc/smc_clc.h in the Linux kernel; RFC 7609, "CLC DECLINE message
format". Other systems (z/OS, AIX) send further codes as their diagnosis.
"""

from dataclasses import dataclass

__all__ = ["Reason", "reason"]


@dataclass(frozen=True, slots=True)
class Reason:
    """A decline code.

    ``code`` is the 32-bit code, ``name`` the kernel's name for it without the
    prefix ``SMC_CLC_DECL_`` ("" for a code that Linux does not define), ``meaning``
    what it says, and ``advice`` what a user can do about it.
    """

    __module__ = "smcsock"

    code: int
    name: str
    meaning: str
    advice: str

    def __str__(self) -> str:
        return f"0x{self.code:08x}: {self.meaning}"


_KNOWN = {
    known.code: known
    for known in (
        Reason(
            0x01010000,
            "MEM",
            "not enough memory for the connection's buffers",
            "free memory; buffers of SMC-R have to be contiguous unless "
            "net.smc.smcr_buf_type is 1 or 2",
        ),
        Reason(
            0x02010000,
            "TIMEOUT_CL",
            "the first link of the link group was not confirmed in time",
            "check that RoCE packets pass between the two devices (UDP port 4791, MTU, VLAN, "
            "firewall); try rping",
        ),
        Reason(
            0x02020000,
            "TIMEOUT_AL",
            "the second link of the link group was not added in time",
            "check that RoCE packets pass between the second pair of devices",
        ),
        Reason(
            0x03000000,
            "CNFERR",
            "configuration error",
            "check the address, prefix length and VLAN of the network interface on both hosts",
        ),
        Reason(
            0x03010000,
            "PEERNOSMC",
            "the peer did not indicate SMC",
            "use an SMC socket on the peer too (smcsock, smc_run); check that nothing in "
            "between strips TCP option 254, and on the peer that net.ipv4.tcp_syncookies is "
            "not 2 and handshakes are not limited (smcsock doctor there)",
        ),
        Reason(
            0x03020000,
            "IPSEC",
            "the connection is protected by IPsec, which SMC would bypass",
            "take the connection out of the IPsec policy, or use TLS instead",
        ),
        Reason(
            0x03030000,
            "NOSMCDEV",
            "no SMC device was found (SMC-R or SMC-D)",
            "give the host an ISM, loopback-ism or RoCE device, with the PNET ID of the "
            "network interface that the connection uses; SMC-Rv2 takes a user EID that both "
            "hosts have (smcsock ueid add NAME) and IPv4",
        ),
        Reason(
            0x03030001,
            "NOSMCDDEV",
            "no SMC-D device was found",
            "give the host an ISM device that reaches the peer's, with the PNET ID of the "
            "network interface or an EID that both hosts have (smcsock ueid add NAME)",
        ),
        Reason(
            0x03030002,
            "NOSMCRDEV",
            "no SMC-R device was found",
            "give the host a RoCE device whose port is active, with the PNET ID of the "
            "network interface that the connection uses",
        ),
        Reason(
            0x03030003,
            "NOISM2SUPP",
            "the host has no device for SMC-D version 2",
            "give it an ISMv2 or loopback-ism device, or use SMC-Dv1: one subnet, and PNET IDs",
        ),
        Reason(
            0x03030004,
            "NOV2EXT",
            "the peer sent no extension for SMC version 2",
            "enable SMCv2 on the peer, or put both hosts into one subnet",
        ),
        Reason(
            0x03030005,
            "NOV2DEXT",
            "the peer sent no extension for SMC-D version 2",
            "enable SMC-Dv2 on the peer",
        ),
        Reason(
            0x03030006,
            "NOSEID",
            "the peer sent no system EID",
            "enable the system EID on the peer (smcsock seid enable), or give both hosts a "
            "common user EID (smcsock ueid add NAME)",
        ),
        Reason(
            0x03030007,
            "NOSMCD2DEV",
            "no device for SMC-D version 2 was found",
            "give the host an ISMv2 or loopback-ism device",
        ),
        Reason(
            0x03030008,
            "NOUEID",
            "the peer sent no user EID",
            "add a common user EID on both hosts (smcsock ueid add NAME)",
        ),
        Reason(
            0x03030009,
            "RELEASEERR",
            "the two kernels could not agree on an SMC release",
            "update the older of the two kernels",
        ),
        Reason(
            0x0303000A,
            "MAXCONNERR",
            "the two hosts could not agree on the connections of a link group",
            "check net.smc.smcr_max_conns_per_lgr on both hosts",
        ),
        Reason(
            0x0303000B,
            "MAXLINKERR",
            "the two hosts could not agree on the links of a link group",
            "check net.smc.smcr_max_links_per_lgr on both hosts",
        ),
        Reason(
            0x03040000,
            "MODEUNSUPP",
            "the two hosts have no SMC mode in common (SMC-R or SMC-D)",
            "give both hosts the same kind of device",
        ),
        Reason(
            0x03050000,
            "RMBE_EC",
            "the peer puts an eye catcher into its RMBEs",
            "have the peer work without them, as Linux does",
        ),
        Reason(
            0x03060000,
            "OPTUNSUPP",
            "the socket uses an option that SMC does not support, TCP Fast Open",
            "do not set TCP_FASTOPEN* options nor send with MSG_FASTOPEN; before connect, do "
            "not set IP_MULTICAST_LOOP, IPV6_MTU_DISCOVER or IPV6_FLOWINFO_SEND, which SMC "
            "takes for them",
        ),
        Reason(
            0x03070000,
            "DIFFPREFIX",
            "the two hosts are in different subnets",
            "use SMC version 2, which routes: a common user EID on both hosts (smcsock ueid "
            "add NAME); or use one subnet",
        ),
        Reason(
            0x03080000,
            "GETVLANERR",
            "the VLAN of the network interface could not be found out",
            "check the VLAN configuration of the network interface",
        ),
        Reason(
            0x03090000,
            "ISMVLANERR",
            "the VLAN could not be registered on the ISM device",
            "check that the ISM device is online and allows the VLAN",
        ),
        Reason(
            0x030A0000,
            "NOACTLINK",
            "the link group has no active link",
            "check the state of the RoCE device and its port",
        ),
        Reason(
            0x030B0000,
            "NOSRVLINK",
            "the link that the server named was not found",
            "connect again; look for link failures in the kernel log if it recurs",
        ),
        Reason(
            0x030C0000,
            "VERSMISMAT",
            "the two hosts use different SMC versions",
            "enable the same SMC version on both hosts",
        ),
        Reason(
            0x030D0000,
            "MAX_DMB",
            "the limit of the device's DMBs is reached",
            "close connections, or spread them over more ISM devices",
        ),
        Reason(
            0x030E0000,
            "NOROUTE",
            "there is no route to the peer's RoCE address (SMC-Rv2)",
            "add a route to the peer's RoCE address",
        ),
        Reason(
            0x030F0000,
            "NOINDIRECT",
            "one host reaches the other directly, the other through a router (SMC-Rv2)",
            "make the routes between the two hosts symmetric",
        ),
        Reason(
            0x04000000,
            "SYNCERR",
            "the two hosts disagree about the link group",
            "connect again: a new link group is made",
        ),
        Reason(
            0x05000000,
            "PEERDECL",
            "the peer declined during the handshake",
            "look at the peer's diagnosis",
        ),
        Reason(
            0x09990000,
            "INTERR",
            "internal error",
            "look into the kernel log, and at the state of the device",
        ),
        Reason(
            0x09990001,
            "ERR_RTOK",
            "the RDMA token of the peer's buffer was not accepted",
            "close connections to that peer: a link group has room for 255 buffers of the peer",
        ),
        Reason(
            0x09990002,
            "ERR_RDYLNK",
            "the RDMA link could not be made ready",
            "check the state of the RoCE device and its port",
        ),
        Reason(
            0x09990003,
            "ERR_REGBUF",
            "the buffers could not be registered with the RDMA device, or the peer did not "
            "confirm them",
            "check the state of the RoCE device and its port, and the kernel log of both hosts",
        ),
    )
}


def reason(code: int) -> Reason:
    """The reason that a decline code stands for; codes that Linux lacks included."""
    known = _KNOWN.get(code)
    return known or Reason(code, "", "a code that Linux does not define", "look it up on the peer")
