"""The decision how to prepare a claim, and what to undo afterwards; pure, so that every case can be tried.

`decide` turns a claim into the record of what shall be prepared; `steps` and `undo` name the changes of the hardware
that the record asks for. A record is written before its first step, so a crash at any place can be continued from it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from dra_driver import claim, opaque, prepared
from scheduler.model import claim as model_claim
from scheduler.model import device, node, quantity


class DeviceError(claim.ClaimError):
    """A device of the claim cannot be given out; the message names it and the reason."""


@dataclass(frozen=True, slots=True)
class EnsurePartition:
    """Make the MIG instance of a device exist."""

    device: prepared.Device
    partition: prepared.Partition


@dataclass(frozen=True, slots=True)
class DestroyPartition:
    """Remove the MIG instance of a device."""

    device: prepared.Device
    partition: prepared.Partition


@dataclass(frozen=True, slots=True)
class SetTimeSlices:
    """Set the length of the turns on a GPU; 0 is the default."""

    gpu_uuid: str
    interval: int


@dataclass(frozen=True, slots=True)
class EnsureMps:
    """Make an MPS control daemon serve the devices of a claim."""

    settings: prepared.Mps
    devices: tuple[prepared.Device, ...]


@dataclass(frozen=True, slots=True)
class StopMps:
    """End an MPS control daemon."""

    daemon: str
    devices: tuple[prepared.Device, ...]


Step = EnsurePartition | DestroyPartition | SetTimeSlices | EnsureMps | StopMps


def decide(
    wanted: claim.ResourceClaim,
    machine: node.NodeTopology,
    checkpoint: prepared.Checkpoint,
    *,
    alone: bool = True,
) -> prepared.Claim:
    """Return the record of a claim that shall be prepared, in phase ``STARTED``.

    Parameters
    ----------
    machine : NodeTopology
        The devices that exist now.
    alone : bool
        No other claim with GPUs is prepared for the same pod at the same time; otherwise the order of the GPUs is left
        alone, because the variables of two claims would hide each other's GPUs.

    Raises
    ------
    ClaimError
        The configuration does not fit, or a device does not exist or is held by another claim.
    """
    decoded = [(config, opaque.decode(config)) for config in wanted.configs]
    known = model_claim.devices(machine)
    devices, settings = [], []
    for result in wanted.results:
        made = _device(result, machine, known)
        config = _config(result, made, decoded)
        devices.append(_shared(made, config))
        settings.append(config)
    entry = prepared.Claim(
        wanted.reference.namespace,
        wanted.reference.name,
        wanted.reference.uid,
        wanted.generation,
        wanted.pod_claim_name,
        prepared.Phase.STARTED,
        tuple(devices),
        _mps(wanted, devices, settings),
        alone and _ordered(devices, settings),
        place=wanted.place,
    )
    refuse_conflicts(entry, checkpoint)
    return entry


def refuse_conflicts(entry: prepared.Claim, checkpoint: prepared.Checkpoint) -> None:
    """Raise `DeviceError` if another claim holds a device of this one, or shares it in another way."""
    for mine, other, theirs in checkpoint.conflicts(entry):
        raise DeviceError(
            f"device {mine.pool}/{mine.name} is held by {other.reference} as {theirs.name}; it is free once that claim's"
            " pods have ended"
        )
    for other in checkpoint.claims.values():
        if other.uid != entry.uid:
            _refuse_other_sharing(entry, other)
    for gpu in {held.gpu_uuid for held in entry.devices if held.share_id and held.gpu_uuid and not held.admin_access}:
        _refuse_too_much(entry, gpu, checkpoint)


def same_devices(entry: prepared.Claim, wanted: claim.ResourceClaim) -> bool:
    """Tell whether a record is of the allocation that a claim has now."""
    return [(d.request, d.pool, d.name, d.share_id) for d in entry.devices] == [
        (r.request, r.pool, r.device, r.share_id) for r in wanted.results
    ]


def refuse_missing(entry: prepared.Claim, machine: node.NodeTopology) -> None:
    """Raise `DeviceError` if the machine does not have a device of a record any more."""
    uuids = {gpu.uuid for gpu in machine.gpus}
    others = {nic.pci_bus_id or nic.name for nic in machine.nics} | {other.pci_bus_id for other in machine.accelerators}
    for held in entry.devices:
        if held.gpu_uuid not in uuids if held.gpu_uuid else held.pci_bus_id not in others:
            raise DeviceError(
                f"device {held.pool}/{held.name} ({held.gpu_uuid or held.pci_bus_id}) does not exist any more; delete the"
                " pods of the claim"
            )


def steps(entry: prepared.Claim) -> tuple[Step, ...]:
    """Return the changes of the hardware that a claim needs, in order: MIG first, since MPS serves what it makes."""
    found: list[Step] = []
    for held in entry.devices:
        if held.partition is not None and not held.admin_access:
            found.append(EnsurePartition(held, held.partition))
        if held.time_slices is not None:
            found.append(SetTimeSlices(held.gpu_uuid, held.time_slices.interval))
    if entry.mps is not None:
        found.append(EnsureMps(entry.mps, served(entry)))
    return tuple(dict.fromkeys(found))


def undo(entry: prepared.Claim, rest: prepared.Checkpoint) -> tuple[Step, ...]:
    """Return the changes that give a claim's devices back, given all other claims; in the reverse order of `steps`."""
    found: list[Step] = []
    others = [other for other in rest.claims.values() if other.uid != entry.uid]
    if entry.mps is not None and not any(other.mps and other.mps.daemon == entry.mps.daemon for other in others):
        found.append(StopMps(entry.mps.daemon, served(entry)))
    for held in entry.devices:
        if held.time_slices is not None and not any(_slices(other, held.gpu_uuid) for other in others):
            found.append(SetTimeSlices(held.gpu_uuid, 0))
        if held.partition is not None and not held.admin_access:
            found.append(DestroyPartition(held, held.partition))
    return tuple(dict.fromkeys(found))


