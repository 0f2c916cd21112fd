"""What must not change when something irrelevant does: the metamorphic relations M1-M9.

The target workload is fixed in all of them, since scores follow it. Adding nodes, shortening jobs or relaxing constraints
may hurt with list scheduling (Graham's anomalies), so nothing of that kind is asserted but for the one pool in which it
is a theorem.
"""

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.gang import config
from scheduler.model import device, request
from scheduler.model import fabric as fabrics
from scheduler.placement import policy, target
from scheduler.snapshot import topology
from simulator import faults, outcome
from tests.placement import fleets
from tests.simulator import small

BIG = device.GpuModel("BIG", "Hopper", 80_000)

RULES: tuple[policy.PodRule, ...] = (
    *("best-fit", "fgd", "dot-product", "clustering", "packing"),
    *("least-allocated", "most-allocated", "opportunity-cost"),
)
"""Rules that look at what nodes are, never at their numbers."""

DOMAINS: tuple[policy.DomainRule, ...] = ("opportunity-cost", "tas-best-fit", "tas-least-free")

EXPECTED = target.from_requests(
    [
        (request.PodRequest(gpus=1, cpu_milli=4000), 6),
        (request.PodRequest(gpus=2, cpu_milli=4000), 2),
        (request.PodRequest(gpus=4, cpu_milli=8000), 1),
    ]
)
"""Without shares, so that the price tables cost nothing to make."""


def scored(fleet: topology.Topology, rule: policy.PodRule, domains: policy.DomainRule, **weights: Any) -> Any:
    return small.scored(fleet, rule, domains, expected=EXPECTED, **weights)


BUSY = small.jobs() | small.crowds()
WHERE = small.FLEETS | small.CROWDED


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=15)
@given(jobs=BUSY, sizes=WHERE, domains=st.sampled_from(("tas-best-fit", "tas-least-free")), data=st.data())
def test_m1_nodes_in_another_order_are_the_same_nodes(
    rule: policy.PodRule, domains: policy.DomainRule, jobs: list[small.Job], sizes: list[list[int]], data: st.DataObject
) -> None:
    """Ties of lone pods, and of gangs by Kueue's rules, go by name, in whatever order racks and nodes are read."""
    built = small.machines(sizes)
    order = data.draw(st.permutations(sorted(built)))
    one = fleets.fleet(small.paths(built), built)
    other = fleets.fleet({name: small.paths(built)[name] for name in order}, {name: built[name] for name in order})
    first, second = (small.run(jobs, scored(fleet, rule, domains)).effects() for fleet in (one, other))
    assert first == second


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=15)
@given(jobs=BUSY, sizes=WHERE, data=st.data())
def test_m1_other_names_with_the_tie_order_kept_are_the_same_nodes(
    rule: policy.PodRule, jobs: list[small.Job], sizes: list[list[int]], data: st.DataObject
) -> None:
    """Ties of gangs by our own rule go by the order of the fleet, those of lone pods by the ties given."""
    built = small.machines(sizes)
    fleet = fleets.fleet(small.paths(built), built)
    names = [one.name for one in fleet.nodes]
    other = dict(zip(names, data.draw(st.permutations([f"x{i}" for i in range(len(names))])), strict=True))
    renamed = {other[name]: replace(built[name], name=other[name]) for name in names}
    paths = {other[name]: small.paths(built)[name] for name in names}
    tree = fabrics.from_paths(renamed, paths, fleets.LEVELS)
    assert [one.name for one in tree.nodes()] == [other[name] for name in names]
    twin = topology.compile_topology(tree, tie=fleet.tie.tolist())
    first, second = (small.run(jobs, scored(one, rule, "opportunity-cost")).effects() for one in (fleet, twin))
    assert [(t, e, g, pods and [[other[p[0]], *p[1:]] for p in pods]) for t, e, g, pods in first] == second


