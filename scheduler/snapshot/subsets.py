"""Tables over all subsets of a node's GPUs, computed on first use from the wiring and shared by all nodes that have it.

A set of GPUs is a bit mask, a question about it an array look-up.
"""

from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from scheduler.snapshot import rings, wiring

Ints = NDArray[np.int64]

DENSE_GPUS = 8
"""Up to here the best subset is tabulated for every set of free GPUs: 3**8 pairs; larger nodes search per query."""

LINKS_SHIFT = 12
BANDWIDTH_SHIFT = 40
"""Quality is one integer: ring bandwidth, MB/s, above the sum of NVLinks, MB/s (28 bits), above alignment (12 bits)."""

PROMISE_SHIFT = 20
"""Promise is one integer: ring bandwidth above alignment (20 bits)."""


class Subsets:
    """Quality of every set of GPUs of one wiring, and the best subset of every set.

    Parameters
    ----------
    wires : Wiring

    Notes
    -----
    All numbers are integers and all orders total, so that equal input gives equal choices on every platform.
    """

    def __init__(self, wires: wiring.Wiring) -> None:
        self.wires = wires
        self.gpus = len(wires.edge_mbps)
        self._best: dict[tuple[int, int], int] = {}
        self._rings: dict[int, tuple[int, ...]] = {}
        self._nics: dict[tuple[int, int, int], int] = {}

    @cached_property
    def sizes(self) -> Ints:
        """GPUs of every mask, shape (2**G,)."""
        return rings.popcounts(self.gpus)

    @cached_property
    def bandwidth(self) -> NDArray[np.int32]:
        """Bottleneck ring of every mask, MB/s, shape (2**G,)."""
        return rings.bandwidths(_square(self.wires.edge_mbps))

    @cached_property
    def points(self) -> Ints:
        """Alignment points of every mask: closeness of its pairs and of its GPUs to their nearest NICs."""
        return _pair_sums(self.wires.closeness) + _sums(self.wires.nic_closeness or (0,) * self.gpus)

    @cached_property
    def quality(self) -> Ints:
        """One integer that orders subsets of equal size: ring, then NVLinks inside, then alignment."""
        links = _pair_sums(self.wires.nvlink_mbps)
        quality: Ints = (self.bandwidth.astype(np.int64) << BANDWIDTH_SHIFT) + (links << LINKS_SHIFT) + self.points
        return quality

    @cached_property
    def peak_quality(self) -> Ints:
        """Quality of the best subset of k GPUs of every mask, -1 where the mask has fewer, shape (G + 1, 2**G)."""
        return self._peaks(self.quality)

    @cached_property
    def peak_bandwidth(self) -> NDArray[np.int32]:
        """Ring bandwidth of the best subset of k GPUs of every mask, -1 where the mask has fewer."""
        return np.where(self.peak_quality < 0, -1, self.peak_quality >> BANDWIDTH_SHIFT).astype(np.int32)

    @cached_property
    def promise(self) -> Ints:
        """What every mask offers to later pods: best ring, then best alignment, summed over all sizes, shape (2**G,)."""
        peaks = np.maximum(self.peak_quality, 0)
        rings_offered = (peaks >> BANDWIDTH_SHIFT).sum(axis=0)
        points_offered = (peaks & (1 << LINKS_SHIFT) - 1).sum(axis=0)
        promise: Ints = (rings_offered << PROMISE_SHIFT) + points_offered
        return promise

    @cached_property
    def best(self) -> NDArray[np.uint16]:
        """Best subset of k GPUs of every mask, 0 where there is none, shape (G + 1, 2**G).

        Raises
        ------
        ValueError
            More than `DENSE_GPUS` GPUs: the table would be too large to build; ask `best_of`.
        """
        if self.gpus > DENSE_GPUS:
            raise ValueError(f"no dense table for {self.gpus} GPUs, only up to {DENSE_GPUS}")
        masks = np.arange(1 << self.gpus, dtype=np.int64)
        free, subset = np.nonzero(masks[None, :] & ~masks[:, None] == 0)
        order = np.lexsort((-subset, self.promise[free ^ subset], self.quality[subset]))
        table = np.zeros((self.gpus + 1, 1 << self.gpus), dtype=np.uint16)
        # Ascending quality: of several writes to one cell NumPy keeps the last, which is the best.
        table[self.sizes[subset[order]], free[order]] = subset[order]
        return table

    def best_of(self, k: int, free: int) -> int:
        """Return the best subset of `k` GPUs of the mask `free`, 0 where there is none."""
        if not 0 < k <= free.bit_count():
            return 0
        if self.gpus <= DENSE_GPUS:
            return int(self.best[k, free])
        if (k, free) not in self._best:
            self._best[k, free] = self._search(k, free)
        return self._best[k, free]

    def ring(self, mask: int) -> tuple[int, ...]:
        """Return the GPUs of `mask` along their best ring."""
        if mask not in self._rings:
            members = np.flatnonzero(mask >> np.arange(self.gpus) & 1)
            order = rings.ring(_square(self.wires.edge_mbps)[np.ix_(members, members)])
            self._rings[mask] = tuple(int(members[i]) for i in order)
        return self._rings[mask]

    def nics(self, mask: int, count: int, free: int) -> int:
        """Return the `count` NICs of the mask `free` that suit the GPUs of `mask` best, 0 where there are fewer."""
        if not 0 < count <= free.bit_count():
            return 0
        key = mask, count, free
        if key not in self._nics:
            self._nics[key] = _nearest_nics(self.wires, mask, count, free)
        return self._nics[key]

    def _search(self, k: int, free: int) -> int:
        """Find the best subset among those of size `k`, all at once."""
        masks = np.flatnonzero(self.sizes == k)
        masks = masks[masks & ~free == 0]
        masks = masks[self.quality[masks] == self.quality[masks].max()]
        return int(masks[np.argmax(self.promise[free ^ masks])])

    def _peaks(self, value: Ints) -> Ints:
        """Return the maximum of `value` over the subsets of each size of every mask; -1 without any."""
        gpus = self.gpus
        peaks = np.full((gpus + 1, 1 << gpus), -1, dtype=np.int64)
        masks = np.arange(1 << gpus)
        peaks[self.sizes, masks] = value
        for bit in range(gpus):  # fold in one GPU at a time: a mask inherits the maxima of the mask without it
            halves = peaks.reshape(gpus + 1, -1, 2, 1 << bit)
            np.maximum(halves[:, :, 1], halves[:, :, 0], out=halves[:, :, 1])
        return peaks


