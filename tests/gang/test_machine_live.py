"""What only a live cluster tells the machine: gangs found running, strangers, replacements and resizing."""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from scheduler.gang import config, effects, events, machine
from scheduler.model import gang as gangs
from scheduler.model import request
from scheduler.placement import placement, policy, scoring
from scheduler.snapshot import state
from tests.placement import fleets

NAMES = tuple(f"r{r}n{i}" for r in range(2) for i in range(3))
FULL = state.FULL
LOST_1 = (0, -1, 2)


def core(**fields: Any) -> machine.Machine:
    """Two racks of three nodes with four GPUs."""
    paths = {name: ("b0", name[:2]) for name in NAMES}
    built = fleets.fleet(paths, {name: fleets.machine(name, 4, 16) for name in NAMES})
    chosen = policy.ScoringPolicy(metadata=policy.Metadata(name="test"), spec=policy.Spec())
    return machine.Machine(scoring.compile_scoring(chosen, built), config.QueueConfig(**fields))


def gang(name: str, pods: int, gpus: int = 4, required: str = "", **fields: Any) -> gangs.Gang:
    role = gangs.Role("worker", pods, request.PodRequest(gpus=gpus, cpu_milli=1000))
    return gangs.Gang(name, (role,), constraint=gangs.TopologyConstraint(required), **fields)


def gpus(mask: int, **fields: Any) -> state.Grant:
    return state.Grant(0, mask, FULL, **fields)


def only(answer: list[effects.Effect], kind: type) -> Any:
    assert [type(one) for one in answer] == [kind], answer
    return answer[0]


def nodes_of(found: placement.Placement, one: machine.Machine) -> list[str]:
    return [one.scoring.topology.nodes[grant.node].name for grant in found.grants]


def test_a_stranger_takes_room_and_gives_it_back() -> None:
    one = core()
    for name in NAMES[:5]:
        one.handle(events.Occupied(f"pod/{name}", name, gpus(0b1)), 0)
    waits = only(one.handle(events.GangSubmitted(gang("g", 2)), 1), effects.Wait)
    assert waits.rejection.missing == 1
    started = only(one.handle(events.Vacated("pod/r1n0"), 2), effects.Start)
    assert sorted(nodes_of(started.placement, one)) == ["r1n0", "r1n2"]
    assert one.handle(events.Vacated("pod/r1n0"), 3) == []


def test_what_a_stranger_had_passes_on_to_the_gang_that_it_was_and_to_no_other() -> None:
    one = core()
    for name in NAMES:
        one.handle(events.Occupied(f"claim/{name}", name, gpus(0b1111, pods=0)), 0)
    only(one.handle(events.GangSubmitted(gang("waits", 1)), 1), effects.Wait)
    row = one.scoring.topology.row["r0n0"]
    found = events.Adopted(
        gang("found", 1), (state.Grant(row, 0b1111, FULL, 1000),), holders=("claim/r0n0", "pod/none")
    )
    assert one.handle(found, 2) == []
    one.check_invariants()
    assert "found" in one.held and "waits" in one.queue.waiting
    both = events.Adopted(gang("both", 1), (state.Grant(row, 0b1111, FULL, 1000),), holders=("claim/r0n1",))
    answer = one.handle(both, 3)
    assert [type(each) for each in answer] == [effects.Conflict, effects.Start], "what it leaves is free for others"


def test_strangers_that_hold_the_same_have_what_the_first_leaves_and_then_the_rest() -> None:
    one = core()
    one.handle(events.Occupied("a", "r0n0", gpus(0b0011)), 0)
    one.handle(events.Occupied("b", "r0n0", gpus(0b0110)), 0)
    row = one.scoring.topology.row["r0n0"]
    assert int(one.snapshot.free_mask[row]) == 0b1000
    one.handle(events.Vacated("a"), 1)
    assert int(one.snapshot.free_mask[row]) == 0b1001, "b holds GPU 1 and 2"
    one.check_invariants()


def test_a_stranger_waits_for_what_a_gang_holds() -> None:
    one = core()
    started = only(one.handle(events.GangSubmitted(gang("g", 1, required="rack")), 0), effects.Start)
    node = nodes_of(started.placement, one)[0]
    one.handle(events.Occupied("x", node, gpus(0b1)), 0)
    one.handle(events.GangFinished("g"), 1)
    assert int(one.snapshot.free_mask[one.scoring.topology.row[node]]) == 0b1110
    one.check_invariants()


def test_what_runs_on_a_cordoned_node_is_held_there() -> None:
    one = core()
    one.handle(events.NodeCordoned("r0n0"), 0)
    row = one.scoring.topology.row["r0n0"]
    one.handle(events.Adopted(gang("g", 1), (state.Grant(row, 0b1111, FULL, 1000),)), 0)
    one.handle(events.Occupied("x", "r0n0", state.Grant(0, cpu_milli=500)), 0)
    one.handle(events.NodeUncordoned("r0n0"), 1)
    assert int(one.snapshot.free_mask[row]) == 0 and int(one.snapshot.cpu_free[row]) == 14_500
    one.check_invariants()


