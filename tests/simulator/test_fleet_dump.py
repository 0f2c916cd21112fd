"""Fleets from dumps of a cluster: Node objects, ResourceSlices of our driver, labels as levels."""

import json
from pathlib import Path
from typing import Any

import pytest

from scheduler.model import machines, slices
from simulator.fleet import dump, load, spec
from tests.testbed.fleet import nodes, presets

DATA = Path(__file__).parents[1] / "data"


def node_object(name: str, **labels: str) -> dict[str, Any]:
    spelled = {key.replace("_", "/"): value for key, value in labels.items()}
    allocatable = {"cpu": "223500m", "memory": "2113929216Ki", "pods": "110"}
    return {"kind": "Node", "metadata": {"name": name, "labels": spelled}, "status": {"allocatable": allocatable}}


def dumped(*items: dict[str, Any]) -> bytes:
    return json.dumps({"kind": "List", "items": items}).encode()


def test_extended_resources_and_zone_labels_are_read() -> None:
    fleet = load.read(str(DATA / "nodes.json"))
    found = {machine.name: machine for machine in fleet.nodes()}
    assert fleet.levels == ("cluster", "zone", "node")
    assert fleet.children("z1") == ["gpu-a", "cpu-b"]
    assert [gpu.model.name for gpu in found["gpu-a"].gpus] == ["NVIDIA-L40S"] * 4
    assert (found["gpu-a"].cpu_milli, found["gpu-a"].memory_mib, found["gpu-a"].max_pods) == (63_500, 262_144, 110)
    assert (found["cpu-b"].cpu_milli, found["cpu-b"].memory_mib, found["cpu-b"].gpus) == (16_000, 65_536, ())


def test_any_labels_make_levels_and_unequal_depths() -> None:
    labels = ("topology.kubernetes.io/zone", "example.com/rack")
    fleet = load.read(str(DATA / "nodes.json"), level_labels=labels)
    assert fleet.levels == ("cluster", "zone", "rack", "node")
    assert fleet.path("gpu-a") == ("cluster", "z1", "z1/r1", "gpu-a")
    assert fleet.path("cpu-b") == ("cluster", "z1", "cpu-b")


@pytest.mark.parametrize("kind", ["hgx-h100", "dgx-1v", "a100-pcie-pairs"])
def test_devices_come_from_resource_slices(kind: str) -> None:
    machine = machines.build(kind, "n0")
    fleet = dump.read("dump", dumped(node_object("n0"), node_object("n1"), *slices.encode(machine)))
    read, empty = fleet.nodes()
    assert read.gpus == machine.gpus
    assert read.nvlinks == machine.nvlinks
    assert (read.cpu_milli, read.memory_mib) == (223_500, 2_064_384)
    assert empty.gpus == ()


def test_a_dump_has_the_levels_that_the_live_scheduler_finds() -> None:
    """The NVLink domain is told by the slices; no label of the nodes says it."""
    rack = presets.Fleet("f", ((presets.Rack(presets.NVL72, 2), presets.Rack("hgx-h100", 1)),))
    kinds = {nodes.NODES: "Node", nodes.SLICES: "ResourceSlice"}
    objects = [json.loads(body.data) | {"kind": kinds[body.path]} for each in nodes.bodies(rack) for body in each]
    fleet = dump.read("dump", dumped(*objects))
    assert fleet.levels == ("cluster", "zone", "block", "rack", "nvlink-domain", "node")
    assert [len(fleet.path(name)) for name in ("f-b00-r00-n00", "f-b00-r01-n00")] == [6, 5]


CASES = [
    (b"{", "not valid JSON"),
    (b'{"items": 3}', "not a list of Kubernetes objects"),
    (b'{"items": [3]}', "not a list of Kubernetes objects"),
    (b'{"items": []}', "no Node in the dump"),
    (dumped({"kind": "Node", "metadata": {}}), "Node 0 has no name"),
    (dumped(node_object("a"), node_object("a")), "two nodes have this name, got 'a'"),
    (dumped({**node_object("a"), "status": {"allocatable": {"cpu": "many"}}}), "node a: 'many' is no quantity"),
    (dumped({**node_object("a"), "status": []}), "node a"),
    (dumped({**node_object("a"), "status": {"allocatable": {"nvidia.com/gpu": "99"}}}), "node 'a': gpus: 99 GPUs"),
    (dumped(node_object("a"), {"kind": "ResourceSlice", "metadata": {"name": "s"}}), "ResourceSlice"),
]


@pytest.mark.parametrize(("data", "words"), CASES, ids=range(len(CASES)))
def test_wrong_dumps_are_refused(data: bytes, words: str) -> None:
    if b'"status": []' in data:
        data = data.replace(b'"status": []', b'"status": [1]')
        words = "not a mapping"
    with pytest.raises(spec.FleetError, match=words):
        dump.read("dump", data)
