"""What has been fetched or built, kept in one directory for the next time.

There is a ``lock``, held while something is being made; for each thing a directory named after
its version, which is complete or not there at all; and a symbolic link to the one in use, replaced
atomically: 6.12 -> 6.12-6.12.117-1-r2.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One thing in the cache, of which there is a newest version."""

    name: str
    recipe: str
    """Changes when what is made of the same packages does."""
    find: Callable[[Path], tuple[str, Callable[[Path], None]]]
    """Gets a directory to work in, which stays until the entry is made. Gives the newest
    version, and what makes it in a directory that is not there yet."""

    def exists(self) -> bool:
        link = directory() / self.name
        return link.exists() and link.resolve().name.endswith(f"-{self.recipe}")

    def fetch(self, refresh: bool = False) -> None:
        """Make it if there is none; with ``refresh`` if there is a newer version, too."""
        cache = directory()
        with _locked():
            if self.exists() and not refresh:
                return  # Another harness was faster.
            for leftover in cache.glob("tmp-*"):
                shutil.rmtree(leftover)
            with tempfile.TemporaryDirectory(prefix="tmp-", dir=cache) as scratch:
                work = Path(scratch)
                version, make = self.find(work)
                key = f"{self.name}-{version}-{self.recipe}"
                if not (cache / key).exists():
                    make(work / "made")
                    (work / "made").rename(cache / key)
                new_link = work / "link"
                new_link.symlink_to(key)
                new_link.rename(cache / self.name)
            _drop_unused()

    @contextmanager
    def use(self) -> Iterator[Path]:
        """Where the newest version in the cache is, made if there is none.

        It stays in the cache for as long as the context is entered.
        """
        while True:
            if not self.exists():
                self.fetch()
            path = (directory() / self.name).resolve()
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                continue  # Replaced by a newer one in this very moment.
            try:
                fcntl.flock(fd, fcntl.LOCK_SH)
                if not path.exists():
                    continue
                yield path
                return
            finally:
                os.close(fd)


def directory() -> Path:
    """Where everything is kept."""
    if own := os.environ.get("SMCSOCK_VM_CACHE"):
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "smcsock", "vm")


def clean() -> None:
    """Empty the cache, except for what a guest is using."""
    with _locked():
        for link in filter(Path.is_symlink, directory().iterdir()):
            link.unlink()
        _drop_unused()


@contextmanager
def _locked() -> Iterator[None]:
    directory().mkdir(parents=True, exist_ok=True)
    with (directory() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _drop_unused() -> None:
    """Remove what no name leads to any more, and no guest is using."""
    entries = list(directory().iterdir())
    kept = {entry.resolve() for entry in entries if entry.is_symlink()}
    for entry in entries:
        if entry.is_symlink() or not entry.is_dir() or entry.resolve() in kept:
            continue
        fd = os.open(entry, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)
