"""A cluster as a user has it: control plane, simulated machines, other projects' controllers, and Muster beside them.

Everything is a real program; only the machines are kwok's. Muster runs as its command, with TLS and leader election, its
webhook is registered by URL, kube-scheduler asks its extender, and one taint rule owns all devices of the driver where
the version has such rules.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scheduler.apiserver import client
from scheduler.model import names
from tests.kube import live
from tests.testbed import cluster as clusters
from tests.testbed import kwok, ports, process
from tests.testbed.controllers import jobset, kueue, lws, manifests, webhooks
from tests.testbed.fleet import create, presets

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "scheduler"
NAME = "muster-scheduler"
DRIVER = "gpu.muster.dev"
READY_S = 60.0
WEIGHT = 13
FRAMEWORKS = ("batch/job", "jobset.x-k8s.io/jobset")
CONTROLLERS = ("jobset", "kueue", "lws")

FLEET = presets.Fleet(
    "e2e",
    (
        (presets.Rack("hgx-h100", 4), presets.Rack("hgx-h100", 4)),
        (presets.Rack(presets.NVL72, 4),),
    ),
)
"""Two racks of four machines of eight GPUs in one block, and four trays of four GPUs on one NVLink fabric."""


@dataclass(slots=True, eq=False)
class Site:
    """A cluster with Muster.

    Attributes
    ----------
    port : int
        Where Muster answers the extender on 127.0.0.1, to those who show a certificate.
    webhook_port : int
        Where it answers everybody else: webhook, probes, metrics.
    """

    home: clusters.Cluster
    fleet: presets.Fleet
    port: int
    webhook_port: int

    @property
    def tainted(self) -> bool:
        """Tell whether the version has device taints; else nothing but the gate protects the devices."""
        return self.home.kubernetes.minor >= 36

    def start(self, controllers: Sequence[str] = CONTROLLERS) -> None:
        """Start everything but the control plane itself."""
        if self.fleet:
            kwok.start(self.home, without=("pod-complete",))
        asyncio.run(self._furnish())
        for name in controllers:
            self._controller(name)
        self.start_muster()
        asyncio.run(self._register())
        self.home.parts.stop("kube-scheduler")
        self.home.control.start_scheduler({"extenders": [self.extender()]})

    def start_muster(self, *options: str) -> process.Process:
        """Run the command and wait until it is synced."""
        pair = self.home.authority.issue(NAME)
        argv = [sys.executable, "-m", "scheduler.cli", "run", "--host", "127.0.0.1", "--port", self.port]
        argv += ["--webhook-port", self.webhook_port, "--client-ca", self.home.authority.ca]
        argv += ["--kubeconfig", self.home.kubeconfig, "--tls-certificate", pair.cert, "--tls-key", pair.key, *options]
        return self.home.parts.start(NAME, argv, ready=self.ready, deadline_s=READY_S, cwd=ROOT)

    def stop_muster(self) -> None:
        self.home.parts.stop(NAME)

    def ready(self) -> bool:
        """Tell whether Muster is synced."""
        return bool(self.get("/readyz"))

    def get(self, path: str) -> str:
        """Return what Muster's server answers."""
        tls = ssl.create_default_context(cafile=str(self.home.authority.ca))
        with urllib.request.urlopen(f"https://127.0.0.1:{self.webhook_port}{path}", timeout=5, context=tls) as answer:
            text: str = answer.read().decode()
        return text

    def extender(self) -> dict[str, Any]:
        """Return the entry of kube-scheduler's configuration."""
        own = self.home.authority.issue("kube-scheduler-extender")
        trust = {"caFile": str(self.home.authority.ca), "certFile": str(own.cert), "keyFile": str(own.key)}
        return {
            "urlPrefix": f"https://127.0.0.1:{self.port}",
            "filterVerb": "filter",
            "prioritizeVerb": "prioritize",
            "weight": WEIGHT,
            "nodeCacheCapable": True,
            "httpTimeout": "2s",
            "ignorable": True,
            "enableHTTPS": True,
            "tlsConfig": trust,
        }

    def _controller(self, name: str) -> None:
        match name:
            case "jobset":
                jobset.start(self.home)
            case "lws":
                lws.start(self.home)
            case "kueue":
                kueue.start(self.home, frameworks=FRAMEWORKS)
                asyncio.run(self._apply(list(yaml.safe_load_all((DEPLOY / "kueue.yaml").read_text()))))

    async def _furnish(self) -> None:
        async with await client.Client.connect(self.home.kubeconfig) as api:
            if self.fleet:
                await create.create(api, self.fleet, self.home.kubernetes.minor)
            crd = yaml.safe_load((DEPLOY / "crd.yaml").read_text())
            space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "muster-system"}}
            classes = [live.device_class(), live.device_class("mig.muster.dev", "mig")]
            await manifests.apply(api, [space, crd, *classes, *([taint_rule()] if self.tainted else [])])

    async def _register(self) -> None:
        """Register the webhook of deploy/, with a URL in place of the service."""
        [registration] = yaml.safe_load_all((DEPLOY / "webhook.yaml").read_text())
        await self._apply(webhooks.by_url([registration], self.webhook_port, self.home.authority.ca.read_bytes()))

    async def _apply(self, items: list[manifests.Object]) -> None:
        async with await client.Client.connect(self.home.kubeconfig) as api:
            await manifests.apply(api, items)


def taint_rule() -> dict[str, Any]:
    """Return the rule that keeps every other allocator off our driver's devices."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceTaintRule",
        "metadata": {"name": "muster-owned"},
        "spec": {"deviceSelector": {"driver": DRIVER}, "taint": {"key": names.OWNED, "effect": "NoSchedule"}},
    }


def of(home: clusters.Cluster, fleet: presets.Fleet = FLEET) -> Site:
    return Site(home, fleet, ports.one(), ports.one())
