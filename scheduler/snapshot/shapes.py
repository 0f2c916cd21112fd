"""Node shapes: the classes of identically wired machines, each with tables over the sets of its GPUs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.model import node
from scheduler.snapshot import subsets, wiring

FULL_ALIGNMENT = 1000
"""Alignment of GPUs that all share one PCIe switch with each other and with a NIC."""


@dataclass(frozen=True, slots=True, eq=False)
class NodeShape:
    """A class of machines of identical wiring.

    Attributes
    ----------
    machine : NodeTopology
        One of them. Its name, uuids, labels and capacities say nothing about the others.
    gpus : int
    tables : Subsets
        Shared by all shapes with the same links and distances.

    Examples
    --------
    >>> from scheduler.model import machines
    >>> (shape,), _ = classify((machines.build("dgx-1v", "node-0"),))
    >>> shape.bandwidth(0b1111), shape.ring(0b1111_1111)
    (25000, (0, 3, 2, 1, 5, 6, 7, 4))
    >>> bin(shape.best(2, 0b0001_0111))
    '0b110'
    """

    machine: node.NodeTopology
    gpus: int
    tables: subsets.Subsets

    def best(self, k: int, free: int) -> int:
        """Return the mask of the best `k` GPUs among those of the mask `free`; 0 where there are fewer, or ``k`` is 0.

        Notes
        -----
        The order: widest bottleneck ring; most NVLink bandwidth inside; alignment of PCIe, NUMA and NICs; what the
        GPUs left free still offer to later pods, so that pairs and islands are not broken for nothing; lowest mask.
        One look-up for up to 8 GPUs, a search of at most 12,870 subsets with a memory beyond.
        """
        return self.tables.best_of(k, free)

    def bandwidth(self, mask: int) -> int:
        """Return the bottleneck bandwidth of the best ring through the GPUs of `mask`, MB/s; 0 for a single GPU."""
        return int(self.tables.bandwidth[mask])

    def ring(self, mask: int) -> tuple[int, ...]:
        """Return the GPUs of `mask` in the order of their best ring, from the lowest GPU on."""
        return self.tables.ring(mask)

    def alignment(self, mask: int) -> int:
        """Return how near the GPUs of `mask` are to each other and to NICs on PCIe and NUMA, 0..1000."""
        k = mask.bit_count()
        links = k * (k - 1) // 2 + (k if self.machine.nics else 0)
        if not links:
            return FULL_ALIGNMENT
        return FULL_ALIGNMENT * int(self.tables.points[mask]) // (wiring.FULL_CLOSENESS * links)

    def nics(self, mask: int, count: int, free: int) -> int:
        """Return the mask of the `count` NICs nearest to the GPUs of `mask` among those of the mask `free`.

        0 where fewer are free, or ``count`` is 0. Each GPU gets its nearest before any gets a second one.
        """
        return self.tables.nics(mask, count, free)

    def nic_bandwidth(self, mask: int) -> int:
        """Return the MB/s at which the GPUs of `mask` reach other nodes, through the NICs nearest to each of them.

        Never more than their PCIe slots carry; 0 without GPUs or NICs.
        """
        wires = self.tables.wires
        near: set[int] = set()
        slots = 0
        for gpu in range(self.gpus):
            if mask >> gpu & 1:
                usable = [(apart, n) for n, apart in enumerate(wires.nic_distance[gpu]) if wires.nic_mbps[n]]
                near.update(n for apart, n in usable if apart == min(usable)[0])
                slots += wires.slot_mbps[gpu]
        return min(slots, sum(wires.nic_mbps[n] for n in near))

    @property
    def best_table(self) -> NDArray[np.uint16]:
        """``[k, free mask] -> mask`` as `best` gives it, shape (G + 1, 2**G); up to 8 GPUs only."""
        return self.tables.best

    @property
    def bandwidth_table(self) -> NDArray[np.int32]:
        """``[mask] -> MB/s`` of the bottleneck ring, shape (2**G,)."""
        return self.tables.bandwidth

    @property
    def peak_table(self) -> NDArray[np.int32]:
        """``[k, free mask] -> MB/s`` of the best `k` GPUs of a free mask, -1 where it has fewer, shape (G + 1, 2**G)."""
        return self.tables.peak_bandwidth


def classify(machines: tuple[node.NodeTopology, ...]) -> tuple[tuple[NodeShape, ...], NDArray[np.int32]]:
    """Group machines of identical wiring.

    Returns
    -------
    shapes : tuple of NodeShape
        In order of first appearance.
    shape : ndarray of int32, shape (N,)
        Index into `shapes` for every machine.
    """
    rows: dict[tuple[object, ...], int] = {}
    shapes: list[NodeShape] = []
    shape = np.empty(len(machines), dtype=np.int32)
    for i, machine in enumerate(machines):
        row = rows.setdefault(wiring.identity(machine), len(shapes))
        if row == len(shapes):
            shapes.append(NodeShape(machine, len(machine.gpus), subsets.subsets(wiring.wiring(machine))))
        shape[i] = row
    return tuple(shapes), shape
