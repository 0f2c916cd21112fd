"""What is known of each GPU and what would end each fault, for a person: from the files that the driver writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dra_driver.health import model, places, severity, taints
from scheduler.model import device, node

ENDS = {
    "gpu-lost": "the GPU answers again",
    "ecc": "a reset of the GPU, which sets the count of errors back",
    "recovery-action": "the GPU asks for no recovery action any more",
    "nvlink": "the links are active again",
    "fabric": "the fabric manager has the GPU in order",
    "unmonitored": "the GPU answers",
}
"""By kind, of the faults that readings tell."""
ROWS = {"pending": "a reset of the GPU", "failed": "nothing: the GPU is to be replaced"}
RESET = "a reset of the GPU that the driver sees, a reboot, or `muster-dra-driver health clear {}` after a reset that it does not"


@dataclass(frozen=True, slots=True)
class Told:
    """One fault.

    Attributes
    ----------
    since : str
        When its taint was added.
    memory_slices : (start, size) or None
        What it concerns; None for the whole GPU.
    ends : str
        What ends it.
    clearable : bool
        An operator may say that it is over; else readings do.
    """

    kind: str
    value: str
    severity: str
    since: str
    message: str
    memory_slices: tuple[int, int] | None
    ends: str
    clearable: bool


@dataclass(frozen=True, slots=True)
class Gpu:
    """What is known of one GPU; `state` is ``ok``, ``degraded`` (gets no new work) or ``failed`` (loses its work)."""

    name: str
    uuid: str
    state: str
    faults: tuple[Told, ...]


def report(machine: node.NodeTopology, known: Mapping[str, model.Health], times: taints.Times) -> Iterator[Gpu]:
    """Yield all GPUs of a machine, the worst fault of each first."""
    by_place = places.split(known)
    since = times.taints(by_place)
    for gpu in machine.gpus:
        found = []
        for place in (one for one in sorted(by_place) if one.partition(" ")[0] == gpu.uuid):
            faults = [fault for _, fault in sorted(by_place[place].faults.items())]
            found += [(fault, taint["timeAdded"]) for fault, taint in zip(faults, since[place], strict=True)]
        found.sort(key=lambda row: -row[0].severity)
        state = severity.state(fault.severity for fault, _ in found)
        yield Gpu(gpu.name, gpu.uuid, state, tuple(_told(gpu, fault, at) for fault, at in found))


def _told(gpu: device.Gpu, fault: model.Fault, since: str) -> Told:
    how_bad = fault.severity.name.lower()
    polled = fault.kind in model.POLLED
    return Told(fault.kind, fault.value, how_bad, since, fault.message, fault.part, _ends(gpu, fault), not polled)


def _ends(gpu: device.Gpu, fault: model.Fault) -> str:
    if fault.kind == "row-remap":
        return ROWS[fault.value]
    if fault.kind in ENDS:
        return ENDS[fault.kind]
    if fault.severity is severity.Severity.INFORM:
        return f"{model.FADE_S / 60:.0f} minutes after it began"
    return RESET.format(gpu.name)