def test_a_gang_that_was_found_is_known_and_not_started_again() -> None:
    one = core()
    row = one.scoring.topology.row["r1n1"]
    found = gang("g", 1, tenant="ml")
    assert one.handle(events.Adopted(found, (state.Grant(row, 0b1111, FULL, 1000),)), 0) == []
    assert one.handle(events.GangSubmitted(found), 1) == []
    assert one.held["g"].placement.domain == "r1n1"
    one.handle(events.GangFinished("g"), 2)
    assert one.snapshot.free_gpus == 24


def test_a_plan_that_was_found_written_expires_like_any_other() -> None:
    one = core(reservation_s=5.0)
    row = one.scoring.topology.row["r1n1"]
    one.handle(events.Adopted(gang("g", 1), (state.Grant(row, 0b1111, FULL, 1000),), confirmed=False), 0)
    answer = one.handle(events.Tick(), 5)
    assert [type(effect) for effect in answer] == [effects.Expire, effects.Start]


def test_two_gangs_found_on_one_gpu_are_a_conflict_and_the_first_keeps_it() -> None:
    one = core()
    grants = (state.Grant(0, 0b1111, FULL, 1000),)
    one.handle(events.Adopted(gang("a", 1), grants), 0)
    conflict = only(one.handle(events.Adopted(gang("b", 1), grants), 0), effects.Conflict)
    assert conflict.gang.name == "b" and "r0n0" in conflict.detail
    assert "b" not in one.held
    one.check_invariants()


def test_a_lost_pod_is_replaced_inside_the_required_domain() -> None:
    one = core()
    started = only(one.handle(events.GangSubmitted(gang("g", 2, required="rack")), 0), effects.Start)
    before = nodes_of(started.placement, one)
    one.handle(events.NodeCordoned(before[1]), 1)
    refilled = only(
        one.handle(events.GangChanged(one.held["g"].gang, LOST_1[: one.held["g"].gang.size]), 2), effects.Refill
    )
    after = nodes_of(refilled.placement, one)
    assert refilled.ranks == (1,) and after[0] == before[0]
    assert after[1] != before[1] and after[1][:2] == before[0][:2]
    one.check_invariants()


def test_what_is_left_of_a_gang_is_made_whole_or_leaves() -> None:
    for free in (True, False):
        one = core()
        rows = [one.scoring.topology.row[name] for name in ("r0n0", "r0n1")]
        grants = tuple(state.Grant(row, 0b1111, FULL, 1000) for row in rows)
        if not free:
            one.handle(events.NodeCordoned("r0n2"), 0)
        one.handle(events.Adopted(gang("g", 2, required="rack"), grants, crippled=True), 0)
        [answer] = [
            effect
            for effect in one.handle(events.GangChanged(gang("g", 3, required="rack"), (0, -1, 1)), 1)
            if not isinstance(effect, effects.Wait | effects.Start)
        ]
        if free:
            assert isinstance(answer, effects.Refill) and answer.ranks == (1,)
            assert not one.held["g"].crippled
        else:
            assert isinstance(answer, effects.Evict)
            assert {node[:2] for node in nodes_of(one.held["g"].placement, one)} == {"r1"}, "whole, elsewhere"
        one.check_invariants()


def test_a_lost_pod_without_room_in_the_domain_takes_the_whole_gang_along() -> None:
    one = core()
    started = only(one.handle(events.GangSubmitted(gang("g", 3, required="rack")), 0), effects.Start)
    before = nodes_of(started.placement, one)
    one.handle(events.NodeCordoned(before[1]), 1)
    answer = one.handle(events.GangChanged(one.held["g"].gang, LOST_1[: one.held["g"].gang.size]), 2)
    assert [type(effect) for effect in answer] == [effects.Evict, effects.Start]
    assert answer[0].reason is effects.Eviction.MEMBER_LOST
    assert {name[:2] for name in nodes_of(answer[1].placement, one)} != {before[0][:2]}
    one.check_invariants()


def test_a_running_gang_grows_beside_itself_and_shrinks_from_the_end() -> None:
    one = core()
    first = only(one.handle(events.GangSubmitted(gang("g", 2, required="rack")), 0), effects.Start)
    grown = only(one.handle(events.GangChanged(gang("g", 3, required="rack"), (0, 1, -1)), 1), effects.Refill)
    assert grown.ranks == (2,) and grown.placement.grants[:2] == first.placement.grants
    assert one.handle(events.GangChanged(gang("g", 3, required="rack"), (0, 1, 2)), 2) == []
    shrunk = only(one.handle(events.GangChanged(gang("g", 1, required="rack"), (0,)), 3), effects.Refill)
    assert shrunk.ranks == () and one.snapshot.free_gpus == 20
    one.check_invariants()


def test_growth_without_room_leaves_the_gang_as_it_is_and_says_why() -> None:
    one = core()
    one.handle(events.GangSubmitted(gang("g", 3, required="rack")), 0)
    waits = only(one.handle(events.GangChanged(gang("g", 4, required="rack"), (0, 1, 2, -1)), 1), effects.Wait)
    assert (waits.rejection.missing, waits.rejection.resource) == (4, "GPUs")
    assert one.held["g"].gang.size == 3
    one.check_invariants()


