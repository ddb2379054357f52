"""Run a command in a virtual machine that has SMC, on a machine that has not.

    python tests/vm run --kernel 6.12 --mode smcd -- pytest

See README.md beside this file.
"""

import argparse
import contextlib
import os
import platform
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import cache
import foreign
import guest
import kernels
import newest
import tools
from architectures import ARCHITECTURES, FOREIGN, Architecture
from cache import Entry
from errors import HarnessError
from foreign import Foreign

EXIT_HARNESS = 125
KERNELS = (*kernels.RELEASES, newest.SERIES)


def main() -> int:
    options = _parse()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _exit_by_signal)
    try:
        return int(options.run(options))
    except HarnessError as error:
        print(f"smcsock-vm: {error}", file=sys.stderr)
        return EXIT_HARNESS
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except OSError as error:
        print(f"smcsock-vm: {error}", file=sys.stderr)
        return EXIT_HARNESS


def _run(options: argparse.Namespace) -> int:
    architecture = ARCHITECTURES[options.arch]
    needed = {*(guest.FOREIGN_PROGRAMS if architecture.is_foreign else guest.PROGRAMS)}
    for entry, programs in _entries(options.kernel, architecture):
        if not entry.exists():
            needed |= {*programs}
    tools.require(needed)
    with contextlib.ExitStack() as stack:
        paths = [
            stack.enter_context(entry.use()) for entry, _ in _entries(options.kernel, architecture)
        ]
        return guest.run(
            kernels.Kernel(paths[-1]),
            Foreign(architecture, paths[0]) if architecture.is_foreign else None,
            guest.Options(
                version=options.kernel,
                mode=options.mode,
                timeout=options.timeout,
                cpus=options.cpus,
                memory=options.memory,
                kvm=options.kvm,
                verbose=options.verbose,
                rwdirs=options.rwdir,
            ),
            options.command,
        )


def _fetch(options: argparse.Namespace) -> int:
    architecture = ARCHITECTURES[options.arch]
    entries = {
        entry.name: (entry, programs)
        for version in options.kernel
        or sorted({*kernels.RELEASES} & {*kernels.versions(architecture)})
        for entry, programs in _entries(version, architecture)
    }
    # All that is missing at once, not kernel by kernel.
    tools.require({name for _, programs in entries.values() for name in programs})
    for entry, _ in entries.values():
        entry.fetch(refresh=options.refresh)
    return 0


def _entries(version: str, architecture: Architecture) -> list[tuple[Entry, Iterable[str]]]:
    """What a guest takes out of the cache, in the order it is made in, the kernel last.

    And the programs that it takes to make each.
    """
    entries: list[tuple[Entry, Iterable[str]]] = []
    if architecture.is_foreign:
        entries.append((foreign.entry(architecture), foreign.PROGRAMS))
    entries.append((kernels.entry(version, architecture), kernels.programs(version, architecture)))
    return entries


def _clean(_: argparse.Namespace) -> int:
    cache.clean()
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python tests/vm", description="Run a command in a virtual machine that has SMC."
    )
    commands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")

    run = commands.add_parser(
        "run",
        usage="python tests/vm run [OPTION ...] -- COMMAND [ARGUMENT ...]",
        help="boot a guest and run a command in it",
    )
    run.set_defaults(run=_run)
    run.add_argument("--kernel", choices=KERNELS, default="6.12")
    run.add_argument(
        "--mode",
        choices=guest.MODES,
        default="smcd",
        help="smcd: a loopback device; smcr: soft-RoCE on lo; tcp: no device; none: no smc module",
    )
    run.add_argument(
        "--timeout",
        type=_seconds,
        default=900,
        metavar="SECONDS",
        help="for the command (900); 0 is without limit",
    )
    run.add_argument(
        "--rwdir",
        type=_directory,
        action="append",
        default=[],
        metavar="DIR",
        help="let the guest really write to this directory",
    )
    _add_arch(run)
    run.add_argument("--cpus", type=int, default=2)
    run.add_argument("--memory", default="2G", metavar="SIZE")
    run.add_argument("--kvm", action="store_true", help="use KVM (faster, where it works)")
    run.add_argument("-v", "--verbose", action="store_true", help="show the guest's console")

    fetch = commands.add_parser("fetch", help="fill the cache, and nothing else")
    fetch.set_defaults(run=_fetch)
    fetch.add_argument(
        "--kernel", choices=KERNELS, action="append", help=f"(all but {newest.SERIES})"
    )
    _add_arch(fetch)
    fetch.add_argument("--refresh", action="store_true", help="look for a newer kernel")

    clean = commands.add_parser("clean", help="remove the cache")
    clean.set_defaults(run=_clean)

    # Split here: argparse has changed its mind about "--" more than once.
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:end])
    options.command = words[end + 1 :]
    if options.run is _run:
        if not options.command:
            run.error("no command: it comes after --")
        if reason := kernels.why_impossible(options.kernel, options.mode):
            run.error(f"no --mode {options.mode} with --kernel {options.kernel}: {reason}")
    if options.run in (_run, _fetch):
        possible = kernels.versions(ARCHITECTURES[options.arch])
        for version in [options.kernel] if options.run is _run else options.kernel or []:
            if version not in possible:
                parser.error(f"no --kernel {version} with --arch {options.arch}")
    return options


def _add_arch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--arch",
        choices=sorted({platform.machine(), *FOREIGN}),
        default=platform.machine(),
        help="the guest's processor (this machine's)",
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 1e9:
        raise ValueError
    return seconds


def _directory(text: str) -> Path:
    path = Path(text).resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"not a directory: {text}")
    return path


def _exit_by_signal(number: int, _: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    for fd in range(3):
        # A closed standard stream would be taken by the next file that is opened.
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.exit(main())
