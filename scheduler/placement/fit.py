"""How many pods of one request fit on every node, and which resource is the tightest.

Nothing here chooses: these are the counts from which infeasibility is proved and capacities of domains are summed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scheduler.model import reasons
from scheduler.model import request as requests
from scheduler.placement import partitions
from scheduler.snapshot import demand, state, topology

Counts = NDArray[np.int32]

UNLIMITED = 1 << 30
"""Pods that a resource allows which the pod does not ask for."""

ALL = slice(None)


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """What one resource alone allows.

    Attributes
    ----------
    reason : Reason
        What a rejection says when this resource is the one that blocks.
    unit : str
        Unit of `free`, for people: ``"GPUs"``, ``"milli-CPU"``, ...
    each : int
        Units that one pod needs.
    free : ndarray of int64, shape (N,)
        Units free on every node that a pod of this request may use at all.
    pods : ndarray of int32, shape (N,)
        Pods that this resource alone allows on every node; at most ``free // each``, less where free units are too
        scattered for a pod.
    """

    reason: reasons.Reason
    unit: str
    each: int
    free: NDArray[np.int64]
    pods: Counts


def pods_that_fit(snapshot: state.Snapshot, pod: demand.Demand, lo: int = 0, hi: int | None = None) -> Counts:
    """Return how many pods of one request every node of an interval can take now.

    Parameters
    ----------
    lo, hi : int
        Nodes ``[lo, hi)``; by default all.

    Returns
    -------
    ndarray of int32, shape (hi - lo,)
        Exact: that many equal pods can be taken one after the other, and not one more. 0 on nodes that are down.

    Notes
    -----
    GPUs, CPU, memory, NICs and accelerators of a node do not depend on each other, so the minimum of their counts is
    the count. Pods of several requests compete, so their counts do not add up.
    """
    part = slice(lo, hi)
    fit = np.minimum(snapshot.pods_free[part], UNLIMITED)
    if pod.kind is not requests.RequestKind.CPU:
        np.minimum(fit, devices_that_fit(snapshot, pod, part), out=fit)
    elif pod.admitted is not None:
        fit *= pod.eligible[part] > 0
    if pod.cpu_milli:
        np.minimum(fit, snapshot.cpu_free[part] // pod.cpu_milli, out=fit)
    if pod.memory_mib:
        np.minimum(fit, snapshot.memory_free[part] // pod.memory_mib, out=fit)
    if pod.nics:
        np.minimum(fit, np.bitwise_count(snapshot.nic_mask[part]) // np.uint8(pod.nics), out=fit)
    for kind, count in pod.request.accelerators:
        np.minimum(fit, _accelerators(snapshot, kind)[part] // count, out=fit)
    fit *= snapshot.up[part]
    return fit.astype(np.int32)


def limits(snapshot: state.Snapshot, pod: demand.Demand) -> Iterator[Limit]:
    """Yield what every resource that the pod asks for allows on its own, GPUs first.

    Notes
    -----
    `pods_that_fit` is the minimum of their `pods`. A rejection is explained from these, and only when it is needed.
    """
    up = snapshot.up
    if pod.kind is not requests.RequestKind.CPU:
        free = _devices_free(snapshot, pod) * up
        yield Limit(_reason(pod), _unit(pod), _each(pod), free, devices_that_fit(snapshot, pod) * up)
    plain = [
        (reasons.Reason.CPU, "milli-CPU", pod.cpu_milli, snapshot.cpu_free),
        (reasons.Reason.MEMORY, "MiB of memory", pod.memory_mib, snapshot.memory_free),
        (reasons.Reason.NICS, "NICs", pod.nics, np.bitwise_count(snapshot.nic_mask).astype(np.int64)),
        (reasons.Reason.PODS, "pod slots", 1, snapshot.pods_free),
    ]
    for kind, count in pod.request.accelerators:
        plain.append((reasons.Reason.ACCELERATORS, kind, count, _accelerators(snapshot, kind)))
    for reason, unit, each, amount in plain:
        if each:
            usable = np.where(pod.eligible > 0, amount * up, 0)
            yield Limit(reason, unit, each, usable, np.minimum(usable // each, UNLIMITED).astype(np.int32))


def devices_that_fit(snapshot: state.Snapshot, pod: demand.Demand, part: slice = ALL) -> Counts:
    """Return the pods that the GPUs alone allow on every node; nodes that are down may count here.

    Returns
    -------
    ndarray of int32, shape of `part`
    """
    match pod.kind:
        case requests.RequestKind.CPU:
            return np.full(len(snapshot.up[part]), UNLIMITED, dtype=np.int32)
        case requests.RequestKind.WHOLE:
            free = np.bitwise_count(snapshot.free_mask[part] & pod.eligible[part])
            return np.asarray(free // np.uint8(pod.gpus), dtype=np.int32)
        case requests.RequestKind.SHARE:
            shares = snapshot.gpu_free[part] // np.int32(pod.gpu_milli)
            if not _all_eligible(snapshot.topology, pod, part):
                shares *= usable_gpus(pod, snapshot.topology.width, part)
            return np.asarray(shares.sum(axis=1, dtype=np.int32))
        case requests.RequestKind.MIG:
            return np.asarray(partitions_that_fit(snapshot, pod, part) // np.int32(pod.gpus))


def partitions_that_fit(snapshot: state.Snapshot, pod: demand.Demand, part: slice = ALL) -> Counts:
    """Return how many more partitions of the pod's profile every node holds, in the best order of placing them."""
    tables = np.stack([partitions.room(placements) for placements in pod.partitions])
    used = snapshot.slices_used[part]
    usable = (used > 0) | (snapshot.gpu_free[part] == state.FULL)
    usable &= usable_gpus(pod, snapshot.topology.width, part)
    room = tables[snapshot.topology.shape[part, None], used]
    return np.asarray(np.where(usable, room, 0).sum(axis=1, dtype=np.int32))


