"""Free GPU of the fleet and its untouched machines by size, kept from decision to decision: what scarcity prices read."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.placement.score import opportunity
from scheduler.snapshot import state

SIZES = 33
"""One more than the GPUs that a node can have."""


@dataclass(slots=True, eq=False)
class Openings:
    """Totals of one snapshot, brought up to date from the nodes that changed.

    Attributes
    ----------
    milli : ndarray of int64, shape (N,)
        Free GPU milli of every node.
    opens : ndarray of bool, shape (N,)
        Nodes whose GPUs are all wholly free.
    free : int
        Free GPU milli of the fleet.
    whole : ndarray of int64, shape (33,)
        Untouched machines by size.
    """

    snapshot: state.Snapshot
    milli: NDArray[np.int64]
    opens: NDArray[np.bool_]
    whole: NDArray[np.int64]
    free: int = 0
    version: int = -1

    def refresh(self) -> None:
        """Read the nodes that changed since the last time."""
        s = self.snapshot
        if self.version == s.version:
            return
        nodes = np.flatnonzero(s.changed > self.version)
        size = s.topology.gpus[nodes]
        self.free -= int(self.milli[nodes].sum())
        np.subtract.at(self.whole, size[self.opens[nodes]], 1)
        self.milli[nodes] = s.gpu_free[nodes].sum(axis=1)
        self.opens[nodes] = opportunity.untouched(s, nodes)
        self.free += int(self.milli[nodes].sum())
        np.add.at(self.whole, size[self.opens[nodes]], 1)
        self.version = s.version


def new_openings(snapshot: state.Snapshot) -> Openings:
    """Return totals that have read nothing yet."""
    nodes = len(snapshot.up)
    return Openings(
        snapshot, np.zeros(nodes, dtype=np.int64), np.zeros(nodes, dtype=np.bool_), np.zeros(SIZES, dtype=np.int64)
    )
