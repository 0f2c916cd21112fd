"""Compiled rules and rows against the engine's, node by node, while pods come and go and nodes fail."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model import request
from scheduler.placement import policy, scoring, target
from scheduler.placement import rows as plain_rows
from scheduler.placement.score import fragmentation, opportunity, tables
from scheduler.snapshot import state
from simulator import kernel
from tests.placement import states

pytestmark = pytest.mark.skipif(not kernel.AVAILABLE, reason="numba is not installed")

if kernel.AVAILABLE:
    from simulator.kernel import arrays, frag, inflate, jit, rows, rules

    @jit.outer
    def answer(scored, nodes, pods, rule, p, version, free, untouched, prices):  # type: ignore[no-untyped-def]
        """Return the choice for pod p as the loops make it."""
        rows.refresh(scored, nodes, pods, rule, p)
        if rule.number == rules.RANDOM:
            return rows.draw(scored, nodes, pods, rule, p, version)
        rows.opening_prices(rule, free, untouched, prices)
        return rows.choose(scored, nodes, pods, p, prices, untouched)

    @jit.outer
    def begin(scored, nodes, rule):  # type: ignore[no-untyped-def]
        rows.start(scored, nodes, rule)

    @jit.outer
    def note(scored, nodes, rule, n):  # type: ignore[no-untyped-def]
        rows.changed(scored, nodes, rule, n)

    @jit.outer
    def fragments(nodes, target, out):  # type: ignore[no-untyped-def]
        for n in range(len(nodes.cpu)):
            out[n] = frag.fragmentation(nodes.cpu[n], nodes.gpu[n], nodes.gpus[n], nodes.model[n], target)

    @jit.outer
    def mixed(seed, version, number):  # type: ignore[no-untyped-def]
        return rules.mix(seed, version, number)


ASKED = (
    request.PodRequest(cpu_milli=3152, memory_mib=512),
    request.PodRequest(cpu_milli=500, gpus=1, gpu_milli=370),
    request.PodRequest(cpu_milli=8000, memory_mib=30_000, gpus=1, gpu_milli=810, gpu_models=("T4",)),
    request.PodRequest(cpu_milli=3152, gpus=1),
    request.PodRequest(gpus=2),
    request.PodRequest(cpu_milli=8000, gpus=4, gpu_models=("P4",)),
    request.PodRequest(cpu_milli=500, gpus=8),
)
WANTED = target.from_requests([(pod, 3 + n) for n, pod in enumerate(ASKED)])

events = st.lists(st.tuples(states.pods(), st.integers(0, 1 << 16), st.integers(0, len(ASKED) - 1)), max_size=14)


class Twin(NamedTuple):
    """The same fleet in both forms."""

    snapshot: state.Snapshot
    scored: scoring.Scoring
    nodes: Any
    pods: Any
    rule: Any
    rows: Any

    def copy_node(self, row: int) -> None:
        """Bring one node of the arrays up to date and tell the rows."""
        fresh = arrays.nodes_of(self.snapshot)
        at = int(np.flatnonzero(self.nodes.order == row)[0])
        for mine, theirs in zip(self.nodes, fresh, strict=True):
            mine[at] = theirs[at]
        note(self.rows, self.nodes, self.rule, at)

    def choose(self, number: int) -> tuple[int, int]:
        """Return node and GPU of the compiled choice, (-1, -1) for none."""
        free, untouched = inflate.totals(self.nodes)
        prices = np.zeros(33, dtype=np.int64)
        version = self.snapshot.version
        at = answer(self.rows, self.nodes, self.pods, self.rule, number, version, free, untouched, prices)
        return (int(self.nodes.order[at]), int(self.rows.gpu[number, at])) if at >= 0 else (-1, -1)


def twin(snapshot: state.Snapshot, rule: policy.PodRule, changes: int = 64) -> Twin:
    scored = states.compiled(rule, snapshot.topology, WANTED, seed=11)
    nodes, pods = arrays.nodes_of(snapshot), arrays.pods_of(scored, ASKED)
    made = Twin(snapshot, scored, nodes, pods, arrays.rule_of(scored), rows.new_rows(nodes, pods, changes))
    begin(made.rows, made.nodes, made.rule)
    return made


@pytest.mark.parametrize("rule", states.RULES)
@settings(max_examples=30)
@given(snapshot=states.snapshots(most=40), events=events)
def test_choices_and_costs_are_the_engine_s(
    rule: policy.PodRule, snapshot: state.Snapshot, events: list[tuple[request.PodRequest, int, int]]
) -> None:
    """After every arrival, departure and cordon, for requests whose rows are of any age."""
    both = twin(snapshot, rule)
    held: list[state.Grant] = []
    for pod, pick, number in events:
        wanted = both.scored.demand(ASKED[number])
        chosen = both.scored.choose(snapshot, wanted)
        assert both.choose(number) == ((chosen.node, chosen.gpu) if chosen else (-1, -1))
        row = both.scored.row(snapshot, wanted)
        if rule != "random":
            costs = both.rows.cost[number][np.argsort(both.nodes.order)]
            able = row.cost < plain_rows.INFEASIBLE
            assert costs[able].tolist() == row.cost[able].tolist()
            assert (costs[~able] == rows.NONE).all()
        if held and pick % 3 == 0:
            grant = held.pop(pick % len(held))
            snapshot.release(grant)
            both.copy_node(grant.node)
        elif pick % 7 == 0:
            node = pick % len(snapshot.up)
            snapshot.set_up(node, not snapshot.up[node])
            both.copy_node(node)
        elif (taken := states.place(snapshot, pod, pick)) is not None:
            held.append(taken)
            both.copy_node(taken.node)


@settings(max_examples=60)
@given(states.snapshots(), states.targets())
def test_fragmentation_is_the_engine_s(snapshot: state.Snapshot, wanted: target.TargetWorkload) -> None:
    scored = states.compiled("fgd", snapshot.topology, wanted)
    nodes, rule = arrays.nodes_of(snapshot), arrays.rule_of(scored)
    measure = fragmentation.compile_fragmentation(snapshot.topology, wanted)
    every = np.arange(len(snapshot.up))
    engine = measure.of(snapshot.gpu_free.astype(np.int64), snapshot.cpu_free, every)
    found = np.zeros(len(every), dtype=np.int64)
    fragments(nodes, rule.full, found)
    assert found.tolist() == engine[nodes.order].tolist()


@settings(max_examples=60)
@given(states.snapshots())
def test_totals_are_the_snapshot_s(snapshot: state.Snapshot) -> None:
    free, untouched = inflate.totals(arrays.nodes_of(snapshot))
    assert free == snapshot.gpu_free.sum()
    every = np.arange(len(snapshot.up))
    sizes = snapshot.topology.gpus[opportunity.untouched(snapshot, every)]
    assert untouched.tolist() == [1000 * size * int((sizes == size).sum()) for size in range(33)]


@given(st.integers(0, 1 << 31), st.integers(0, 1 << 40), st.integers(0, 1 << 20))
def test_the_hash_is_the_engine_s(seed: int, version: int, number: int) -> None:
    assert int(mixed(seed, version, number)) == int(tables.mix(seed, version, np.array([number]))[0])


def test_nodes_stand_in_the_order_of_ties() -> None:
    fleet = states.fleet([states.machine(name, 2) for name in "abc"], (2, 0, 1))
    nodes = arrays.nodes_of(state.empty(fleet))
    assert nodes.order.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    "pod",
    [
        request.PodRequest(gpus=1, mig="1g.5gb"),
        request.PodRequest(gpus=1, nics=1),
        request.PodRequest(accelerators=(("fpga", 1),)),
    ],
)
def test_requests_that_compiled_code_does_not_know_are_refused(pod: request.PodRequest) -> None:
    scored = states.compiled("best-fit", states.fleet([states.machine("a", 1)]))
    assert not arrays.supported(pod)
    with pytest.raises(ValueError, match="no MIG partitions, NICs or other accelerators"):
        arrays.pods_of(scored, [pod])


def test_every_rule_has_its_number() -> None:
    assert list(arrays.RULE_NUMBERS) == list(scoring.RULES)
    assert len(set(arrays.RULE_NUMBERS.values())) == len(scoring.RULES)
