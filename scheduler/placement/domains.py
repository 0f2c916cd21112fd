"""How many pods of a role every domain of the fabric can hold, under all of its topology constraints.

The domains form a tree and the pods of a role are equal, so these capacities are exact: a role fits into a domain if
and only if the domain's `whole` capacity reaches its count. That is how infeasibility is proved from counts.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scheduler.model import gang
from scheduler.placement import fit
from scheduler.snapshot import tree

Ints = NDArray[np.int64]

NO_LEVEL = -1


@dataclass(frozen=True, slots=True)
class Bounds:
    """The topology constraints of one role as level indices; -1 (or 0 for the fleet's root) where there is none.

    Attributes
    ----------
    required : int
        All pods share one domain of this level or of a finer one; 0 allows any domain.
    preferred : int
        Only orders candidates, and only for rules that know the word.
    segment : int
        Level that each `segment_size` consecutive ranks must share.
    spread : int
        Level in whose domains at most `max_pods` pods of the role may be.
    """

    required: int = 0
    preferred: int = NO_LEVEL
    segment: int = NO_LEVEL
    segment_size: int = 1
    spread: int = NO_LEVEL
    max_pods: int = fit.UNLIMITED

    @property
    def levels(self) -> tuple[int, ...]:
        """Return the levels of which every pod's node needs a domain."""
        return tuple(level for level in (self.required, self.segment, self.spread) if level > 0)


def bounds(fabric_tree: tree.CompiledTree, whole: gang.TopologyConstraint, role: gang.Role) -> Bounds:
    """Translate the constraints of a role, and those of its gang where `whole` carries them, into level indices.

    Raises
    ------
    KeyError
        A level that the fabric does not have; the argument is its name.
    """

    def index(name: str) -> int:
        level = fabric_tree.level_index(name)
        if level is None:
            raise KeyError(name)
        return level

    own = role.constraint
    required = [index(name) for name in (own.required, whole.required) if name]
    preferred = [index(name) for name in (own.preferred, whole.preferred) if name]
    return Bounds(
        required=max(required, default=0),
        preferred=max(preferred, default=NO_LEVEL),
        segment=index(role.segment.level) if role.segment else NO_LEVEL,
        segment_size=role.segment.size if role.segment else 1,
        spread=index(role.spread.level) if role.spread else NO_LEVEL,
        max_pods=role.spread.max_pods if role.spread else fit.UNLIMITED,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Capacity:
    """Pods of one role that nodes and domains can hold.

    Attributes
    ----------
    pods : ndarray of int64, shape (N,)
        Pods per node; 0 on nodes without a domain at a level that a constraint names.
    before : ndarray of int64, shape (N + 1,)
        Prefix sums of `pods`.
    room : ndarray of int64, shape (V,)
        Pods that a domain can take as part of a larger one: whole segments at the segment's level and above it, any
        number below it.
    whole : ndarray of int64, shape (V,)
        Pods that it can take as whole segments, so that the role fits into it exactly when ``whole >= count``.
    """

    bounds: Bounds
    pods: Ints
    before: Ints
    room: Ints
    whole: Ints


def capacity(fabric_tree: tree.CompiledTree, counts: fit.Counts | Ints, limit: Bounds) -> Capacity:
    """Sum the pods per node over every domain, under spread limits and segments.

    Parameters
    ----------
    counts : ndarray of int32, shape (N,)
        What `fit.pods_that_fit` says, or 0 outside the nodes that are considered.

    Notes
    -----
    Constraints are applied from the finest level to the coarsest: a spread limit caps the domains of its level and
    below, a segment rounds those of its level down to whole segments; the domains above then sum what is left. Both are
    exact because domains nest. Without constraints it is one prefix sum.
    """
    pods = _only_within(fabric_tree, counts.astype(np.int64), limit)
    before = np.zeros(len(pods) + 1, dtype=np.int64)
    np.cumsum(pods, out=before[1:])
    room = before[fabric_tree.last_node] - before[fabric_tree.first_node]
    size = limit.segment_size
    steps = [(limit.segment, False)] if size > 1 else []
    if limit.spread != NO_LEVEL:
        steps.append((limit.spread, True))
    for level, spreads in sorted(steps, key=lambda step: (-step[0], not step[1])):
        if spreads:
            inside = limit.segment < level or size == 1
            most = limit.max_pods if inside else limit.max_pods - limit.max_pods % size
            below = fabric_tree.level >= level
            room[below] = np.minimum(room[below], most)
        else:
            at = fabric_tree.level == level
            room[at] -= room[at] % size
        _sum_upwards(fabric_tree, room, level)
    whole = room
    if size > 1:
        whole = np.where(fabric_tree.level > limit.segment, room - room % size, room)
    return Capacity(limit, pods, before, room, whole)


def _only_within(fabric_tree: tree.CompiledTree, pods: Ints, limit: Bounds) -> Ints:
    """Empty the nodes whose branch leaves out a level that a constraint names."""
    for level in limit.levels:
        above = fabric_tree.ancestor[level]
        if above.min(initial=0) < 0:
            pods[above < 0] = 0
    return pods


def _sum_upwards(fabric_tree: tree.CompiledTree, room: Ints, level: int) -> None:
    """Replace the room of all domains above a level by the sum over their domains of that level."""
    prefix = np.zeros(len(room) + 1, dtype=np.int64)
    np.cumsum(np.where(fabric_tree.level == level, room, 0), out=prefix[1:])
    above = np.flatnonzero(fabric_tree.level < level)
    room[above] = prefix[fabric_tree.end[above]] - prefix[above]


def tightest(fabric_tree: tree.CompiledTree, held: Capacity, need: int, within: int = 0) -> NDArray[np.intp]:
    """Return the domains of the finest level at which a whole role fits, in preorder; empty when there is none.

    Parameters
    ----------
    within : int
        Only this domain and those below it are looked at.
    """
    end = int(fabric_tree.end[within])
    level = fabric_tree.level[within:end]
    able = np.flatnonzero((held.whole[within:end] >= need) & (level >= held.bounds.required))
    if len(able):
        levels = level[able]
        able = able[levels == levels.max()]
    return able + within


def largest(fabric_tree: tree.CompiledTree, held: Capacity, within: int = 0) -> tuple[int, int]:
    """Return the domain at the required level that holds most, and how much; the first of equals.

    Returns
    -------
    vertex : int
        -1 when the fabric has no domain of that level at all.
    pods : int
    """
    end = int(fabric_tree.end[within])
    level = fabric_tree.level[within:end]
    top = max(held.bounds.required, int(level[0])) if held.bounds.required else int(level[0])
    vertices = np.flatnonzero(level == top) + within
    if not len(vertices):
        return -1, 0
    best = int(vertices[np.argmax(held.whole[vertices])])
    return best, int(held.whole[best])


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """Children and orders of the domains of one tree.

    Attributes
    ----------
    children : tuple of tuple of int, length V
        Child vertices in preorder.
    rows : tuple of ndarray of int64, length V
        The same as arrays.
    above_nodes : tuple of bool, length V
        Whether all children are nodes.
    alphabet : ndarray of int64, shape (V,)
        Rank of every domain when domains are compared by the names on their path from the root, as strings.
    node : ndarray of int64, shape (V,)
        Node number of the vertices that are nodes, -1 elsewhere.
    """

    children: tuple[tuple[int, ...], ...]
    rows: tuple[Ints, ...]
    above_nodes: tuple[bool, ...]
    alphabet: Ints
    node: Ints


@lru_cache(maxsize=8)
def family(fabric_tree: tree.CompiledTree) -> Family:
    """Return children and orders of a tree, computed once per tree."""
    children: list[list[int]] = [[] for _ in fabric_tree.names]
    paths: list[tuple[str, ...]] = []
    for vertex, parent in enumerate(fabric_tree.parent.tolist()):
        if parent >= 0:
            children[parent].append(vertex)
        paths.append((*paths[parent], fabric_tree.names[vertex]) if parent >= 0 else (fabric_tree.names[vertex],))
    alphabet = np.empty(len(paths), dtype=np.int64)
    alphabet[sorted(range(len(paths)), key=paths.__getitem__)] = np.arange(len(paths))
    node = np.full(len(paths), -1, dtype=np.int64)
    node[fabric_tree.vertex] = np.arange(len(fabric_tree.vertex))
    rows = tuple(np.array(own, dtype=np.int64) for own in children)
    return Family(
        tuple(map(tuple, children)), rows, tuple(bool((node[own] >= 0).all()) for own in rows), alphabet, node
    )


def common(fabric_tree: tree.CompiledTree, first: int, last: int) -> int:
    """Return the tightest domain that holds the nodes ``first <= last`` and hence all between them."""
    vertex = int(fabric_tree.vertex[first])
    while int(fabric_tree.last_node[vertex]) <= last:
        vertex = int(fabric_tree.parent[vertex])
    return vertex
