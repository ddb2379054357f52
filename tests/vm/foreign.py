"""What a guest of another architecture than this machine's needs: unpacked, never installed.

One entry of the cache:

    root/    Debian's packages for the guest, on which no maintainer script has run
    tools/   QEMU and a cross compiler for this machine, from Debian as well
    python/  a virtual environment with the tests' Python packages
"""

import functools
import hashlib
import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tools
from apt import PROGRAMS as APT_PROGRAMS
from apt import Apt
from architectures import Architecture, native
from cache import Entry
from errors import HarnessError

CHECKOUT = Path(__file__).resolve().parent.parent.parent

PROGRAMS = (*APT_PROGRAMS, "make", "depmod")
"""The programs that it takes to make the entry, and a kernel for it."""

PACKAGES = (
    *("?essential", "busybox-static", "iproute2", "kmod", "procps", "rdma-core"),
    *("gcc", "libc6-dev", "python3", "python3-dev", "python3-venv"),
    # For tests/apps and tests/test_ssl.py.
    *("curl", "musl-tools", "nginx-light", "nodejs", "openssl", "postgresql", "redis-server"),
)
"""What the guest has, with all that it depends on."""

PYTHON = "3.11"
"""The version of Python that these packages have."""
SITE_PACKAGES = f"lib/python{PYTHON}/site-packages"

PREFIX = Path(sys.prefix if sys.prefix != sys.base_prefix else CHECKOUT / ".venv")
"""The virtual environment that the guest has one of its own in the place of."""

EXTENSION = re.compile(r'"(smcsock(?:\.\w+)+)",\s*(?:sources=\[)?"(src/\w+\.c)"')
"""An extension module and its source in setup.py."""

GCC = "gcc-12"
"""The compiler of the same suite: newer ones make programs for a newer C library."""
TOOLS_SUITES = ("bookworm", "bookworm-security", "bookworm-backports")
"""Backports for QEMU: 7.2 computes a checksum of s390x wrongly (VCKSM), by which Linux from 6.9 on
drops the resets of refused connections."""

RECIPE = 2
"""Part of the cache's key: raise it when what is made of the same packages changes."""


@dataclass(frozen=True)
class Foreign:
    """What is in the cache for one architecture."""

    architecture: Architecture
    path: Path

    @property
    def root(self) -> Path:
        return self.path / "root"

    @property
    def python(self) -> Path:
        return self.path / "python"

    @property
    def qemu(self) -> Path:
        return self.path / "tools/usr/bin" / self.architecture.qemu

    @property
    def compiler(self) -> str:
        return f"{_triplet(self.architecture)}-{GCC}"

    def environment(self) -> dict[str, str]:
        """An environment for subprocesses in which these tools work."""
        base = tools.environment()
        binaries = self.path / "tools/usr/bin"
        libraries = _library_directory(self.path / "tools")
        return base | {
            "PATH": f"{binaries}{os.pathsep}{base['PATH']}",
            "LD_LIBRARY_PATH": str(libraries),
        }

    def build(self, target: Path) -> dict[str, str]:
        """Compile smcsock's extension modules, as setup.py does, into a new directory.

        And what has Python find smcsock in the checkout; gives file to its place in the guest.
        """
        target.mkdir()
        path = target / "smcsock.pth"
        path.write_text(f"{CHECKOUT}/src\n")
        places = {str(path): f"{PREFIX}/{SITE_PACKAGES}/{path.name}"}
        for module, source in EXTENSION.findall((CHECKOUT / "setup.py").read_text()):
            built = target / module
            tools.run(
                *(self.compiler, f"--sysroot={self.root}", "-O2", "-fPIC", "-shared"),
                *("-DPy_LIMITED_API=0x030b0000", f"-I{self.root}/usr/include/python{PYTHON}"),
                *(str(CHECKOUT / source), "-o", str(built)),
                env=self.environment(),
            )
            places[str(built)] = f"{CHECKOUT}/src/{module.replace('.', '/')}.abi3.so"
        return places


def entry(architecture: Architecture) -> Entry:
    parts = [RECIPE, PACKAGES, PYTHON, GCC, _requirements("diag", "metrics", "test", "apps")]
    recipe = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
    return Entry(architecture.name, recipe, functools.partial(_find, architecture))