def usable_gpus(pod: demand.Demand, width: int, part: slice = ALL) -> NDArray[np.bool_]:
    """Return the eligible GPUs of every node as a row of flags, shape (N, width)."""
    columns = np.arange(width, dtype=np.uint32)
    return (pod.eligible[part, None] >> columns & np.uint32(1)).astype(np.bool_)


def _all_eligible(fleet: topology.Topology, pod: demand.Demand, part: slice) -> bool:
    """Tell whether every GPU suits the pod, as in most fleets; then no flags are needed."""
    return bool((pod.eligible[part] == fleet.all_gpus[part]).all())


def _devices_free(snapshot: state.Snapshot, pod: demand.Demand) -> NDArray[np.int64]:
    """Return the free units of what the pod takes from GPUs: GPUs, milli-shares or partitions."""
    match pod.kind:
        case requests.RequestKind.WHOLE:
            return np.asarray(np.bitwise_count(snapshot.free_mask & pod.eligible), dtype=np.int64)
        case requests.RequestKind.SHARE:
            milli = snapshot.gpu_free * usable_gpus(pod, snapshot.topology.width)
            return np.asarray(milli.sum(axis=1, dtype=np.int64))
        case _:
            return partitions_that_fit(snapshot, pod).astype(np.int64)


def _each(pod: demand.Demand) -> int:
    return pod.gpu_milli if pod.kind is requests.RequestKind.SHARE else pod.gpus


def _unit(pod: demand.Demand) -> str:
    if pod.kind is requests.RequestKind.SHARE:
        return "GPU milli"
    return f"{pod.request.mig} partitions" if pod.kind is requests.RequestKind.MIG else "GPUs"


def _reason(pod: demand.Demand) -> reasons.Reason:
    return reasons.Reason.PARTITION if pod.kind is requests.RequestKind.MIG else reasons.Reason.GPUS


def _accelerators(snapshot: state.Snapshot, kind: str) -> NDArray[np.int64]:
    """Return the free accelerators of a kind; all zero where the fleet has none."""
    free = snapshot.accelerators_free.get(kind)
    return np.zeros(len(snapshot.up), dtype=np.int64) if free is None else free


@lru_cache(maxsize=4)
def empty_fleet(fleet: topology.Topology) -> state.Snapshot:
    """Return the snapshot of a fleet in which everything is free and up; it is shared, so take nothing from it."""
    return state.empty(fleet)
