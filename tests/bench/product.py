"""Muster as it is deployed, on and off: TLS, leader election, webhook by URL, extender, ownership rule, its own account.

Off is stock: no process of ours, no taint rule, kube-scheduler with its default configuration, and namespaces that the
webhook does not look at.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from prometheus_client import parser

from scheduler.apiserver import client
from tests.kube import live
from tests.live import site as sites
from tests.testbed import cluster, process
from tests.testbed.controllers import manifests, webhooks
from tests.testbed.fleet import presets

NAME = sites.NAME
SYNC_S = 240.0
NOBODY = presets.Fleet("none", ())
"""The bench has made the nodes already."""

COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
"""Programs that are installed have their bytecode; without it each start compiles for seconds."""

Labels = tuple[tuple[str, str], ...]
Metrics = Mapping[tuple[str, Labels], float]


@dataclass(slots=True, eq=False)
class Product:
    """Muster beside the control plane of one cluster."""

    site: sites.Site
    api: client.Client

    @classmethod
    async def install(cls, made: cluster.Cluster, api: client.Client) -> "Product":
        """Apply what users apply, but for the rule that owns the devices."""
        site = sites.of(made, NOBODY)
        classes = [live.device_class(), live.device_class("mig.muster.dev", "mig")]
        found = [one for name in ("namespace.yaml", "crd.yaml", "rbac.yaml") for one in sites.manifest(name)]
        hooks = webhooks.by_url(sites.manifest("webhook.yaml"), site.webhook_port, made.authority.ca.read_bytes())
        await manifests.apply(api, [*found, *classes, *hooks])
        return cls(site, api)

    async def on(self) -> float:
        """Run Muster and have kube-scheduler ask it; return the seconds from the start of its process until it leads."""
        if self.site.tainted:
            await manifests.apply(self.api, sites.manifest("ownership.yaml"))
        home, argv = self.site.home, self.site.argv()
        began = time.monotonic()
        home.parts.start(NAME, argv, COMPILED, self._leads, SYNC_S, sites.ROOT)
        sync_s = time.monotonic() - began
        self._schedule({"extenders": [self.site.extender()]})
        return sync_s

    async def off(self) -> None:
        """Leave kube-scheduler alone with its own allocation."""
        self.site.stop_muster()
        if self.site.tainted:
            [rule] = sites.manifest("ownership.yaml")
            await self.api.delete(f"/apis/{rule['apiVersion']}/devicetaintrules/{rule['metadata']['name']}")
        self._schedule({})

    @property
    def part(self) -> process.Process:
        """Return the program, while it is on."""
        return self.site.home.parts.parts[NAME]

    def watched(self) -> psutil.Process:
        return psutil.Process(self.part.pid)

    def memory(self) -> tuple[float, float]:
        """Return the resident memory now and the most that it was, MiB."""
        status = Path(f"/proc/{self.part.pid}/status").read_text().splitlines()
        found = {name: value for name, _, value in (line.partition(":") for line in status)}
        return int(found["VmRSS"].split()[0]) / 1024, int(found["VmHWM"].split()[0]) / 1024

    def metrics(self) -> Metrics:
        """Return all samples that Muster's own server gives."""
        families = parser.text_string_to_metric_families(self.site.get("/metrics"))
        return {(one.name, tuple(sorted(one.labels.items()))): one.value for each in families for one in each.samples}

    def _leads(self) -> bool:
        return self.site.ready() and self.metrics()["muster_leader", ()] == 1.0

    def _schedule(self, changes: Mapping[str, object]) -> None:
        """Start kube-scheduler anew with a changed configuration."""
        self.site.home.parts.stop("kube-scheduler")
        self.site.home.control.start_scheduler(changes)


def grown(before: Metrics, after: Metrics, name: str, **labels: str) -> float:
    """Return by how much a counter grew."""
    key = name, tuple(sorted(labels.items()))
    return after.get(key, 0.0) - before.get(key, 0.0)


def quantile(spans: Iterable[tuple[Metrics, Metrics]], name: str, share: float, **labels: str) -> float | None:
    """Return a quantile of a histogram over some spans of time, as Prometheus has it: linear within a bucket.

    None where nothing was observed, or where the quantile is above the last bucket.
    """
    counts: dict[float, float] = {}
    for before, after in spans:
        for sample, own in after:
            rest = dict(own)
            if sample == f"{name}_bucket" and (bound := rest.pop("le")) and rest == labels:
                counts[float(bound)] = counts.get(float(bound), 0.0) + grown(before, after, sample, **dict(own))
    whole, lower, below = counts.get(float("inf"), 0.0), 0.0, 0.0
    for upper, count in sorted(counts.items()):
        if whole and count >= share * whole:
            return (
                None if upper == float("inf") else lower + (upper - lower) * (share * whole - below) / (count - below)
            )
        lower, below = upper, count
    return None
