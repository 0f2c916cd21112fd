"""One replica of a LeaderWorkerSet as a gang, or as two where the workers come after the leader.

With ``startupPolicy: LeaderReady`` the controller makes the workers when the leader is ready, with ``exclusive-topology``
when it has a node. Whoever waits for the whole group then waits for ever: the leader is a gang of its own, and the
workers are a second one in the domain that the leader is in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scheduler import bad_input
from scheduler.kube import pod as pods
from scheduler.kube import workload
from scheduler.kube.gangs import identity as identities
from scheduler.kube.gangs import marks, outline
from scheduler.model import gang as gangs
from scheduler.model import names

Item = Mapping[str, Any]

API = "leaderworkerset.x-k8s.io/v1"
WORKERS = "workers"


def outlines(
    identity: workload.Identity, members: Sequence[pods.Pod], objects: outline.Objects
) -> tuple[outline.Outline, ...]:
    """Outline the gangs of a replica, that with the leader first."""
    item = outline.found(objects, marks.LWS, identity.namespace, identity.owner)
    where = f"LeaderWorkerSet {identity.namespace}/{identity.owner}"
    spec = item["spec"]
    group = _group(spec.get("leaderWorkerTemplate") or {}, where, members)
    exclusive = outline.annotations(item).get(marks.LWS_EXCLUSIVE, "")
    owner = outline.owner_of(item, API, "LeaderWorkerSet")
    level = _subgroup_level(item, members)
    whole = outline.Outline(identity, owner, where, (), item, required=exclusive)
    if group.size < 2 or not (exclusive or spec.get("startupPolicy") == "LeaderReady"):
        return (replace(whole, parts=_together(group, level)),)
    required = exclusive or outline.annotations(item).get(names.REQUIRED_LEVEL, "")
    return (
        replace(whole, parts=(_leader(group),), required=""),
        replace(
            whole,
            identity=identities.staged(identity, WORKERS),
            parts=(_workers(group, level),),
            within=(workload.Within("worker", required, node=_node(group)),) if required else (),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """One replica: its size, its template, and its pods that are of the leader's revision of it."""

    template: Item
    where: str
    size: int
    seated: tuple[outline.Seated, ...]


def _group(template: Item, where: str, members: Sequence[pods.Pod]) -> _Group:
    """Put a group together; while a new size is rolled out, groups that are still old keep theirs."""
    seated = tuple(outline.Seated(outline.index(one, marks.LWS_WORKER), one) for one in members)
    leader = max(
        (one.pod for one in seated if one.index == 0), key=lambda pod: (not pod.deleting, pod.created), default=None
    )
    size = outline.amount(template.get("size"), 1, where, "spec.leaderWorkerTemplate.size")
    if leader is not None:
        revision = leader.labels.get(marks.LWS_REVISION)
        seated = tuple(one for one in seated if one.pod.labels.get(marks.LWS_REVISION) == revision)
        field = f"metadata.annotations[{marks.LWS_SIZE}]"
        size = outline.written(leader.annotations.get(marks.LWS_SIZE), f"pod {leader.key}", field) or size
    return _Group(template, where, size, seated)


def _node(group: _Group) -> str:
    return next((one.pod.node for one in group.seated if one.index == 0 and not one.pod.finished), "")


def _together(group: _Group, level: str) -> tuple[outline.Part, ...]:
    """Return leader and workers; as one role where subgroups have to run across both."""
    policy = group.template.get("subGroupPolicy") or {}
    if level and policy and policy.get("subGroupPolicyType") != "LeaderExcluded":
        return (_across(group, level),)
    if group.size < 2:
        return (_leader(group),)
    return _leader(group), _workers(group, level)


def _leader(group: _Group) -> outline.Part:
    template = group.template.get("leaderTemplate") or group.template.get("workerTemplate") or {}
    return _part(group, "leader", range(1), template)


def _workers(group: _Group, level: str) -> outline.Part:
    part = _part(group, "worker", range(1, group.size), group.template.get("workerTemplate") or {})
    return replace(part, segment=_segment(group, level))


def _across(group: _Group, level: str) -> outline.Part:
    """Return leader and workers as one role, which takes one template and whole subgroups."""
    segment = _segment(group, level)
    if group.template.get("leaderTemplate") or (segment and group.size % segment.size):
        raise bad_input.BadInput(
            "puts the leader into a subgroup of other pods, or of another size, than the rest",
            file=group.where,
            field="spec.leaderWorkerTemplate.subGroupPolicy",
            remedy="write subGroupPolicyType: LeaderExcluded, or take the topology of subgroups away",
        )
    return replace(_part(group, "pods", range(group.size), group.template.get("workerTemplate") or {}), segment=segment)


def _segment(group: _Group, level: str) -> gangs.Segment | None:
    """Return the subgroups as segments; without a level they are only numbers for the program inside."""
    policy = group.template.get("subGroupPolicy") or {}
    size = outline.amount(
        policy.get("subGroupSize"), 0, group.where, "spec.leaderWorkerTemplate.subGroupPolicy.subGroupSize"
    )
    return gangs.Segment(size, level) if size and level else None


def _subgroup_level(item: Item, members: Sequence[pods.Pod]) -> str:
    told = [outline.annotations(item), *(one.annotations for one in members)]
    return next((one[marks.LWS_SUBGROUP_EXCLUSIVE] for one in told if marks.LWS_SUBGROUP_EXCLUSIVE in one), "")


def _part(group: _Group, role: str, slots: range, template: Item) -> outline.Part:
    seated = tuple(one for one in group.seated if one.index in slots)
    where = f"{group.where}, {role} template"
    return outline.Part(role, where, slots, seated, full=len(slots), template=template)
