"""Claims and allocations in the terms of Dynamic Resource Allocation, as values.

A claim says what a pod asks for, an allocation which devices it got: rows of driver, pool and device. The conversions
from and to GPU masks live here, so that nothing else has to know how devices are named.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from scheduler.model import device, node, request

DRIVER = "gpu.muster.dev"
"""Our driver, the domain of its attributes, and the DeviceClass of whole and shared GPUs."""

MIG_CLASS = "mig.muster.dev"
NIC_CLASS = "nic.muster.dev"
ACCELERATOR_CLASS = "accelerator.muster.dev"

MILLI = "milli"
"""Capacity by which shared GPUs are divided; a whole GPU has 1000."""

MAX_RESULTS = 32
"""Devices of one claim (AllocationResultsMaxSize of resource.k8s.io/v1)."""


class ClaimError(ValueError):
    """An allocation names what the machine does not have; the message names the device."""


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """A number of equal devices.

    Attributes
    ----------
    name : str
        Unique in the claim; a DNS label.
    device_class : str
    count : int
    selectors : tuple of str
        CEL expressions; all must hold.
    capacity : tuple of (str, int)
        What is taken of each device's consumable capacity; empty takes the default, which is all of it.
    """

    name: str
    device_class: str
    count: int = 1
    selectors: tuple[str, ...] = ()
    capacity: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """Requests that are allocated together, of at most 32 devices."""

    name: str
    requests: tuple[DeviceRequest, ...]


@dataclass(frozen=True, slots=True, order=True)
class Allocation:
    """One allocated device: a row of ``status.allocation.devices.results``.

    Attributes
    ----------
    request : str
        Name of the request that it serves.
    share_id : str
        Identity of the share of a device that may be allocated several times; "" for exclusive devices.
    consumed : tuple of (str, int)
        Consumed capacity of such a device.
    """

    driver: str
    pool: str
    device: str
    request: str
    share_id: str = ""
    consumed: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Partition:
    """A MIG partition of a GPU, by its profile and the memory slice where it starts."""

    gpu: device.Gpu
    profile: device.MigProfile
    start: int

    @property
    def name(self) -> str:
        """Return the device name."""
        return self.gpu.partition_name(self.profile, self.start)

    @property
    def slices(self) -> int:
        """Return the memory slices (and the media engine) that it occupies."""
        return self.gpu.model.slices(self.profile, self.start)


Device = device.Gpu | Partition | device.Nic | device.Accelerator


class Holding(Protocol):
    """What a pod holds on one machine, as masks; ``snapshot.state.Grant`` is one."""

    @property
    def gpus(self) -> tuple[int, ...]:
        """GPUs in rank order."""

    @property
    def milli(self) -> int:
        """Milli-shares of each GPU, 0 for partitions."""

    @property
    def partitions(self) -> tuple[tuple[int, int], ...]:
        """``(GPU, slices)`` of every partition."""

    @property
    def nic_mask(self) -> int:
        """NICs, one bit each."""


@dataclass(frozen=True, slots=True)
class Held:
    """A `Holding` read back from allocations.

    Attributes
    ----------
    accelerators : tuple of int
        Indices of other accelerators.
    """

    gpus: tuple[int, ...] = ()
    milli: int = 0
    partitions: tuple[tuple[int, int], ...] = ()
    nic_mask: int = 0
    accelerators: tuple[int, ...] = ()

    @property
    def mask(self) -> int:
        """Return the GPUs touched, one bit each."""
        return sum(1 << gpu for gpu in {*self.gpus, *(gpu for gpu, _ in self.partitions)})


def claims_of(pod: request.PodRequest, name: str = "devices") -> tuple[Claim, ...]:
    """Return the claims through which a pod asks for its devices: none, one, or several where 32 devices do not do.

    Examples
    --------
    >>> pod = request.PodRequest(gpus=1, gpu_milli=250, nics=1)
    >>> for claim in claims_of(pod):
    ...     for wanted in claim.requests:
    ...         print(claim.name, wanted.name, wanted.device_class, wanted.count, wanted.capacity)
    devices gpus gpu.muster.dev 1 (('milli', 250),)
    devices nics nic.muster.dev 1 ()
    """
    groups: list[list[DeviceRequest]] = [[]]
    for wanted in _requests(pod):
        if groups[-1] and sum(r.count for r in groups[-1]) + wanted.count > MAX_RESULTS:
            groups.append([])
        groups[-1].append(wanted)
    named = (name if i == 0 else f"{name}-{i}" for i in range(len(groups)))
    return tuple(Claim(n, tuple(group)) for n, group in zip(named, groups, strict=True) if group)


def allocations(
    machine: node.NodeTopology,
    held: Holding,
    *,
    profile: str = "",
    share_ids: Sequence[str] = (),
    accelerators: Sequence[int] = (),
    driver: str = DRIVER,
) -> tuple[Allocation, ...]:
    """Return the rows that give a pod exactly the devices that it holds.

    Parameters
    ----------
    profile : str
        MIG profile of the partitions: slices alone do not tell 3g from 4g.
    share_ids : sequence of str
        One identity for each GPU that was published as divisible; the caller draws them, since this layer has no source
        of randomness. Empty where the cluster lacks consumable capacity, and GPUs are given out whole.
    accelerators : sequence of int
        Which accelerators; a snapshot only counts them.

    Returns
    -------
    tuple of Allocation
        GPUs in rank order, which is the order in which the container sees them.

    Raises
    ------
    ClaimError
        No such partition, or a part of a GPU without a share id.
    """
    rows: list[Allocation] = []
    for gpu, slices in held.partitions:
        found = find_partition(machine, gpu, profile, slices)
        rows.append(Allocation(driver, machine.name, found.name, "gpus"))
    if not held.partitions:
        rows.extend(_gpu_rows(machine, held, share_ids, driver))
    for nic in machine.nics:
        if held.nic_mask >> nic.index & 1:
            rows.append(Allocation(driver, machine.name, nic.device_name, "nics"))
    for index in accelerators:
        accelerator = machine.accelerators[index]
        rows.append(Allocation(driver, machine.name, accelerator.device_name, accelerator_request(accelerator.kind)))
    return tuple(rows)


def held(machine: node.NodeTopology, rows: Sequence[Allocation]) -> Held:
    """Read allocation rows of one machine back into masks: the inverse of `allocations`.

    Raises
    ------
    ClaimError
        A row names another pool or a device that the machine does not have.
    """
    by_name = devices(machine)
    gpus: list[int] = []
    partitions: list[tuple[int, int]] = []
    nic_mask, milli, accelerators = 0, 0, []
    for row in rows:
        if row.pool != machine.name or row.device not in by_name:
            raise ClaimError(f"node {machine.name} has no device {row.pool}/{row.device}")
        match by_name[row.device]:
            case device.Gpu() as gpu:
                gpus.append(gpu.index)
                milli = dict(row.consumed).get(MILLI, device.WHOLE_GPU_MILLI)
            case Partition() as part:
                partitions.append((part.gpu.index, part.slices))
            case device.Nic() as nic:
                nic_mask |= 1 << nic.index
            case device.Accelerator() as accelerator:
                accelerators.append(accelerator.index)
    return Held(tuple(gpus), milli, tuple(partitions), nic_mask, tuple(accelerators))


def devices(machine: node.NodeTopology) -> dict[str, Device]:
    """Return every allocatable device of a machine by its name."""
    found: dict[str, Device] = {gpu.name: gpu for gpu in machine.gpus}
    for gpu in machine.gpus:
        found.update((part.name, part) for part in partitions_of(gpu))
    found.update((nic.device_name, nic) for nic in machine.nics)
    found.update((accelerator.device_name, accelerator) for accelerator in machine.accelerators)
    return found


def partitions_of(gpu: device.Gpu) -> Iterator[Partition]:
    """Yield the partitions that a GPU can be cut into, in the order in which first fit had better take them.

    Small profiles come first, each with its best start first; a GPU that is not in MIG mode has none.
    """
    if gpu.mig_enabled:
        for profile in sorted(gpu.model.mig, key=lambda p: (p.memory_slices, p.compute, p.profile_id)):
            for start in profile.starts_best_first():
                yield Partition(gpu, profile, start)


def find_partition(machine: node.NodeTopology, gpu: int, profile: str, slices: int) -> Partition:
    """Return the partition of a GPU with a profile that occupies exactly these memory slices and media engine.

    Raises
    ------
    ClaimError
        The GPU has no such partition.
    """
    for part in partitions_of(machine.gpus[gpu]):
        if part.profile.name == profile and part.slices == slices:
            return part
    raise ClaimError(f"GPU {gpu} of node {machine.name} has no partition {profile or '(no profile)'} at {slices:#x}")


def accelerator_request(kind: str) -> str:
    """Return the name of the request for accelerators of a kind."""
    return f"accelerator-{kind.lower()}"


def _gpu_rows(machine: node.NodeTopology, held: Holding, share_ids: Sequence[str], driver: str) -> Iterator[Allocation]:
    """Yield the rows of whole and shared GPUs."""
    ids = iter(share_ids)
    for gpu in (machine.gpus[index] for index in held.gpus):
        share_id = next(ids, "") if gpu.divisible else ""
        if held.milli < device.WHOLE_GPU_MILLI and not share_id:
            raise ClaimError(f"{gpu.name} of node {machine.name}: {held.milli} of 1000 given out without a share id")
        consumed = ((MILLI, held.milli),) if share_id else ()
        yield Allocation(driver, machine.name, gpu.name, "gpus", share_id, consumed)


def _requests(pod: request.PodRequest) -> Iterator[DeviceRequest]:
    """Yield what a pod asks for, kind by kind."""
    if pod.gpus:
        selectors = [f"device.attributes['{DRIVER}'].productName in {list(pod.gpu_models)}"] if pod.gpu_models else []
        if pod.mig:
            selectors.append(f"device.attributes['{DRIVER}'].profile == '{pod.mig}'")
        shared = pod.kind is request.RequestKind.SHARE
        capacity = ((MILLI, pod.gpu_milli),) if shared else ()
        yield DeviceRequest("gpus", MIG_CLASS if pod.mig else DRIVER, pod.gpus, tuple(selectors), capacity)
    if pod.nics:
        yield DeviceRequest("nics", NIC_CLASS, pod.nics)
    for kind, count in pod.accelerators:
        selector = f"device.attributes['{DRIVER}'].kind == '{kind}'"
        yield DeviceRequest(accelerator_request(kind), ACCELERATOR_CLASS, count, (selector,))
