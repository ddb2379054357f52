"""The processors that guests have: what Debian, QEMU, the compilers and PyPI call them."""

import platform
from dataclasses import dataclass

from errors import HarnessError


@dataclass(frozen=True)
class Architecture:
    """One processor architecture. Its name is the machine's, as uname gives it."""

    name: str
    debian: str
    """As dpkg calls it."""
    qemu_package: str
    """The Debian package that has qemu-system-NAME."""
    cpu: tuple[str, ...] = ()
    """QEMU's arguments for the processor, where its usual one does not do."""
    suites: tuple[str, ...] = ("bookworm", "bookworm-security")
    """The suites that the packages of a guest's root come from."""

    @property
    def is_foreign(self) -> bool:
        """Whether this machine cannot run its programs."""
        return self.name != platform.machine()

    @property
    def qemu(self) -> str:
        return f"qemu-system-{self.name}"


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("x86_64", "amd64", "qemu-system-x86"),
        # A Cortex-A57, virtme-ng's choice, has no pointer authentication: that is slow to emulate.
        Architecture("aarch64", "arm64", "qemu-system-arm"),
        # Debian's security team has no s390x any more. PyPI's wheels are compiled for z13, with
        # its vector instructions.
        Architecture("s390x", "s390x", "qemu-system-s390x", ("-cpu", "max"), ("bookworm",)),
        Architecture("ppc64le", "ppc64el", "qemu-system-ppc"),
    )
}
"""Only x86_64 has been tried as the machine itself; as the guest's, all but ppc64le."""

FOREIGN = ("s390x", "aarch64")
"""What a guest can be on a machine of another architecture."""


def native() -> Architecture:
    """That of the machine we are on. HarnessError if it is none of these."""
    try:
        return ARCHITECTURES[platform.machine()]
    except KeyError:
        raise HarnessError(f"there is no Debian kernel for {platform.machine()} here") from None
