"""What is raised where the kernel cannot be asked."""

import errno

__all__ = ["CONFINED", "DiagUnavailableError"]

CONFINED = (
    "this process may not open netlink sockets: look at what confines it (a container, "
    "seccomp, RestrictAddressFamilies= of a systemd service)"
)
_NO_DIAG = (
    "the kernel does not answer sock_diag queries about SMC sockets: its smc_diag module "
    "is not loaded ('modprobe smc_diag' as root; CONFIG_SMC_DIAG)"
)


class DiagUnavailableError(OSError):
    """The kernel cannot be asked about SMC sockets: smc_diag is missing."""

    __module__ = "smcsock"

    def __init__(self, *args: object) -> None:
        super().__init__(*(args or (errno.ENOENT, _NO_DIAG)))
