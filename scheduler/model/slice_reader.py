"""From the devices that our driver published back to the node."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from scheduler.model import attributes, device, node, peers, published

ANNOTATION = "muster.dev/node"
"""Annotation of every slice with the facts about the node as a whole, as JSON."""

STANDARD_BUS = f"{published.STANDARD}/pciBusID"
STANDARD_ROOT = f"{published.STANDARD}/pcieRoot"
STANDARD_NUMA = f"{published.STANDARD}/numaNode"

Facts = Mapping[str, Any]


def node_facts(machine: node.NodeTopology) -> dict[str, Any]:
    """Return what concerns the whole node: machine, NVSwitches, NUMA layout, MIG tables of its GPU models."""
    models = {gpu.model.name: gpu.model for gpu in machine.gpus if gpu.model.compute_slices}
    return {
        "machine": machine.machine,
        "nvswitches": machine.nvswitches,
        "numaDistances": machine.numa_distances,
        "sockets": machine.sockets,
        "models": {name: {"computeSlices": m.compute_slices, "mig": _table(m)} for name, m in models.items()},
    }


def topology(name: str, found: Sequence[published.PublishedDevice], annotation: str = "") -> node.NodeTopology:
    """Return the node with these devices.

    Raises
    ------
    SliceError
    """
    facts = _facts(name, annotation)
    by_type: dict[str, list[published.PublishedDevice]] = {"gpu": [], "nic": [], "accelerator": [], "mig": []}
    for d in found:
        by_type.setdefault(d.text("type"), []).append(d)
    gpus = sorted(by_type["gpu"], key=published_index)
    position = {published_index(d): i for i, d in enumerate(gpus)}
    if len(position) != len(gpus):
        raise gpus[0].error("attributes.index", "two GPUs have the same index")
    try:
        return node.NodeTopology(
            name=name,
            machine=facts.get("machine", ""),
            gpus=tuple(_gpu(d, i, facts, by_type["mig"]) for i, d in enumerate(gpus)),
            nics=tuple(_nic(d, i) for i, d in enumerate(sorted(by_type["nic"], key=published_index))),
            accelerators=tuple(
                _accelerator(d, i) for i, d in enumerate(sorted(by_type["accelerator"], key=published_index))
            ),
            nvlinks=_links(gpus, position),
            nvswitches=facts.get("nvswitches", 0),
            numa_distances=tuple(tuple(row) for row in facts.get("numaDistances", ())),
            sockets=tuple(facts.get("sockets", ())),
            driver_version=_common(found, "driverVersion"),
            cuda_version=_common(found, "cudaDriverVersion"),
        )
    except published.SliceError:
        raise
    except (TypeError, ValueError) as error:
        raise published.SliceError(f"pool {name}: {error}") from error


def _common(found: Sequence[published.PublishedDevice], name: str) -> str:
    """Return what all GPUs of a node say in one attribute, by the first that has it."""
    return next((text for d in found if d.text("type") in ("gpu", "mig") and (text := d.text(name))), "")


def published_index(d: published.PublishedDevice) -> int:
    """Return the index of a device: its attribute, or else the last number of its name."""
    index = d.number("index")
    digits = re.findall(r"\d+", d.name)
    if index < 0 and not digits:
        raise d.error("attributes.index", "missing, and the name has no number")
    return index if index >= 0 else int(digits[-1])


def mig_table(partitions: Sequence[published.PublishedDevice]) -> tuple[device.MigProfile, ...]:
    """Rebuild the MIG table of a GPU from its published partitions.

    Notes
    -----
    The number of instances is not published; it is how many of the placements fit beside each other, and one for the
    profiles that hold the media engine.
    """
    starts: dict[str, dict[int, published.PublishedDevice]] = {}
    for d in partitions:
        starts.setdefault(d.text("profile"), {})[d.number("start", 0)] = d
    table = []
    for profile, at in starts.items():
        some = next(iter(at.values()))
        width = some.number("memorySlices", 1)
        fitting = 1 if "+me" in profile else _fitting(sorted(at), width)
        where = tuple(sorted(at))
        numbers = some.number("profileId", 0), some.number("computeSlices", 1), width
        engines = device.Engines(**{field: some.count(name) for name, field in attributes.ENGINES.items()})
        table.append(device.MigProfile(profile, *numbers, where, fitting, some.mib("memory"), engines))
    return tuple(table)


def position(d: published.PublishedDevice) -> dict[str, Any]:
    """Return where a device is plugged in, as keyword arguments of its value."""
    return {
        "pci_bus_id": d.text(STANDARD_BUS),
        "pcie_switch": d.text("pcieSwitch"),
        "pcie_root": d.text(STANDARD_ROOT),
        "numa": d.number(STANDARD_NUMA),
    }


def _table(model: device.GpuModel) -> list[dict[str, Any]]:
    """Return a MIG table for the annotation."""
    return [
        {
            "name": p.name,
            "id": p.profile_id,
            "compute": p.compute,
            "memorySlices": p.memory_slices,
            "starts": p.starts,
            "instances": p.max_instances,
            "memoryMiB": p.memory_mib,
            "engines": dataclasses.astuple(p.engines),
        }
        for p in model.mig
    ]


def _facts(name: str, annotation: str) -> Facts:
    """Read the annotation; without one nothing is known about the node as a whole."""
    try:
        facts = json.loads(annotation or "{}")
    except json.JSONDecodeError as error:
        raise published.SliceError(f"pool {name}: annotation {ANNOTATION}: no JSON: {error}") from error
    expected = {"machine": str, "nvswitches": int, "numaDistances": list, "sockets": list, "models": dict}
    if not isinstance(facts, dict):
        raise published.SliceError(f"pool {name}: annotation {ANNOTATION}: not a mapping")
    for key, kind in expected.items():
        if key in facts and type(facts[key]) is not kind:
            raise published.SliceError(f"pool {name}: annotation {ANNOTATION}: {key}: no {kind.__name__}")
    return facts


def _model(
    d: published.PublishedDevice, facts: Facts, partitions: Sequence[published.PublishedDevice]
) -> device.GpuModel:
    """Return the product of a GPU."""
    name, architecture, memory_mib = d.text("productName", "unknown"), d.text("architecture"), d.mib("memory")
    product = d.text("brand"), d.text("cudaComputeCapability")
    known = facts.get("models", {}).get(name)
    if known is None:
        table = mig_table([p for p in partitions if published_index(p) == published_index(d)])
        return device.GpuModel(
            name, architecture, memory_mib, max((p.compute for p in table), default=0), table, *product
        )
    try:
        profiles = tuple(
            device.MigProfile(
                p["name"],
                p["id"],
                p["compute"],
                p["memorySlices"],
                tuple(p["starts"]),
                p["instances"],
                p["memoryMiB"],
                device.Engines(*p.get("engines", ())),
            )
            for p in known["mig"]
        )
        return device.GpuModel(name, architecture, memory_mib, known["computeSlices"], profiles, *product)
    except (KeyError, TypeError, AttributeError) as error:
        raise d.error(f"annotation {ANNOTATION}", f"MIG table of {name}: {error!r}") from error


def _gpu(
    d: published.PublishedDevice, index: int, facts: Facts, partitions: Sequence[published.PublishedDevice]
) -> device.Gpu:
    """Return a GPU; its own name is kept where ours would be another."""
    return device.Gpu(
        index=index,
        model=_model(d, facts, partitions),
        uuid=d.text("uuid"),
        **position(d),
        fabric_id=d.text("nvlinkDomain"),
        mig_enabled=d.flag("migEnabled"),
        shareable=d.flag("shareable"),
        device_name="" if d.name == f"gpu-{index}" else d.name,
        addressing_mode=d.text("addressingMode"),
    )


def _nic(d: published.PublishedDevice, index: int) -> device.Nic:
    rate = d.number("gbps", 0)
    name = "" if d.name == f"nic-{index}" else d.name
    return device.Nic(index, d.text("interface", d.name), rate, **position(d), rdma=d.flag("rdma"), kept_name=name)


def _accelerator(d: published.PublishedDevice, index: int) -> device.Accelerator:
    name = "" if d.name == f"accelerator-{index}" else d.name
    return device.Accelerator(index, d.text("kind"), d.text("productName"), **position(d), kept_name=name)


def _links(gpus: Sequence[published.PublishedDevice], position: Mapping[int, int]) -> tuple[node.NvLink, ...]:
    """Return the NVLinks; both ends publish each, and must agree. Links to unpublished GPUs are left out."""
    ends: dict[tuple[int, int], tuple[int, float]] = {}
    for d in gpus:
        own = published_index(d)
        for peer, links, gbps in _peers(d, own):
            if peer in position:
                pair = min(position[own], position[peer]), max(position[own], position[peer])
                if ends.setdefault(pair, (links, gbps)) != (links, gbps):
                    raise d.error(f"attributes.{peers.ATTRIBUTE}", f"disagrees with GPU {peer} about their links")
    return tuple(node.NvLink(a, b, links, gbps) for (a, b), (links, gbps) in sorted(ends.items()))


def _peers(d: published.PublishedDevice, own: int) -> list[tuple[int, int, float]]:
    """Return peer, links and speed from all parts of the text."""
    found: list[tuple[int, int, float]] = []
    part = 0
    while text := d.text(peers.attribute(part)):
        try:
            found.extend(peers.parse(own, text))
        except ValueError as error:
            raise d.error(f"attributes.{peers.attribute(part)}", str(error)) from error
        part += 1
    return found


def _fitting(starts: Sequence[int], width: int) -> int:
    """Count the placements of one profile that fit beside each other."""
    count, end = 0, 0
    for start in starts:
        if start >= end:
            count, end = count + 1, start + width
    return count
