"""Fleets from nodes and slices: what is read, what is left out and why, and what a change costs."""

from dataclasses import replace
from typing import Any

import pytest

from scheduler import policies
from scheduler.kube import fleet, node, part, places, taint_rule
from scheduler.model import device, levels, machines, slices
from scheduler.model import node as model
from tests.kube import fleets
from tests.kube.fleets import node_object, told

MUSTER = policies.load("muster")
ZONE, RACK = "topology.kubernetes.io/zone", "muster.dev/rack"


def racks(kind: str, *names: str) -> list[model.NodeTopology]:
    return [replace(machines.build(kind, name), labels=((RACK, name[0]),)) for name in names]


@pytest.mark.parametrize("kind", sorted(machines.KINDS))
def test_machine_is_what_the_driver_published(kind: str) -> None:
    made = machines.build(kind, "n")
    read = told(made).compile(MUSTER).topology.nodes[0]
    assert (read.gpus, read.nics, read.nvlinks) == (made.gpus, made.nics, made.nvlinks)
    assert (read.cpu_milli, read.memory_mib, read.max_pods) == (200_000, 1_024_000, 110)


def test_machines_of_one_shape_are_decoded_once_and_keep_their_identities() -> None:
    made = [machines.build("hgx-h100", f"n{i}") for i in range(3)]
    made = [
        replace(m, gpus=tuple(replace(g, uuid=f"GPU-{m.name}-{g.index}", fabric_id=f"{m.name}.0") for g in m.gpus))
        for m in made
    ]
    found = told(*made)
    compiled = found.compile(MUSTER)
    assert len(found._templates) == 1
    assert [m.gpus for m in compiled.topology.nodes] == [m.gpus for m in made]


def test_partitions_and_their_parents_are_read() -> None:
    cut = machines.build("dgx-a100", "n")
    cut = replace(cut, gpus=tuple(replace(g, mig_enabled=g.index < 2, uuid=f"GPU-{g.index}") for g in cut.gpus))
    assert told(cut).compile(MUSTER).topology.nodes[0].gpus == cut.gpus


def test_gpus_that_nvidia_publishes_by_their_partitions_alone() -> None:
    (machine,) = fleets.nvidia_partitions("n").compile(MUSTER).topology.nodes
    assert [(gpu.uuid, gpu.mig_enabled, gpu.name) for gpu in machine.gpus] == [
        ("GPU-0", True, "gpu-0"),
        ("GPU-1", True, "gpu-1"),
    ]


def test_an_unchanged_fleet_is_the_same_object() -> None:
    found = told(*racks("hgx-h100", "a0", "a1"))
    before = found.compile(MUSTER)
    found.update(node.read(node_object("a0", {RACK: "a", "other": "label"})))
    for item in slices.encode(machines.build("hgx-h100", "a0")):
        found.update(part.read(item | {"metadata": item["metadata"] | {"resourceVersion": "9"}}))
    assert found.compile(MUSTER).scoring is before.scoring
    found.update(node.read(node_object("a0", {RACK: "b"})))
    after = found.compile(MUSTER)
    assert after.scoring is not before.scoring
    assert after.topology.generation == before.topology.generation + 1


BAD: list[tuple[str, Any, str]] = [
    ("devices", 7, "slice n0-gpu.muster.dev-000: TypeError"),
    (
        "devices",
        [{"name": "gpu-0", "attributes": {"type": {"string": "gpu"}, "index": {"string": "x"}}}],
        "expected int",
    ),
    ("devices", [{"name": "x", "attributes": {"type": {"string": "gpu"}}}], "the name has no number"),
    ("pool", {"name": "n0", "generation": 4, "resourceSliceCount": 2}, "generation 4 has 1 of 2 slices"),
    ("pool", {"name": "other", "generation": 1, "resourceSliceCount": 1}, "must be named after its node"),
    ("pool", {"name": "n0"}, "0 slices"),
]


@pytest.mark.parametrize(("field", "value", "reason"), BAD)
def test_a_node_with_a_bad_slice_is_left_out_with_the_reason(field: str, value: Any, reason: str) -> None:
    good, bad = machines.build("hgx-h100", "good"), slices.encode(machines.build("hgx-h100", "n0"))[0]
    found = told(good)
    found.update(node.read(node_object("n0")))
    found.update(part.read(bad | {"spec": bad["spec"] | {field: value}}))
    compiled = found.compile(MUSTER)
    assert [m.name for m in compiled.topology.nodes] == ["good"]
    assert reason in compiled.rejected["n0"]
    found.update(part.read(bad))
    assert len(found.compile(MUSTER).topology.nodes) == 2


def test_nodes_without_slices_have_extended_gpus_that_no_claim_means() -> None:
    found = fleet.Fleet()
    labels = {"nvidia.com/gpu.product": "NVIDIA-L40S"}
    found.update(node.read(node_object("n", labels, **{"nvidia.com/gpu": "4"})))
    found.update(node.read(node_object("m")))
    plain, machine = found.compile(MUSTER).topology.nodes
    assert [gpu.model.name for gpu in machine.gpus] == ["nvidia.com/gpu:NVIDIA-L40S"] * 4
    assert plain.gpus == ()


