"""Moves that open a domain."""

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model import reasons
from scheduler.placement import clearing, defragment, engine, placement
from scheduler.snapshot import state
from tests.placement import fleets
from tests.placement.test_preempt import start


def carry_out(snapshot: state.Snapshot, found: defragment.Defragmentation) -> state.Snapshot:
    """Carry the moves out on a copy, in the order that the plan asks for; what is not free raises."""
    work = clearing.without(snapshot, [move.running for move in found.moves])
    work = fleets.take_all(work, found.placement.grants)
    for move in found.moves:
        work = fleets.take_all(work, move.placement.grants)
    return work


def test_small_gangs_on_every_node_move_together() -> None:
    fleet = fleets.racks(2, 2)
    snapshot, score = state.empty(fleet), fleets.compiled(fleet)
    names = fleet.tree.names
    running = [
        start(snapshot, score, fleets.workers(1, f"g{i}", gpus=1), cost=10 - i, within=names.index(f"n{i // 2}{i % 2}"))
        for i in range(4)
    ]
    before = fleets.image(snapshot)
    one = fleets.workers(2, "new", required="rack", gpus=4)
    assert isinstance(engine.place(snapshot, one, score), reasons.Rejection)
    found = defragment.defragment(snapshot, one, score, running)
    assert fleets.image(snapshot) == before
    assert isinstance(found, defragment.Defragmentation)
    assert {move.running.gang.name for move in found.moves} == {"g2", "g3"} and found.cost == 8 + 7
    carry_out(snapshot, found)


def test_nothing_moves_for_a_gang_that_fits() -> None:
    fleet = fleets.racks(2)
    score = fleets.compiled(fleet)
    found = defragment.defragment(state.empty(fleet), fleets.workers(1, gpus=4), score, ())
    assert isinstance(found, defragment.Defragmentation) and found.moves == ()


def test_no_moves_without_room_elsewhere() -> None:
    fleet = fleets.racks(2)
    snapshot, score = state.empty(fleet), fleets.compiled(fleet)
    running = [
        start(snapshot, score, fleets.workers(3, f"g{i}", gpus=1), within=int(fleet.tree.vertex[i])) for i in range(2)
    ]
    answer = defragment.defragment(snapshot, fleets.workers(1, "new", gpus=4), score, running)
    assert isinstance(answer, reasons.Rejection) and "no moves" in answer.detail


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_plans_can_be_carried_out_and_lose_no_gang(data: st.DataObject) -> None:
    fleet = fleets.racks(2, 2)
    snapshot, score = state.empty(fleet), fleets.compiled(fleet, data.draw(st.sampled_from(fleets.DOMAINS)))
    running = []
    for turn in range(data.draw(st.integers(1, 6))):
        node = data.draw(st.integers(0, 3))
        one = fleets.workers(data.draw(st.integers(1, 2)), f"g{turn}", gpus=1, preemptible=data.draw(st.booleans()))
        vertex = int(fleet.tree.vertex[node])
        if isinstance(engine.place(snapshot, one, score, within=vertex), placement.Placement):
            running.append(start(snapshot, score, one, data.draw(st.integers(1, 9)), vertex))
    new = fleets.workers(data.draw(st.integers(1, 3)), "new", gpus=4, required=data.draw(st.sampled_from(("", "rack"))))
    before = fleets.image(snapshot)
    found = defragment.defragment(snapshot, new, score, running)
    assert fleets.image(snapshot) == before
    if isinstance(found, reasons.Rejection):
        assert not fleets.possible(snapshot, new)
        return
    assert all(move.running.gang.preemptible for move in found.moves)
    after = carry_out(snapshot, found)
    used = sum(one.gang.gpus for one in running) + new.gpus
    assert after.free_gpus == fleet.total_gpus - used
