"""Domains that Kueue's topology-aware scheduling has chosen, as domains of roles.

Kueue writes them into the Workload, pod set by pod set, and later a node selector into each pod, rank by rank: the
domains in the order of their values, as strings, each filled before the next. Whoever places the pods otherwise makes
pods that fit nowhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scheduler import bad_input
from scheduler.kube import kueue, workload
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
                yield from _places(kueue.read_assignment(assignment, place), sets[one["name"]], place)


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


def _places(assignment: kueue.Assignment, sharing: Sequence[roles.Role], where: str) -> Iterator[workload.Within]:
    """Share the places of one pod set out to its roles."""
    domains = sorted(assignment.domains, key=lambda domain: domain.values)
    if len(domains) == 1:
        yield from (_within(role, assignment, domains[0], 0) for role in sharing)
        return
    if _running(sharing):
        return
    places, wanted = sum(domain.count for domain in domains), sum(role.count for role in sharing)
    if places != wanted:
        raise bad_input.BadInput(
            f"has places for {places} pods, but {wanted} have to run",
            file=where,
            field="status.admission.podSetAssignments.topologyAssignment",
            remedy="let Kueue evict the Workload and admit it again",
        )
    left = [domain.count for domain in domains]
    for role in sharing:
        want = role.count
        for number, domain in enumerate(domains):
            count = min(want, left[number])
            left[number] -= count
            want -= count
            if count:
                yield _within(role, assignment, domain, count)


def _running(sharing: Sequence[roles.Role]) -> bool:
    """Return whether all pods that are left have a node, so that nothing is left to choose."""
    return all(len(role.seats) == role.count and all(pod.node for pod in role.seats.values()) for role in sharing)


def _within(role: roles.Role, assignment: kueue.Assignment, domain: kueue.Domain, count: int) -> workload.Within:
    above = tuple(zip(assignment.levels[:-1], domain.values[:-1], strict=True))
    return workload.Within(role.name, assignment.levels[-1], domain.values[-1], count=count, above=above)