def refuse_unknown_limits(limited: Iterable[str], uuids: Collection[str]) -> None:
    """Raise `OpaqueError` if a limit of pinned memory is for a device that the daemon does not serve."""
    unknown = sorted(set(limited) - set(uuids))
    if unknown:
        raise opaque.OpaqueError(
            f"mpsConfig.pinnedDeviceMemoryLimits: {', '.join(unknown)} is no device of the claim, which has"
            f" {', '.join(uuids)} under MPS; use defaultPinnedDeviceMemoryLimit for whichever it gets"
        )


def served(entry: prepared.Claim) -> tuple[prepared.Device, ...]:
    """Return the devices that the MPS control daemon of a claim serves."""
    return tuple(held for held in entry.devices if held.mps)


def _device(result: claim.Result, machine: node.NodeTopology, known: dict[str, model_claim.Device]) -> prepared.Device:
    """Return the record of an allocated device."""
    found = known.get(result.device)
    if result.pool != machine.name or found is None:
        raise DeviceError(
            f"device {result.pool}/{result.device} does not exist on node {machine.name}; it may have failed"
        )
    made = prepared.Device(
        prepared.Kind.GPU,
        result.request,
        result.pool,
        result.device,
        share_id=result.share_id,
        milli=_milli(result),
        admin_access=result.admin_access,
    )
    match found:
        case device.Gpu():
            if result.share_id and not found.divisible:
                raise DeviceError(f"device {result.pool}/{result.device} is in MIG mode and cannot be shared")
            return _gpu(made, found)
        case model_claim.Partition():
            return _partition(made, found)
        case device.Nic():
            return replace(made, kind=prepared.Kind.NIC, pci_bus_id=found.pci_bus_id or found.name)
        case device.Accelerator():
            return replace(made, kind=prepared.Kind.ACCELERATOR, pci_bus_id=found.pci_bus_id)


def _gpu(made: prepared.Device, gpu: device.Gpu) -> prepared.Device:
    """Return the record of a whole GPU; in MIG mode that is its full-size instance, which keeps NVLink peers."""
    if not gpu.uuid:
        raise DeviceError(f"device {made.pool}/{made.name} has no UUID; the GPU does not answer")
    if not gpu.mig_enabled or made.admin_access:
        return replace(made, gpu_uuid=gpu.uuid, uuid=gpu.uuid, pci_bus_id=gpu.pci_bus_id)
    if not gpu.model.mig:
        raise DeviceError(
            f"device {made.pool}/{made.name} is in MIG mode but names no profile; reset it or disable MIG"
        )
    largest = max(gpu.model.mig, key=lambda profile: (profile.memory_slices, profile.compute))
    return _partition(made, model_claim.Partition(gpu, largest, largest.starts[0]))


def _partition(made: prepared.Device, part: model_claim.Partition) -> prepared.Device:
    """Return the record of a MIG device, whose own UUID is not known yet."""
    place = prepared.Partition(part.profile.name, part.profile.profile_id, part.start, part.profile.memory_slices)
    return replace(
        made, kind=prepared.Kind.MIG, gpu_uuid=part.gpu.uuid, pci_bus_id=part.gpu.pci_bus_id, partition=place
    )


def _milli(result: claim.Result) -> int:
    """Return the part of a GPU that was consumed."""
    for name, amount in result.consumed:
        if name.rpartition("/")[2] == model_claim.MILLI:
            return int(quantity.parse(amount))
    return device.WHOLE_GPU_MILLI


