"""Faults by the place that they are about: a GPU, or the memory slices of one of its MIG instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dra_driver.health import model
from scheduler.model import claim, node

Taint = Mapping[str, str]


def split(known: Mapping[str, model.Health]) -> dict[str, model.Health]:
    """Return the health of each place, by GPU UUID, for a part followed by where it starts and its size."""
    found: dict[str, dict[str, model.Fault]] = {}
    for uuid, health in known.items():
        for key, fault in health.faults.items():
            place = uuid if fault.part is None else f"{uuid} {fault.part[0]}+{fault.part[1]}"
            found.setdefault(place, {})[key] = fault
    return {place: model.Health(place.partition(" ")[0], faults) for place, faults in found.items()}


def named(machine: node.NodeTopology, by_place: Mapping[str, Sequence[Taint]]) -> dict[str, list[Taint]]:
    """Return the taints by device name: those of a part for all partitions that have some of its memory.

    The slices give partitions the taints of their GPU too; no device has two of one key and effect.
    """
    gpus = {gpu.uuid: gpu for gpu in machine.gpus}
    found: dict[str, list[Taint]] = {}
    for place, taints in sorted(by_place.items()):  # a GPU comes before its parts
        uuid, _, part = place.partition(" ")
        gpu = gpus.get(uuid)
        if gpu is None:
            continue
        if not part:
            found[gpu.name] = list(taints)
            continue
        start, size = map(int, part.split("+"))
        for one in claim.partitions_of(gpu):
            if one.start < start + size and start < one.start + one.profile.memory_slices:
                mine = found.setdefault(one.name, [])
                has = {_kind(taint) for taint in (*found.get(gpu.name, ()), *mine)}
                mine += [taint for taint in taints if _kind(taint) not in has]
    return {name: taints for name, taints in found.items() if taints}


def _kind(taint: Taint) -> tuple[str, str]:
    return taint["key"], taint["effect"]
