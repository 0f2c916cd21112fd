"""Nodes that pods ask for or that keep them off: masks, plans inside them, and refusals that name them."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model import admission, node, reasons, request
from scheduler.model import gang as gangs
from scheduler.model.admission import Admission, Requirement, Toleration
from scheduler.placement import bandwidth, engine, placement, scoring
from scheduler.record import fleet as dumped
from scheduler.snapshot import admitted, state, topology
from tests.placement import fleets

DEDICATED = ("dedicated", "ml", "NoSchedule")
LAST = Admission(terms=((Requirement("metadata.name", "In", ("r1n2",), field=True),),))


def pools(taint: tuple[str, str, str] | None = None) -> topology.Topology:
    """Two racks of three nodes; r0n2 and r1n* are of pool b, the last with a taint where one is given."""
    names = [f"r{rack}n{index}" for rack in range(2) for index in range(3)]
    built: dict[str, node.NodeTopology] = {}
    for name in names:
        labels = (("pool", "b" if name[:2] == "r1" or name == "r0n2" else "a"), ("size", name[-1]))
        taints = (taint,) if taint and name == "r1n2" else ()
        built[name] = replace(fleets.machine(name), labels=labels, taints=taints)
    return fleets.fleet({name: ("b0", name[:2]) for name in names}, built)


def gang(pods: int, nodes: Admission, gpus: int = 4, **fields: object) -> gangs.Gang:
    asked = request.PodRequest(cpu_milli=1000, gpus=gpus, nodes=nodes)
    return gangs.Gang("g", (gangs.Role("w", pods, asked),), **fields)  # type: ignore[arg-type]


def selector(**labels: str) -> Admission:
    return Admission(tuple(Requirement(key, "In", (value,)) for key, value in sorted(labels.items())))


def place(fleet: topology.Topology, one: gangs.Gang) -> placement.Placement | reasons.Rejection:
    return engine.place(state.empty(fleet), one, fleets.compiled(fleet))


def names(answer: object, fleet: topology.Topology) -> list[str]:
    assert isinstance(answer, placement.Placement), answer
    return [fleet.nodes[grant.node].name for grant in answer.grants]


MASKS: list[tuple[Admission, str]] = [
    (Admission(), "111110"),
    (admission.EVERYWHERE, "111111"),
    (selector(pool="b"), "001110"),
    (selector(pool="b", size="1"), "000010"),
    (selector(nowhere="x"), "000000"),
    (Admission(terms=((Requirement("size", "Gt", ("0",)), Requirement("pool", "In", ("a",))),)), "010000"),
    (Admission(terms=((Requirement("size", "Lt", ("1",)),), (Requirement("pool", "NotIn", ("b",)),))), "110100"),
    (Admission(terms=((),)), "000000"),
    (Admission(terms=((Requirement("metadata.name", "In", ("r1n0",), field=True),),)), "000100"),
    (Admission(terms=((Requirement("metadata.uid", "In", ("r1n0",), field=True),),)), "000000"),
    (replace(selector(size="2"), tolerations=(Toleration("dedicated", "Exists"),)), "001001"),
    (replace(selector(size="2"), tolerations=(Toleration("dedicated", "Equal", "web"),)), "001000"),
]


@pytest.mark.parametrize(("wanted", "mask"), MASKS)
def test_masks(wanted: Admission, mask: str) -> None:
    found = admitted.admitted(pools(DEDICATED), wanted)
    assert "".join("1" if one else "0" for one in found.both) == mask


@pytest.mark.parametrize(("wanted", "mask"), MASKS)
@pytest.mark.parametrize("gpus", [0, 1, 4])
@pytest.mark.parametrize("pods", [1, 2, 4])
def test_a_gang_gets_admitted_nodes_only_and_all_that_it_can_use(
    wanted: Admission, mask: str, gpus: int, pods: int
) -> None:
    fleet = pools(DEDICATED)
    one = gang(pods, wanted, gpus)
    able = {n.name for n, bit in zip(fleet.nodes, mask, strict=True) if bit == "1"}
    answer = place(fleet, one)
    if isinstance(answer, placement.Placement):
        assert set(names(answer, fleet)) <= able
    else:
        assert len(able) * (4 // gpus if gpus else 32) < pods
    assert engine.fits(state.empty(fleet), one, fleets.compiled(fleet), bandwidth.DEFAULT) == isinstance(
        answer, placement.Placement
    )


@pytest.mark.parametrize("kind", [{"gpus": 1, "gpu_milli": 300}, {"gpus": 2}, {"gpus": 0}])
@pytest.mark.parametrize("domains", fleets.DOMAINS)
def test_every_kind_of_pod_and_every_rule_keeps_to_the_mask(kind: dict[str, int], domains: str) -> None:
    fleet = pools()
    asked = request.PodRequest(cpu_milli=100, nodes=selector(pool="b", size="1"), **kind)
    one = gangs.Gang("g", (gangs.Role("w", 2, asked),))
    answer = engine.place(state.empty(fleet), one, fleets.compiled(fleet, domains))
    assert set(names(answer, fleet)) == {"r1n1"}


def test_roles_have_masks_of_their_own() -> None:
    fleet = pools()
    asked = [request.PodRequest(gpus=4, nodes=selector(pool=pool)) for pool in "ab"]
    one = gangs.Gang("g", tuple(gangs.Role(pool, 2, each) for pool, each in zip("ab", asked, strict=True)))
    found = names(place(fleet, one), fleet)
    assert set(found[:2]) == {"r0n0", "r0n1"} and set(found[2:]) <= {"r0n2", "r1n0", "r1n1", "r1n2"}


def refused(answer: object) -> reasons.Rejection:
    assert isinstance(answer, reasons.Rejection)
    return answer


def test_a_selector_that_no_node_has_is_named_and_permanent() -> None:
    told = refused(place(pools(), gang(1, selector(pool="nowhere"))))
    assert told.reason is reasons.Reason.NO_SUCH_NODE and told.permanent
    assert "none of 6 nodes with such devices has pool=nowhere" in str(told)


def test_taints_are_named_and_never_permanent() -> None:
    told = refused(place(pools(DEDICATED), gang(1, LAST)))
    assert told.reason is reasons.Reason.TAINTS and not told.permanent
    assert "dedicated=ml:NoSchedule (1 node)" in str(told)


def test_what_the_selector_and_taints_leave_is_told_beside_the_reason() -> None:
    fleet = pools(DEDICATED)
    one = gang(4, selector(pool="b"))
    told = refused(place(fleet, one))
    assert told.reason is reasons.Reason.GPUS and told.missing == 4 and not told.permanent
    assert "4 of 6 nodes have pool=b" in told.detail and "taints keep it off 1: dedicated=ml:NoSchedule" in told.detail
    assert len(names(place(fleet, replace(one, roles=(_tolerant(one.roles[0]),))), fleet)) == 4


def _tolerant(role: gangs.Role) -> gangs.Role:
    nodes = replace(role.request.nodes, tolerations=(Toleration("dedicated", "Equal", "ml", "NoSchedule"),))
    return replace(role, request=replace(role.request, nodes=nodes))


def test_devices_that_nobody_has_come_before_nodes() -> None:
    asked = request.PodRequest(gpus=1, gpu_models=("H999",), nodes=selector(pool="nowhere"))
    told = refused(place(pools(), gangs.Gang("g", (gangs.Role("w", 1, asked),))))
    assert told.reason is reasons.Reason.NO_SUCH_DEVICE


def test_labels_taints_and_requests_survive_the_log() -> None:
    fleet = pools(DEDICATED)
    assert dumped.load(dumped.dump(fleet)).nodes == fleet.nodes
    one = _tolerant(gang(2, selector(pool="b")).roles[0])
    one = replace(one, places=(gangs.Place("r1n0", 2),))
    assert msgspec.json.decode(msgspec.json.encode(one), type=gangs.Role) == one


@settings(deadline=None, max_examples=100)
@given(
    snapshot=fleets.snapshots(),
    one=fleets.gangs(),
    bits=st.integers(0, (1 << 12) - 1),
)
def test_a_mask_is_the_same_as_a_fleet_without_the_other_nodes(
    snapshot: state.Snapshot, one: gangs.Gang, bits: int
) -> None:
    """Whoever may use some nodes only is placed exactly when he would be with the others down."""
    fleet = snapshot.topology
    able = [bool(bits >> row & 1) for row in range(len(fleet.nodes))]
    name = Requirement(
        "metadata.name", "In", tuple(n.name for n, ok in zip(fleet.nodes, able, strict=True) if ok), True
    )
    bound = replace(
        one, roles=tuple(replace(r, request=replace(r.request, nodes=Admission(terms=((name,),)))) for r in one.roles)
    )
    down = snapshot.copy()
    for row, ok in enumerate(able):
        if not ok:
            down.set_up(row, False)
    score: scoring.Scoring = fleets.compiled(fleet)
    answer, expected = engine.place(snapshot, bound, score), engine.place(down, one, score)
    assert isinstance(answer, placement.Placement) == isinstance(expected, placement.Placement)
    if isinstance(answer, placement.Placement):
        assert all(able[grant.node] for grant in answer.grants)
