"""Fragmentation: the free GPUs that the workload can't use, by the measure that scoring and the simulator use."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from prometheus_client import metrics_core

from scheduler.gang import machine as machines
from scheduler.placement import target
from scheduler.placement.score import fragmentation
from scheduler.snapshot import state, topology

MAX_ITEMS = 16
"""Kinds of pods that the measure asks about: the most frequent ones."""


@dataclass(slots=True, eq=False)
class Waste:
    """Keeps the measure and its last result, which cost more than to read them.

    Notes
    -----
    The target is the policy's where it has one, else what gangs hold and wait for now, pods of the same request added
    up. Source of the measure: see `scheduler.placement.score.fragmentation`.
    """

    _key: tuple[topology.Topology, target.TargetWorkload] | None = None
    _measure: fragmentation.Fragmentation | None = None
    _version: int = -1
    _gpus: float = 0.0

    def families(self, core: machines.Machine) -> Iterator[metrics_core.Metric]:
        """Yield the gauges; without a target they have no samples."""
        lost = metrics_core.GaugeMetricFamily(
            "muster_fragmented_gpus", "Free GPUs that the average pod of the workload can't use."
        )
        share = metrics_core.GaugeMetricFamily(
            "muster_fragmentation_ratio", "The same as a share of the GPUs on open nodes that have not failed."
        )
        found, snapshot = self.gpus(core), core.snapshot
        if found is not None:
            up = open_gpus(snapshot)
            lost.add_metric([], found)
            share.add_metric([], found / up if up else 0.0)
        yield from (lost, share)

    def gpus(self, core: machines.Machine) -> float | None:
        """Return the fragmentation in GPUs, None without a target."""
        measure = self._compiled(core)
        if not measure.total:
            return None
        snapshot = core.snapshot
        if self._version != snapshot.version:
            nodes = np.arange(len(snapshot.up))
            found = measure.of(snapshot.gpu_free.astype(np.int64), snapshot.cpu_free, nodes)
            self._gpus, self._version = float(found.sum()) / measure.total / state.FULL, snapshot.version
        return self._gpus

    def _compiled(self, core: machines.Machine) -> fragmentation.Fragmentation:
        """Return the measure for the policy's target, or for what is there."""
        if core.scoring.target.items:
            return core.scoring.tables.whole
        wanted = observed(core)
        key = core.scoring.topology, wanted
        if self._measure is None or self._key is None or self._key[0] is not key[0] or self._key[1] != wanted:
            self._measure, self._key, self._version = fragmentation.compile_fragmentation(*key), key, -1
        return self._measure


def observed(core: machines.Machine) -> target.TargetWorkload:
    """Return what gangs hold and wait for now: pods with GPUs by request, at most `MAX_ITEMS` kinds."""
    roles = [role for one in core.held for role in one.gang.roles]
    roles += [role for entry in core.queue.waiting.values() for role in entry.gang.roles]
    found = target.from_requests((role.request, role.count) for role in roles if role.request.gpus)
    most = sorted(found.items, key=lambda item: -item.count)[:MAX_ITEMS]
    return target.TargetWorkload(tuple(most))


def open_gpus(snapshot: state.Snapshot) -> int:
    """Return the GPUs on open nodes that have not failed."""
    failed = np.bitwise_count(snapshot.failed_gpus).astype(np.int64)
    return int((snapshot.topology.gpus - failed)[snapshot.up].sum())
