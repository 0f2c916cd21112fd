"""Kueue's topology-aware scheduling: the situations of its own tests and documentation, restated for our fabric.

The expected assignments are those that Kueue gives at ff69552e79 (``tas_cache_test.go`` and its concept page); nodes
offer CPUs, every pod asks for one.
"""

from typing import Any

import pytest

from scheduler.model import gang as gangs
from scheduler.model import reasons
from scheduler.placement import engine, placement
from scheduler.snapshot import state
from tests.placement import fleets

DEFAULT = {"b1/r1/x3": 1, "b1/r2/x5": 1, "b1/r2/x1": 1, "b1/r2/x6": 1, "b2/r1/x2": 1, "b2/r2/x4": 2}
SCATTERED = {"b1/r1/x3": 4, "b1/r1/x5": 1, "b1/r1/x1": 1, "b2/r1/x6": 2, "b2/r1/x2": 1}
BINARY = dict.fromkeys(
    ("b1/r1/x3", "b1/r1/x5", "b1/r2/x1", "b1/r2/x6", "b2/r1/x2", "b2/r1/x4", "b2/r2/x7", "b2/r2/x8"), 1
)
FEW_RACKS = {"b1/r1/x3": 2, "b1/r2/x5": 2, "b1/r3/x1": 1, "b1/r3/x6": 1, "b1/r3/x2": 1, "b1/r3/x4": 1}
ONE_RACK = {"b1/r1/x3": 2, "b1/r1/x5": 1, "b1/r1/x1": 1}
SEGMENTED = {"b1/r1/x3": 6, "b1/r1/x5": 5, "b1/r1/x1": 4, "b1/r1/x6": 2}
TIGHT = {"b1/r1/x3": 3, "b1/r1/x5": 2, "b1/r1/x1": 2}
RACK_SEGMENTS = {f"b1/{path}": 1 for path in ("r1/x3", "r1/x5", "r2/x1", "r2/x6", "r2/x2")} | {
    "b2/r1/x4": 1,
    "b2/r1/x7": 1,
}

BEST, LEAST = "tas-best-fit", "tas-least-free"


def assign(tree: dict[str, int], rule: str, count: int, **constraint: Any) -> list[tuple[str, int]] | None:
    """Return pods per node in rank order, None for a refusal."""
    fleet = fleets.capacities(tree)
    answer = engine.place(
        state.empty(fleet), fleets.workers(count, cpu_milli=1000, **constraint), fleets.compiled(fleet, rule)
    )
    if isinstance(answer, reasons.Rejection):
        return None
    names = [fleet.nodes[grant.node].name for grant in answer.grants]
    return [(name, names.count(name)) for name in dict.fromkeys(names)]


@pytest.mark.parametrize(
    ("tree", "rule", "count", "constraint", "expected"),
    [
        pytest.param(
            *(FEW_RACKS, BEST, 4, {"required": "block"}, [("x1", 1), ("x2", 1), ("x4", 1), ("x6", 1)]),
            id="fewest racks before fewest nodes",
        ),
        pytest.param(
            *({"b1/r1/x1": 4, "b1/r1/x2": 1, "b1/r2/x3": 4}, BEST, 8, {"required": "block"}, [("x1", 4), ("x3", 4)]),
            id="the nodes of all chosen racks are one pool",
        ),
        pytest.param(
            *({"b1/r1/x1": 4, "b2/r1/x2": 3, "b3/r1/x3": 1}, BEST, 5, {}, [("x1", 4), ("x3", 1)]),
            id="unconstrained best fit: the last node is the tightest",
        ),
        pytest.param(ONE_RACK, BEST, 2, {"required": "rack"}, [("x3", 2)], id="the node that holds all pods"),
        pytest.param(
            *(SCATTERED, LEAST, 6, {}, [("x1", 1), ("x3", 1), ("x5", 1), ("x2", 1), ("x6", 2)]),
            id="unconstrained: least free first, though one rack would do",
        ),
        pytest.param(DEFAULT, LEAST, 2, {}, [("x4", 2)], id="unconstrained: one node that holds everything"),
        pytest.param(
            DEFAULT, BEST, 3, {"required": "rack"}, [("x1", 1), ("x5", 1), ("x6", 1)], id="the rack that holds 3"
        ),
        pytest.param(DEFAULT, BEST, 4, {"required": "rack"}, None, id="no rack holds 4"),
        pytest.param(
            *(DEFAULT, BEST, 4, {"required": "block"}, [("x3", 1), ("x1", 1), ("x5", 1), ("x6", 1)]),
            id="a block over two racks",
        ),
        pytest.param(DEFAULT, BEST, 5, {"required": "block"}, None, id="no block holds 5"),
        pytest.param(
            *(DEFAULT, BEST, 4, {"preferred": "rack"}, [("x3", 1), ("x1", 1), ("x5", 1), ("x6", 1)]),
            id="rack preferred, only a block suffices",
        ),
        pytest.param(
            *(DEFAULT, BEST, 6, {"preferred": "rack"}, [("x3", 1), ("x1", 1), ("x5", 1), ("x6", 1), ("x4", 2)]),
            id="rack preferred, only two blocks suffice; the last is the tightest",
        ),
        pytest.param(
            *(DEFAULT, BEST, 6, {"preferred": "block"}, [("x3", 1), ("x1", 1), ("x5", 1), ("x6", 1), ("x4", 2)]),
            id="block preferred, two needed",
        ),
        pytest.param(DEFAULT, BEST, 8, {"preferred": "block"}, None, id="more than the fleet"),
        pytest.param(
            *(BINARY, BEST, 4, {"required": "block"}, [("x3", 1), ("x5", 1), ("x1", 1), ("x6", 1)]),
            id="one pod per node, equal blocks by name",
        ),
        pytest.param(
            *(SEGMENTED, BEST, 12, {"required": "block", "segment": gangs.Segment(2, "node")}),
            [("x1", 4), ("x3", 6), ("x6", 2)],
            id="segments on nodes: most segments first, tight fit among equals",
        ),
        pytest.param(
            *(TIGHT, BEST, 4, {"required": "block", "segment": gangs.Segment(2, "node")}, [("x1", 2), ("x5", 2)]),
            id="segments on nodes: domains without left-overs",
        ),
        pytest.param(
            *(RACK_SEGMENTS, BEST, 4, {"required": "block", "segment": gangs.Segment(2, "rack")}),
            [("x3", 1), ("x5", 1), ("x1", 1), ("x2", 1)],
            id="segments in racks",
        ),
    ],
)
def test_assignments_are_those_of_kueue(
    tree: dict[str, int], rule: str, count: int, constraint: dict[str, Any], expected: list[tuple[str, int]] | None
) -> None:
    assert assign(tree, rule, count, **constraint) == expected


