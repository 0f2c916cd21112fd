"""From a node and a number of pods to the very devices: GPU masks, ring order, NICs, partitions, shares."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from scheduler.model import request as requests
from scheduler.placement import partitions, policy
from scheduler.snapshot import demand, shapes, state

Cut = tuple[tuple[int, tuple[int, ...]], ...]
"""For every pod in rank order its GPU mask and its ring order; () stands for ascending order."""


def grants(
    snapshot: state.Snapshot, pod: demand.Demand, node: int, count: int, rule: policy.DeviceRule, gpu: int = -1
) -> list[state.Grant]:
    """Return what `count` equal pods get on one node, in rank order.

    Parameters
    ----------
    rule : DeviceRule
        ``"best-subset"`` by the shape's tables, ``"first-fit"`` the lowest free indices.
    gpu : int
        The GPU that a shared pod was promised; -1 leaves the choice to the rule.

    Raises
    ------
    InvariantError
        The pods do not fit: the caller counted wrongly.

    Notes
    -----
    Best-subset, whole GPUs: `cut`. NICs: the nearest to the pod's GPUs among those still free. Shares: the GPU with
    the least room that still holds the share, then the lowest. Partitions: `partitions.choose`. Every pod sees what
    the ones before it took.
    """
    match pod.kind:
        case requests.RequestKind.CPU:
            parts: Iterable[tuple[int, tuple[int, ...]]] = ((0, ()),) * count
        case requests.RequestKind.WHOLE:
            free = int(snapshot.free_mask[node]) & int(pod.eligible[node])
            parts = cut(_shape(snapshot, node), pod.gpus, count, free, rule)
        case requests.RequestKind.SHARE:
            parts = _share(snapshot, pod, node, count, rule, gpu)
        case requests.RequestKind.MIG:
            return _partitioned(snapshot, pod, node, count, rule)
    milli = pod.gpu_milli if pod.gpus else 0
    nics = _nics(snapshot, pod, node, [mask for mask, _ in parts]) if pod.nics else None
    more = pod.request.accelerators
    return [
        state.Grant(node, mask, milli, pod.cpu_milli, pod.memory_mib, (), order, nics[i] if nics else 0, more)
        for i, (mask, order) in enumerate(parts)
    ]


def grants_of_role(
    snapshot: state.Snapshot, pod: demand.Demand, nodes: Sequence[int], counts: Sequence[int], rule: policy.DeviceRule
) -> tuple[state.Grant, ...]:
    """Return what the pods of a role get on several nodes, in rank order: `grants` node by node.

    Parameters
    ----------
    nodes, counts : sequence of int
        Different nodes in rank order, and the pods on each.

    Notes
    -----
    Whole GPUs without NICs, the bulk of all gangs, are read as columns: 1.5 us per pod, most of it for the grant.
    """
    if pod.kind is not requests.RequestKind.WHOLE or pod.nics:
        each = zip(nodes, counts, strict=True)
        return tuple(grant for node, count in each for grant in grants(snapshot, pod, node, count, rule))
    fleet, rows = snapshot.topology, np.asarray(nodes, dtype=np.int64)
    free: list[int] = (snapshot.free_mask[rows] & pod.eligible[rows]).tolist()
    shape: list[int] = fleet.shape[rows].tolist()
    cuts = {
        key: cut(fleet.shapes[key[0]], pod.gpus, key[1], key[2], rule)
        for key in set(zip(shape, counts, free, strict=True))
    }
    cpu, memory, more = pod.cpu_milli, pod.memory_mib, pod.request.accelerators
    return tuple(
        state.Grant(node, mask, state.FULL, cpu, memory, (), order, 0, more)
        for node, key in zip(nodes, zip(shape, counts, free, strict=True), strict=True)
        for mask, order in cuts[key]
    )


@lru_cache(maxsize=1 << 16)
def cut(shape: shapes.NodeShape, gpus: int, count: int, free: int, rule: policy.DeviceRule) -> Cut:
    """Divide the GPUs of the mask `free` among `count` pods of `gpus` each.

    Notes
    -----
    First-fit: the lowest indices. Best-subset, step by step: (1) the best subset for all pods together, since their
    collective runs over all of it; (2) inside it the best subset for one pod after the other, while for single GPUs
    the ring of the whole gives the order; (3) the pods in the order in which that ring meets them first, so that
    consecutive ranks are neighbours.
    """
    if free.bit_count() < gpus * count:
        raise state.InvariantError(f"{count} pods of {gpus} GPUs do not fit into the GPU mask {free:#b}")
    if rule == "first-fit":
        return tuple((mask, ()) for mask in _lowest(free, gpus, count))
    together = shape.best(gpus * count, free)
    ring = shape.ring(together)
    if gpus == 1:
        return tuple((1 << index, ()) for index in ring)
    masks = []
    for _ in range(count):
        masks.append(shape.best(gpus, together))
        together ^= masks[-1]
    place = {index: turn for turn, index in enumerate(ring)}
    masks.sort(key=lambda mask: min(place[i] for i in ring if mask >> i & 1))
    return tuple((mask, _order(shape, mask)) for mask in masks)


def union(shape: shapes.NodeShape, gpus: int, free: int, rule: policy.DeviceRule) -> int:
    """Return the mask that pods with `gpus` GPUs in all will get from the mask `free`, without cutting it up."""
    return shape.best(gpus, free) if rule == "best-subset" else _lowest(free, gpus, 1)[0]


def _lowest(free: int, gpus: int, count: int) -> list[int]:
    """Return `count` masks of the lowest `gpus` bits each."""
    indices = [i for i in range(free.bit_length()) if free >> i & 1]
    return [sum(1 << i for i in indices[p * gpus : (p + 1) * gpus]) for p in range(count)]


def _order(shape: shapes.NodeShape, mask: int) -> tuple[int, ...]:
    """Return the ring order of a mask, () where it is the ascending one."""
    ring = shape.ring(mask)
    return () if list(ring) == sorted(ring) else ring


def _shape(snapshot: state.Snapshot, node: int) -> shapes.NodeShape:
    return snapshot.topology.shapes[int(snapshot.topology.shape[node])]


def _share(
    snapshot: state.Snapshot, pod: demand.Demand, node: int, count: int, rule: policy.DeviceRule, gpu: int
) -> list[tuple[int, tuple[int, ...]]]:
    """Choose a GPU for every share; only the first pod can have been promised one."""
    free: list[int] = snapshot.gpu_free[node].tolist()
    suits = [g for g in range(len(free)) if int(pod.eligible[node]) >> g & 1]
    parts: list[tuple[int, tuple[int, ...]]] = []
    for _ in range(count):
        room = [g for g in suits if free[g] >= pod.gpu_milli]
        if not room:
            raise state.InvariantError(f"no GPU of node {node} has {pod.gpu_milli} milli left")
        chosen = gpu if gpu in room else room[0] if rule == "first-fit" else min(room, key=lambda g: (free[g], g))
        free[chosen] -= pod.gpu_milli
        parts.append((1 << chosen, ()))
        gpu = -1
    return parts


def _partitioned(
    snapshot: state.Snapshot, pod: demand.Demand, node: int, count: int, rule: policy.DeviceRule
) -> list[state.Grant]:
    """Choose the partitions of every pod."""
    fleet = snapshot.topology
    shape, placements = _shape(snapshot, node), pod.partitions[int(fleet.shape[node])]
    usable = partitions.usable(snapshot, node, int(pod.eligible[node]))
    used: list[int] = snapshot.slices_used[node].tolist()
    held = [_take_partitions(shape, pod.gpus, used, usable, placements, rule) for _ in range(count)]
    masks = [_mask(instances) for instances in held]
    nics = _nics(snapshot, pod, node, masks)
    more = pod.request.accelerators
    return [
        state.Grant(node, mask, 0, pod.cpu_milli, pod.memory_mib, instances, (), nic_mask, more)
        for mask, instances, nic_mask in zip(masks, held, nics, strict=True)
    ]


def _take_partitions(
    shape: shapes.NodeShape,
    count: int,
    used: list[int],
    usable: int,
    placements: tuple[int, ...],
    rule: policy.DeviceRule,
) -> tuple[tuple[int, int], ...]:
    """Choose places for one pod's partitions and enter them in `used`."""
    taken: list[tuple[int, int]] = []
    for _ in range(count):
        if rule == "first-fit":
            place = partitions.first(used, usable, placements)
        else:
            place = partitions.choose(shape, used, usable, placements)
        if place is None:
            raise state.InvariantError("a MIG partition finds no free slices")
        used[place[0]] |= place[1]
        taken.append(place)
    return tuple(taken)


def _mask(instances: Sequence[tuple[int, int]]) -> int:
    mask = 0
    for gpu, _ in instances:
        mask |= 1 << gpu
    return mask


def _nics(snapshot: state.Snapshot, pod: demand.Demand, node: int, masks: Sequence[int]) -> list[int]:
    """Deal out the NICs of every pod: the nearest to its GPUs among those that are left."""
    if not pod.nics:
        return [0] * len(masks)
    shape, free = _shape(snapshot, node), int(snapshot.nic_mask[node])
    dealt = []
    for mask in masks:
        nics = shape.nics(mask, pod.nics, free)
        if not nics:
            raise state.InvariantError(f"fewer than {pod.nics} NICs are left on node {node}")
        free ^= nics
        dealt.append(nics)
    return dealt
