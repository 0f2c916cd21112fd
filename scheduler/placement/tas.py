"""Kueue's topology-aware scheduling as a domain rule: its two orders of domains and its greedy descent.

Written from the behaviour of ``pkg/cache/scheduler/tas_flavor_snapshot.go`` at kueue ff69552e79 (August 2026), so that
the baseline decides as Kueue does, for pod sets without a leader. What differs, because Kueue has no such thing:
branches may leave levels out, spread limits lower the capacities, and GPUs are exact devices rather than a number.
"""

import numpy as np
from numpy.typing import NDArray

from scheduler.placement import domains, pack
from scheduler.snapshot import state, tree

Ints = NDArray[np.int64]


def choose(
    fabric_tree: tree.CompiledTree, held: domains.Capacity, need: int, least_free: bool, within: int
) -> pack.Pack | None:
    """Return the pack that topology-aware scheduling picks, None when it refuses.

    Parameters
    ----------
    least_free : bool
        Order domains by least free capacity, as Kueue does for unconstrained pod sets since 0.15; otherwise best fit,
        as it does for required and preferred ones.

    Notes
    -----
    Capacities are counted in segments (Kueue's slices) and in pods. The order at a level: segments, descending for best
    fit and ascending for least free; pods, ascending; then the names on the path, as strings. Step by step:

    1. The level searched is the required one; else the preferred one; else, with segments, the coarsest below the
       root; else that of a spread limit; else the nodes.
    2. Best fit takes the first domain that holds everything with the fewest segments to spare; least free the first
       domain in its order that holds everything.
    3. When no domain does: a required level refuses; a preferred one climbs to the next coarser level and repeats;
       otherwise the domains are taken in order until everything is held.
    4. Down to the segments' level (the nodes, without segments) the children of all chosen domains are pooled, and
       `_minimise` chooses among the pool. Below it, and below the level of a spread limit, each domain's pods are dealt
       to its own children.
    """
    domain_level, chosen = _level_that_fits(fabric_tree, held, need, least_free, within)
    if not chosen:
        return None
    nodes, size = len(fabric_tree.levels) - 1, held.bounds.segment_size
    segments = held.bounds.segment if size > 1 else nodes
    pooled = min(segments, held.bounds.spread if held.bounds.spread > 0 else nodes)
    shares = _minimise(fabric_tree, held, chosen, need, least_free, size)
    for level in range(domain_level, nodes):
        if level < pooled:
            groups = [([vertex for vertex, _ in shares], need)]
        else:
            groups = [([vertex], pods) for vertex, pods in shares]
        together = size if level < segments else 1
        shares = [
            share
            for parents, pods in groups
            for share in _minimise(
                fabric_tree, held, _children(fabric_tree, parents, level), pods, least_free, together
            )
        ]
    numbers = np.array([int(fabric_tree.first_node[vertex]) for vertex, _ in shares], dtype=np.int64)
    pods_on = np.array([pods for _, pods in shares], dtype=np.int64)
    order = np.argsort(numbers)
    common = domains.common(fabric_tree, int(numbers[order[0]]), int(numbers[order[-1]]))
    return pack.Pack(common, numbers[order], pods_on[order])


def ranks(fabric_tree: tree.CompiledTree, nodes: Ints) -> NDArray[np.intp]:
    """Return the order in which Kueue's ungater gives ranks to nodes: by the names on their paths, as strings."""
    return np.argsort(domains.family(fabric_tree).alphabet[fabric_tree.vertex[nodes]])


