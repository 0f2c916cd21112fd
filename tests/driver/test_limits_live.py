"""Real API servers take the largest nodes that we publish, and are written to only where something differs."""

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dra_driver.publish import publisher, server
from scheduler.apiserver import client, paths
from scheduler.model import gpu_models, machines, node, published, slices
from tests.model import api_limits
from tests.testbed import cluster as clusters
from tests.testbed import fixtures, versions
from tests.testbed.faults import proxy

pytestmark = [pytest.mark.slow, pytest.mark.testbed]

NODES, AT_ONCE = 64 if int(os.environ.get("MUSTER_ROUNDS", "0")) >= 200 else 16, 4
"""All of them by `make test-live`."""

PARTITIONS = 16 * 25  # placements of an A100; its whole GPU is one of them
CHANGES = ("update", "patch", "delete", "deletecollection")
ALPHA = ("DRAPartitionableDevices", "DRAConsumableCapacity", "DRADeviceTaints")
SERVERS = {"1.37": (versions.NEWEST, ()), "1.34": (versions.FLOOR, ()), "1.34 with gates": (versions.FLOOR, ALPHA)}
TAINT = {"key": "gpu.muster.dev/xid", "value": "79", "effect": "NoSchedule"}
NODE_PATH = paths.of("v1", "nodes")


@dataclass(frozen=True, slots=True)
class Server:
    """A control plane behind a proxy that counts."""

    home: clusters.Cluster
    between: proxy.Proxy
    gated: bool

    @property
    def minor(self) -> int:
        return self.home.kubernetes.minor

    def changes(self) -> list[str]:
        """Return the names of the slices that were changed or deleted, once for each write, also one without effect."""
        asked = [one.asked for one in self.between.seen]
        return [one.name for one in asked if one.verb in CHANGES and one.resource == "resourceslices"]


@pytest.fixture(scope="module", params=SERVERS, ids=list(SERVERS))
def taken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    fixtures.require(real_nodes=False)
    version, gates = SERVERS[request.param]
    made = clusters.Cluster(clusters.Options(version=version))
    made.control.version = replace(made.kubernetes, gates=made.kubernetes.gates + gates)
    folder: Path = tmp_path_factory.mktemp("proxy")
    with made.start() as home, proxy.between(home.kubeconfig, home.authority, folder) as between:
        yield Server(home, between, home.kubernetes.minor >= 36 or bool(gates))


def cut(name: str) -> node.NodeTopology:
    """Return 16 A100, all in MIG mode: the most devices and counters that a node of ours can have."""
    built = machines.build("dgx-2", name)
    gpus = tuple(replace(gpu, model=gpu_models.A100_SXM4_80, mig_enabled=True) for gpu in built.gpus)
    return replace(built, gpus=gpus)


def name(number: int) -> str:
    return f"big-{number:02d}"


async def created(api: client.Client, number: int) -> None:
    await api.create(NODE_PATH, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name(number)}})


async def publish(api: client.Client, numbers: range, taints: dict[str, Any] | None = None) -> publisher.Publisher:
    """Publish as drivers do that have just started, some at a time; return the last publisher."""
    made = [publisher.Publisher(api, name(number)) for number in numbers]
    at_once = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, its: publisher.Publisher) -> None:
        async with at_once:
            its.want(publisher.Wanted(cut(name(number)), taints or {}))
            await its.publish()

    await asyncio.gather(*(one(number, its) for number, its in zip(numbers, made, strict=True)))
    return made[-1]


async def stored(api: client.Client, number: int) -> list[dict[str, Any]]:
    """Return the slices of a node as they are stored, by name; a list leaves out what all items have in common."""
    found, _ = await api.list(server.PATH, fieldSelector=f"spec.nodeName={name(number)}")
    head = {"apiVersion": slices.API_VERSION, "kind": "ResourceSlice"}
    return sorted((head | one for one in found), key=published.slice_name)


