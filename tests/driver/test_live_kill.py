"""The whole driver killed with SIGKILL at every fault point, under calls through its real socket, and continued.

API server and kubelet are small ones in this process, which makes a try so short that every point gets one; the driver is
the real command above the stand-in library, and everything that it keeps is on disk. What `test_live` shows under a real
kubelet is one kill at a time that nobody chose.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from dra_driver import claim, faultpoint
from scheduler.apiserver import client, paths
from scheduler.model import machines
from scheduler.model import node as model_node
from tests.driver import kubelet, live
from tests.hardware import machine, state, sysfs
from tests.testbed import embedded, objects

pytestmark = pytest.mark.slow

NODE, GPU = "real-0", 7
CLAIMS = {
    "cut": ("gpu-7-mig-1g10gb-19-6", "gpu-7-mig-2g20gb-14-4"),
    "whole": ("gpu-0", "gpu-1"),
    "overlaps": ("gpu-7-mig-3g40gb-9-4",),
    "rival": ("gpu-1",),
}
WRITES = ("checkpoint-temporary-written", "checkpoint-written")
EVERY = [*faultpoint.POINTS, *(f"{point}:{turn}" for point in WRITES for turn in range(2, 6))]
EVERY += ["mig-gpu-instance-created:2", "mig-created:2", "mig-destroyed:2", "cdi-written:2", "cdi-removed:2"]


@dataclass
class Server:
    """The API server, with all claims allocated."""

    kubeconfig: Path
    claims: dict[str, claim.Reference]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with a short name, because paths of sockets have at most 107 bytes; the host's files are in it once."""
    with tempfile.TemporaryDirectory(prefix="muster-") as made:
        sysfs.render(cut(), Path(made) / "root")
        yield Path(made)


