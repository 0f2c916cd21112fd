"""Bodies of simulated nodes: within the API's limits, equal to what the codec makes, labelled, decodable."""

from collections import Counter, defaultdict
from typing import Any

import orjson
import pytest

from scheduler.model import machines, slices
from tests.model import api_limits
from tests.testbed.fleet import nodes, presets


def objects(fleet: presets.Fleet, minor: int = nodes.NEWEST) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Return each node with its slices, decoded."""
    made = []
    for first, *rest in nodes.bodies(fleet, minor):
        made.append((orjson.loads(first.data), [orjson.loads(body.data) for body in rest]))
    return made


def every_kind() -> presets.Fleet:
    return presets.Fleet("all", (tuple(presets.Rack(kind, 2) for kind in machines.KINDS),))


@pytest.mark.parametrize(("name", "count"), [("fleet_16", 16), ("fleet_500", 500), ("fleet_5000", 5000)])
def test_presets_have_as_many_nodes_as_they_say(name: str, count: int) -> None:
    fleet = presets.PRESETS[name]
    names = [member.name for member in fleet.members()]
    assert len(fleet) == len(names) == len(set(names)) == count
    kinds = {member.kind for member in fleet.members()}
    assert presets.NVL72 in kinds and len(kinds) > 2


@pytest.mark.parametrize("minor", [34, 37])
def test_slices_are_those_of_the_codec_and_within_the_limits(minor: int) -> None:
    for member, (_, published) in zip(every_kind().members(), objects(every_kind(), minor), strict=True):
        wanted = slices.encode(nodes.machine(member), form=slices.layout(minor))
        assert [item["spec"] for item in published] == [item["spec"] for item in wanted]
        assert [item["metadata"]["name"] for item in published] == [item["metadata"]["name"] for item in wanted]
        api_limits.check_pool(published, minor)


def test_node_and_slices_together_give_the_machine_back() -> None:
    for member, (item, published) in zip(every_kind().members(), objects(every_kind()), strict=True):
        decoded = slices.decode(published)
        machine = nodes.machine(member)
        assert decoded.name == item["metadata"]["name"] == member.name
        assert decoded.gpus == machine.gpus and decoded.nvlinks == machine.nvlinks
        assert item["status"]["capacity"]["cpu"] == f"{machine.cpu_milli}m"


def test_labels_place_the_node_and_kwok_owns_it() -> None:
    for member, (item, _) in zip(presets.fleet_500.members(), objects(presets.fleet_500), strict=True):
        labels = item["metadata"]["labels"]
        assert labels["kubernetes.io/hostname"] == member.name
        assert labels["topology.kubernetes.io/zone"] == member.zone
        assert (labels["muster.dev/block"], labels["muster.dev/rack"]) == (member.block, member.rack)
        assert labels["node.kubernetes.io/instance-type"] == member.kind
        assert labels.get("nvidia.com/gpu.clique", "") == member.clique
        assert item["metadata"]["annotations"] == {"kwok.x-k8s.io/node": "fake"}
        assert "taints" not in item["spec"]


def test_a_rack_of_trays_is_one_nvlink_domain() -> None:
    cliques: dict[str, Counter[str]] = defaultdict(Counter)
    for member in presets.fleet_500.members():
        if member.kind == presets.NVL72:
            cliques[member.clique][member.rack] += 1
    assert [dict(racks) for racks in cliques.values()] == [
        {f"f500-b06-r{r:02d}": machines.TRAYS_PER_RACK} for r in range(4)
    ]


def test_no_mark_is_left_in_any_body() -> None:
    for bodies in nodes.bodies(every_kind()):
        assert not any(b"mark-of-the" in body.data or "mark-of-the" in body.name for body in bodies)


def test_a_rack_of_an_unknown_machine_is_refused() -> None:
    with pytest.raises(ValueError, match="kind 'dgx-9'"):
        presets.Rack("dgx-9", 1)
    with pytest.raises(ValueError, match="19 trays"):
        presets.Rack(presets.NVL72, 19)


def test_a_fleet_can_be_written_as_kinds_and_counts() -> None:
    fleet = presets.read("hgx-h100=10,gb200-nvl72=20")
    assert [member.kind for member in fleet.members()].count("hgx-h100") == 10
    assert len({member.clique for member in fleet.members() if member.clique}) == 2


@pytest.mark.parametrize("text", ["", "fleet_7", "hgx-h100=", "hgx-h100=0", "hgx-h100=x", "toaster=3"])
def test_a_fleet_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"fleet|rack"):
        presets.read(text)
