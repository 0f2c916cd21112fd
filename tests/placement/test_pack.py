"""Dealing pods to domains and nodes."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scheduler.model import gang as gangs
from scheduler.placement import domains, pack
from scheduler.snapshot import state, topology
from tests.placement import fleets

MANNERS = ("fewest", "even", "fullest", "in-order")


def array(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize(
    ("room", "need", "expected"),
    [
        ([5, 3, 4], 3, [1]),
        ([32, 20, 20], 40, [1, 2]),
        ([8, 8, 8, 1], 17, [0, 1, 3]),
        ([4, 4, 4], 8, [0, 1]),
        ([2, 9, 7, 3], 10, [2, 3]),
        ([9, 9, 5, 4], 14, [0, 2]),
    ],
)
def test_fewest_domains_with_least_to_spare(room: list[int], need: int, expected: list[int]) -> None:
    assert sorted(pack.fewest(array(room), need, np.zeros(len(room), dtype=np.int64))) == expected


def test_ties_go_to_what_is_broken_into_already() -> None:
    assert pack.fewest(array([4, 4, 4]), 4, array([2, 1, 3])) == [1]


@settings(max_examples=300, deadline=None)
@given(room=st.lists(st.integers(0, 9), min_size=1, max_size=7), part=st.floats(0.01, 1.0))
def test_no_fewer_domains_hold_the_pods(room: list[int], part: float) -> None:
    need = max(1, int(sum(room) * part))
    assume(sum(room) >= need)
    chosen = pack.fewest(array(room), need, np.zeros(len(room), dtype=np.int64))
    assert sum(room[i] for i in chosen) >= need and len(set(chosen)) == len(chosen)
    assert not any(sum(some) >= need for some in combinations(room, len(chosen) - 1))


@settings(max_examples=300, deadline=None)
@given(
    room=st.lists(st.integers(0, 9), min_size=1, max_size=7), part=st.floats(0.01, 1.0), manner=st.sampled_from(MANNERS)
)
def test_every_manner_deals_all_pods_within_the_room(room: list[int], part: float, manner: pack.Manner) -> None:
    need = max(1, int(sum(room) * part))
    assume(sum(room) >= need)
    shares = pack.deal(array(room), need, manner, np.zeros(len(room), dtype=np.int64))
    assert shares.sum() == need and (shares >= 0).all() and (shares <= array(room)).all()


def test_even_levels_what_fewest_leaves_lopsided() -> None:
    dear = np.zeros(3, dtype=np.int64)
    assert sorted(pack.deal(array([8, 8, 8]), 17, "fewest", dear).tolist()) == [1, 8, 8]
    assert sorted(pack.deal(array([8, 8, 8]), 17, "even", dear).tolist()) == [5, 6, 6]
    assert sorted(pack.deal(array([8, 8, 8]), 18, "even", dear, unit=3).tolist()) == [6, 6, 6]
    assert sorted(pack.deal(array([2, 8, 8]), 17, "even", dear).tolist()) == [2, 7, 8]


def test_fullest_uses_up_the_least_dear_first() -> None:
    assert pack.deal(array([8, 2, 8]), 9, "fullest", array([8, 2, 7])).tolist() == [0, 2, 7]


@settings(max_examples=150, deadline=None)
@given(fleet=fleets.fleets(), one=fleets.gangs(), data=st.data(), manner=st.sampled_from(MANNERS))
def test_a_filled_domain_obeys_every_constraint(
    fleet: topology.Topology, one: gangs.Gang, data: st.DataObject, manner: pack.Manner
) -> None:
    role = one.roles[0]
    counts = data.draw(st.lists(st.integers(0, 4), min_size=len(fleet.nodes), max_size=len(fleet.nodes)))
    limit = domains.bounds(fleet.tree, one.constraint, role)
    held = domains.capacity(fleet.tree, np.array(counts, dtype=np.int32), limit)
    for vertex in domains.tightest(fleet.tree, held, role.count).tolist():
        found = pack.fill(fleet.tree, held, vertex, role.count, manner, pack.dearness(state.empty(fleet)))
        every = [0] * len(counts)
        for node, pods in zip(found.nodes.tolist(), found.pods.tolist(), strict=True):
            every[node] = pods
        assert found.nodes.tolist() == sorted(set(found.nodes.tolist())) and min(found.pods) > 0
        assert sum(every) == role.count
        assert all(pods <= most for pods, most in zip(every, counts, strict=True))
        assert fleets.obeys(fleet, one, role, every)
        low, high = fleet.tree.first_node[vertex], fleet.tree.last_node[vertex]
        assert all(low <= node < high for node in found.nodes)


def test_few_racks_are_used_and_the_last_one_is_the_tightest() -> None:
    fleet = fleets.racks(4, 3, 1, 2)
    held = domains.capacity(fleet.tree, np.full(10, 1, dtype=np.int32), domains.Bounds())
    found = pack.fill(fleet.tree, held, 0, 6, "fewest", pack.dearness(state.empty(fleet)))
    racks = {fleets.domain_of(fleet, node, "rack") for node in found.nodes.tolist()}
    assert racks == {"b0/r0", "b0/r3"}
