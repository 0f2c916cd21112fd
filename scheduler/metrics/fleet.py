"""GPUs of the fleet by model and state, and the room that is left in one domain of each level."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from prometheus_client import metrics_core

from scheduler.gang import holdings
from scheduler.snapshot import state, topology

STATES = ("free", "partial", "used", "closed", "failed")
"""Wholly free on an open node; shared or partitioned in part; wholly taken; free, but its node is shut; failed."""

MAX_MODELS = 32
"""Models that have series of their own; those with the most GPUs."""

OTHER = "other"

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Models:
    """Models of a fleet.

    Attributes
    ----------
    names : tuple of str, length M
    of : ndarray of int16, shape (N, G)
        Model of each GPU, -1 where a node has none.
    gpus : ndarray of int64, shape (M, V)
        GPUs of each model in each domain.
    """

    topology: topology.Topology
    names: tuple[str, ...]
    of: NDArray[np.int16]
    gpus: Counts


def models(fleet: topology.Topology) -> Models:
    """Return the models of a fleet, those beyond `MAX_MODELS` under one name."""
    counts: dict[str, int] = {}
    for node in fleet.nodes:
        for gpu in node.gpus:
            counts[gpu.model.name] = counts.get(gpu.model.name, 0) + 1
    most = sorted(counts, key=lambda name: (-counts[name], name))[:MAX_MODELS]
    names = (*sorted(most), OTHER) if len(counts) > len(most) else tuple(sorted(most))
    row = {name: i for i, name in enumerate(names)}
    found = np.full((len(fleet.nodes), fleet.width), -1, dtype=np.int16)
    for i, node in enumerate(fleet.nodes):
        for gpu in node.gpus:
            found[i, gpu.index] = row.get(gpu.model.name, len(names) - 1)
    return Models(fleet, names, found, _by_domain(fleet, found, np.ones_like(found, dtype=np.bool_), len(names)))


def families(
    snapshot: state.Snapshot, kinds: Models, held: Iterable[holdings.Holding]
) -> Iterator[metrics_core.Metric]:
    """Yield the gauges of the GPUs.

    Parameters
    ----------
    held : iterable of Holding
        Gangs with devices; those not confirmed yet are reservations.
    """
    states = metrics_core.GaugeMetricFamily(
        "muster_gpus", "GPUs of the fleet by model and state; the states add up to all.", labels=["model", "state"]
    )
    counts = by_state(snapshot, kinds)
    for model, row in zip(kinds.names, counts.tolist(), strict=True):
        for name, value in zip(STATES, row, strict=True):
            states.add_metric([model, name], value)
    yield states
    kept = metrics_core.GaugeMetricFamily(
        "muster_reserved_gpus", "GPUs kept for gangs that are not confirmed yet; part of those used.", labels=["model"]
    )
    for model, value in zip(kinds.names, reserved(kinds, held), strict=True):
        kept.add_metric([model], value)
    yield kept
    yield from _rooms(snapshot, kinds)


def by_state(snapshot: state.Snapshot, kinds: Models) -> Counts:
    """Count GPUs by model and state, shape (M, 5)."""
    bits = np.arange(snapshot.topology.width, dtype=np.uint32)
    failed = (snapshot.failed_gpus[:, None] >> bits & 1).astype(np.bool_)
    whole = (snapshot.gpu_free == state.FULL) & (snapshot.slices_used == 0)
    partial = (snapshot.slices_used > 0) | ((snapshot.gpu_free > 0) & ~whole)
    of_state = np.select(
        [failed, whole & snapshot.up[:, None], whole, partial],
        [STATES.index("failed"), STATES.index("free"), STATES.index("closed"), STATES.index("partial")],
        STATES.index("used"),
    )
    there = kinds.of >= 0
    cell = kinds.of[there].astype(np.int64) * len(STATES) + of_state[there]
    return np.bincount(cell, minlength=len(kinds.names) * len(STATES)).reshape(-1, len(STATES))


def reserved(kinds: Models, held: Iterable[holdings.Holding]) -> list[int]:
    """Count the GPUs of reservations by model."""
    counts = [0] * len(kinds.names)
    for one in held:
        for grant in one.placement.grants if one.expires < np.inf else ():
            for gpu in grant.gpus:
                counts[kinds.of[grant.node, gpu]] += 1
    return counts


def _rooms(snapshot: state.Snapshot, kinds: Models) -> Iterator[metrics_core.Metric]:
    """Yield, per level and model, the most free GPUs in one domain, and the domains that are wholly free."""
    tree = snapshot.topology.tree
    bits = np.arange(snapshot.topology.width, dtype=np.uint32)
    free = (snapshot.free_mask[:, None] >> bits & 1).astype(np.bool_)
    room = _by_domain(snapshot.topology, kinds.of, free, len(kinds.names))
    domains, most, idle = (
        metrics_core.GaugeMetricFamily(f"muster_{name}", text, labels=["level", "model"])
        for name, text in (
            ("domains", "Domains of a level that have GPUs of a model."),
            ("domain_free_gpus_max", "The most wholly free GPUs of a model in one domain of a level."),
            ("idle_domains", "Domains of a level in which all GPUs of a model are free."),
        )
    )
    for level, name in enumerate(tree.levels):
        at = tree.domains_at(level)
        for m, model in enumerate(kinds.names):
            has = at[kinds.gpus[m, at] > 0]
            domains.add_metric([name, model], len(has))
            most.add_metric([name, model], int(room[m, has].max(initial=0)))
            idle.add_metric([name, model], int((room[m, has] == kinds.gpus[m, has]).sum()))
    yield from (domains, most, idle)


def _by_domain(fleet: topology.Topology, of: NDArray[np.int16], which: NDArray[np.bool_], count: int) -> Counts:
    """Count GPUs by model and domain, shape (M, V)."""
    per_node = [((of == m) & which).sum(axis=1).astype(np.int64) for m in range(count)]
    return np.array([fleet.tree.sums(one) for one in per_node], dtype=np.int64).reshape(count, len(fleet.tree.names))
