"""A Kueue Workload as a gang whose pods do not exist yet: what an admission check is asked about."""

from dataclasses import replace

from scheduler.kube import fleet, kueue, sighting, workload
from scheduler.kube.gangs import identity
from scheduler.model import gang as gangs
from scheduler.model import wishes


def of(asked: kueue.Workload, sight: sighting.Sight, compiled: fleet.Compiled) -> workload.Workload:
    """Return the gang that the pods of a Workload will be.

    Raises
    ------
    ValueError
        It can't be planned; the message names the pod set and the remedy.
    """
    raw = sight.known.store["workloads.raw"].get((asked.namespace, asked.name))
    found = identity.of_workload(raw) if raw is not None else None
    if found is None:
        raise ValueError(f"Workload {asked.key}: its pods are placed one by one; use no admission check for it")
    roles = tuple(_role(asked, one, sight, compiled) for one in asked.podsets if one.count)
    gang = gangs.Gang(
        name=found.key,
        roles=roles,
        tenant=sight.known.tenant(asked.namespace),
        priority=asked.priority,
        min_member=_minimum(asked),
    )
    return workload.Workload(found, asked.owner, sighting.spelled(gang, compiled.spellings))


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
