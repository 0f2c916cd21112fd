"""What the API server is told: by and by also where it is away, refuses, or knows it already."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import aiohttp

from dra_driver import claims_api, instance, prepared, sockets
from scheduler.apiserver import errors
from tests.driver import conftest, host, objects
from tests.driver.metrics import background, until
from tests.driver.test_metrics import entry, whole

Object = dict[str, Any]


class Api:
    """An API server with claims, which some requests do not reach."""

    def __init__(self, *entries: prepared.Claim) -> None:
        self.claims: dict[str, Object] = {
            claims_api.path(one.reference): {"metadata": {"uid": one.uid}} for one in entries
        }
        self.away: set[str] = set()
        self.refused: set[str] = set()
        self.tried: list[str] = []
        self.applied: list[str] = []
        self.events: list[str] = []

    def _reach(self, name: str) -> None:
        self.tried.append(name)
        if name in self.away:
            raise aiohttp.ClientConnectionError("away")
        if name in self.refused:
            raise errors.ApiError(403, "Forbidden", "no")

    async def get(self, path: str) -> Object:
        self._reach(path)
        if path not in self.claims:
            raise errors.ApiError(404, "NotFound", "gone")
        return self.claims[path]

    async def apply(self, path: str, obj: Object, manager: str) -> None:
        self.claims[path.removesuffix("/status")]["status"] = obj["status"]
        self.applied.append(obj["metadata"]["uid"])

    async def create(self, path: str, obj: Object) -> None:
        self._reach(obj["reason"])
        self.events.append(obj["reason"])


def writer(api: Api, pause_s: float = 0.01) -> claims_api.StatusWriter:
    return claims_api.StatusWriter(api, host.DRIVER, host.Here(host.machine()), pause_s)


async def test_a_status_that_fails_is_written_later_and_holds_up_no_other() -> None:
    entries = [entry(number, whole(number)) for number in range(6)]
    api = Api(*entries)
    bad = claims_api.path(entries[0].reference)
    api.away.add(bad)
    status = writer(api)
    async with background(status.run):
        for one in entries:
            status.tell(one)
        await until(lambda: set(api.applied) == {one.uid for one in entries[1:]})
        await until(lambda: api.tried.count(bad) > 8)
        api.away.clear()
        await until(lambda: entries[0].uid in api.applied)
    assert status._failures == {}


async def test_a_status_that_the_claim_has_is_not_written_again_and_keeps_its_time() -> None:
    one = entry(1, whole(0))
    api = Api(one)
    target = claims_api.path(one.reference)
    since = "2020-01-01T00:00:00Z"
    api.claims[target]["status"] = claims_api.status(one, host.DRIVER, host.machine(), since)["status"]
    restarted = writer(api)
    async with background(restarted.run):
        restarted.tell(one)
        await until(lambda: api.tried == [target])
        api.claims[target]["status"]["devices"][0]["data"] = {"uuid": "of before the boot"}
        again = writer(api)
        async with background(again.run):
            again.tell(one)
            await until(lambda: api.applied == [one.uid])
    (row,) = api.claims[target]["status"]["devices"]
    assert row["data"]["uuid"] == one.devices[0].uuid
    assert [condition["lastTransitionTime"] for condition in row["conditions"]] == [since]


async def test_events_wait_for_the_api_server_and_one_that_is_refused_holds_up_no_other() -> None:
    api = Api()
    api.away.add("CheckpointCorrupt")
    api.refused.add("Refused")
    events = claims_api.NodeEvents(api, host.DRIVER, "node-a", pause_s=0.01)
    for reason in ("CheckpointCorrupt", "Refused", "NotServing"):
        events.tell(reason, "as it is")
    async with background(events.run):
        await until(lambda: len(api.tried) > 5)
        assert api.events == []
        api.away.clear()
        await until(lambda: api.events == ["CheckpointCorrupt", "NotServing"])
    assert api.tried.count("Refused") == 1


async def test_prepared_claims_are_told_after_a_start_a_reboot_and_a_lost_checkpoint(
    make_node: Callable[..., conftest.Node],
) -> None:
    node, told = make_node(mig_gpus=(7,)), []

    def started() -> instance.Instance:
        parts = host.parts(node.root, node.machine, node.claims, hardware=node.hardware)
        own = sockets.of_instance(host.DRIVER, node.registry, node.plugins)
        return instance.Instance(parts, own, node.boot_id, hooks=instance.Hooks(prepared_claim=told.append))

    async with node.driver(), node.kubelet() as calls:
        for number, name in enumerate(("gpu-0", "gpu-7-mig-1g10gb-19-6"), 1):
            one = node.claims.add(objects.claim(number, name))
            assert (await calls.prepare(one))[one.uid].error == ""
    create = node.hardware.create_compute_instance
    node.hardware.reboot()

    def otherwise(made: Any) -> Any:
        found = create(made)
        new = dataclasses.replace(found, uuid="MIG-after-the-boot")
        node.hardware._replace(found, new)
        return new

    node.hardware.create_compute_instance = otherwise
    running = started()
    await running.start()
    await running.stop()
    assert {(one.uid, one.devices[0].uuid) for one in told} == {
        (objects.uid(1), node.machine.gpus[0].uuid),
        (objects.uid(2), "MIG-after-the-boot"),
    }
    told.clear()
    (node.plugins / "checkpoint.json").unlink()
    running = started()
    await running.start()
    await running.stop()
    assert {one.uid for one in told} == {objects.uid(1), objects.uid(2)}
