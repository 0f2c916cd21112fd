"""Decisions: plans rule, devices decide where there is none, and asking changes nothing."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given as over
from hypothesis import strategies as st

from scheduler import policies
from scheduler.model import machines, request, slices
from scheduler.model import order as orders
from scheduler.placement import scoring, target
from scheduler.snapshot import state
from scheduler.web import answers, asked, extender, first_fit, wire
from tests.web import given

NAMES = ["n-0", "n-1", "n-2"]


def test_a_planned_pod_goes_to_its_node_only() -> None:
    decided = dataclasses.replace(given.decided(), plans={"u": "n-1"})
    verdict = decided.filter(given.pod(1), NAMES)
    assert verdict.feasible == ["n-1"] and not verdict.failed
    assert set(verdict.hopeless) == {"n-0", "n-2"} and "n-1" in verdict.hopeless["n-0"]
    assert decided.ranks(given.pod(1), NAMES).places.tolist() == [0, 1, 0]
    assert decided.preempt(given.pod(1), dict.fromkeys(NAMES, ("v",))) == {"n-1": ()}
    assert decided.preempt(given.pod(1), {"n-0": ("v",)}) == {}
    short = dataclasses.replace(decided, short={"n-1"})
    assert short.preempt(given.pod(1), dict.fromkeys(NAMES, ("v",))) == {"n-1": ("v",)}
    assert dataclasses.replace(short, plans={"u": "n-1", "v": "n-1"}).preempt(given.pod(1), {"n-1": ("v",)}) == {
        "n-1": ()
    }
    assert decided.filter(given.pod(1), ["n-0"]).feasible == []


def test_a_pod_that_asks_nothing_of_us_passes_through() -> None:
    decided = given.decided()
    verdict = decided.filter(given.pod(), ["n-0", "cpu-node"])
    assert verdict.feasible == ["n-0", "cpu-node"] and not verdict.failed and not verdict.hopeless
    assert decided.ranks(given.pod(), NAMES).places.tolist() == [0, 0, 0]
    assert decided.preempt(given.pod(), {"cpu-node": ("v",)}) == {"cpu-node": ("v",)}
    assert dataclasses.replace(decided, plans={"v": "n-0"}).preempt(given.pod(), {"n-0": ("v",)}) == {}


def test_every_node_that_falls_has_its_reason() -> None:
    decided = given.decided(4)
    decided.snapshot.take(state.Grant(0, 0b0111, 1000))
    decided.snapshot.set_up(2, False)
    verdict = decided.filter(given.pod(2), [*NAMES, "n-3", "cpu-node"])
    assert verdict.feasible == ["n-1", "n-3"]
    assert verdict.failed == {"n-0": answers.TAKEN}
    assert verdict.hopeless == {"n-2": answers.DOWN, "cpu-node": answers.NO_GPU_NODE}
    assert decided.filter(given.pod(99), ["n-1"]).hopeless == {"n-1": answers.UNSUITED}


def test_scores_are_a_total_order_and_the_first_is_what_first_fit_suits() -> None:
    """Both have a bridged pair and one more GPU free; on n-0 first fit takes two that no bridge joins."""
    decided = given.decided(2)
    order = orders.first_fit(machines.build("a100-pcie-pairs", "n"))
    decided.snapshot.take(state.Grant(0, 1 << order[1], 1000))
    decided.snapshot.take(state.Grant(1, 1 << order[3], 1000))
    first, second = decided.ranks(given.pod(2), ["n-0", "n-1"]).places.tolist()
    assert second > first > 0


def test_scores_follow_the_snapshot_and_asking_changes_nothing() -> None:
    decided = given.decided(3, policy="best-fit")
    version, free = decided.snapshot.version, decided.snapshot.gpu_free.copy()
    before = decided.ranks(given.pod(1), NAMES).places.tolist()
    assert sorted(before) == [1, 2, 3] and decided.ranks(given.pod(1), NAMES).places.tolist() == before
    assert decided.snapshot.version == version and (decided.snapshot.gpu_free == free).all()
    worst = before.index(1)
    decided.snapshot.take(state.Grant(worst, 1, 1000))
    after = decided.ranks(given.pod(1), NAMES).places.tolist()
    assert after[worst] == 3, "best fit prefers the node that was begun"


def test_unknown_nodes_score_nothing() -> None:
    assert given.decided().ranks(given.pod(1), ["n-0", "cpu-node"]).places.tolist()[1] == 0


def test_victims_must_make_room_and_gangs_are_spared() -> None:
    decided = given.decided(3)
    full = (1 << int(decided.snapshot.topology.gpus[0])) - 1
    grants = {f"v-{node}": state.Grant(node, full, 1000) for node in range(3)}
    for grant in grants.values():
        decided.snapshot.take(grant)
    alone = {"v-0": answers.Holder(("v-0",), (grants["v-0"],))}
    decided = dataclasses.replace(decided, held=alone, plans={"v-2": "n-2"})
    version = decided.snapshot.version
    candidates = {"n-0": ["v-0", "v-0"], "n-1": ["stranger"], "n-2": ["v-2"], "cpu-node": ["v-0"]}
    assert decided.preempt(given.pod(1), candidates) == {"n-0": ["v-0", "v-0"]}
    assert decided.preempt(given.pod(1), {"n-1": []}) == {} and decided.snapshot.version == version


def test_a_gang_is_a_victim_whole_or_not_at_all() -> None:
    decided = given.decided(2)
    both = tuple(state.Grant(0, 0b11 << 2 * i, 1000) for i in range(2))
    for grant in both:
        decided.snapshot.take(grant)
    gang = answers.Holder(("a", "b"), both)
    decided = dataclasses.replace(decided, held={"a": gang, "b": gang}, plans={"a": "n-0", "b": "n-0"})
    assert decided.preempt(given.pod(3), {"n-0": ["a"]}) == {}
    assert decided.preempt(given.pod(3), {"n-0": ["b", "a"]}) == {"n-0": ["b", "a"]}
    assert decided.preempt(given.pod(), {"n-0": ["a"]}) == {}, "neither for a pod that asks nothing of us"


def test_prioritize_ranks_as_the_engine_does_scarcity_and_all() -> None:
    """One machine has been begun. Where whole machines are wanted, the pod goes there; the price of opening decides it."""
    names = [f"n-{i}" for i in range(4)]
    whole = target.TargetWorkload((target.TargetItem(request.PodRequest(gpus=4, gpu_milli=1000), 3),))
    decided = given.decided(4)
    chosen = policies.load("muster")
    tight = dict.fromkeys(("fragmentation", "stranded", "left", "open"), 0)
    pods = chosen.spec.pods.model_copy(update={"weights": chosen.spec.pods.weights | tight | {"scarcity": 1000}})
    chosen = chosen.model_copy(update={"spec": chosen.spec.model_copy(update={"pods": pods})})
    priced = scoring.compile_scoring(chosen, decided.snapshot.topology, whole)
    for node, mask in ((0, 0b0101), (2, 0b0110)):
        decided.snapshot.take(state.Grant(node, mask, 1000))
    decided = dataclasses.replace(decided, score=priced)
    wanted = priced.demand(decided.wanted(given.pod(2)))
    scarcity = priced.scarcity(decided.snapshot, wanted)
    assert scarcity[1] > 0 and scarcity[0] == 0
    engine = [one.node for one in priced.ranking(decided.snapshot, wanted, 0, 4, 4)]
    ranks = decided.ranks(given.pod(2), names).places.tolist()
    assert sorted(range(4), key=lambda n: -ranks[n]) == engine and len(set(ranks)) == 4
    plain = priced.row(decided.snapshot, wanted).cost
    assert sorted(range(4), key=lambda n: (int(plain[n]), int(decided.snapshot.topology.tie[n]))) != engine


def test_a_candidate_without_victims_stays_where_there_is_room() -> None:
    request = wire.ExtenderPreemptionArgs(given.pod(1), None, {"n-0": wire.MetaVictims(None, 0)})
    result = extender.preempted(given.decided(), request)
    assert result.node_name_to_meta_victims == {"n-0": wire.MetaVictims([], 0)}


@pytest.mark.parametrize("weight", [1, 13, 120, 121, 1000])
def test_one_place_outweighs_all_plugins(weight: int) -> None:
    assert extender.step(weight) * weight * extender.POINTS_PER_SCORE > extender.PLUGIN_POINTS


@pytest.mark.parametrize("policy", ["muster", "fgd", "best-fit", "packing", "least-allocated", "dra-first-fit"])
@pytest.mark.parametrize("gpus", [1, 2, 4])
def test_filter_agrees_with_the_engine(policy: str, gpus: int) -> None:
    decided = given.decided(3, policy=policy)
    decided.snapshot.take(state.Grant(0, 0b0111, 1000))
    wanted = decided.score.demand(decided.wanted(given.pod(gpus)))
    low = {n for n in range(3) if decided.score.choose(decided.snapshot, wanted, n, n + 1)}
    assert decided.filter(given.pod(gpus), NAMES).feasible == [f"n-{n}" for n in sorted(low)]


@pytest.mark.parametrize("amount", ["-1", "x", "", "1.5", "9" * 5000])
def test_amounts_that_make_no_sense_are_refused(amount: str) -> None:
    with pytest.raises(wire.BadRequest, match=r"pod ml/w: muster\.dev/gpu"):
        asked.from_containers(given.pod(amount), given.RESOURCE)


@over(st.text(max_size=8) | st.integers() | st.sampled_from(["1e99", "1E", "9999999999999999999999", "0.5"]))
def test_any_amount_is_decided_or_refused(amount: int | str) -> None:
    try:
        verdict = DECIDED.filter(given.pod(amount), NAMES)
    except wire.BadRequest:
        return
    assert {*verdict.feasible, *verdict.failed, *verdict.hopeless} == set(NAMES)


DECIDED = given.decided()


def test_init_containers_count_by_their_largest() -> None:
    of = [wire.Container(wire.Resources(requests={given.RESOURCE: n, "memory": "2Ti"})) for n in (1, 2, 5)]
    found = asked.from_containers(wire.Pod(wire.Metadata(), wire.PodSpec(of[:2], of[2:])), given.RESOURCE)
    assert found is not None and found.gpus == 5 and found.memory_mib == 4 << 20


def test_gpus_are_expected_in_the_order_of_the_slices() -> None:
    """A GPU that could be cut is published after the others, whatever its links."""
    whole = machines.build("dgx-a100", "n")
    cut = dataclasses.replace(
        whole, gpus=tuple(dataclasses.replace(gpu, mig_enabled=gpu.index in (0, 5)) for gpu in whole.gpus)
    )
    for machine in (whole, cut):
        published = [device["name"] for one in slices.encode(machine) for device in one["spec"].get("devices", ())]
        wanted = [machine.gpus[gpu].name for gpu in first_fit.listed(machine)]
        assert [name for name in published if name in wanted] == wanted
