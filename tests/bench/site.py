"""A node for the driver: files of the host, an API server and the driver's command, each a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from dra_driver import claim
from scheduler.apiserver import client, paths
from scheduler.model import claim as model_claim
from scheduler.model import node as model_node
from tests.bench import figure, served, synced
from tests.driver import kubelet, metrics
from tests.hardware import library, machine, sysfs
from tests.testbed import objects, ports, process

READY_S = 60.0
CLAIMS = paths.of(paths.RESOURCE, "resourceclaims", "default")
SLICES = paths.of(paths.RESOURCE, "resourceslices")


@dataclass
class Site:
    """A driver that serves its node, and a kubelet in this process that calls it."""

    folder: Path
    api: client.Client
    kubelet: kubelet.Kubelet
    driver: subprocess.Popen[bytes]
    port: int
    registered_s: float

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()[-800:]

    def fsyncs(self, after: int = 0) -> list[float]:
        """Return the seconds of the driver's fsyncs but of the first ones."""
        return synced.entries(self.folder / "fsyncs", after)

    def resident(self) -> float:
        """Return the resident memory of the driver, MiB."""
        if self.driver.poll() is not None:
            raise figure.Missing(f"the driver ended: {self.log}")
        return psutil.Process(self.driver.pid).memory_info().rss / 2**20

    async def scrape(self) -> str:
        """Return the driver's metrics."""
        url = f"http://127.0.0.1:{self.port}/metrics"
        return await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())

    async def claim(self, name: str, *results: dict[str, Any] | str) -> claim.Reference:
        """Create a claim that has its devices; a name stands for a whole device."""
        made = await self.api.create(CLAIMS, objects.claim(name, "gpu", len(results)))
        rows = [
            {"request": "gpu", "driver": model_claim.DRIVER, "pool": served.NODE}
            | ({"device": row} if isinstance(row, str) else row)
            for row in results
        ]
        reserved = [{"resource": "pods", "name": name, "uid": f"pod-of-{name}"}]
        made["status"] = {"allocation": {"devices": {"results": rows}}, "reservedFor": reserved}
        await self.api.replace(f"{CLAIMS}/{name}/status", made)
        return claim.reference("default", name, made["metadata"]["uid"])

    async def published(self) -> list[dict[str, Any]]:
        """Return the devices in the slices once they are complete."""
        async with asyncio.timeout(READY_S):
            while True:
                found, _ = await self.api.list(SLICES)
                if found and len(found) == found[0]["spec"]["pool"]["resourceSliceCount"]:
                    return [one for item in found for one in item["spec"].get("devices") or ()]
                await asyncio.sleep(0.05)

    async def watch_health(self) -> None:
        """Read the health stream as the kubelet does, until cancelled."""
        assert self.kubelet.plugin.health is not None
        messages, services = kubelet.HEALTH[self.kubelet.plugin.health]
        stub = services.DRAResourceHealthStub(self.kubelet.plugin.channel)
        async for _ in stub.NodeWatchResources(messages.NodeWatchResourcesRequest()):
            pass


@contextlib.asynccontextmanager
async def serving(topology: model_node.NodeTopology) -> AsyncIterator[Site]:
    """Start everything; it is registered and its slices are published from then on."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="muster-")))
        sysfs.render(topology, folder / "root")
        for name in ("registry", "plugins", "cdi"):
            (folder / name).mkdir()
        await _api_server(folder, stack)
        async with (
            await client.Client.connect(folder / "kubeconfig") as api,
            metrics.kubelet(folder / "pods.sock", metrics.Lister()),
            kubelet.Kubelet(folder / "registry") as node,
        ):
            (port,) = ports.free(1)
            began = time.monotonic()
            driver = _started(stack, _argv(folder, port), folder / "log", machine.render(topology, folder))
            made = Site(folder, api, node, driver, port, 0.0)
            while not node.plugins:
                if driver.poll() is not None or time.monotonic() - began > READY_S:
                    raise figure.Missing(f"the driver did not register: {made.log}")
                await asyncio.sleep(0.01)
                await node.scan()
            made.registered_s = time.monotonic() - began
            await made.published()
            yield made


async def _api_server(folder: Path, stack: contextlib.ExitStack) -> None:
    argv = [sys.executable, "-m", "tests.bench.served", str(folder / "kubeconfig")]
    server = _started(stack, argv, folder / "api.log")
    for _ in process.until(READY_S, 0.02):
        if (folder / "kubeconfig").exists():
            return
        if server.poll() is not None:
            break
    raise figure.Missing(f"no API server: {(folder / 'api.log').read_text()[-800:]}")


def _argv(folder: Path, port: int) -> list[str]:
    given = {name: folder / name for name in ("registry", "plugins", "cdi", "root", "kubeconfig")}
    given |= {"host-root": folder / "root", "pod-resources": folder / "pods.sock"}
    options = [f"--{name}={value}" for name, value in given.items()]
    command = [sys.executable, "-m", "tests.bench.synced", str(folder / "fsyncs"), "run"]
    return [*command, f"--node-name={served.NODE}", f"--http=127.0.0.1:{port}", *options]


def _started(
    stack: contextlib.ExitStack, argv: Sequence[str], log: Path, nvml: Path | None = None
) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    if nvml is not None:
        environment |= {"LD_LIBRARY_PATH": str(library.folder()), "MUSTER_NVML_STATE": str(nvml)}
    with log.open("wb") as file:
        started = subprocess.Popen(argv, env=environment, stdout=file, stderr=file)
    stack.callback(started.wait, 10)
    stack.callback(started.kill)
    return started
