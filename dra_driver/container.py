"""What the containers of a prepared claim get: derived anew each time from the record and the node as it is now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dra_driver import edits, host_files, metadata, mig, prepare, prepared, sharing
from scheduler.model import attributes, node
from scheduler.model import claim as model_claim
from scheduler.model import device as model_device


@dataclass(frozen=True, slots=True)
class Contents:
    """All edits of a claim.

    Attributes
    ----------
    of_device : mapping
        By the key of the device.
    of_request : mapping
        By the base name of the request.
    """

    of_device: Mapping[str, edits.Edits]
    of_request: Mapping[str, edits.Edits]
    common: edits.Edits


@dataclass(frozen=True, slots=True)
class Source:
    """Where the edits come from.

    Attributes
    ----------
    driver_version : function
        Returns the release of the GPU driver now: it may be loaded, or changed, after the start.
    """

    files: host_files.HostFiles
    hardware: mig.Hardware
    daemons: sharing.Daemons
    driver_version: Callable[[], str]

    def contents(self, entry: prepared.Claim, mounts: Mapping[str, edits.Mount]) -> Contents:
        """Return the edits of a claim; `mounts` has the metadata file of each request.

        Raises
        ------
        HostFileError, DeviceError
            Something that a device needs is not there.
        """
        of_device = {held.key: self._device(held) for held in entry.devices}
        of_request = {name: self._request(entry, name, mounts) for name in entry.requests}
        has_gpus = any(held.gpu_uuid for held in entry.devices)
        common = self.files.common(self.driver_version()) if has_gpus else edits.Edits()
        return Contents(of_device, of_request, edits.Edits(_place(entry)) + common)

    def _device(self, held: prepared.Device) -> edits.Edits:
        env: tuple[str, ...] = (f"MUSTER_DEVICE_{variable(held.name)}={identity(held)}",)
        if held.admin_access:
            env += ("DRA_ADMIN_ACCESS=true",)
        match held.kind:
            case prepared.Kind.GPU:
                return edits.Edits(env, self.files.gpu_nodes(self.files.minor(held.pci_bus_id)))
            case prepared.Kind.MIG:
                return edits.Edits(env, self._mig_nodes(held))
            case prepared.Kind.NIC:
                return edits.Edits(env, self.files.function_nodes(held.pci_bus_id))
            case prepared.Kind.ACCELERATOR:
                return edits.Edits(env, self.files.accelerator_nodes(held.pci_bus_id))

    def _mig_nodes(self, held: prepared.Device) -> tuple[edits.DeviceNode, ...]:
        place = held.partition
        found = mig.find(self.hardware, held.gpu_uuid, place) if place else None
        if found is None or found.compute_instance < 0:
            raise prepare.DeviceError(
                f"device {held.pool}/{held.name}: its MIG instance does not exist on {held.gpu_uuid}"
            )
        minor = self.files.minor(held.pci_bus_id)
        return self.files.mig_nodes(minor, found.gpu_instance, found.compute_instance)

    def _request(self, entry: prepared.Claim, name: str, mounts: Mapping[str, edits.Mount]) -> edits.Edits:
        """Return what the devices of a request have in common."""
        devices = [held for held in entry.devices if held.base_request == name]
        names = list(dict.fromkeys(identity(held) for held in devices))
        env = [f"MUSTER_DEVICES_{variable(name)}={','.join(names)}"]
        if entry.ordered and all(held.gpu_uuid for held in devices):
            env.append(f"CUDA_VISIBLE_DEVICES={','.join(names)}")
        found = edits.Edits(tuple(env), (), (mounts[name],) if name in mounts else ())
        served = [held for held in devices if held.mps]
        if entry.mps is not None and served:
            found += self.daemons.edits(entry.mps, served[0].milli)
        return found


def _place(entry: prepared.Claim) -> tuple[str, ...]:
    """Return the variables by which programs know their place in the gang."""
    at = entry.place
    return () if at is None else (f"MUSTER_GANG={at.gang}", f"MUSTER_RANK={at.rank}", f"MUSTER_GANG_SIZE={at.size}")


def variable(name: str) -> str:
    """Return a name of the API as part of a variable's name.

    Examples
    --------
    >>> variable("gpu-0-mig-1g10gb-19-6")
    'GPU_0_MIG_1G10GB_19_6'
    """
    return "".join(c if c.isalnum() else "_" for c in name).upper()


def identity(held: prepared.Device) -> str:
    """Return what names a device for programs: the UUID of a GPU or MIG device, the PCI address of others."""
    return held.uuid or held.pci_bus_id


def described(entry: prepared.Claim, machine: node.NodeTopology) -> dict[str, metadata.Attributes]:
    """Return the attributes of a claim's devices as the ResourceSlices have them, by the key of the device."""
    known = attributes.facts(machine, lists=False, shares=True)
    devices = model_claim.devices(machine)
    found = {}
    for held in entry.devices:
        listed = _attributes(known, devices.get(held.name))
        if held.kind is prepared.Kind.MIG and held.uuid:
            listed = {**listed, "uuid": {"string": held.uuid}}
        found[held.key] = listed
    return found


def _attributes(known: attributes.Facts, found: model_claim.Device | None) -> metadata.Attributes:
    match found:
        case model_device.Gpu():
            entry = attributes.gpu_entry(known, found)
        case model_claim.Partition():
            entry = attributes.partition_entry(known, found)
        case model_device.Nic():
            entry = attributes.nic_entry(known, found)
        case model_device.Accelerator():
            entry = attributes.accelerator_entry(known, found)
        case None:
            return {}
    attributes_of: metadata.Attributes = entry["attributes"]
    return attributes_of
