"""Pods and the objects that made them become workloads.

`recognize` is the way in: pods are gathered by `identity.of`, and what shares an identity is one gang, or several where its
owner starts it in stages. Everything is decided anew from what exists; nothing is remembered. A gang is planned when all
its pods exist, also where a smaller number may start: then controllers are still making the rest.

``min-member`` does not change what is waited for: it only lets a gang start with fewer pods where room is short.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from scheduler import bad_input
from scheduler.kube import pod as pods
from scheduler.kube import workload
from scheduler.kube.gangs import gang, group, job, jobset, lws, marks, outline, roles, within
from scheduler.kube.gangs import identity as identities
from scheduler.model import names, request

RequestOf = Callable[[pods.Pod], request.PodRequest]
"""Says what a pod asks for; raises `NotYet` while its claims are not there, ValueError for what can't be read."""

Reader = Callable[[workload.Identity, Sequence[pods.Pod], outline.Objects], tuple[outline.Outline, ...]]

READERS: Mapping[str, Reader] = {
    "JobSet": jobset.outlines,
    "Job": job.outlines,
    "LeaderWorkerSet": lws.outlines,
    "PodGroup": group.native,
    "SigsPodGroup": group.sigs,
    "KueuePodGroup": group.kueue,
    "Annotated": group.annotated,
    "Pod": group.lone,
}
"""By kind of identity."""

NOTHING_LEFT = "nothing: all pods have finished"


def recognize(
    identity: workload.Identity, members: Sequence[pods.Pod], objects: outline.Objects, request_of: RequestOf
) -> tuple[workload.Workload, ...]:
    """Recognise what the pods of one identity are.

    Parameters
    ----------
    identity : Identity
        What `identity.of` says of the pods.
    members : sequence of Pod
        All pods of that identity, finished and deleted ones too, in any order.

    Returns
    -------
    tuple of Workload
        One for each stage, the first under `identity.base`; never empty. A stage with neither problem nor anything that it
        waits for may be planned (`Workload.complete`).
    """
    identity = identities.base(identity)
    ordered = sorted(members, key=lambda pod: (pod.name, pod.uid))
    try:
        outlines = READERS[identity.kind](identity, ordered, objects)
    except outline.NotYet as missing:
        return (workload.Workload(identity, pods.Owner(), None, _present(ordered), waiting_for=str(missing)),)
    except ValueError as problem:
        return (workload.Workload(identity, pods.Owner(), None, _present(ordered), problem=str(problem)),)
    if any(one.suspended for one in outlines):
        waits = f"{outlines[0].where} to be resumed (spec.suspend)"
        return (workload.Workload(identity, outlines[0].owner, None, _present(ordered), waiting_for=waits),)
    if not any(part.slots for one in outlines for part in one.parts):
        left = _present(ordered)
        return (workload.Workload(identity, outlines[0].owner, None, left, waiting_for=NOTHING_LEFT),)
    return tuple(_workload(one, objects, request_of) for one in outlines)


def expected(
    identity: workload.Identity, objects: outline.Objects, request_of: RequestOf
) -> tuple[workload.Workload, ...]:
    """Return the gangs that a JobSet, a Job or a LeaderWorkerSet will have, also while it is suspended.

    They equal those of the pods, when these have come as their templates are: whoever reserves devices for a Workload of
    Kueue finds the reservation again. `request_of` is asked for pods made from the templates, which have no UID. Priorities
    are 0: only the API server knows them.

    Raises
    ------
    ValueError
        The owner is not there (`NotYet`), contradicts itself, or has no templates.
    """
    found = []
    for one in READERS[identity.kind](identities.base(identity), (), objects):
        several = [roles.expected(part, one.identity, request_of) for part in one.parts if part.slots]
        if several:
            found.append(workload.Workload(one.identity, one.owner, gang.of(one, several, objects), within=one.within))
    return tuple(found)


def _present(members: Sequence[pods.Pod]) -> tuple[workload.Member, ...]:
    """Return the pods that live, of all stages, while nobody can say which ranks they have: they still hold devices."""
    living = [one for one in members if not one.gone]
    return tuple(workload.Member(rank, "", rank, one) for rank, one in enumerate(living))


def _workload(one: outline.Outline, objects: outline.Objects, request_of: RequestOf) -> workload.Workload:
    """Recognise one stage; what is wrong with it is told with it, and leaves the others alone."""
    seated = [seat.pod for part in one.parts for seat in part.seated]
    bare = workload.Workload(one.identity, one.owner, None, _present(seated))
    try:
        found = roles.of(one, request_of)
        members = tuple(_members(found))
        bare = replace(bare, members=members, within=(*one.within, *within.assigned(found, objects)))
        if not found:
            return replace(bare, waiting_for=NOTHING_LEFT)
        size = sum(role.count for role in found)
        return replace(
            bare,
            gang=gang.of(one, found, objects),
            missing=size - len(members),
            waiting_for="; ".join(_waiting(one, found, size, len(members))),
        )
    except outline.NotYet as missing:
        return replace(bare, waiting_for=str(missing))
    except bad_input.BadInput as problem:
        return replace(bare, problem=str(problem))
    except ValueError as problem:
        text = str(problem)
        return replace(bare, problem=text if one.where in text else f"{one.where}: {text}")


def _members(found: Sequence[roles.Role]) -> Iterator[workload.Member]:
    first = 0
    for role in found:
        for index in sorted(role.seats):
            yield workload.Member(first + index, role.name, index, role.seats[index])
        first += role.count


def _waiting(one: outline.Outline, found: Sequence[roles.Role], size: int, present: int) -> Iterator[str]:
    """Yield what the gang waits for."""
    if present < size:
        yield f"{size - present} of {size} pods"
    for role in found:
        if role.unread:
            yield role.unread
        leaving = [pod for pod in role.seats.values() if pod.deleting]
        if leaving:
            yield f"the successor of pod {leaving[0].key}, which is being deleted"
    yield from _gates(found)
    if any(not (where.domain or where.node) for where in one.within):
        yield "a node for the leader"


def _gates(found: Sequence[roles.Role]) -> Iterator[str]:
    """Yield the gate with which somebody else holds a pod: devices that it got now would stand idle.

    Kueue's admission is such a gate. Kueue's topology gate is not: it goes when Kueue's own assignment is known, which
    `within` has.
    """
    for role in found:
        for pod in role.seats.values():
            strange = [gate for gate in pod.gates if gate not in (names.GATE, marks.KUEUE_TOPOLOGY_GATE)]
            if strange:
                yield f"the gate {strange[0]} of pod {pod.key} to be taken away by its owner"
                return
