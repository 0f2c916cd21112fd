"""The engine against a brute force, and its promises: complete, exact, contiguous, pure, truthful."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.model import gang as gangs
from scheduler.model import machines, reasons, request
from scheduler.placement import bandwidth, engine, placement, policy, refusal
from scheduler.snapshot import state, topology
from tests.placement import fleets

THOROUGH = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@THOROUGH
@given(snapshot=fleets.snapshots(), one=fleets.gangs(), domains=st.sampled_from(fleets.DOMAINS))
def test_a_gang_of_one_role_is_placed_exactly_when_a_placement_exists(
    snapshot: state.Snapshot, one: gangs.Gang, domains: str
) -> None:
    before = fleets.image(snapshot)
    answer = engine.place(snapshot, one, fleets.compiled(snapshot.topology, domains))
    assert fleets.image(snapshot) == before
    if fleets.possible(snapshot, one):
        fleets.check(snapshot, one, answer)
    else:
        assert isinstance(answer, reasons.Rejection)
        assert answer.permanent == (not fleets.possible(state.empty(snapshot.topology), one))


@THOROUGH
@given(snapshot=fleets.snapshots(), one=fleets.gangs())
def test_the_reason_of_a_refusal_is_true(snapshot: state.Snapshot, one: gangs.Gang) -> None:
    answer = engine.place(snapshot, one, fleets.compiled(snapshot.topology))
    if isinstance(answer, placement.Placement):
        return
    state_refused = state.empty(snapshot.topology) if answer.permanent else snapshot
    role = one.roles[0]
    anywhere = replace(one, constraint=gangs.TopologyConstraint(), roles=(replace(role, segment=None, spread=None),))
    inside = replace(one, roles=(replace(role, segment=None, spread=None),))
    match answer.reason:
        case reasons.Reason.DOMAIN:
            level = one.constraint.required or (role.segment.level if role.segment else "") or role.spread.level  # type: ignore[union-attr]
            assert level
            assert fleets.possible(state_refused, anywhere)
            assert not fleets.possible(state_refused, inside) or _leaves_out(snapshot.topology, one)
        case reasons.Reason.SEGMENT:
            assert fleets.possible(state_refused, inside)
            assert not fleets.possible(state_refused, replace(one, roles=(replace(role, spread=None),)))
        case reasons.Reason.SPREAD:
            assert fleets.possible(state_refused, replace(one, roles=(replace(role, spread=None),)))
        case _:
            assert not fleets.possible(state_refused, anywhere)
            scarce = answer.reason is reasons.Reason.TOO_LARGE
            assert _blocks(
                state_refused, anywhere, UNITS.get(answer.resource, answer.reason) if scarce else answer.reason
            )
    assert answer.missing > 0 or answer.reason is reasons.Reason.NO_SUCH_DEVICE
    if answer.nearest:
        row = snapshot.topology.tree.names.index(answer.nearest)
        assert snapshot.topology.tree.levels[snapshot.topology.tree.level[row]] == (answer.level or "cluster")


def _leaves_out(fleet: topology.Topology, one: gangs.Gang) -> bool:
    """Tell whether some node has no domain at a level that the gang names: then `inside` is not the whole truth."""
    return any(
        not fleets.domain_of(fleet, row, level) for row in range(len(fleet.nodes)) for level in engine.levels(one)
    )


ASKED = {
    reasons.Reason.CPU: ("cpu_milli",),
    reasons.Reason.MEMORY: ("memory_mib",),
    reasons.Reason.NICS: ("nics",),
    reasons.Reason.PODS: (),
}
UNITS = {"milli-CPU": reasons.Reason.CPU, "MiB of memory": reasons.Reason.MEMORY, "NICs": reasons.Reason.NICS}


def _blocks(snapshot: state.Snapshot, one: gangs.Gang, reason: reasons.Reason) -> bool:
    """Tell whether a resource of the nodes with GPUs keeps the gang out by itself, or is what more pods lack."""
    pod, count = one.roles[0].request, one.roles[0].count
    fields = ASKED.get(reason, ("gpus", "gpu_milli", "gpu_models", "mig"))
    alone = request.PodRequest(**{field: getattr(pod, field) for field in fields})
    nothing = request.PodRequest()
    easier = replace(pod, **{field: getattr(nothing, field) for field in fields})
    rows = [row for row, machine in enumerate(snapshot.topology.nodes) if machine.gpus or not pod.gpus]
    if sum(min(count, fleets.room(snapshot, row, alone)) for row in rows) < count:
        return True
    return _fit(snapshot, easier, count) > _fit(snapshot, pod, count)


def _fit(snapshot: state.Snapshot, pod: request.PodRequest, count: int) -> int:
    return sum(min(count, fleets.room(snapshot, row, pod)) for row in range(len(snapshot.up)))


@pytest.mark.parametrize("domains", fleets.DOMAINS)
def test_consecutive_ranks_go_depth_first(domains: str) -> None:
    fleet = fleets.racks(3, 3, 3, blocks=3)
    answer = engine.place(state.empty(fleet), fleets.workers(20, gpus=1), fleets.compiled(fleet, domains))
    assert isinstance(answer, placement.Placement)
    fleets.contiguous(fleet, answer.grants)
    if domains in ("opportunity-cost", "first-fit"):
        assert [g.node for g in answer.grants] == sorted(g.node for g in answer.grants)


def test_the_tightest_domain_wins_and_an_opened_rack_before_a_free_one() -> None:
    fleet = fleets.racks(4, 4, 4)
    snapshot = state.empty(fleet)
    for row in (4, 5):
        snapshot.take(state.Grant(row, 0b1111, 1000))
    answer = engine.place(snapshot, fleets.workers(2, gpus=4), fleets.compiled(fleet))
    assert isinstance(answer, placement.Placement)
    assert (answer.domain, answer.level, answer.nodes) == ("b0/r1", "rack", (6, 7))
    assert answer.runners_up and answer.runners_up[0].level == "rack"


def test_wide_nodes_beat_scattered_single_gpus() -> None:
    """First fit in a rack with left-overs runs at one NIC; the default takes the free machines for eight GPUs."""
    built = {f"n{i}": machines.build("hgx-h100", f"n{i}") for i in range(8)}
    fleet = fleets.fleet(dict.fromkeys(built, ("b0", "r0")), built)
    snapshot = state.empty(fleet)
    for row in range(4):
        snapshot.take(state.Grant(row, 0b0111_1111, 1000))
    one = fleets.workers(16, gpus=1)
    ours = engine.place(snapshot, one, fleets.compiled(fleet))
    first = engine.place(snapshot, one, fleets.compiled(fleet, "first-fit", "first-fit"))
    assert isinstance(ours, placement.Placement) and isinstance(first, placement.Placement)
    assert ours.bandwidth_mb_s == 8 * 48_000
    assert first.bandwidth_mb_s == 48_000
    assert set(ours.nodes) <= {4, 5, 6, 7}


def test_racks_are_not_used_up_to_the_last_gpu_where_whole_machines_are_left() -> None:
    """Two racks hold 18 single GPUs each; three whole machines are faster than one rack and a third."""
    built = {f"n{i}": machines.build("hgx-h100", f"n{i}") for i in range(8)}
    fleet = fleets.fleet({f"n{i}": ("b0", f"r{i // 4}") for i in range(8)}, built)
    snapshot = state.empty(fleet)
    for row in (0, 1, 4, 5):
        snapshot.take(state.Grant(row, 0b0111_1111, 1000))
    answer = engine.place(snapshot, fleets.workers(24, gpus=1), fleets.compiled(fleet))
    assert isinstance(answer, placement.Placement)
    assert answer.bandwidth_mb_s == 8 * 48_000 and len(answer.nodes) == 3


def test_uneven_counts_are_evened_out() -> None:
    """Nine single GPUs as 5 + 4 contribute four NICs at least; as 8 + 1 only one."""
    built = {f"n{i}": machines.build("hgx-h100", f"n{i}") for i in range(2)}
    fleet = fleets.fleet(dict.fromkeys(built, ("b0", "r0")), built)
    answer = engine.place(state.empty(fleet), fleets.workers(9, gpus=1), fleets.compiled(fleet))
    assert isinstance(answer, placement.Placement)
    assert sorted([g.node for g in answer.grants].count(n) for n in (0, 1)) == [4, 5]


def test_a_preferred_level_is_kept_where_it_can_be() -> None:
    fleet = fleets.racks(3, 3)
    snapshot = state.empty(fleet)
    for row in (0, 1, 2, 3, 4):
        snapshot.take(state.Grant(row, 0b0111, 1000))
    answer = engine.place(snapshot, fleets.workers(3, preferred="rack", gpus=1), fleets.compiled(fleet))
    assert isinstance(answer, placement.Placement) and answer.level in ("rack", "node")


def test_a_gang_above_the_fleet_is_refused_for_good() -> None:
    fleet = fleets.racks(2, 2)
    answer = engine.place(state.empty(fleet), fleets.workers(17, gpus=1), fleets.compiled(fleet))
    assert isinstance(answer, reasons.Rejection)
    assert (answer.reason, answer.missing, answer.resource) == (reasons.Reason.TOO_LARGE, 1, "GPUs")
    assert answer.permanent and answer.nearest == "cluster"


def test_refusals_name_the_constraint_the_domain_and_what_lacks() -> None:
    fleet = fleets.racks(2, 3)
    snapshot = state.empty(fleet)
    score = fleets.compiled(fleet)
    for row in range(5):
        snapshot.take(state.Grant(row, 0b0001, 1000, cpu_milli=30_000))

    def refused(one: gangs.Gang) -> reasons.Rejection:
        answer = engine.place(snapshot, one, score)
        assert isinstance(answer, reasons.Rejection)
        return answer

    scattered = refused(fleets.workers(1, gpus=4))
    assert (scattered.reason, scattered.missing, scattered.resource) == (reasons.Reason.SHAPE, 1, "pods")
    few = refused(fleets.workers(4, gpus=4))
    assert (few.reason, few.missing, few.resource) == (reasons.Reason.GPUS, 1, "GPUs")
    narrow = refused(fleets.workers(10, required="rack", gpus=1))
    assert (narrow.reason, narrow.level, narrow.nearest, narrow.missing) == (reasons.Reason.DOMAIN, "rack", "b0/r1", 1)
    busy = refused(fleets.workers(6, gpus=1, cpu_milli=2_000))
    assert (busy.reason, busy.missing, busy.resource) == (reasons.Reason.CPU, 2_000, "milli-CPU")
    unknown = refused(fleets.workers(2, gpus=1, gpu_models=("H100",)))
    assert unknown.reason is reasons.Reason.NO_SUCH_DEVICE and unknown.permanent and not unknown.nearest
    nowhere = refused(fleets.workers(2, required="pod", gpus=1))
    assert nowhere.reason is reasons.Reason.NO_SUCH_LEVEL and nowhere.permanent
    split = refused(fleets.workers(8, gpus=1, segment=gangs.Segment(4, "node")))
    assert (split.reason, split.missing) == (reasons.Reason.SEGMENT, 8)
    limited = refused(fleets.workers(5, gpus=1, spread=gangs.Spread("rack", 2)))
    assert (limited.reason, limited.missing) == (reasons.Reason.SPREAD, 1)
    assert limited.permanent


def test_two_resources_that_block_together_are_both_named() -> None:
    fleet = fleets.racks(2)
    snapshot = state.empty(fleet)
    snapshot.take(state.Grant(0, cpu_milli=32_000))
    snapshot.take(state.Grant(1, 0b1111, 1000))
    answer = engine.place(snapshot, fleets.workers(4, gpus=1, cpu_milli=8_000), fleets.compiled(fleet))
    assert isinstance(answer, reasons.Rejection)
    assert (answer.reason, answer.missing, answer.resource) == (reasons.Reason.GPUS, 4, "pods")
    assert answer.detail == "enough GPUs in all, but not where there are milli-CPU"


def test_as_many_pods_as_fit_above_the_minimum() -> None:
    fleet = fleets.racks(2, 2)
    snapshot = state.empty(fleet)
    snapshot.take(state.Grant(0, 0b0111, 1000))
    one = fleets.workers(16, gpus=1, min_member=4, segment=gangs.Segment(2, "node"))
    answer = engine.place(snapshot, one, fleets.compiled(fleet))
    assert isinstance(answer, placement.Placement)
    assert len(answer.grants) == 12
    too_much = replace(one, min_member=13)
    assert isinstance(engine.place(snapshot, too_much, fleets.compiled(fleet)), reasons.Rejection)


def leader_and_workers(required: str = "", workers: int = 7) -> gangs.Gang:
    """Return a gang of one CPU leader and workers with a GPU each."""
    leader = gangs.Role("leader", 1, request.PodRequest(cpu_milli=8_000))
    rest = gangs.Role("worker", workers, request.PodRequest(gpus=1, cpu_milli=4_000))
    return gangs.Gang("g", (leader, rest), constraint=gangs.TopologyConstraint(required))


@pytest.mark.parametrize("domains", fleets.DOMAINS)
def test_roles_share_nodes_and_the_required_domain(domains: str) -> None:
    fleet = fleets.racks(1, 2, 3)
    snapshot = state.empty(fleet)
    before = fleets.image(snapshot)
    answer = engine.place(snapshot, leader_and_workers("rack"), fleets.compiled(fleet, domains))
    fleets.check(snapshot, leader_and_workers("rack"), answer)
    assert isinstance(answer, placement.Placement)
    assert len({fleets.domain_of(fleet, grant.node, "rack") for grant in answer.grants}) == 1
    assert fleets.image(snapshot) == before


def test_roles_on_one_node_get_different_devices() -> None:
    fleet = fleets.racks(1)
    role = gangs.Role("a", 1, request.PodRequest(gpus=2, nics=1))
    both = gangs.Gang("g", (role, replace(role, name="b")))
    fleets.check(state.empty(fleet), both, engine.place(state.empty(fleet), both, fleets.compiled(fleet)))


def test_roles_with_a_required_level_keep_off_branches_without_it() -> None:
    built = {name: fleets.machine(name) for name in ("apart", "inside")}
    fleet = fleets.fleet({"apart": ("", "r0"), "inside": ("b0", "r0")}, built)
    one = leader_and_workers("block", workers=2)
    for rule in fleets.DOMAINS:
        answer = engine.place(state.empty(fleet), one, fleets.compiled(fleet, rule))
        assert isinstance(answer, placement.Placement)
        assert answer.nodes == (fleet.row["inside"],)


def test_roles_that_fit_alone_but_not_in_sum_are_refused_with_the_resource() -> None:
    fleet = fleets.racks(2)
    role = gangs.Role("a", 5, request.PodRequest(gpus=1))
    answer = engine.place(state.empty(fleet), gangs.Gang("g", (role, replace(role, name="b"))), fleets.compiled(fleet))
    assert isinstance(answer, reasons.Rejection)
    assert (answer.reason, answer.missing, answer.resource) == (reasons.Reason.TOO_LARGE, 2, "GPUs")
    assert answer.permanent


@settings(max_examples=60, deadline=None)
@given(
    snapshot=fleets.snapshots(),
    one=fleets.gangs(),
    other=fleets.gangs(),
    domains=st.sampled_from(fleets.DOMAINS),
)
def test_gangs_of_two_roles_are_placed_soundly_or_refused(
    snapshot: state.Snapshot, one: gangs.Gang, other: gangs.Gang, domains: str
) -> None:
    both = replace(one, roles=(one.roles[0], replace(other.roles[0], name="other")))
    before = fleets.image(snapshot)
    answer = engine.place(snapshot, both, fleets.compiled(snapshot.topology, domains))
    assert fleets.image(snapshot) == before
    if isinstance(answer, placement.Placement):
        fleets.check(snapshot, both, answer)
    elif answer.reason is not reasons.Reason.SEARCH_LIMIT:
        first = fleets.possible(snapshot, replace(one, roles=one.roles))
        second = fleets.possible(snapshot, replace(one, roles=other.roles))
        assert not (first and second) or answer.detail == "all roles together"


def test_partitions_and_shares_of_gangs_get_exact_devices() -> None:
    built = {f"m{i}": fleets.mig_node(f"m{i}") for i in range(2)}
    fleet = fleets.fleet(dict.fromkeys(built, ("b", "r")), built)
    one = fleets.workers(12, gpus=1, mig="2g.20gb")
    answer = engine.place(state.empty(fleet), one, fleets.compiled(fleet))
    fleets.check(state.empty(fleet), one, answer)
    more = engine.place(state.empty(fleet), fleets.workers(13, gpus=1, mig="2g.20gb"), fleets.compiled(fleet))
    assert isinstance(more, reasons.Rejection)
    assert more.permanent and more.missing == 1 and "2g.20gb" in more.resource


def test_equal_input_gives_equal_answers_whatever_was_decided_before() -> None:
    fleet = fleets.racks(3, 2, 3, blocks=2)
    one = fleets.workers(6, gpus=2, cpu_milli=1000)
    fresh = engine.place(state.empty(fleet), one, fleets.compiled(fleet))
    score = fleets.compiled(fleet)
    for size in (1, 3, 9):
        engine.place(state.empty(fleet), fleets.workers(size, gpus=1), score)
    assert engine.place(state.empty(fleet), one, score) == fresh


def test_weights_of_gangs_are_checked() -> None:
    with pytest.raises(ValueError, match="speed"):
        policy.GangScoring(weights={"speed": 1})


def test_search_is_confined_to_a_domain() -> None:
    fleet = fleets.racks(2, 2)
    score = fleets.compiled(fleet)
    second = fleet.tree.names.index("b0/r1")
    for count in (1, 3):
        answer = engine.place(state.empty(fleet), fleets.workers(count, gpus=2), score, within=second)
        assert isinstance(answer, placement.Placement) and set(answer.nodes) <= {2, 3}
    too_many = fleets.workers(9, gpus=1)
    assert not engine.fits(state.empty(fleet), too_many, score, bandwidth.DEFAULT, second)
    refused = engine.place(state.empty(fleet), too_many, score, within=second)
    assert isinstance(refused, reasons.Rejection)
    assert (refused.reason, refused.nearest, refused.missing) == (reasons.Reason.GPUS, "b0/r1", 1)
    assert not refused.permanent


def test_smallest_parts_are_whole_segments() -> None:
    one = fleets.workers(8, gpus=1, min_member=3, segment=gangs.Segment(2, "node"))
    assert refusal.smallest(one) == [4]
    assert list(refusal.parts(leader_and_workers(workers=2))) == [[1, 0], [1, 1], [1, 2]]
