"""A cluster as a user has it: control plane, simulated machines, other projects' controllers, and Muster beside them.

Everything is a real program; only the machines are kwok's. Muster runs as its command under its own account, with TLS and
leader election, its webhook is registered by URL, kube-scheduler asks its extender, and one taint rule owns all devices
of the driver where the version has such rules: all of it as deploy/scheduler has it.
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
from prometheus_client import parser, samples

from scheduler.apiserver import client
from tests.kube import live
from tests.testbed import cluster as clusters
from tests.testbed import kubeconfig, kwok, ports, process
from tests.testbed.controllers import jobset, kueue, lws, manifests, webhooks
from tests.testbed.fleet import create, presets

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "scheduler"
SPACE, NAME = "muster-system", "muster-scheduler"
READY_S = 60.0
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
        return self.home.parts.start(NAME, self.argv(*options), ready=self.ready, deadline_s=READY_S, cwd=ROOT)

    def argv(self, *options: str) -> list[str | Path]:
        """Return the command."""
        pair = self.home.authority.issue(NAME, ("127.0.0.1", "localhost", f"{NAME}.{SPACE}.svc"))
        found: list[str | Path] = [sys.executable, "-m", "scheduler.cli", "run", "--host", "127.0.0.1"]
        found += [f"--port={self.port}", f"--webhook-port={self.webhook_port}", "--kubeconfig", self._kubeconfig()]
        found += ["--tls-certificate", pair.cert, "--tls-key", pair.key, "--client-ca", self.home.authority.ca]
        return [*found, *options]

    def _kubeconfig(self) -> Path:
        """Write the file by which Muster acts as its own account, with the rights of deploy/ and no others."""
        token = self.home.kubectl("-n", SPACE, "create", "token", NAME, "--duration=24h").strip()
        path = self.home.folder / f"{NAME}.kubeconfig"
        return kubeconfig.write(path, self.home.server, self.home.authority.ca, token)

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

    def metrics(self) -> list[samples.Sample]:
        """Return what Muster counts and measures, sample by sample."""
        return [one for family in parser.text_string_to_metric_families(self.get("/metrics")) for one in family.samples]

    def extender(self) -> dict[str, Any]:
        """Return the entry of kube-scheduler's configuration."""
        own = self.home.authority.issue("kube-scheduler-extender")
        files = {"caFile": str(self.home.authority.ca), "certFile": str(own.cert), "keyFile": str(own.key)}
        [told] = manifest("kube-scheduler.yaml")[0]["extenders"]
        found: dict[str, Any] = told | {"urlPrefix": f"https://127.0.0.1:{self.port}"}
        return found | {"tlsConfig": told["tlsConfig"] | files}

    def _controller(self, name: str) -> None:
        match name:
            case "jobset":
                jobset.start(self.home)
            case "lws":
                lws.start(self.home)
            case "kueue":
                kueue.start(self.home, frameworks=FRAMEWORKS)
                asyncio.run(self._apply(manifest("kueue.yaml")))

    async def _furnish(self) -> None:
        async with await client.Client.connect(self.home.kubeconfig) as api:
            if self.fleet:
                await create.create(api, self.fleet, self.home.kubernetes.minor)
            classes = [live.device_class(), live.device_class("mig.muster.dev", "mig")]
            owned = manifest("ownership.yaml") if self.tainted else []
            installed = [one for name in ("namespace.yaml", "crd.yaml", "rbac.yaml") for one in manifest(name)]
            await manifests.apply(api, [*installed, *classes, *owned])

    async def _register(self) -> None:
        """Register the webhook of deploy/, with a URL in place of the service."""
        [registration] = manifest("webhook.yaml")
        await self._apply(webhooks.by_url([registration], self.webhook_port, self.home.authority.ca.read_bytes()))

    async def _apply(self, items: list[manifests.Object]) -> None:
        async with await client.Client.connect(self.home.kubeconfig) as api:
            await manifests.apply(api, items)


def manifest(name: str) -> list[manifests.Object]:
    """Return the objects of a file that users apply."""
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def of(home: clusters.Cluster, fleet: presets.Fleet = FLEET) -> Site:
    return Site(home, fleet, ports.one(), ports.one())
