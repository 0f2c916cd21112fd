"""The publisher against a small API server that drops fields, conflicts and wipes as told."""

import asyncio
import contextlib
import copy
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dra_driver.publish import pace, plan, publisher, server, turn
from scheduler.apiserver import errors
from scheduler.model import machines, slices
from tests.model import api_limits

SETTLE_S = publisher.SETTLE_S
TAINT = {"key": "gpu.muster.dev/xid", "value": "79", "effect": "NoSchedule"}


class Api:
    """Keeps slices; `gates` names fields that are dropped, and quantities come back as the real server writes them."""

    def __init__(self, minor: int = 37, gates_off: tuple[str, ...] = ()) -> None:
        self.minor, self.gates_off = minor, gates_off
        self.items: dict[str, dict[str, Any]] = {}
        self.writes: list[str] = []
        self.conflicts = 0
        self.version = 0
        self.node_uid = "node-uid"
        self.asked = 0
        self.changes: Callable[[dict[str, Any]], None] = lambda item: None

    async def get(self, path: str) -> Any:
        if path == "/version":
            self.asked += 1
            return {"minor": f"{self.minor}+"}
        if not self.node_uid:
            raise errors.ApiError(404, "NotFound", 'nodes "n1" not found')
        return {"metadata": {"uid": self.node_uid}}

    async def list(self, path: str, **params: str) -> tuple[list[dict[str, Any]], str]:
        assert params["fieldSelector"] == "spec.driver=gpu.muster.dev,spec.nodeName=n1"
        return copy.deepcopy(list(self.items.values())), str(self.version)

    async def create(self, path: str, obj: dict[str, Any], dryRun: str = "") -> Any:  # noqa: N803 (API's word)
        kept = self._taken(obj)
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
        return self._stored("update", self._taken(obj))

    async def delete(self, path: str, uid: str, version: str) -> Any:
        name = path.rpartition("/")[2]
        assert self.items[name]["metadata"]["resourceVersion"] == version
        self.writes.append("delete")
        return self.items.pop(name)

    def _taken(self, obj: dict[str, Any]) -> dict[str, Any]:
        """Refuse the layout of another version, as validation does; change what a policy changes."""
        spec = obj["spec"]
        if self.minor >= 35 and spec.get("devices") and spec.get("sharedCounters"):
            raise errors.ApiError(422, "Invalid", "spec: only one of devices and sharedCounters")
        kept: dict[str, Any] = self._kept(obj)
        self.changes(kept)
        return kept

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


@pytest.fixture
def news(monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[Any]:
    """The watch of the slices: what a test puts in is told."""
    queue: asyncio.Queue[Any] = asyncio.Queue()

    async def follow(*_: Any, **__: Any) -> AsyncIterator[Any]:
        while True:
            yield await queue.get()

    monkeypatch.setattr(publisher.watch, "follow", follow)
    monkeypatch.setattr(publisher, "SETTLE_S", 0.01)
    return queue


@contextlib.asynccontextmanager
async def running(*made: publisher.Publisher) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.run()) for one in made]
        yield
        for task in tasks:
            task.cancel()


