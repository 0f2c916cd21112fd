"""Predicted bandwidth of a gang's collectives, in MB/s, from node shapes and the tiers of the network.

A ring collective over nodes runs at the speed of the slower of two parts: the worst ring inside a node, and the NICs
beside the GPUs that a node contributes, divided by the oversubscription of the highest tier that the gang crosses.
Nodes of one multi-node NVLink fabric (GB200 NVL72) count as one large node whose NICs add up.

References
----------
nccl-tests, PERFORMANCE.md (bus bandwidth is the bandwidth of the slowest link of the ring).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scheduler.placement import devices, policy
from scheduler.snapshot import shapes, state, subsets, topology, tree

Ints = NDArray[np.int64]

NO_LIMIT = np.iinfo(np.int64).max // 4
"""Stands for a part that limits nothing; below the overflow of a sum of two."""

DEFAULT_STEPS = (1000, 1000, 2000, 4000)
"""Per mille, for levels without an entry, by their height above the nodes. Assumption: racks and what is directly above
them are non-blocking, the next network halves, and everything above quarters; published large training fabrics range
from 1:1 to 7:1 above the aggregation layer, so real fleets state their own."""


@dataclass(frozen=True, slots=True)
class Tiers:
    """Oversubscription of the network by level.

    Attributes
    ----------
    oversubscription : tuple of (str, int)
        Level name and per mille: 2000 halves the bandwidth of a gang whose tightest common domain is of this level.
    """

    oversubscription: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        for level, factor in self.oversubscription:
            if factor < 1:
                raise ValueError(f"oversubscription of level {level} must be at least 1 per mille, got {factor}")

    def factors(self, fabric_tree: tree.CompiledTree) -> Ints:
        """Return the per-mille factor of every level of a tree, coarsest first; the node level has 1000."""
        named = dict(self.oversubscription)
        last = len(fabric_tree.levels) - 1
        steps = [DEFAULT_STEPS[min(last - i, len(DEFAULT_STEPS)) - 1] for i in range(last)] + [1000]
        names = zip(fabric_tree.levels, steps, strict=True)
        return np.array([named.get(name, step) for name, step in names], dtype=np.int64)


DEFAULT = Tiers()

END = np.zeros(1, dtype=np.int64)
"""Stands at the end of flat tables, so that looking up nothing finds something."""

HOST_NETWORK_MB_S = 3_125
"""Bandwidth to other nodes of machines that list no NICs, as in published traces: 25 Gb/s Ethernet. Assumption."""


@dataclass(frozen=True, slots=True, eq=False)
class Rates:
    """Tables of one fleet over (shape, GPU mask), flat, each shape beginning at its offset.

    Attributes
    ----------
    union : ndarray of int64
        ``[union_start[shape] + gpus * masks[shape] + free]``: the GPUs that `devices.union` takes.
    ring, nic : ndarray of int64
        ``[start[shape] + mask]``: bandwidth of the best ring inside, and of the NICs beside the mask.
    dense : ndarray of bool, shape (S,)
        False for shapes with too many GPUs for tables; `Rates` has no valid entries for them.
    link : ndarray of int64, shape (S,)
        Bandwidth of the best pair of GPUs: what a multi-node NVLink fabric carries between nodes of this shape.
    fabric : ndarray of int64, shape (N,)
        Number of the multi-node NVLink fabric of every node, -1 without one.
    """

    union: Ints
    union_start: Ints
    masks: Ints
    ring: Ints
    nic: Ints
    start: Ints
    dense: NDArray[np.bool_]
    link: Ints
    fabric: Ints


@lru_cache(maxsize=16)
def rates(fleet: topology.Topology, rule: policy.DeviceRule) -> Rates:
    """Return the tables of a fleet; the first call for a shape costs some milliseconds."""
    dense = np.array([shape.gpus <= subsets.DENSE_GPUS for shape in fleet.shapes], dtype=np.bool_)
    unions: list[Ints] = []
    rings: list[Ints] = []
    nics: list[Ints] = []
    for shape in fleet.shapes:
        tabulated = shape.gpus <= subsets.DENSE_GPUS
        unions.append(_unions(fleet, shape.gpus, rule, len(unions)) if tabulated else np.zeros(0, dtype=np.int64))
        rings.append(shape.bandwidth_table.astype(np.int64) if tabulated else np.zeros(0, dtype=np.int64))
        masks = range(1 << shape.gpus) if tabulated else ()
        nics.append(np.array([outward(shape, mask) for mask in masks], dtype=np.int64))
    return Rates(
        union=np.concatenate([*unions, END]),
        union_start=_starts(unions),
        masks=np.array([1 << shape.gpus for shape in fleet.shapes], dtype=np.int64),
        ring=np.concatenate([*rings, END]),
        nic=np.concatenate([*nics, END]),
        start=_starts(rings),
        dense=dense,
        link=np.array([int(s.bandwidth_table.max(initial=0)) for s in fleet.shapes], dtype=np.int64),
        fabric=_fabrics(fleet),
    )


def predict(
    snapshot_fleet: topology.Topology, rule: policy.DeviceRule, tiers: Tiers, nodes: Ints, masks: Ints, starts: Ints
) -> Ints:
    """Predict the bus bandwidth of several gangs at once.

    Parameters
    ----------
    nodes : ndarray of int64, shape (P,)
        Nodes of all gangs, one gang after the other, ascending and without duplicates inside a gang.
    masks : ndarray of int64, shape (P,)
        GPUs of the gang on each node; 0 where it uses only the CPU there.
    starts : ndarray of int64, shape (Q,)
        Where each gang begins; every gang has at least one node.

    Returns
    -------
    ndarray of int64, shape (Q,)
        MB/s; 0 for gangs of fewer than two GPUs.

    Notes
    -----
    Step by step, for one gang over its nodes with GPUs: (1) the least ring bandwidth inside a node that contributes
    two or more; (2) on one node that is the answer; (3) else nodes of one NVLink fabric form a group, every other
    node a group of its own; with one group the answer is the lesser of (1) and the least `Rates.link`; (4) with more
    groups it is the lesser of (1) and ``1000 * least NIC sum of a group // factor``, the factor being that of the
    level of the tightest domain that holds all nodes.
    """
    table = rates(snapshot_fleet, rule)
    gpus = np.bitwise_count(masks.astype(np.uint32)).astype(np.int64)
    ring, nic = _look_up(snapshot_fleet, table, nodes, masks)
    used = gpus > 0
    inside = np.minimum.reduceat(np.where(gpus > 1, ring, NO_LIMIT), starts)
    count = np.add.reduceat(used.astype(np.int64), starts)
    total = np.add.reduceat(gpus, starts)
    outside = np.full(len(starts), NO_LIMIT, dtype=np.int64)
    if (count > 1).any():
        outside = _between(snapshot_fleet, table, tiers, nodes, np.where(used, nic, -1), starts)
    answer = np.where(count > 1, np.minimum(inside, outside), inside)
    return np.where(total > 1, answer, 0)


def _between(fleet: topology.Topology, table: Rates, tiers: Tiers, nodes: Ints, nic: Ints, starts: Ints) -> Ints:
    """Return what the links between nodes carry for each gang; `nic` is -1 on nodes without GPUs of the gang."""
    gang = np.zeros(len(nodes), dtype=np.int64)
    gang[starts[1:]] = 1
    np.cumsum(gang, out=gang)
    rows = np.flatnonzero(nic >= 0)
    gang, nodes, nic = gang[rows], nodes[rows], nic[rows]
    fabric = table.fabric[nodes]
    groups = gang * (len(table.fabric) * 2) + np.where(fabric < 0, len(table.fabric) + nodes, fabric)
    keys, member = np.unique(groups, return_inverse=True)
    sums = np.zeros(len(keys), dtype=np.int64)
    np.add.at(sums, member, nic)
    owner = keys // (len(table.fabric) * 2)
    slowest = np.full(len(starts), NO_LIMIT, dtype=np.int64)
    np.minimum.at(slowest, owner, sums)
    parts = np.bincount(owner, minlength=len(starts))
    link = np.full(len(starts), NO_LIMIT, dtype=np.int64)
    np.minimum.at(link, gang, table.link[fleet.shape[nodes]])
    first = np.searchsorted(gang, np.arange(len(starts)))
    last = np.searchsorted(gang, np.arange(len(starts)), side="right") - 1
    factor = tiers.factors(fleet.tree)[_common_level(fleet.tree, nodes[np.minimum(first, len(nodes) - 1)], nodes[last])]
    return np.where(parts == 1, link, 1000 * np.minimum(slowest, NO_LIMIT // 1000) // factor)


def _common_level(fabric_tree: tree.CompiledTree, first: Ints, last: Ints) -> Ints:
    """Return the level of the tightest domain that holds both nodes of every pair."""
    above = fabric_tree.ancestor
    same = (above[:, first] == above[:, last]) & (above[:, first] >= 0)
    levels = np.arange(len(fabric_tree.levels))[:, None]
    return np.asarray(np.where(same, levels, 0).max(axis=0))


def _look_up(fleet: topology.Topology, table: Rates, nodes: Ints, masks: Ints) -> tuple[Ints, Ints]:
    """Return ring and NIC bandwidth of a GPU mask on every node."""
    shape = fleet.shape[nodes]
    dense = table.dense[shape]
    if dense.all():
        rows = table.start[shape] + masks
        return table.ring[rows], table.nic[rows]
    rows = np.where(dense, table.start[shape] + masks, 0)
    ring, nic = table.ring.take(rows, mode="clip"), table.nic.take(rows, mode="clip")
    for row in np.flatnonzero(~dense).tolist():
        ring[row], nic[row] = _large(fleet, int(shape[row]), int(masks[row]))
    return ring, nic


@lru_cache(maxsize=1 << 14)
def _large(fleet: topology.Topology, shape: int, mask: int) -> tuple[int, int]:
    """Return ring and NIC bandwidth of a mask of a shape that has no tables."""
    return fleet.shapes[shape].bandwidth(mask), outward(fleet.shapes[shape], mask)


def outward(shape: shapes.NodeShape, mask: int) -> int:
    """Return the bandwidth at which the GPUs of a mask reach other nodes."""
    return shape.nic_bandwidth(mask) if shape.machine.nics or not mask else HOST_NETWORK_MB_S


def unions(
    snapshot: state.Snapshot, rule: policy.DeviceRule, eligible: NDArray[np.uint32], nodes: Ints, gpus: Ints
) -> Ints:
    """Return the masks that pods with `gpus` GPUs in all would get on each of some nodes, as `devices.cut` decides.

    Parameters
    ----------
    eligible : ndarray, shape (N,)
        The demand's eligible masks.
    nodes, gpus : ndarray of int64, shape (P,)
    """
    fleet, table = snapshot.topology, rates(snapshot.topology, rule)
    free = (snapshot.free_mask[nodes] & eligible[nodes]).astype(np.int64)
    shape = fleet.shape[nodes]
    dense = table.dense[shape]
    rows = np.where(dense, table.union_start[shape] + gpus * table.masks[shape] + free, 0)
    masks = table.union.take(rows, mode="clip")
    for row in np.flatnonzero(~dense).tolist():
        masks[row] = devices.union(fleet.shapes[int(shape[row])], int(gpus[row]), int(free[row]), rule)
    return masks


def _unions(fleet: topology.Topology, gpus: int, rule: policy.DeviceRule, row: int) -> Ints:
    """Return `devices.union` of one shape for every number of GPUs and every free mask, flat."""
    if rule == "best-subset":
        return fleet.shapes[row].best_table.astype(np.int64).ravel()
    table = np.zeros((gpus + 1, 1 << gpus), dtype=np.int64)
    for free in range(1 << gpus):
        mask = 0
        for count, bit in enumerate((b for b in range(gpus) if free >> b & 1), start=1):
            mask |= 1 << bit
            table[count, free] = mask
    return table.ravel()


def _starts(parts: Sequence[Ints]) -> Ints:
    return np.cumsum([0, *(len(part) for part in parts[:-1])], dtype=np.int64)


def _fabrics(fleet: topology.Topology) -> Ints:
    """Number the multi-node NVLink fabrics in order of appearance."""
    numbers: dict[str, int] = {}
    ids = [machine.gpus[0].fabric_id if machine.gpus else "" for machine in fleet.nodes]
    return np.array([numbers.setdefault(i, len(numbers)) if i else -1 for i in ids], dtype=np.int64)
