"""Boot a guest and run one command in it."""

import contextlib
import ctypes
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

import protocol
import tools
from architectures import native
from errors import HarnessError
from foreign import CHECKOUT, PREFIX, Foreign
from kernels import Kernel

BOOT_LIMIT = 300
"""Seconds from starting QEMU to the command's start. It takes 5 to 30 without KVM."""
CONSOLE_TAIL = 16384
"""Bytes of the console that are kept to be shown when the guest fails."""

EXIT_TIMEOUT = 124

MODES = ("smcd", "smcr", "tcp", "none")

FOREIGN_PROGRAMS = ("virtme-run", "file", "modprobe")
"""What has to be on the host to boot a guest of another architecture."""
PROGRAMS = (*FOREIGN_PROGRAMS, native().qemu, "busybox", "rdma")
"""And one of its own, which uses some of them too."""

ENVIRONMENT = re.compile(
    "CI|COLUMNS|FORCE_COLOR|HOME|LANG|LANGUAGE|LINES|NO_COLOR|PATH|SHELL|TERM|TZ|VIRTUAL_ENV"
    "|(COVERAGE_|HYPOTHESIS_|LC_|PYENV_|PYTEST_|PYTHON|SMCSOCK_).*"
)
"""What the command gets of the host's environment. The rest may be secret, or not true there."""

NATIVE = re.compile("PYENV_.*|PYTHONHOME")
"""What of that is not true where the programs are other ones."""

BUILT = "built"
"""The directory that the extension modules are compiled into, in that of a run."""

PROCESS_1_TAG = "smcsock.vm"

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Options:
    """What a guest is to be, apart from its kernel."""

    version: str
    mode: str
    timeout: float
    """Seconds for the command, from its start; 0 is without limit."""
    cpus: int
    memory: str
    """As QEMU takes it: 2G, 512M."""
    kvm: bool
    verbose: bool
    rwdirs: list[Path] = field(default_factory=list)


class _TimeLimit(Exception):
    """Raised in the main thread when the time for what it is doing is over."""


class _GuestFailure(Exception):
    """The guest did not do its part; the text says what."""


def run(kernel: Kernel, foreign: Foreign | None, options: Options, command: list[str]) -> int:
    """Boot, run the command with this process's standard streams, return its exit status.

    To be called in the main thread. A command that exceeds its time limit has exit status 124.
    HarnessError if the guest does not come to the point of running the command, or dies under it.
    """
    channel, guest_end = socket.socketpair()
    with channel, tempfile.TemporaryDirectory(prefix="smcsock-vm-") as name:
        scratch = Path(name)
        exports = _exports(kernel, foreign, scratch)
        tags = {f"smcsock.{i}": directory for i, directory in enumerate(exports)}
        rwdirs = {f"smcsock.rw{i}": str(path) for i, path in enumerate(options.rwdirs)}
        spec: protocol.Spec = {
            "command": command,
            "environment": _environment(kernel, foreign, options),
            "cwd": os.getcwd(),
            "home": os.environ.get("HOME", "/"),
            "hostname": socket.gethostname(),
            "mode": options.mode,
            "exports": tags,
            "modules": "loopback" if options.mode == "smcd" else "stock",
            "binds": foreign.build(scratch / BUILT) if foreign else {},
            "rwdirs": rwdirs,
        }
        arguments = _qemu_command(kernel, foreign, options, scratch)
        for tag, directory in tags.items():
            arguments += _export(exports[directory], tag, ",readonly=on")
        for tag, directory in rwdirs.items():
            arguments += _export(directory, tag)
        with guest_end:
            arguments += ["-chardev", f"socket,id=smcsock,fd={guest_end.fileno()}"]
            qemu = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_host_environment(foreign),
                pass_fds=[guest_end.fileno()],
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        console = _Console(qemu, options.verbose)
        try:
            return _converse(channel, spec, options.timeout)
        except _GuestFailure as failure:
            qemu.kill()
            raise HarnessError(f"{failure}\n{console.tail()}") from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            qemu.kill()
            qemu.wait()


