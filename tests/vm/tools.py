"""The host's programs: where they are, and what to install when they are not."""

import os
import platform
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from errors import HarnessError

_QEMU = {"x86_64": "x86", "aarch64": "arm", "ppc64le": "ppc"}

APT_PACKAGES = {
    "apt-cache": "apt",
    "apt-get": "apt",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "file": "file",
    "gcc": "gcc",
    "gpgv": "gpgv",
    "ld": "binutils",
    "make": "make",
    "modprobe": "kmod",
    f"qemu-system-{platform.machine()}": f"qemu-system-{_QEMU.get(platform.machine(), 'misc')}",
    "rdma": "iproute2",
    "tar": "tar",
    "xz": "xz-utils",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}
"""Program (or file) to the Debian and Ubuntu package that has it."""

PIP_PACKAGES = {"virtme-run": "virtme-ng"}

# modprobe and its like are not on an ordinary user's PATH, and neither are the programs of a
# virtual environment that is used without being activated.
SEARCH_PATH = os.pathsep.join(
    [os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
)


def find(program: str) -> str:
    """The program's path. HarnessError if it is missing."""
    require([program])
    found = shutil.which(program, path=SEARCH_PATH)
    assert found
    return found


def require(programs: Iterable[str]) -> None:
    """HarnessError that names all of the missing ones, and one line per way to install them."""
    missing = [name for name in programs if not _exists(name)]
    if not missing:
        return
    lines = [f"missing on this machine: {', '.join(missing)}"]
    if apt := sorted({APT_PACKAGES[name] for name in missing if name in APT_PACKAGES}):
        lines.append(f"  apt-get install --no-install-recommends {' '.join(apt)}")
    if pip := sorted({PIP_PACKAGES[name] for name in missing if name in PIP_PACKAGES}):
        lines.append(f"  {sys.executable} -m pip install {' '.join(pip)}")
    raise HarnessError("\n".join(lines))


def environment() -> dict[str, str]:
    """An environment for subprocesses in which they find each other as ``find`` does."""
    return {**os.environ, "PATH": SEARCH_PATH, "LC_ALL": "C"}


def _exists(name: str) -> bool:
    if name.startswith("/"):
        return Path(name).exists()
    return shutil.which(name, path=SEARCH_PATH) is not None
