"""Rows that are kept and re-scored where something changed say what rows made anew say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model import request
from scheduler.placement import policy, rows, scoring, target
from scheduler.placement.score import published, tables
from scheduler.snapshot import demand, state
from tests.placement import states

OTHERS = target.from_requests([(request.PodRequest(cpu_milli=8000, gpus=n, gpu_milli=1000), 5) for n in (1, 8)])


@st.composite
def histories(draw: st.DrawFn) -> tuple[state.Snapshot, list[tuple[request.PodRequest, int]]]:
    """Draw a snapshot and what happens to it next."""
    return draw(states.snapshots()), draw(st.lists(st.tuples(states.pods(), st.integers(0, 1 << 16)), max_size=12))


def step(snapshot: state.Snapshot, held: list[state.Grant], pod: request.PodRequest, pick: int) -> None:
    """Let a pod come or go, or a node be cordoned."""
    if held and pick % 3 == 0:
        snapshot.release(held.pop(pick % len(held)))
    elif pick % 7 == 0:
        row = pick % len(snapshot.up)
        snapshot.set_up(row, not snapshot.up[row])
    elif (grant := states.place(snapshot, pod, pick)) is not None:
        held.append(grant)


@pytest.mark.parametrize("rule", states.RULES)
@settings(max_examples=25)
@given(history=histories(), asked=st.lists(states.pods(), min_size=1, max_size=3))
def test_incremental_is_naive(
    rule: policy.PodRule,
    history: tuple[state.Snapshot, list[tuple[request.PodRequest, int]]],
    asked: list[request.PodRequest],
) -> None:
    """The same costs, GPUs and decisions after any history, whichever request is asked when."""
    snapshot, events = history
    kept = states.compiled(rule, snapshot.topology, OTHERS)
    held: list[state.Grant] = []
    for turn, (pod, pick) in enumerate(events):
        step(snapshot, held, pod, pick)
        wanted = kept.demand(asked[turn % len(asked)])
        naive = scoring.Scoring(kept.policy, kept.topology, kept.target, kept.tables, kept.seed)
        mine, fresh = kept.row(snapshot, wanted), naive.row(snapshot, wanted)
        assert mine.cost.tolist() == fresh.cost.tolist()
        assert mine.gpu.tolist() == fresh.gpu.tolist()
        assert kept.choose(snapshot, wanted) == naive.choose(snapshot, wanted)


def counted(scored: list[int]) -> rows.Rule:
    """Return a rule that writes down the nodes that it scores; the cost is the node's free CPU."""

    def rule(
        t: tables.Tables, s: state.Snapshot, w: demand.Demand, nodes: np.ndarray[tuple[int], np.dtype[np.int64]]
    ) -> published.Costs:
        scored.extend(nodes.tolist())
        return s.cpu_free[nodes], np.full(len(nodes), -1, dtype=np.int8)

    return rule


def test_only_what_changed_is_scored_again() -> None:
    fleet = states.fleet([states.machine(f"n{i}", 1) for i in range(4)])
    snapshot, one = state.empty(fleet), states.compiled("best-fit", fleet)
    row = rows.new_row(snapshot, one.demand(request.PodRequest(cpu_milli=1)))
    scored: list[int] = []
    row.refresh(counted(scored), one.tables)
    assert scored == [0, 1, 2, 3]
    row.refresh(counted(scored), one.tables)
    assert scored == [0, 1, 2, 3]
    states.loads(snapshot, 2, (0, 0, 500))
    states.loads(snapshot, 0, (0, 0, 500))
    states.loads(snapshot, 2, (0, 0, 500))
    scored.clear()
    row.refresh(counted(scored), one.tables)
    assert scored == [0, 2]
    assert row.cost.tolist() == [31_500, 32_000, 31_000, 32_000]


def test_a_node_that_can_no_longer_take_the_pod_is_struck_off_and_comes_back() -> None:
    fleet = states.fleet([states.machine("a", 1), states.machine("b", 1)])
    snapshot, one = state.empty(fleet), states.compiled("first-fit", fleet)
    wanted = one.demand(request.PodRequest(gpus=1, gpu_milli=600))
    assert one.row(snapshot, wanted).gpu.tolist() == [0, 0]
    held = state.Grant(0, 1, 500)
    snapshot.take(held)
    row = one.row(snapshot, wanted)
    assert (row.cost.tolist(), row.gpu.tolist()) == ([rows.INFEASIBLE, 1], [-1, 0])
    snapshot.release(held)
    assert one.row(snapshot, wanted).cost.tolist() == [0, 1]


def test_a_copy_is_never_answered_from_the_row_of_its_original() -> None:
    """Original and copy reach the same version by different ways."""
    fleet = states.fleet([states.machine("a", 1), states.machine("b", 1)])
    original, one = state.empty(fleet), states.compiled("first-fit", fleet)
    wanted = one.demand(request.PodRequest(gpus=1))
    one.choose(original, wanted)
    copy = original.copy()
    copy.take(state.Grant(0, 1, 1000))
    original.take(state.Grant(1, 1, 1000))
    assert original.version == copy.version
    found = [one.choose(snapshot, wanted) for snapshot in (copy, original, copy)]
    assert [choice.node for choice in found if choice] == [1, 0, 1]


def test_no_cost_of_any_rule_comes_near_that_of_an_infeasible_node() -> None:
    """The largest fleet that is meant: costs stay a thousandfold below, so that prices can be added."""
    fleet = states.fleet([states.machine("a", 16, 512_000)])
    wanted = target.from_requests([(request.PodRequest(cpu_milli=1, gpus=16), 10**6)])
    snapshot = state.empty(fleet)
    for rule in states.RULES:
        one = states.compiled(rule, fleet, wanted)
        cost = one.costs(snapshot, one.demand(request.PodRequest(cpu_milli=512_000, gpus=16)), np.array([0]))
        assert abs(int(cost[0])) < rows.INFEASIBLE // (1 if rule == "random" else 1000)
