"""The compiled policy: its total order, its intervals, what it grants, and that its caches change no decision."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.model import request
from scheduler.placement import policy, rows, scoring, target
from scheduler.snapshot import state
from tests.placement import states

WANTED = target.from_requests(
    [
        (request.PodRequest(cpu_milli=3152, gpus=1, gpu_milli=810), 9),
        (request.PodRequest(cpu_milli=8000, gpus=2), 2),
        (request.PodRequest(cpu_milli=16_000, gpus=8), 1),
    ]
)

rules = st.sampled_from(states.RULES)


@given(states.snapshots(), states.pods(), rules, st.integers(0, 7), st.integers(0, 7))
def test_the_best_node_of_an_interval_is_the_least_by_cost_and_tie(
    snapshot: state.Snapshot, pod: request.PodRequest, rule: policy.PodRule, one_end: int, other_end: int
) -> None:
    """For rules whose cost is the whole story; the scarcity price is tested below."""
    nodes = len(snapshot.up)
    low, high = sorted((min(one_end, nodes), min(other_end, nodes)))
    scored = states.compiled(rule, snapshot.topology, WANTED, **({"scarcity": 0} if rule == "opportunity-cost" else {}))
    wanted = scored.demand(pod)
    cost = scored.costs(snapshot, wanted, np.arange(nodes))
    keys = [(int(cost[n]), int(snapshot.topology.tie[n]), n) for n in range(low, high) if cost[n] < rows.INFEASIBLE]
    chosen = scored.choose(snapshot, wanted, low, high)
    if not keys:
        assert chosen is None
    else:
        assert chosen is not None
        assert (chosen.cost, chosen.node) == (min(keys)[0], min(keys)[2])


@given(states.snapshots(), states.pods(), rules)
def test_a_choice_can_be_granted_and_nothing_is_chosen_only_where_nothing_fits(
    snapshot: state.Snapshot, pod: request.PodRequest, rule: policy.PodRule
) -> None:
    scored = states.compiled(rule, snapshot.topology, WANTED)
    wanted = scored.demand(pod)
    before, version = snapshot.copy(), snapshot.version
    chosen = scored.choose(snapshot, wanted)
    assert snapshot.version == version
    state.compare(snapshot, before)
    if chosen is None:
        assert states.place(snapshot, pod, 0) is None
        return
    grant = scored.grant(snapshot, wanted, chosen)
    free = snapshot.gpu_free[chosen.node].copy()
    snapshot.take(grant)
    assert (grant.cpu_milli, grant.memory_mib, grant.mask.bit_count()) == (pod.cpu_milli, pod.memory_mib, pod.gpus)
    assert int(free.sum() - snapshot.gpu_free[chosen.node].sum()) == pod.total_gpu_milli
    assert (chosen.gpu >= 0) == (pod.gpus == 1 and pod.gpu_milli < 1000)


def test_whole_gpus_are_granted_from_the_lowest_eligible_index() -> None:
    fleet = states.fleet([states.machine("a", 4)])
    snapshot, scored = state.empty(fleet), states.compiled("best-fit", fleet)
    states.loads(snapshot, 0, (0b0001, 500, 0), (0b0100, 1000, 0))
    wanted = scored.demand(request.PodRequest(gpus=2))
    chosen = scored.choose(snapshot, wanted)
    assert chosen is not None
    assert scored.grant(snapshot, wanted, chosen).mask == 0b1010


def test_ties_follow_the_order_of_the_topology_and_not_that_of_the_rows() -> None:
    machines = [states.machine(name, 1) for name in "abc"]
    for tie, node in (((0, 1, 2), 0), ((2, 0, 1), 1), ((1, 2, 0), 2)):
        fleet = states.fleet(machines, tie)
        scored = states.compiled("best-fit", fleet)
        chosen = scored.choose(state.empty(fleet), scored.demand(request.PodRequest(gpus=1)))
        assert chosen is not None and chosen.node == node


@given(states.snapshots(), states.pods())
def test_the_scarcity_price_falls_on_untouched_larger_machines_only(
    snapshot: state.Snapshot, pod: request.PodRequest
) -> None:
    free, priced = (
        states.compiled("opportunity-cost", snapshot.topology, WANTED, scarcity=weight) for weight in (0, 1_000_000)
    )
    one, other = free.choose(snapshot, free.demand(pod)), priced.choose(snapshot, priced.demand(pod))
    assert (one is None) == (other is None)
    if one is None or other is None:
        return
    row = priced.row(snapshot, priced.demand(pod)).cost
    size = snapshot.topology.gpus[other.node]
    every = int(snapshot.topology.all_gpus[other.node])
    untouched = every and int(snapshot.free_mask[other.node]) == every
    smaller = pod.gpus and (pod.gpu_milli < 1000 or pod.gpus < size)
    extra = other.cost - int(row[other.node])
    assert extra >= 0
    if not (untouched and smaller and size in priced.tables.prices.whole):
        assert extra == 0


def test_an_empty_interval_holds_no_node() -> None:
    fleet = states.fleet([states.machine("a", 1)])
    scored = states.compiled("best-fit", fleet)
    assert scored.choose(state.empty(fleet), scored.demand(request.PodRequest()), 1, 1) is None


def test_requests_are_compiled_once() -> None:
    fleet = states.fleet([states.machine("a", 1)])
    scored = states.compiled("best-fit", fleet)
    assert scored.demand(request.PodRequest(gpus=1)) is scored.demand(request.PodRequest(gpus=1))


@given(states.snapshots(), st.lists(states.pods(), min_size=3, max_size=8))
def test_forgotten_rows_change_no_decision(snapshot: state.Snapshot, pods: list[request.PodRequest]) -> None:
    scored = states.compiled("opportunity-cost", snapshot.topology, WANTED)
    kept = replace(scored, _rows={})
    with pytest.MonkeyPatch.context() as patch:
        for turn, pod in enumerate(pods * 2):
            patch.setattr(scoring, "MAX_ROWS", 2)
            mine = scored.choose(snapshot, scored.demand(pod))
            assert len(scored._rows) <= 2
            patch.undo()
            assert mine == kept.choose(snapshot, kept.demand(pod))
            states.place(snapshot, pod, turn)


def test_a_policy_without_a_target_still_decides() -> None:
    fleet = states.fleet([states.machine("a", 4), states.machine("b", 8)])
    snapshot = state.empty(fleet)
    for rule in states.RULES:
        scored = scoring.compile_scoring(states.named(rule), fleet)
        for pod in (
            request.PodRequest(cpu_milli=1),
            request.PodRequest(gpus=1, gpu_milli=300),
            request.PodRequest(gpus=4),
        ):
            assert scored.choose(snapshot, scored.demand(pod)) is not None


@given(states.snapshots(), states.pods(), rules)
def test_the_terms_of_a_choice_add_up_to_its_cost(
    snapshot: state.Snapshot, pod: request.PodRequest, rule: policy.PodRule
) -> None:
    scored = states.compiled(rule, snapshot.topology, WANTED)
    wanted = scored.demand(pod)
    ranked = scored.ranking(snapshot, wanted, 0, len(snapshot.up), 3)
    if rule != "random":  # its order is drawn anew
        assert ranked[:1] == [one for one in [scored.choose(snapshot, wanted)] if one]
    assert [one.cost for one in ranked] == sorted(one.cost for one in ranked)
    for one in ranked:
        terms = dict(scored.terms(snapshot, wanted, one))
        assert sum(terms.values()) == one.cost
        assert terms.keys() <= ({"cost"} | scored.tables.weights.keys())
        if pod.gpus and rule == "opportunity-cost":
            assert terms["value"] > 0


def test_terms_say_which_weight_a_choice_owes_its_cost_to() -> None:
    """One share on an untouched machine of two GPUs: written out by hand."""
    fleet = states.fleet([states.machine("a", 2)])
    snapshot = state.empty(fleet)
    scored = states.compiled("opportunity-cost", fleet, target.from_requests([(request.PodRequest(gpus=1), 1)]))
    wanted = scored.demand(request.PodRequest(gpus=1))
    chosen = scored.choose(snapshot, wanted)
    assert chosen is not None
    weights = scored.tables.weights
    terms = dict(scored.terms(snapshot, wanted, chosen))
    assert terms == {
        "left": weights["left"] * 125 * 1000,
        "open": weights["open"] * 1_000_000,
        "value": weights["value"] * 1_000_000,
    }
