"""Capacities of domains against counting by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model import gang as gangs
from scheduler.model import request
from scheduler.placement import domains
from scheduler.snapshot import topology, tree
from tests.placement import fleets


def capacity(fleet: topology.Topology, counts: list[int], **bounds: int) -> domains.Capacity:
    """Return capacities for given pods per node."""
    return domains.capacity(fleet.tree, np.array(counts, dtype=np.int32), domains.Bounds(**bounds))


def named(fabric_tree: tree.CompiledTree, values: np.ndarray) -> dict[str, int]:
    """Return values by domain."""
    return dict(zip(fabric_tree.names, values.tolist(), strict=True))


def test_sums_without_constraints() -> None:
    fleet = fleets.racks(2, 1)
    assert named(fleet.tree, capacity(fleet, [3, 1, 2]).whole) == {
        "cluster": 6, "b0": 6, "b0/r0": 4, "n00": 3, "n01": 1, "b0/r1": 2, "n10": 2,
    }  # fmt: skip


def test_segments_round_their_level_down_and_leave_finer_levels_for_filling() -> None:
    fleet = fleets.racks(2, 2)
    rack = fleet.tree.levels.index("rack")
    held = capacity(fleet, [3, 2, 1, 2], segment=rack, segment_size=2)
    assert named(fleet.tree, held.room)["b0/r1"] == 2
    assert named(fleet.tree, held.room) | {"b0/r1": 2} == named(fleet.tree, held.room)
    assert named(fleet.tree, held.whole) == {
        "cluster": 6, "b0": 6, "b0/r0": 4, "n00": 2, "n01": 2, "b0/r1": 2, "n10": 0, "n11": 2,
    }  # fmt: skip
    assert named(fleet.tree, held.room)["n00"] == 3


def test_spread_caps_its_level_and_in_whole_segments_above_them() -> None:
    fleet = fleets.racks(2, 2)
    rack, node = fleet.tree.levels.index("rack"), fleet.tree.levels.index("node")
    assert capacity(fleet, [3, 3, 1, 0], spread=rack, max_pods=2).whole[0] == 3
    assert capacity(fleet, [3, 3, 1, 0], spread=node, max_pods=2).whole[0] == 5
    assert capacity(fleet, [4, 4, 4, 0], spread=rack, max_pods=3, segment=node, segment_size=2).whole[0] == 4


def test_nodes_outside_a_named_level_hold_nothing() -> None:
    built = {name: fleets.machine(name) for name in ("in", "out")}
    fleet = fleets.fleet({"in": ("b", "r"), "out": ("b", "")}, built)
    rack = fleet.tree.levels.index("rack")
    for bounds in ({"required": rack}, {"segment": rack, "segment_size": 1}, {"spread": rack, "max_pods": 9}):
        assert capacity(fleet, [4, 4], **bounds).whole[0] == 4
    assert capacity(fleet, [4, 4]).whole[0] == 8


@settings(max_examples=150, deadline=None)
@given(fleet=fleets.fleets(), one=fleets.gangs(), data=st.data())
def test_whole_capacity_is_the_largest_count_that_brute_force_places_inside(
    fleet: topology.Topology, one: gangs.Gang, data: st.DataObject
) -> None:
    counts = data.draw(st.lists(st.integers(0, 3), min_size=len(fleet.nodes), max_size=len(fleet.nodes)))
    role = one.roles[0]
    limit = domains.bounds(fleet.tree, gangs.TopologyConstraint(), role)
    held = capacity(
        fleet,
        counts,
        segment=limit.segment,
        segment_size=limit.segment_size,
        spread=limit.spread,
        max_pods=limit.max_pods,
    )
    unbound = gangs.Gang("g", one.roles)
    for vertex in range(len(fleet.tree.names)):
        low, high = int(fleet.tree.first_node[vertex]), int(fleet.tree.last_node[vertex])
        most = 0
        for chosen in np.ndindex(*(count + 1 for count in counts[low:high])):
            if sum(chosen) > most:
                every = [0] * low + list(chosen) + [0] * (len(counts) - high)
                if fleets.obeys(fleet, unbound, role, every):
                    most = sum(chosen)
        assert held.whole[vertex] == most, fleet.tree.names[vertex]


def test_constraints_of_gang_and_role_add_up() -> None:
    fleet = fleets.racks(2, 2)
    block, rack = fleet.tree.levels.index("block"), fleet.tree.levels.index("rack")
    role = gangs.Role("r", 2, request.PodRequest(), gangs.TopologyConstraint("rack", "node"))
    found = domains.bounds(fleet.tree, gangs.TopologyConstraint("block", "rack"), role)
    assert (found.required, found.preferred) == (rack, rack + 1)
    assert (
        domains.bounds(fleet.tree, gangs.TopologyConstraint("block"), gangs.Role("r", 1, request.PodRequest())).required
        == block
    )
    with pytest.raises(KeyError, match="hall"):
        domains.bounds(fleet.tree, gangs.TopologyConstraint("hall"), role)


def test_tightest_and_largest_look_at_one_subtree_only() -> None:
    fleet = fleets.racks(2, 2, 2, blocks=3)
    names = fleet.tree.names
    held = capacity(fleet, [1, 1, 2, 3, 9, 9])
    assert [names[v] for v in domains.tightest(fleet.tree, held, 3)] == ["n11", "n20", "n21"]
    assert [names[v] for v in domains.tightest(fleet.tree, held, 3, names.index("b1"))] == ["n11"]
    assert [names[v] for v in domains.tightest(fleet.tree, held, 4, names.index("b1"))] == ["b1/r1"]
    assert domains.tightest(fleet.tree, held, 26).tolist() == []
    rack = fleet.tree.levels.index("rack")
    vertex, pods = domains.largest(fleet.tree, capacity(fleet, [1, 1, 2, 3, 9, 9], required=rack), names.index("b1"))
    assert (names[vertex], pods) == ("b1/r1", 5)


def test_common_domain_and_alphabet() -> None:
    fleet = fleets.capacities({"b/r2/n10": 1, "b/r2/n9": 1, "b/r1/n3": 1})
    names = fleet.tree.names
    assert names[domains.common(fleet.tree, 0, 1)] == "b/r2"
    assert names[domains.common(fleet.tree, 0, 2)] == "b"
    assert names[domains.common(fleet.tree, 1, 1)] == "n9"
    alphabet = domains.family(fleet.tree).alphabet
    assert sorted(("n10", "n9", "n3"), key=lambda n: alphabet[names.index(n)]) == ["n3", "n10", "n9"]
