"""The devices that kube-scheduler's allocator will give a pod on each node, and what they cost.

The allocator takes the first devices that fit, in the order of the slices (`scheduler.model.slices`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scheduler.model import node, order, request
from scheduler.placement import rows
from scheduler.placement.score import feasible, published, rings, tables
from scheduler.snapshot import demand, state, topology

Ints = NDArray[np.int64]


def rule(priced: rows.Rule, fleet: topology.Topology) -> rows.Rule:
    """Return a pod rule that prices only the devices which first fit will give, instead of the best ones.

    Notes
    -----
    Of whole GPUs only the ring between them depends on which are taken; of a shared GPU, everything.
    """
    orders = tuple(listed(shape.machine) for shape in fleet.shapes)

    def by_first_fit(t: tables.Tables, s: state.Snapshot, w: demand.Demand, nodes: Ints) -> published.Costs:
        if w.kind is not request.RequestKind.SHARE:
            return priced(replace(t, rings=_rings(t.rings, orders)), s, w, nodes)
        return priced(t, s, replace(w, eligible=_put(w.eligible, nodes, given(s, w, nodes, orders))), nodes)

    return by_first_fit


def listed(machine: node.NodeTopology) -> tuple[int, ...]:
    """Return the GPUs of a machine in the order of its slices: those that could be cut into partitions last."""
    return tuple(sorted(order.first_fit(machine), key=lambda gpu: machine.gpus[gpu].mig_enabled))


@dataclass(frozen=True, slots=True, eq=False)
class FirstFitRings(rings.Rings):
    """Ring bandwidth of the GPUs that first fit will give, beside the best ring that the fleet has.

    Attributes
    ----------
    orders : tuple
        For each shape its GPUs in the allocator's order.
    """

    orders: tuple[tuple[int, ...], ...]

    def speed(self, s: state.Snapshot, wanted: demand.Demand, nodes: Ints) -> Ints:
        """Return the ring of the GPUs to come on each of `nodes`, MB/s."""
        masks = given(s, wanted, nodes, self.orders)
        return rings.Rings.speed(self, replace(s, free_mask=_put(s.free_mask, nodes, masks)), wanted, nodes)


def _rings(best: rings.Rings, orders: tuple[tuple[int, ...], ...]) -> FirstFitRings:
    return FirstFitRings(best.peak, best.start, best.masks, best.sizes, orders)


def given(s: state.Snapshot, w: demand.Demand, nodes: Ints, orders: Sequence[tuple[int, ...]]) -> NDArray[np.uint32]:
    """Return the mask of GPUs that a pod will get on each of `nodes`, all of which can take it.

    Notes
    -----
    Pods without GPUs keep their mask. So do partitions, which the price of a GPU's slices orders already.
    """
    match w.kind:
        case request.RequestKind.WHOLE:
            free = s.free_mask[nodes] & w.eligible[nodes]
        case request.RequestKind.SHARE:
            width = s.gpu_free.shape[1]
            room = feasible.usable(w, nodes, width) & (s.gpu_free[nodes] >= w.gpu_milli)
            free = (room << np.arange(width, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)
        case _:
            return np.asarray(w.eligible[nodes])
    keys = s.topology.shape[nodes].astype(np.int64) << 32 | free
    distinct, where = np.unique(keys, return_inverse=True)
    masks = [first(orders[key >> 32], key & 0xFFFF_FFFF, w.gpus) for key in distinct.tolist()]
    return np.array(masks, dtype=np.uint32)[where]


def _put(masks: NDArray[np.uint32], nodes: Ints, new: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return a copy of the fleet's masks with those of some nodes exchanged."""
    changed = masks.copy()
    changed[nodes] = new
    return changed


@lru_cache(maxsize=1 << 16)
def first(order: tuple[int, ...], free: int, count: int) -> int:
    """Return the mask of the first `count` free GPUs in an order.

    >>> first((0, 2, 1, 3), 0b1110, 2) == 0b0110
    True
    """
    chosen = [gpu for gpu in order if free >> gpu & 1][:count]
    return sum(1 << gpu for gpu in chosen)
