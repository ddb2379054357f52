"""What a report of a problem with SMC needs, in one file."""

import argparse
import contextlib
import io
import json
import os
import platform
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

from .. import __version__
from ._common import CommandError, ExitCode, explain

__all__ = ["collect"]

_COMMANDS = (
    "info --json",
    "doctor --json",
    "ss -a -d",
    "ss -a --json",
    "linkgroups -d",
    "linkgroups --json",
    "devices --json",
    "stats --absolute --json",
    "system --json",
    "ueid --json",
    "seid --json",
    "pnet --json",
    "hs-limit --json",
    "rnics -a",
)

_FILES = (
    "/etc/os-release",
    "/proc/version",
    "/proc/modules",
    "/proc/net/dev",
    "/proc/net/protocols",
    "/sys/module/smc/srcversion",
)

_SETTINGS = "/proc/sys/net/smc"


def collect(path: Path, parse: Callable[[list[str]], argparse.Namespace]) -> None:
    """Writes a .tar.gz; ``parse`` makes options of a command line. Raises CommandError."""
    try:
        with (
            open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file,
            tarfile.open(fileobj=file, mode="w:gz") as archive,
        ):
            _add(archive, "versions.json", _versions())
            for command in _COMMANDS:
                _add(archive, f"{_file_name(command)}.txt", _output(command, parse))
            for name in (*_FILES, *map(str, sorted(Path(_SETTINGS).glob("*")))):
                with contextlib.suppress(OSError):
                    _add(archive, name.lstrip("/"), Path(name).read_text(errors="replace"))
    except OSError as error:
        raise CommandError(f"cannot write {path}: {explain(error)}") from None


def _file_name(command: str) -> str:
    return "_".join(word.strip("-") for word in command.split())


def _versions() -> str:
    found = {
        "smcsock": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    return json.dumps(found, indent=2) + "\n"


def _output(command: str, parse: Callable[[list[str]], argparse.Namespace]) -> str:
    """What a command prints, or why it fails: that is worth knowing, too."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        try:
            options = parse(command.split())
            status = int(options.run(options))
        except CommandError as error:
            return f"{text.getvalue()}\n# failed: {error}\n"
    return text.getvalue() if status == ExitCode.OK else f"{text.getvalue()}\n# status {status}\n"


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode(errors="backslashreplace")
    entry = tarfile.TarInfo(f"smcsock-report/{name}")
    entry.size = len(data)
    entry.mtime = int(time.time())
    archive.addfile(entry, io.BytesIO(data))
