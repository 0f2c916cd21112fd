"""A Kueue Workload as a gang whose pods do not exist yet: what an admission check is asked about."""

from dataclasses import replace

from scheduler.kube import fleet, kueue, sighting, workload
from scheduler.kube.gangs import identity, marks, outline, recognize
from scheduler.model import gang as gangs
from scheduler.model import wishes

OWNERS = (marks.JOBSET, marks.JOB, marks.LWS)
"""Kinds that tell what their pods will be."""


def of(asked: kueue.Workload, sight: sighting.Sight, compiled: fleet.Compiled) -> workload.Workload:
    """Return the gang that the pods of a Workload will be.

    Raises
    ------
    NotYet
        It is not seen in the other watch yet.
    ValueError
        It can't be planned; the message names the pod set and the remedy.
    """
    raw = sight.known.store["workloads.raw"].get((asked.namespace, asked.name))
    if raw is None:
        raise outline.NotYet(f"Workload {asked.key}")
    found = identity.of_workload(raw)
    if found is None:
        raise ValueError(f"Workload {asked.key}: its pods are placed one by one; use no admission check for it")
    first = _of_owner(found, asked, sight, compiled) if found.kind in OWNERS else None
    if first is not None and first.gang is not None:
        gang = replace(first.gang, priority=asked.priority)
        return replace(first, gang=sighting.spelled(gang, compiled.spellings))
    roles = tuple(_role(asked, one, sight, compiled) for one in asked.podsets if one.count)
    gang = gangs.Gang(
        name=found.key,
        roles=roles,
        tenant=sight.known.tenant(asked.namespace),
        priority=asked.priority,
        min_member=_minimum(asked),
    )
    return workload.Workload(found, asked.owner, sighting.spelled(gang, compiled.spellings))


def _of_owner(
    found: workload.Identity, asked: kueue.Workload, sight: sighting.Sight, compiled: fleet.Compiled
) -> workload.Workload | None:
    """Return the first stage of the owner's gang, as its pods will be; None where Kueue admits other counts."""
    stages = recognize.expected(found, sight.object, lambda pod: sight.wanted(pod, compiled))
    size = sum(stage.gang.size for stage in stages if stage.gang)
    return stages[0] if stages and size == sum(one.count for one in asked.podsets) else None


def _minimum(asked: kueue.Workload) -> int:
    """Return the least pods to start with, 0 for all."""
    least, size = sum(one.minimum or one.count for one in asked.podsets), sum(one.count for one in asked.podsets)
    return least if least < size else 0


def _role(asked: kueue.Workload, one: kueue.PodSet, sight: sighting.Sight, compiled: fleet.Compiled) -> gangs.Role:
    where = f"Workload {asked.key}, pod set {one.name}"
    said = wishes.read(one.template.annotations, where, whole=False)
    constraint = gangs.TopologyConstraint(
        said.required or one.request.required, said.preferred or one.request.preferred
    )
    pod = replace(one.template, namespace=asked.namespace)
    segment = None
    if one.request.slice_size:
        segment = gangs.Segment(one.request.slice_size, one.request.slice_level)
    return gangs.Role(one.name, one.count, sight.wanted(pod, compiled), constraint, segment)
