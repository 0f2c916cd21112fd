"""The owner of what is prepared: carries out the decisions of `prepare` on the hardware, in files and in the checkpoint.

Order of a prepare: the record (phase ``STARTED``) goes to disk before the hardware is touched, the record as
``COMPLETED`` after it, the files for the container last. A claim that changes no hardware has one write. Order of an
unprepare: back to ``STARTED``, the hardware, the files, then the record goes. So a crash at any place leaves either a
record from which the call can be repeated, or a claim that is wholly prepared or wholly gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import structlog

from dra_driver import (
    cdi,
    checkpoint,
    claim,
    container,
    faultpoint,
    host_files,
    locks,
    metadata,
    mig,
    prepare,
    prepared,
    programs,
    sharing,
    threads,
)
from dra_driver.claim import ClaimUid
from scheduler.model import node

Step = prepare.Step  # inside the class, `prepare` is a method for the type checker

log = structlog.get_logger()

T = TypeVar("T")

MAX_PODS = 16
"""That use one claim and are asked about; a claim of more gives its GPUs no order."""

HARDWARE_THREADS = 64
"""More than GPUs, so that one whose calls hang holds up no other."""


class UnreachableError(RuntimeError):
    """The API server did not answer, or not as it should; a repetition may succeed."""


EXPECTED = (
    checkpoint.CheckpointError,
    claim.ClaimError,
    host_files.HostFileError,
    mig.HardwareError,
    programs.SharingError,
    UnreachableError,
    OSError,
)
"""What may go wrong about one claim and is reported for it; anything else is a defect of the driver."""

Object = Mapping[str, Any]
"""A claim as the API server returns it."""


class Claims(Protocol):
    """The claims as the API server has them."""

    async def get(self, reference: claim.Reference) -> Object:
        """Return a claim.

        Raises
        ------
        ClaimError
            There is none.
        UnreachableError
            The API server did not say.
        """

    async def allocated(self) -> list[Object]:
        """Return all claims that are allocated and reserved for a pod; raises `UnreachableError`."""

    async def of_pod(self, namespace: str, pod: str) -> frozenset[str]:
        """Return the names of the claims that a pod uses, none where there is no such pod; raises `UnreachableError`."""


class Machine(Protocol):
    """The node as it is now."""

    def current(self) -> node.NodeTopology:
        """Return its devices; raises `HardwareError` as long as they are not known."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a state works with.

    Attributes
    ----------
    dynamic_mig : bool
        MIG instances are ours to make and to remove; otherwise they must exist.
    """

    driver: str
    store: checkpoint.Store
    locks: locks.Locks
    cdi: cdi.Folder
    metadata: metadata.Folder
    container: container.Source
    hardware: mig.Hardware
    daemons: sharing.Daemons
    programs: programs.Programs
    machine: Machine
    claims: Claims
    dynamic_mig: bool = True


class State:
    """Prepares and unprepares single claims; calls for different GPUs run side by side."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        # Calls into hardware that hangs must not take the threads away from those who write the checkpoint.
        self._threads = threads.Threads(HARDWARE_THREADS, "hardware")

    async def close(self) -> None:
        """Wait for the calls into the hardware that are under way, but for those that hang."""
        await self._threads.close()

    async def in_thread(self, call: Callable[..., T], *args: Any) -> T:
        """Return what a call into the hardware, or below files of its driver, returns."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *args)

    async def wanted(self, reference: claim.Reference) -> claim.ResourceClaim | None:
        """Return the claim as it stands; None where the API server does not say but the claim is prepared already.

        Raises
        ------
        ClaimError, UnreachableError
        """
        try:
            obj = await self.parts.claims.get(reference)
        except UnreachableError:
            if reference.uid in self.parts.store.read().claims:
                return None
            raise
        return claim.read(obj, reference, self.parts.driver)

    def may_have_gpus(self, wanted: claim.ResourceClaim | None) -> bool:
        """Tell whether a claim has GPUs or parts of them, or may have them."""
        try:
            machine = self.parts.machine.current()
        except mig.HardwareError:
            return True
        others = {nic.device_name for nic in machine.nics}
        others |= {other.device_name for other in machine.accelerators}
        return wanted is None or any(result.device not in others for result in wanted.results)

    async def company(self, wanted: claim.ResourceClaim) -> list[prepared.Claim]:
        """Return the other prepared claims with GPUs that a pod of this one uses too.

        Raises
        ------
        UnreachableError
            It cannot be told.
        """
        reference = wanted.reference
        if wanted.pods is None or len(wanted.pods) > MAX_PODS:
            raise UnreachableError(f"{reference}: not every pod that uses it is known")
        claims = self.parts.claims
        used = await asyncio.gather(*(claims.of_pod(reference.namespace, pod) for pod in wanted.pods))
        names = frozenset[str]().union(*used) - {reference.name}
        return [
            entry
            for entry in self.parts.store.read().claims.values()
            if entry.namespace == reference.namespace and entry.name in names
            if any(held.gpu_uuid for held in entry.devices)
        ]

    async def leave_order(self, uid: ClaimUid) -> None:
        """Show the GPUs of a prepared claim to new containers in no order of ours; errors as in `prepare`.

        Its files are looked at again where the record has no order already: a try may have failed in between.
        """
        parts = self.parts
        async with parts.locks.claim(uid):
            entry = parts.store.read().claims.get(uid)
            if entry is None:
                return
            left = replace(entry, ordered=False)
            if entry.phase is not prepared.Phase.COMPLETED:
                await self._record(left)
                return
            machine = parts.machine.current()
            async with parts.locks.devices(entry.locks):
                await self._bring_about(left, machine)

    async def prepare(
        self,
        reference: claim.Reference,
        wanted: claim.ResourceClaim | None,
        *,
        alone: bool = True,
        rebuilt: bool = False,
    ) -> prepared.Claim:
        """Prepare a claim, or find it prepared and make sure that its files are there.

        Parameters
        ----------
        wanted : ResourceClaim or None
            What `wanted` returned.
        alone : bool
            As in `prepare.decide`.
        rebuilt : bool
            The kubelet did not ask; the claim is found again after the loss of the checkpoint.

        Raises
        ------
        Exception
            One of `EXPECTED`. The record, if one was written, is kept for the next try.
        """
        parts = self.parts
        async with parts.locks.claim(reference.uid):
            entry = parts.store.read().claims.get(reference.uid)
            if entry is not None and wanted is not None and not prepare.same_devices(entry, wanted):
                log.warning("the claim was allocated anew without an unprepare", claim=str(reference))
                async with parts.locks.devices(entry.locks):
                    await self._release(entry)
                entry = None
            machine = parts.machine.current()
            if entry is None:
                if wanted is None:
                    raise UnreachableError(
                        f"{reference}: the API server cannot be reached, and the claim is not prepared yet"
                    )
                entry = replace(prepare.decide(wanted, machine, parts.store.read(), alone=alone), rebuilt=rebuilt)
            prepare.refuse_missing(entry, machine)
            async with parts.locks.devices(entry.locks):
                return await self._bring_about(entry, machine)

    async def restore(self, uid: ClaimUid) -> prepared.Claim | None:
        """Make a claim that is recorded as prepared so again, from local state only; errors as in `prepare`.

        Returns the record, or None where there is none of a prepared claim.
        """
        parts = self.parts
        if not _is_completed(parts.store.read(), uid):
            return None  # another instance may be at work on it, and a start must not wait for its hardware
        async with parts.locks.claim(uid):
            if not _is_completed(parts.store.read(), uid):
                return None
            entry = parts.store.read().claims[uid]
            machine = parts.machine.current()
            prepare.refuse_missing(entry, machine)
            async with parts.locks.devices(entry.locks):
                return await self._bring_about(entry, machine)

    async def _bring_about(self, entry: prepared.Claim, machine: node.NodeTopology) -> prepared.Claim:
        """Make true what a record says, as far as it is not; its devices are locked."""
        made = entry
        if prepare.steps(entry):
            if entry.phase is prepared.Phase.STARTED:
                await self._record(entry)
            made = await self._change_hardware(entry)
            if entry.phase is prepared.Phase.COMPLETED and made != entry:  # MIG devices that a reboot took
                made = replace(made, metadata_generation=entry.metadata_generation + 1)
        made = replace(made, phase=prepared.Phase.COMPLETED)
        if made != self.parts.store.read().claims.get(entry.uid):
            await self._record(made)
        await self.in_thread(self._write_files, made, machine)
        return made

    async def _record(self, entry: prepared.Claim) -> None:
        """Write a record unless another claim, perhaps of another instance, got one of its devices meanwhile."""

        def add(found: prepared.Checkpoint) -> prepared.Checkpoint:
            prepare.refuse_conflicts(entry, found)
            return found.having(entry)

        await self.parts.store.change(add)

    async def _change_hardware(self, entry: prepared.Claim) -> prepared.Claim:
        """Carry out the steps of a record and return it with the UUIDs of its MIG devices."""
        uuids: dict[prepared.Device, str] = {}
        for step in prepare.steps(entry):
            match step:
                case prepare.EnsurePartition(held, place):
                    uuids[held] = await self.in_thread(self._partition, held, place)
                case prepare.SetTimeSlices(gpu_uuid, interval):
                    await programs.set_time_slices(self.parts.programs, gpu_uuid, interval)
                case prepare.EnsureMps(settings, served):
                    names = [uuids.get(held, held.uuid) for held in served]
                    prepare.refuse_unknown_limits((uuid for uuid, _ in settings.pinned_mib_of), names)
                    await self.parts.daemons.ensure(settings, list(dict.fromkeys(names)))
            faultpoint.reach("hardware-changed")
        devices = tuple(replace(held, uuid=uuids.get(held, held.uuid)) for held in entry.devices)
        return replace(entry, devices=devices)

    def _partition(self, held: prepared.Device, place: prepared.Partition) -> str:
        """Return the UUID of a MIG device, made now if it is ours to make."""
        if self.parts.dynamic_mig:
            return mig.ensure(self.parts.hardware, held.gpu_uuid, place).uuid
        found = mig.find(self.parts.hardware, held.gpu_uuid, place)
        if found is None or not found.uuid:
            raise prepare.DeviceError(
                f"device {held.pool}/{held.name}: its MIG instance does not exist, and dynamic MIG is off; create it with"
                f" nvidia-smi mig -cgi {place.profile_id}:{place.start} -C"
            )
        return found.uuid

    def _write_files(self, entry: prepared.Claim, machine: node.NodeTopology) -> None:
        """Write the files that the container runtime and the containers read; does nothing where they are there."""
        parts = self.parts
        mounts = parts.metadata.ensure(entry, container.described(entry, machine))
        found = parts.container.contents(entry, mounts)
        spec = cdi.render(entry, parts.driver, found.of_device, found.of_request, found.common)
        parts.cdi.ensure(entry.uid, spec)

    async def unprepare(self, uid: ClaimUid) -> None:
        """Give the devices of a claim back; one that is not prepared is no error. Needs nothing but local state."""
        parts = self.parts
        async with parts.locks.claim(uid):
            entry = parts.store.read().claims.get(uid)
            if entry is None:
                await asyncio.to_thread(self.remove_files, uid)
                return
            async with parts.locks.devices(entry.locks):
                await self._release(entry)

    async def _release(self, entry: prepared.Claim) -> None:
        """Undo a claim; its devices are locked, or not in use by any other claim."""
        store = self.parts.store
        steps = prepare.undo(entry, store.read())
        if steps:
            if entry.phase is prepared.Phase.COMPLETED:
                started = replace(entry, phase=prepared.Phase.STARTED)
                await store.change(lambda found: found.having(started))
            for step in steps:
                await self._undo(step)
        await asyncio.to_thread(self.remove_files, entry.uid)
        await store.change(lambda found: found.lacking(entry.uid))

    async def _undo(self, step: Step) -> None:
        match step:
            case prepare.DestroyPartition(held, place):
                if self.parts.dynamic_mig:
                    await self.in_thread(mig.destroy, self.parts.hardware, held.gpu_uuid, place)
            case prepare.SetTimeSlices(gpu_uuid, interval):
                await programs.set_time_slices(self.parts.programs, gpu_uuid, interval)
            case prepare.StopMps(daemon, _):
                await self.parts.daemons.stop(daemon)

    def remove_files(self, uid: ClaimUid) -> None:
        """Remove what was written for the containers of a claim."""
        self.parts.cdi.remove(uid)
        self.parts.metadata.remove(uid)


def _is_completed(found: prepared.Checkpoint, uid: ClaimUid) -> bool:
    return uid in found.claims and found.claims[uid].phase is prepared.Phase.COMPLETED