def _find(architecture: Architecture, work: Path) -> tuple[str, Callable[[Path], None]]:
    guest = Apt(work / "apt-guest", architecture.suites, architecture.debian)
    host = Apt(work / "apt-host", TOOLS_SUITES, native().debian)
    of_guest = guest.closure(PACKAGES)
    of_host = host.closure(
        (architecture.qemu_package, f"{GCC}-{_triplet(architecture).replace('_', '-')}")
    )
    version = hashlib.sha256(json.dumps([of_guest, of_host]).encode()).hexdigest()[:16]

    def make(target: Path) -> None:
        tools.say(f"fetching Debian's packages for {architecture.name}")
        _make_root(guest, of_guest, target / "root")
        _make_tools(host, of_host, target / "tools")
        _make_python(architecture, target / "python")

    return version, make


def _make_root(apt: Apt, packages: list[str], root: Path) -> None:
    _merge_usr(root)
    apt.unpack(packages, root)
    # What maintainer scripts would have done, as far as anybody misses it.
    (root / "mnt").mkdir()
    etc, share = root / "etc", root / "usr/share"
    shutil.copy(share / "libc-bin/nsswitch.conf", etc)
    shutil.copy(share / "base-passwd/group.master", etc / "group")
    (etc / "passwd").write_text(
        (share / "base-passwd/passwd.master").read_text()
        + "postgres:x:120:120::/var/lib/postgresql:/bin/bash\n"
    )
    (etc / "hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost\n")
    _compile(root / f"usr/lib/python{PYTHON}", f"/usr/lib/python{PYTHON}")


def _make_tools(apt: Apt, packages: list[str], target: Path) -> None:
    _merge_usr(target)
    apt.unpack(packages, target)
    # The libraries that this machine has itself go before ours, the C library above all.
    ours = _library_directory(target)
    theirs = _library_directory(Path("/"))
    for library in ours.glob("*.so*"):
        if (theirs / library.name).exists():
            library.unlink()


def _make_python(architecture: Architecture, target: Path) -> None:
    """A virtual environment that works wherever it is mounted."""
    packages = target / SITE_PACKAGES
    requirements = _requirements("diag", "metrics", "test")
    for application in _requirements("apps"):
        try:
            _pip(architecture, packages, "--dry-run", application)
            requirements.append(application)
        except HarnessError:
            tools.say(f"PyPI has no wheel for {architecture.name} of {application}: left out")
    # Before Python 3.11.3 redis needs it, but pip goes by the Python that it runs with.
    _pip(architecture, packages, *requirements, "async-timeout")
    _compile(packages, "")
    (target / "bin").mkdir()
    for program in (packages / "bin").iterdir():
        if not program.read_bytes().startswith(b"#!"):  # a script names the Python of pip
            program.rename(target / "bin" / program.name)
    for name in ("python", "python3"):
        (target / "bin" / name).symlink_to(f"/usr/bin/python{PYTHON}")
    (target / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {PYTHON}\n"
    )


def _pip(architecture: Architecture, target: Path, *arguments: str) -> None:
    """Install wheels for the guest into a directory."""
    # Those for an older C library than the guest's, too.
    platforms = (f"manylinux{glibc}_{architecture.name}" for glibc in ("2014", "_2_28", "_2_34"))
    tools.run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-compile"),
        *("--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"),
        *(f"--platform={platform}" for platform in platforms),
        *(f"--target={target}", *arguments),
    )


def _requirements(*extras: str) -> list[str]:
    """What the tests need of PyPI in a guest, according to pyproject.toml."""
    with (CHECKOUT / "pyproject.toml").open("rb") as file:
        known = tomllib.load(file)["project"]["optional-dependencies"]
    return [
        requirement
        for extra in extras
        for requirement in known[extra]
        if not requirement.startswith(("smcsock", "virtme-ng"))
    ]


def _compile(directory: Path, shown: str) -> None:
    """Leave the bytecode, which is the same everywhere, for the guest, which is slow at it."""
    if python := shutil.which(f"python{PYTHON}", path=tools.SEARCH_PATH):
        tools.run(python, "-m", "compileall", "-q", "-d", shown, str(directory))


def _merge_usr(root: Path) -> None:
    for name in ("bin", "lib", "sbin"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")


def _library_directory(root: Path) -> Path:
    return root / "usr/lib" / _triplet(native())


def _triplet(architecture: Architecture) -> str:
    return f"{architecture.name}-linux-gnu"
