"""Debian's kernels: fetch, verify, unpack, build what Debian leaves out, and keep the result.

The cache is one directory:

    lock                     held while it is being filled
    6.12 -> 6.12.117-1-r2    the kernel in use, replaced atomically
    6.12.117-1-r2/           complete, or not there at all
        stock/boot/vmlinuz-*
        stock/lib/modules/*     as Debian has them
        loopback/lib/modules/*  the same (hard links), but for smc.ko with loopback-ism
"""

import fcntl
import functools
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tools
from errors import HarnessError

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITES = {"debian": "bookworm", "debian-security": "bookworm-security"}
"""Path of the archive on the mirror to the suite in it."""

RECIPE = 2
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
    impossible: dict[str, str] = field(default_factory=dict)
    """Mode to the reason why this kernel cannot have it."""

    @property
    def has_loopback(self) -> bool:
        return "smcd" not in self.impossible


RELEASES = {
    "6.1": Release(
        "linux-image-{arch}",
        "linux-source-6.1",
        {
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

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "s390x": "s390x", "ppc64le": "ppc64el"}
"""Machine to Debian's name of it. Only x86_64 has been tried."""


@dataclass(frozen=True)
class Kernel:
    """A kernel in the cache, ready to boot."""

    image: Path
    stock_modules: Path
    """A directory with lib/modules/RELEASE, as ``modprobe -d`` takes it."""
    loopback_modules: Path
    source: Path
    """A directory with what is kept of the source: net/smc/*.h, if smc.ko was built from it."""


@contextmanager
def use(version: str) -> Iterator[Kernel]:
    """The newest kernel of the series that is in the cache, fetched if there is none.

    It stays in the cache for as long as the context is entered.
    """
    while True:
        if not is_cached(version):
            fetch(version)
        directory = _link(version).resolve()
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # Replaced by a newer one in this very moment.
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            if not directory.exists():
                continue
            (image,) = (directory / "stock/boot").iterdir()
            yield Kernel(image, directory / "stock", directory / "loopback", directory / "source")
            return
        finally:
            os.close(fd)


def fetch(version: str, refresh: bool = False) -> None:
    """Fill the cache with the newest kernel of a series; with ``refresh`` even if it has one."""
    release = RELEASES[version]
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_cached(version) and not refresh:
            return  # Another harness was faster.
        tools.require(programs(version))
        for leftover in cache.glob("tmp-*"):
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=cache) as name:
            work = Path(name)
            apt = Apt(work / "apt")
            packages = _resolve(apt, release)
            key = f"{version}-{packages.version}-r{RECIPE}"
            if not (cache / key).exists():
                _say(f"fetching Debian's Linux {packages.version}")
                apt.download(packages.image, work / "image.deb")
                kernel = work / "kernel"
                _unpack(work / "image.deb", kernel)
                if release.has_loopback:
                    _build(apt, packages, kernel, work)
                kernel.rename(cache / key)
            new_link = work / "link"
            new_link.symlink_to(key)
            new_link.rename(_link(version))
        _drop_others(version, key)


def clean() -> None:
    """Empty the cache, except for what a guest is using."""
    for version in RELEASES:
        _link(version).unlink(missing_ok=True)
        _drop_others(version, "")


def programs(version: str) -> list[str]:
    """The programs (and keys) that it takes to fetch this kernel."""
    needed = [KEYRING, "apt-get", "apt-cache", "gpgv", "dpkg-deb", "depmod", "xz"]
    if RELEASES[version].has_loopback:
        needed += ["gcc", "ld", "make", "tar"]
    return needed


def is_cached(version: str) -> bool:
    return _link(version).exists()


def cache_directory() -> Path:
    """Where everything that is fetched or built is kept."""
    if own := os.environ.get("SMCSOCK_VM_CACHE"):
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "smcsock", "vm")


