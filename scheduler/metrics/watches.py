"""The mirror's watches: lists, interruptions, and how old what is known may be."""

import time
from collections.abc import Callable, Iterator

import prometheus_client
from prometheus_client import metrics_core, registry

from scheduler.apiserver import watch
from scheduler.kube import mirror, world


class Watches(registry.Collector):
    """Counts what watches tell; `heard` is what the mirror is given.

    Parameters
    ----------
    known : callable
        The world of this term, None before the first.
    """

    def __init__(self, own: prometheus_client.CollectorRegistry, known: Callable[[], world.World | None]) -> None:
        self._known = known
        self._lists = prometheus_client.Counter(
            "muster_mirror_lists",
            "Whole lists read of a kind: one at each start of a term, more after gaps.",
            ["kind"],
            registry=own,
        )
        self._interruptions = prometheus_client.Counter(
            "muster_mirror_interruptions",
            "Watches that broke, were refused or stalled; the server's own time limits are not counted.",
            ["kind"],
            registry=own,
        )
        self._changes = prometheus_client.Counter(
            "muster_mirror_changes", "Changes told by watches.", ["kind"], registry=own
        )
        self._broken: dict[str, float] = {}
        for kind in world.KINDS:  # so that a rate is there before the first
            for counter in (self._lists, self._interruptions, self._changes):
                counter.labels(kind.name)
        own.register(self)

    def heard(self, kind: str, event: watch.Event) -> None:
        """Take note of an event of a watch."""
        match event:
            case watch.Interrupted():
                self._interruptions.labels(kind).inc()
                self._broken.setdefault(kind, time.monotonic())
                return
            case watch.Listed():
                self._lists.labels(kind).inc()
            case watch.Changed() | watch.Deleted():
                self._changes.labels(kind).inc()
        self._broken.pop(kind, None)

    def began(self) -> None:
        """A term begins, with watches of its own."""
        self._broken.clear()

    def collect(self) -> Iterator[metrics_core.Metric]:
        age = metrics_core.GaugeMetricFamily(
            "muster_mirror_age_seconds",
            "Time since the watch of a kind was interrupted, 0 while it is open.",
            labels=["kind"],
        )
        objects = metrics_core.GaugeMetricFamily("muster_mirror_objects", "Objects known of a kind.", labels=["kind"])
        unreadable = metrics_core.GaugeMetricFamily(
            "muster_mirror_unreadable_objects", "Objects left out because they can't be read.", labels=["kind"]
        )
        known = self._known()
        if known is not None:
            self._fill(known.store, age, objects, unreadable)
        yield from (age, objects, unreadable)

    def _fill(
        self,
        store: mirror.Mirror,
        age: metrics_core.GaugeMetricFamily,
        objects: metrics_core.GaugeMetricFamily,
        unreadable: metrics_core.GaugeMetricFamily,
    ) -> None:
        now = time.monotonic()
        left_out = [kind for kind, _ in store.unreadable]
        for kind in store.kinds:
            age.add_metric([kind.name], now - self._broken.get(kind.name, now))
            objects.add_metric([kind.name], len(store[kind.name]))
            unreadable.add_metric([kind.name], left_out.count(kind.name))
