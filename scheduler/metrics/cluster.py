"""Gauges of fleet, queue and tenants, computed from the machine at each scrape."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import prometheus_client
from prometheus_client import metrics_core, registry

from scheduler.kube import shell as shells
from scheduler.kube import verifier
from scheduler.metrics import crowd, fleet, waste


@dataclass(slots=True, eq=False)
class Cluster(registry.Collector):
    """Reads the shell; runs on the loop's own thread, so that what it reads is of one instant.

    Parameters
    ----------
    shell : callable
        The shell of this term, None before the first.
    leading : callable
        Whether this process leads.
    """

    shell: Callable[[], shells.Shell | None]
    leading: Callable[[], bool]
    _waste: waste.Waste = field(default_factory=waste.Waste)
    _models: fleet.Models | None = None

    def register(self, own: prometheus_client.CollectorRegistry) -> None:
        """Be asked by a registry from now on."""
        own.register(self)

    def collect(self) -> Iterator[metrics_core.Metric]:
        began = time.perf_counter()
        leader = metrics_core.GaugeMetricFamily("muster_leader", "1 for the replica that plans and writes, else 0.")
        leader.add_metric([], int(self.leading()))
        yield leader
        term = metrics_core.GaugeMetricFamily("muster_term", "Number of the term that a leader leads in.")
        left_out = metrics_core.GaugeMetricFamily(
            "muster_rejected_nodes", "Nodes of the cluster that can't be planned on; the log names them."
        )
        now = self.shell()
        if now is not None:
            if self.leading():
                term.add_metric([], now.carrier.scribe.epoch)
            left_out.add_metric([], len(now.compiled.rejected))
        yield from (term, left_out)
        if now is not None:
            yield from self._gauges(now)
        took = metrics_core.GaugeMetricFamily(
            "muster_scrape_duration_seconds",
            "Time in which these gauges were computed for this scrape; the loop stood still.",
        )
        took.add_metric([], time.perf_counter() - began)
        yield took

    def _gauges(self, now: shells.Shell) -> Iterator[metrics_core.Metric]:
        core = now.machine
        if self._models is None or self._models.topology is not core.snapshot.topology:
            self._models = fleet.models(core.snapshot.topology)
        yield from fleet.families(core.snapshot, self._models, core.held)
        yield from crowd.families(core, now.followed.values(), now.clock())
        yield from self._waste.families(core)
        yield from _ownership(now.verifier)


def _ownership(found: verifier.Verifier) -> Iterator[metrics_core.Metric]:
    """Yield what the verifier sees."""
    twice = metrics_core.GaugeMetricFamily(
        "muster_shared_devices", "Devices that two claims hold though they can't share them; an Event names the claims."
    )
    twice.add_metric([], sum(map(len, found.standing.values())))
    bare = metrics_core.GaugeMetricFamily(
        "muster_unowned_devices", "Devices without the ownership taint, where all are said to be owned."
    )
    bare.add_metric([], sum(map(len, found.unowned.values())))
    yield from (twice, bare)
