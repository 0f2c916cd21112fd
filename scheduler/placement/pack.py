"""Pods of one role to the nodes of one domain, from the top down.

Every function here is greedy with a total order and integer arithmetic, so that a compiled kernel can repeat it step by
step. Ranks follow the node numbers afterwards, which are the depth-first order of the fabric: consecutive ranks stay
together whatever the order in which nodes were picked.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scheduler.placement import domains
from scheduler.snapshot import state, topology, tree

Ints = NDArray[np.int64]

Manner = Literal["fewest", "even", "fullest", "in-order"]
"""How the pods of a domain are dealt to its children; see `fill`."""


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """Pods of one role per node.

    Attributes
    ----------
    domain : int
        Vertex that was filled.
    nodes : ndarray of int64
        Ascending, without duplicates: the rank order.
    pods : ndarray of int64
        At least one on each.
    """

    domain: int
    nodes: Ints
    pods: Ints


def fill(
    fabric_tree: tree.CompiledTree, held: domains.Capacity, domain: int, need: int, manner: Manner, dear: Ints
) -> Pack:
    """Put `need` pods into a domain.

    Parameters
    ----------
    need : int
        At most ``held.whole[domain]``.
    manner : {"fewest", "even", "fullest", "in-order"}
        * ``fewest``: at every domain, as few children as possible, see `fewest`.
        * ``even``: as ``fewest``, but the nodes chosen below one domain get equally many pods.
        * ``fullest``: as ``fewest`` down to the nodes, of which the least `dear` are filled up first.
        * ``in-order``: children in preorder, each filled up.
    dear : ndarray of int64, shape (V,)
        Breaks ties between domains of equal room: the lower goes first. Then the preorder decides.

    Notes
    -----
    A domain whose nodes hold exactly `need` pods is taken whole without looking inside; with room for many pods per
    rack that is nearly always so, and a plan costs as much as its last rack.
    """
    family = domains.family(fabric_tree)
    first, last = int(fabric_tree.first_node[domain]), int(fabric_tree.last_node[domain])
    counts = np.zeros(last - first, dtype=np.int64)
    pending = [(domain, need)]
    while pending:
        vertex, wanted = pending.pop()
        low, high = int(fabric_tree.first_node[vertex]), int(fabric_tree.last_node[vertex])
        if wanted == held.before[high] - held.before[low]:
            counts[low - first : high - first] = held.pods[low:high]
        elif high - low == 1:
            counts[low - first] = wanted
        else:
            rows, leaves = family.rows[vertex], family.above_nodes[vertex]
            unit = _unit(held, leaves, fabric_tree)
            shares = deal(held.room[rows], wanted, manner if leaves else _above(manner), dear[rows], unit)
            if leaves:
                counts[low - first : high - first] = shares
            else:
                chosen = np.flatnonzero(shares)
                pending += zip(rows[chosen].tolist(), shares[chosen].tolist(), strict=True)
    nodes = np.flatnonzero(counts)
    return Pack(domain, nodes + first, counts[nodes])


def deal(room: Ints, need: int, manner: Manner, dear: Ints, unit: int = 1) -> Ints:
    """Return how many of `need` pods each of several domains gets.

    Parameters
    ----------
    room, dear : ndarray of int64, shape (D,)
    unit : int
        Shares of ``even`` are multiples of it.
    """
    match manner:
        case "fewest" | "even":
            chosen = fewest(room, need, dear)
            return _even(room, need, chosen, unit) if manner == "even" else _fill_all_but_first(room, need, chosen)
        case "fullest":
            return _in_turn(room, need, np.lexsort((dear,)))
        case "in-order":
            return _in_turn(room, need, np.arange(len(room)))


def fewest(room: Ints, need: int, dear: Ints) -> list[int]:
    """Choose as few domains as possible that hold `need` pods, and of those the ones with the least room to spare.

    Returns
    -------
    list of int
        Most room first.

    Notes
    -----
    Step by step: (1) order the domains by room, largest first, then by `dear`, lowest first, then by position, and take
    the shortest prefix that holds the pods; (2) for each of these, largest first and of equals the last first, exchange
    it for the domain outside with the smallest room with which the pods are still held, provided that room is smaller;
    of equal rooms the first in the order of (1). One domain is therefore the smallest that suffices: best fit.
    """
    order = np.lexsort((dear, -room))
    sizes = room[order]
    count = int(np.searchsorted(np.cumsum(sizes), need)) + 1
    chosen: list[int] = order[:count].tolist()
    spare = int(sizes[:count].sum()) - need
    if not spare:
        return chosen
    outside: list[int] = order[count:].tolist()
    falling: list[int] = (-sizes[count:]).tolist()
    for turn in sorted(range(count), key=lambda i: (-int(sizes[i]), -i)):
        own = int(sizes[turn])
        stop = bisect.bisect_right(falling, -max(own - spare, 1))
        if not stop or -falling[stop - 1] >= own:
            continue
        swap = bisect.bisect_left(falling, falling[stop - 1])
        spare -= own + falling.pop(swap)
        chosen[turn] = outside.pop(swap)
        if not spare:
            break
    return sorted(chosen, key=lambda i: (-int(room[i]), int(dear[i]), i))


def _fill_all_but_first(room: Ints, need: int, chosen: Sequence[int]) -> Ints:
    """Fill the chosen domains, but leave what is to spare in the first, so that it stays in one piece."""
    shares = np.zeros_like(room)
    rest = list(chosen[1:])
    shares[rest] = room[rest]
    shares[chosen[0]] = need - int(shares.sum())
    return shares


def _even(room: Ints, need: int, chosen: Sequence[int], unit: int) -> Ints:
    """Give the chosen domains equal shares, smaller ones what they hold; the larger ones get what does not divide."""
    shares = np.zeros_like(room)
    left = need // unit
    for turn, vertex in enumerate(reversed(chosen)):
        share = min(int(room[vertex]) // unit, left // (len(chosen) - turn))
        shares[vertex] = share * unit
        left -= share
    return shares


def _in_turn(room: Ints, need: int, order: NDArray[np.intp]) -> Ints:
    """Fill one domain after the other."""
    shares = np.zeros_like(room)
    total = np.cumsum(room[order])
    shares[order] = np.clip(need - (total - room[order]), 0, room[order])
    return shares


def _above(manner: Manner) -> Manner:
    """Return how domains above the nodes are dealt."""
    return "in-order" if manner == "in-order" else "fewest"


def _unit(held: domains.Capacity, leaves: bool, fabric_tree: tree.CompiledTree) -> int:
    """Return the number of pods that must stay together on one node."""
    on_nodes = leaves and held.bounds.segment == len(fabric_tree.levels) - 1
    return held.bounds.segment_size if on_nodes else 1


def dearness(snapshot: state.Snapshot) -> Ints:
    """Return what breaks ties between domains of equal room, shape (V,).

    Returns
    -------
    ndarray of int64
        For nodes the wholly free GPUs, for larger domains the wholly free nodes: what is broken into goes first.
    """
    fleet = snapshot.topology
    free = np.bitwise_count(snapshot.free_mask).astype(np.int64)
    dear = fleet.tree.sums(untouched(fleet, snapshot).astype(np.int64))
    dear[fleet.tree.vertex] = free
    return dear


def untouched(fleet: topology.Topology, snapshot: state.Snapshot) -> NDArray[np.bool_]:
    """Return which nodes have GPUs and all of them free."""
    return np.asarray((snapshot.free_mask == fleet.all_gpus) & (fleet.gpus > 0))
