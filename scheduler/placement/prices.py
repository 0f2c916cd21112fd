"""What is a left-over worth? Integer price tables of a target workload, by linear programming.

The tables are made once per target. Floating point stays inside this file: what leaves it is rounded to integers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from scheduler.model import request
from scheduler.placement import target
from scheduler.snapshot import topology

MICRO = 1_000_000
"""One GPU in micro-GPU, the unit of all prices."""

WHOLE = 1000
RESAMPLES = 20
RESAMPLED_PODS = 10_000
"""About what a large fleet holds: duals of a thousand pods swing so much that the averaged table still does."""

SCARCE_CPU = 950
"""Per mille of the fleet's CPU per GPU from which on the target's CPU-only pods weigh on the price of CPU."""

QUANTILES = (1, 2, 3, 4, 5, 6, 7, 8)
"""Tenths of the distribution of CPU per GPU at which stranded GPU is measured."""

STRANDED_SCALE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """Tables derived from a target workload and a fleet.

    Attributes
    ----------
    residual : ndarray of int64, shape (1001,)
        Worth of a GPU with r milli free, micro-GPU: what requests of the target can still use of it.
    kappa : ndarray of int64, shape (Q,)
        Micro-GPU that one milli-CPU feeds, times 1024, at each quantile of the target's CPU per GPU.
    pressure : ndarray of int64, shape (N,)
        Demand that insists on the node's GPU model, per mille of that model's capacity.
    whole : dict of int to int
        Per machine size, the share (per 1024) of the target's GPU demand that needs whole machines of that size.
    """

    residual: NDArray[np.int64]
    kappa: NDArray[np.int64]
    pressure: NDArray[np.int64]
    whole: dict[int, int]


def compile_prices(fleet: topology.Topology, wanted: target.TargetWorkload) -> Prices:
    """Derive the tables; a second or two for a hundred sizes of shared requests, kept for the target."""
    kappa = kappas(wanted) * 1000 // cpu_burden(fleet, wanted)
    return Prices(residual_values(wanted), kappa, pressures(fleet, wanted), whole_machine_shares(wanted))


def unpriced(fleet: topology.Topology) -> Prices:
    """Return the tables for rules that read none: everything is worth nothing."""
    nothing = np.zeros(0, dtype=np.int64)
    return Prices(np.zeros(WHOLE + 1, dtype=np.int64), nothing, np.zeros(len(fleet.nodes), dtype=np.int64), {})


@lru_cache(maxsize=32)
def residual_values(wanted: target.TargetWorkload, seed: int = 0) -> NDArray[np.int64]:
    """Price every left-over of a GPU by what shared requests can still make of it.

    Returns
    -------
    ndarray of int64, shape (1001,)
        Micro-GPU, never falling; ``[1000]`` is one GPU.

    Notes
    -----
    Cutting stock (Gilmore and Gomory, 1961): cover the target's shared requests with the fewest GPUs. The dual of a
    request size is what one such request is worth; a knapsack over those duals prices every residual. Demands are
    resampled and the tables averaged, since the duals of one demand are degenerate.
    """
    sizes, weights = _shared_sizes(wanted)
    if not len(sizes):
        return np.where(np.arange(WHOLE + 1) == WHOLE, MICRO, 0).astype(np.int64)
    mean = sum(share * _knapsack(sizes, _duals(sizes, pods)) for pods, share in resampled(weights, seed))
    table: NDArray[np.int64] = np.rint(np.asarray(mean) * MICRO).astype(np.int64)
    table.flags.writeable = False
    return table


def _shared_sizes(wanted: target.TargetWorkload) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the distinct request sizes below a whole GPU, ascending, and their counts."""
    counts: dict[int, int] = {}
    for item in wanted.items:
        if item.pod.kind is request.RequestKind.SHARE:
            counts[item.pod.gpu_milli] = counts.get(item.pod.gpu_milli, 0) + item.count
    sizes = sorted(counts)
    return np.array(sizes, dtype=np.int64), np.array([counts[s] for s in sizes], dtype=np.float64)


