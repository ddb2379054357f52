"""Linux 7.x, which Debian packages without SMC: built from its source, as small as a guest can be.

From 6.18 on SMC-D has its devices from DIBS, which Debian leaves out.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import apt
import tools
from apt import Apt
from architectures import native
from cache import Entry
from errors import HarnessError

PROGRAMS = (*apt.PROGRAMS, *tools.BUILD_PACKAGES, "depmod", "gcc", "ld", "make")
"""The programs (and headers) that it takes."""

SERIES = "7.x"
CONFIG = Path(__file__).resolve().with_name("linux-7.config")
SUITES = ("sid",)
RECIPE = 2
"""Part of the cache's key: raise it when what is built from the same source changes."""


def entry() -> Entry:
    digest = hashlib.sha256(CONFIG.read_bytes() + bytes([RECIPE])).hexdigest()[:8]
    return Entry(SERIES, digest, _find)


def _find(work: Path) -> tuple[str, Callable[[Path], None]]:
    apt = Apt(work / "apt", SUITES, native().debian)
    ((package, version),) = apt.depends("linux-source").items()
    if not package.startswith("linux-source-7."):
        raise HarnessError(f"Debian's newest kernel is not 7.x any more: {package}")

    def make(kernel: Path) -> None:
        tools.say(f"fetching Debian's {package} {version}")
        apt.unpack([f"{package}={version}"], work)
        (archive,) = (work / "usr/src").glob("linux-source-*.tar.*")
        tools.run("tar", "-xf", str(archive), "-C", str(work))
        archive.unlink()
        _build(work / package, kernel)

    return version, make


def _build(source: Path, kernel: Path) -> None:
    """Build the kernel, and the module dibs once without and once with its loopback device."""

    def make(*arguments: str) -> str:
        jobs = len(os.sched_getaffinity(0))
        return tools.run("make", "--silent", f"-j{jobs}", "-C", str(source), *arguments)

    tools.say("building Linux: ten minutes of two processors")
    make("allnoconfig", f"KCONFIG_ALLCONFIG={CONFIG}")
    wanted = {line for line in CONFIG.read_text().splitlines() if line.startswith("CONFIG_")}
    if lacking := wanted - set((source / ".config").read_text().splitlines()):
        raise HarnessError(f"this Linux cannot have {', '.join(sorted(lacking))}")
    make("bzImage", "modules")
    release = make("kernelrelease").strip()
    image = kernel / "stock/boot" / f"vmlinuz-{release}"
    image.parent.mkdir(parents=True)
    for name in ("stock", "loopback"):
        if name == "loopback":
            # The kernel stays the one that the other modules were built for, and their types.
            loopback = ("CONFIG_DIBS_LO=y", "KCPPFLAGS=-DCONFIG_DIBS_LO=1")
            make(f"M={source / 'drivers/dibs'}", *loopback, "modules")
        root = kernel / name
        make("modules_install", f"INSTALL_MOD_PATH={root}", "INSTALL_MOD_STRIP=1")
        (root / "usr").mkdir()
        (root / "usr/lib").symlink_to("../lib")
    shutil.copy(source / "arch/x86/boot/bzImage", image)
    headers = kernel / "source/net/smc"
    headers.mkdir(parents=True)
    for header in (source / "net/smc").glob("*.h"):
        shutil.copy(header, headers)
