"""What a driver says about each device: the entries of ResourceSlices, one function per kind of device.

Attributes without a domain belong to the driver. ``type``, ``uuid``, ``parentUUID`` and ``profile`` are the four that
GPU exporters read. What NVIDIA's driver publishes too has its name and type, so that selectors written for it need no
more than another domain. Beside the facts that ``decode`` needs there are those that users match on: ``nvlinkIsland`` and
``nvlinkPair`` (GPUs joined by NVLink), ``nvlinkDomain`` (a rack), ``rail`` (GPU and its nearest NIC).

References
----------
KEP-4381 and KEP-6072 for ``pcieRoot``, ``pciBusID`` and ``numaNode``; KEP-4815 for counters; KEP-5075 for capacity.
"""

import re
from dataclasses import dataclass
from typing import Any

from scheduler.model import claim, device, node, order, peers, published, quantity

PCI_BUS_ID = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")

MAX_TEXT = 64
"""Bytes of a string attribute (DeviceAttributeMaxValueLength)."""

ENGINES = {
    "multiprocessors": "multiprocessors",
    "copyEngines": "copy",
    "decoders": "decoders",
    "encoders": "encoders",
    "jpegEngines": "jpeg",
    "ofaEngines": "ofa",
}
"""Capacities, named as NVIDIA's driver names them, and the field of `device.Engines`."""

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """What takes all devices of a node together to know.

    Attributes
    ----------
    island, pair : dict of GPU to int
        Lowest GPU of its NVLink island and of its NVLink pair; absent without one.
    lists : bool
        The cluster knows list attributes: NUMA nodes are published with their nearest neighbours.
    shares : bool
        The cluster knows consumable capacity: GPUs are divisible.
    """

    machine: node.NodeTopology
    island: dict[int, int]
    pair: dict[int, int]
    lists: bool
    shares: bool


def facts(machine: node.NodeTopology, *, lists: bool, shares: bool) -> Facts:
    """Gather the facts of a node."""
    island = {gpu: members[0] for members in machine.islands() for gpu in members}
    pair = {gpu: members[0] for members in order.pairs(machine) for gpu in members}
    return Facts(machine, island, pair, lists, shares)


def gpu_entry(known: Facts, gpu: device.Gpu) -> Entry:
    """Return the entry of a whole GPU, divisible into milli-shares where it may be."""
    attributes = _gpu_attributes(known, gpu) | {
        "type": _text("gpu"),
        "uuid": _text(gpu.uuid),
        "shareable": {"bool": gpu.shareable},
        "migEnabled": {"bool": gpu.mig_enabled},
        "nvlinkDomain": _text(gpu.fabric_id),
        "nvlinkIsland": _number(known.island.get(gpu.index, -1)),
        "nvlinkPair": _number(known.pair.get(gpu.index, -1)),
        **{peers.attribute(i): _text(text) for i, text in enumerate(peers.texts(known.machine, gpu.index))},
    }
    entry = _entry(gpu.name, attributes, _capacity(gpu.model.memory_mib, _most(gpu.model)))
    if gpu.divisible and known.shares:
        entry["allowMultipleAllocations"] = True
        _divide(entry)
    return entry


def partition_entry(known: Facts, part: claim.Partition) -> Entry:
    """Return the entry of a MIG partition, which draws on the counters of its GPU. Partitions have no NVLink."""
    attributes = _gpu_attributes(known, part.gpu) | {
        "type": _text("mig"),
        "parentUUID": _text(part.gpu.uuid),
        "profile": _text(part.profile.name),
        "profileId": _number(part.profile.profile_id),
        "start": _number(part.start),
        "computeSlices": _number(part.profile.compute),
        "memorySlices": _number(part.profile.memory_slices),
    }
    entry = _entry(part.name, attributes, _capacity(part.profile.memory_mib, part.profile.engines))
    entry["consumesCounters"] = [{"counterSet": counter_set(part.gpu), "counters": _counters(part.slices)}]
    return entry


def nic_entry(known: Facts, nic: device.Nic) -> Entry:
    """Return the entry of a NIC."""
    attributes = _position(known, nic) | {
        "type": _text("nic"),
        "index": _number(nic.index),
        "interface": _text(nic.name),
        "gbps": _number(nic.gbps),
        "rdma": {"bool": nic.rdma},
        "rail": _number(nic.index),
    }
    return _entry(nic.device_name, attributes)


def accelerator_entry(known: Facts, accelerator: device.Accelerator) -> Entry:
    """Return the entry of another accelerator."""
    attributes = _position(known, accelerator) | {
        "type": _text("accelerator"),
        "index": _number(accelerator.index),
        "kind": _text(accelerator.kind),
        "productName": _text(accelerator.model),
    }
    return _entry(accelerator.device_name, attributes)


def counter_set(gpu: device.Gpu) -> str:
    """Return the name of the counters of a GPU."""
    return f"{gpu.name}-counters"


