"""A Kueue Workload as a gang whose pods do not exist yet: what an admission check is asked about."""

from dataclasses import replace

from scheduler.kube import admits, confined, fleet, knowledge, kueue, sighting, workload
from scheduler.kube.gangs import identity, marks, outline, recognize, within
from scheduler.model import gang as gangs
from scheduler.model import request, wishes

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
        return _bound(replace(first, gang=replace(first.gang, priority=asked.priority)), asked, sight, compiled)
    roles = tuple(_role(asked, one, sight, compiled) for one in asked.podsets if one.count)
    gang = gangs.Gang(
        name=found.key,
        roles=roles,
        tenant=sight.known.tenant(asked.namespace),
        priority=asked.priority,
        min_member=_minimum(asked),
    )
    return _bound(workload.Workload(found, asked.owner, gang), asked, sight, compiled)


def _bound(
    found: workload.Workload, asked: kueue.Workload, sight: sighting.Sight, compiled: fleet.Compiled
) -> workload.Workload:
    """Return a workload whose gang is bound by what Kueue has assigned: flavours, and places of its own scheduling.

    Raises
    ------
    ValueError
        The assignment has places for another number of pods.
    """
    assert found.gang is not None
    sets = {one.name: one for one in asked.podsets}
    only = asked.podsets[0] if len(asked.podsets) == 1 else None
    roles, bound = [], list(found.within)
    shared: dict[str, list[within.Seats]] = {}
    for role in found.gang.roles:
        podset = sets.get(role.name, only)
        if podset is not None:
            roles.append(replace(role, request=_flavored(role.request, podset, sight)))
            shared.setdefault(podset.name, []).append(within.Seats(role.name, role.count))
        else:
            roles.append(role)
    for name, sharing in shared.items():
        assignment = sets[name].assignment
        if assignment is not None:
            bound += within.places(assignment, sharing, f"Workload {asked.key}, pod set {name}")
    gang = replace(found.gang, roles=tuple(roles), decision_id=found.gang.decision_id or _decision(found, asked))
    spelled = sighting.spelled(gang, compiled.spellings)
    kept = confined.confined(replace(found, gang=spelled, within=tuple(bound)), compiled.topology, compiled.spellings)
    if kept.problem:
        raise ValueError(kept.problem)
    return kept


def _decision(found: workload.Workload, asked: kueue.Workload) -> str:
    """Return the id that the webhook will give the pods, "" where their owner does not exist yet."""
    owned = found.identity.kind in (marks.JOBSET, marks.JOB)
    return knowledge.shared_id(asked.owner.uid, asked.namespace, found.identity.name) if owned else ""


def _flavored(asked: request.PodRequest, podset: kueue.PodSet, sight: sighting.Sight) -> request.PodRequest:
    """Return a request with the node labels and tolerations that Kueue will write into the pods.

    Raises
    ------
    NotYet
        A flavour is not seen yet.
    """
    nodes = asked.nodes
    for name in podset.flavors:
        flavor: kueue.Flavor | None = sight.known.store[kueue.FLAVORS].get(("", name))
        if flavor is None:
            raise outline.NotYet(f"ResourceFlavor {name}")
        nodes = admits.both(nodes, flavor.nodes)
    return replace(asked, nodes=nodes)


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
