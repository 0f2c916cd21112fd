"""What is a partly used MIG GPU worth? Integer price tables over its used memory slices.

The same programme as for shares of a GPU (``prices``): cover the target's partitions with the fewest GPUs. The dual of a
profile is what one instance of it is worth; a GPU in use is worth the best instances that still fit on it.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scheduler.model import device, request
from scheduler.placement import partitions, prices, target
from scheduler.snapshot import shapes, topology

Ints = NDArray[np.int64]
Places = tuple[tuple[int, ...], ...]
"""Slice masks at which an instance may be put, per profile."""


@lru_cache(maxsize=64)
def values(model: device.GpuModel, wanted: target.TargetWorkload, seed: int = 0) -> Ints:
    """Return what a GPU is worth for every mask of used slices, micro-GPU, shape (512,).

    Notes
    -----
    Where the target asks for no partition of this model, every profile counts by its slices (`partitions.worth`).
    """
    places, counts = _profiles(model, wanted)
    if not places:
        plain = partitions.worth(model).astype(np.int64)
        return np.asarray(plain * prices.MICRO // max(1, int(plain[0])))
    most = np.zeros(partitions.STATES)
    for pods, share in prices.resampled(counts, seed):
        most += share * _completions(places, _duals(places, pods))
    return np.asarray(np.rint(most * prices.MICRO), dtype=np.int64)


def _profiles(model: device.GpuModel, wanted: target.TargetWorkload) -> tuple[Places, NDArray[np.float64]]:
    """Return where the target's profiles may be put on a model, and how many instances of each it asks for."""
    counts: dict[str, int] = {}
    for item in wanted.items:
        pod = item.pod
        suits = not pod.gpu_models or model.name in pod.gpu_models
        if pod.kind is request.RequestKind.MIG and suits and model.profile(pod.mig):
            counts[pod.mig] = counts.get(pod.mig, 0) + item.count * pod.gpus
    chosen = [profile for profile in model.mig if counts.get(profile.name)]
    places = tuple(tuple(model.slices(profile, start) for start in profile.starts) for profile in chosen)
    return places, np.array([counts[profile.name] for profile in chosen], dtype=np.float64)


def _duals(places: Places, pods: Ints) -> NDArray[np.float64]:
    """Return the dual price of every profile, in GPUs; 0 for profiles that no pod has."""
    present = np.flatnonzero(pods)
    own = tuple(places[i] for i in present)
    duals = np.zeros(len(places))
    alone = [np.where(present == i, int(partitions.room(places[i])[0]), 0) for i in present]
    duals[present] = prices.covering_duals(pods[present], alone, lambda worth: _best_pattern(own, worth))
    return duals


def _completions(places: Places, worth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the most that instances which still fit are worth together, for every mask of used slices."""
    best = [0.0] * partitions.STATES
    each = [(mask, value) for masks, value in zip(places, worth.tolist(), strict=True) for mask in masks]
    for used in range(partitions.STATES - 1, -1, -1):  # a superset is a larger number, so its entry is ready
        best[used] = max((value + best[used | mask] for mask, value in each if not used & mask), default=0.0)
    return np.array(best)


def _best_pattern(places: Places, worth: NDArray[np.float64]) -> Ints:
    """Return how many instances of each profile make the most valuable filling of one GPU."""
    best = _completions(places, worth)
    pattern, used = np.zeros(len(places), dtype=np.int64), 0
    while True:
        fitting = [(worth[i] + best[used | m], -i, m) for i, masks in enumerate(places) for m in masks if not used & m]
        if not fitting:
            return pattern
        _, profile, mask = max(fitting)
        pattern[-profile] += 1
        used |= mask


def of_fleet(fleet: topology.Topology, wanted: target.TargetWorkload) -> Ints:
    """Return the values of every GPU in MIG mode, shape (S, G, 512); 0 for other GPUs."""
    table = np.zeros((len(fleet.shapes), fleet.width, partitions.STATES), dtype=np.int64)
    for row, shape in enumerate(fleet.shapes):
        for gpu in shape.machine.gpus:
            if gpu.mig_enabled:
                table[row, gpu.index] = values(gpu.model, wanted)
    return table


@lru_cache(maxsize=256)
def steps(shape: shapes.NodeShape, width: int, placements: tuple[int, ...]) -> tuple[Ints, Ints]:
    """Return where the next instance goes on each GPU of a shape: slice mask, and loss of `partitions.worth`.

    Returns
    -------
    masks, losses : ndarray of int64, shape (width, 512)
        By GPU and used slices; mask 0 where no instance fits. The same choice as in `partitions.choose`.
    """
    room = partitions.room(placements)
    masks = np.zeros((width, partitions.STATES), dtype=np.int64)
    losses = np.zeros((width, partitions.STATES), dtype=np.int64)
    for gpu, worth in enumerate(partitions.worths(shape)):
        for used in range(partitions.STATES):
            able = [m for m in placements if not used & m and room[used | m] == room[used] - 1]
            if able:
                chosen = min(able, key=lambda m: worth[used] - worth[used | m])
                masks[gpu, used], losses[gpu, used] = chosen, worth[used] - worth[used | chosen]
    return masks, losses