def test_levels_come_from_labels_topologies_and_nvlink_domains() -> None:
    trays = machines.nvl72("r", "11111111-0000-0000-0000-000000000000")[:2]
    found = told(*(replace(m, labels=((ZONE, "z"), ("a.example/rack", "r1"), ("b.example/rack", "r2"))) for m in trays))
    found.update(fleet.LevelOrder("t", ("a.example/rack", "b.example/rack")))
    compiled = found.compile(MUSTER)
    assert compiled.topology.tree.levels == (
        ("cluster", "zone", "a.example/rack", "b.example/rack", "nvlink-domain", "node")
    )
    assert compiled.spellings["zone"] == compiled.spellings[ZONE] == "zone"
    assert compiled.spellings["nvidia.com/gpu.clique"] == "nvlink-domain"
    assert "rack" not in compiled.spellings
    found.update(fleet.LevelOrder("s", ("a.example/rack", ZONE)))
    assert found.compile(MUSTER).topology.tree.levels[1:4] == ("a.example/rack", "b.example/rack", "zone")


def test_nvlink_domains_over_several_racks_are_not_torn_apart() -> None:
    trays = machines.nvl72("r", "11111111-0000-0000-0000-000000000000")[:4]
    trays = [replace(m, labels=((ZONE, "z"), (RACK, f"r{i // 2}"))) for i, m in enumerate(trays)]
    other = replace(machines.build("hgx-h100", "h"), labels=((ZONE, "z"), (RACK, "r2")))
    tree = told(*trays, other).compile(MUSTER).topology.tree
    assert tree.levels == ("cluster", "zone", "nvlink-domain", "rack", "node")
    assert "z/11111111-0000-0000-0000-000000000000.0/r1" in tree.names
    assert "z/r2" in tree.names


def test_a_machine_of_its_own_nvlink_fabric_makes_no_level() -> None:
    lone = machines.build("gb200-nvl72", "n")
    assert lone.gpus[0].fabric_id.startswith(levels.NO_CLUSTER)
    assert told(lone).compile(MUSTER).topology.tree.levels == ("cluster", "node")


def test_nodes_that_fit_into_no_tree_are_left_out() -> None:
    twin = machines.build("hgx-h100", "c")
    twin = replace(twin, gpus=tuple(replace(gpu, uuid=f"GPU-{gpu.index}") for gpu in twin.gpus))
    odd = replace(machines.build("hgx-h100", "b"), labels=((ZONE, "a"),))
    made = (machines.build("hgx-h100", "a"), odd, twin, replace(twin, name="d"))
    compiled = told(*made).compile(MUSTER)
    assert [m.name for m in compiled.topology.nodes] == ["a", "c"]
    assert compiled.rejected == {
        "b": "domain a has the name of a node",
        "d": "has a GPU with the uuid of one in node c",
    }


def test_a_domain_may_have_the_name_of_a_coarser_one_elsewhere() -> None:
    upper = replace(machines.build("hgx-h100", "e"), labels=((RACK, "z"),))
    lower = replace(machines.build("hgx-h100", "f"), labels=((ZONE, "z"), (RACK, "r")))
    tree = told(upper, lower).compile(MUSTER).topology.tree
    assert set(tree.names) == {"cluster", "z.1", "z", "z/r", "e", "f"}
    assert tree.levels[int(tree.level[tree.names.index("z.1")])] == "rack"


def test_a_newcomer_that_contradicts_the_fleet_is_left_out_and_nobody_else() -> None:
    labels = ((ZONE, "z"), (RACK, "r"))
    good = [replace(machines.build("hgx-h100", name), labels=labels) for name in ("m", "n")]
    live = told(*good)
    before = live.compile(MUSTER).topology
    twin = replace(machines.build("hgx-h100", "a"), gpus=good[0].gpus)
    for bad, why in (
        (replace(machines.build("hgx-h100", "z"), labels=()), "domain z has the name of a node"),
        (twin, "has a GPU with the uuid of one in node m"),
    ):
        live.update(node.read(node_object(bad.name, dict(bad.labels))))
        for item in slices.encode(bad):
            live.update(part.read(item))
        compiled = live.compile(MUSTER)
        assert compiled.rejected[bad.name] == why
        assert [one.name for one in compiled.topology.nodes] == [one.name for one in before.nodes]


def test_a_node_keeps_its_devices_while_its_slices_have_a_gap() -> None:
    machine = machines.build("hgx-h100", "a")
    live = told(machine, machines.build("hgx-h100", "b"))
    before = live.compile(MUSTER)
    [item] = slices.encode(machine)
    for gap in (
        None,
        item | {"spec": item["spec"] | {"pool": {"name": "a", "generation": 2, "resourceSliceCount": 2}}},
    ):
        live.remove(part.read(item))
        if gap is not None:
            live.update(part.read(gap))
        during = live.compile(MUSTER)
        assert during.scoring is before.scoring and not during.rejected
        assert list(during.closed) == ["a"] and "published" in during.closed["a"]
        live.update(part.read(item | {"spec": item["spec"] | {"pool": item["spec"]["pool"] | {"generation": 3}}}))
        assert not live.compile(MUSTER).closed
        live.update(part.read(item))


