"""The fabric and its occupancy for compiled gang placement: twin of the counts in ``placement.domains`` and `pack`.

Vertices and nodes have the topology's numbers here, not kernel rows; `row` leads from one to the other.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scheduler.placement import bandwidth, domains, gang_price, policy
from scheduler.snapshot import topology
from simulator.kernel import jit

Ints = NDArray[np.int64]


class Tree(NamedTuple):
    """What does not change.

    `child` lists the children of all vertices, those of v from ``first_child[v]`` to ``first_child[v + 1]``; `at` lists
    the vertices of all levels, those of level l from ``first_at[l]`` to ``first_at[l + 1]``. `row` is the kernel row of
    every node, `shape` its machine shape. `union`, `ring` and `nic` are the tables of ``bandwidth.Rates``, `worth_*`
    those of ``gang_price.Worth``, `factor` the per-mille oversubscription of every level.
    """

    level: Ints
    first_node: Ints
    last_node: Ints
    ancestor: Ints
    node: Ints
    child: Ints
    first_child: Ints
    at: Ints
    first_at: Ints
    row: Ints
    shape: Ints
    union: Ints
    union_start: Ints
    masks: Ints
    ring: Ints
    nic: Ints
    start: Ints
    link: Ints
    fabric: Ints
    worth_node: Ints
    worth_domain: Ints
    worth_start: Ints
    factor: Ints
    weight: Ints


class Counts(NamedTuple):
    """What changes with every placement: wholly free GPUs per node and domain, untouched nodes per domain."""

    free: Ints
    free_in: Ints
    intact: Ints


def tree_of(fleet: topology.Topology, gangs: policy.GangScoring, tiers: bandwidth.Tiers) -> Tree:
    """Flatten the fabric of a fleet and the tables of the gang rules."""
    compiled = fleet.tree
    children = domains.family(compiled).children
    rates = bandwidth.rates(fleet, gangs.devices)
    worth = gang_price.worth(fleet)
    weights = policy.gang_weights(gangs)
    row = np.empty(len(fleet.nodes), dtype=np.int64)
    row[np.argsort(fleet.tie)] = np.arange(len(fleet.nodes))
    by_level = [compiled.domains_at(level) for level in range(len(compiled.levels))]
    return Tree(
        level=compiled.level.astype(np.int64),
        first_node=compiled.first_node.astype(np.int64),
        last_node=compiled.last_node.astype(np.int64),
        ancestor=compiled.ancestor.astype(np.int64),
        node=domains.family(compiled).node,
        child=np.array([c for family in children for c in family], dtype=np.int64),
        first_child=np.cumsum([0, *(len(family) for family in children)], dtype=np.int64),
        at=np.concatenate(by_level).astype(np.int64),
        first_at=np.cumsum([0, *(len(vertices) for vertices in by_level)], dtype=np.int64),
        row=row,
        shape=fleet.shape.astype(np.int64),
        union=rates.union,
        union_start=rates.union_start,
        masks=rates.masks,
        ring=rates.ring,
        nic=rates.nic,
        start=rates.start,
        link=rates.link,
        fabric=rates.fabric,
        worth_node=worth.node,
        worth_domain=worth.domain,
        worth_start=worth.start,
        factor=tiers.factors(compiled),
        weight=np.array([weights[name] for name in gang_price.TERMS], dtype=np.int64),
    )


def counts_of(fleet: topology.Topology) -> Counts:
    """Return the counts of the empty fleet."""
    gpus = fleet.gpus.astype(np.int64)
    return Counts(gpus.copy(), fleet.tree.sums(gpus), fleet.tree.sums((gpus > 0).astype(np.int64)))


@jit.inner
def recount(tree, counts, gpus, node, free):  # type: ignore[no-untyped-def]
    """Note that `node`, of `gpus` GPUs, has `free` wholly free ones now."""
    change = free - counts.free[node]
    if change == 0:
        return
    opened = 0
    if gpus > 0:
        opened = (free == gpus) - (counts.free[node] == gpus)
    counts.free[node] = free
    for level in range(tree.ancestor.shape[0]):
        vertex = tree.ancestor[level, node]
        if vertex >= 0:
            counts.free_in[vertex] += change
            counts.intact[vertex] += opened


@jit.inner
def dearness(tree, counts, vertex):  # type: ignore[no-untyped-def]
    """Return what breaks ties between domains of equal room; twin of ``pack.dearness``."""
    node = tree.node[vertex]
    return counts.free[node] if node >= 0 else counts.intact[vertex]
