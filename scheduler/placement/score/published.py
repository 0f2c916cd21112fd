"""The rules that the FGD study compares, with its published semantics, as integer costs.

Source: hkust-adsl/kubernetes-scheduler-simulator (ATC'23), the score plugins' formulas. Their scores are 0..100, higher
is better; a cost here is the negated score.
"""

import numpy as np
from numpy.typing import NDArray

from scheduler.model import request
from scheduler.placement.score import feasible, fragmentation, tables
from scheduler.snapshot import demand, state

Ints = NDArray[np.int64]
Costs = tuple[Ints, NDArray[np.int8]]

CPU_SCALE = 128_000
GPU_SCALE = 8_000
"""The study's normalisers: the largest machine's milli-CPU and milli-GPU."""


def best_fit_gpu(s: state.Snapshot, w: demand.Demand, nodes: Ints) -> NDArray[np.int8]:
    """Return the GPU with the least sufficient residual, lowest index first; -1 for pods that share none."""
    if w.kind is not request.RequestKind.SHARE:
        return np.full(len(nodes), -1, dtype=np.int8)
    free = s.gpu_free[nodes].astype(np.int64)
    enough = feasible.usable(w, nodes, free.shape[1]) & (free >= w.gpu_milli)
    return np.asarray(np.where(enough, free, 1 << 30).argmin(axis=1), dtype=np.int8)


def best_fit(t: tables.Tables, s: state.Snapshot, w: demand.Demand, nodes: Ints) -> Costs:
    """Least CPU and GPU left over. (The study's rescaling over all nodes does not change which node is best.)"""
    free = s.gpu_free[nodes].sum(axis=1, dtype=np.int64)
    left = 100 * (s.cpu_free[nodes] - w.cpu_milli) + 1600 * (free - w.total_gpu_milli)
    return -((100 * 2 * CPU_SCALE - left) // (2 * CPU_SCALE)), best_fit_gpu(s, w, nodes)


def dot_product(t: tables.Tables, s: state.Snapshot, w: demand.Demand, nodes: Ints) -> Costs:
    """Smallest dot product of what is free and what is asked."""
    free = s.gpu_free[nodes].sum(axis=1, dtype=np.int64)
    scale = CPU_SCALE * CPU_SCALE
    product = s.cpu_free[nodes] * w.cpu_milli + free * w.total_gpu_milli * (scale // GPU_SCALE**2)
    return -((100 * scale - 50 * product) // scale), best_fit_gpu(s, w, nodes)


def clustering(t: tables.Tables, s: state.Snapshot, w: demand.Demand, nodes: Ints) -> Costs:
    """Pods of one kind together: shares with shares, k-GPU pods with k-GPU pods."""
    if w.kind is request.RequestKind.CPU:
        return np.zeros(len(nodes), dtype=np.int64), best_fit_gpu(s, w, nodes)
    hosted = s.tags[nodes] > 0
    kinds = hosted.sum(axis=1)
    own = hosted[:, w.gpus if w.kind is request.RequestKind.WHOLE else 0]
    used = 25 * (GPU_SCALE - s.gpu_free[nodes].sum(axis=1, dtype=np.int64)) // GPU_SCALE
    bonus = np.select([own & (kinds == 1), own, kinds == 0], [75, 50, 25], 0)
    return -(used + bonus), best_fit_gpu(s, w, nodes)


def packing(t: tables.Tables, s: state.Snapshot, w: demand.Demand, nodes: Ints) -> Costs:
    """Used GPUs before free ones, used nodes before untouched ones."""
    gpu = best_fit_gpu(s, w, nodes)
    if w.kind is request.RequestKind.CPU:
        return np.zeros(len(nodes), dtype=np.int64), gpu
    free = s.gpu_free[nodes].astype(np.int64)
    size = s.topology.gpus[nodes].astype(np.int64)
    untouched = (free == state.FULL).sum(axis=1) == size
    if w.kind is request.RequestKind.WHOLE:
        fresh = np.full(len(nodes), w.gpus)
        residual = np.full(len(nodes), w.gpus * state.FULL)
    else:
        residual = free[np.arange(len(nodes)), gpu]
        fresh = (residual == state.FULL).astype(np.int64)
    score = np.select(
        [untouched, fresh > 0],
        [np.maximum(33 - size, size), np.maximum(50 - fresh, 33)],
        np.maximum(100 - residual // 100, 50),
    )
    return -score, gpu


def fgd(t: tables.Tables, s: state.Snapshot, w: demand.Demand, nodes: Ints) -> Costs:
    """Least growth of fragmentation, on the published scale of 0..99."""
    free, cpu = s.gpu_free[nodes].astype(np.int64), s.cpu_free[nodes]
    if w.kind is not request.RequestKind.SHARE:
        after = fragmentation.states_after(free, state.FULL, w.gpus)[:, None]
        growth = t.popular.growth(free, cpu, after, cpu - w.cpu_milli, nodes)[:, 0]
        return -t.sigmoid(-growth), np.full(len(nodes), -1, dtype=np.int8)
    after = fragmentation.states_after_share(free, w.gpu_milli)
    growth = t.popular.growth(free, cpu, after, cpu - w.cpu_milli, nodes)
    enough = feasible.usable(w, nodes, free.shape[1]) & (free >= w.gpu_milli)
    score = np.where(enough, t.sigmoid(-growth), -1)
    gpu = score.argmax(axis=1)
    return -score[np.arange(len(nodes)), gpu], gpu.astype(np.int8)


def random(t: tables.Tables, s: state.Snapshot, w: demand.Demand, nodes: Ints) -> Costs:
    """Any node and any GPU: a hash of the seed, the snapshot's version and the node orders the nodes.

    A hash rather than a generator, so that asking twice in one state gives one answer.
    """
    cost = tables.mix(t.seed, s.version, nodes) >> np.uint64(2)  # below rows.INFEASIBLE
    if w.kind is not request.RequestKind.SHARE:
        return cost.astype(np.int64), np.full(len(nodes), -1, dtype=np.int8)
    width = s.gpu_free.shape[1]
    enough = feasible.usable(w, nodes, width) & (s.gpu_free[nodes] >= w.gpu_milli)
    order = tables.mix(t.seed + 1, s.version, nodes[:, None] * width + np.arange(width)) >> np.uint64(1)
    gpu = np.where(enough, order.astype(np.int64), np.iinfo(np.int64).max).argmin(axis=1)
    return cost.astype(np.int64), gpu.astype(np.int8)
