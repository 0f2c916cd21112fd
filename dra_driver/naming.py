"""What a discovered node is called and what it had before: pure, so that every loss and return can be tried."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from dra_driver import known
from dra_driver.probe import roots
from scheduler.model import device, node

Other = TypeVar("Other", device.Nic, device.Accelerator)

MAX_NAMES = 512
"""Names of devices that are gone are forgotten beyond that."""


def merged(found: node.NodeTopology, before: known.Known, unlinked: Collection[str] = ()) -> known.Known:
    """Return what is known after a discovery: all devices under the names that they had, GPUs that are gone among them.

    Parameters
    ----------
    found : NodeTopology
        As the probe tells it, under names of its own.
    unlinked : collection of str
        GPUs, by UUID, of whose NVLinks the probe knows nothing now.
    """
    old = before.machine.gpus if before.machine is not None else ()
    here = {gpu.uuid for gpu in found.gpus}
    places = {gpu.pci_bus_id: gpu.uuid for gpu in found.gpus if gpu.pci_bus_id}
    # A new GPU in the slot of one that is gone stands for it: a card was changed.
    heirs = {places[gpu.pci_bus_id]: gpu.uuid for gpu in old if gpu.uuid not in here and gpu.pci_bus_id in places}
    heirs = {new: gone for new, gone in heirs.items() if new not in before.names}
    names = {key: name for key, name in before.names.items() if key not in heirs.values()}
    names |= {new: before.names[gone] for new, gone in heirs.items() if gone in before.names}
    names |= _named(((gpu.uuid, gpu.name) for gpu in found.gpus), names, "gpu")
    names |= _named(((nic.pci_bus_id, nic.device_name) for nic in found.nics), names, "nic")
    others = ((one.pci_bus_id, one.device_name) for one in found.accelerators)
    names |= _named(others, names, "accelerator")
    gone = [gpu for gpu in old if gpu.uuid not in here and gpu.uuid not in heirs.values() and gpu.uuid in names]
    gone = _as_now(gone[: max(0, node.MAX_GPUS - len(found.gpus))], found.gpus)
    machine = replace(
        found,
        gpus=_gpus([*found.gpus, *gone], names),
        nics=_others(found.nics, names, "nic"),
        accelerators=_others(found.accelerators, names, "accelerator"),
        nvlinks=(),
    )
    unsure = {gpu.uuid for gpu in gone} | (set(unlinked) & {gpu.uuid for gpu in old})
    machine = _linked(machine, found, before.machine, unsure)
    return known.Known(machine, _bounded(names, machine))


def present(machine: node.NodeTopology, uuids: Collection[str]) -> node.NodeTopology:
    """Return a node with some of its GPUs only, under their names."""
    left = [gpu for gpu in machine.gpus if gpu.uuid in uuids]
    if len(left) == len(machine.gpus):
        return machine
    gpus = _gpus(left, {gpu.uuid: gpu.name for gpu in left})
    index = {gpu.uuid: gpu.index for gpu in gpus}
    links = _links(machine, index)
    return replace(machine, gpus=gpus, nvlinks=tuple(links.values()))


def _named(devices: Iterable[tuple[str, str]], names: Mapping[str, str], kind: str) -> dict[str, str]:
    """Return the names of devices that have none: their own, else the lowest that nothing is called."""
    made: dict[str, str] = {}
    taken = set(names.values())
    for key, own in devices:
        if key in names or key in made:
            continue
        number = 0
        while (name := own if number == 0 else f"{kind}-{number - 1}") in taken:
            number += 1
        made[key] = name
        taken.add(name)
    return made


def _gpus(gpus: Iterable[device.Gpu], names: Mapping[str, str]) -> tuple[device.Gpu, ...]:
    """Return GPUs in the order of their names."""
    ordered = sorted(gpus, key=lambda gpu: roots.natural(names[gpu.uuid]))
    return tuple(
        replace(gpu, index=i, device_name="" if names[gpu.uuid] == f"gpu-{i}" else names[gpu.uuid])
        for i, gpu in enumerate(ordered)
    )


def _others(devices: Sequence[Other], names: Mapping[str, str], kind: str) -> tuple[Other, ...]:
    ordered = sorted(devices, key=lambda one: roots.natural(names[one.pci_bus_id]))
    return tuple(
        replace(one, index=i, kept_name="" if names[one.pci_bus_id] == f"{kind}-{i}" else names[one.pci_bus_id])
        for i, one in enumerate(ordered)
    )


def _as_now(gone: Sequence[device.Gpu], here: Sequence[device.Gpu]) -> list[device.Gpu]:
    """Return GPUs that are gone with the model that others of their product have now: drivers tell it differently."""
    models = {gpu.model.name: gpu.model for gpu in here}
    return [replace(gpu, model=models.get(gpu.model.name, gpu.model)) for gpu in gone]


def _linked(
    machine: node.NodeTopology, found: node.NodeTopology, before: node.NodeTopology | None, unsure: Collection[str]
) -> node.NodeTopology:
    """Return a machine with the NVLinks that were found, and those from before of the GPUs about which it is unsure."""
    index = {gpu.uuid: gpu.index for gpu in machine.gpus}
    links = _links(found, index)
    if before is not None and unsure:
        sides = {index[uuid] for uuid in unsure}
        old = {pair: link for pair, link in _links(before, index).items() if sides & set(pair)}
        links = old | links
        machine = replace(machine, machine=before.machine, nvswitches=max(before.nvswitches, found.nvswitches))
    return replace(machine, nvlinks=tuple(links.values()))


def _links(machine: node.NodeTopology, index: Mapping[str, int]) -> dict[tuple[int, int], node.NvLink]:
    """Return the NVLinks between GPUs that have an index, under it."""
    return {(link.a, link.b): link for link in _renumbered(machine, index)}


def _renumbered(machine: node.NodeTopology, index: Mapping[str, int]) -> Iterator[node.NvLink]:
    uuids = [gpu.uuid for gpu in machine.gpus]
    for link in machine.nvlinks:
        if uuids[link.a] in index and uuids[link.b] in index:
            a, b = sorted((index[uuids[link.a]], index[uuids[link.b]]))
            yield replace(link, a=a, b=b)


def _bounded(names: dict[str, str], machine: node.NodeTopology) -> dict[str, str]:
    if len(names) <= MAX_NAMES:
        return names
    here = {gpu.uuid for gpu in machine.gpus} | {nic.pci_bus_id for nic in machine.nics}
    here |= {one.pci_bus_id for one in machine.accelerators}
    return {key: name for key, name in names.items() if key in here}
