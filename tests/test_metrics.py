"""smcsock metrics, and what comes with it in contrib."""

import contextlib
import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import conftest
import pytest
from command import invocation
from conftest import SMC, VM_MODE, on_host, slow
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as parse_plain
from test_diag_cli import Shell, parser, shell
from test_signals import SlowHandshake, one_signal_when
from test_smc_info import NOBODY, in_child, need_root
from test_socket import LIMIT
from test_socket import time_limit as time_limit
from test_timeouts import slow_loopback

from smcsock import Mode, State, diag, has_smc
from smcsock._kernel._reasons import reason
from smcsock._metrics import FallbackReasons, last_reasons
from smcsock.diag import Direction, Fallback, Sizes, Stats, Technology

__all__ = ["parser", "shell"]

CONTRIB = Path(__file__).resolve().parent.parent / "contrib"
NOSMCDEV = 0x03030000
LONG = 500
"""Seconds until a test fails that has a Prometheus started in a guest."""


class ByLabels(dict[tuple[str, ...], float]):
    """Values by those of the labels, in whatever order: prometheus_client writes them by name."""

    def __setitem__(self, labels: tuple[str, ...], value: float) -> None:
        super().__setitem__(tuple(sorted(labels)), value)

    def __getitem__(self, labels: tuple[str, ...]) -> float:
        return super().__getitem__(tuple(sorted(labels)))


def samples(text: str, *, openmetrics: bool = True) -> dict[str, ByLabels]:
    """Values by name and by the labels' values."""
    found: dict[str, ByLabels] = {}
    parse = text_string_to_metric_families if openmetrics else parse_plain
    for family in parse(text):
        for sample in family.samples:
            found.setdefault(sample.name, ByLabels())[tuple(sample.labels.values())] = sample.value
    return found


def test_metrics_agree_with_diag(shell: Shell, smc_mode: Mode) -> None:
    with SMC.pair() as (client, _):
        client.sendall(b"x" * 10000)
        before = diag.stats()
        found = samples(shell.output("metrics"))
        after = diag.stats()
    assert (found["smc_up"][()], set(found["smc_read_error"].values())) == (1, {0})
    for name in ("smcd", "smcr"):
        low, high = getattr(before, name), getattr(after, name)
        shown = found["smc_connections_total"][name, "client", "2"]
        assert low.client_v2 <= shown <= high.client_v2
        assert low.sent.bytes <= found["smc_bytes_total"][name, "sent"] <= high.sent.bytes
        sizes = found["smc_request_size_bytes_bucket"]
        assert sizes[name, "sent", "+Inf"] >= sizes[name, "sent", "8192"]
        assert sizes[name, "sent", "+Inf"] == sum(dataclasses.astuple(low.sent.request_sizes))
    assert found["smc_fallbacks_total"]["client",] >= before.client_fallbacks
    mode = smc_mode.replace("-", "").lower()
    assert found["smc_sockets"]["active", mode] >= 2
    if smc_mode is Mode.TCP:
        assert found["smc_fallback_reasons_modulo_65536"]["client", "0x03030000", "NOSMCDEV"] > 0
    else:
        assert any(mode in labels for labels in found["smc_link_groups"])
    if smc_mode is Mode.SMCR:
        assert found["smc_port_active"]["rxe0", "1", "lo", ""] == 1
        assert sum(found["smc_links"].values()) == len(diag.links())


def test_metrics_need_no_privilege(shell: Shell, smc_mode: Mode) -> None:
    need_root()

    def ask() -> str:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        return repr(samples(shell.output("metrics"))["smc_read_error"])

    assert set(eval(in_child(ask)).values()) == {0}


def test_metrics_of_a_kernel_without_smc(shell: Shell) -> None:
    if has_smc():
        pytest.skip("this kernel has SMC")
    found = samples(shell.output("metrics"))
    assert (found["smc_up"], found["smc_read_error"]) == ({(): 0}, {("system",): 1})


