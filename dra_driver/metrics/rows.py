"""One row for each GPU, each MIG device and each of their users: what all families of metrics are written from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dra_driver import mig
from dra_driver.health import model
from dra_driver.metrics import users
from dra_driver.probe import interface
from scheduler.model import device

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of the node at one time; all mappings are by GPU UUID.

    Attributes
    ----------
    xids : mapping
        The last XID of each GPU that had one.
    tenants : mapping of (namespace, pod) to tenant
    ages : mapping
        Seconds since each GPU was read.
    before : mapping
        The last readings before these that tell of NVLinks: counters become rates.
    gone : mapping
        GPUs that were found earlier and are not now: their health is told on.
    """

    found: interface.Discovered
    readings: Mapping[str, interface.Reading]
    health: Mapping[str, model.Health] = field(default_factory=dict)
    instances: Mapping[str, Sequence[mig.Instance]] = field(default_factory=dict)
    xids: Mapping[str, int] = field(default_factory=dict)
    used: Mapping[users.Place, Sequence[users.User]] = field(default_factory=dict)
    tenants: Mapping[tuple[str, str], str] = field(default_factory=dict)
    gone: Mapping[str, device.Gpu] = field(default_factory=dict)
    ages: Mapping[str, float] = field(default_factory=dict)
    before: Mapping[str, interface.Reading] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """A GPU or a MIG device with one of its users.

    Attributes
    ----------
    reading, before : Reading
        Of the GPU, and the one before it, if there was one.
    instance, profile : optional
        Of a MIG device.
    age_s : float
        Of the reading; 0 where it is not known.
    first : bool
        The row that stands for the device where its users do not matter.
    """

    gpu: device.Gpu
    facts: interface.GpuFacts
    reading: interface.Reading
    health: model.Health
    xid: int
    user: users.User | None
    tenant: str
    age_s: float
    first: bool
    instance: mig.Instance | None = None
    profile: device.MigProfile | None = None
    before: interface.Reading | None = None

    @property
    def number(self) -> str:
        """Number of the GPU as the driver library counts, which a lost neighbour does not change."""
        return self.gpu.name.removeprefix("gpu-")

    @property
    def memory_used(self) -> int | None:
        """Bytes in use."""
        return self.reading.memory_used if self.instance is None else self._of_part[0]

    @property
    def memory_total(self) -> int | None:
        """Bytes; of a MIG device that does not tell, those of its profile."""
        if self.instance is None:
            return self.reading.memory_total
        return self._of_part[1] or (self.profile.memory_mib * MIB if self.profile else None)

    @property
    def _of_part(self) -> tuple[int | None, int | None]:
        number = self.instance.gpu_instance if self.instance else -1
        return next(((used, total) for part, used, total in self.reading.parts if part == number), (None, None))

    @property
    def device_uuid(self) -> str:
        """UUID of the GPU or of the MIG device."""
        return self.instance.uuid if self.instance else self.gpu.uuid

    @property
    def product(self) -> str:
        return self.facts.product or self.gpu.model.name


def rows(seen: Seen) -> Iterator[Row]:
    """Yield the rows; GPUs without a reading yet are left out."""
    here = {gpu.uuid for gpu in seen.found.topology.gpus}
    for gpu in (*seen.found.topology.gpus, *(gpu for uuid, gpu in seen.gone.items() if uuid not in here)):
        reading = seen.readings.get(gpu.uuid)
        if reading is None:
            continue
        yield from _of(seen, gpu, reading, None)
        for instance in seen.instances.get(gpu.uuid, ()):
            if instance.uuid:
                yield from _of(seen, gpu, reading, instance)


def _of(seen: Seen, gpu: device.Gpu, reading: interface.Reading, instance: mig.Instance | None) -> Iterator[Row]:
    facts = seen.found.gpus.get(gpu.uuid) or interface.GpuFacts(gpu.uuid)
    health = seen.health.get(gpu.uuid) or model.Health(gpu.uuid, {})
    place = (gpu.uuid, instance.profile_id, instance.start) if instance else users.whole(gpu.uuid)
    profile = _profile(gpu, instance) if instance else None
    age_s = seen.ages.get(gpu.uuid, 0.0)
    known: Sequence[users.User | None] = seen.used.get(place) or (None,)
    for number, user in enumerate(known):
        tenant = seen.tenants.get((user.container.namespace, user.container.pod), "") if user else ""
        xid = seen.xids.get(gpu.uuid, 0)
        before, first = seen.before.get(gpu.uuid), number == 0
        yield Row(gpu, facts, reading, health, xid, user, tenant, age_s, first, instance, profile, before)


def _profile(gpu: device.Gpu, instance: mig.Instance) -> device.MigProfile | None:
    return next((one for one in gpu.model.mig if one.profile_id == instance.profile_id), None)