def _converse(channel: socket.socket, spec: protocol.Spec, timeout: float) -> int:
    """Have the command run by process 1 of the guest, up to its exit status."""
    signal.signal(signal.SIGALRM, _raise_time_limit)
    signal.setitimer(signal.ITIMER_REAL, BOOT_LIMIT)
    ready = False
    try:
        with contextlib.suppress(BrokenPipeError):
            channel.sendall(protocol.pack(protocol.SPEC, json.dumps(spec).encode()))
        with channel.makefile("rb") as stream:
            while len(header := stream.read(protocol.HEADER.size)) == protocol.HEADER.size:
                kind, length = protocol.HEADER.unpack(header)
                payload = stream.read(length)
                if kind == protocol.STDOUT:
                    _write(1, payload)
                elif kind == protocol.STDERR:
                    _write(2, payload)
                elif kind == protocol.READY:
                    ready = True
                    signal.setitimer(signal.ITIMER_REAL, timeout)
                    threading.Thread(target=_pump_stdin, args=(channel,), daemon=True).start()
                elif kind == protocol.FAILED:
                    raise _GuestFailure(f"mode {spec['mode']}: {payload.decode()}")
                elif kind == protocol.EXIT:
                    return int(payload)
    except ConnectionResetError:
        pass  # As good an end of the stream as any.
    except _TimeLimit:
        if ready:
            tools.say(f"the command did not end within {timeout:g} s")
            return EXIT_TIMEOUT
        raise _GuestFailure(f"the guest did not boot within {BOOT_LIMIT} s") from None
    when = "while the command ran" if ready else "while it booted"
    raise _GuestFailure(f"the guest died {when}")


def _qemu_command(
    kernel: Kernel, foreign: Foreign | None, options: Options, scratch: Path
) -> list[str]:
    """What virtme-ng would start, with this harness's process 1 in it."""
    virtme = [
        *(tools.find("virtme-run"), "--kimg", str(kernel.image), "--mods", "auto"),
        *("--cpus", str(options.cpus), "--memory", options.memory, "--force-9p"),
        # Script mode is what makes a panic end QEMU; the script itself never runs.
        *("--script-sh", "true", "--show-boot-console"),
        *("--dry-run", "--show-command"),
        *("--force-initramfs", "--save-initramfs", str(scratch / "initramfs")),
    ]
    if foreign:
        virtme += ["--arch", foreign.architecture.name, "--root", str(foreign.root)]
        virtme += ["--qemu-bin", str(foreign.qemu)]
    if options.verbose:
        virtme.append("--verbose")
    if not options.kvm:
        virtme.append("--disable-kvm")
    done = subprocess.run(
        virtme,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=_host_environment(foreign) | {"TMPDIR": str(scratch)},
        check=False,
    )
    if done.returncode or not done.stdout:
        raise HarnessError(f"virtme-run failed:\n{done.stdout}{done.stderr}")
    arguments = shlex.split(done.stdout.splitlines()[-1])
    append = arguments.index("-append") + 1
    # virtme-ng's own process 1, which comes last, makes way for this harness's.
    parameters = arguments[append].partition(" init=")[0]
    if not options.kvm:
        # Python starts in half the time where programs always have the same addresses.
        parameters += " norandmaps mitigations=off"
        if (foreign.architecture if foreign else native()).name == "x86_64":
            # The kernel takes a timer for broken that a busy host keeps waiting, and panics.
            parameters += " no_timer_check"
        # A thread per virtual CPU makes QEMU before 8.1 miss the kernel's changes to its own
        # code now and then: it dies of an int3 that is no longer there.
        arguments += ["-accel", "tcg,thread=single"]
    if foreign:
        arguments += foreign.architecture.cpu
        arguments += _export(str(Path(__file__).resolve().parent), PROCESS_1_TAG, ",readonly=on")
    arguments[append] = f"{parameters} init=/usr/bin/env -- {_process_1(foreign)}"
    arguments += ["-device", "virtio-serial"]
    arguments += ["-device", f"virtserialport,name={protocol.PORT_NAME},chardev=smcsock"]
    return arguments


