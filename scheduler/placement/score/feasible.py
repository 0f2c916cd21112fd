"""Which nodes can take one pod: the yes or no behind every rule."""

import numpy as np
from numpy.typing import NDArray

from scheduler.model import request
from scheduler.placement import partitions
from scheduler.snapshot import demand, state


def feasible(s: state.Snapshot, w: demand.Demand, nodes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell for each of `nodes` whether one pod fits there now, devices and all, shape (n,)."""
    ok = s.up[nodes] & (s.pods_free[nodes] >= 1) & (s.cpu_free[nodes] >= w.cpu_milli)
    ok &= s.memory_free[nodes] >= w.memory_mib
    if w.nics:
        ok &= np.bitwise_count(s.nic_mask[nodes]) >= w.nics
    for kind, count in w.request.accelerators:
        free = s.accelerators_free.get(kind)
        ok &= np.zeros(len(nodes), np.bool_) if free is None else free[nodes] >= count
    match w.kind:
        case request.RequestKind.CPU if w.admitted is not None:
            ok &= w.eligible[nodes] > 0
        case request.RequestKind.WHOLE:
            ok &= np.bitwise_count(s.free_mask[nodes] & w.eligible[nodes]) >= w.gpus
        case request.RequestKind.SHARE:
            ok &= (usable(w, nodes, s.gpu_free.shape[1]) & (s.gpu_free[nodes] >= w.gpu_milli)).any(axis=1)
        case request.RequestKind.MIG:
            ok &= _partitions(s, w, nodes) >= w.gpus
    return np.asarray(ok)


def usable(w: demand.Demand, nodes: NDArray[np.int64], width: int) -> NDArray[np.bool_]:
    """Spread the eligible masks over one column per GPU, shape (n, width)."""
    bits = w.eligible[nodes, None] >> np.arange(width, dtype=np.uint32)[None, :] & np.uint32(1)
    return bits.astype(np.bool_)


def _partitions(s: state.Snapshot, w: demand.Demand, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the MIG instances that still fit, in the best order of placing them."""
    used = s.slices_used[nodes]
    able = usable(w, nodes, used.shape[1]) & ((s.gpu_free[nodes] == state.FULL) | (used != 0))
    tables = np.stack([partitions.room(masks) for masks in w.partitions])
    room = tables[s.topology.shape[nodes, None], used]
    return np.asarray(np.where(able, room, 0).sum(axis=1, dtype=np.int64))
