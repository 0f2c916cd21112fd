"""Domains that Kueue's topology-aware scheduling has chosen, as domains of roles.

Kueue writes them into the Workload, pod set by pod set, and later a node selector into each pod, rank by rank: the
domains in the order of their values, as strings, each filled before the next. Whoever places the pods otherwise makes
pods that fit nowhere.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scheduler import bad_input
from scheduler.kube import kueue, workload
from scheduler.kube import pod as pods
from scheduler.kube.gangs import marks, outline, roles

Item = Mapping[str, Any]


def assigned(found: Sequence[roles.Role], objects: outline.Objects) -> Iterator[workload.Within]:
    """Yield the domains of each role whose pods name a Workload with a topology assignment, in the order of ranks.

    Raises
    ------
    NotYet
        The assignment has still to come, or the Workload while a pod has Kueue's topology gate. Pods name their Workload
        with and without topology-aware scheduling, so without that gate nothing is missed.
    BadInput
        It has places for another number of pods than have to run.
    """
    for name, sets in _by_pod_set(found).items():
        item = objects(marks.WORKLOAD, *name)
        if item is None:
            if _gated(sets):
                raise outline.NotYet(f"Kueue's Workload {'/'.join(name)}")
            continue
        where = f"Workload {'/'.join(name)}"
        for one in ((item.get("status") or {}).get("admission") or {}).get("podSetAssignments") or ():
            if one.get("delayedTopologyRequest") == "Pending":
                raise outline.NotYet(f"the topology assignment of Kueue's {where}")
            assignment = one.get("topologyAssignment")
            if assignment and one["name"] in sets:
                place = f"{where}, pod set {one['name']}"
                sharing = [Seats(role.name, role.count, role.seats) for role in sets[one["name"]]]
                yield from places(kueue.read_assignment(assignment, place), sharing, place)


def _by_pod_set(found: Sequence[roles.Role]) -> dict[tuple[str, str], dict[str, list[roles.Role]]]:
    """Gather roles by the Workload and the pod set that their pods name; those whose pods name none are left out."""
    gathered: dict[tuple[str, str], dict[str, list[roles.Role]]] = {}
    for role in found:
        pod = next(iter(role.seats.values()), None)
        name = pod.annotations.get(marks.KUEUE_WORKLOAD) if pod else None
        if pod and name:
            sets = gathered.setdefault((pod.namespace, name), {})
            sets.setdefault(pod.labels.get(marks.KUEUE_POD_SET, ""), []).append(role)
    return gathered


def _gated(sets: Mapping[str, Sequence[roles.Role]]) -> bool:
    """Return whether topology-aware scheduling holds a pod."""
    return any(
        marks.KUEUE_TOPOLOGY_GATE in pod.gates for each in sets.values() for role in each for pod in role.seats.values()
    )


@dataclass(frozen=True, slots=True)
class Seats:
    """A role of a pod set: how many pods have to run, and those that exist, by index."""

    name: str
    count: int
    made: Mapping[int, pods.Pod] = field(default_factory=dict)


def places(assignment: kueue.Assignment, sharing: Sequence[Seats], where: str) -> Iterator[workload.Within]:
    """Share the places of one pod set out to its roles: what Kueue has told a pod already is its own, the rest in order.

    Raises
    ------
    BadInput
        It has places for another number of pods than have to run.
    """
    domains = sorted(assignment.domains, key=lambda domain: domain.values)
    if len(domains) == 1:
        yield from (_within(role, assignment, domains[0].values, 0) for role in sharing)
        return
    told = [[_told(role.made.get(index), assignment.levels) for index in range(role.count)] for role in sharing]
    left = Counter({domain.values: domain.count for domain in domains})
    left.subtract(values for each in told for values in each if values)
    waiting = sum(values is None for each in told for values in each)
    if not waiting:
        left.clear()
    elif _running(sharing):
        return
    room, wanted = sum(domain.count for domain in domains), sum(role.count for role in sharing)
    if waiting and (room != wanted or waiting > sum(count for count in left.values() if count > 0)):
        raise bad_input.BadInput(
            f"has places for {room} pods, but {wanted} have to run",
            file=where,
            field="status.admission.podSetAssignments.topologyAssignment",
            remedy="let Kueue evict the Workload and admit it again",
        )
    rest = iter([domain.values for domain in domains for _ in range(left[domain.values])])
    for role, each in zip(sharing, told, strict=True):
        for values, same in itertools.groupby(values or next(rest) for values in each):
            yield _within(role, assignment, values, len(tuple(same)))


def _told(pod: pods.Pod | None, levels: Sequence[str]) -> tuple[str, ...] | None:
    """Return the domain that a pod's node selector names, None for a pod that was not told yet."""
    if pod is None:
        return None
    labels = {one.key: one.values[0] for one in pod.nodes.selector if one.operator == "In" and len(one.values) == 1}
    return tuple(labels[level] for level in levels) if labels.keys() >= set(levels) else None


def levels_of(pod: pods.Pod, objects: outline.Objects) -> frozenset[str]:
    """Return the node labels by which Kueue tells each pod of a pod set its place; none without an assignment."""
    name = pod.annotations.get(marks.KUEUE_WORKLOAD)
    item = objects(marks.WORKLOAD, pod.namespace, name) if name else None
    sets = ((((item or {}).get("status") or {}).get("admission") or {}).get("podSetAssignments")) or ()
    return frozenset(level for one in sets for level in (one.get("topologyAssignment") or {}).get("levels") or ())


def _running(sharing: Sequence[Seats]) -> bool:
    """Return whether all pods that are left have a node, so that nothing is left to choose."""
    return all(len(role.made) == role.count and all(pod.node for pod in role.made.values()) for role in sharing)


def _within(role: Seats, assignment: kueue.Assignment, values: Sequence[str], count: int) -> workload.Within:
    above = tuple(zip(assignment.levels[:-1], values[:-1], strict=True))
    return workload.Within(role.name, assignment.levels[-1], values[-1], count=count, above=above)
