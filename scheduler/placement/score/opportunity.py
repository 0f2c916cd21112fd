"""Our rule: the price of what a placement uses up, in nano-GPU (micro-GPU times a weight per mille).

Terms of a pod with GPUs; all are integers, floor divisions everywhere:

fragmentation  growth of the GPU that the target could not use (`fragmentation`, over the whole target)
stranded       growth of the free GPU that the node's remaining CPU can't feed, at eight quantiles of CPU per GPU
left           GPU left free on the node, in eighths: tightest fit
open           the node had all its GPUs free
value          worth lost by the GPUs touched: what requests of the target can still make of each residual, or of the
               memory slices that partitions leave
gpu_left       what is left on the shared GPU
pressure       the pod takes a GPU model on which other demand insists
left_cpu       for pods without GPUs: free GPU of the node, in eighths
bandwidth      GPUs of a pod of several, times the share by which their best ring here falls short of the fleet's best
scarcity       see `opening_prices`: grows as untouched machines run short; the only term that reads the whole fleet

FGD asks what a node can no longer serve; the prices ask what the pod's room could have been sold for. The scarcity price
is what makes the weights safe: without it the price of opening a machine has to be exact, with it any weight can move by
a third (see docs/adr).
"""

import numpy as np
from numpy.typing import NDArray

from scheduler.model import request
from scheduler.placement import partition_prices, prices
from scheduler.placement.score import feasible, fragmentation, published, tables
from scheduler.snapshot import demand, state

Ints = NDArray[np.int64]

MICRO = prices.MICRO


def opportunity_cost(t: tables.Tables, s: state.Snapshot, w: demand.Demand, nodes: Ints) -> published.Costs:
    """Price the pod on every node, without the scarcity price."""
    if w.kind is request.RequestKind.CPU:
        return _cpu_only(t, s, w, nodes), np.full(len(nodes), -1, dtype=np.int8)
    if w.kind is request.RequestKind.MIG:
        return _partition(t, s, w, nodes), np.full(len(nodes), -1, dtype=np.int8)
    free = s.gpu_free[nodes].astype(np.int64)
    total = free.sum(axis=1)
    cpu = s.cpu_free[nodes]
    need = w.total_gpu_milli
    cost = t.weights["stranded"] * (stranded(t, cpu - w.cpu_milli, total - need) - stranded(t, cpu, total))
    cost += t.weights["left"] * 125 * (total - need)
    cost += t.weights["pressure"] * t.prices.pressure[nodes] * need
    cost += t.weights["open"] * MICRO * untouched(s, nodes)
    if w.kind is request.RequestKind.WHOLE:
        return cost + _whole(t, s, w, free, cpu, nodes), np.full(len(nodes), -1, dtype=np.int8)
    return _share(t, s, w, free, cpu, nodes, cost)


