"""Debian's kernels: fetched, unpacked, and what Debian leaves out of them built.

One entry of the cache for each:

    stock/boot/vmlinuz-*
    stock/lib/modules/*     as Debian has them
    loopback/lib/modules/*  the same (hard links), but for smc.ko with loopback-ism
    source/net/smc/*.h
"""

import functools
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import apt
import foreign
import newest
import tools
from apt import Apt
from architectures import Architecture, native
from cache import Entry
from foreign import Foreign

RECIPE = "r2"
"""Part of the cache's key: raise it when what is built from the same packages changes."""

MODULES = (
    "arch",
    "block",
    "crypto",
    "drivers/block",
    "drivers/char",
    "drivers/infiniband/core",
    "drivers/infiniband/sw",
    "drivers/net/veth.ko*",
    "drivers/s390",
    "drivers/virtio",
    "fs",
    "lib",
    "mm",
    "net",
)
"""What is kept of Debian's modules: not the drivers of hardware that no guest has."""


@dataclass(frozen=True)
class Release:
    """A kernel series as Debian packages it. ``{arch}`` stands for Debian's architecture."""

    image: str
    """The meta package that depends on the newest kernel of the series."""
    source: str
    suites: tuple[str, ...] = ("bookworm", "bookworm-security")
    impossible: dict[str, str] = field(default_factory=dict)
    """Mode to the reason why this kernel cannot have it."""

    @property
    def has_loopback(self) -> bool:
        return "smcd" not in self.impossible


RELEASES = {
    "6.1": Release(
        "linux-image-{arch}",
        "linux-source-6.1",
        impossible={
            "smcd": "loopback-ism came with Linux 6.11",
            # rxe_qp_to_attr() leaves cur_qp_state out, for which smc_link_sendable() waits: with
            # a PNET ID (rxe has no get_netdev either) the first connection gets as far as the
            # link group, cannot send CONFIRM LINK, and hangs for ever in smc_wr_drain_cq().
            "smcr": "SMC cannot use the soft-RoCE of Linux 6.1, which does not report the state "
            "of its queue pairs",
        },
    ),
    "6.12": Release("linux-image-6.12-{arch}", "linux-source-6.12"),
}

# Debian's security team has no s390x.
OTHER_RELEASES = {
    ("6.12", "s390x"): Release(
        "linux-image-{arch}", "linux-source-6.12", suites=("bookworm-backports",)
    ),
}
"""Where an architecture's kernel comes from another package or suite."""


@dataclass(frozen=True)
class Kernel:
    """A kernel in the cache, ready to boot."""

    path: Path
    """Its entry in the cache."""

    @property
    def image(self) -> Path:
        (image,) = (self.path / "stock/boot").iterdir()
        return image

    @property
    def source(self) -> Path:
        """A directory with what is kept of the source: net/smc/*.h, if smc.ko was built from it."""
        return self.path / "source"


def entry(version: str, architecture: Architecture) -> Entry:
    """The newest kernel of a series. For a foreign architecture foreign.entry() comes first."""
    if version == newest.SERIES:
        return newest.entry()
    name = f"{architecture.name}-{version}" if architecture.is_foreign else version
    return Entry(name, RECIPE, functools.partial(_find, version, architecture))


def versions(architecture: Architecture) -> list[str]:
    """The series that there is a kernel of for this architecture."""
    if architecture.is_foreign:
        return ["6.12"]
    return [*RELEASES, *([newest.SERIES] if architecture.name == "x86_64" else [])]


def why_impossible(version: str, mode: str) -> str | None:
    """The reason why a kernel cannot have a mode, if it cannot."""
    return RELEASES[version].impossible.get(mode) if version in RELEASES else None


def programs(version: str, architecture: Architecture) -> list[str]:
    """The programs (and keys) that it takes to fetch this kernel."""
    if version == newest.SERIES:
        return list(newest.PROGRAMS)
    needed = [*apt.PROGRAMS, "depmod"]
    if RELEASES[version].has_loopback:
        needed += ["make"] if architecture.is_foreign else ["gcc", "ld", "make"]
    return needed


def _find(
    version: str, architecture: Architecture, work: Path
) -> tuple[str, Callable[[Path], None]]:
    release = OTHER_RELEASES.get((version, architecture.name), RELEASES[version])
    apt = Apt(work / "apt", release.suites, architecture.debian, native().debian)
    packages = _resolve(apt, release, architecture)

    def make(kernel: Path) -> None:
        tools.say(f"fetching Debian's Linux {packages.version} for {architecture.name}")
        apt.unpack([packages.image], work / "whole")
        _keep(work / "whole", kernel)
        if not release.has_loopback:
            return
        apt.unpack([*packages.headers, packages.source], work / "tree")
        if architecture.is_foreign:
            with foreign.entry(architecture).use() as path:
                _build(work / "tree", kernel, Foreign(architecture, path))
        else:
            _build(work / "tree", kernel)

    return packages.version, make


