"""Victims: cheapest, whole, needed; against trying every set."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model import gang as gangs
from scheduler.model import reasons
from scheduler.placement import clearing, engine, placement, preempt, scoring
from scheduler.snapshot import state, topology
from tests.placement import fleets


def start(
    snapshot: state.Snapshot, score: scoring.Scoring, one: gangs.Gang, cost: int = -1, within: int = 0
) -> clearing.Running:
    """Place a gang and take its devices."""
    answer = engine.place(snapshot, one, score, within=within)
    assert isinstance(answer, placement.Placement), str(answer)
    for grant in answer.grants:
        snapshot.take(grant)
    return clearing.Running(one, answer.grants, cost)


def busy(
    sizes: tuple[int, ...], costs: tuple[int, ...]
) -> tuple[topology.Topology, state.Snapshot, scoring.Scoring, list[clearing.Running]]:
    """Return a fleet of two racks filled with gangs of single GPUs."""
    fleet = fleets.racks(2, 2)
    snapshot, score = state.empty(fleet), fleets.compiled(fleet, "first-fit")
    running = [
        start(snapshot, score, fleets.workers(n, f"g{i}", gpus=1), c)
        for i, (n, c) in enumerate(zip(sizes, costs, strict=True))
    ]
    return fleet, snapshot, score, running


def test_nothing_is_evicted_for_a_gang_that_fits() -> None:
    _, snapshot, score, running = busy((4, 4), (1, 1))
    answer = preempt.preempt(snapshot, fleets.workers(8, "new", gpus=1, priority=5), score, running)
    assert isinstance(answer, preempt.Preemption) and answer.victims == () and answer.cost == 0


def test_the_cheapest_gang_goes_not_the_first() -> None:
    _, snapshot, score, running = busy((4, 4, 4, 4), (9, 9, 2, 9))
    before = fleets.image(snapshot)
    answer = preempt.preempt(snapshot, fleets.workers(1, "new", gpus=4, priority=5), score, running)
    assert fleets.image(snapshot) == before
    assert isinstance(answer, preempt.Preemption)
    assert [v.gang.name for v in answer.victims] == ["g2"] and answer.cost == 2
    fleets.check(
        clearing.without(snapshot, answer.victims), fleets.workers(1, "new", gpus=4, priority=5), answer.placement
    )


def test_victims_are_chosen_inside_the_required_domain() -> None:
    fleet, snapshot, score, running = busy((4, 4, 4, 4), (1, 9, 3, 4))
    one = fleets.workers(2, "new", required="rack", gpus=4, priority=1)
    answer = preempt.preempt(snapshot, one, score, running)
    assert isinstance(answer, preempt.Preemption)
    assert {v.gang.name for v in answer.victims} == {"g2", "g3"} and answer.placement.domain == "b0/r1"
    assert fleet.tree.names[0] == "cluster"


def test_a_cheaper_set_than_the_greedy_one_is_found() -> None:
    """Three GPUs are wanted. By cost per GPU the first two go, for 6; the first and the last cost 5."""
    fleet = fleets.racks(1, gpus=6)
    snapshot, score = state.empty(fleet), fleets.compiled(fleet)
    sizes = ((2, 2), (2, 4), (1, 3), (1, 90))
    running = [start(snapshot, score, fleets.workers(1, f"g{i}", gpus=n), cost) for i, (n, cost) in enumerate(sizes)]
    answer = preempt.preempt(snapshot, fleets.workers(1, "new", gpus=3, priority=1), score, running)
    assert isinstance(answer, preempt.Preemption)
    assert [v.gang.name for v in answer.victims] == ["g0", "g2"] and answer.cost == 5


def test_of_many_small_gangs_only_those_of_one_node_go() -> None:
    _, snapshot, score, running = busy((1,) * 16, tuple(range(1, 17)))
    one = fleets.workers(1, "new", gpus=4, priority=1)
    answer = preempt.preempt(snapshot, one, score, running)
    assert isinstance(answer, preempt.Preemption)
    assert [v.gang.name for v in answer.victims] == ["g0", "g1", "g2", "g3"]
    snapshot.set_up(0, False)
    wide = preempt.preempt(snapshot, fleets.workers(2, "new", gpus=4, priority=1), score, running)
    assert isinstance(wide, preempt.Preemption) and len(wide.victims) == 8
    assert {grant.node for victim in wide.victims for grant in victim.grants} == {1, 2}


def test_equal_or_higher_priority_and_protected_gangs_stay() -> None:
    fleet = fleets.racks(2)
    snapshot, score = state.empty(fleet), fleets.compiled(fleet)
    running = [
        start(snapshot, score, fleets.workers(1, "high", gpus=4, priority=5)),
        start(snapshot, score, fleets.workers(1, "kept", gpus=4, preemptible=False)),
    ]
    answer = preempt.preempt(snapshot, fleets.workers(1, "new", gpus=4, priority=5), score, running)
    assert isinstance(answer, reasons.Rejection)
    assert answer.reason is reasons.Reason.GPUS and "no gang of lower priority" in answer.detail


def test_a_gang_that_no_eviction_helps_is_refused() -> None:
    _, snapshot, score, running = busy((4, 4, 4, 4), (1, 1, 1, 1))
    answer = preempt.preempt(snapshot, fleets.workers(5, "new", gpus=4, priority=9), score, running)
    assert isinstance(answer, reasons.Rejection) and answer.permanent
    snapshot.set_up(3, False)
    less = preempt.preempt(snapshot, fleets.workers(4, "new", gpus=4, priority=9), score, running)
    assert isinstance(less, reasons.Rejection) and not less.permanent and "would not help" in less.detail


def test_the_default_cost_is_gpus_times_priority() -> None:
    one = fleets.workers(3, gpus=2, priority=4)
    assert clearing.Running(one, ()).price == 6 * 5
    assert clearing.Running(one, (), 7).price == 7
    assert clearing.Running(fleets.workers(1, cpu_milli=1), ()).price == 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_victims_are_the_cheapest_of_all_sets_and_none_can_be_spared(data: st.DataObject) -> None:
    fleet = fleets.racks(2, 2)
    snapshot, score = state.empty(fleet), fleets.compiled(fleet, data.draw(st.sampled_from(fleets.DOMAINS)))
    running = []
    for turn in range(data.draw(st.integers(1, 6))):
        one = fleets.workers(
            data.draw(st.integers(1, 4)), f"g{turn}", gpus=data.draw(st.sampled_from((1, 2, 4))),
            priority=data.draw(st.integers(0, 2)),
        )  # fmt: skip
        if isinstance(engine.place(snapshot, one, score), placement.Placement):
            running.append(start(snapshot, score, one, data.draw(st.integers(1, 20))))
    new = fleets.workers(
        data.draw(st.integers(1, 4)), "new", gpus=data.draw(st.sampled_from((1, 2, 4))), priority=2,
        required=data.draw(st.sampled_from(("", "rack", "node"))),
    )  # fmt: skip
    before = fleets.image(snapshot)
    answer = preempt.preempt(snapshot, new, score, running)
    assert fleets.image(snapshot) == before
    weaker = [one for one in running if one.gang.priority < 2]
    costs = [
        sum(one.price for one in some)
        for size in range(len(weaker) + 1)
        for some in combinations(weaker, size)
        if fleets.possible(clearing.without(snapshot, some), new)
    ]
    if isinstance(answer, reasons.Rejection):
        assert not costs
        return
    fleets.check(clearing.without(snapshot, answer.victims), new, answer.placement)
    assert answer.cost == min(costs)
    for victim in answer.victims:
        rest = [other for other in answer.victims if other is not victim]
        assert not fleets.possible(clearing.without(snapshot, rest), new)