def stranded(t: tables.Tables, cpu: Ints, free: Ints) -> Ints:
    """Return the free GPU that the CPU can't feed, micro-GPU, mean over the quantiles."""
    kappa = t.prices.kappa
    if not len(kappa):
        return np.zeros_like(free)
    over = 1000 * prices.STRANDED_SCALE * free[:, None] - cpu[:, None] * kappa[None, :]
    return np.asarray(np.maximum(over, 0).sum(axis=1) // (len(kappa) * prices.STRANDED_SCALE))


def untouched(s: state.Snapshot, nodes: Ints) -> NDArray[np.bool_]:
    """Tell which nodes have GPUs and all of them wholly free."""
    every = s.topology.all_gpus[nodes]
    return np.asarray((s.free_mask[nodes] == every) & (every > 0))


def opening_prices(t: tables.Tables, s: state.Snapshot) -> dict[int, int]:
    """Return the scarcity price of opening an untouched machine, nano-GPU by machine size.

    Notes
    -----
    For each size that the target needs whole: let D be its share of the GPU demand, F the free GPU of the fleet and E
    the GPU in untouched machines of that size. As long as D F is well below E there are enough of them; as it comes
    near, each one opened turns a whole-machine pod away later. The price is ``(D F / E) ** 4`` of a GPU times the
    weight: nothing while they are plenty, steep when they run short, and smooth between.
    """
    fleet = s.topology
    every = np.arange(len(fleet.nodes))
    whole = np.bincount(fleet.gpus[untouched(s, every)], minlength=33)
    return prices_of(t, int(s.gpu_free.sum()), whole)


def prices_of(t: tables.Tables, free: int, whole: Ints) -> dict[int, int]:
    """Return the scarcity prices for `free` GPU milli in the fleet and ``whole[size]`` untouched machines of each size."""
    if not t.prices.whole or not t.weights["scarcity"]:
        return {}
    return {
        size: opening_price(t.weights["scarcity"], share, free, size * state.FULL * int(whole[size]))
        for size, share in t.prices.whole.items()
    }


def opening_price(weight: int, share: int, free: int, untouched_milli: int) -> int:
    """Return one scarcity price, nano-GPU; `share` per 1024, `free` and `untouched_milli` in milli-GPU."""
    scarcity = min(1024, share * free // max(1, untouched_milli))
    return int(weight * (scarcity**4 * MICRO >> 40))


def _fragmentation(t: tables.Tables, free: Ints, cpu: Ints, after: Ints, w: demand.Demand, nodes: Ints) -> Ints:
    """Return the weighted growth of fragmentation for each way in which the pod changes the GPUs, nano-GPU, (n, W)."""
    if not t.weights["fragmentation"]:
        return np.zeros(after.shape[:2], dtype=np.int64)
    growth = t.whole.growth(free, cpu, after, cpu - w.cpu_milli, nodes)
    return np.asarray(t.weights["fragmentation"] * (1000 * growth // max(1, t.whole.total)))


def _shortfall(t: tables.Tables, s: state.Snapshot, w: demand.Demand, nodes: Ints) -> Ints:
    """Return by how many per mille the best ring on each node falls short of the best of the fleet."""
    best = t.rings.best(w, s.topology)
    if not best:
        return np.zeros(len(nodes), dtype=np.int64)
    return 1000 - np.minimum(1000, 1000 * t.rings.speed(s, w, nodes) // best)


def _whole(t: tables.Tables, s: state.Snapshot, w: demand.Demand, free: Ints, cpu: Ints, nodes: Ints) -> Ints:
    """Price bandwidth, fragmentation and value of whole GPUs."""
    value = t.prices.residual
    cost = np.full(len(nodes), t.weights["value"] * w.gpus * int(value[state.FULL] - value[0]), dtype=np.int64)
    cost += t.weights["bandwidth"] * 1000 * w.gpus * _shortfall(t, s, w, nodes)
    after = fragmentation.states_after(free, state.FULL, w.gpus)[:, None]
    return np.asarray(cost + _fragmentation(t, free, cpu, after, w, nodes)[:, 0])


def _share(
    t: tables.Tables, s: state.Snapshot, w: demand.Demand, free: Ints, cpu: Ints, nodes: Ints, cost: Ints
) -> published.Costs:
    """Price every GPU for a shared pod and return the cheapest, lowest index first."""
    width = free.shape[1]
    left = np.maximum(free - w.gpu_milli, 0)
    value = t.prices.residual
    per_gpu = t.weights["value"] * (value[free] - value[left]) + t.weights["gpu_left"] * 1000 * left
    per_gpu += _fragmentation(t, free, cpu, fragmentation.states_after_share(free, w.gpu_milli), w, nodes)
    enough = feasible.usable(w, nodes, width) & (free >= w.gpu_milli)
    per_gpu = np.where(enough, per_gpu, np.iinfo(np.int64).max // 4)
    gpu = per_gpu.argmin(axis=1)
    return cost + per_gpu[np.arange(len(nodes)), gpu], gpu.astype(np.int8)


def _cpu_only(t: tables.Tables, s: state.Snapshot, w: demand.Demand, nodes: Ints) -> Ints:
    """Price a pod without GPUs: what its CPU takes away from the node's GPUs."""
    free = s.gpu_free[nodes].astype(np.int64)
    total, cpu = free.sum(axis=1), s.cpu_free[nodes]
    cost = t.weights["stranded"] * (stranded(t, cpu - w.cpu_milli, total) - stranded(t, cpu, total))
    cost += t.weights["left_cpu"] * 125 * total
    return np.asarray(cost + _fragmentation(t, free, cpu, free[:, None], w, nodes)[:, 0])


def _partition(t: tables.Tables, s: state.Snapshot, w: demand.Demand, nodes: Ints) -> Ints:
    """Price MIG partitions: the worth lost by the GPUs that carry them, where the device rule would put them."""
    lost, cut = np.zeros(len(nodes), dtype=np.int64), np.zeros(len(nodes), dtype=np.int64)
    for number, shape in enumerate(s.topology.shapes):
        here = np.flatnonzero(s.topology.shape[nodes] == number)
        if len(here) and w.partitions[number]:
            masks, losses = partition_prices.steps(shape, s.topology.width, w.partitions[number])
            lost[here], cut[here] = _instances(t.partitions[number], masks, losses, s, w, nodes[here])
    total, cpu = s.gpu_free[nodes].sum(axis=1, dtype=np.int64), s.cpu_free[nodes]
    left = total - cut * state.FULL
    cost = t.weights["stranded"] * (stranded(t, cpu - w.cpu_milli, left) - stranded(t, cpu, total))
    cost += t.weights["left"] * 125 * left + t.weights["value"] * lost
    return np.asarray(cost + t.weights["open"] * MICRO * untouched(s, nodes))


def _instances(
    worth: Ints, masks: Ints, losses: Ints, s: state.Snapshot, w: demand.Demand, nodes: Ints
) -> tuple[Ints, Ints]:
    """Put a pod's instances on nodes of one shape; return the worth lost, micro-GPU, and the GPUs newly cut.

    The order is that of ``partitions.choose``: a GPU that is cut already, the least loss there, the lowest GPU.
    """
    used = s.slices_used[nodes].astype(np.int64)
    gpus, every = np.arange(used.shape[1])[None, :], np.arange(len(nodes))
    able = feasible.usable(w, nodes, used.shape[1]) & ((s.gpu_free[nodes] == state.FULL) | (used != 0))
    lost, cut = np.zeros(len(nodes), dtype=np.int64), np.zeros(len(nodes), dtype=np.int64)
    for _ in range(w.gpus):
        key = losses[gpus, used] + (used == 0) * (1 << 40)
        gpu = np.where(able & (masks[gpus, used] > 0), key, 1 << 60).argmin(axis=1)
        before = used[every, gpu]
        after = before | masks[gpu, before]
        lost += worth[gpu, before] - worth[gpu, after]
        cut += before == 0
        used[every, gpu] = after
    return lost, cut
