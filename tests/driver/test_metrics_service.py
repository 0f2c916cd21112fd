"""The HTTP side, the names of tenants and the counters of the driver's own work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from dra_driver import app, checkpoint, claim, claims_api, config, inventory, mig, registration
from dra_driver.health import source, taints, watcher
from dra_driver.metrics import server, service, tenants, work
from dra_driver.probe import interface
from scheduler.apiserver import access, client, errors
from tests.driver import conftest, host, metrics, objects
from tests.driver.test_metrics import entry, whole
from tests.driver.test_publisher import Api
from tests.testbed.embedded import server as embedded


async def until(holds: Callable[[], Any], deadline_s: float = 5.0) -> Any:
    async with asyncio.timeout(deadline_s):
        while not (found := holds()):
            await asyncio.sleep(0.01)
    return found


@contextlib.asynccontextmanager
async def background(*works: Callable[[], Any]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(each()) for each in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_the_tenant_is_the_pods_else_the_namespaces_else_its_name() -> None:
    async with embedded.Server(run=frozenset()) as home, client.Client(access.Access(home.url)) as api:
        for name, label in (("ml", "blue"), ("plain", "")):
            labels = {tenants.LABEL: label} if label else {}
            await api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
        container = {"name": "main", "image": "none"}
        for space, name, labels in (("ml", "own", {tenants.LABEL: "red"}), ("ml", "other", {}), ("plain", "p", {})):
            obj = {"metadata": {"name": name, "labels": labels}, "spec": {"containers": [container]}}
            await api.create(f"/api/v1/namespaces/{space}/pods", obj)
        pods = {("ml", "own"), ("ml", "other"), ("plain", "p"), ("plain", "gone")}
        asked = tenants.Tenants(api)
        async with background(asked.run):
            assert asked.of(pods) == {}, "a scrape does not wait"
            await until(lambda: len(asked.of(pods)) == 4)
            expected = {("ml", "own"): "red", ("ml", "other"): "blue", ("plain", "p"): "plain"}
            assert asked.of(pods) == expected | {("plain", "gone"): "plain"}
            assert asked.of({("ml", "own")}) == {("ml", "own"): "red"}, "what is gone is forgotten"


async def test_a_server_that_forbids_it_leaves_tenants_empty_and_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Forbidding:
        asked = 0

        async def get(self, path: str) -> Any:
            self.asked += 1
            if self.asked < 3:
                raise errors.ApiError(403, "Forbidden", "no")
            return {"metadata": {"labels": {tenants.LABEL: "blue"}}}

    monkeypatch.setattr(tenants, "RETRY_S", 0.01)
    api = Forbidding()
    asked = tenants.Tenants(api)
    async with background(asked.run):
        assert asked.of({("ml", "p")}) == {}
        await until(lambda: asked.of({("ml", "p")}))
    assert api.asked == 3


class Slow:
    """A plugin context, and a state that is cancelled or fails."""

    def time_remaining(self) -> float:
        return 10.0


async def test_calls_are_counted_by_code_and_claims_by_result(make_node: Callable[..., conftest.Node]) -> None:
    node = make_node()
    running = node.instance()
    measured = work.Work()
    running.plugin = work.Plugin(running.state, measured, prepared_claim=lambda entry: None, ended=measured.ended)
    await running.start()
    good = node.claims.add(objects.claim(1, "gpu-0"))
    bad = claim.Reference("default", "none", claim.ClaimUid(objects.uid(9)))
    async with node.kubelet() as calls:
        await calls.prepare(good, bad)
        await calls.prepare(good)
        await calls.unprepare(good)
    await running.stop()

    async def give_up(*_: object) -> Any:
        raise asyncio.CancelledError

    async def break_down(*_: object) -> Any:
        raise KeyError("defect")

    for broken, error in ((give_up, asyncio.CancelledError), (break_down, KeyError)):
        running.plugin.prepare = broken
        with pytest.raises(error):
            await running.plugin.serve("prepare", Slow(), [])
    said = measured.registry.get_sample_value
    method = {"method": "NodePrepareResources"}
    codes = {
        code: said("muster_dra_grpc_requests_total", method | {"code": code}) for code in ("OK", "CANCELLED", "UNKNOWN")
    }
    assert codes == {"OK": 2, "CANCELLED": 1, "UNKNOWN": 1}
    assert said("muster_dra_grpc_request_duration_seconds_count", method) == 4
    assert said("muster_dra_claims_total", method | {"result": "ok"}) == 2
    assert said("muster_dra_claims_total", method | {"result": "failed"}) == 1
    assert said("muster_dra_claims_total", {"method": "NodeUnprepareResources", "result": "ok"}) == 1
    assert said("muster_dra_grpc_requests_inflight", method) == 0


async def test_publications_are_timed_by_result() -> None:
    measured, api = work.Work(), Api()
    made = work.Publisher(api, "n1", host.DRIVER, measured)
    made.want(app.publisher.Wanted(host.machine(name="n1")))
    await made.publish()
    api.conflicts = 100
    made.want(app.publisher.Wanted(host.machine("dgx-1v", name="n1")))
    with pytest.raises(TimeoutError):
        await made.publish()
    counted = {
        result: measured.registry.get_sample_value("muster_dra_publish_duration_seconds_count", {"result": result})
        for result in ("ok", "failed")
    }
    assert counted == {"ok": 1, "failed": 1}


async def test_told_claims_are_forgotten_with_the_unprepare(tmp_path: Path) -> None:
    class Counting:
        def __init__(self) -> None:
            self.applied: list[str] = []

        async def apply(self, path: str, obj: Any, manager: str) -> None:
            self.applied.append(obj["metadata"]["uid"])

    api, (one, two) = Counting(), (entry(1, whole(0)), entry(2, whole(1)))
    status = claims_api.StatusWriter(api, host.DRIVER, host.Here(host.machine()))
    for each in (one, two):
        status.tell(each)
    store = checkpoint.Store(tmp_path)
    await store.change(lambda found: found.having(two))
    app._forget(status, store)
    assert set(status._told) == {"uid-2"}
    async with background(status.run):
        await until(lambda: api.applied)
        await asyncio.sleep(0.05)
    assert api.applied == ["uid-2"], "the status of a claim that is gone is not written"
    store.path.write_bytes(b"{")
    app._forget(status, store)
    assert set(status._told) == {"uid-2"}


class Probe:
    """GPUs that do nothing."""

    def __init__(self, found: interface.Discovered) -> None:
        self.found = found

    def discover(self) -> interface.Discovered:
        return self.found

    def reading(self, gpu_uuid: str) -> interface.Reading:
        return interface.Reading(gpu_uuid, utilization=5)


async def test_the_watcher_keeps_mig_instances_and_last_xids(tmp_path: Path) -> None:
    class Cut(Probe):
        made: list[mig.Instance] | None = None

        def instances(self, gpu_uuid: str) -> list[mig.Instance]:
            if self.made is None:
                raise mig.HardwareError("instances: Unknown Error")
            return self.made

    machine = host.machine(mig_gpus=(2,))
    uuid, probe = machine.gpus[2].uuid, Cut(interface.Discovered(machine))

    def opened() -> watcher.Watcher:
        faults, times = watcher.Faults(tmp_path / "faults.json", "b"), taints.Times(tmp_path / "taints.json")
        return watcher.Watcher(probe, machine, source.Source("node-a"), times, faults)

    watched, one = opened(), mig.Instance(machine.gpus[2].uuid, 14, 0, 2, 3, 0, "MIG-1")
    await watched.start()
    assert watched.instances[uuid] == () and watched.instances[machine.gpus[0].uuid] == ()
    probe.made = [one]
    await watched.poll()
    probe.made = None
    await watched.poll()
    assert watched.instances[uuid] == (one,), "a call that fails leaves what is known"
    for number in (79, 31):
        watched._take([interface.Event(uuid, "xid", number)])
    assert watched.xids == {uuid: 31}
    await watched._publish()
    assert opened().xids == {uuid: 79}, "of those before a restart the worst is known"


def port(told: service.Service) -> int:
    return told.server.port


@contextlib.asynccontextmanager
async def serving(folder: Path, http: str = "127.0.0.1:0") -> AsyncIterator[tuple[service.Service, Any]]:
    """Serve a node; the publisher is real and has nothing to talk to."""
    given = config.Config(
        node_name="node-a",
        http=http,
        registry=folder / "r",
        plugins=folder / "p",
        pod_resources=folder / "kubelet.sock",
    )
    given.folder.mkdir(parents=True)
    probe = Probe(interface.Discovered(host.machine()))
    found = await inventory.Inventory.take(probe)
    faults, times = watcher.Faults(folder / "faults.json", "b"), taints.Times(folder / "taints.json")
    watching = watcher.Watcher(probe, found.current(), source.Source("node-a"), times, faults)
    await watching.start()
    measured = work.Work()
    publishing = work.Publisher(Api(), "node-a", host.DRIVER, measured)
    told = service.Service(given, Api(), found, watching, publishing, measured)
    async with background(*told.services):
        if told.services:
            await until(lambda: port(told))
        yield told, publishing


async def fetched(told: service.Service, path: str, **headers: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"http://127.0.0.1:{port(told)}{path}") as answer,
    ):
        return answer.status, await answer.text()


async def test_metrics_and_probes_over_http(tmp_path: Path) -> None:
    async with serving(tmp_path) as (told, publishing):
        status, said = await fetched(told, "/metrics")
        assert status == 200
        assert len(metrics.samples(said, "DCGM_FI_DEV_GPU_UTIL")) == 8
        assert metrics.value(said, "muster_dra_registered") == metrics.value(said, "muster_dra_slices_published") == 0
        status, said = await fetched(told, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert status == 200 and said.endswith("# EOF\n")
        assert await fetched(told, "/healthz") == (200, "plugin: ok\n")
        status, said = await fetched(told, "/readyz")
        assert status == 503 and "slices: not published yet" in said and "has not registered the driver yet" in said
        told.registration(registration.Status(True))
        publishing.stats.seconds = 0.1
        assert (await fetched(told, "/readyz"))[0] == 200
        told.registration(registration.Status(False, "no such version"))
        publishing.problem = "ApiError: 403"
        status, said = await fetched(told, "/readyz")
        assert status == 503 and "refused the driver: no such version" in said and "slices: ApiError: 403" in said
        assert (await fetched(told, "/other"))[0] == 404


async def test_health_dials_the_drivers_own_sockets(
    tmp_path: Path, make_node: Callable[..., conftest.Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PROBE_S", 0.3)
    async with serving(tmp_path) as (told, _):
        told.started()
        status, said = await fetched(told, "/healthz")
        assert status == 503 and "dra.sock: no gRPC server answers" in said
        one = grpc.aio.server()
        for path in (told._given.sockets.plugin, told._given.sockets.registration):
            path.parent.mkdir(parents=True, exist_ok=True)
            one.add_insecure_port(f"unix:{path}")
        await one.start()
        assert (await fetched(told, "/healthz"))[0] == 200
        await one.stop(0)


async def test_without_an_address_nothing_is_served(tmp_path: Path) -> None:
    async with serving(tmp_path, http="") as (told, _):
        assert told.services == ()


async def test_an_address_that_is_taken_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RETRY_S", 0.05)
    other = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    taken = other.sockets[0].getsockname()[1]

    async def leave() -> None:
        await asyncio.sleep(0.2)
        other.close()
        await other.wait_closed()

    async with background(leave), serving(tmp_path, http=f"127.0.0.1:{taken}") as (told, _):
        assert (await fetched(told, "/healthz"))[0] == 200


async def test_a_checkpoint_that_cannot_be_read_does_not_hide_the_gpus(tmp_path: Path) -> None:
    async with serving(tmp_path) as (told, _):
        checkpoint.Store(told._given.folder).path.write_bytes(b"{")
        status, said = await fetched(told, "/metrics")
        assert status == 200 and len(metrics.samples(said, "DCGM_FI_DEV_GPU_UTIL")) == 8


@pytest.mark.parametrize("value", ["nine", "a:b:c", ":99999", "::1:80"])
def test_addresses_are_checked(value: str) -> None:
    with pytest.raises(ValueError, match="http"):
        config.Config(node_name="n", http=value)


@pytest.mark.parametrize(
    ("value", "address"), [(":80", ("0.0.0.0", 80)), ("[::1]:81", ("::1", 81)), ("h.example:0", ("h.example", 0))]
)
def test_addresses_are_read(value: str, address: tuple[str, int]) -> None:
    assert config.Config(node_name="n", http=value).http_address == address