def _process_1(foreign: Foreign | None) -> str:
    """The command of process 1, as kernel parameters."""
    program = Path(__file__).resolve().with_name("guest_init.py")
    command = [sys.executable, "-ESB", str(program)]
    if foreign:
        # Its root has nothing of the checkout.
        mount = f"busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L {PROCESS_1_TAG} /mnt"
        command = ["sh", "-c", f"{mount} && exec python3 -ESB /mnt/{program.name}"]
    # Kernel parameters know double quotes, but no way to escape one.
    if any('"' in word for word in command):
        raise HarnessError(f"a path with a double quote cannot be booted: {command}")
    return " ".join(f'"{word}"' for word in command)


def _exports(kernel: Kernel, foreign: Foreign | None, scratch: Path) -> dict[str, str]:
    """Directory in the guest to directory of the host. The last one is the kernel's."""
    exports = {"/": "/"}
    if foreign:
        built = str(scratch / BUILT)
        exports = {
            "/": str(foreign.root),
            str(CHECKOUT): str(CHECKOUT),
            str(PREFIX): str(foreign.python),
            built: built,
        }
    return exports | {str(kernel.path): str(kernel.path)}


def _host_environment(foreign: Foreign | None) -> dict[str, str]:
    return foreign.environment() if foreign else tools.environment()


def _export(directory: str, tag: str, more: str = "") -> list[str]:
    """QEMU's arguments that give the guest a directory of the host."""
    path = directory.replace(",", ",,")
    return [
        "-fsdev",
        f"local,id={tag},path={path},security_model=none,multidevs=remap{more}",
        "-device",
        f"virtio-9p,fsdev={tag},mount_tag={tag}",
    ]


def _environment(kernel: Kernel, foreign: Foreign | None, options: Options) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if ENVIRONMENT.fullmatch(name)}
    if foreign:
        kept = {name: kept[name] for name in kept if not NATIVE.fullmatch(name)}
        kept["PATH"] = f"{PREFIX}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    if kernel.source.exists():
        kept["SMCSOCK_VM_SOURCE"] = str(kernel.source)
    return kept | {
        "USER": "root",
        "LOGNAME": "root",
        "SMCSOCK_VM": "1",
        "SMCSOCK_VM_KERNEL": options.version,
        "SMCSOCK_VM_MODE": options.mode,
    }


class _Console:
    """The guest's console and QEMU's own complaints: kept for when they are needed."""

    def __init__(self, qemu: subprocess.Popen[bytes], verbose: bool) -> None:
        assert qemu.stderr
        self._stream = qemu.stderr
        self._verbose = verbose
        self._kept = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def tail(self) -> str:
        """The end of what there was; waits until QEMU has ended. Empty if it was shown already."""
        self._thread.join()
        if self._verbose:
            return ""
        text = self._kept[-CONSOLE_TAIL:].decode(errors="replace").replace("\r\n", "\n")
        return f"--- the end of the guest's console ---\n{text}"

    def _read(self) -> None:
        while data := os.read(self._stream.fileno(), 65536):
            if self._verbose:
                _write(2, data)
            self._kept = self._kept[-CONSOLE_TAIL:] + data


def _pump_stdin(channel: socket.socket) -> None:
    """Give the guest this process's standard input, then its end."""
    try:
        while data := os.read(0, protocol.MAX_PAYLOAD):
            channel.sendall(protocol.pack(protocol.STDIN, data))
        channel.sendall(protocol.pack(protocol.STDIN))
    except OSError:
        pass  # The guest has ended.


def _write(fd: int, data: bytes) -> None:
    """Write everything at once, also where somebody has made our output non-blocking."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            select.select([], [fd], [])


def _raise_time_limit(*_: object) -> None:
    raise _TimeLimit


_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """Runs in the child: no guest outlives its harness, not even one that is killed."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
