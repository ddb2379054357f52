"""Units under a real systemd: process 1 of namespaces of its own, in a guest.

Its file system and network are the guest's, with /run, process IDs and units of its own.
"""

import contextlib
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import VM_KERNEL, VM_MODE
from test_socket import LIMIT

import smcsock
from smcsock import Mode, diag

pytestmark = pytest.mark.skipif(
    (VM_KERNEL, VM_MODE) != ("6.12", "smcd"),
    reason="systemd is started in one guest, with a kernel that has cgroups",
)

ROOT = Path(__file__).resolve().parent.parent
CONTRIB, DOCS = ROOT / "contrib/systemd", ROOT / "docs"
SYSTEM = Path("/lib/systemd/system")
WANTED = ("sysinit.target.wants", "sockets.target.wants", "timers.target.wants")
KEPT = ("systemd-journald.service", "systemd-journald.socket")

# Python and its packages are where ProtectHome= lets services look.
COMMAND = f"""\
#!/bin/sh
export LD_LIBRARY_PATH=/opt/smcsock/python/lib PYTHONPATH=/opt/smcsock/lib:/opt/smcsock/packages
exec /opt/smcsock/python/bin/{Path(os.path.realpath(sys.executable)).name} -m smcsock "$@"
"""

INIT = """\
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount -t proc proc /proc
mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind {units} /etc/systemd/system
mount --bind {python} /opt/smcsock/python
mount --bind {packages} /opt/smcsock/packages
mount --bind {package} /opt/smcsock/lib/smcsock
exec env -i PATH=/usr/local/bin:/usr/bin:/bin container=smcsock \\
    /lib/systemd/systemd --system --unit=nothing.target --log-target=journal --show-status=no
"""


class Manager:
    """A systemd; process ``pid`` is its process 1."""

    def __init__(self, pid: int, units: Path) -> None:
        self.units = units
        self._inside = ("nsenter", "-t", str(pid), "-m", "-p")

    def run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            [*self._inside, *command], capture_output=True, text=True, timeout=LIMIT * 4
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done.stdout

    def start(self, unit: str) -> None:
        self.run("systemctl", "start", unit, check=False)
        assert self.property(unit, "ActiveState") == "active", self.journal(unit)

    def stop(self, unit: str) -> None:
        self.run("systemctl", "stop", unit)

    def property(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--value", "-p", name, unit).strip()

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "-o", "cat", "-u", unit)

    def main_user(self, unit: str) -> int:
        """The user of a unit's main process."""
        pid = self.property(unit, "MainPID")
        return int(self.run("stat", "-c", "%u", f"/proc/{pid}"))


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    if not os.access("/lib/systemd/systemd", os.X_OK) or shutil.which("nsenter") is None:
        pytest.skip("systemd is not installed")
    directory = tmp_path_factory.mktemp("systemd")
    units = directory / "units"
    units.mkdir()
    mask_what_boots(units)
    for path in CONTRIB.iterdir():
        shutil.copy(path, units)
    (units / "nothing.target").write_text("[Unit]\nDefaultDependencies=no\n")
    for name in ("bin", "python", "packages", "lib/smcsock"):
        Path("/opt/smcsock", name).mkdir(parents=True, exist_ok=True)
    command = Path("/opt/smcsock/bin/smcsock")
    command.write_text(COMMAND)
    command.chmod(0o755)
    Path("/usr/local/bin/smcsock").symlink_to(command)
    places = {
        "units": units,
        "python": sys.base_prefix,
        "packages": sysconfig.get_path("purelib"),
        "package": Path(smcsock.__file__).parent,
    }
    namespaces = ("--mount", "--pid", "--cgroup", "--fork", "--kill-child")
    with subprocess.Popen(["unshare", *namespaces, "sh", "-c", INIT.format(**places)]) as process:
        try:
            manager = Manager(first_child(process), units)
            wait_until_up(manager)
            yield manager
        finally:
            process.kill()
            Path("/usr/local/bin/smcsock").unlink()


def mask_what_boots(units: Path) -> None:
    """All that systems start at boot, but for the journal."""
    for directory in WANTED:
        for path in SYSTEM.joinpath(directory).iterdir():
            if path.name not in KEPT and not path.name.endswith(".target"):
                with contextlib.suppress(FileExistsError):
                    (units / path.name).symlink_to(os.devnull)


