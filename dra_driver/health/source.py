"""The health of all published devices as the health stream sends it; a partition has the faults of its GPU but those
of other MIG instances.

Only GPUs are watched: NICs and other accelerators are listed as unknown, with that as their message.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from dra_driver import healthstream
from dra_driver.health import model
from scheduler.model import claim, node

Health = healthstream.Health

UNWATCHED = "the driver does not watch devices of this kind"


class Source:
    """Holds what is known last; `tell` and `current` may be called from any thread.

    Parameters
    ----------
    clock : function
        The monotonic clock, by which readings get old.
    """

    def __init__(self, pool: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.pool, self._clock = pool, clock
        self._lock = threading.Lock()
        self._known: tuple[node.NodeTopology | None, Mapping[str, model.Health], Mapping[str, float]] = (None, {}, {})
        self._said: list[tuple[str, int, str]] = []

    def tell(self, machine: node.NodeTopology, known: Mapping[str, model.Health], read_at: Mapping[str, float]) -> bool:
        """Take over health and times of the last readings by GPU UUID; return whether a state or message changed."""
        with self._lock:
            self._known = machine, dict(known), dict(read_at)
        said = [(device.device, int(device.health), device.message) for device in self.current()]
        changed, self._said = said != self._said, said
        return changed

    def current(self) -> Sequence[healthstream.DeviceHealth]:
        """Return the health as of now: what was read too long ago is unknown, whoever still sends it."""
        with self._lock:
            machine, known, read_at = self._known
        return [] if machine is None else list(self._devices(machine, known, read_at))

    def _devices(
        self, machine: node.NodeTopology, known: Mapping[str, model.Health], read_at: Mapping[str, float]
    ) -> Iterator[healthstream.DeviceHealth]:
        now_s = int(time.time())
        for gpu in machine.gpus:
            age_s = self._clock() - read_at[gpu.uuid] if gpu.uuid in read_at else None
            health, seen_s = known.get(gpu.uuid), now_s - int(age_s or 0)
            told = [(gpu.name, health)]
            for part in claim.partitions_of(gpu):
                told.append((part.name, health and health.of(part.start, part.profile.memory_slices)))
            for name, one in told:
                yield healthstream.DeviceHealth(self.pool, name, *_said(one, age_s, seen_s))
        others = [nic.device_name for nic in machine.nics] + [other.device_name for other in machine.accelerators]
        for name in others:
            yield healthstream.DeviceHealth(self.pool, name, Health.UNKNOWN, now_s, UNWATCHED)


def _said(health: model.Health | None, age_s: float | None, seen_s: int) -> tuple[Health, int, str]:
    state, message = _state(health, age_s)
    return state, seen_s, message


def _state(health: model.Health | None, age_s: float | None) -> tuple[Health, str]:
    """Return state and message; a fault that is known stays one while nothing says that it is over."""
    if health is not None and not health.healthy:
        return Health.UNHEALTHY, health.message
    if health is None or age_s is None:
        return Health.UNKNOWN, "not read yet"
    if age_s > healthstream.TIMEOUT_S:
        return Health.UNKNOWN, health.message or f"not read for more than {healthstream.TIMEOUT_S} s"
    if "unmonitored" in health.faults:
        return Health.UNKNOWN, health.message
    return Health.HEALTHY, health.message