def cut() -> model_node.NodeTopology:
    """Return a DGX A100 with one GPU in MIG mode."""
    built = machines.build("dgx-a100", NODE)
    return replace(built, gpus=tuple(replace(gpu, mig_enabled=gpu.index == GPU) for gpu in built.gpus))


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Server]:
    async with embedded.Server("1.37", frozenset()) as server:
        config = server.kubeconfig(folder / "kubeconfig")
        async with await client.Client.connect(config) as api:
            await api.create(paths.of("v1", "nodes"), {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
            made = {name: await allocated(api, name, devices) for name, devices in CLAIMS.items()}
        yield Server(config, made)


async def allocated(api: client.Client, name: str, devices: tuple[str, ...]) -> claim.Reference:
    where = paths.of(paths.RESOURCE, "resourceclaims", "default")
    made = await api.create(where, objects.claim(name, "gpu", len(devices)))
    rows = [{"request": "gpu", "driver": live.DRIVER, "pool": NODE, "device": device} for device in devices]
    reserved = [{"resource": "pods", "name": name, "uid": f"pod-of-{name}"}]
    made["status"] = {"allocation": {"devices": {"results": rows}}, "reservedFor": reserved}
    await api.replace(f"{where}/{name}/status", made)
    return claim.reference("default", name, made["metadata"]["uid"])


class Victim(live.Driver):
    """A driver whose kubelet is in this process, and whose host's files are shared: it does not change them."""

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.root, self.log = self.folder.parent / "root", self.folder / "driver.log"
        self.state = machine.render(self.machine, self.folder)

    async def come_up(self, point: str = "") -> None:
        """Start it; returns when it has its sockets, or is dead."""
        environment = self.environment() | {faultpoint.VARIABLE: point}
        with self.log.open("ab") as log:
            self.running[""] = subprocess.Popen(self.argv(), stdout=log, stderr=log, env=environment)
        registration = self.node.root / "plugins_registry" / f"{live.DRIVER}-reg.sock"
        await kubelet.until(lambda: self.code is not None or self.serves(registration), 20)

    def serves(self, registration: Path) -> bool:
        """A killed driver leaves its sockets; that they are there says nothing."""
        return registration.exists() and self.told().count('"event":"serving"') > self.served

    served = 0

    @property
    def code(self) -> int | None:
        return self.running[""].poll()

    def killed(self) -> None:
        """The end that was asked for, and no other."""
        assert self.running.pop("").wait(20) == -signal.SIGKILL, self.told()[-2000:]
        self.served = self.told().count('"event":"serving"')

    def made(self) -> set[tuple[int, int, bool]]:
        with state.changed(self.state) as found:
            gpus = enumerate(found.gpu[: found.gpus])
            return {(i, row.start, row.ci >= 0) for i, gpu in gpus for row in gpu.instance if row.used}

    def files(self) -> int:
        metadata = self.plugins / live.DRIVER / "metadata"
        return len(list(self.node.cdi.glob("*.json"))) + len(list(metadata.glob("*")))


def victim(folder: Path, kubeconfig: Path) -> Victim:
    home: Any = SimpleNamespace(kubeconfig=kubeconfig)
    node: Any = SimpleNamespace(name=NODE, root=folder / "k", cdi=folder / "cdi")
    return Victim(home, node, cut(), folder)


@contextlib.asynccontextmanager
async def calling(driver: Victim) -> AsyncIterator[kubelet.Kubelet]:
    async with kubelet.Kubelet(driver.node.root / "plugins_registry") as calls:
        await calls.scan()
        yield calls


async def prepared(calls: kubelet.Kubelet, *references: claim.Reference) -> list[str]:
    answers = await calls.prepare(*references)
    return [answers[one.uid].error for one in references]


@pytest.mark.parametrize("point", EVERY)
async def test_killed_at_a_point_it_goes_on_without_loss_or_double_use(folder: Path, point: str) -> None:
    async with serving(folder) as server:
        driver = victim(folder / point.replace(":", "-")[-20:], server.kubeconfig)
        mine = [server.claims["cut"], server.claims["whole"]]
        try:
            back = await strike(driver, point, mine)
            await driver.come_up()
            async with calling(driver) as calls:
                await go_on(driver, calls, server.claims, giving_back=back)
        finally:
            driver.close()


async def strike(driver: Victim, point: str, mine: list[claim.Reference]) -> bool:
    """Let the driver die at a point; return whether the kubelet was about to give the claims back."""
    back = False
    await driver.come_up(point)
    with contextlib.suppress(grpc.aio.AioRpcError):
        if driver.code is None:
            async with calling(driver) as calls:
                assert await prepared(calls, *mine) == ["", ""]
                back = True
                await calls.unprepare(*mine)
    driver.killed()
    return back


async def go_on(
    driver: Victim, calls: kubelet.Kubelet, claims: dict[str, claim.Reference], *, giving_back: bool
) -> None:
    """Repeat the call that had no answer, as the kubelet does, then look for what is lost or left over."""
    mine, others = [claims["cut"], claims["whole"]], [claims["overlaps"], claims["rival"]]
    if giving_back:
        assert set((await calls.unprepare(*mine)).values()) == {""}
        assert (driver.made(), driver.files(), driver.prepared()) == (set(), 0, {})
    assert await prepared(calls, *mine) == ["", ""]
    assert driver.made() == {(GPU, 6, True), (GPU, 4, True)}
    assert set(driver.prepared()) == {one.uid for one in mine} and driver.files() == 4
    for spec in driver.node.cdi.glob("*.json"):
        json.loads(spec.read_text())
    refused = await prepared(calls, *others)
    assert all("is held by" in error for error in refused), refused
    assert set((await calls.unprepare(*mine)).values()) == {""}
    assert (driver.made(), driver.files(), driver.prepared()) == (set(), 0, {})
    assert await prepared(calls, *others) == ["", ""]


def test_every_point_is_tried() -> None:
    assert {point.partition(":")[0] for point in EVERY} == set(faultpoint.POINTS)