@dataclass(frozen=True)
class Packages:
    """The packages of one version of the kernel, as NAME=VERSION."""

    version: str
    image: str
    headers: list[str]
    """The headers, what they share with others, and the programs to build with them."""
    source: str


def _resolve(apt: Apt, release: Release, architecture: Architecture) -> Packages:
    meta = release.image.format(arch=architecture.debian)
    name, version = next(
        (name, version)
        for name, version in apt.depends(meta).items()
        if name.startswith("linux-image-")
    )
    headers = name.replace("linux-image-", "linux-headers-").removesuffix("-unsigned")
    needed = [headers]
    if release.has_loopback:
        for other in apt.depends(headers):
            if other.startswith("linux-headers-"):
                needed.append(other)
            elif other.startswith("linux-kbuild-"):  # programs that run here
                needed.append(f"{other}:{native().debian}")
    return Packages(
        version,
        f"{name}={version}",
        [f"{other}={version}" for other in needed],
        f"{release.source}={version}",
    )


def _keep(whole: Path, kernel: Path) -> None:
    """Take the image and the modules that a guest can use out of Debian's package."""
    (modules,) = (whole / "lib/modules").iterdir()
    (image,) = (whole / "boot").glob("vmlinu[xz]-*")
    boot = kernel / "stock/boot"
    boot.mkdir(parents=True)
    image.rename(boot / image.name)

    kept = kernel / "stock/lib/modules" / modules.name
    kept.mkdir(parents=True)
    for index in modules.glob("modules.*"):
        index.rename(kept / index.name)
    for pattern in MODULES:
        for path in (modules / "kernel").glob(pattern):
            target = kept / path.relative_to(modules)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    # Not every busybox loads compressed modules, and the guest is slow at it.
    if compressed := list(map(str, kept.rglob("*.ko.xz"))):
        tools.run("xz", "--decompress", "-T0", *compressed)
    _index(kernel / "stock", modules.name)


def _index(root: Path, release: str) -> None:
    """Make ``root`` a directory for ``modprobe -d``, whichever of both places it looks in."""
    (root / "usr").mkdir()
    (root / "usr/lib").symlink_to("../lib")
    tools.run("depmod", "-b", str(root), release)


def _build(tree: Path, kernel: Path, other: Foreign | None = None) -> None:
    """Build smc.ko and smc_diag.ko with loopback-ism, beside the modules that Debian built."""
    tools.say("building smc.ko with loopback-ism")
    (stock,) = (kernel / "stock/lib/modules").iterdir()
    release = stock.name
    headers = tree / "usr/src" / f"linux-headers-{release}"
    makefile = headers / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{tree}/usr/src/"))
    (source,) = (tree / "usr/src").glob("linux-source-*.tar.*")
    tools.run("tar", "-xf", str(source), "-C", str(tree), "--wildcards", "linux-source-*/net/smc")
    (smc,) = tree.glob("linux-source-*/net/smc")
    tools.run(
        "make",
        f"-j{len(os.sched_getaffinity(0))}",
        "-C",
        str(headers),
        f"M={smc}",
        # Debian names the very compiler of its own build; a module as small as this one works
        # with another, and type information for debuggers would ask for yet another program.
        f"CC={_compiler(headers, other)}",
        "CONFIG_DEBUG_INFO_BTF_MODULES=",
        "CONFIG_SMC=m",
        "CONFIG_SMC_DIAG=m",
        "CONFIG_SMC_LO=y",
        "KCFLAGS=-DCONFIG_SMC_LO=1",
        "modules",
        env=other.environment() if other else None,
    )
    loopback = kernel / "loopback"
    modules = loopback / "lib/modules" / release
    shutil.copytree(stock, modules, copy_function=os.link)
    for name in ("smc", "smc_diag"):
        built = modules / "kernel/net/smc" / f"{name}.ko"
        built.unlink()
        (smc / f"{name}.ko").rename(built)
    headers_kept = kernel / "source/net/smc"
    headers_kept.mkdir(parents=True)
    for header in sorted(smc.glob("*.h")):
        header.rename(headers_kept / header.name)
    # depmod would write through the links into the other tree.
    for index in modules.glob("modules.*"):
        data = index.read_bytes()
        index.unlink()
        index.write_bytes(data)
    _index(loopback, release)


def _compiler(headers: Path, other: Foreign | None) -> str:
    """The compiler that the headers name, if it is here; else the machine's own."""
    if other:
        return other.compiler
    match = re.search(r"\bgcc-\d+\b", (headers / ".kernelvariables").read_text())
    return match[0] if match and shutil.which(match[0]) else "gcc"
