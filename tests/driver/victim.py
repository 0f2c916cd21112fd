"""The whole driver on a small API server and under a small kubelet, to be killed and started again within a second.

It is the driver's command above the stand-in library; everything that it keeps is on disk.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dra_driver import claim, faultpoint
from scheduler.apiserver import client, paths
from scheduler.model import machines
from scheduler.model import node as model_node
from tests.driver import kubelet, live, zygote
from tests.hardware import library, machine, state, sysfs
from tests.testbed import embedded, objects

NODE, GPU = "real-0", 7
CLAIMS = {
    "cut": ("gpu-7-mig-1g10gb-19-6", "gpu-7-mig-2g20gb-14-4"),
    "whole": ("gpu-0", "gpu-1"),
    "overlaps": ("gpu-7-mig-3g40gb-9-4",),
    "rival": ("gpu-1",),
}
UP_S = 40.0  # on a loaded machine; half a second else

_boots = itertools.count(1)


@dataclass
class Server:
    """The API server, with all claims allocated."""

    api: client.Client
    kubeconfig: Path
    claims: dict[str, claim.Reference]

    async def events(self, reason: str) -> list[str]:
        """Return the messages of the Events about the node with a reason."""
        items, _ = await self.api.list(paths.of("v1", "events"))
        return [
            one["message"]
            for one in items
            if (one["reason"], one["involvedObject"]["kind"], one["involvedObject"]["name"]) == (reason, "Node", NODE)
        ]

    async def delete(self, name: str) -> None:
        """Delete a claim whose pod is gone."""
        where = f"{paths.of(paths.RESOURCE, 'resourceclaims', 'default')}/{name}"
        found = await self.api.get(where)
        found["status"]["reservedFor"] = []
        await self.api.replace(f"{where}/status", found)
        await self.api.delete(where)


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
            yield Server(api, config, made)


async def allocated(api: client.Client, name: str, devices: tuple[str, ...]) -> claim.Reference:
    where = paths.of(paths.RESOURCE, "resourceclaims", "default")
    made = await api.create(where, objects.claim(name, "gpu", len(devices)))
    rows = [{"request": "gpu", "driver": live.DRIVER, "pool": NODE, "device": device} for device in devices]
    reserved = [{"resource": "pods", "name": name, "uid": f"pod-of-{name}"}]
    made["status"] = {"allocation": {"devices": {"results": rows}}, "reservedFor": reserved}
    await api.replace(f"{where}/{name}/status", made)
    return claim.reference("default", name, made["metadata"]["uid"])


class Victim(live.Driver):
    """A driver whose kubelet is in this process."""

    home_process: zygote.Zygote

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.root, self.log, self.reached_log = (self.folder / name for name in ("root", "driver.log", "reached.log"))
        sysfs.render(self.machine, self.root)
        self.state = machine.render(self.machine, self.folder)

    async def come_up(self, point: str = "", *more: str) -> bool:
        """Start it; return whether it serves (else it is dead)."""
        for path in (self.log, self.reached_log, self.socket):
            path.unlink(missing_ok=True)
        self.begin(point, *more)
        await kubelet.until(lambda: self.code is not None or '"event":"serving"' in self.told(), UP_S)
        return self.code is None

    def begin(self, point: str = "", *more: str) -> None:
        """Start it without waiting for it."""
        environment = {"MUSTER_NVML_STATE": str(self.state), faultpoint.VARIABLE: point}
        options = self.argv()[self.argv().index("run") :]
        options.append(f"--library={library.folder() / library.NAME}")
        process = self.home_process.start([*options, *more], environment, self.log, self.reached_log)
        self.running[""] = process  # type: ignore[assignment]

    def begin_process(self, program: str = "from dra_driver import cli; cli.main()") -> None:
        """Start it as a process of its own, which ends as the interpreter does and not as a fork; it needs seconds."""
        argv = [*self.argv(), f"--library={library.folder() / library.NAME}"]
        argv[argv.index("-c") + 1] = program
        self.log.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.running[""] = subprocess.Popen(argv, stdout=log, stderr=log, env=self.environment())

    @property
    def socket(self) -> Path:
        return self.node.root / "plugins_registry" / f"{live.DRIVER}-reg.sock"

    @property
    def code(self) -> int | None:
        return self.running[""].poll()

    def reached(self) -> Counter[str]:
        """Return how often the driver reached each fault point since it was started last."""
        return Counter(self.reached_log.read_text().split())

    def made(self) -> set[tuple[int, int, bool]]:
        """Return GPU, start and whether there is a compute instance, of each MIG instance."""
        with state.changed(self.state) as found:
            gpus = enumerate(found.gpu[: found.gpus])
            return {(i, row.start, row.ci >= 0) for i, gpu in gpus for row in gpu.instance if row.used}

    def files(self) -> int:
        """Return how many CDI files and folders of device metadata there are."""
        metadata = self.plugins / live.DRIVER / "metadata"
        return len(list(self.node.cdi.glob("*.json"))) + len(list(metadata.glob("*")))

    def reboot(self) -> None:
        """Take what does not outlive a boot: MIG instances and the CDI folder."""
        for path in self.node.cdi.iterdir():
            path.unlink()
        with state.changed(self.state) as found:
            for gpu in found.gpu[: found.gpus]:
                for row in gpu.instance:
                    row.used = 0
        (self.root / "proc/sys/kernel/random/boot_id").write_text(f"{next(_boots):08d}-2222-4333-8444-555555555555\n")

    def save(self) -> Path:
        """Keep all that is on disk, and return where; the driver must not run."""
        for path in self.node.root.rglob("*.sock"):
            path.unlink()
        kept = self.folder / "kept"
        shutil.rmtree(kept, ignore_errors=True)
        for name in ("k", "cdi"):
            shutil.copytree(self.folder / name, kept / name)
        shutil.copy(self.state, kept / "state")
        return kept

    def bring_back(self, kept: Path) -> None:
        """Make the disk, and the hardware, what they were at `save`."""
        for name in ("k", "cdi"):
            shutil.rmtree(self.folder / name)
            shutil.copytree(kept / name, self.folder / name)
        shutil.copy(kept / "state", self.state)


@contextlib.contextmanager
def victim(folder: Path, kubeconfig: Path, home_process: zygote.Zygote) -> Iterator[Victim]:
    home: Any = SimpleNamespace(kubeconfig=kubeconfig)
    node: Any = SimpleNamespace(name=NODE, root=folder / "k", cdi=folder / "cdi")
    made = Victim(home, node, cut(), folder)
    made.home_process = home_process
    for path in (node.root, node.cdi):
        path.mkdir()
    try:
        yield made
    finally:
        made.close()


@contextlib.asynccontextmanager
async def calling(driver: Victim) -> AsyncIterator[kubelet.Kubelet]:
    async with kubelet.Kubelet(driver.node.root / "plugins_registry") as calls:
        await calls.scan()
        yield calls


async def prepared(calls: kubelet.Kubelet, *references: claim.Reference) -> list[str]:
    """Prepare, and return the errors in the order of the claims."""
    answers = await calls.prepare(*references)
    return [answers[one.uid].error for one in references]
