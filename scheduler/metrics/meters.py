"""All metrics of one process in one registry."""

from collections.abc import Callable
from dataclasses import dataclass

import prometheus_client

from scheduler.kube import shell as shells
from scheduler.kube import world
from scheduler.metrics import cluster, requests, watches, work


@dataclass(frozen=True, slots=True, eq=False)
class Meters:
    """What is counted and by whom."""

    registry: prometheus_client.CollectorRegistry
    requests: requests.Requests
    watches: watches.Watches
    work: work.Work


def new(shell: Callable[[], shells.Shell | None], leading: Callable[[], bool]) -> Meters:
    """Return the metrics of a process.

    Parameters
    ----------
    shell : callable
        The shell of this term, None before the first.
    leading : callable
        Whether this process leads.
    """
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the series
    own = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=own)
    found = Meters(own, requests.Requests(own), watches.Watches(own, lambda: known(shell())), work.Work(own))
    cluster.Cluster(shell, leading).register(own)
    return found


def known(now: shells.Shell | None) -> world.World | None:
    """Return the world of a shell."""
    return now.known if now is not None else None
