"""Answers about the fleet: the tree of domains, who uses which devices, and how scattered the free ones are."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.gang import quota
from scheduler.kube import explain, explained, followed
from scheduler.model import device
from scheduler.snapshot import state

MAX_DOMAINS = 10_000
"""Domains in one answer: 2 MB."""

SIZES = (1, 2, 4, 8, 16)
"""GPUs per pod for which the fragmentation is told, as far as nodes have so many."""

LARGEST = 3
"""Domains of each level that are named as having most free."""

WHOLE = device.WHOLE_GPU_MILLI

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Use:
    """GPUs of each node by use, (N,); the six after `gpus` add up to it."""

    gpus: Ints
    free: Ints
    whole: Ints
    shared: Ints
    partitioned: Ints
    failed: Ints
    closed: Ints

    @property
    def used(self) -> Ints:
        """Return the GPUs of which somebody holds a part."""
        return self.whole + self.shared + self.partitioned


def use(snapshot: state.Snapshot) -> Use:
    """Count the GPUs of each node by use."""
    fleet, free = snapshot.topology, snapshot.gpu_free
    there = np.arange(fleet.width)[None, :] < fleet.gpus[:, None]
    failed = (snapshot.failed_gpus[:, None] >> np.arange(fleet.width)[None, :]) & 1 == 1
    cut = snapshot.slices_used > 0
    idle = there & (free == WHOLE) & ~cut
    up = snapshot.up[:, None]
    parts = (
        there,
        idle & up,
        there & (free == 0) & ~cut & ~failed,
        there & (free > 0) & (free < WHOLE) & ~cut,
        there & cut,
        there & failed & ~cut,
        idle & ~up,
    )
    return Use(*(part.sum(axis=1, dtype=np.int64) for part in parts))


def topology(told: explain.Explain, under: str, depth: int) -> explained.Topology:
    """Return the tree of domains, or the part of it under a domain; `depth` levels of it, 0 for all.

    Raises
    ------
    Missing
        There is no domain of that name.
    """
    compiled = told.shell.compiled
    snapshot = told.shell.machine.snapshot
    tree = snapshot.topology.tree
    top = _vertex(tree.names, under)
    lowest = int(tree.level[top]) + depth if depth else len(tree.levels)
    wanted = [v for v in range(top, int(tree.end[top])) if tree.level[v] < lowest]
    found = domains(snapshot, wanted[:MAX_DOMAINS])
    return explained.Topology(
        by=told.by(),
        levels=list(tree.levels),
        domains=found,
        cut=len(found) < int(tree.end[top]) - top,
        left_out=[explained.LeftOut(node=node, why=why) for node, why in sorted(compiled.rejected.items())],
    )


def domains(snapshot: state.Snapshot, vertices: Iterable[int]) -> list[explained.Domain]:
    """Return domains with what is free in them."""
    tree, counted = snapshot.topology.tree, use(snapshot)
    sums = [tree.sums(part) for part in (counted.gpus, counted.free, counted.used, counted.failed)]
    closed = tree.sums((~snapshot.up).astype(np.int64))
    return [
        explained.Domain(
            name=tree.names[v],
            level=tree.levels[tree.level[v]],
            parent=tree.names[tree.parent[v]] if tree.parent[v] >= 0 else "",
            nodes=int(tree.last_node[v] - tree.first_node[v]),
            closed=int(closed[v]),
            gpus=int(sums[0][v]),
            free=int(sums[1][v]),
            used=int(sums[2][v]),
            failed=int(sums[3][v]),
        )
        for v in vertices
    ]


def top(told: explain.Explain, most: int) -> explained.Top:
    """Return the fleet at a glance, with at most so many nodes."""
    snapshot = told.shell.machine.snapshot
    counted = use(snapshot)
    return explained.Top(
        by=told.by(),
        devices=_devices(counted, _others(told)),
        fragmentation=list(fragmentation(snapshot, counted)),
        largest=domains(snapshot, _largest(snapshot)),
        tenants=list(_tenants(told.seen())),
        total_nodes=len(snapshot.topology.nodes),
        nodes=[_node(told, counted, row) for row in _busiest(counted, most)],
    )


def fragmentation(snapshot: state.Snapshot, counted: Use) -> Iterator[explained.Fragment]:
    """Yield, for pods of several sizes, how many of the free GPUs they could not use."""
    free, total = counted.free, int(counted.free.sum())
    for size in SIZES:
        if size > snapshot.topology.width:
            return
        unusable = int((free % size).sum())
        yield explained.Fragment(size=size, unusable=unusable, share=round(unusable / total, 4) if total else 0.0)


def _vertex(names: tuple[str, ...], under: str) -> int:
    if not under:
        return 0
    if under not in names:
        raise explain.Missing(f"domain {under}: the fleet has no such domain; ask without `under` for all of them")
    return names.index(under)


def _devices(counted: Use, others: int) -> explained.Devices:
    return explained.Devices(
        gpus=int(counted.gpus.sum()),
        free=int(counted.free.sum()),
        whole=int(counted.whole.sum()),
        shared=int(counted.shared.sum()),
        partitioned=int(counted.partitioned.sum()),
        failed=int(counted.failed.sum()),
        closed=int(counted.closed.sum()),
        others=others,
    )


def _others(told: explain.Explain) -> int:
    """Count the GPUs of which somebody who is no gang holds a part."""
    held: dict[int, int] = {}
    for grant in told.shell.machine.foreign.grants():
        held[grant.node] = held.get(grant.node, 0) | grant.mask
    return sum(mask.bit_count() for mask in held.values())


def _largest(snapshot: state.Snapshot) -> Iterator[int]:
    """Yield the domains of each level that have most wholly free GPUs, coarsest level first."""
    tree = snapshot.topology.tree
    for level in range(1, len(tree.levels)):
        vertices = tree.domains_at(level)
        order = np.lexsort((vertices, -snapshot.free_in[vertices]))
        yield from vertices[order][:LARGEST].tolist()


def _tenants(seen: Iterable[followed.Followed]) -> Iterator[explained.Tenant]:
    milli, running, waiting = Counter[str](), Counter[str](), Counter[str]()
    for one in seen:
        gang = one.workload.gang
        if gang is None:
            continue
        if one.placement is not None or one.plan is not None:
            milli[gang.tenant] += quota.gpu_milli(gang)
            running[gang.tenant] += 1
        else:
            waiting[gang.tenant] += 1
    for tenant in sorted({*running, *waiting}):
        yield explained.Tenant(tenant=tenant, gpu_milli=milli[tenant], running=running[tenant], waiting=waiting[tenant])


def _busiest(counted: Use, most: int) -> list[int]:
    rows = np.arange(len(counted.gpus))
    order: list[int] = np.lexsort((rows, -counted.used))[:most].tolist()
    return order


def _node(told: explain.Explain, counted: Use, row: int) -> explained.NodeUse:
    core, compiled = told.shell.machine, told.shell.compiled
    snapshot, fleet = core.snapshot, core.snapshot.topology
    name, above = fleet.nodes[row].name, int(fleet.tree.parent[fleet.tree.vertex[row]])
    return explained.NodeUse(
        node=name,
        domain=fleet.tree.names[above] if above >= 0 else "",
        closed=compiled.closed.get(name, "" if snapshot.up[row] else "failed"),
        gpus=int(counted.gpus[row]),
        free=int(counted.free[row]),
        whole=int(counted.whole[row]),
        shared=int(counted.shared[row]),
        partitioned=int(counted.partitioned[row]),
        failed=int(counted.failed[row]),
        cpu_milli=int(fleet.cpu_milli[row]),
        cpu_free_milli=int(snapshot.cpu_free[row]),
        memory_mib=int(fleet.memory_mib[row]),
        memory_free_mib=int(snapshot.memory_free[row]),
        gangs=[one.gang.name for one in core.held.on_node(row)],
    )
