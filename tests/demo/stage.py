"""The demo's cluster: an API server in this process, two nodes with our driver, six simulated ones, and the scheduler."""

import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scheduler.model import machines
from tests.demo import jobset
from tests.driver import kubelet
from tests.driver import live as driving
from tests.hardware import library
from tests.kube import live
from tests.testbed.fleet import nodes, presets

FLEET = presets.Fleet("demo", ((presets.Rack("hgx-h100", 4), presets.Rack("hgx-h100", 4)),))
SYNC_S = 60.0


@dataclass
class Stage:
    """What the acts play on.

    Attributes
    ----------
    drivers : dict of node name to Driver
        Empty where the stand-in for the hardware can't be built or rendered here.
    why_no_driver : str
    """

    home: live.Cluster
    folder: Path
    drivers: dict[str, driving.Driver] = field(default_factory=dict)
    why_no_driver: str = ""


@contextlib.asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    """Start everything, and end it."""
    async with live.cluster(folder, fleet="") as home:
        found = Stage(home, folder)
        members = list(FLEET.members())
        real = [member.name for member in members if member.rack.endswith("r00")][:2]
        try:
            made = _drivers(found, real)
        except (OSError, subprocess.SubprocessError, RuntimeError) as problem:
            made, found.why_no_driver = {}, f"{type(problem).__name__}: {problem}"
        bodies = [_kept(body, made) for body in nodes.bodies(FLEET)]
        await live.furnish(home.api, bodies)
        await jobset.define(home.api)
        with _running(made):
            found.drivers = made
            for name in made:
                await home.until(lambda name=name: _published(home, name), 30)
            with _scheduler(home):
                yield found


def _kept(body: tuple[nodes.Body, ...], made: dict[str, Any]) -> tuple[nodes.Body, ...]:
    """Leave the slices out that a driver publishes itself."""
    return body[:1] if body[0].name in made else body


def _drivers(found: Stage, names: list[str]) -> dict[str, driving.Driver]:
    """Return a driver for each node, on the stand-in hardware."""
    library.folder()
    home: Any = SimpleNamespace(kubeconfig=found.home.kubeconfig)
    made = {}
    for name in names:
        own = found.folder / name
        node: Any = SimpleNamespace(name=name, root=own / "kubelet", cdi=own / "cdi")
        made[name] = driving.Driver(home, node, machines.build("hgx-h100", name), own)
    return made


@contextlib.contextmanager
def _running(made: dict[str, driving.Driver]) -> Iterator[None]:
    try:
        for one in made.values():
            with one.log.open("ab") as log:
                one.running[""] = subprocess.Popen(one.argv(), stdout=log, stderr=log, env=one.environment())
        yield
    finally:
        for one in made.values():
            one.close()


async def _published(home: live.Cluster, name: str) -> bool:
    slices, _ = await home.api.list("/apis/resource.k8s.io/v1/resourceslices")
    return any(one["spec"].get("nodeName") == name for one in slices)


@contextlib.contextmanager
def _scheduler(home: live.Cluster) -> Iterator[None]:
    """Run ``muster-scheduler`` as a process."""
    log = home.folder / "scheduler.log"
    arguments = ("--kubeconfig", str(home.kubeconfig), "--no-leader-elect", "--host", "127.0.0.1", "--port", "0")
    audit = ("--audit-folder", str(home.folder / "audit"))
    command = [sys.executable, "-m", "scheduler.cli", "run", *arguments, *audit]
    with log.open("ab") as out:
        process = subprocess.Popen(command, stderr=out, env=os.environ)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


async def prepared(one: driving.Driver, reference: Any) -> list[str]:
    """Have a claim prepared as the kubelet would, and return the CDI devices that the container gets."""
    async with kubelet.Kubelet(one.node.root / "plugins_registry") as calls:
        await calls.scan()
        answers = await calls.prepare(reference)
        answer = answers[reference.uid]
        if answer.error:
            raise RuntimeError(answer.error)
        return [device for found in answer.devices for device in found.cdi_device_ids]
