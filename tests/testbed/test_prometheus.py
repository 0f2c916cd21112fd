"""Prometheus from its module scrapes, answers queries and fires alerts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import prometheus_client
import pytest
import yaml

from tests.testbed import build, process, prometheus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # the first of them compiles the server

DEADLINE_S = 20.0


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    build.binary("prometheus")


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[process.Group]:
    group = process.Group(tmp_path / "logs")
    yield group
    group.close()


@pytest.fixture
def gauge() -> Iterator[tuple[prometheus_client.Gauge, int]]:
    """A gauge of this process, and the port that serves it."""
    registry = prometheus_client.CollectorRegistry()
    made = prometheus_client.Gauge("muster_gangs_waiting", "of the test", registry=registry)
    server, thread = prometheus_client.start_http_server(0, addr="127.0.0.1", registry=registry)
    yield made, server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_scraped_gauge_can_be_queried(
    parts: process.Group, tmp_path: Path, gauge: tuple[prometheus_client.Gauge, int]
) -> None:
    gauge[0].set(7)
    running = prometheus.start(parts, tmp_path, [prometheus.static("test", f"127.0.0.1:{gauge[1]}")])
    _until(lambda: running.value("muster_gangs_waiting") == 7)
    assert [target["health"] for target in running.targets()] == ["up"]
    assert running.value("no_such_metric") is None


def test_an_alert_fires_when_its_rule_holds(
    parts: process.Group, tmp_path: Path, gauge: tuple[prometheus_client.Gauge, int]
) -> None:
    rules = tmp_path / "rules.yaml"
    rule = {"alert": "GangsWait", "expr": "muster_gangs_waiting > 5"}
    rules.write_text(yaml.safe_dump({"groups": [{"name": "muster", "rules": [rule]}]}))
    running = prometheus.start(parts, tmp_path, [prometheus.static("test", f"127.0.0.1:{gauge[1]}")], [rules])
    _until(lambda: running.value("muster_gangs_waiting") == 0)
    assert not running.alerts()
    gauge[0].set(6)
    _until(lambda: [alert["labels"]["alertname"] for alert in running.alerts()] == ["GangsWait"])


def _until(holds: object) -> None:
    assert callable(holds)
    for _ in process.until(DEADLINE_S):
        with contextlib.suppress(OSError):
            if holds():
                return
    pytest.fail(f"not so within {DEADLINE_S:.0f} s")
