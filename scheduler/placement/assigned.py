"""Roles whose places somebody else has chosen, Kueue's topology-aware scheduling say: each pod goes where it was told.

What is left to choose is nodes inside coarser domains, and devices. What Muster itself was asked for (levels, segments,
spread) holds all the same: places that contradict it are refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scheduler.model import gang as gangs
from scheduler.model import reasons
from scheduler.placement import block, domains, fit, refusal
from scheduler.snapshot import demand, state, topology, tree

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Places of one role as vertices, with the pods of each.

    Attributes
    ----------
    nodes : ndarray of int64 or None
        The same as nodes where all are different nodes, in the order of ranks.
    """

    vertices: tuple[int, ...]
    counts: tuple[int, ...]
    nodes: Ints | None


def found(fabric_tree: tree.CompiledTree, role: gangs.Role, within: int) -> Places | str:
    """Return the places of a role inside a domain; the name of the first that is not there, or is elsewhere."""
    numbers = vertices(fabric_tree)
    rows = []
    for place in role.places:
        vertex = inside(fabric_tree, numbers.get(place.domain, -1), within)
        if vertex < 0:
            return place.domain
        rows.append(vertex)
    nodes = domains.family(fabric_tree).node[rows]
    single = bool((nodes >= 0).all()) and len(set(rows)) == len(rows)
    return Places(tuple(rows), tuple(place.count for place in role.places), nodes if single else None)


def inside(fabric_tree: tree.CompiledTree, vertex: int, within: int) -> int:
    """Return the smaller of two domains of which one holds the other, -1 where they are apart or `vertex` is none."""
    if vertex < 0:
        return -1
    if within <= vertex < fabric_tree.end[within]:
        return vertex
    return within if vertex <= within < fabric_tree.end[vertex] else -1


@lru_cache(maxsize=8)
def vertices(fabric_tree: tree.CompiledTree) -> dict[str, int]:
    """Return the vertices by name."""
    return {name: vertex for vertex, name in enumerate(fabric_tree.names)}


def short(snapshot: state.Snapshot, pod: demand.Demand, where: Places) -> Ints:
    """Return how many pods each of the nodes lacks room for."""
    assert where.nodes is not None
    room = fit.pods_that_fit(snapshot, pod)[where.nodes]
    return np.asarray(np.maximum(np.array(where.counts, dtype=np.int64) - room, 0))


def no_room(
    snapshot: state.Snapshot, gang: gangs.Gang, role: gangs.Role, pod: demand.Demand, vertex: int, need: int
) -> reasons.Rejection:
    """Return the refusal of a gang for which a place lacks room: what the place lacks."""
    tree_, told = snapshot.topology.tree, f"{need} pods of role {role.name} are bound to it"
    low, high = int(tree_.first_node[vertex]), int(tree_.last_node[vertex])
    free = fit.pods_that_fit(snapshot, pod, low, high)
    level = int(tree_.level[vertex])
    limit = domains.Bounds(required=level)
    blocked = refusal.role_block(snapshot, pod, limit, need, vertex)
    if blocked is None:  # by itself the place has the room: another constraint of the role leaves less
        blocked = block.Block(reasons.Reason.DOMAIN, missing=max(1, need - int(free.sum())))
    named = block.Block(
        blocked.reason,
        tree_.levels[level] if level else "",
        tree_.names[vertex],
        blocked.missing,
        blocked.resource,
        block.join(told, blocked.detail),
    )
    return named.of(gang)


def not_there(gang: gangs.Gang, name: str) -> reasons.Rejection:
    """Return the refusal of a gang that is bound to a domain which the fleet does not have just now."""
    detail = f"domain {name}, to which the gang is bound, is not in the fleet"
    return reasons.Rejection(gang.name, reasons.Reason.DOMAIN, nearest="", missing=gang.minimum, detail=detail)


def broken(fleet: topology.Topology, gang: gangs.Gang, grants: Sequence[state.Grant]) -> reasons.Rejection | None:
    """Return the refusal where fixed places contradict what the gang asks for itself, None where they agree."""
    everyone = np.array([grant.node for grant in grants], dtype=np.int64)
    problem = _torn(fleet.tree, gang.constraint.required, everyone, len(everyone))
    first = 0
    for role in gang.roles:
        nodes = everyone[first : first + role.count]
        first += role.count
        problem = problem or _torn(fleet.tree, role.constraint.required, nodes, max(1, len(nodes)))
        if role.segment:
            torn = _torn(fleet.tree, role.segment.level, nodes, role.segment.size)
            problem = problem or (torn and (reasons.Reason.SEGMENT, *torn[1:]))
        if role.spread:
            problem = problem or _crowded(fleet.tree, role.spread, nodes)
    if problem is None:
        return None
    reason, level, detail = problem
    return reasons.Rejection(gang.name, reason, level, missing=1, detail=detail)


_Problem = tuple[reasons.Reason, str, str]


def _torn(fabric_tree: tree.CompiledTree, level: str, nodes: Ints, size: int) -> _Problem | None:
    """Say which domains groups of `size` consecutive pods are spread over that must share one."""
    index = fabric_tree.level_index(level) if level else None
    if index is None:
        return None
    above = fabric_tree.ancestor[index][nodes]
    for start in range(0, len(above), size):
        group = above[start : start + size]
        if (group != group[0]).any() or group[0] < 0:
            names = sorted({fabric_tree.names[vertex] for vertex in group.tolist() if vertex >= 0})
            told = f"the gang is bound to places in {', '.join(names[:4]) or f'no {level}'}, and asks for one {level}"
            return reasons.Reason.DOMAIN, level, told
    return None


def _crowded(fabric_tree: tree.CompiledTree, spread: gangs.Spread, nodes: Ints) -> _Problem | None:
    index = fabric_tree.level_index(spread.level)
    if index is None or not len(nodes):
        return None
    vertex, counts = np.unique(fabric_tree.ancestor[index][nodes], return_counts=True)
    worst = int(counts.argmax())
    if counts[worst] <= spread.max_pods:
        return None
    told = (
        f"{int(counts[worst])} pods are bound to {fabric_tree.names[vertex[worst]]}, and {spread.max_pods} may be there"
    )
    return reasons.Reason.SPREAD, spread.level, told
