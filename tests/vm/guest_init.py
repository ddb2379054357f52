"""Process 1 of the guest: make it what the mode promises, run the command, power off.

Runs inside the guest only, with the standard library only, from the host's file system. The host
drives it over the virtio-serial port of ``protocol``; anything printed goes to the console.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import IO, NoReturn

import protocol
import smcnl

AF_SMC = 43
RXE_DEVICE = "rxe0"
UEID = "SMCSOCK-VM"

MS_BIND, MS_MOVE = 0x1000, 0x2000
RB_POWER_OFF = 0x4321FEDC
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1

_libc = ctypes.CDLL(None, use_errno=True)


class SetupError(Exception):
    """The guest cannot be what the mode promises; the text says why."""


class Port:
    """The guest's end of the virtio-serial port."""

    def __init__(self) -> None:
        self._fd = os.open(_find_port(), os.O_RDWR | os.O_CLOEXEC)
        self._lock = threading.Lock()

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Write one frame; blocks while the host does not read."""
        with self._lock:
            _write_all(self._fd, protocol.pack(kind, payload))

    def receive(self) -> tuple[bytes, bytes]:
        """Read one frame. EOFError when the host is gone."""
        kind, length = protocol.HEADER.unpack(self._read(protocol.HEADER.size))
        return kind, self._read(length)

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            chunk = os.read(self._fd, length - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data


def main() -> NoReturn:
    try:
        mount("proc", "/proc", "proc")
        mount("sysfs", "/sys", "sysfs")
        mount("devtmpfs", "/dev", "devtmpfs")
        port = Port()
        try:
            _, payload = port.receive()
            spec: protocol.Spec = json.loads(payload)
            enter_file_system(spec)
            set_limits()
            socket.sethostname(spec["hostname"])
            bring_up_loopback()
            MODES[spec["mode"]]()
            os.chdir(spec["cwd"])
        except Exception as error:
            traceback.print_exc()
            port.send(protocol.FAILED, _explain(error).encode())
        else:
            port.send(protocol.READY)
            status = run_command(port, spec["command"], spec["environment"])
            os.sync()
            port.send(protocol.EXIT, str(status).encode())
    except BaseException:
        traceback.print_exc()
    power_off()


# ----- the file system


def mount(source: str, target: str, fstype: str, options: str = "", flags: int = 0) -> None:
    """Mount a file system. OSError that names the target."""
    if _libc.mount(*map(os.fsencode, (source, target, fstype)), flags, os.fsencode(options)):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {fstype or source}: {os.strerror(number)}", target)


def enter_file_system(spec: protocol.Spec) -> None:
    """Make / the host's file system with a layer of memory over it.

    So every write is possible and none is kept, and even /tmp is there as the host has it.
    """
    release = os.uname().release
    # The host's file system once more: the kernel's own mount of it cannot be told to cache.
    mount("tmpfs", "/run", "tmpfs", "mode=0755")
    for name in ("lower", "upper", "work"):
        for tag in spec["exports"]:
            os.makedirs(f"/run/{name}/{tag}")
    os.mkdir("/run/root")
    for tag in spec["exports"]:
        mount(tag, f"/run/lower/{tag}", "9p", f"{NINEP},cache=loose,ro")
    modules = f"/run/lower/{tag}/{spec['modules']}"
    run("modprobe", "-d", modules, "overlay")
    for tag, directory in spec["exports"].items():
        layers = f"lowerdir=/run/lower/{tag},upperdir=/run/upper/{tag},workdir=/run/work/{tag}"
        os.makedirs(f"/run/root{directory}", exist_ok=True)
        mount("overlay", f"/run/root{directory}", "overlay", layers)
    os.makedirs(f"/run/root/lib/modules/{release}", exist_ok=True)
    mount(f"{modules}/lib/modules/{release}", f"/run/root/lib/modules/{release}", "", flags=MS_BIND)
    # Process 1 shares its root with the kernel's helpers: with chroot here, in this very
    # process, a module that the kernel asks modprobe for is looked up in the new root too.
    os.chdir("/run/root")
    mount(".", "/", "", flags=MS_MOVE)
    os.chroot(".")
    os.chdir("/")

    mount("proc", "/proc", "proc")
    mount("sysfs", "/sys", "sysfs")
    mount("devtmpfs", "/dev", "devtmpfs")
    mount("tmpfs", "/run", "tmpfs", "mode=0755")
    for name, fstype, options in (("pts", "devpts", "ptmxmode=666"), ("shm", "tmpfs", "mode=1777")):
        os.makedirs(f"/dev/{name}", exist_ok=True)
        mount(fstype, f"/dev/{name}", fstype, options)
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"/dev/{name}")
    for tag, directory in spec["rwdirs"].items():
        os.makedirs(directory, exist_ok=True)
        mount(tag, directory, "9p", f"{NINEP},cache=mmap")
    for source, target in spec["binds"].items():
        Path(target).touch()
        mount(source, target, "", flags=MS_BIND)
    os.makedirs(spec["home"], exist_ok=True)


NINEP = "trans=virtio,version=9p2000.L,access=any,msize=512000"


def set_limits() -> None:
    """Open files as a service manager sets them; process 1 starts with the kernel's 1024."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 524288))