def text(items: list[dict[str, Any]]) -> str:
    return json.dumps(items, sort_keys=True)


@pytest.mark.timeout(600)
async def test_nodes_of_16_cut_gpus_each(taken: Server) -> None:
    """They are taken in the layout of the server, and who publishes them a second time writes nothing."""
    everyone = range(NODES)
    async with await client.Client.connect(taken.between.kubeconfig) as api:
        await asyncio.gather(*(created(api, number) for number in everyone))
        form = (await publish(api, everyone)).form
        assert form == slices.Layout(
            split_counters=taken.minor >= 35,
            partitionable=taken.gated,
            consumable=taken.minor >= 36,  # 1.34 goes wrong over shares, also with the gate on
            lists=False,  # alpha, off by default
            taints=taken.gated,
        )
        before = [check(await stored(api, number), number, taken) for number in everyone]
        written = len(taken.changes())
        await publish(api, everyone)
        assert taken.changes()[written:] == [], "nothing differs, and yet it is written"
        assert [text(await stored(api, number)) for number in everyone] == before


def check(found: list[dict[str, Any]], number: int, taken: Server) -> str:
    """Check the slices of one node and return their bytes."""
    api_limits.check_pool(found, taken.minor)
    assert slices.decode(found).name == name(number)
    devices = [one for item in found for one in item["spec"].get("devices") or ()]
    partitions = [one for one in devices if one["attributes"]["type"] == {"string": "mig"}]
    assert len(partitions) == (PARTITIONS if taken.gated else 0)
    assert all(one.get("consumesCounters") for one in partitions)
    mixed = [item for item in found if item["spec"].get("sharedCounters") and item["spec"].get("devices")]
    assert bool(mixed) == (taken.gated and taken.minor < 35), "counters beside their devices, or in slices of their own"
    return text(found)


async def test_who_starts_anew_writes_only_what_differs(taken: Server) -> None:
    some = range(100, 104)
    async with await client.Client.connect(taken.between.kubeconfig) as api:
        await asyncio.gather(*(created(api, number) for number in some))
        await publish(api, some)
        before, written = [text(await stored(api, number)) for number in some], len(taken.changes())
        await publish(api, some)
        assert taken.changes()[written:] == [], "nothing differs, and yet it is written"
        assert [text(await stored(api, number)) for number in some] == before
        await publish(api, some[:1], {"gpu-0": [TAINT]})
        after = [await stored(api, number) for number in some]
        assert [text(items) for items in after[1:]] == before[1:]
        taints = [one.get("taints") for item in after[0] for one in item["spec"].get("devices") or () if on_gpu_0(one)]
        assert bool(taints) == taken.gated and all(taints), "where taints are dropped, the device has to go"
        names = {published.slice_name(item) for item in json.loads(before[0])}
        changed = taken.changes()[written:]
        assert changed and set(changed) <= names and len(changed) <= len(names)


def on_gpu_0(device: dict[str, Any]) -> bool:
    return device["name"] == "gpu-0" or str(device["name"]).startswith("gpu-0-")


async def test_slices_that_were_wiped_come_back_the_same(taken: Server) -> None:
    async with await client.Client.connect(taken.between.kubeconfig) as api:
        await created(api, 200)
        await publish(api, range(200, 201))
        before = await stored(api, 200)
        for item in before:  # as the kubelet does when it starts
            await api.delete(f"{server.PATH}/{published.slice_name(item)}")
        await publish(api, range(200, 201))
        assert [content(item) for item in await stored(api, 200)] == [content(item) for item in before]


def content(item: dict[str, Any]) -> str:
    """Return the bytes of a slice without what the server gives to each object anew, and without the generation."""
    spec = item["spec"] | {"pool": {key: value for key, value in item["spec"]["pool"].items() if key != "generation"}}
    kept = {key: item["metadata"].get(key) for key in ("name", "annotations", "labels", "ownerReferences")}
    return text([kept, spec])
