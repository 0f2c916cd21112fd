"""MIG instances made and removed on demand, so that a crash at any place can be continued.

The record of a claim is on disk before its instance is made and until it is gone. An instance that no record asks for
is therefore left over, and also one that lacks its compute instance, which lists of MIG devices do not show.
All functions block on the hardware and are called in threads, under the lock of the GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from dra_driver import faultpoint, prepare, prepared


class HardwareError(RuntimeError):
    """The hardware refused; the message names the GPU, the call and the reason."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A GPU instance as the hardware has it, with its compute instance.

    Attributes
    ----------
    compute_instance : int
        -1 where there is none yet, or no longer.
    uuid : str
        Of the MIG device; "" without a compute instance.
    """

    gpu_uuid: str
    profile_id: int
    start: int
    size: int
    gpu_instance: int
    compute_instance: int = -1
    uuid: str = ""

    def __str__(self) -> str:
        return f"MIG instance {self.gpu_instance} (profile {self.profile_id}) at slices {self.start}+{self.size}"


class Hardware(Protocol):
    """What the driver changes about GPUs; every call raises `HardwareError` where the hardware refuses."""

    def instances(self, gpu_uuid: str) -> Sequence[Instance]:
        """Return all GPU instances of a GPU, those without a compute instance too."""

    def create_gpu_instance(self, gpu_uuid: str, profile_id: int, start: int) -> Instance:
        """Make a GPU instance at a placement."""

    def create_compute_instance(self, instance: Instance) -> Instance:
        """Make the compute instance that fills a GPU instance."""

    def destroy_compute_instance(self, instance: Instance) -> None:
        """Remove the compute instance."""

    def destroy_gpu_instance(self, instance: Instance) -> None:
        """Remove a GPU instance without a compute instance."""


def find(hardware: Hardware, gpu_uuid: str, place: prepared.Partition) -> Instance | None:
    """Return the instance of a profile at a placement."""
    for instance in hardware.instances(gpu_uuid):
        if (instance.profile_id, instance.start) == (place.profile_id, place.start):
            return instance
    return None


def ensure(hardware: Hardware, gpu_uuid: str, place: prepared.Partition) -> Instance:
    """Return the instance at a placement; make what is missing of it.

    Raises
    ------
    DeviceError
        Another instance is in the way.
    """
    found = find(hardware, gpu_uuid, place)
    if found is None:
        for other in hardware.instances(gpu_uuid):
            if _overlap(other, place):
                raise prepare.DeviceError(
                    f"{place.profile} at slice {place.start} of {gpu_uuid}: {other} is in the way and no claim of ours"
                    " holds it; remove it with nvidia-smi mig -dci and -dgi"
                )
        found = hardware.create_gpu_instance(gpu_uuid, place.profile_id, place.start)
        faultpoint.reach("mig-gpu-instance-created")
    if found.compute_instance < 0:
        found = hardware.create_compute_instance(found)
        faultpoint.reach("mig-created")
    return found


def destroy(hardware: Hardware, gpu_uuid: str, place: prepared.Partition) -> None:
    """Remove the instance at a placement, as far as it exists."""
    found = find(hardware, gpu_uuid, place)
    if found is not None:
        remove(hardware, found)


def remove(hardware: Hardware, instance: Instance) -> None:
    """Remove an instance, its compute instance first."""
    if instance.compute_instance >= 0:
        hardware.destroy_compute_instance(instance)
        faultpoint.reach("mig-compute-instance-destroyed")
    hardware.destroy_gpu_instance(instance)
    faultpoint.reach("mig-destroyed")


def orphans(instances: Iterable[Instance], checkpoint: prepared.Checkpoint) -> Iterator[Instance]:
    """Yield the instances that no claim asks for."""
    wanted = {
        (held.gpu_uuid, held.partition.profile_id, held.partition.start)
        for entry in checkpoint.claims.values()
        for held in entry.devices
        if held.partition is not None
    }
    for instance in instances:
        if (instance.gpu_uuid, instance.profile_id, instance.start) not in wanted:
            yield instance


def _overlap(instance: Instance, place: prepared.Partition) -> bool:
    return instance.start < place.start + place.size and place.start < instance.start + instance.size