class Apt:
    """apt with a root of its own: its sources, its keys and its state, and nobody's rights."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._config = root / "apt.conf"
        for name in ("lists/partial", "archives/partial", "empty"):
            (root / name).mkdir(parents=True)
        (root / "status").touch()
        mirror = os.environ.get("SMCSOCK_VM_MIRROR", "http://deb.debian.org").rstrip("/")
        (root / "sources.list").write_text(
            "".join(
                f"deb [arch={architecture()} signed-by={KEYRING}] {mirror}/{path} {suite} main\n"
                for path, suite in SUITES.items()
            )
        )
        # Read after the machine's own configuration, so that its proxies hold; what could
        # weaken the checks, or run somebody's hooks, does not.
        self._config.write_text(f"""
            #clear APT::Architectures;
            #clear APT::Update;
            #clear DPkg;
            APT::Architecture "{architecture()}";
            APT::Get::AllowUnauthenticated "false";
            APT::Sandbox::User "";
            Acquire::AllowInsecureRepositories "false";
            Acquire::AllowWeakRepositories "false";
            Acquire::AllowDowngradeToInsecureRepositories "false";
            Acquire::Languages "none";
            Acquire::Retries "3";
            Dir::Cache "{root}";
            Dir::Etc::Preferences "/dev/null";
            Dir::Etc::PreferencesParts "{root}/empty";
            Dir::Etc::SourceList "{root}/sources.list";
            Dir::Etc::SourceParts "{root}/empty";
            Dir::State "{root}";
            Dir::State::Status "{root}/status";
        """)
        self._run("apt-get", "--error-on=any", "update")

    def depends(self, package: str) -> dict[str, str]:
        """What the newest version of a package depends on: name to version, empty if any."""
        text = self._run("apt-cache", "--no-all-versions", "show", package)
        match = re.search(r"^Depends: (.*)$", text, re.MULTILINE)
        found = re.findall(r"([a-z0-9][a-z0-9.+-]+)(?: \(= ([^)]+)\))?", match[1] if match else "")
        return dict(found)

    def download(self, package: str, target: Path) -> None:
        """Download NAME=VERSION, verified, to a file."""
        with tempfile.TemporaryDirectory(dir=self._root) as directory:
            self._run("apt-get", "download", package, cwd=directory)
            (archive,) = Path(directory).iterdir()
            archive.rename(target)

    def _run(self, program: str, *arguments: str, cwd: str | None = None) -> str:
        return _run(program, "-q", f"--config-file={self._config}", *arguments, cwd=cwd)


@dataclass(frozen=True)
class Packages:
    """The packages of one version of the kernel, as NAME=VERSION."""

    version: str
    image: str
    headers: list[str]
    """The headers, what they share with others, and the programs to build with them."""
    source: str


def _resolve(apt: Apt, release: Release) -> Packages:
    meta = release.image.format(arch=architecture())
    name, version = next(
        (name, version)
        for name, version in apt.depends(meta).items()
        if name.startswith("linux-image-")
    )
    headers = name.replace("linux-image-", "linux-headers-").removesuffix("-unsigned")
    needed = [headers]
    if release.has_loopback:
        needed += [
            other
            for other in apt.depends(headers)
            if other.startswith(("linux-headers-", "linux-kbuild-"))
        ]
    return Packages(
        version,
        f"{name}={version}",
        [f"{other}={version}" for other in needed],
        f"{release.source}={version}",
    )


def _unpack(archive: Path, kernel: Path) -> None:
    """Take the image and the modules that a guest can use out of Debian's package."""
    whole = kernel.with_name("whole")
    _run("dpkg-deb", "-x", str(archive), str(whole))
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
        _run("xz", "--decompress", "-T0", *compressed)
    _index(kernel / "stock", modules.name)
    shutil.rmtree(whole)


def _index(root: Path, release: str) -> None:
    """Make ``root`` a directory for ``modprobe -d``, whichever of both places it looks in."""
    (root / "usr").mkdir()
    (root / "usr/lib").symlink_to("../lib")
    _run("depmod", "-b", str(root), release)


def _build(apt: Apt, packages: Packages, kernel: Path, work: Path) -> None:
    """Build smc.ko and smc_diag.ko with loopback-ism, beside the modules that Debian built."""
    (stock,) = (kernel / "stock/lib/modules").iterdir()
    release = stock.name
    tree = work / "tree"
    for number, package in enumerate([*packages.headers, packages.source]):
        archive = work / f"{number}.deb"
        apt.download(package, archive)
        _run("dpkg-deb", "-x", str(archive), str(tree))
        archive.unlink()
    _say("building smc.ko with loopback-ism")
    headers = tree / "usr/src" / f"linux-headers-{release}"
    makefile = headers / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{tree}/usr/src/"))
    (source,) = (tree / "usr/src").glob("linux-source-*.tar.*")
    _run("tar", "-xf", str(source), "-C", str(work), "--wildcards", "linux-source-*/net/smc")
    (smc,) = work.glob("linux-source-*/net/smc")
    _run(
        "make",
        f"-j{len(os.sched_getaffinity(0))}",
        "-C",
        str(headers),
        f"M={smc}",
        # Debian names the very compiler of its own build; a module as small as this one works
        # with another, and type information for debuggers would ask for yet another program.
        f"CC={_compiler(headers)}",
        "CONFIG_DEBUG_INFO_BTF_MODULES=",
        "CONFIG_SMC=m",
        "CONFIG_SMC_DIAG=m",
        "CONFIG_SMC_LO=y",
        "KCFLAGS=-DCONFIG_SMC_LO=1",
        "modules",
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


def _compiler(headers: Path) -> str:
    """The compiler that the headers name, if it is here; else the machine's own."""
    match = re.search(r"\bgcc-\d+\b", (headers / ".kernelvariables").read_text())
    return match[0] if match and shutil.which(match[0]) else "gcc"


def _drop_others(version: str, key: str) -> None:
    """Remove the series' other kernels, except those that a guest is using."""
    for directory in cache_directory().glob(f"{version}-*"):
        if directory.name == key:
            continue
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)


def _link(version: str) -> Path:
    return cache_directory() / version


@functools.cache
def architecture() -> str:
    """Debian's name for this machine. HarnessError for one that has none."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise HarnessError(f"there is no Debian kernel for {machine} in this harness")
    return ARCHITECTURES[machine]


def _run(program: str, *arguments: str, cwd: str | None = None) -> str:
    """Run a program quietly and return what it printed. HarnessError with all of it if it fails."""
    done = subprocess.run(
        [tools.find(program), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=tools.environment(),
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


def _say(text: str) -> None:
    print(f"smcsock-vm: {text}", file=sys.stderr, flush=True)
