"""The terms of a gang's price, by hand."""

import numpy as np
import pytest

from scheduler.placement import bandwidth, gang_price, pack, policy
from scheduler.snapshot import state, topology
from tests.placement import fleets


def prices(snapshot: state.Snapshot, gpus: int, *packs: dict[int, int]) -> list[gang_price.Price]:
    """Price packs given as pods per node."""
    demand = fleets.compiled(snapshot.topology).demand(fleets.workers(1, gpus=gpus).roles[0].request)
    built = [pack.Pack(0, np.array(list(p)), np.array(list(p.values()))) for p in packs]
    return gang_price.prices(snapshot, demand, built, policy.GangScoring(), bandwidth.DEFAULT)


def test_buddy_worth_is_about_what_is_free_and_drops_most_at_the_first_piece() -> None:
    table = gang_price.buddy(8, 1000).tolist()
    assert table[0] == 0 and table[8] == 8000
    losses = [table[i + 1] - table[i] for i in range(8)]
    assert max(losses) == losses[7] == 3750 and losses[0] == min(losses) == 250


def test_terms_of_one_pack() -> None:
    fleet = fleets.racks(2, 2)
    (price,) = prices(state.empty(fleet), 1, {0: 1})
    terms = dict(price.terms)
    assert terms["bandwidth"] == 0
    assert terms["nodes"] == int(np.diff(gang_price.buddy(4, 1000))[-1])
    rack, block = gang_price.buddy(2, 4000), gang_price.buddy(4, 4000)
    assert terms["domains"] == rack[2] - rack[1] + block[4] - block[3]
    assert terms["span"] == 3000
    weights = policy.gang_weights(policy.GangScoring())
    assert price.total == sum(weights[name] * value for name, value in price.terms)


def test_a_used_node_is_cheaper_than_a_free_one_and_one_rack_than_two() -> None:
    fleet = fleets.racks(2, 2)
    snapshot = state.empty(fleet)
    snapshot.take(state.Grant(3, 0b0011, 1000))
    used, free = prices(snapshot, 1, {3: 2}, {0: 2})
    assert used.total < free.total
    near, far = prices(snapshot, 4, {0: 1, 1: 1}, {0: 1, 2: 1})
    assert near.total < far.total


def test_weights_scale_nothing_away() -> None:
    snapshot = state.empty(fleets.racks(2, 2))
    (first, second) = prices(snapshot, 1, {0: 1, 1: 1}, {0: 2})
    assert first.total != second.total
    assert first.bandwidth_mb_s != second.bandwidth_mb_s


@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 16])
def test_nothing_is_faster_than_the_best_possible(gpus: int) -> None:
    fleet: topology.Topology = fleets.racks(2, 2)
    best = gang_price.best_possible(fleet, (), "best-subset", gpus)
    for spread in ({0: gpus}, {0: gpus // 2, 1: gpus - gpus // 2}):
        taken = {node: pods for node, pods in spread.items() if 0 < pods <= 4}
        if sum(taken.values()) == gpus:
            (price,) = prices(state.empty(fleet), 1, taken)
            assert price.bandwidth_mb_s <= best
