"""Costs of one request on all nodes, kept from decision to decision and re-scored only where something changed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.placement.score import feasible, published, tables
from scheduler.snapshot import demand, state

Rule = Callable[[tables.Tables, state.Snapshot, demand.Demand, NDArray[np.int64]], published.Costs]

INFEASIBLE = np.iinfo(np.int64).max // 2
"""Cost of a node that can't take the pod: above every cost, and far enough from overflow to add to."""


@dataclass(slots=True, eq=False)
class Row:
    """Cost and shared GPU of one request on every node.

    Attributes
    ----------
    snapshot : Snapshot
        The one that the costs were read from. A row is worth nothing for another snapshot, even for a copy of this
        one, since the copy's versions go their own way.
    ranked : ndarray of int64, shape (N,)
        The same costs in the order of the nodes' tie ranks, so that the first of equals is the one wanted.
    version : int
        Snapshot version up to which the row is right.
    """

    wanted: demand.Demand
    snapshot: state.Snapshot
    cost: NDArray[np.int64]
    ranked: NDArray[np.int64]
    gpu: NDArray[np.int8]
    version: int = -1

    def refresh(self, rule: Rule, tables_: tables.Tables) -> None:
        """Re-score the nodes that changed since the row was last right.

        Notes
        -----
        One comparison over N versions (3 us for 5,000 nodes) and the rule on the changed nodes.
        """
        if self.version == self.snapshot.version:
            return
        changed = np.flatnonzero(self.snapshot.changed > self.version)
        self._score(rule, tables_, changed)
        self.version = self.snapshot.version

    def _score(self, rule: Rule, tables_: tables.Tables, nodes: NDArray[np.int64]) -> None:
        """Score `nodes` anew."""
        fits = feasible.feasible(self.snapshot, self.wanted, nodes)
        self.cost[nodes] = INFEASIBLE
        self.gpu[nodes] = -1
        if fits.any():
            chosen = nodes[fits]
            self.cost[chosen], self.gpu[chosen] = rule(tables_, self.snapshot, self.wanted, chosen)
        self.ranked[self.snapshot.topology.tie[nodes]] = self.cost[nodes]


def new_row(snapshot: state.Snapshot, wanted: demand.Demand) -> Row:
    """Return a row that has scored nothing yet."""
    nodes = len(snapshot.up)
    every = np.full(nodes, INFEASIBLE)
    return Row(wanted, snapshot, every, every.copy(), np.full(nodes, -1, dtype=np.int8))
