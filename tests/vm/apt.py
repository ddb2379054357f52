"""Debian's packages: found, verified and unpacked, with nobody's rights and nothing installed."""

import os
import platform
import re
import subprocess
import tempfile
from pathlib import Path

import tools

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PROGRAMS = (KEYRING, "apt-get", "apt-cache", "gpgv", "dpkg-deb", "tar", "xz")
"""The programs (and keys) that it takes."""

DEFAULT_MIRROR = "http://deb.debian.org"
"""For a machine whose apt is not set up for Debian."""


class Apt:
    """apt with a root of its own: its sources, its keys and its state."""

    def __init__(self, root: Path, suites: tuple[str, ...], *architectures: str) -> None:
        """``root`` is made. The first architecture is the one that packages are of."""
        architectures = tuple(dict.fromkeys(architectures))
        self._root = root
        self._config = root / "apt.conf"
        for name in ("lists/partial", "archives/partial", "empty"):
            (root / name).mkdir(parents=True)
        (root / "status").touch()
        main, security = archives()
        (root / "sources.list").write_text(
            "".join(
                f"deb [arch={','.join(architectures)} signed-by={KEYRING}] "
                f"{security if suite.endswith('-security') else main} {suite} main\n"
                for suite in suites
            )
        )
        # The newest version counts, of a suite of backports too.
        (root / "preferences").write_text("Package: *\nPin: release a=*\nPin-Priority: 500\n")
        # Read after the machine's own configuration, so that its proxies hold; what could
        # weaken the checks, or run somebody's hooks, does not.
        self._config.write_text(f"""
            #clear APT::Architectures;
            #clear APT::Default-Release;
            #clear APT::Update;
            #clear DPkg;
            APT::Architecture "{architectures[0]}";
            APT::Architectures {{ "{'"; "'.join(architectures)}"; }};
            APT::Get::AllowUnauthenticated "false";
            APT::Install-Recommends "false";
            APT::Sandbox::User "";
            Acquire::AllowInsecureRepositories "false";
            Acquire::AllowWeakRepositories "false";
            Acquire::AllowDowngradeToInsecureRepositories "false";
            Acquire::Languages "none";
            Acquire::Retries "3";
            Dir::Cache "{root}";
            Dir::Etc::Preferences "{root}/preferences";
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

    def closure(self, packages: tuple[str, ...]) -> list[str]:
        """These packages and all that they depend on, as NAME=VERSION or NAME:ARCH=VERSION."""
        text = self._run("apt-get", "install", "--simulate", *packages)
        return sorted(
            f"{name}={version}"
            for name, version in re.findall(r"^Inst (\S+) \((\S+) ", text, re.MULTILINE)
        )

    def unpack(self, packages: list[str], target: Path) -> None:
        """Download these packages, verified, and unpack them into one directory."""
        with tempfile.TemporaryDirectory(dir=self._root) as directory:
            self._run("apt-get", "download", *packages, cwd=directory)
            for archive in sorted(Path(directory).iterdir()):
                _unpack(archive, target)

    def _run(self, program: str, *arguments: str, cwd: str | None = None) -> str:
        return tools.run(program, "-q", f"--config-file={self._config}", *arguments, cwd=cwd)


def _unpack(archive: Path, target: Path) -> None:
    """As dpkg does: a symbolic link in the place of a directory is followed, not replaced."""
    target.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        [tools.find("dpkg-deb"), "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE
    ) as process:
        tools.run(
            *("tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-p", "-C", str(target)),
            stdin=process.stdout,
        )


def archives() -> tuple[str, str]:
    """Where Debian's archive is, and that of its security updates: where this machine's apt is.

    SMCSOCK_VM_MIRROR goes before that, and a machine that is not Debian's has the default.
    """
    mirror = os.environ.get("SMCSOCK_VM_MIRROR", DEFAULT_MIRROR).rstrip("/")
    found = {"main": f"{mirror}/debian", "security": f"{mirror}/debian-security"}
    release = platform.freedesktop_os_release()
    if "SMCSOCK_VM_MIRROR" not in os.environ and release["ID"] == "debian":
        codename = release.get("VERSION_CODENAME", "sid")
        targets = tools.run(
            *("apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)"),
            "Created-By: Packages",
        )
        for line in targets.splitlines():
            match line.split():
                case [suite, "main", uri] if suite == codename:
                    found["main"] = uri
                case [suite, "main", uri] if suite == f"{codename}-security":
                    found["security"] = uri
    return found["main"], found["security"]
