"""What a gang's placement uses up, as one integer: the opportunity cost that the default domain rule minimises.

Lone pods are priced by ``score.opportunity``. A gang also breaks whole nodes, racks and blocks that other gangs want,
spreads over domains, and may run slower than it could; those are priced here, in milli-GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scheduler.model import request as requests
from scheduler.placement import bandwidth, pack, placement, policy
from scheduler.snapshot import demand, state, topology

Ints = NDArray[np.int64]

TERMS = ("bandwidth", "nodes", "domains", "span")
"""Terms of the price, integers in milli-GPU; the policy's weight of the same name multiplies each."""


@dataclass(frozen=True, slots=True)
class Price:
    """Price of one pack: the weighted sum of its terms, the terms, and the predicted bandwidth in MB/s."""

    total: int
    terms: placement.Terms
    bandwidth_mb_s: int


@dataclass(frozen=True, slots=True, eq=False)
class Worth:
    """What free nodes and GPUs are worth to later gangs, for one fleet.

    Attributes
    ----------
    node : ndarray of int64, shape (17, 17)
        ``[GPUs of the node, free GPUs] -> milli-GPU``.
    domain : ndarray of int64
        ``[start[vertex] + untouched nodes] -> milli-GPU``, flat.
    start : ndarray of int64, shape (V,)
    between : tuple of int
        Levels strictly between the fleet's root and the nodes.
    """

    node: Ints
    domain: Ints
    start: Ints
    between: tuple[int, ...]


