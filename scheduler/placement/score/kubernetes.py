"""What stock Kubernetes does: NodeResourcesFit's two packing strategies, and first fit.

Source: kube-scheduler 1.37 ``least_allocated.go`` and ``most_allocated.go``; resources are CPU, memory and, for pods that
ask for them, GPUs, weight 1 each (its defaults with the extended resource added).
"""

import numpy as np
from numpy.typing import NDArray

from scheduler.model import request
from scheduler.placement.score import feasible, published, tables
from scheduler.snapshot import demand, state

Ints = NDArray[np.int64]


def least_allocated(t: tables.Tables, s: state.Snapshot, w: demand.Demand, nodes: Ints) -> published.Costs:
    """Most room left, in per cent of each resource."""
    total = np.zeros(len(nodes), dtype=np.int64)
    resources = _resources(s, w, nodes)
    for capacity, left in resources:
        total += np.where(capacity > 0, left * 100 // np.maximum(capacity, 1), 0)
    return -(total // len(resources)), published.best_fit_gpu(s, w, nodes)


def most_allocated(t: tables.Tables, s: state.Snapshot, w: demand.Demand, nodes: Ints) -> published.Costs:
    """Least room left, in per cent of each resource."""
    total = np.zeros(len(nodes), dtype=np.int64)
    resources = _resources(s, w, nodes)
    for capacity, left in resources:
        total += np.where(capacity > 0, (capacity - left) * 100 // np.maximum(capacity, 1), 0)
    return -(total // len(resources)), published.best_fit_gpu(s, w, nodes)


def first_fit(t: tables.Tables, s: state.Snapshot, w: demand.Demand, nodes: Ints) -> published.Costs:
    """The first node that fits and its first sufficient GPU, as DRA's structured allocator searches."""
    if w.kind is not request.RequestKind.SHARE:
        return nodes.astype(np.int64), np.full(len(nodes), -1, dtype=np.int8)
    enough = feasible.usable(w, nodes, s.gpu_free.shape[1]) & (s.gpu_free[nodes] >= w.gpu_milli)
    return nodes.astype(np.int64), enough.argmax(axis=1).astype(np.int8)


def _resources(s: state.Snapshot, w: demand.Demand, nodes: Ints) -> list[tuple[Ints, Ints]]:
    """Return capacity and what is left after the pod, for each resource that counts."""
    fleet = s.topology
    rows = [
        (fleet.cpu_milli[nodes], s.cpu_free[nodes] - w.cpu_milli),
        (fleet.memory_mib[nodes], s.memory_free[nodes] - w.memory_mib),
    ]
    if w.total_gpu_milli:
        free = s.gpu_free[nodes].sum(axis=1, dtype=np.int64)
        rows.append((fleet.gpus[nodes].astype(np.int64) * state.FULL, free - w.total_gpu_milli))
    return rows
