"""The counters of the driver's own work, and what it keeps in memory for metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dra_driver import app, checkpoint, claim, claims_api, mig
from dra_driver.health import kept, source, taints, watcher
from dra_driver.metrics import rows, users, work
from dra_driver.probe import interface
from scheduler.model import node
from tests.driver import conftest, host, metrics, objects
from tests.driver.metrics import background, until
from tests.driver.test_metrics import MACHINE, entry, pod, text, whole
from tests.driver.test_publisher import Api


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

        async def get(self, path: str) -> dict[str, Any]:
            return {"metadata": {"uid": f"uid-{path[-1]}"}}

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


async def test_the_watcher_keeps_mig_instances_and_last_xids(tmp_path: Path) -> None:
    class Cut:
        made: list[mig.Instance] | None = None

        def reading(self, gpu_uuid: str) -> interface.Reading:
            return interface.Reading(gpu_uuid)

        def instances(self, gpu_uuid: str) -> list[mig.Instance]:
            if self.made is None:
                raise mig.HardwareError("instances: Unknown Error")
            return self.made

    machine = host.machine(mig_gpus=(2,))
    uuid, probe = machine.gpus[2].uuid, Cut()

    def opened() -> watcher.Watcher:
        faults, times = kept.Faults(tmp_path / "faults.json", "b"), taints.Times(tmp_path / "taints.json")
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


async def test_a_gpu_that_discovery_finds_no_more_is_told_as_lost_until_it_is_back(tmp_path: Path) -> None:
    class Quiet:
        def reading(self, gpu_uuid: str) -> interface.Reading:
            return interface.Reading(gpu_uuid, temperature=40, recovery_action=0)

    machine = host.machine()
    gone = machine.gpus[0]
    rest = tuple(replace(gpu, index=i, device_name=gpu.name) for i, gpu in enumerate(machine.gpus[1:]))
    less = replace(machine, gpus=rest, nvlinks=())
    faults, times = kept.Faults(tmp_path / "faults.json", "b"), taints.Times(tmp_path / "taints.json")
    watched = watcher.Watcher(Quiet(), machine, source.Source("node-a"), times, faults)
    await watched.start()

    def told(found: node.NodeTopology) -> str:
        seen = rows.Seen(
            interface.Discovered(found),
            watched.readings,
            watched.known,
            watched.instances,
            gone=watched.gone,
        )
        return text(seen)

    for _ in range(2):
        watched.found(less)
        await watched.poll()
        said = told(less)
        assert metrics.value(said, "hw_status", hw_id=gone.uuid, hw_state="failed") == 1
        ((labels, _),) = metrics.samples(said, "muster_gpu_fault")
        assert (labels["kind"], labels["gpu"]) == ("gpu-lost", "0")
        found = {each["gpu"]: each["UUID"] for each, _ in metrics.samples(said, "DCGM_FI_DEV_GPU_TEMP")}
        assert found == {str(i): machine.gpus[i].uuid for i in range(1, 8)}, "numbers stay"
    watched.found(machine)
    await watched.poll()
    assert metrics.value(told(machine), "hw_status", hw_id=gone.uuid, hw_state="ok") == 1 and not watched.gone


async def test_the_kubelet_is_asked_seldom_and_may_be_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lister = metrics.Lister([pod("train-0", "claim-1", "gpu-0")])
    socket = tmp_path / "k.sock"
    asked = users.Kubelet(socket, host.DRIVER)
    assert await asked.containers() == {}
    device = users.Held("ml", "claim-1", MACHINE.name, "gpu-0")
    monkeypatch.setattr(users, "FRESH_S", 0.0)
    async with metrics.kubelet(socket, lister):
        assert await asked.containers() == {device: [users.Container("ml", "train-0", "main")]}
        monkeypatch.setattr(users, "FRESH_S", 60.0)
        for _ in range(5):
            await asked.containers()
        assert lister.asked == 1
    monkeypatch.setattr(users, "FRESH_S", 0.0)
    assert device in await asked.containers(), "a kubelet that restarts changes nothing"
    monkeypatch.setattr(users, "KEEP_S", 0.0)
    assert await asked.containers() == {}