@lru_cache(maxsize=4096)
def buddy(size: int, unit: int) -> Ints:
    """Return the worth of 0..size free pieces of a domain of `size` pieces, shape (size + 1,).

    Parameters
    ----------
    unit : int
        Milli-GPU per piece.

    Returns
    -------
    ndarray of int64
        The mean over the powers of two s up to `size` of the milli-GPU that requests of s pieces could still use,
        ``unit * s * (free // s)``. Everything free is worth about what it holds; an odd piece is worth little, and the
        first piece taken from a free domain costs most.
    """
    free = np.arange(size + 1, dtype=np.int64)
    steps = 1 << np.arange(max(size, 1).bit_length(), dtype=np.int64)
    usable = (steps[:, None] * (free // steps[:, None])).sum(axis=0)
    worth_of = np.asarray(unit * usable // len(steps))
    worth_of.setflags(write=False)  # most domains of a fleet share one
    return worth_of


@lru_cache(maxsize=16)
def worth(fleet: topology.Topology) -> Worth:
    """Return the worth tables of a fleet."""
    node = np.zeros((fleet.width + 1, fleet.width + 1), dtype=np.int64)
    for gpus in range(1, fleet.width + 1):
        node[gpus, : gpus + 1] = buddy(gpus, 1000)
    nodes = fleet.tree.sums((fleet.gpus > 0).astype(np.int64))
    gpus_in = fleet.tree.sums(fleet.gpus.astype(np.int64))
    units = 1000 * gpus_in // np.maximum(nodes, 1)
    tables = [buddy(size, unit) for size, unit in zip(nodes.tolist(), units.tolist(), strict=True)]
    start = np.cumsum([0, *(len(table) for table in tables[:-1])], dtype=np.int64)
    return Worth(node, np.concatenate(tables), start, tuple(range(1, len(fleet.tree.levels) - 1)))


def prices(
    snapshot: state.Snapshot,
    pod: demand.Demand,
    packs: Sequence[pack.Pack],
    gangs: policy.GangScoring,
    tiers: bandwidth.Tiers,
) -> list[Price]:
    """Price several packs of one role at once.

    Notes
    -----
    The terms, all milli-GPU, summed over the nodes and domains that the pack touches:

    * ``bandwidth``: GPUs of the pack times the per mille by which its predicted bandwidth falls short of
      `best_possible`.
    * ``nodes``: loss of `Worth.node`, from the free GPUs before to those after.
    * ``domains``: for every domain strictly between root and node, loss of `Worth.domain`, from its untouched nodes
      before to those after.
    * ``span``: 1000 for each node and for each domain strictly between root and node.

    The price is the sum of weight times term, without any rounding. Shares and partitions have only ``span``.
    """
    fleet = snapshot.topology
    nodes, pods, starts = _flat(packs)
    whole = pod.kind is requests.RequestKind.WHOLE
    gpus = pods * (pod.gpus if whole else 0)
    eligible = pod.eligible if whole else np.zeros_like(pod.eligible)
    masks = bandwidth.unions(snapshot, gangs.devices, eligible, nodes, gpus)
    speed = bandwidth.predict(fleet, gangs.devices, tiers, nodes, masks, starts)
    total = np.add.reduceat(gpus, starts)
    terms = np.zeros((len(TERMS), len(packs)), dtype=np.int64)
    terms[0] = total * _shortfall(fleet, pod, gangs.devices, int(total[0]), speed)
    terms[1:3] = _losses(snapshot, nodes, gpus, starts)
    terms[3] = 1000 * _span(fleet, nodes, starts)
    weights = policy.gang_weights(gangs)
    totals = np.array([weights[name] for name in TERMS], dtype=np.int64) @ terms
    columns = zip(totals.tolist(), terms.T.tolist(), speed.tolist(), strict=True)
    return [Price(cost, tuple(zip(TERMS, column, strict=True)), mb_s) for cost, column, mb_s in columns]


def _flat(packs: Sequence[pack.Pack]) -> tuple[Ints, Ints, Ints]:
    """Lay packs one after the other."""
    nodes = np.concatenate([p.nodes for p in packs]).astype(np.int64)
    pods = np.concatenate([p.pods for p in packs]).astype(np.int64)
    starts = np.cumsum([0, *(len(p.nodes) for p in packs[:-1])], dtype=np.int64)
    return nodes, pods, starts


def _shortfall(fleet: topology.Topology, pod: demand.Demand, rule: policy.DeviceRule, gpus: int, speed: Ints) -> Ints:
    """Return by how many per mille each speed falls short of the best."""
    best = best_possible(fleet, pod.request.gpu_models, rule, gpus)
    return np.clip(1000 - 1000 * speed // best, 0, 1000) if best else np.zeros_like(speed)


@lru_cache(maxsize=4096)
def best_possible(fleet: topology.Topology, models: tuple[str, ...], rule: policy.DeviceRule, gpus: int) -> int:
    """Return a bandwidth that no placement of `gpus` GPUs exceeds on the empty fleet, MB/s; 0 for fewer than two.

    Notes
    -----
    The best of: one node with that many GPUs; one multi-node NVLink fabric with that many; NICs of the whole node over
    a network that is not oversubscribed.
    """
    table = bandwidth.rates(fleet, rule)
    best = 0
    fabric_gpus = np.bincount(table.fabric[table.fabric >= 0], fleet.gpus[table.fabric >= 0]).astype(np.int64)
    fabrics = set(np.flatnonzero(fabric_gpus >= gpus).tolist())
    for row, shape in enumerate(fleet.shapes):
        names = {gpu.model.name for gpu in shape.machine.gpus}
        if gpus < 2 or not names or (models and not names & set(models)):
            continue
        alone = int(shape.peak_table[gpus, -1]) if gpus <= shape.gpus else 0
        linked = bool(fabrics & set(table.fabric[fleet.shape == row].tolist()))
        outward = bandwidth.outward(shape, (1 << shape.gpus) - 1)
        best = max(best, alone, int(table.link[row]) if linked else 0, outward)
    return best


def _losses(snapshot: state.Snapshot, nodes: Ints, gpus: Ints, starts: Ints) -> Ints:
    """Return the worth that nodes and domains lose to each pack, shape (2, Q)."""
    fleet = snapshot.topology
    value = worth(fleet)
    size = fleet.gpus[nodes]
    free = np.bitwise_count(snapshot.free_mask[nodes]).astype(np.int64)
    losses = np.zeros((2, len(starts)), dtype=np.int64)
    losses[0] = np.add.reduceat(value.node[size, free] - value.node[size, free - gpus], starts)
    opened = ((free == size) & (gpus > 0)).astype(np.int64)
    intact = fleet.tree.sums(pack.untouched(fleet, snapshot).astype(np.int64))
    for level in value.between:
        vertex, run, owner = _runs(fleet, level, nodes, starts)
        broken = np.add.reduceat(opened, run) * (vertex >= 0)
        before = value.start[vertex] + intact[vertex]
        np.add.at(losses[1], owner, value.domain[before] - value.domain[before - broken])
    return losses


def _span(fleet: topology.Topology, nodes: Ints, starts: Ints) -> Ints:
    """Return the nodes and the domains between root and nodes that each pack touches."""
    span = np.diff(np.append(starts, len(nodes)))
    for level in worth(fleet).between:
        vertex, _, owner = _runs(fleet, level, nodes, starts)
        np.add.at(span, owner, (vertex >= 0).astype(np.int64))
    return span


def _runs(fleet: topology.Topology, level: int, nodes: Ints, starts: Ints) -> tuple[Ints, Ints, Ints]:
    """Return domain, first row and pack of every run of nodes that share a pack and a domain of a level.

    Nodes ascend inside a pack and the nodes of a domain are an interval, so every domain is one run.
    """
    above = fleet.tree.ancestor[level][nodes].astype(np.int64)
    first = np.ones(len(nodes), dtype=np.bool_)
    first[1:] = above[1:] != above[:-1]
    first[starts] = True
    run = np.flatnonzero(first)
    return above[run], run, np.searchsorted(starts, run, side="right") - 1
