"""The publisher against a small API server that drops fields, conflicts and wipes as told."""

import asyncio
import copy
import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dra_driver.publish import plan, publisher, server
from scheduler.apiserver import errors
from scheduler.model import machines, slices
from tests.model import api_limits

TAINT = {"key": "gpu.muster.dev/xid", "value": "79", "effect": "NoSchedule"}


class Api:
    """Keeps slices; `gates` names fields that are dropped, and quantities come back as the real server writes them."""

    def __init__(self, minor: int = 37, gates_off: tuple[str, ...] = ()) -> None:
        self.minor, self.gates_off = minor, gates_off
        self.items: dict[str, dict[str, Any]] = {}
        self.writes: list[str] = []
        self.conflicts = 0
        self.version = 0

    async def get(self, path: str) -> Any:
        return {"minor": f"{self.minor}+"} if path == "/version" else {"metadata": {"uid": "node-uid"}}

    async def list(self, path: str, **params: str) -> tuple[list[dict[str, Any]], str]:
        assert params["fieldSelector"] == "spec.driver=gpu.muster.dev,spec.nodeName=n1"
        return copy.deepcopy(list(self.items.values())), str(self.version)

    async def create(self, path: str, obj: dict[str, Any], dryRun: str = "") -> Any:  # noqa: N803 (API's word)
        kept = self._kept(obj)
        if dryRun:
            return kept
        assert obj["metadata"]["name"] not in self.items
        return self._stored("create", kept)

    async def replace(self, path: str, obj: dict[str, Any]) -> Any:
        name = obj["metadata"]["name"]
        if self.conflicts:
            self.conflicts -= 1
            raise errors.ApiError(409, "Conflict", name)
        assert obj["metadata"]["resourceVersion"] == self.items[name]["metadata"]["resourceVersion"]
        return self._stored("update", self._kept(obj))

    async def delete(self, path: str, uid: str, version: str) -> Any:
        name = path.rpartition("/")[2]
        assert self.items[name]["metadata"]["resourceVersion"] == version
        self.writes.append("delete")
        return self.items.pop(name)

    def _stored(self, verb: str, kept: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        kept["metadata"] |= {"uid": "u", "resourceVersion": str(self.version)}
        self.items[kept["metadata"]["name"]] = kept
        self.writes.append(verb)
        return copy.deepcopy(kept)

    def _kept(self, part: Any) -> Any:
        if isinstance(part, dict):
            return {key: self._kept(value) for key, value in part.items() if key not in self.gates_off}
        if isinstance(part, list):
            return [self._kept(value) for value in part]
        return {"1000": "1k", "81920Mi": "80Gi"}.get(part, part) if isinstance(part, str) else part


def cut_machine(kind: str = "dgx-a100") -> Any:
    machine = machines.build(kind, "n1")
    gpus = tuple(_cut(gpu) for gpu in machine.gpus)
    return _with(machine, gpus=gpus)


def _cut(gpu: Any) -> Any:
    return _with(gpu, mig_enabled=True, shareable=False)


def _with(value: Any, **changes: Any) -> Any:
    return dataclasses.replace(value, **changes)


def driver(api: Api, machine: Any, taints: Any = None) -> publisher.Publisher:
    made = publisher.Publisher(api, "n1")  # type: ignore[arg-type]
    made.want(publisher.Wanted(machine, taints or {}))
    return made


@pytest.mark.parametrize("minor", [34, 35, 36, 37])
async def test_full_mig_is_valid_and_second_publish_writes_nothing(minor: int) -> None:
    api = Api(minor)
    made = driver(api, cut_machine(), {"gpu-0": [TAINT]})
    await made.publish()
    api_limits.check_pool(list(api.items.values()), minor)
    count = len(api.writes)
    await made.publish()
    await driver(api, cut_machine(), {"gpu-0": [TAINT]}).publish()
    assert count == len(api.writes) == len(api.items)


async def test_partitions_without_counters_are_never_published() -> None:
    api = Api(35, ("sharedCounters", "consumesCounters"))
    made = driver(api, cut_machine())
    await made.publish()
    entries = [e for item in api.items.values() for e in item["spec"].get("devices", [])]
    assert made.form is not None and not made.form.partitionable
    assert not any(e["attributes"]["type"] == {"string": "mig"} for e in entries)


async def test_gate_switched_off_later_withdraws_partitions() -> None:
    api = Api()
    made = driver(api, cut_machine())
    await made.publish()
    api.gates_off = ("sharedCounters", "consumesCounters")
    api.items.clear()
    await made.publish()
    entries = [e for item in api.items.values() for e in item["spec"].get("devices", [])]
    assert entries and not any(e["attributes"]["type"] == {"string": "mig"} for e in entries)


async def test_dropped_taints_leave_the_device_out() -> None:
    api = Api(gates_off=("taints",))
    await driver(api, machines.build("dgx-1v", "n1"), {"gpu-3": [TAINT]}).publish()
    names = [e["name"] for item in api.items.values() for e in item["spec"]["devices"]]
    assert "gpu-3" not in names and "gpu-2" in names


async def test_conflict_is_tried_again_at_once() -> None:
    api = Api()
    machine = machines.build("dgx-1v", "n1")
    await driver(api, machine).publish()
    api.conflicts = 2
    made = driver(api, machine, {"gpu-3": [TAINT]})
    await made.publish()
    assert made.stats.conflicts == 2 and api.writes == ["create", "update"]
    assert {i["spec"]["pool"]["generation"] for i in api.items.values()} == {1}


async def test_unknown_loss_does_not_write_for_ever() -> None:
    api = Api(gates_off=("productName",))
    made = driver(api, machines.build("dgx-1v", "n1"))
    for _ in range(3):
        await made.publish()
    assert api.writes == ["create"] and "no known gate" in made.problem


async def test_wiped_slices_are_back_within_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    api, news = Api(), asyncio.Queue[Any]()

    async def follow(*_: Any, **__: Any) -> AsyncIterator[Any]:
        while True:
            yield await news.get()

    monkeypatch.setattr(publisher.watch, "follow", follow)
    made = driver(api, machines.build("dgx-1v", "n1"))
    running = asyncio.create_task(made.run())
    try:
        async with asyncio.timeout(2):
            while not api.items:
                await asyncio.sleep(0.02)
        api.items.clear()
        news.put_nowait(publisher.watch.Deleted({}))
        async with asyncio.timeout(2):
            while not api.items:
                await asyncio.sleep(0.02)
        assert {i["spec"]["pool"]["generation"] for i in api.items.values()} == {2}
    finally:
        running.cancel()


def test_one_changed_slice_keeps_the_generation_and_two_do_not() -> None:
    machine = cut_machine()
    found = slices.encode(machine, 5)
    for item in found:
        item["metadata"]["resourceVersion"] = "1"
    wanted = copy.deepcopy(found)
    wanted[-1]["spec"]["devices"].pop()
    todo = plan.plan(wanted, found)
    assert [i["spec"]["pool"]["generation"] for i in todo.updates] == [5]
    wanted[-2]["spec"]["devices"].pop()
    todo = plan.plan(wanted, found)
    assert {i["spec"]["pool"]["generation"] for i in todo.updates} == {6} and len(todo.updates) == len(found)


def test_taint_time_given_by_the_server_stays() -> None:
    machine = machines.build("dgx-1v", "n1")
    found = slices.encode(machine, 1, taints={"gpu-0": [TAINT | {"timeAdded": "2026-01-01T00:00:00Z"}]})
    assert plan.plan(slices.encode(machine, 1, taints={"gpu-0": [TAINT]}), found).empty
    later = slices.encode(machine, 1, taints={"gpu-0": [TAINT], "gpu-1": [TAINT]})
    (update,) = plan.plan(later, found).updates
    times = [t.get("timeAdded") for e in update["spec"]["devices"] for t in e.get("taints", [])]
    assert sorted(times, key=str) == ["2026-01-01T00:00:00Z", None]


def test_dropped_names_the_gate() -> None:
    sent = {"spec": {"devices": [{"name": "a", "taints": [TAINT]}]}}
    assert server.dropped(sent, {"spec": {"devices": [{"name": "a"}]}}) == {"taints"}


async def test_owned_devices_have_the_taint_of_ownership_first() -> None:
    api = Api()
    found = publisher.Publisher(api, "n1", owned=True)
    found.want(publisher.Wanted(machines.build("hgx-h100", "n1"), {"gpu-3": [TAINT]}))
    await found.publish()
    devices = {entry["name"]: entry for item in api.items.values() for entry in item["spec"].get("devices") or ()}
    assert all(entry["taints"][0]["key"] == "muster.dev/owned" for entry in devices.values())
    assert [taint["key"] for taint in devices["gpu-3"]["taints"]] == ["muster.dev/owned", TAINT["key"]]
    assert any(name.startswith("nic") for name in devices), devices.keys()
    writes = list(api.writes)
    await found.publish()
    assert api.writes == writes, "nothing changed"


async def test_owned_devices_are_not_left_out_where_taints_are_dropped() -> None:
    api = Api(gates_off=("taints",))
    found = publisher.Publisher(api, "n1", owned=True)
    found.want(publisher.Wanted(machines.build("hgx-h100", "n1")))
    await found.publish()
    names = {entry["name"] for item in api.items.values() for entry in item["spec"].get("devices") or ()}
    assert {f"gpu-{i}" for i in range(8)} <= names


async def test_partitions_are_owned_through_their_gpu() -> None:
    machine = machines.build("dgx-a100", "n1")
    cut = dataclasses.replace(
        machine, gpus=tuple(dataclasses.replace(gpu, mig_enabled=gpu.index == 0) for gpu in machine.gpus)
    )
    api = Api()
    found = publisher.Publisher(api, "n1", owned=True)
    found.want(publisher.Wanted(cut))
    await found.publish()
    entries = [entry for item in api.items.values() for entry in item["spec"].get("devices") or ()]
    assert any("mig" in entry["name"] for entry in entries)
    assert all(entry["taints"][0]["key"] == "muster.dev/owned" for entry in entries)