# ----- the modes


def set_up_none() -> None:
    # Opening a socket of a family loads its module: absent means forbidden to load.
    Path("/etc/modprobe.d").mkdir(exist_ok=True)
    Path("/etc/modprobe.d/smcsock-vm.conf").write_text(
        "install smc /bin/false\ninstall smc_diag /bin/false\n"
    )
    try:
        socket.socket(AF_SMC, socket.SOCK_STREAM).close()
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return
        raise
    raise SetupError("the kernel opens AF_SMC sockets although the module smc may not be loaded")


def set_up_tcp() -> None:
    devices = load_smc()
    if devices.has_smcd() or devices.has_smcr():
        raise SetupError("the kernel has an SMC device, but TCP fallback is what was asked for")


def set_up_smcd() -> None:
    devices = load_smc()
    if not devices.has_smcd():
        raise SetupError("the kernel has no SMC-D device: smc.ko has no loopback-ism")
    devices.add_ueid(UEID)


def set_up_smcr() -> None:
    devices = load_smc()
    run("modprobe", "rdma_rxe")
    run("rdma", "link", "add", RXE_DEVICE, "type", "rxe", "netdev", "lo")
    state = Path(f"/sys/class/infiniband/{RXE_DEVICE}/ports/1/state")
    deadline = time.monotonic() + 10
    while "ACTIVE" not in state.read_text() or not devices.has_smcr():
        if time.monotonic() > deadline:
            raise SetupError(f"soft-RoCE on lo is not active after 10 s: {state.read_text()}")
        time.sleep(0.05)
    devices.add_ueid(UEID)


MODES = {"none": set_up_none, "tcp": set_up_tcp, "smcd": set_up_smcd, "smcr": set_up_smcr}


def load_smc() -> smcnl.SmcNetlink:
    """Load SMC and see that its sockets open."""
    run("modprobe", "smc")
    run("modprobe", "smc_diag")
    socket.socket(AF_SMC, socket.SOCK_STREAM).close()
    return smcnl.SmcNetlink()


def bring_up_loopback() -> None:
    """Bring lo up; the kernel gives it 127.0.0.1 and ::1 itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = b"lo".ljust(16, b"\0") + IFF_UP.to_bytes(2, sys.byteorder) + bytes(22)
        fcntl.ioctl(sock, SIOCSIFFLAGS, request)


# ----- the command


def run_command(port: Port, command: list[str], environment: dict[str, str]) -> int:
    """Run the command with its standard streams on the port; its exit status as a shell has it."""
    # Not a port per stream: a pipe is what programs know how to share, poll and reopen.
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as error:
        port.send(protocol.STDERR, f"{command[0]}: {error.strerror}\n".encode())
        return 127 if error.errno == errno.ENOENT else 126
    assert process.stdin
    assert process.stdout
    assert process.stderr
    threading.Thread(target=_pump_in, args=(port, process.stdin), daemon=True).start()
    pumps = [
        threading.Thread(target=_pump_out, args=(port, kind, stream), daemon=True)
        for kind, stream in ((protocol.STDOUT, process.stdout), (protocol.STDERR, process.stderr))
    ]
    for pump in pumps:
        pump.start()
    # Orphans become children of process 1, which owes them a wait as well.
    pid, status = os.wait()
    while pid != process.pid:
        pid, status = os.wait()
    # What the command left behind holds its pipes open; without it they end.
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    for pump in pumps:
        pump.join()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _pump_out(port: Port, kind: bytes, stream: IO[bytes]) -> None:
    while data := stream.read(protocol.MAX_PAYLOAD):
        port.send(kind, data)


def _pump_in(port: Port, stream: IO[bytes]) -> None:
    """Feed the command; and when the host is gone, so is the reason to run."""
    with contextlib.suppress(EOFError):
        while data := port.receive()[1]:
            # A command that has closed its input, or ended, is no reason to stop listening.
            with contextlib.suppress(BrokenPipeError):
                _write_all(stream.fileno(), data)
        stream.close()
        port.receive()
    power_off()


# ----- odds and ends


def run(*command: str) -> None:
    """Run a set-up command, quietly. SetupError with what it said if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise SetupError(f"there is no {command[0]} on this machine") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise SetupError(f"{' '.join(command)} failed ({done.returncode}): {said}")


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def power_off() -> NoReturn:
    _libc.reboot(RB_POWER_OFF)
    os._exit(1)


def _find_port() -> str:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for name in Path("/sys/class/virtio-ports").glob("*/name"):
            if name.read_text().strip() == protocol.PORT_NAME:
                return f"/dev/{name.parent.name}"
        time.sleep(0.02)
    raise SetupError(f"there is no virtio-serial port {protocol.PORT_NAME}")


def _explain(error: Exception) -> str:
    return str(error) if isinstance(error, SetupError | OSError) else repr(error)


if __name__ == "__main__":
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    main()
