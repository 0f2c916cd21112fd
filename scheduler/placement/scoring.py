"""A policy compiled for a fleet and a target workload: what the engine asks when it has to choose."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from scheduler.model import request
from scheduler.placement import openings, placement, policy, rows, target
from scheduler.placement.score import kubernetes, opportunity, published, tables
from scheduler.snapshot import demand as demands
from scheduler.snapshot import state, topology

RULES: dict[policy.PodRule, rows.Rule] = {
    "opportunity-cost": opportunity.opportunity_cost,
    "fgd": published.fgd,
    "best-fit": published.best_fit,
    "dot-product": published.dot_product,
    "clustering": published.clustering,
    "packing": published.packing,
    "random": published.random,
    "least-allocated": kubernetes.least_allocated,
    "most-allocated": kubernetes.most_allocated,
    "first-fit": kubernetes.first_fit,
}

MAX_ROWS = 1024
"""Rows kept; the oldest goes first. 60 kB each at 5,000 nodes."""


@dataclass(frozen=True, slots=True)
class NodeChoice:
    """The best node for one pod.

    Attributes
    ----------
    gpu : int
        GPU to share, -1 for every other kind of pod.
    cost : int
        What the rule says, lower is better; nano-GPU for the opportunity cost.
    """

    node: int
    gpu: int
    cost: int


@dataclass(slots=True, eq=False)
class Scoring:
    """A policy, ready to choose.

    Its caches (requests, cost rows) change what a decision costs, never what it is.
    """

    policy: policy.ScoringPolicy
    topology: topology.Topology
    target: target.TargetWorkload
    tables: tables.Tables
    seed: int = 0
    _demands: dict[request.PodRequest, demands.Demand] = field(default_factory=dict)
    _rows: dict[request.PodRequest, rows.Row] = field(default_factory=dict)
    _opened: openings.Openings | None = None
    _by_tie: NDArray[np.intp] = field(init=False)

    def __post_init__(self) -> None:
        self._by_tie = np.argsort(self.topology.tie)

    def demand(self, pod: request.PodRequest) -> demands.Demand:
        """Return the request compiled for the fleet."""
        found = self._demands.get(pod)
        if found is None:
            found = self._demands[pod] = demands.compile_demand(self.topology, pod)
        return found

    def choose(
        self, snapshot: state.Snapshot, wanted: demands.Demand, low: int = 0, high: int | None = None
    ) -> NodeChoice | None:
        """Return the best node in ``[low, high)`` for one pod, None where it fits nowhere.

        Notes
        -----
        The total order is (cost with the scarcity price, tie rank of the node). Nothing in the snapshot changes.
        """
        row = self.row(snapshot, wanted)
        if low or high not in (None, len(row.cost)):
            return self._choose_within(row, low, high)
        cost = row.ranked
        for opens in self._openings(snapshot, wanted):
            cost = cost + opens[self._by_tie]
        best = int(cost.argmin()) if len(cost) else 0
        if not len(cost) or cost[best] >= rows.INFEASIBLE:
            return None
        node = int(self._by_tie[best])
        return NodeChoice(node, int(row.gpu[node]), int(cost[best]))

    def _choose_within(self, row: rows.Row, low: int, high: int | None) -> NodeChoice | None:
        """Choose among the nodes of an interval."""
        cost = row.cost[low:high]
        for opens in self._openings(row.snapshot, row.wanted):
            cost = cost + opens[low:high]
        if not len(cost) or cost.min() >= rows.INFEASIBLE:
            return None
        ties = np.flatnonzero(cost == cost.min())
        node = low + int(ties[self.topology.tie[low:high][ties].argmin()])
        return NodeChoice(node, int(row.gpu[node]), int(cost[node - low]))

    def ranking(
        self, snapshot: state.Snapshot, wanted: demands.Demand, low: int, high: int, most: int
    ) -> list[NodeChoice]:
        """Return the best nodes in ``[low, high)`` for one pod, at most `most`; the first is what `choose` returns."""
        row = self.row(snapshot, wanted)
        cost = row.cost[low:high]
        for opens in self._openings(snapshot, wanted):
            cost = cost + opens[low:high]
        order = np.lexsort((self.topology.tie[low:high], cost))[:most]
        able = order[cost[order] < rows.INFEASIBLE]
        return [NodeChoice(low + n, int(row.gpu[low + n]), int(cost[n])) for n in able.tolist()]

    def terms(self, snapshot: state.Snapshot, wanted: demands.Demand, chosen: NodeChoice) -> placement.Terms:
        """Take the cost of a choice apart: a signed term for each weight that mattered; their sum is the cost.

        Notes
        -----
        Costs are linear in the weights once the GPU is chosen, so the term of a weight is the cost of that node and GPU
        when all other weights are nothing. Rules without weights have one term, the cost.
        """
        found: dict[str, int] = {}
        if self.policy.spec.pods.rule == "opportunity-cost":
            nodes = np.array([chosen.node])
            if chosen.gpu >= 0:
                wanted = replace(wanted, eligible=np.full_like(wanted.eligible, 1 << chosen.gpu))
            for name, weight in self.tables.weights.items():
                alone = replace(self.tables, weights=dict.fromkeys(self.tables.weights, 0) | {name: weight})
                found[name] = int(opportunity.opportunity_cost(alone, snapshot, wanted, nodes)[0][0])
            found["scarcity"] = sum(int(opens[chosen.node]) for opens in self._openings(snapshot, wanted))
        return tuple((name, term) for name, term in found.items() if term) or (("cost", chosen.cost),)

    def grant(self, snapshot: state.Snapshot, wanted: demands.Demand, chosen: NodeChoice) -> state.Grant:
        """Return what a lone pod takes on its node: the shared GPU chosen, or the lowest free GPUs.

        The published experiments' rule. The engine's own device rules, which see links and NICs, are in `devices`.
        """
        mask = 1 << chosen.gpu if chosen.gpu >= 0 else 0
        free = int(snapshot.free_mask[chosen.node] & wanted.eligible[chosen.node])
        for _ in range(wanted.gpus if chosen.gpu < 0 else 0):
            mask |= free & -free
            free &= free - 1
        milli = wanted.gpu_milli if mask else 0
        return state.Grant(chosen.node, mask, milli, wanted.cpu_milli, wanted.memory_mib)

    def costs(self, snapshot: state.Snapshot, wanted: demands.Demand, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the cost of one pod on each of `nodes`; `rows.INFEASIBLE` where it doesn't fit."""
        return self.row(snapshot, wanted).cost[nodes]

    def row(self, snapshot: state.Snapshot, wanted: demands.Demand) -> rows.Row:
        """Return the up-to-date cost row of a request."""
        row = self._rows.get(wanted.request)
        if row is None or row.snapshot is not snapshot:
            if row is None and len(self._rows) >= MAX_ROWS:
                del self._rows[next(iter(self._rows))]
            row = self._rows[wanted.request] = rows.new_row(snapshot, wanted)
        if self.policy.spec.pods.rule == "random":
            row.version = -1  # its order changes with every version, on all nodes
        row.refresh(RULES[self.policy.spec.pods.rule], self.tables)
        return row

    def scarcity(self, snapshot: state.Snapshot, wanted: demands.Demand) -> NDArray[np.int64]:
        """Return the scarcity price of one pod on every node, the only part of a cost that reads the whole fleet, (N,)."""
        nothing = np.zeros(len(snapshot.up), dtype=np.int64)
        return sum(self._openings(snapshot, wanted), nothing)

    def _openings(self, snapshot: state.Snapshot, wanted: demands.Demand) -> Iterator[NDArray[np.int64]]:
        """Yield, per machine size that has one, the scarcity price on the untouched machines larger than the pod."""
        if self.policy.spec.pods.rule != "opportunity-cost" or not wanted.gpus:
            return
        if self._opened is None or self._opened.snapshot is not snapshot:
            self._opened = openings.new_openings(snapshot)
        self._opened.refresh()
        for size, price in opportunity.prices_of(self.tables, self._opened.free, self._opened.whole).items():
            smaller = wanted.kind is not request.RequestKind.WHOLE or wanted.gpus < size
            if price and smaller:
                yield price * (self._opened.opens & (self.topology.gpus == size))


def compile_scoring(
    chosen: policy.ScoringPolicy,
    fleet: topology.Topology,
    expected: target.TargetWorkload | None = None,
    seed: int = 0,
) -> Scoring:
    """Compile a policy for a fleet.

    Parameters
    ----------
    expected : TargetWorkload, optional
        What the fleet is expected to serve; without it the rules that read a target see an empty one.
    seed : int
        For the random baseline only.
    """
    wanted = expected or target.TargetWorkload(())
    weights = policy.pod_weights(chosen)
    return Scoring(chosen, fleet, wanted, tables.compile_tables(fleet, wanted, weights, seed), seed)