def first_child(process: "subprocess.Popen[bytes]") -> int:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + LIMIT
    while not (children := path.read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return int(children[0])


def wait_until_up(manager: Manager) -> None:
    deadline = time.monotonic() + LIMIT * 4
    while "running" not in (state := manager.run("systemctl", "is-system-running", check=False)):
        assert time.monotonic() < deadline, state
        time.sleep(1)


def wait_until_listening(port: int) -> None:
    deadline = time.monotonic() + LIMIT
    while True:
        with (
            contextlib.suppress(ConnectionRefusedError),
            socket.create_connection(("127.0.0.1", port)),
        ):
            return
        assert time.monotonic() < deadline
        time.sleep(0.2)


def is_dynamic(user: int) -> bool:
    return 61184 <= user <= 65519


def test_metrics_are_served(manager: Manager) -> None:
    manager.start("smcsock-metrics.service")
    wait_until_listening(9843)
    with urllib.request.urlopen("http://127.0.0.1:9843/metrics", timeout=LIMIT) as answer:
        lines = answer.read().decode().splitlines()
    assert "smc_up 1.0" in lines
    assert [
        line for line in lines if line.startswith("smc_read_error") and line[-3:] != "0.0"
    ] == []
    assert is_dynamic(manager.main_user("smcsock-metrics.service"))
    manager.stop("smcsock-metrics.service")
    assert manager.property("smcsock-metrics.service", "Result") == "success"


def test_timer_writes_the_textfile(manager: Manager) -> None:
    directory = Path("/var/lib/prometheus/node-exporter")
    directory.mkdir(parents=True, exist_ok=True)
    os.chown(directory.parent, 65534, 65534)  # Debian's package gives it to the user prometheus
    manager.start("smcsock-textfile.timer")
    path = directory / "smcsock.prom"
    deadline = time.monotonic() + LIMIT
    while not path.exists():
        assert time.monotonic() < deadline, manager.journal("smcsock-textfile.service")
        time.sleep(0.5)
    manager.stop("smcsock-textfile.timer")
    assert "smc_up 1.0" in path.read_text().splitlines()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    path.unlink()


SERVICE = """\
import socket

with socket.create_server(("127.0.0.1", 4949)) as listener:
    while True:
        with listener.accept()[0] as conn:
            conn.sendall(conn.recv(100))
"""


def unit_of(page: str, place: str = "") -> str:
    """The first unit on a page that is a service, and is for that place."""
    found: list[str] = re.findall(rf"```ini\n{place}((?:\[Unit\]|\[Service\])\n.*?)```", page, re.S)
    return next(unit for unit in found if "Type=oneshot" not in unit)


def is_smcd(client: socket.socket, port: int) -> bool:
    """Whether both ends of a client's connection to a port are."""
    ports = {port, client.getsockname()[1]}
    ends = [info.mode for info in diag.sockets() if info.peer and info.peer[1] in ports]
    return ends == [Mode.SMCD, Mode.SMCD]


def test_a_service_in_python_is_over_smc_and_reports_to_the_journal(manager: Manager) -> None:
    Path("/opt/smcsock/service.py").write_text(SERVICE)
    text = unit_of((DOCS / "systemd.md").read_text())
    before = "/opt/app/bin/python /opt/app/service.py"
    assert before in text
    after = "/opt/smcsock/bin/smcsock run --report /opt/smcsock/service.py"
    (manager.units / "app.service").write_text(text.replace(before, after))
    manager.run("systemctl", "daemon-reload")
    manager.start("app.service")
    wait_until_listening(4949)
    with smcsock.create_connection(("127.0.0.1", 4949), LIMIT) as client:
        assert is_smcd(client, 4949)
        client.sendall(b"data")
        assert client.recv(100) == b"data"
    assert is_dynamic(manager.main_user("app.service"))
    manager.stop("app.service")
    deadline = time.monotonic() + LIMIT
    while "accepted" not in (journal := manager.journal("app.service")):
        assert time.monotonic() < deadline, journal
        time.sleep(0.5)
    assert re.search(r"^smcsock: +1 accepted +SMC-D", journal, re.M), journal


@pytest.fixture
def redis(manager: Manager) -> Iterator[str]:
    """Debian's unit with the drop-in file that docs/native.md has."""
    unit = "redis-server.service"
    if not (SYSTEM / unit).exists():
        pytest.skip("redis-server is not installed")
    place = f"{unit}.d/smc.conf"
    file = manager.units / place
    file.parent.mkdir()
    file.write_text(unit_of((DOCS / "native.md").read_text(), f"# /etc/systemd/system/{place}\n"))
    manager.run("systemctl", "daemon-reload")
    manager.start(unit)
    yield unit
    manager.stop(unit)


def test_a_unit_with_a_drop_in_file_is_over_smc(manager: Manager, redis: str) -> None:
    with smcsock.create_connection(("127.0.0.1", 6379), LIMIT) as client:
        client.sendall(b"PING\r\n")
        assert client.recv(100) == b"+PONG\r\n"
        assert is_smcd(client, 6379)
    program = manager.property(redis, "MainPID")
    assert manager.run("readlink", f"/proc/{program}/exe").strip().startswith("/usr/bin/redis")