def _config(
    result: claim.Result, made: prepared.Device, decoded: Sequence[tuple[claim.Opaque, opaque.Config]]
) -> opaque.Config | None:
    """Return the configuration of a device; NICs and accelerators take none."""
    kinds: dict[prepared.Kind, opaque.Kind] = {
        prepared.Kind.GPU: opaque.GpuConfig,
        prepared.Kind.MIG: opaque.MigDeviceConfig,
    }
    if made.kind in kinds:
        return opaque.effective(result, decoded, kinds[made.kind])
    for config, _ in decoded:
        if config.names(result):
            raise opaque.OpaqueError(f"{config.place}: request {result.request!r} is for {made.name}, which takes none")
    return None


def _shared(made: prepared.Device, config: opaque.Config | None) -> prepared.Device:
    """Return the record with the way of sharing; administrators only look and change nothing."""
    if config is None or config.sharing is None or made.admin_access:
        return made
    if config.sharing.strategy == "MPS":
        return replace(made, mps=True)
    if made.kind is prepared.Kind.MIG or config.sharing.time_slicing is None:
        return made
    interval = opaque.interval(config.sharing.time_slicing)
    return replace(made, time_slices=prepared.TimeSlices(interval)) if interval else made


def _mps(
    wanted: claim.ResourceClaim, devices: Sequence[prepared.Device], settings: Sequence[opaque.Config | None]
) -> prepared.Mps | None:
    """Return the settings of the claim's MPS control daemon, of which a process can reach only one."""
    pairs = zip(devices, settings, strict=True)
    found = {
        repr(config.sharing.mps): config.sharing.mps for held, config in pairs if held.mps and config and config.sharing
    }
    if not found:
        return None
    if len(found) > 1:
        raise opaque.OpaqueError("two different mpsConfig in one claim; all its devices have one MPS control daemon")
    shared = {held.gpu_uuid for held in devices if held.mps and held.share_id}
    if len(shared) > 1 or (shared and not all(held.share_id for held in devices if held.mps)):
        raise opaque.OpaqueError("MPS on several shared GPUs in one claim is not possible; ask for whole GPUs")
    daemon = next(iter(shared), wanted.reference.uid)
    mps = next(iter(found.values())) or opaque.MpsConfig()
    limit = mps.default_pinned_device_memory_limit
    served = [held for held in devices if held.mps]
    if all(held.uuid for held in served):  # else it is told once the MIG devices exist
        refuse_unknown_limits(mps.pinned_device_memory_limits, [held.uuid for held in served])
    return prepared.Mps(
        daemon,
        mps.default_active_thread_percentage or 0,
        quantity.mib(limit) if limit else 0,
        tuple(sorted((uuid, quantity.mib(size)) for uuid, size in mps.pinned_device_memory_limits.items())),
    )


def _ordered(devices: Sequence[prepared.Device], settings: Sequence[opaque.Config | None]) -> bool:
    """Tell whether the container is to see the GPUs in the claim's order: one request has them all, and no config objects."""
    requests = {held.base_request for held in devices if held.gpu_uuid}
    return len(requests) == 1 and all(config is None or config.device_order == "Plan" for config in settings)


def _refuse_too_much(entry: prepared.Claim, gpu: str, checkpoint: prepared.Checkpoint) -> None:
    """Shares of one GPU add up to no more than the GPU."""
    mine = [held for held in entry.devices if held.gpu_uuid == gpu and held.share_id and not held.admin_access]
    asked, taken = sum(held.milli for held in mine), checkpoint.taken_milli(gpu, entry.uid)
    if asked + taken > device.WHOLE_GPU_MILLI:
        raise DeviceError(
            f"device {mine[0].pool}/{mine[0].name}: {asked} thousandths asked, but other claims hold {taken} of"
            f" {device.WHOLE_GPU_MILLI}; the rest is free once their pods have ended"
        )


def _slices(other: prepared.Claim, gpu_uuid: str) -> bool:
    return any(held.gpu_uuid == gpu_uuid and held.time_slices is not None for held in other.devices)


def _refuse_other_sharing(entry: prepared.Claim, other: prepared.Claim) -> None:
    """Claims that share a GPU must share it in one way: the GPU has one setting."""
    theirs = {(held.gpu_uuid): held for held in other.devices if held.share_id and held.gpu_uuid}
    for mine in entry.devices:
        held = theirs.get(mine.gpu_uuid)
        if held is None or not mine.share_id:
            continue
        if (mine.time_slices, mine.mps) != (held.time_slices, held.mps) or (mine.mps and entry.mps != other.mps):
            raise DeviceError(
                f"device {mine.pool}/{mine.name} is shared with {other.reference}, whose sharing configuration differs;"
                " all claims on one GPU need the same"
            )
