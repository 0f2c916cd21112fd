"""MIG placements as tables over the memory slices in use: how many instances still fit, and what a GPU is still worth.

A GPU's state is its mask of used slices, nine bits with the media engine, so every question is a table of 512 entries.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scheduler.model import device
from scheduler.snapshot import shapes, state

STATES = device.MEDIA_BIT << 1
"""Masks of used slices: eight memory slices and the media engine."""


@lru_cache(maxsize=512)
def room(placements: tuple[int, ...]) -> NDArray[np.int32]:
    """Return how many instances still fit on a GPU, for every mask of used slices.

    Parameters
    ----------
    placements : tuple of int
        Slice masks at which one instance may be put.

    Returns
    -------
    ndarray of int32, shape (512,)
        The largest number over all orders of placing them, not what some greedy order reaches.
    """
    most = np.zeros(STATES, dtype=np.int32)
    for used in range(STATES - 1, -1, -1):  # a superset is a larger number, so its entry is ready
        for mask in placements:
            if not used & mask:
                most[used] = max(most[used], 1 + most[used | mask])
    return most


@lru_cache(maxsize=64)
def worth(model: device.GpuModel) -> NDArray[np.int32]:
    """Return what a GPU can still offer, for every mask of used slices.

    Returns
    -------
    ndarray of int32, shape (512,)
        Over all profiles, the instances that still fit times their memory slices. A full-size profile counts as much
        as all the small ones, so spoiling the last place of a large one costs most.
    """
    total = np.zeros(STATES, dtype=np.int32)
    for profile in model.mig:
        placements = tuple(model.slices(profile, start) for start in profile.starts)
        total += profile.memory_slices * room(placements)
    return total


@lru_cache(maxsize=512)
def worths(shape: shapes.NodeShape) -> tuple[tuple[int, ...], ...]:
    """Return `worth` of every GPU of a node shape, as plain numbers."""
    return tuple(tuple(worth(gpu.model).tolist()) for gpu in shape.machine.gpus)


def choose(
    shape: shapes.NodeShape, used: Sequence[int], usable: int, placements: tuple[int, ...]
) -> tuple[int, int] | None:
    """Return ``(GPU, slice mask)`` of the place for one instance that keeps the most valuable shapes alive.

    Parameters
    ----------
    used : sequence of int
        Used slices of every GPU of the node.
    usable : int
        Mask of the GPUs that may carry the instance.
    placements : tuple of int
        Slice masks at which it may be put, in order of preference.

    Notes
    -----
    The order: a GPU that is partitioned already before one that would have to be cut; the least loss of `worth`; the
    lowest GPU; the first placement. Places that would spoil a second instance of the same profile are left out, so
    that as many can be placed one after the other as `room` promises.
    """
    mine = room(placements)
    keys = [
        (not used[gpu], table[used[gpu]] - table[used[gpu] | mask], gpu, turn)
        for gpu, table in enumerate(worths(shape))
        if usable >> gpu & 1
        for turn, mask in enumerate(placements)
        if not used[gpu] & mask and mine[used[gpu] | mask] == mine[used[gpu]] - 1
    ]
    if not keys:
        return None
    *_, gpu, turn = min(keys)
    return gpu, placements[turn]


def first(used: Sequence[int], usable: int, placements: tuple[int, ...]) -> tuple[int, int] | None:
    """Return ``(GPU, slice mask)`` of the lowest GPU and, on it, the lowest start that is free: DRA's first fit.

    As in `choose`, a start that would spoil a second instance of the profile is passed over.
    """
    mine = room(placements)
    for gpu, before in enumerate(used):
        if usable >> gpu & 1:
            for mask in sorted(placements, key=lambda m: m & -m):
                if not before & mask and mine[before | mask] == mine[before] - 1:
                    return gpu, mask
    return None


def usable(snapshot: state.Snapshot, node: int, eligible: int) -> int:
    """Return the mask of the node's GPUs on which a partition may be put: partitioned already, or wholly free."""
    mask = 0
    free = snapshot.gpu_free[node].tolist()
    for gpu, used in enumerate(snapshot.slices_used[node].tolist()):
        mask |= bool(used or free[gpu] == state.FULL) << gpu
    return mask & eligible
