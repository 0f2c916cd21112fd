"""Gangs whose places somebody else has chosen: rank by rank where they were told, or why not."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.gang import refill
from scheduler.model import gang as gangs
from scheduler.model import reasons, request
from scheduler.placement import bandwidth, engine, placement, preempt
from scheduler.placement.clearing import Running
from scheduler.snapshot import state, topology
from tests.placement import fleets

POD = request.PodRequest(cpu_milli=1000, gpus=4)
FLEET = fleets.racks(3, 3)  # n00..n02 in b0/r0, n10..n12 in b0/r1, four GPUs each


def gang(*places: tuple[str, int], pod: request.PodRequest = POD, **fields: object) -> gangs.Gang:
    named = tuple(gangs.Place(domain, count) for domain, count in places)
    own = {key: fields.pop(key) for key in ("segment", "spread") if key in fields}
    role = gangs.Role("w", sum(count for _, count in places), pod, places=named, **own)  # type: ignore[arg-type]
    return gangs.Gang("g", (role,), **fields)  # type: ignore[arg-type]


def place(
    one: gangs.Gang, snapshot: state.Snapshot | None = None, domains: str = "opportunity-cost", within: int = 0
) -> placement.Placement | reasons.Rejection:
    score = fleets.compiled(FLEET, domains)
    snapshot = state.empty(FLEET) if snapshot is None else snapshot
    before = fleets.image(snapshot)
    answer = engine.place(snapshot, one, score, bandwidth.DEFAULT, within)
    assert fleets.image(snapshot) == before
    assert engine.fits(snapshot, one, score, bandwidth.DEFAULT, within) == isinstance(answer, placement.Placement)
    if isinstance(answer, placement.Placement):
        fleets.take_all(snapshot, answer.grants)
        assert len(answer.grants) == one.size
    return answer


def names(answer: object, fleet: topology.Topology = FLEET) -> list[str]:
    assert isinstance(answer, placement.Placement), answer
    return [fleet.nodes[grant.node].name for grant in answer.grants]


def busy(*nodes: str) -> state.Snapshot:
    found = state.empty(FLEET)
    for name in nodes:
        found.take(state.Grant(FLEET.row[name], 0b1, state.FULL))
    return found


@pytest.mark.parametrize("domains", fleets.DOMAINS)
def test_nodes_are_kept_to_in_the_order_of_ranks(domains: str) -> None:
    one = gang(("n12", 1), ("n02", 1), ("n10", 1))
    assert names(place(one, domains=domains)) == ["n12", "n02", "n10"]


@pytest.mark.parametrize("domains", fleets.DOMAINS)
def test_domains_hold_as_many_as_they_were_given(domains: str) -> None:
    found = names(place(gang(("b0/r1", 2), ("b0/r0", 3)), domains=domains))
    assert {name[:2] for name in found[:2]} == {"n1"} and sorted(found[2:]) == ["n00", "n01", "n02"]


def test_one_node_may_be_given_twice() -> None:
    two = gang(("n00", 1), ("n01", 2), ("n00", 1), pod=replace(POD, gpus=2))
    assert names(place(two)) == ["n00", "n01", "n01", "n00"]


def test_a_full_place_is_named_although_others_are_free() -> None:
    told = place(gang(("n00", 1), ("n01", 1)), busy("n01"))
    assert isinstance(told, reasons.Rejection) and not told.permanent
    assert (told.reason, told.level, told.nearest) == (reasons.Reason.GPUS, "node", "n01")
    assert (told.missing, told.resource) == (1, "GPUs") and "1 pods of role w are bound to it" in told.detail
    told = place(gang(("b0/r1", 3), ("b0/r0", 1)), busy("n10", "n11"))
    assert isinstance(told, reasons.Rejection)
    assert (told.reason, told.level, told.nearest, told.missing) == (reasons.Reason.GPUS, "rack", "b0/r1", 2)


def test_a_place_that_is_not_there_is_waited_for() -> None:
    told = place(gang(("n00", 1), ("n99", 1)))
    assert isinstance(told, reasons.Rejection) and told.reason is reasons.Reason.DOMAIN and not told.permanent
    assert "domain n99, to which the gang is bound, is not in the fleet" in str(told)


def test_a_search_that_is_confined_elsewhere_finds_nothing() -> None:
    rack = FLEET.tree.names.index("b0/r1")
    assert isinstance(place(gang(("n00", 1)), within=rack), reasons.Rejection)
    assert names(place(gang(("b0", 2)), within=rack))[0].startswith("n1")


def test_what_the_gang_asks_for_itself_holds_too() -> None:
    torn = place(gang(("n00", 1), ("n10", 1), constraint=gangs.TopologyConstraint("rack")))
    assert isinstance(torn, reasons.Rejection) and torn.reason is reasons.Reason.DOMAIN
    assert "places in b0/r0, b0/r1, and asks for one rack" in torn.detail
    assert names(place(gang(("n00", 1), ("n01", 1), constraint=gangs.TopologyConstraint("rack")))) == ["n00", "n01"]
    segments = gang(("n00", 1), ("n10", 1), ("n11", 2), segment=gangs.Segment(2, "rack"), pod=replace(POD, gpus=2))
    torn = place(segments)
    assert isinstance(torn, reasons.Rejection) and torn.reason is reasons.Reason.SEGMENT
    crowded = place(gang(("n00", 1), ("n01", 1), spread=gangs.Spread("rack", 1)))
    assert isinstance(crowded, reasons.Rejection) and crowded.reason is reasons.Reason.SPREAD
    assert "2 pods are bound to b0/r0, and 1 may be there" in crowded.detail


def test_roles_without_places_go_beside_those_with() -> None:
    bound = gang(("n10", 1), ("n11", 1), constraint=gangs.TopologyConstraint("rack"))
    free = gangs.Role("free", 1, POD)
    found = names(place(replace(bound, roles=(free, *bound.roles))))
    assert found == ["n12", "n10", "n11"]
    told = place(replace(bound, roles=(replace(free, count=2), *bound.roles)))
    assert isinstance(told, reasons.Rejection)


def test_roles_share_a_node_that_both_were_given() -> None:
    half = replace(POD, gpus=2)
    one = gang(("n00", 1), ("n01", 1), pod=half)
    other = replace(one.roles[0], name="other")
    found = place(replace(one, roles=(one.roles[0], other)))
    assert names(found) == ["n00", "n01", "n00", "n01"]
    third = replace(one.roles[0], name="third")
    assert isinstance(place(replace(one, roles=(one.roles[0], other, third))), reasons.Rejection)


def test_victims_are_those_in_the_places() -> None:
    score, snapshot = fleets.compiled(FLEET), state.empty(FLEET)
    running = []
    for name in ("n00", "n01", "n10"):
        grant = state.Grant(FLEET.row[name], 0b1111, state.FULL)
        snapshot.take(grant)
        running.append(Running(replace(gang((name, 1)), name=name), (grant,)))
    found = preempt.preempt(snapshot, gang(("n01", 1), ("n11", 1), priority=5), score, running)
    assert isinstance(found, preempt.Preemption)
    assert [one.gang.name for one in found.victims] == ["n01"] and names(found.placement) == ["n01", "n11"]


def test_a_lost_pod_comes_back_to_its_own_place() -> None:
    score, snapshot = fleets.compiled(FLEET), state.empty(FLEET)
    one = gang(("n10", 1), ("n00", 1), ("n11", 1))
    found = place(one)
    assert isinstance(found, placement.Placement)
    kept = {0: found.grants[0], 2: found.grants[2]}
    for grant in kept.values():
        snapshot.take(grant)
    again = refill.fill(snapshot, one, kept, score)
    assert names(again) == ["n10", "n00", "n11"]
    snapshot.take(found.grants[1])
    assert isinstance(refill.fill(snapshot, one, kept, score), reasons.Rejection)


def test_places_have_to_be_for_all_pods() -> None:
    with pytest.raises(ValueError, match="gang g: role w: places are for 1 pods, count is 2"):
        gangs.Gang("g", (gangs.Role("w", 2, POD, places=(gangs.Place("n00", 1),)),))
    role = gang(("a", 2), ("b", 1)).roles[0]
    assert role.places_of([0, 2]) == (gangs.Place("a", 1), gangs.Place("b", 1))
    assert role.places_of(range(3)) == role.places and gangs.Role("w", 2, POD).places_of([0]) == ()


@settings(deadline=None, max_examples=100)
@given(
    taken=st.lists(st.sampled_from([node.name for node in FLEET.nodes]), max_size=4, unique=True),
    places=st.lists(st.tuples(st.sampled_from(FLEET.tree.names), st.integers(1, 2)), min_size=1, max_size=4),
)
def test_a_placement_keeps_to_its_places_and_a_refusal_is_of_one_that_lacks_room(
    taken: list[str], places: list[tuple[str, int]]
) -> None:
    one, snapshot = gang(*places), busy(*taken)
    answer = place(one, snapshot)
    if isinstance(answer, placement.Placement):
        told = [domain for domain, count in places for _ in range(count)]
        for grant, domain in zip(answer.grants, told, strict=True):
            vertex = FLEET.tree.names.index(domain)
            assert FLEET.tree.first_node[vertex] <= grant.node < FLEET.tree.last_node[vertex]
    else:
        assert answer.nearest in {domain for domain, _ in places} | {"cluster"} and answer.missing > 0
