"""The health of all published devices as the health stream sends it; a partition has the health of its GPU."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from dra_driver import healthstream
from dra_driver.health import model
from scheduler.model import claim, node


class Source:
    """Holds the newest list; `tell` may be called from any thread."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self._lock = threading.Lock()
        self._listed: tuple[healthstream.DeviceHealth, ...] = ()

    def tell(self, machine: node.NodeTopology, known: Mapping[str, model.Health], now_s: float) -> bool:
        """Take over the health by GPU UUID; return whether a state or message changed."""
        listed = tuple(self._devices(machine, known, int(now_s)))
        with self._lock:
            changed = [_said(d) for d in listed] != [_said(d) for d in self._listed]
            self._listed = listed
        return changed

    def current(self) -> Sequence[healthstream.DeviceHealth]:
        with self._lock:
            return self._listed

    def _devices(
        self, machine: node.NodeTopology, known: Mapping[str, model.Health], now_s: int
    ) -> list[healthstream.DeviceHealth]:
        found = []
        for gpu in machine.gpus:
            parts = [part.name for part in claim.partitions_of(gpu)] if gpu.mig_enabled else []
            state, message = _state(known.get(gpu.uuid))
            found += [healthstream.DeviceHealth(self.pool, n, state, now_s, message) for n in (gpu.name, *parts)]
        return found


def _state(health: model.Health | None) -> tuple[healthstream.Health, str]:
    if health is None or ("unmonitored" in health.faults and health.healthy):
        return healthstream.Health.UNKNOWN, health.message if health else "not read yet"
    return healthstream.Health.HEALTHY if health.healthy else healthstream.Health.UNHEALTHY, health.message


def _said(device: healthstream.DeviceHealth) -> tuple[str, int, str]:
    return device.device, int(device.health), device.message
