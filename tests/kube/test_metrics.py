"""What the scheduler says of itself in `/metrics`, while it works on the embedded API server."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from scheduler import app
from scheduler.apiserver import client, errors
from scheduler.kube import pens, world
from scheduler.metrics import requests
from scheduler.web import server
from tests.kube import live
from tests.testbed import embedded, ports
from tests.web import given


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    async with live.cluster(tmp_path) as found:
        yield found


def value(home: live.Cluster, name: str, **labels: str) -> float | None:
    assert home.scheduler is not None
    return home.scheduler.meters.registry.get_sample_value(f"muster_{name}", labels)


async def reaches(home: live.Cluster, wanted: float, name: str, **labels: str) -> None:
    async def ask() -> bool:
        return value(home, name, **labels) == wanted

    await home.until(ask)


def pods(gang: str, count: int) -> list[dict[str, object]]:
    return [live.pod(f"{gang}-{i}", gang, count) for i in range(count)]


async def test_a_gang_is_measured_from_its_last_pod_to_its_binding(home: live.Cluster) -> None:
    await home.start()
    await home.create(*pods("g", 3))
    await home.bound("g-0", "g-1", "g-2")
    await reaches(home, 1, "gang_bound_seconds_count", waited="false")
    assert value(home, "gang_written_seconds_count", waited="false") == 1
    assert 0 < (value(home, "gang_written_seconds_sum", waited="false") or 0) < 10
    assert value(home, "plan_pods_sum") == 3
    assert value(home, "decision_duration_seconds_count", outcome="start") == 1
    for stage in ("free", "record", "claims", "release", "status", "write"):
        assert value(home, "write_duration_seconds_count", stage=stage, result="ok") == 1, stage
    assert value(home, "api_requests_total", verb="replace", resource="resourceclaims/status", code="200") == 3
    assert value(home, "api_requests_total", verb="create", resource="gangplacements", code="201") == 1
    assert (value(home, "turn_duration_seconds_count") or 0) >= 2


async def test_the_fleet_is_told_by_model_state_and_level(home: live.Cluster) -> None:
    await home.start()
    model = "H100-SXM5-80GB"
    assert value(home, "gpus", model=model, state="free") == 32
    await home.create(*pods("g", 3))
    await home.bound("g-0", "g-1", "g-2")
    assert value(home, "gpus", model=model, state="used") == 24
    assert value(home, "gpus", model=model, state="free") == 8
    assert value(home, "domain_free_gpus_max", level="rack", model=model) == 8
    assert value(home, "idle_domains", level="node", model=model) == 1
    assert value(home, "domains", level="node", model=model) == 4
    assert value(home, "placed_gangs", level="rack") == 1
    assert value(home, "tenant_gpus", tenant="default") == 24
    assert value(home, "tenant_share_ratio", tenant="default") == 0.75
    assert home.scheduler is not None and home.scheduler.shell is not None
    predicted = home.scheduler.shell.machine.held["default/gang-g"].placement.bandwidth_mb_s
    assert predicted > 0
    found = value(home, "predicted_bandwidth_bytes_per_second", level="rack", statistic="min")
    assert found == predicted * 1e6


async def test_who_waits_is_told_with_the_reason_and_how_long(home: live.Cluster) -> None:
    await home.start()
    await home.create(*pods("first", 3))
    await home.bound("first-0", "first-1", "first-2")
    await home.create(*pods("second", 2))
    await reaches(home, 1, "gangs", state="Waiting")
    assert value(home, "waiting_gangs", reason="InsufficientGPUs", tenant="default") == 1
    before = value(home, "oldest_wait_seconds", tenant="default")
    await asyncio.sleep(0.1)
    after = value(home, "oldest_wait_seconds", tenant="default")
    assert before is not None and after is not None and 0.1 <= after - before < 5
    for i in range(3):
        await home.api.delete(f"/api/v1/namespaces/default/pods/first-{i}")
    await home.bound("second-0", "second-1")
    await reaches(home, 1, "gang_bound_seconds_count", waited="true")
    assert value(home, "waiting_gangs", reason="InsufficientGPUs", tenant="default") is None
    assert value(home, "gang_bound_seconds_count", waited="false") == 1


class Faulty(client.Client):
    """Refuses requests on one resource, so many times."""

    method, ending, status, times, refused = "", "", 0, 0, 0

    async def open(self, method: str, path: str, *rest: object, **more: object) -> object:
        watches = "watch" in (more.get("params") or {})
        asked = "WATCH" if watches else method
        if asked == self.method and path.endswith(self.ending) and self.refused < self.times:
            self.refused += 1
            raise errors.ApiError(self.status, "Test", "refused by the test")
        return await super().open(method, path, *rest, **more)


async def test_a_plan_that_fails_is_counted(home: live.Cluster) -> None:
    async with await Faulty.connect(home.kubeconfig) as api:
        api.method, api.ending, api.status, api.times = "POST", "gangplacements", 422, 1
        inner, home.api = home.api, api
        await home.start()
        home.api = inner
        await home.create(*pods("g", 2))
        await home.bound("g-0", "g-1")
        await reaches(home, 1, "write_duration_seconds_count", stage="write", result="ok")
        assert value(home, "failed_plans_total") == 1
        assert value(home, "write_duration_seconds_count", stage="record", result="failed") == 1
        assert value(home, "api_requests_total", verb="create", resource="gangplacements", code="422") == 1
        await home.stop()


async def test_a_broken_watch_of_a_quiet_kind_is_young_again_when_it_is_open(tmp_path: Path) -> None:
    async with embedded.Server("1.37") as server:
        path = server.kubeconfig(tmp_path / "kubeconfig")
        async with await Faulty.connect(path) as api:
            api.method, api.ending, api.status, api.times = "WATCH", "/nodes", 500, 3
            one = app.Scheduler(app.configs.Config(leader_elect=False, port=0), api, "test")
            known, told = world.World(api), one.meters.watches
            known.store.heard = told.heard
            one.shell = type("Shell", (), {"known": known})()  # all that the watches' metrics ask of a shell
            task = asyncio.create_task(known.store.run())
            try:
                await known.store.wait_synced(10)
                await until(lambda: api.refused >= 1)
                await until(lambda: age(told, "nodes") > 0)
                assert age(told, "pods") == 0 and "nodes" in known.store.trouble
                await until(lambda: age(told, "nodes") == 0)
                assert api.refused == 3 and "nodes" not in known.store.trouble
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            count = one.meters.registry.get_sample_value
            assert count("muster_mirror_interruptions_total", {"kind": "nodes"}) == 3
            assert count("muster_mirror_interruptions_total", {"kind": "pods"}) == 0


def age(told: object, kind: str) -> float:
    for family in told.collect():
        for sample in family.samples:
            if sample.name == "muster_mirror_age_seconds" and sample.labels["kind"] == kind:
                return float(sample.value)
    raise AssertionError(f"no age of {kind}")


async def until(ask: object) -> None:
    async with asyncio.timeout(20):
        while not ask():
            await asyncio.sleep(0.005)


async def test_writes_of_a_term_that_has_ended_are_counted() -> None:
    refused: list[int] = []
    pen = pens.Pen(None, 3, leads=lambda: False, fenced=lambda: refused.append(1))
    with pytest.raises(pens.Fenced):
        await pen.patch("/api/v1/namespaces/ml/pods/w-0", {})
    with pytest.raises(pens.Fenced):
        pen.check({"metadata": {"annotations": {pens.TERM: "4"}}})
    pen.check({"metadata": {"annotations": {pens.TERM: "3"}}})
    assert len(refused) == 2


async def test_the_server_tells_all_of_them(home: live.Cluster) -> None:
    [port] = ports.free(1)
    await home.start(port=port)
    text = await asyncio.to_thread(fetch, f"http://127.0.0.1:{port}/metrics")
    assert 'muster_gpus{model="H100-SXM5-80GB",state="free"} 32.0' in text
    assert "muster_leader 1.0" in text
    assert "_created" not in text


async def test_answers_of_filter_are_counted_by_how_many_nodes_are_left() -> None:
    face = server.Face(lambda: None)
    deciding = given.decided(3)
    for names, gpus in ((["n-0", "n-1"], 1), (["n-0", "elsewhere"], 1), (["n-0"], 99), (["n-2"], 99)):
        face._filter(deciding, given.body(names, gpus))
    count = face.metrics.registry.get_sample_value
    told = {word: count("muster_extender_verdicts_total", {"verdict": word}) for word in server.VERDICTS}
    assert told == {"all": 1, "some": 1, "none": 2}


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/api/v1/pods", "pods"),
        ("/api/v1/namespaces/ml/pods/w-0/status", "pods/status"),
        ("/apis/muster.dev/v1alpha1/namespaces/ml/gangplacements/gang-x", "gangplacements"),
        ("/api/v1/namespaces/ml", "namespaces"),
        ("/api/v1/nodes/status", "nodes"),
        ("/version", "other"),
    ],
)
def test_a_resource_is_read_from_the_path(path: str, wanted: str) -> None:
    assert requests.resource(path) == wanted
