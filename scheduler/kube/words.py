"""What people are told about a gang, in plain sentences."""

from collections import Counter

from scheduler.gang import effects, room
from scheduler.kube import fleet, followed
from scheduler.kube import pod as pods
from scheduler.model import request
from scheduler.placement import placement

EVICTIONS = {
    effects.Eviction.PREEMPTED: "a gang of higher priority needs its devices",
    effects.Eviction.RECLAIMED: "a tenant took back what this one had borrowed",
    effects.Eviction.NODE_FAILED: "a node of it failed",
    effects.Eviction.DEVICE_FAILED: "a device of it failed",
    effects.Eviction.NODE_REMOVED: "a node of it, or a device, is no longer in the cluster",
    effects.Eviction.MOVED: "it is put elsewhere so that another gang fits, and has its devices there already",
    effects.Eviction.MEMBER_LOST: "a pod was lost and its domain has no room for another",
}

NAMED = 6
"""Gangs that a sentence names."""


def incomplete(gang: followed.Followed) -> str:
    """Say what a gang still waits for before it can be planned."""
    found = gang.workload
    what = found.waiting_for or f"{found.missing} more pods"
    return f"not planned yet: waiting for {what}"


def planned(gang: followed.Followed) -> str:
    """Say where a gang goes."""
    return "placed" if gang.placement is None else placed(gang.placement)


def placed(found: placement.Placement) -> str:
    """Say where a placement is."""
    pods = len(found.grants)
    where = (
        f"{pods} {'pod' if pods == 1 else 'pods'} on {len(found.nodes)} {'node' if len(found.nodes) == 1 else 'nodes'}"
    )
    gpus = sum(len(grant.gpus) if grant.milli else len(grant.partitions) for grant in found.grants)
    speed = f", predicted {found.bandwidth_mb_s / 1000:.0f} GB/s for a collective" if found.bandwidth_mb_s else ""
    return f"{where} in {found.level} {found.domain}, {gpus} devices{speed}"


def offered(found: room.Offer) -> str:
    """Say what would let a gang start."""
    where = f"it would start in {found.placement.level} {found.placement.domain} if"
    if found.way == "defragment":
        moves = [f"{one.running.gang.name} to {one.placement.level} {one.placement.domain}" for one in found.moves]
        return f"{where} other gangs moved: {_some(moves)}; --defragment execute does that"
    victims = [f"{one.gang.name} (priority {one.gang.priority})" for one in found.gone]
    return f"{where} others were evicted: {_some(victims)}; --preempt execute does that"


def _some(found: list[str]) -> str:
    """Join the first of some words and count the others."""
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(found[:NAMED]) + more


def closed(compiled: fleet.Compiled) -> str:
    """Say how many nodes with GPUs take nothing new, and why; "" for none."""
    topology = compiled.topology
    why = [
        reason for node, reason in compiled.closed.items() if node in topology.row and topology.gpus[topology.row[node]]
    ]
    counts = sorted(Counter(why).items(), key=lambda one: (-one[1], one[0]))
    told = _some([f"{count} ({reason})" for reason, count in counts])
    return f"; nodes with GPUs that take nothing new: {told}" if told else ""


def unbound(waiting: list[pods.Pod], after_s: float) -> str:
    """Say which pods kube-scheduler has not bound, and what it says itself."""
    told = next((f": {one.unbound}" for one in waiting if one.unbound), "")
    which = _some([one.name for one in waiting])
    return f"{len(waiting)} pods were let go and are not bound after {after_s:.0f} s, {which}{told}"


def evicted(gang: followed.Followed, reason: effects.Eviction) -> str:
    """Say why a gang has to leave."""
    return f"the pods are deleted: {EVICTIONS[reason]}; the gang waits for its pods to be made anew"


def asks(one: request.PodRequest) -> str:
    """Say what a pod asks for."""
    models = f" ({' or '.join(dict.fromkeys(one.gpu_models))})" if one.gpu_models else ""
    gpus = {
        request.RequestKind.CPU: "",
        request.RequestKind.MIG: f"{one.gpus} x {one.mig}{models}",
        request.RequestKind.SHARE: f"{one.gpu_milli / 1000:g} GPU{models}",
        request.RequestKind.WHOLE: f"{one.gpus} GPU{'' if one.gpus == 1 else 's'}{models}",
    }[one.kind]
    nics = f"{one.nics} NIC{'' if one.nics == 1 else 's'}" if one.nics else ""
    rest = (f"{count} {kind}" for kind, count in one.accelerators)
    cpu, memory = f"{one.cpu_milli / 1000:g} CPU", f"{one.memory_mib} MiB"
    return ", ".join(part for part in (gpus, nics, *rest, cpu, memory) if part)
