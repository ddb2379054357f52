"""Run a command in a virtual machine that has SMC, on a machine that has not.

    python tests/vm run --kernel 6.12 --mode smcd -- pytest

See README.md beside this file.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

import guest
import kernels
import tools
from errors import HarnessError

EXIT_HARNESS = 125


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
    fetching = [] if kernels.is_cached(options.kernel) else kernels.programs(options.kernel)
    tools.require([*guest.PROGRAMS, *fetching])
    with kernels.use(options.kernel) as kernel:
        return guest.run(
            kernel,
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
    # All that is missing at once, not kernel by kernel.
    versions = options.kernel or list(kernels.RELEASES)
    tools.require({name for version in versions for name in kernels.programs(version)})
    for version in versions:
        kernels.fetch(version, refresh=options.refresh)
    return 0


def _clean(_: argparse.Namespace) -> int:
    kernels.clean()
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
    run.add_argument("--kernel", choices=kernels.RELEASES, default="6.12")
    run.add_argument(
        "--mode",
        choices=guest.MODES,
        default="smcd",
        help="smcd: loopback-ism; smcr: soft-RoCE on lo; tcp: no device; none: no smc module",
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
    run.add_argument("--cpus", type=int, default=2)
    run.add_argument("--memory", default="2G", metavar="SIZE")
    run.add_argument("--kvm", action="store_true", help="use KVM (faster, where it works)")
    run.add_argument("-v", "--verbose", action="store_true", help="show the guest's console")

    fetch = commands.add_parser("fetch", help="fill the cache, and nothing else")
    fetch.set_defaults(run=_fetch)
    fetch.add_argument("--kernel", choices=kernels.RELEASES, action="append")
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
        if reason := kernels.RELEASES[options.kernel].impossible.get(options.mode):
            run.error(f"no --mode {options.mode} with --kernel {options.kernel}: {reason}")
    return options


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