def _duals(sizes: NDArray[np.int64], pods: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the dual price of every request size, in GPUs; 0 for sizes that no pod has."""
    present = np.flatnonzero(pods)
    duals = np.zeros(len(sizes))
    alone = [np.where(present == i, WHOLE // sizes[i], 0) for i in present]
    duals[present] = covering_duals(pods[present], alone, lambda values: _best_pattern(sizes[present], values))
    return duals


def covering_duals(
    pods: NDArray[np.int64],
    columns: list[NDArray[np.int64]],
    best_pattern: Callable[[NDArray[np.float64]], NDArray[np.int64]],
) -> NDArray[np.float64]:
    """Price requests by the fewest GPUs that serve them all: column generation.

    Parameters
    ----------
    columns : list of ndarray
        Fillings of one GPU to begin with, which can serve every request.
    best_pattern : callable
        Returns the filling of one GPU that is worth most at given prices of the requests.

    Returns
    -------
    ndarray of float64
        What one request of each kind is worth, in GPUs; no filling of a GPU is worth more than one.
    """
    while True:
        matrix = -np.array(columns, dtype=np.float64).T
        master = optimize.linprog(np.ones(len(columns)), A_ub=matrix, b_ub=-pods, method="highs-ds")
        duals = np.asarray(-master.ineqlin.marginals)
        column = best_pattern(duals)
        if column @ duals <= 1 + 1e-9:
            return duals
        columns = [*columns, column]


def resampled(weights: NDArray[np.float64], seed: int) -> Iterator[tuple[NDArray[np.int64], float]]:
    """Yield demands of many pods drawn from a distribution, and the share of the draws that each stands for."""
    draws = np.random.default_rng(seed).multinomial(RESAMPLED_PODS, weights / weights.sum(), size=RESAMPLES)
    for pods, count in zip(*np.unique(draws, axis=0, return_counts=True), strict=True):
        yield pods, count / RESAMPLES


def _knapsack(sizes: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the best total value of requests that fit into each residual 0..1000.

    Notes
    -----
    One request size at a time. Taking it any number of times is a running maximum over the residuals that differ by a
    multiple of its size, less the value of those multiples: array operations instead of a loop over residuals.
    """
    best = np.zeros(WHOLE + 1)
    for size, value in zip(sizes.tolist(), values.tolist(), strict=True):
        rows = -(-len(best) // size)
        padded = np.full(rows * size, -np.inf)
        padded[: len(best)] = best
        taken = np.arange(rows)[:, None] * value
        best = (np.maximum.accumulate(padded.reshape(rows, size) - taken, axis=0) + taken).ravel()[: len(best)]
    return np.maximum.accumulate(best)


def _best_pattern(sizes: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return how many requests of each size make the most valuable filling of one GPU."""
    best = _knapsack(sizes, values)
    pattern = np.zeros(len(sizes), dtype=np.int64)
    room = WHOLE
    while room >= sizes[0] and best[room] > 0:
        fits = sizes[sizes <= room]
        total = best[room - fits] + values[: len(fits)]
        chosen = int(np.argmax(total))
        if total[chosen] < best[room] - 1e-12 or not values[chosen]:
            room -= 1
            continue
        pattern[chosen] += 1
        room -= int(sizes[chosen])
    return pattern


def kappas(wanted: target.TargetWorkload) -> NDArray[np.int64]:
    """Return how much GPU a milli-CPU feeds at the quantiles of the target's CPU per GPU.

    Returns
    -------
    ndarray of int64, shape (8,)
        Micro-GPU per milli-CPU times 1024; empty when no pod of the target asks for both.
    """
    rows = [
        (item.pod.cpu_milli / item.pod.total_gpu_milli, item.count * item.pod.total_gpu_milli)
        for item in wanted.items
        if item.pod.total_gpu_milli
    ]
    rows = sorted((ratio, weight) for ratio, weight in rows)
    if not rows or not rows[-1][0]:
        return np.zeros(0, dtype=np.int64)
    ratios, weights = np.array(rows).T
    cumulated = np.cumsum(weights) / weights.sum()
    at = np.searchsorted(cumulated, np.array(QUANTILES) / 10)
    kept = ratios[at][ratios[at] > 0]
    return np.asarray(np.rint(WHOLE * STRANDED_SCALE / kept), dtype=np.int64)


def cpu_burden(fleet: topology.Topology, wanted: target.TargetWorkload) -> int:
    """Return by how much scarce CPU is dearer than the pods with GPUs alone would have it, per mille, at least 1000.

    Notes
    -----
    As long as the target asks for less CPU per GPU than the fleet has, CPU-only pods live on what GPU pods leave over.
    From there on they compete: over a twentieth of the fleet's ratio the price rises to that of all pods' CPU per GPU.
    """
    cpu = sum(item.count * item.pod.cpu_milli for item in wanted.items)
    beside_gpus = sum(item.count * item.pod.cpu_milli for item in wanted.items if item.pod.gpus)
    gpu = sum(item.count * item.pod.total_gpu_milli for item in wanted.items)
    if not gpu or not beside_gpus:
        return 1000
    scarcity = 1000 * cpu * fleet.total_gpus * WHOLE // (gpu * max(1, int(fleet.cpu_milli.sum())))
    ramp = min(1000, max(0, 20 * (scarcity - SCARCE_CPU)))
    return 1000 + ramp * (1000 * cpu // beside_gpus - 1000) // 1000


def pressures(fleet: topology.Topology, wanted: target.TargetWorkload) -> NDArray[np.int64]:
    """Return the demand that insists on the GPU model of each node, per mille of that model's capacity.

    A request that names several models is spread over them by their capacity.
    """
    model = np.array([machine.gpus[0].model.name if machine.gpus else "" for machine in fleet.nodes])
    capacity = {str(name): int(fleet.gpus[model == name].sum()) for name in np.unique(model) if name}
    total = sum(item.count * item.pod.total_gpu_milli for item in wanted.items)
    price = dict.fromkeys(capacity, 0.0)
    for item in wanted.items:
        named = [name for name in dict.fromkeys(item.pod.gpu_models) if name in capacity]
        if item.pod.total_gpu_milli and named:
            share = item.count * item.pod.total_gpu_milli / total
            for name in named:
                price[name] += share * fleet.total_gpus / sum(capacity[other] for other in named)
    return np.array([round(1000 * price.get(str(name), 0.0)) for name in model], dtype=np.int64)


def whole_machine_shares(wanted: target.TargetWorkload) -> dict[int, int]:
    """Return, per machine size, the share of the GPU demand whose pods take whole machines of it, per 1024."""
    total = sum(item.count * item.pod.total_gpu_milli for item in wanted.items)
    demand: dict[int, int] = {}
    for item in wanted.items:
        if item.pod.kind is request.RequestKind.WHOLE and item.pod.gpus > 1:
            demand[item.pod.gpus] = demand.get(item.pod.gpus, 0) + item.count * item.pod.total_gpu_milli
    return {gpus: milli * 1024 // total for gpus, milli in sorted(demand.items())}