def test_a_node_without_a_past_is_left_out_while_its_slices_have_a_gap() -> None:
    machine = machines.build("hgx-h100", "a")
    live = fleet.Fleet()
    [item] = slices.encode(machine)
    live.update(node.read(node_object("a", {})))
    live.update(
        part.read(item | {"spec": item["spec"] | {"pool": {"name": "a", "generation": 2, "resourceSliceCount": 2}}})
    )
    assert "1 of 2 slices" in live.compile(MUSTER).rejected["a"]


def test_a_fabric_file_takes_the_place_of_labels() -> None:
    paths = places.Paths(("spine", "leaf"), {"a0": ("s", "l0"), "a1": ("s", "l1")})
    compiled = told(*racks("hgx-h100", "a0", "a1", "a2"), options=fleet.Options(paths=paths)).compile(MUSTER)
    assert compiled.topology.tree.levels == ("cluster", "spine", "leaf", "node")
    assert {"s", "s/l0", "s/l1"} <= set(compiled.topology.tree.names)


def tainted(item: dict[str, Any], name: str, key: str, effect: str) -> dict[str, Any]:
    entries = [
        e
        | (
            {"taints": [{"key": key, "effect": effect, "timeAdded": "2026-01-01T00:00:00Z"}]}
            if e["name"] == name
            else {}
        )
        for e in item["spec"]["devices"]
    ]
    return item | {"spec": item["spec"] | {"devices": entries}}


@pytest.mark.parametrize(
    ("key", "effect", "failed"),
    [
        ("x/broken", "NoSchedule", True),
        ("x/broken", "NoExecute", True),
        ("x/broken", "None", False),
        ("muster.dev/owned", "NoSchedule", False),
        ("muster.dev/owned", "NoExecute", True),
    ],
)
def test_taints_fail_devices_but_change_no_machine(key: str, effect: str, failed: bool) -> None:
    made = machines.build("hgx-h100", "n")
    found = told(made)
    before = found.compile(MUSTER)
    item = tainted(tainted(slices.encode(made)[0], "gpu-3", key, effect), "nic-1", key, effect)
    found.update(part.read(item))
    after = found.compile(MUSTER)
    assert after.scoring is before.scoring
    assert after.failed == ((("n", 3),) if failed else ())
    assert [name for _, name, _ in after.tainted] == (["gpu-3", "nic-1"] if failed else [])
    assert before.failed == ()


def test_taint_rules_fail_the_devices_that_they_select() -> None:
    found = told(*racks("hgx-h100", "a0", "a1"))
    spec = {"deviceSelector": {"pool": "a1", "device": "gpu-2"}, "taint": {"key": "k", "effect": "NoExecute"}}
    rule = taint_rule.read({"metadata": {"name": "r"}, "spec": spec})
    found.update(rule)
    assert found.compile(MUSTER).failed == (("a1", 2),)
    found.remove(rule)
    found.update(taint_rule.read({"metadata": {"name": "r"}, "spec": {"taint": spec["taint"]}}))
    assert found.compile(MUSTER).failed == ()
    owned = {
        "deviceSelector": {"driver": "gpu.muster.dev"},
        "taint": {"key": "muster.dev/owned", "effect": "NoSchedule"},
    }
    found.update(taint_rule.read({"metadata": {"name": "own"}, "spec": owned}))
    assert found.compile(MUSTER).failed == ()


def test_a_node_that_goes_takes_its_slices_place_and_comes_back() -> None:
    found = told(*racks("hgx-h100", "a0", "a1"))
    found.compile(MUSTER)
    found.remove(node.Node("a0"))
    assert [m.name for m in found.compile(MUSTER).topology.nodes] == ["a1"]
    assert found.machine("a0") is None
    found.update(node.read(node_object("a0")))
    assert len(found.compile(MUSTER).topology.nodes[0].gpus) == 8


def test_closed_nodes_stay_in_the_fleet() -> None:
    found = told(machines.build("hgx-h100", "n"))
    found.update(replace(node.read(node_object("n")), unschedulable=True))
    compiled = found.compile(MUSTER)
    assert compiled.closed == {"n": "is cordoned"}
    assert [m.name for m in compiled.topology.nodes] == ["n"]


def test_mixed_shapes_on_one_node_keep_their_indices() -> None:
    made = machines.build("hgx-h100", "n")
    gpus = tuple(replace(gpu, device_name=f"dev-{gpu.index + 4}") for gpu in made.gpus)
    read = told(replace(made, gpus=gpus)).compile(MUSTER).topology.nodes[0]
    assert [gpu.name for gpu in read.gpus] == [f"dev-{i}" for i in range(4, 12)]
    assert isinstance(read.gpus[0], device.Gpu)
