"""Why a gang does not fit: the true blocking constraint, the nearest domain, and what is missing there."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from scheduler.model import admission, reasons
from scheduler.model import gang as gangs
from scheduler.model import request as requests
from scheduler.placement import domains, fit, unsuited
from scheduler.placement.block import Block, join
from scheduler.snapshot import admitted, demand, state, topology

Ints = NDArray[np.int64]


def no_such_level(gang: gangs.Gang, level: str, fields: Sequence[str], levels: Sequence[str]) -> reasons.Rejection:
    """Return the refusal of a gang that names a level, in some fields, which the fabric does not have."""
    detail = f"{' and '.join(fields)}: write one of {', '.join(levels)}"
    return reasons.Rejection(gang.name, reasons.Reason.NO_SUCH_LEVEL, level, permanent=True, detail=detail)


def refuse(
    snapshot: state.Snapshot, gang: gangs.Gang, wanted: Sequence[demand.Demand], within: int = 0
) -> reasons.Rejection:
    """Return the refusal of a gang for which the engine found no placement.

    Parameters
    ----------
    wanted : sequence of Demand
        One per role.
    within : int
        Vertex of the domain to which the search was confined.

    Notes
    -----
    Permanent when not even the empty fleet holds the gang; that answer is kept by gang and topology, so that it costs
    microseconds when the gang comes again. The reason is the first that applies:

    1. no GPU of the fleet suits the pod: `NO_SUCH_DEVICE`; no node with such GPUs has what the pod's selector or
       affinity asks for: `NO_SUCH_NODE`; all that have are tainted otherwise than it tolerates: `TAINTS`, which is never
       permanent, since taints come and go;
    2. the fleet has too few pods' worth of one resource, or of several together: that resource (`SHAPE` for GPUs that
       are free but scattered over nodes; `TOO_LARGE` when it is the empty fleet that has too few);
    3. no domain of the required level has: `DOMAIN`;
    4. segments, or the spread limit, reduce what fits below the count: `SEGMENT`, `SPREAD`;
    5. several roles fit one by one but not in sum: the resource whose sum is too large;
    6. nothing above: `SEARCH_LIMIT`, the only refusal that is no proof.
    """
    impossible = never(snapshot.topology, gang)
    if impossible is not None:
        return impossible
    block = _block(snapshot, gang, wanted, within)
    if block is None:
        block = Block(reasons.Reason.SEARCH_LIMIT, gang.constraint.required, detail="every role fits by itself")
    return block.of(gang)


def never(fleet: topology.Topology, gang: gangs.Gang) -> reasons.Rejection | None:
    """Return the permanent refusal of a gang that the empty fleet provably can't hold, None for every other."""
    anonymous = replace(gang, name="", tenant="", priority=0, expected_s=0.0, decision_id="")
    if admitted.tainted(fleet):
        anonymous = replace(anonymous, roles=tuple(map(_untainted, gang.roles)))
    block = _never(fleet, anonymous)
    return None if block is None else block.of(gang, permanent=True)


def _untainted(role: gangs.Role) -> gangs.Role:
    """Return a role for which no taint counts."""
    nodes = replace(role.request.nodes, tolerations=admission.ANYTHING)
    return replace(role, request=replace(role.request, nodes=nodes))


def sums(
    snapshot: state.Snapshot, wanted: Sequence[demand.Demand], counts: Sequence[int]
) -> Iterator[tuple[reasons.Reason, str, Ints, int]]:
    """Yield what several roles need in sum: reason, unit, units free in every domain, units needed."""
    whole = [pod.gpus if pod.kind is requests.RequestKind.WHOLE else 0 for pod in wanted]
    tree, up = snapshot.topology.tree, snapshot.up
    per_pod = (
        (reasons.Reason.GPUS, "GPUs", whole, np.bitwise_count(snapshot.free_mask).astype(np.int64)),
        (reasons.Reason.CPU, "milli-CPU", [pod.cpu_milli for pod in wanted], snapshot.cpu_free),
        (reasons.Reason.MEMORY, "MiB of memory", [pod.memory_mib for pod in wanted], snapshot.memory_free),
        (reasons.Reason.PODS, "pod slots", [1] * len(wanted), snapshot.pods_free),
    )
    for reason, unit, each, free in per_pod:
        need = sum(count * units for count, units in zip(counts, each, strict=True))
        if need:
            yield reason, unit, tree.sums(free * up), need


