"""A node with the driver on it, and a kubelet that calls it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dra_driver import healthstream, instance, sockets
from scheduler.model import node
from tests.driver import host, kubelet, zygote


@dataclass
class Node:
    """A node in a folder."""

    root: Path
    machine: node.NodeTopology
    claims: host.Claims = field(default_factory=host.Claims)
    hardware: host.Hardware = None
    events: list[tuple[str, str]] = field(default_factory=list)
    dynamic_mig: bool = True

    def __post_init__(self) -> None:
        host.lay_out(self.root, self.machine)
        self.hardware = host.Hardware(self.root, self.machine)

    @property
    def registry(self) -> Path:
        return self.root / "plugins_registry"

    @property
    def cdi(self) -> Path:
        return self.root / "var/run/cdi"

    @property
    def plugins(self) -> Path:
        return self.root / host.PLUGINS

    @property
    def boot_id(self) -> str:
        return (self.root / "proc/sys/kernel/random/boot_id").read_text().strip()

    def instance(self, pod_uid: str = "", health: healthstream.Source | None = None) -> instance.Instance:
        """Return an instance of the driver that is not started yet."""
        parts = host.parts(self.root, self.machine, self.claims, dynamic_mig=self.dynamic_mig, hardware=self.hardware)
        own = sockets.of_instance(host.DRIVER, self.registry, self.plugins, pod_uid)
        hooks = instance.Hooks(event=lambda reason, message: self.events.append((reason, message)))
        return instance.Instance(parts, own, self.boot_id, health, hooks)

    @contextlib.asynccontextmanager
    async def driver(
        self, pod_uid: str = "", health: healthstream.Source | None = None
    ) -> AsyncIterator[instance.Instance]:
        """Run an instance."""
        running = self.instance(pod_uid, health)
        await running.start()
        try:
            yield running
        finally:
            await running.stop()

    @contextlib.asynccontextmanager
    async def kubelet(self, *knows: str) -> AsyncIterator[kubelet.Kubelet]:
        """Run a kubelet that has registered what is there."""
        async with kubelet.Kubelet(self.registry, knows or (*kubelet.SERVICES, *kubelet.HEALTH)) as found:
            await found.scan()
            yield found


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a short name, because paths of sockets have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="muster-") as made:
        yield Path(made)


@pytest.fixture(scope="module")
def starter() -> Iterator[zygote.Zygote]:
    """What starts drivers within milliseconds."""
    with zygote.Zygote() as found:
        yield found


@pytest.fixture
def make_node() -> Iterator[Callable[..., Node]]:
    """Return a maker of nodes, in folders with short names, because paths of sockets have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="muster-") as folder:
        made: list[Node] = []

        def make(kind: str = "dgx-a100", *, mig_gpus: tuple[int, ...] = (), **more: object) -> Node:
            found = Node(Path(folder) / f"n{len(made)}", host.machine(kind, mig_gpus=mig_gpus), **more)
            made.append(found)
            return found

        yield make