def _level_that_fits(
    fabric_tree: tree.CompiledTree, held: domains.Capacity, need: int, least_free: bool, within: int
) -> tuple[int, list[int]]:
    """Return the level at which the search ends and the domains chosen there; none when the pods do not fit."""
    limit = held.bounds
    nodes = len(fabric_tree.levels) - 1
    floor = int(fabric_tree.level[within])
    constrained = limit.required > 0 or limit.preferred > 0
    unconstrained = min(1, nodes) if limit.segment_size > 1 else limit.spread if limit.spread > 0 else nodes
    level = max(floor, limit.required or max(limit.preferred, 0) or unconstrained)
    while True:
        order = _sorted(held, _at(fabric_tree, level, within), least_free, limit.segment_size, fabric_tree)
        for vertex in order if least_free else _tightest_first(held, order):
            if held.whole[vertex] >= need:
                return level, [vertex]
        if limit.required > 0 and level <= max(limit.required, floor):
            return level, []
        if not constrained or level <= floor:
            return level, _until_held(held, order, need, least_free)
        level -= 1


def _at(fabric_tree: tree.CompiledTree, level: int, within: int) -> list[int]:
    """Return the domains of a level inside a domain, and the tops of branches that leave the level out."""
    end = int(fabric_tree.end[within])
    fine = fabric_tree.level[within:end] >= level
    top = fabric_tree.level[fabric_tree.parent[within:end]] < level
    top[0] = True
    return [int(vertex) + within for vertex in np.flatnonzero(fine & top)]


def _tightest_first(held: domains.Capacity, order: list[int]) -> list[int]:
    """Sort by whole segments ascending, keeping the given order among equals."""
    return sorted(order, key=lambda vertex: int(held.whole[vertex]))


def _until_held(held: domains.Capacity, order: list[int], need: int, least_free: bool) -> list[int]:
    """Take domains in order until they hold everything; best fit ends with the tightest that suffices."""
    chosen: list[int] = []
    left = need
    for turn, vertex in enumerate(order):
        last = vertex
        if not least_free and held.whole[vertex] >= left:
            last = next(v for v in _tightest_first(held, order[turn:]) if held.whole[v] >= left)
        chosen.append(last)
        left -= int(held.whole[last])
        if left <= 0:
            return chosen
    return []


def _sorted(
    held: domains.Capacity, vertices: list[int], least_free: bool, size: int, fabric_tree: tree.CompiledTree
) -> list[int]:
    """Put domains into Kueue's order; capacities count segments of `size` pods."""
    rows = np.array(vertices, dtype=np.int64)
    if not len(rows):
        return []
    units = _units(held, rows, size)
    pods = held.before[fabric_tree.last_node[rows]] - held.before[fabric_tree.first_node[rows]]
    keys = (domains.family(fabric_tree).alphabet[rows], pods, units if least_free else -units)
    return [int(row) for row in rows[np.lexsort(keys)]]


def _units(held: domains.Capacity, rows: Ints, size: int) -> Ints:
    """Return the segments that domains hold, pods where segments no longer matter."""
    return held.whole[rows] // size if size > 1 else held.room[rows]


def _children(fabric_tree: tree.CompiledTree, vertices: list[int], level: int) -> list[int]:
    """Return the children of the domains of a level; domains that are finer already stay as they are."""
    children = domains.family(fabric_tree).children
    return [
        child
        for vertex in vertices
        for child in (children[vertex] if fabric_tree.level[vertex] <= level else (vertex,))
    ]


def _minimise(
    fabric_tree: tree.CompiledTree, held: domains.Capacity, pool: list[int], need: int, least_free: bool, size: int
) -> list[tuple[int, int]]:
    """Deal pods to domains in order, each as much as it holds; for best fit the last is the tightest that suffices."""
    order = _sorted(held, pool, least_free, size, fabric_tree)
    units = dict(zip(order, _units(held, np.array(order, dtype=np.int64), size).tolist(), strict=True))
    shares: list[tuple[int, int]] = []
    left = need // size
    for turn, vertex in enumerate(order):
        if units[vertex] >= left:
            able = [vertex] if least_free else [v for v in order[turn:] if units[v] >= left]
            return [*shares, (min(able, key=units.__getitem__), left * size)]
        if units[vertex]:
            shares.append((vertex, units[vertex] * size))
            left -= units[vertex]
    raise state.InvariantError("the pool holds less than its parents promised")