def test_a_waiting_gang_that_shrinks_may_start() -> None:
    one = core()
    for name in NAMES[:4]:
        one.handle(events.Occupied(name, name, gpus(1)), 0)
    only(one.handle(events.GangSubmitted(gang("g", 3)), 0), effects.Wait)
    only(one.handle(events.GangChanged(gang("g", 2)), 1), effects.Start)


def test_segments_are_refilled_beside_their_mates() -> None:
    one = core()
    role = gangs.Role("w", 4, request.PodRequest(gpus=4), segment=gangs.Segment(2, "rack"))
    started = only(one.handle(events.GangSubmitted(gangs.Gang("g", (role,))), 0), effects.Start)
    before = nodes_of(started.placement, one)
    refilled = only(one.handle(events.GangChanged(one.held["g"].gang, (0, 1, 2, -1)), 1), effects.Refill)
    assert nodes_of(refilled.placement, one)[3][:2] == before[2][:2]


class Live(RuleBasedStateMachine):
    """All of it in any order: nothing is held twice, and nobody who could have his part is denied it."""

    @initialize(preempt=st.booleans(), reservation=st.sampled_from((0.0, 2.0)))
    def start(self, preempt: bool, reservation: float) -> None:
        self.core, self.now, self.count = core(preempt=preempt, reservation_s=reservation), 0.0, 0

    def tell(self, event: events.Event) -> None:
        self.now += 0.5
        for effect in self.core.handle(event, self.now):
            if isinstance(effect, effects.Refill):
                assert len(effect.placement.grants) == effect.gang.size
                assert all(rank < effect.gang.size for rank in effect.ranks)

    def name(self, pick: int) -> str:
        known = sorted({one.gang.name for one in self.core.held} | set(self.core.queue.waiting))
        return known[pick % len(known)] if known else "ghost"

    @rule(
        pods=st.integers(1, 4),
        each=st.sampled_from((1, 2, 4)),
        required=st.sampled_from(("", "rack")),
        high=st.booleans(),
    )
    def submit(self, pods: int, each: int, required: str, high: bool) -> None:
        self.count += 1
        self.tell(events.GangSubmitted(gang(f"g{self.count}", pods, each, required, priority=int(high))))

    @rule(pick=st.integers(0, 9))
    def finish(self, pick: int) -> None:
        self.tell(events.GangFinished(self.name(pick)))

    @rule(pick=st.integers(0, 9), pods=st.integers(1, 5), stays=st.permutations(range(-1, 4)))
    def change(self, pick: int, pods: int, stays: list[int]) -> None:
        """Grow, shrink, exchange pods, and let others take the ranks of those that are gone."""
        name = self.name(pick)
        known = self.core.held[name].gang if name in self.core.held else None
        each, required = (known.roles[0].request.gpus, known.constraint.required) if known else (2, "")
        self.tell(events.GangChanged(gang(name, pods, each, required), tuple(stays[:pods])))

    @rule(
        node=st.sampled_from(NAMES), mask=st.integers(1, 15), milli=st.sampled_from((FULL, 300)), who=st.integers(0, 4)
    )
    def occupy(self, node: str, mask: int, milli: int, who: int) -> None:
        self.tell(events.Occupied(f"x{who}", node, state.Grant(0, mask, milli, 700, pods=who % 2)))

    @rule(who=st.integers(0, 4))
    def vacate(self, who: int) -> None:
        self.tell(events.Vacated(f"x{who}"))

    @rule(node=st.sampled_from(NAMES), mask=st.sampled_from((0b1111, 0b0011)))
    def adopt(self, node: str, mask: int) -> None:
        self.count += 1
        row = self.core.scoring.topology.row[node]
        one = gang(f"g{self.count}", 1, mask.bit_count())
        self.tell(events.Adopted(one, (state.Grant(row, mask, FULL, 1000),), confirmed=bool(self.count % 2)))

    @rule(node=st.sampled_from(NAMES), up=st.booleans())
    def cordon(self, node: str, up: bool) -> None:
        self.tell(events.NodeUncordoned(node) if up else events.NodeCordoned(node))

    @rule(node=st.sampled_from(NAMES), gpu=st.integers(0, 3), bad=st.booleans())
    def fail_gpu(self, node: str, gpu: int, bad: bool) -> None:
        self.tell(events.DeviceFailed(node, gpu) if bad else events.DeviceRepaired(node, gpu))

    @invariant()
    def nothing_is_held_twice(self) -> None:
        self.core.check_invariants()

    @invariant()
    def strangers_have_what_is_free(self) -> None:
        snapshot = self.core.snapshot
        for one in self.core.foreign._by_holder.values():
            row = snapshot.topology.row[one.node]
            for gpu in one.wanted.gpus:
                has = one.taken is not None and gpu in one.taken.gpus
                assert has or int(snapshot.gpu_free[row, gpu]) < one.wanted.milli


TestLive = Live.TestCase
TestLive.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