def test_file_is_replaced_whole_and_readable(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "smcsock.prom"
    path.write_text("what was there")
    assert shell.output(f"metrics --output {path}") == ""
    assert path.stat().st_mode & 0o777 == 0o644
    assert samples(path.read_text(), openmetrics=False)["smc_up"] == {(): int(has_smc())}
    assert list(tmp_path.iterdir()) == [path]
    status, out, err = shell.run(f"metrics --output {tmp_path}/no/such.prom")
    assert (status, out) == (1, "")
    assert err.startswith(f"smcsock: cannot write {tmp_path}/no/such.prom: No such file")


@on_host
@pytest.mark.parametrize("address", ["9843", "localhost:x", "[::1]:70000"])
def test_wrong_address_to_listen_on(address: str, shell: Shell) -> None:
    status, _, err = shell.run(f"metrics --listen {address}")
    assert (status, "not a" in err.lower()) == (2, True)


# ----- fallbacks by reason


SIZES = Sizes(*[0] * 9)
NO_DATA = Direction(0, 0, SIZES, SIZES, *[0] * 8)
NONE = Technology(0, 0, 0, 0, NO_DATA, NO_DATA, 0, 0, 0, 0, 0)


def made_up(count: int, total: int, code: int = NOSMCDEV) -> Stats:
    return Stats(NONE, NONE, 0, 0, total, 0, (Fallback("client", reason(code), count % 65536),))


@on_host
def test_counters_of_reasons_do_not_wrap() -> None:
    key = "client", NOSMCDEV
    reasons = FallbackReasons()
    for count in (65000, 65535, 65536, 70000, 130000, 131072):
        reasons.read(made_up(count, count))
        assert reasons.counts == {key: count}
    reasons.read(made_up(5, 5))  # the module was loaded anew
    assert reasons.counts == {key: 5}


@on_host
def test_counters_of_reasons_begin_with_the_process() -> None:
    key = "client", NOSMCDEV
    reasons = FallbackReasons.from_now_on(made_up(70000, 70000))
    assert reasons.counts == {key: 0}
    reasons.read(made_up(70010, 70010))
    assert reasons.counts == {key: 10}


@on_host
def test_counters_of_reasons_go_on_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "smcsock.prom"
    assert last_reasons(path).counts == {}
    path.write_text(
        'smc_fallbacks_total{role="client"} 65540.0\n'
        'smc_fallback_reasons_total{role="client",code="0x03030000",reason="NOSMCDEV"} 65540.0\n'
    )
    reasons = last_reasons(path)
    reasons.read(made_up(65550, 65550))
    assert reasons.counts == {("client", NOSMCDEV): 65550}
    path.write_text("}{")
    assert last_reasons(path).counts == {}


# ----- as a service


@contextlib.contextmanager
def listening() -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The URL of a server of metrics, and its process."""
    process = subprocess.Popen(
        **invocation("metrics", "--listen", "127.0.0.1:0", env=dict(os.environ)),
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith("smcsock: metrics at http://127.0.0.1:"), line
            yield line.rpartition(" ")[2].strip(), process
        finally:
            process.kill()


@slow
def test_server_answers_many_and_ends_with_sigterm() -> None:
    with listening() as (url, process):
        texts: list[str] = []

        def ask() -> None:
            with urllib.request.urlopen(url, timeout=LIMIT) as answer:
                texts.append(answer.read().decode())

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
    assert len(texts) == 4
    for text in texts:
        assert samples(text, openmetrics=False)["smc_up"] == {(): int(has_smc())}


@on_host
def test_port_that_is_taken(shell: Shell) -> None:
    with SMC.tcp_socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, err = shell.run(f"metrics --listen 127.0.0.1:{port}")
    assert (status, os.strerror(errno.EADDRINUSE) in err) == (1, True)


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def dashboard() -> list[str]:
    """What the dashboard asks for, of all hosts and the last ten minutes."""
    board = json.loads((CONTRIB / "grafana/smcsock.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return [text.replace("$__rate_interval", "10m").replace("$instance", ".*") for text in asked]


@on_host
def test_alert_rules() -> None:
    need("promtool")
    directory = CONTRIB / "prometheus"
    for words in (
        ["check", "rules", "smcsock.rules.yml"],
        ["test", "rules", "smcsock.rules.test.yml"],
    ):
        done = subprocess.run(["promtool", *words], cwd=directory, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@on_host
def test_metrics_are_named_as_prometheus_wants(shell: Shell, tmp_path: Path) -> None:
    need("promtool")
    shell.output(f"metrics --output {tmp_path}/x.prom")
    with open(tmp_path / "x.prom") as file:
        done = subprocess.run(
            ["promtool", "check", "metrics"], stdin=file, capture_output=True, text=True
        )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@on_host
@pytest.mark.parametrize("name", ["smcsock-metrics.service", "smcsock-textfile.service"])
def test_units_are_hardened(name: str, tmp_path: Path) -> None:
    need("systemd-analyze")
    for path in (CONTRIB / "systemd").iterdir():
        shutil.copy(path, tmp_path)
    unit = str(tmp_path / name)
    for words in (["verify", unit], ["security", "--offline=true", "--threshold=20", unit]):
        done = subprocess.run(["systemd-analyze", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert words[0] != "verify" or done.stderr == ""


def nonzero(values: Mapping[tuple[str, ...], float]) -> ByLabels:
    """The same without what is 0, and without empty labels, which Prometheus drops."""
    found = ByLabels()
    for labels, value in values.items():
        if value:
            found[tuple(filter(None, labels))] = value
    return found


class Answers:
    """What a real Prometheus answers; ``ask`` gets the vector of a query."""

    def __init__(self, ask: Any) -> None:
        self._ask = ask

    def values(self, query: str) -> ByLabels:
        """Values by those of the labels, but for what Prometheus itself adds."""
        added = ("__name__", "instance", "job")
        return nonzero(
            {
                tuple(value for name, value in entry["metric"].items() if name not in added): float(
                    entry["value"][1]
                )
                for entry in self._ask(query)
            }
        )

    def wait_for(self, query: str, expected: Any) -> None:
        """Fails if that is not the answer in the end."""
        deadline = time.monotonic() + LIMIT * 4
        while (found := self.values(query)) != expected:
            assert time.monotonic() < deadline, f"{query}: {found}, not {expected}"
            time.sleep(0.5)


@slow
def test_prometheus_of_a_kernel_without_smc(tmp_path: Path) -> None:
    need("prometheus")
    if has_smc():
        pytest.skip("this kernel has SMC")
    with conftest.time_limit(LONG), listening() as (url, _), prometheus(url, tmp_path) as ask:
        alert = tuple(sorted(("SmcUnavailable", "pending", "warning")))
        Answers(ask).wait_for("ALERTS", {alert: 1})
        for text in dashboard():
            ask(text)


@slow
def test_prometheus_answers_the_dashboards_queries(smc_mode: Mode, tmp_path: Path) -> None:
    """Each with what smcsock.diag counts of connections, fallbacks and errors made here."""
    need("prometheus")
    fall_back(1, 1)  # a reason that is new has no rate as yet
    with (
        conftest.time_limit(LONG),
        listening() as (url, _),
        prometheus(url, tmp_path) as ask,
        contextlib.ExitStack() as stack,
    ):
        answers = Answers(ask)
        before = diag.stats()
        answers.wait_for("sum(smc_connections_total)", {(): connections(before)})
        for _ in range(8):
            client, _ = stack.enter_context(SMC.pair())
            for _ in range(10):
                client.sendall(b"x" * 100)
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                client.send(bytes(100_000))
        fall_back(6, 4)
        fail_a_handshake()
        after = diag.stats()
        answers.wait_for("sum(smc_connections_total)", {(): connections(after)})
        # With more samples it matters less how Prometheus extrapolates to ten minutes.
        answers.wait_for("count_over_time(smc_up[10m]) >= bool 8", {(): 1})
        alert = tuple(sorted(("SmcFallbackRatio", "pending", "warning")))
        answers.wait_for("ALERTS", {alert: 1})
        check_dashboard(answers, before, after)


def connections(counted: Stats) -> int:
    return counted.smcd.connections + counted.smcr.connections


def fall_back(clients: int, servers: int) -> None:
    """Connections of which one end is TCP."""
    with SMC.tcp_socket() as listener:
        listener.bind((SMC.host, 0))
        listener.listen()
        for _ in range(clients):
            with SMC.open() as client:
                client.connect(listener.getsockname())
    with SMC.listener() as listener:
        for _ in range(servers):
            with SMC.tcp_socket() as client:
                client.connect(listener.getsockname())
                listener.accept()[0].close()


def fail_a_handshake() -> None:
    """A signal ends it, where it can be made to take that long."""
    if VM_MODE is None:
        return
    with (
        SMC.listener() as listener,
        slow_loopback(),
        SMC.open() as client,
        one_signal_when(SlowHandshake(listener).has_begun),
    ):
        assert client.connect_ex(listener.getsockname()) == errno.EINTR


def check_dashboard(answers: Answers, before: Stats, after: Stats) -> None:
    counted = after.since(before)
    made = counted.smcd.client_v2 + counted.smcd.server_v2
    fell = {("client",): counted.client_fallbacks, ("server",): counted.server_fallbacks}
    assert (made, counted.client_fallbacks >= 6, counted.server_fallbacks >= 4) == (16, True, True)
    directions = {"sent": counted.smcd.sent, "received": counted.smcd.received}
    sockets = Counter(
        (str(info.mode or "undecided").replace("-", "").lower(), State(info.state).name.lower())
        for info in diag.sockets()
        if info.state is not None
    )
    a_second = answers.values('rate(smc_connections_total{role="client"}[10m])')
    second = counted.smcd.client_v2 / a_second["smcd", "client", "2"]
    rates: dict[str, Mapping[Any, float]] = {
        "connections": {("smcd", "client"): made / 2, ("smcd", "server"): made / 2},
        "fallbacks": fell,
        "fallback_reasons": {
            (entry.role, f"0x{entry.reason.code:08x}", entry.reason.name): entry.count
            for entry in counted.fallbacks
        },
        "bytes": {("smcd", way): of.bytes for way, of in directions.items()},
        "requests": {("smcd", way): of.requests for way, of in directions.items()},
        "buffer_full": {
            ("smcd", way, end): count
            for way, of in directions.items()
            for end, count in (("local", of.full), ("peer", of.peer_full))
        },
        "buffer_too_small": {
            ("smcd", way, end): count
            for way, of in directions.items()
            for end, count in (("local", of.too_small), ("peer", of.peer_too_small))
        },
        "handshake_errors": {
            ("client",): counted.client_handshake_errors,
            ("server",): counted.server_handshake_errors,
        },
    }
    gauges: dict[str, Mapping[Any, float]] = {
        "smc_up": {(): 1},
        "sum(smc_link_groups{": {},
        "count(smc_port_active": {},
        "sum by (technology, direction) (smc_buffer_usage_bytes": {
            ("smcd", "sent"): after.smcd.sent.buffer_bytes or 0,
            ("smcd", "received"): after.smcd.received.buffer_bytes or 0,
        },
        "sum by (mode, state) (smc_sockets": sockets,
        "sum by (technology, type) (smc_link_groups": {
            ("smcd", ""): sum(isinstance(of, diag.SmcdLinkGroup) for of in diag.link_groups())
        },
        "sum by (device, port, state) (smc_links": {},
        "smc_port_active": {},
    }
    for query in dashboard():
        if query.startswith("sum(rate(smc_fallbacks_total"):
            share = sum(fell.values()) / (sum(fell.values()) + made)
            answers.wait_for(query, {(): pytest.approx(share, rel=0.1)})
        elif query.startswith("histogram_quantile(0.5,"):
            assert 0 < answers.values(query)["smcd", "sent"] <= 8192
        elif query.startswith("histogram_quantile(0.99,"):
            assert 65536 < answers.values(query)["smcd", "sent"] <= 131072
        elif name := re.search(r"rate\(smc_(\w+)_total", query):
            expected = {of: count / second for of, count in rates[name[1]].items()}
            answers.wait_for(query, pytest.approx(nonzero(expected), rel=0.2))
        else:
            (values,) = [value for start, value in gauges.items() if query.startswith(start)]
            answers.wait_for(query, nonzero(values))


@contextlib.contextmanager
def prometheus(url: str, directory: Path) -> Iterator[Any]:
    """A Prometheus that scrapes a URL: what asks it a question."""
    with SMC.tcp_socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    target = urllib.parse.urlsplit(url).netloc
    shutil.copy(CONTRIB / "prometheus/smcsock.rules.yml", directory)
    config = directory / "prometheus.yml"
    config.write_text(
        "global: {evaluation_interval: 2s}\n"
        "rule_files: [smcsock.rules.yml]\n"
        "scrape_configs:\n"
        f"  - {{job_name: smc, scrape_interval: 4s, scrape_timeout: 4s, "
        f"static_configs: [{{targets: ['{target}']}}]}}\n"
    )
    with open(directory / "log", "w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={directory}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )

    def ask(query: str) -> Any:
        words = urllib.parse.urlencode({"query": query})
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/api/v1/query?{words}", timeout=LIMIT
            ) as answer:
                found = json.load(answer)
        except ConnectionError:  # not up yet
            assert process.poll() is None, (directory / "log").read_text()
            return []
        except urllib.error.HTTPError as error:
            if error.code == 503:  # not ready yet
                return []
            raise AssertionError(f"{query}: {error.read().decode()}") from None
        except urllib.error.URLError:
            assert process.poll() is None, (directory / "log").read_text()
            return []
        assert found["status"] == "success"
        return found["data"]["result"]

    with process:
        try:
            yield ask
        finally:
            process.terminate()