@pytest.mark.parametrize("rule", [*RULES, "first-fit", "random"])
@settings(max_examples=15)
@given(jobs=BUSY, sizes=WHERE, domains=st.sampled_from(DOMAINS), mode=st.sampled_from(("skip", "easy")))
def test_m3_a_node_that_no_job_can_use_changes_nothing(
    rule: policy.PodRule, mode: config.Mode, jobs: list[small.Job], sizes: list[list[int]], domains: policy.DomainRule
) -> None:
    jobs = [replace(one, cpu=max(1, one.cpu)) for one in jobs]
    built = small.machines(sizes)
    useless = {"zz": fleets.machine("zz", 0, 0)}
    one = fleets.fleet(small.paths(built), built)
    other = fleets.fleet(small.paths(built) | {"zz": ("zb", "zr")}, built | useless)
    first, second = (small.run(jobs, scored(fleet, rule, domains), mode).effects() for fleet in (one, other))
    assert first == second


@settings(max_examples=40)
@given(BUSY, small.crowds(), WHERE, small.MODES, st.sampled_from(RULES))
def test_m4_jobs_that_come_later_change_nothing_before(
    jobs: list[small.Job], more: list[small.Job], sizes: list[list[int]], mode: config.Mode, rule: policy.PodRule
) -> None:
    """The log is the same up to then; in strict order without priorities earlier jobs never notice at all."""
    last = max(one.submit_s for one in jobs)
    later = [replace(one, name=f"z{one.name}", submit_s=one.submit_s + last + 5) for one in more]
    compiled = scored(small.racks(sizes), rule, "tas-best-fit")
    alone, both = (small.run(rows, compiled, mode) for rows in (jobs, [*jobs, *later]))
    begin = min(one.submit_s for one in later)
    before = [line for one, line in zip(alone.decisions(), alone.log, strict=True) if one["t"] < begin]
    assert both.log[: len(before)] == before
    if mode == "fifo" and not any(one.priority for one in jobs):
        starts = both.starts()
        assert {name: starts[name] for name in alone.starts()} == alone.starts()


def same(one: outcome.Outcome, other: outcome.Outcome) -> None:
    """Assert that two outcomes are equal, number by number."""
    for name in one.jobs.__slots__:
        assert np.array_equal(getattr(one.jobs, name), getattr(other.jobs, name), equal_nan=name.endswith("_s")), name
    assert one.series == other.series or vars_of(one.series) == vars_of(other.series)
    assert (one.refusals, one.waited_for, one.end_s) == (other.refusals, other.waited_for, other.end_s)
    assert (one.events, one.evictions, one.partial) == (other.events, other.evictions, other.partial)


def vars_of(series: outcome.Series) -> list[Any]:
    return [getattr(series, name) for name in series.__slots__]


@settings(max_examples=40)
@given(BUSY, WHERE, small.MODES, st.lists(st.integers(1, 9), min_size=1, max_size=4), st.booleans())
def test_m5_a_run_in_pieces_written_down_and_read_back_is_one_run(
    jobs: list[small.Job], sizes: list[list[int]], mode: config.Mode, pieces: list[int], preempt: bool
) -> None:
    compiled = scored(small.racks(sizes), "best-fit", "opportunity-cost")
    broken = faults.Faults(node_mtbf_s=60.0, gpu_mtbf_s=300.0, repair_s=5.0, checkpoint_s=3.0, restart_s=1.0)
    fields: dict[str, Any] = {"broken": broken, "seed": 3, "preempt": preempt}
    whole, log = small.made(jobs, compiled, mode, **fields)
    expected = whole.run()
    piece, other_log = small.made(jobs, compiled, mode, **fields)
    more = True
    while more:
        for steps in pieces:
            more = more and piece.advance(steps)
            piece.outcome()  # looking changes nothing
            piece.log = None
            piece = pickle.loads(pickle.dumps(piece))
            piece.log = other_log.append
    same(expected, piece.outcome())
    assert log == other_log


@settings(max_examples=40)
@given(BUSY, WHERE, small.MODES, st.sampled_from((0.0, 1000.0)), st.sampled_from((0.5, 1.0, 4.0)))
def test_m6_another_beginning_and_another_unit_of_time(
    jobs: list[small.Job], sizes: list[list[int]], mode: config.Mode, shift: float, scale: float
) -> None:
    moved = [replace(one, submit_s=shift + scale * one.submit_s, duration_s=scale * one.duration_s) for one in jobs]
    compiled = scored(small.racks(sizes), "best-fit", "tas-best-fit")
    first, second = (small.run(rows, compiled, mode).effects("Start", "Wait", "Reject") for rows in (jobs, moved))
    assert [(shift + scale * t, *rest) for t, *rest in first] == second