def all_counters(gpu: device.Gpu) -> dict[str, Any]:
    """Return everything that a GPU's partitions draw on, which is also what the whole GPU takes."""
    taken = 0
    for part in claim.partitions_of(gpu):
        taken |= part.slices
    return _counters(taken)


def _counters(slices: int) -> dict[str, Any]:
    """Return counters of value 1 for memory slices and the media engine."""
    names = [f"memory-slice-{i}" for i in range(8) if slices >> i & 1] + ["media"] * bool(slices & device.MEDIA_BIT)
    return {name: {"value": "1"} for name in names}


def _gpu_attributes(known: Facts, gpu: device.Gpu) -> Entry:
    """Return what a GPU and its partitions have in common."""
    nic = known.machine.nearest_nic(gpu.index)
    return _position(known, gpu) | {
        "index": _number(gpu.index),
        "productName": _text(gpu.model.name),
        "brand": _text(gpu.model.brand),
        "architecture": _text(gpu.model.architecture),
        "cudaComputeCapability": _version(gpu.model.compute_capability),
        "driverVersion": _version(known.machine.driver_version),
        "cudaDriverVersion": _version(known.machine.cuda_version),
        "addressingMode": _text(gpu.addressing_mode),
        "rail": _number(-1 if nic is None else nic),
        "nicDistance": _text("" if nic is None else known.machine.gpu_nic_distance(gpu.index, nic).name),
    }


def _position(known: Facts, place: device.Gpu | device.Nic | device.Accelerator) -> Entry:
    """Return where a device is plugged in."""
    bus = place.pci_bus_id
    if bus and not PCI_BUS_ID.fullmatch(bus):
        raise published.SliceError(f"node {known.machine.name}: pci_bus_id {bus!r} is not of the form dddd:bb:dd.f")
    return {
        f"{published.STANDARD}/pciBusID": _text(bus),
        f"{published.STANDARD}/pcieRoot": _text(place.pcie_root),
        f"{published.STANDARD}/numaNode": _numa(known, place.numa),
        "pcieSwitch": _text(place.pcie_switch),
    }


def _numa(known: Facts, numa: int) -> Entry | None:
    """Return the NUMA node, with its nearest neighbours of the same socket where lists are known (KEP-6072)."""
    if numa < 0 or not known.lists:
        return _number(numa)
    count = max(len(known.machine.numa_distances), len(known.machine.sockets))
    return {"ints": [numa, *(n for n in range(count) if n != numa and _beside(known.machine, numa, n))]}


def _beside(machine: node.NodeTopology, a: int, b: int) -> bool:
    """Tell whether NUMA node b is on the socket of a and at the least distance from it."""
    if a >= len(machine.numa_distances):
        return False
    row = machine.numa_distances[a]
    nearest = min((far for n, far in enumerate(row) if n != a), default=0)
    same_socket = not machine.sockets or machine.sockets[a] == machine.sockets[b]
    return same_socket and row[b] == nearest


def _divide(entry: Entry) -> None:
    """Let a device be given out in thousandths; by default a request takes all of it."""
    whole = str(device.WHOLE_GPU_MILLI)
    capacity = entry.setdefault("capacity", {})
    milli = {"min": "1", "max": whole, "step": "1"}
    capacity[claim.MILLI] = {"value": whole, "requestPolicy": {"default": whole, "validRange": milli}}
    for name, amount in capacity.items():
        # The rest counts only where a request asks for it: without a policy the first share would take all of it.
        if name != claim.MILLI and amount["value"] != "0":
            step = "1Mi" if name == "memory" else "1"
            amount["requestPolicy"] = {"default": "0", "validRange": {"min": "0", "step": step}}


def _most(model: device.GpuModel) -> device.Engines:
    """Return what a whole GPU has, by its largest partitions: the GPU itself does not tell."""
    rows = [[getattr(profile.engines, name) for name in ENGINES.values()] for profile in model.mig]
    return device.Engines(*(max(column) for column in zip(*rows, strict=True)))


def _capacity(memory_mib: int, engines: device.Engines) -> Entry:
    found = {"memory": quantity.of_mib(memory_mib)} if memory_mib else {}
    if engines != device.Engines():
        found |= {name: str(getattr(engines, field)) for name, field in ENGINES.items()}
    return {name: {"value": value} for name, value in found.items()}


def _text(value: str) -> Entry | None:
    return {"string": value} if value else None


def _version(value: str) -> Entry | None:
    return {"version": value} if value else None


def _number(value: int) -> Entry | None:
    return {"int": value} if value >= 0 else None


def _entry(name: str, attributes: dict[str, Entry | None], capacity: Entry | None = None) -> Entry:
    """Put an entry together; what is unknown is left out."""
    entry: Entry = {"name": name, "attributes": {key: value for key, value in attributes.items() if value}}
    for key, value in entry["attributes"].items():
        if len(value.get("string", "").encode()) > MAX_TEXT:
            raise published.SliceError(f"device {name}: attributes.{key}: longer than {MAX_TEXT} bytes")
    if capacity:
        entry["capacity"] = capacity
    return entry