def test_a_required_level_takes_the_smallest_domain_that_suffices_under_either_order() -> None:
    tree = {"b/r1/x": 5, "b/r2/y": 3, "b/r3/z": 4}
    assert assign(tree, BEST, 3, required="rack") == [("y", 3)]
    assert assign(tree, LEAST, 3, required="rack") == [("y", 3)]


def test_a_preferred_level_climbs_one_level_at_a_time() -> None:
    tree = {"b1/r1/x": 2, "b1/r2/y": 1, "b2/r1/z": 3, "b2/r2/w": 2}
    assert assign(tree, LEAST, 4, preferred="rack") == [("z", 2), ("w", 2)]


def test_ranks_follow_names_as_strings() -> None:
    tree = {f"b/r/node-{i}": 1 for i in (1, 2, 10)}
    assert assign(tree, BEST, 3, required="rack") == [("node-1", 1), ("node-10", 1), ("node-2", 1)]


def test_pods_of_a_spread_limit_stay_within_it() -> None:
    fleet = fleets.racks(2, 2)
    anywhere = fleets.workers(4, gpus=1, spread=gangs.Spread("rack", 2))
    inside = fleets.workers(4, gpus=1, spread=gangs.Spread("rack", 2), required="block")
    for rule, one in ((BEST, anywhere), (BEST, inside), (LEAST, anywhere), (LEAST, inside)):
        answer = engine.place(state.empty(fleet), one, fleets.compiled(fleet, rule))
        assert isinstance(answer, placement.Placement)
        fleets.check(state.empty(fleet), one, answer)


def test_racks_beside_blocks_are_searched_with_them() -> None:
    fleet = fleets.fleet({"n": ("", "r")}, {"n": fleets.machine("n")})
    one = fleets.workers(2, gpus=1, segment=gangs.Segment(2, "rack"))
    for rule in (BEST, LEAST):
        fleets.check(state.empty(fleet), one, engine.place(state.empty(fleet), one, fleets.compiled(fleet, rule)))


def test_without_a_level_segments_search_the_coarsest_one_below_the_root() -> None:
    """Two segments of two: the block with two racks is the tighter one, though racks of the other come first by name."""
    tree = dict.fromkeys(("b1/r1/x1", "b1/r2/x2", "b1/r3/x3", "b2/r1/x4", "b2/r2/x5"), 2)
    assert assign(tree, BEST, 4, segment=gangs.Segment(2, "rack")) == [("x4", 2), ("x5", 2)]


@pytest.mark.parametrize(("count", "expected"), [(3, ["x2", "x4", "x4"]), (4, None)])
def test_a_search_inside_a_domain_stays_there(count: int, expected: list[str] | None) -> None:
    fleet = fleets.capacities(DEFAULT)
    within = fleet.tree.names.index("b2")
    pods = fleets.workers(count, cpu_milli=1000)
    answer = engine.place(state.empty(fleet), pods, fleets.compiled(fleet, BEST), within=within)
    if expected is None:
        assert isinstance(answer, reasons.Rejection)
    else:
        assert isinstance(answer, placement.Placement)
        assert [fleet.nodes[grant.node].name for grant in answer.grants] == expected
