"""Bottleneck rings: the best Hamiltonian cycle through every subset of a node's GPUs.

A ring collective runs at the speed of its slowest edge, so a set of GPUs is worth the maximum over Hamiltonian cycles
of the minimum edge. Held-Karp over bit masks gives that for all subsets at once.

References
----------
nccl-tests, PERFORMANCE.md (bus bandwidth of a ring); Ranganath et al., MAPA, SC '21 (aggregate link bandwidth of the
subset predicts badly, one slow hop drags the ring).
"""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

IMPOSSIBLE = -1
"""No path: below every bandwidth."""


def popcounts(bits: int) -> Ints:
    """Return the number of set bits of every mask below ``1 << bits``."""
    counts = np.zeros(1 << bits, dtype=np.int64)
    for bit in range(bits):
        counts[1 << bit : 2 << bit] = counts[: 1 << bit] + 1
    return counts


def paths(edges: Ints) -> Ints:
    """Return the bottleneck of the best path over every subset, by its last GPU.

    Parameters
    ----------
    edges : ndarray of int64, shape (G, G)
        Symmetric edge bandwidth, MB/s, not negative.

    Returns
    -------
    ndarray of int64, shape (2**G, G)
        ``[mask, v]``: over paths that start at the lowest GPU of `mask`, visit all of it and end at v, the maximum of
        the minimum edge; -1 where v is no such end.

    Notes
    -----
    O(2^G G^2), vectorised over the masks of one size: 1-2 ms for 8 GPUs, 0.1-0.2 s for 16.
    """
    gpus = len(edges)
    masks = np.arange(1 << gpus, dtype=np.int64)
    size = popcounts(gpus)
    lowest = masks & -masks
    best = np.full((1 << gpus, gpus), IMPOSSIBLE, dtype=np.int64)
    best[1 << np.arange(gpus), np.arange(gpus)] = np.iinfo(np.int64).max
    for count in range(1, gpus):
        group = masks[size == count]
        reach = best[group]
        for v in range(gpus):
            grows = (lowest[group] < 1 << v) & (group >> v & 1 == 0)
            best[group[grows] | 1 << v, v] = np.minimum(reach[grows], edges[:, v]).max(axis=1)
    return best


def bandwidths(edges: Ints) -> NDArray[np.int32]:
    """Return the bottleneck ring bandwidth of every subset.

    Returns
    -------
    ndarray of int32, shape (2**G,)
        MB/s; 0 for no or one GPU, the edge for two.
    """
    gpus = len(edges)
    if not gpus:
        return np.zeros(1, dtype=np.int32)
    if _uniform(edges):
        edge = int(edges[0, 1]) if gpus > 1 else 0
        return np.where(popcounts(gpus) > 1, edge, 0).astype(np.int32)
    start = np.zeros(1 << gpus, dtype=np.int64)
    for v in range(gpus):
        start[1 << v :: 2 << v] = v  # masks whose lowest bit is v
    closed = np.minimum(paths(edges), edges[start]).max(axis=1)
    return np.where(popcounts(gpus) > 1, closed, 0).astype(np.int32)


def ring(edges: Ints) -> tuple[int, ...]:
    """Return the vertices along the best Hamiltonian cycle of the whole graph.

    Of the cycles with the widest bottleneck, the one with the largest sum of edges; of those the first in the order
    of the search. It starts at vertex 0, and its second vertex is below its last.

    Notes
    -----
    Exact for any matrix: one Held-Karp pass for the bottleneck, one for the sum above it.
    """
    count = len(edges)
    if count < 4 or _uniform(edges):
        return tuple(range(count))
    bottleneck = int(bandwidths(edges)[-1])
    forbidden = np.iinfo(np.int64).min // 4
    weight = np.where(edges >= bottleneck, edges, forbidden)
    sums = _sums(weight, forbidden)
    return _trace(weight, sums)


def _uniform(edges: Ints) -> bool:
    """Tell whether all edges are equal, as behind NVSwitches: then every order is as good."""
    off_diagonal = edges[~np.eye(len(edges), dtype=np.bool_)]
    return not len(off_diagonal) or bool((off_diagonal == off_diagonal[0]).all())


def _sums(weight: Ints, forbidden: int) -> Ints:
    """Return the largest sum of a path from vertex 0 over every subset, by its last vertex, shape (2**G, G)."""
    count = len(weight)
    masks = np.arange(1 << count, dtype=np.int64)
    size = popcounts(count)
    best = np.full((1 << count, count), forbidden, dtype=np.int64)
    best[1, 0] = 0
    for members in range(1, count):
        group = masks[(size == members) & (masks & 1 == 1)]
        reach = best[group]
        for v in range(1, count):
            grows = group >> v & 1 == 0
            best[group[grows] | 1 << v, v] = np.maximum((reach[grows] + weight[:, v]).max(axis=1), forbidden)
    return best


def _trace(weight: Ints, sums: Ints) -> tuple[int, ...]:
    """Walk the table of sums back from the best closed tour."""
    mask = len(sums) - 1
    order = [int(np.argmax(sums[mask] + weight[:, 0]))]
    while order[-1]:
        mask ^= 1 << order[-1]
        order.append(int(np.argmax(sums[mask] + weight[:, order[-1]])))
    tour = order[::-1]
    return tuple(tour if tour[1] < tour[-1] else [0, *reversed(tour[1:])])
