"""How fast a lone pod's GPUs could talk on every node: the best ring that its free GPUs offer."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.snapshot import demand, state, topology

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Rings:
    """Ring bandwidth by machine shape, number of GPUs and free mask.

    Attributes
    ----------
    peak : ndarray of int64
        ``[start[shape] + gpus * masks[shape] + free] -> MB/s`` of the best ring of so many of the free GPUs, flat.
    start, masks : ndarray of int64, shape (S,)
        Where a shape begins, and its number of masks.
    sizes : ndarray of int64, shape (S,)
        GPUs of a machine of each shape.
    """

    peak: Ints
    start: Ints
    masks: Ints
    sizes: Ints

    def best(self, wanted: demand.Demand, fleet: topology.Topology) -> int:
        """Return the widest ring that the empty fleet has for one pod, MB/s; 0 where there is nothing to choose.

        Notes
        -----
        One look per shape: the eligible GPUs of a shape are the same on all of its machines that take the pod.
        """
        if wanted.gpus < 2:
            return 0
        nodes = np.arange(len(fleet.nodes)) if wanted.admitted is None else np.flatnonzero(wanted.admitted.both)
        first = nodes[np.unique(fleet.shape[nodes], return_index=True)[1]]
        return max((int(self._at(fleet, n, wanted, int(fleet.all_gpus[n]))) for n in first.tolist()), default=0)

    def speed(self, s: state.Snapshot, wanted: demand.Demand, nodes: Ints) -> Ints:
        """Return the widest ring for one pod on each of `nodes` now, MB/s, shape (n,); nodes without room have none."""
        fleet = s.topology
        shape = fleet.shape[nodes]
        free = (s.free_mask[nodes] & wanted.eligible[nodes] & fleet.all_gpus[nodes]).astype(np.int64)
        row = self.start[shape] + wanted.gpus * self.masks[shape] + free
        return np.maximum(self.peak[np.where(wanted.gpus <= self.sizes[shape], row, 0)], 0)

    def _at(self, fleet: topology.Topology, node: int, wanted: demand.Demand, free: int) -> int:
        shape = int(fleet.shape[node])
        if wanted.gpus > self.sizes[shape]:
            return 0
        usable = free & int(wanted.eligible[node])
        return int(self.peak[self.start[shape] + wanted.gpus * self.masks[shape] + usable])


def compile_rings(fleet: topology.Topology) -> Rings:
    """Flatten the tables of all shapes of a fleet; shapes without GPUs have one entry, 0."""
    tables = [
        shape.peak_table.astype(np.int64).ravel() if shape.gpus else np.zeros(1, dtype=np.int64)
        for shape in fleet.shapes
    ]
    return Rings(
        peak=np.concatenate([*tables, np.zeros(1, dtype=np.int64)]),
        start=np.cumsum([0, *(len(table) for table in tables[:-1])], dtype=np.int64)[: max(1, len(tables))],
        masks=np.array([1 << shape.gpus for shape in fleet.shapes], dtype=np.int64),
        sizes=np.array([shape.gpus for shape in fleet.shapes], dtype=np.int64),
    )