@pytest.mark.parametrize("rule", ["best-fit", "fgd", "packing", "clustering", "dot-product", "most-allocated"])
@settings(max_examples=15)
@given(jobs=BUSY, others=BUSY, sizes=WHERE, more=WHERE, domains=st.sampled_from(DOMAINS))
def test_m7_two_fleets_that_share_no_job_are_two_fleets(
    rule: policy.PodRule,
    jobs: list[small.Job],
    others: list[small.Job],
    sizes: list[list[int]],
    more: list[list[int]],
    domains: policy.DomainRule,
) -> None:
    jobs = [replace(one, gpus=max(1, one.gpus), models=("SMALL",)) for one in jobs]
    others = [replace(one, name=f"q{one.name}", gpus=max(1, one.gpus), models=("BIG",)) for one in others]
    small_ones, big_ones = small.machines(sizes, "s"), small.machines(more, "t", model=BIG)
    paths = small.paths(small_ones) | small.paths(big_ones)

    def found(built: dict[str, Any], rows: list[small.Job]) -> dict[str, Any]:
        fleet = fleets.fleet({name: paths[name] for name in built}, built)
        return small.run(rows, scored(fleet, rule, domains)).starts()

    both = found(small_ones | big_ones, sorted([*jobs, *others], key=lambda one: one.submit_s))
    assert both == found(small_ones, jobs) | found(big_ones, others)


@settings(max_examples=40)
@given(BUSY, WHERE, small.MODES, st.integers(0, 20), st.sampled_from(RULES))
def test_m8_a_job_that_could_never_run_was_never_there(
    jobs: list[small.Job], sizes: list[list[int]], mode: config.Mode, at: int, rule: policy.PodRule
) -> None:
    never = small.Job("never", float(at), 5.0, pods=2, gpus=4, required="moon")
    compiled = scored(small.racks(sizes), rule, "tas-least-free")
    without = small.run(jobs, compiled, mode)
    beside = small.run([*jobs, never], compiled, mode)
    assert "never" in beside.rejected()
    assert [one for one in beside.effects("Start", "Wait", "Reject") if one[2] != "never"] == without.effects(
        "Start", "Wait", "Reject"
    )


@settings(max_examples=40)
@given(BUSY, WHERE, st.sampled_from((2, 7)))
def test_m9_weights_count_by_their_proportions(jobs: list[small.Job], sizes: list[list[int]], factor: int) -> None:
    fleet = small.racks(sizes)
    pods, gangs = policy.POD_WEIGHTS["opportunity-cost"], policy.GANG_WEIGHTS["opportunity-cost"]
    first, second = (
        small.run(
            jobs,
            scored(
                fleet,
                "opportunity-cost",
                "opportunity-cost",
                weights={name: by * weight for name, weight in pods.items()},
                gang_weights={name: by * weight for name, weight in gangs.items()},
            ),
        ).effects()
        for by in (1, factor)
    )
    assert first == second


def one_pool(jobs: list[small.Job], gpus: int) -> dict[str, float]:
    """Return the starts in strict order on a single machine, where capacity is one number."""
    made = small.run(jobs, scored(small.racks([[gpus]]), "first-fit", "tas-best-fit"), "fifo")
    return {name: at for name, (at, _) in made.starts().items()}


POOL = st.lists(st.tuples(st.integers(0, 10), st.integers(1, 12), st.integers(1, 4)), min_size=2, max_size=12)


@settings(max_examples=60)
@given(POOL, st.integers(0, 3), st.integers(0, 11), st.booleans())
def test_in_one_pool_less_work_and_more_room_never_delay(
    rows: list[tuple[int, int, int]], room: int, which: int, drop: bool
) -> None:
    jobs = [
        small.Job(f"j{i:02d}", float(at), float(duration), gpus=gpus)
        for i, (at, duration, gpus) in enumerate(sorted(rows, key=lambda row: row[0]))
    ]
    chosen = which % len(jobs)
    shorter = [replace(one, duration_s=one.duration_s / 2) if n == chosen else one for n, one in enumerate(jobs)]
    fewer = [one for n, one in enumerate(jobs) if n != chosen]
    before, after = one_pool(jobs, 4), one_pool(fewer if drop else shorter, 4 + room)
    assert set(after) == {one.name for one in (fewer if drop else jobs)}
    assert all(after[name] <= before[name] for name in after)