def smallest(gang: gangs.Gang) -> list[int]:
    """Return the pods per role of the smallest part of a gang that may start: whole segments, at least the minimum."""
    counts: list[int] = []
    left = gang.minimum
    for role in gang.roles:
        step = role.segment.size if role.segment else 1
        counts.append(min(role.count, -(-max(left, 0) // step) * step))
        left -= counts[-1]
    return counts


def parts(gang: gangs.Gang) -> Iterator[list[int]]:
    """Yield the parts of a gang that keep the front of the rank order, in whole segments, smallest first."""
    counts = [0] * len(gang.roles)
    for row, role in enumerate(gang.roles):
        step = role.segment.size if role.segment else 1
        for count in range(step, role.count + 1, step):
            counts[row] = count
            yield list(counts)


@lru_cache(maxsize=4096)
def _never(fleet: topology.Topology, gang: gangs.Gang) -> Block | None:
    """Return what keeps a gang out of the empty fleet, None when nothing provably does."""
    wanted = [demand.compile_demand(fleet, role.request) for role in gang.roles]
    block = _block(fit.empty_fleet(fleet), gang, wanted)
    scarce = (reasons.Reason.GPUS, reasons.Reason.CPU, reasons.Reason.MEMORY, reasons.Reason.NICS, reasons.Reason.PODS)
    if block and not block.level and block.reason in scarce and block.resource != "pods":
        return replace(block, reason=reasons.Reason.TOO_LARGE)
    return block


def _block(
    snapshot: state.Snapshot, gang: gangs.Gang, wanted: Sequence[demand.Demand], within: int = 0
) -> Block | None:
    """Return what blocks a gang on a snapshot, None when counts do not tell."""
    counts = smallest(gang)
    for role, pod, count in zip(gang.roles, wanted, counts, strict=True):
        if not count:
            continue
        limit = domains.bounds(snapshot.topology.tree, gang.constraint, role)
        block = role_block(snapshot, pod, limit, count, within)
        if block:
            return replace(block, detail=join(f"role {role.name}" if len(gang.roles) > 1 else "", block.detail))
    return _sum_block(snapshot, gang, wanted, counts, within) if len(gang.roles) > 1 else None


def role_block(
    snapshot: state.Snapshot, pod: demand.Demand, limit: domains.Bounds, need: int, within: int = 0
) -> Block | None:
    """Return what keeps `need` pods of one role out of a domain, None when they fit.

    Notes
    -----
    Exact in both directions: the role has a placement by itself if and only if this is None.
    """
    fabric_tree = snapshot.topology.tree
    counts = fit.pods_that_fit(snapshot, pod) * _inside(snapshot, within)
    held = domains.capacity(fabric_tree, counts, limit)
    vertex, most = domains.largest(fabric_tree, held, within)
    if most >= need:
        return None
    level = fabric_tree.levels[limit.required] if limit.required else ""
    if not pod.eligible.any():
        return unsuited.refused(snapshot.topology, pod, level, need)
    nearest = fabric_tree.names[vertex] if vertex >= 0 else ""
    if int(counts.sum(dtype=np.int64)) < need:
        block = _resource_block(snapshot, pod, vertex, need, level, need - most, within)
    else:
        block = Block(_topology_reason(snapshot, counts, limit, need), level, nearest, need - most)
    return replace(block, detail=join(block.detail, unsuited.left_out(snapshot.topology, pod)))


def _topology_reason(snapshot: state.Snapshot, counts: fit.Counts, limit: domains.Bounds, need: int) -> reasons.Reason:
    """Tell which topology constraint blocks where the fleet as a whole has room: the first that does without the next.

    The order is domain, segment, spread.
    """
    fabric_tree = snapshot.topology.tree

    def holds(without: domains.Bounds) -> bool:
        return domains.largest(fabric_tree, domains.capacity(fabric_tree, counts, without))[1] >= need

    no_spread = replace(limit, spread=domains.NO_LEVEL, max_pods=fit.UNLIMITED)
    if not holds(replace(no_spread, segment=domains.NO_LEVEL, segment_size=1)):
        return reasons.Reason.DOMAIN
    if limit.segment == domains.NO_LEVEL:
        return reasons.Reason.SPREAD
    if limit.spread == domains.NO_LEVEL or not holds(no_spread):
        return reasons.Reason.SEGMENT
    return reasons.Reason.SPREAD


def _resource_block(
    snapshot: state.Snapshot, pod: demand.Demand, vertex: int, need: int, level: str, lacking_pods: int, within: int
) -> Block:
    """Tell which resource blocks where all of the domain `within` has room for fewer pods than needed."""
    nearest = snapshot.topology.tree.names[vertex] if vertex >= 0 else ""
    inside = _inside(snapshot, within)
    every = fit.limits(snapshot, pod)
    found = [replace(limit, free=limit.free * inside, pods=limit.pods * inside) for limit in every]
    alone = [int(limit.pods.sum(dtype=np.int64)) for limit in found]
    if min(alone) >= need:
        limit = found[_best_to_relax(found)]
        others = ", ".join(other.unit for other in found if other is not limit and other.reason is not POD_SLOTS)
        detail = f"enough {limit.unit} in all, but not where there are {others}" if others else ""
        return Block(limit.reason, level, nearest, lacking_pods, detail=detail)
    limit = found[alone.index(min(alone))]
    free, pods = _amounts(snapshot, limit, vertex)
    if limit.reason is reasons.Reason.GPUS and int(limit.free.sum()) >= need * limit.each:
        return Block(reasons.Reason.SHAPE, level, nearest, need - pods)
    if free < need * limit.each:
        return Block(limit.reason, level, nearest, need * limit.each - free, limit.unit)
    return Block(limit.reason, level, nearest, need - pods)


POD_SLOTS = reasons.Reason.PODS


def _best_to_relax(found: Sequence[fit.Limit]) -> int:
    """Return the resource without which most pods would fit; the first of equals."""
    totals = []
    for row in range(len(found)):
        others = [limit.pods for i, limit in enumerate(found) if i != row]
        totals.append(int(np.minimum.reduce(others).sum(dtype=np.int64)))
    return totals.index(max(totals))


def _inside(snapshot: state.Snapshot, domain: int) -> NDArray[np.int32]:
    """Return 1 for the nodes of a domain and 0 for all others."""
    fabric_tree = snapshot.topology.tree
    inside = np.zeros(len(snapshot.up), dtype=np.int32)
    inside[fabric_tree.first_node[domain] : fabric_tree.last_node[domain]] = 1
    return inside


def _amounts(snapshot: state.Snapshot, limit: fit.Limit, vertex: int) -> tuple[int, int]:
    """Return the units of a resource free in a domain, and the pods that it alone allows there."""
    if vertex < 0:
        return 0, 0
    fabric_tree = snapshot.topology.tree
    part = slice(int(fabric_tree.first_node[vertex]), int(fabric_tree.last_node[vertex]))
    return int(limit.free[part].sum()), int(limit.pods[part].sum(dtype=np.int64))


def _sum_block(
    snapshot: state.Snapshot, gang: gangs.Gang, wanted: Sequence[demand.Demand], counts: Sequence[int], within: int
) -> Block | None:
    """Return the resource of which no domain of the gang's required level has enough for all roles together."""
    fabric_tree = snapshot.topology.tree
    end, top = int(fabric_tree.end[within]), int(fabric_tree.level[within])
    level = fabric_tree.level_index(gang.constraint.required) if gang.constraint.required else 0
    vertices = np.flatnonzero(fabric_tree.level[within:end] == max(level or 0, top)) + within
    for reason, unit, free, need in sums(snapshot, wanted, counts):
        best = int(vertices[np.argmax(free[vertices])])
        lacking = need - int(free[best])
        if lacking > 0:
            names = gang.constraint.required, fabric_tree.names[best]
            return Block(reason, *names, lacking, unit, detail="all roles together")
    return None
