"""A real Prometheus scrapes a working scheduler: every query of the tables is understood, and the alerts fire in time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kube import live, test_metrics_docs
from tests.testbed import build, ports, process, prometheus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # the first of them compiles Prometheus

RULES = Path(__file__).parents[2] / "deploy/scheduler/alerts.yaml"


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    build.binary("prometheus")


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    async with live.cluster(tmp_path) as found:
        [port] = ports.free(1)
        found.settings["port"] = port
        yield found


def rules(folder: Path) -> Path:
    """Write our rules so that they do not wait until they fire, and days are seconds."""
    found = yaml.safe_load(RULES.read_text())
    for group in found["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
            rule["expr"] = rule["expr"].replace("> 86400", "> 2").replace("> 60", "> 2")
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump(found))
    return path


async def until(ask: Callable[[], Any], wait_s: float = 30.0) -> Any:
    """Return the first true answer; asked beside the loop on which the scheduler serves."""
    async with asyncio.timeout(wait_s):
        while not (found := await asyncio.to_thread(ask)):
            await asyncio.sleep(0.2)
    return found


def firing(running: prometheus.Prometheus) -> dict[str, dict[str, str]]:
    return {one["labels"]["alertname"]: one["labels"] for one in running.alerts() if one["state"] == "firing"}


async def test_prometheus_reads_metrics_queries_and_alerts(home: live.Cluster, tmp_path: Path) -> None:
    port = home.settings["port"]
    await home.start(port=port)
    await home.create(*(live.pod(f"w-{i}", "g", 3) for i in range(3)))
    await home.bound("w-0", "w-1", "w-2")
    parts = process.Group(tmp_path / "logs")
    try:
        scrape = [prometheus.static("scheduler", f"127.0.0.1:{port}")]
        # `start` waits for the child, not for its scrapes, so the loop may stand still meanwhile
        running = prometheus.start(parts, tmp_path / "prometheus", scrape, [rules(tmp_path)])
        await until(lambda: running.value("muster_leader") == 1)
        assert await asyncio.to_thread(running.value, 'sum(muster_gpus{state="used"})') == 24
        for row in test_metrics_docs.rows():
            await asyncio.to_thread(running.query, row.query)  # an error of syntax or of types is an HTTP 400
        await until(lambda: not firing(running))
        await home.create(*(live.pod(f"x-{i}", "h", 2) for i in range(2)))
        found = await until(lambda: firing(running).get("MusterGangWaitsLong"))
        assert found["tenant"] == "default"
        assert (await asyncio.to_thread(firing, running)).keys() == {"MusterGangWaitsLong"}, "nothing else is wrong"
        await home.stop()
        await until(lambda: "MusterNoLeader" in firing(running))
    finally:
        await asyncio.to_thread(parts.close)