@lru_cache(maxsize=512)
def subsets(wires: wiring.Wiring) -> Subsets:
    """Return the tables of a wiring; equal wirings share them."""
    return Subsets(wires)


def _square(matrix: wiring.Matrix) -> Ints:
    return np.array(matrix, dtype=np.int64).reshape(len(matrix), len(matrix))


def _sums(values: tuple[int, ...]) -> Ints:
    """Sum one value per GPU over every mask, shape (2**G,)."""
    sums = np.zeros(1 << len(values), dtype=np.int64)
    for bit, value in enumerate(values):
        sums[1 << bit : 2 << bit] = sums[: 1 << bit] + value
    return sums


def _pair_sums(matrix: wiring.Matrix) -> Ints:
    """Sum one value per pair of GPUs over every mask, shape (2**G,)."""
    sums = np.zeros(1 << len(matrix), dtype=np.int64)
    for bit, row in enumerate(matrix):
        sums[1 << bit : 2 << bit] = sums[: 1 << bit] + _sums(row[:bit])
    return sums


def _nearest_nics(wires: wiring.Wiring, mask: int, count: int, free: int) -> int:
    """Deal the NICs out: each goes to the pair of GPU and NIC that is nearest, GPUs with fewer NICs first.

    Without GPUs the fastest free NICs are taken. Ties go to the lowest GPU, then the lowest NIC.
    """
    gpus = [g for g in range(len(wires.slot_mbps)) if mask >> g & 1]
    held = dict.fromkeys(gpus, 0)
    left = [n for n in range(len(wires.nic_mbps)) if free >> n & 1]
    taken = 0
    for _ in range(count):
        pairs = [(held[g], wires.nic_distance[g][n], -wires.nic_mbps[n], g, n) for g in gpus for n in left]
        pairs = pairs or [(0, 0, -wires.nic_mbps[n], -1, n) for n in left]
        *_, gpu, nic = min(pairs)
        left.remove(nic)
        taken |= 1 << nic
        if gpu >= 0:
            held[gpu] += 1
    return taken
