"""The host's programs: where they are, and what to install when they are not."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from architectures import native
from errors import HarnessError

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
    native().qemu: native().qemu_package,
    "rdma": "iproute2",
    "tar": "tar",
    "xz": "xz-utils",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}
"""Program (or file) to the Debian and Ubuntu package that has it: for guests of this machine's
own architecture."""

BUILD_PACKAGES = {
    "bc": "bc",
    "bison": "bison",
    "flex": "flex",
    "pahole": "pahole",
    "/usr/include/libelf.h": "libelf-dev",
    "/usr/include/openssl/opensslv.h": "libssl-dev",
}
"""What a whole kernel is built with, besides."""

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
    packages = APT_PACKAGES | BUILD_PACKAGES
    if apt := sorted({packages[name] for name in missing if name in packages}):
        lines.append(f"  apt-get install --no-install-recommends {' '.join(apt)}")
    if pip := sorted({PIP_PACKAGES[name] for name in missing if name in PIP_PACKAGES}):
        lines.append(f"  {sys.executable} -m pip install {' '.join(pip)}")
    raise HarnessError("\n".join(lines))


def environment() -> dict[str, str]:
    """An environment for subprocesses in which they find each other as ``find`` does."""
    return {**os.environ, "PATH": SEARCH_PATH, "LC_ALL": "C"}


def run(
    program: str,
    *arguments: str,
    cwd: str | None = None,
    env: dict[str, str] | None = None,
    stdin: IO[bytes] | None = None,
) -> str:
    """Run a program quietly and return what it printed. HarnessError with all of it if it fails."""
    done = subprocess.run(
        [find(program) if env is None else program, *arguments],
        stdin=stdin or subprocess.DEVNULL,
        capture_output=True,
        env=env or environment(),
        cwd=cwd,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise HarnessError(
            f"{program} failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def say(text: str) -> None:
    print(f"smcsock-vm: {text}", file=sys.stderr, flush=True)


def _exists(name: str) -> bool:
    if name.startswith("/"):
        return Path(name).exists()
    return shutil.which(name, path=SEARCH_PATH) is not None