async def until(check: Callable[[], Any], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not check():
            await asyncio.sleep(0.01)


def tell(api: Api, news: asyncio.Queue[Any]) -> None:
    """Tell the watch of every write from now on."""
    stored = api._stored

    def told(verb: str, kept: dict[str, Any]) -> dict[str, Any]:
        news.put_nowait(publisher.watch.Changed(kept))
        return stored(verb, kept)

    api._stored = told  # type: ignore[method-assign]


async def test_unknown_loss_is_told_and_not_written_for_ever(news: asyncio.Queue[Any]) -> None:
    api = Api(gates_off=("productName",))
    tell(api, news)
    made = driver(api, machines.build("dgx-1v", "n1"))
    async with running(made):
        await until(lambda: made.problem)
        for _ in range(5):
            news.put_nowait(publisher.watch.Changed({}))
            await until(news.empty)
            await asyncio.sleep(0.05)
        assert api.writes == ["create"]
        assert (
            "n1-gpu.muster.dev-000: spec.devices[0].attributes.productName, which belongs to no known" in made.problem
        )
        api.gates_off = ()
        made.want(publisher.Wanted(machines.build("dgx-1v", "n1"), {"gpu-3": [TAINT]}))
        await until(lambda: not made.problem)
    assert api.writes == ["create", "update"]


async def test_a_policy_that_changes_a_value_is_told_and_not_fought() -> None:
    def change(item: dict[str, Any]) -> None:
        for entry in item["spec"].get("devices") or ():
            if "uuid" in entry.get("attributes", ()):
                entry["attributes"]["uuid"] = {"string": "hidden"}

    api = Api()
    made = driver(api, machines.build("dgx-1v", "n1"))
    api.changes = change
    for _ in range(3):
        await made.publish()
    assert api.writes == ["create"] and "spec.devices[0].attributes.uuid.string" in made.problem
    next(iter(api.items.values()))["metadata"]["resourceVersion"] = "77"  # somebody wrote it: perhaps it is kept now
    await made.publish()
    assert api.writes == ["create", "update"] and made.problem


async def test_what_cannot_be_encoded_is_not_tried_again(
    news: asyncio.Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = machines.build("dgx-1v", "n1")
    bad = _with(machine, gpus=(_with(machine.gpus[0], uuid="x" * 65), *machine.gpus[1:]))
    tried = []
    real = slices.encode
    monkeypatch.setattr(publisher.slices, "encode", lambda *args: tried.append(args) or real(*args))
    api = Api()
    made = driver(api, bad)
    async with running(made):
        await until(lambda: made.problem)
        await asyncio.sleep(0.5)
        assert "attributes.uuid: longer than 64 bytes" in made.problem and len(tried) == 1 and not api.writes
        made.want(publisher.Wanted(machine))
        await until(lambda: api.writes and not made.problem)


async def test_what_the_server_refuses_is_tried_again_slowly_and_at_once_when_else_is_wanted(
    news: asyncio.Queue[Any],
) -> None:
    def refuse(item: dict[str, Any]) -> None:
        if item["metadata"].get("name") and not any("taints" in entry for entry in item["spec"].get("devices", ())):
            tried.append(item)
            raise errors.ApiError(422, "Invalid", "spec.devices[0]: Invalid value")

    api, tried = Api(), list[Any]()
    api.changes = refuse
    made = driver(api, machines.build("dgx-1v", "n1"))
    async with running(made):
        await until(lambda: made.problem)
        await asyncio.sleep(0.5)
        assert "spec.devices[0]: Invalid value" in made.problem
        assert len(tried) == 1 and api.asked == 1, "the server was asked for its layout just before"
        made.want(publisher.Wanted(machines.build("dgx-1v", "n1"), {"gpu-3": [TAINT]}))
        await until(lambda: api.writes == ["create"] and not made.problem)


async def test_an_upgraded_server_gets_the_layout_that_it_takes() -> None:
    """1.34 wants counters beside their devices, 1.35 refuses that on updates too: no taint would get out any more."""
    api = Api(34)
    made = driver(api, cut_machine())
    await made.publish()
    api_limits.check_pool(list(api.items.values()), 34)
    api.minor = 35
    made.want(publisher.Wanted(cut_machine(), {"gpu-0": [TAINT]}))
    await made.publish()
    api_limits.check_pool(list(api.items.values()), 35)
    assert any("taints" in entry for item in api.items.values() for entry in item["spec"].get("devices", ()))


async def test_a_server_that_was_away_is_asked_again(news: asyncio.Queue[Any]) -> None:
    api = Api(37, ("sharedCounters", "consumesCounters"))
    made = driver(api, cut_machine())
    async with running(made):
        await until(lambda: api.items)
        assert not any("sharedCounters" in item["spec"] for item in api.items.values())
        api.gates_off = ()
        news.put_nowait(publisher.watch.Interrupted("restarted", 0.0))
        news.put_nowait(publisher.watch.Resumed())
        await until(lambda: any("sharedCounters" in item["spec"] for item in api.items.values()))
    api_limits.check_pool(list(api.items.values()), 37)


async def test_a_node_that_was_made_anew_owns_its_slices() -> None:
    api = Api()
    made = driver(api, machines.build("dgx-1v", "n1"))
    await made.publish()
    api.node_uid = "another"
    api.items.clear()  # as the garbage collector does with what a dead owner owned
    await made.publish()
    assert [one["metadata"]["ownerReferences"][0]["uid"] for one in api.items.values()] == ["another"]


async def test_a_node_that_is_not_there_is_named(news: asyncio.Queue[Any]) -> None:
    api = Api()
    api.node_uid = ""
    made = driver(api, machines.build("dgx-1v", "n1"))
    async with running(made):
        await until(lambda: made.problem)
        assert made.problem.startswith("ServerError: node n1 is not known to the API server; is --node-name")
        api.node_uid = "there"
        await until(lambda: api.items and not made.problem)


async def test_numa_nodes_are_lists_only_where_that_is_asked() -> None:
    def numa(api: Api) -> set[str]:
        entries = [e for item in api.items.values() for e in item["spec"]["devices"]]
        return {kind for e in entries for kind in e["attributes"]["resource.kubernetes.io/numaNode"]}

    for minor, asked, told in ((37, False, {"int"}), (37, True, {"ints"}), (34, True, {"int"})):
        api = Api(minor)
        made = publisher.Publisher(api, "n1", lists=asked)  # type: ignore[arg-type]
        made.want(publisher.Wanted(machines.build("dgx-a100", "n1")))
        await made.publish()
        assert numa(api) == told


async def test_the_newest_of_two_instances_publishes_alone(news: asyncio.Queue[Any], tmp_path: Path) -> None:
    """Their slices differ, as those of two versions of the driver may: each would undo what the other writes."""
    api = Api()
    tell(api, news)
    made = [publisher.Publisher(api, "n1", owned=own, turn=turn.Turn(tmp_path)) for own in (False, True)]  # type: ignore[arg-type]
    for one in made:
        one.want(publisher.Wanted(machines.build("dgx-1v", "n1")))

    def owned() -> bool:
        return any("taints" in e for item in api.items.values() for e in item["spec"]["devices"])

    async with running(made[0]):
        await until(lambda: api.items)
        async with running(made[1]):
            await until(owned)
            writes = list(api.writes)
            made[0].want(publisher.Wanted(machines.build("dgx-1v", "n1")))
            for _ in range(20):
                news.put_nowait(publisher.watch.Changed({}))
                await asyncio.sleep(0.02)
            assert api.writes == writes == ["create", "update"] and not any(one.problem for one in made)
        await until(lambda: not owned())  # the older one goes on when the newer one is gone
    assert api.writes == ["create", "update", "update"]


async def test_somebody_who_undoes_every_write_is_not_fought(news: asyncio.Queue[Any]) -> None:
    api = Api()
    stored = api._stored

    def undo(verb: str, kept: dict[str, Any]) -> dict[str, Any]:
        answer = stored(verb, kept)
        api.items.clear()
        news.put_nowait(publisher.watch.Deleted({}))
        return answer

    api._stored = undo  # type: ignore[method-assign]
    made = driver(api, machines.build("dgx-1v", "n1"))
    async with running(made):
        await until(lambda: "somebody else changes them again and again" in made.problem)
        assert len(api.writes) == 6, "the first, four at once, and the one that was too many"
        made.want(publisher.Wanted(machines.build("dgx-1v", "n1"), {"gpu-3": [TAINT]}))
        await until(lambda: len(api.writes) > 6)  # what is new does not wait for that
        api._stored = stored  # type: ignore[method-assign]
        await until(lambda: api.items and not made.problem)


def test_the_pace_of_rewrites() -> None:
    found, now, waits = pace.Pace(), 100.0, []
    for _ in range(12):
        found.rewrote(now)
        waits.append(found.wait_s(now))
        now += waits[-1] + 0.5
    assert waits == [0.0] * 4 + [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    found.rewrote(now + 1000)
    assert found.wait_s(now + 1000) == 0.0


async def test_wiped_slices_are_back_within_two_seconds(
    news: asyncio.Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "SETTLE_S", SETTLE_S)
    api = Api()
    made = driver(api, machines.build("dgx-1v", "n1"))
    async with running(made):
        await until(lambda: api.items, 2)
        api.items.clear()
        news.put_nowait(publisher.watch.Deleted({}))
        await until(lambda: api.items, 2)
        assert {i["spec"]["pool"]["generation"] for i in api.items.values()} == {2}


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
