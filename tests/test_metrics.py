"""smcsock metrics, and what comes with it in contrib."""

import contextlib
import dataclasses
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import invocation
from conftest import SMC, on_host, slow
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as parse_plain
from test_diag_cli import Shell, parser, shell
from test_smc_info import NOBODY, in_child, need_root
from test_socket import LIMIT
from test_socket import time_limit as time_limit

from smcsock import Mode, diag, has_smc
from smcsock._kernel._reasons import reason
from smcsock._metrics import FallbackReasons, last_reasons
from smcsock.diag import Direction, Fallback, Sizes, Stats, Technology

__all__ = ["parser", "shell"]

CONTRIB = Path(__file__).resolve().parent.parent / "contrib"
NOSMCDEV = 0x03030000


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
    assert (status, "Address already in use" in err) == (1, True)


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def expressions() -> list[str]:
    """What the dashboard and the alerts ask for."""
    board = json.loads((CONTRIB / "grafana/smcsock.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked = [text.replace("$__rate_interval", "1m").replace("$instance", ".*") for text in asked]
    rules = (CONTRIB / "prometheus/smcsock.rules.yml").read_text()
    return asked + re.findall(r"expr: (?!\|)(.*)", rules)


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


@slow
def test_prometheus_scrapes_and_answers_the_dashboards_queries(tmp_path: Path) -> None:
    need("prometheus")
    with listening() as (url, _), prometheus(url, tmp_path) as ask, contextlib.ExitStack() as stack:
        deadline = time.monotonic() + LIMIT * 4
        while not (up := ask("smc_up")) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert [entry["value"][1] for entry in up] == [str(int(has_smc()))]
        if has_smc():
            stack.enter_context(SMC.pair())
            known = {entry["metric"]["__name__"] for entry in ask('{__name__=~"smc_.*"}')}
            for text in expressions():
                ask(text)
                names = set(re.findall(r"\bsmc_\w+", text))
                optional = {
                    "smc_links",
                    "smc_port_active",
                    "smc_fallback_reasons_total",
                    "smc_sockets",
                }
                assert names <= known | optional | {"smc_link_groups"}
        else:
            for text in expressions():
                ask(text)


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
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
        "rule_files: [smcsock.rules.yml]\n"
        "scrape_configs:\n"
        f"  - {{job_name: smc, scrape_interval: 2s, scrape_timeout: 2s, "
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
