"""Pods that name their group themselves: PodGroups of both APIs, Kueue's plain groups, annotated gangs, lone pods.

The pods of such a group may be of several kinds, and only two of the five say how many there will be: a PodGroup has no
size but a minimum. Its gang is what exists, from the minimum on, and grows with every pod that comes later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from scheduler import bad_input
from scheduler.kube import pod as pods
from scheduler.kube import workload
from scheduler.kube.gangs import marks, outline
from scheduler.model import names

Item = Mapping[str, Any]


def native(
    identity: workload.Identity, members: Sequence[pods.Pod], objects: outline.Objects
) -> tuple[outline.Outline, ...]:
    """Outline a PodGroup of scheduling.k8s.io, v1beta1 or v1alpha3. Policy ``basic`` asks for no more than one pod."""
    item = outline.found(objects, marks.POD_GROUP, identity.namespace, identity.owner)
    where, spec = f"PodGroup {identity.namespace}/{identity.owner}", item.get("spec") or {}
    if spec.get("parentCompositePodGroupName"):
        raise bad_input.BadInput(
            "belongs to a CompositePodGroup, which Muster does not plan",
            file=where,
            field="spec.parentCompositePodGroupName",
            remedy="make the PodGroup without it, or give the pods of all groups one annotation muster.dev/gang-name",
        )
    least = _least(spec, where) or 1
    whole = _grown(identity, members, where, least)
    return (
        replace(
            whole,
            owner=outline.owner_of(item, "scheduling.k8s.io/v1beta1", "PodGroup"),
            item=item,
            required=outline.topology(spec, where),
            priority=spec.get("priority"),
        ),
    )


def _least(spec: Item, where: str) -> int:
    gang = (spec.get("schedulingPolicy") or {}).get("gang") or {}
    return outline.amount(gang.get("minCount"), 0, where, "spec.schedulingPolicy.gang.minCount")


def sigs(
    identity: workload.Identity, members: Sequence[pods.Pod], objects: outline.Objects
) -> tuple[outline.Outline, ...]:
    """Outline a PodGroup of scheduling.x-k8s.io."""
    item = outline.found(objects, marks.SIGS_POD_GROUP, identity.namespace, identity.owner)
    where = f"PodGroup {identity.namespace}/{identity.owner}"
    least = outline.amount((item.get("spec") or {}).get("minMember"), 1, where, "spec.minMember") or 1
    owner = outline.owner_of(item, "scheduling.x-k8s.io/v1alpha1", "PodGroup")
    return (replace(_grown(identity, members, where, least), owner=owner, item=item),)


def kueue(
    identity: workload.Identity, members: Sequence[pods.Pod], objects: outline.Objects
) -> tuple[outline.Outline, ...]:
    """Outline a plain pod group of Kueue, whose pods carry its size."""
    where = f"pod group {identity.namespace}/{identity.owner}"
    size = _size(members, marks.KUEUE_TOTAL, where)
    seated = tuple(outline.Seated(_kueue_index(one), one) for one in members)
    return (_sized(identity, seated, where, size, marks.KUEUE_TOTAL),)


def annotated(
    identity: workload.Identity, members: Sequence[pods.Pod], objects: outline.Objects
) -> tuple[outline.Outline, ...]:
    """Outline a gang of pods that carry its name and size in annotations of ours."""
    where = f"gang {identity.namespace}/{identity.owner}"
    for one in members:
        _same_name(one)
    size = _size(members, names.GANG_SIZE, where)
    seated = tuple(outline.Seated(None, one) for one in members)
    return (_sized(identity, seated, where, size, names.GANG_SIZE),)


def lone(
    identity: workload.Identity, members: Sequence[pods.Pod], objects: outline.Objects
) -> tuple[outline.Outline, ...]:
    """Outline a pod that stands alone."""
    seated = tuple(outline.Seated(0, one) for one in members)
    where = f"pod {identity.namespace}/{identity.owner}"
    slots = range(0 if members and all(one.finished for one in members) else 1)
    part = outline.Part("pod", where, slots, seated, full=1)
    owner = next((as_owner(one) for one in members), pods.Owner())
    return (outline.Outline(identity, owner, where, (part,)),)


def as_owner(pod: pods.Pod) -> pods.Owner:
    """Return the pod itself as an owner: the placement of a lone pod goes with it."""
    return pods.Owner("v1", "Pod", pod.name, pod.uid)


def _grown(identity: workload.Identity, members: Sequence[pods.Pod], where: str, least: int) -> outline.Outline:
    """Return the gang of the pods that exist, at least so many; those that succeeded have done their part."""
    done = sum(one.phase == "Succeeded" for one in members)
    living = sum(not one.gone for one in members)
    seated = tuple(outline.Seated(_any_index(one), one) for one in members)
    part = _mixed(where, seated, max(living, least - done))
    return outline.Outline(identity, pods.Owner(), where, (part,), min_member=max(1, least - done))


def _sized(
    identity: workload.Identity, seated: tuple[outline.Seated, ...], where: str, size: int, key: str
) -> outline.Outline:
    """Return the gang of so many pods, less those that succeeded.

    Raises
    ------
    BadInput
        More pods live than that.
    """
    size -= sum(one.pod.phase == "Succeeded" for one in seated)
    living = sum(not one.pod.gone and not one.pod.deleting for one in seated)
    if living > size:
        raise bad_input.BadInput(
            f"has {living} pods, but room for {size} that have not succeeded",
            file=where,
            field=f"metadata.annotations[{key}]",
            remedy="raise the size, or delete the pods that are too many",
        )
    owner = next((as_owner(one) for one in sorted((one.pod for one in seated), key=_age)), pods.Owner())
    return outline.Outline(identity, owner, where, (_mixed(where, seated, size),))


def _age(pod: pods.Pod) -> tuple[str, str]:
    return pod.created, pod.name


def _mixed(where: str, seated: tuple[outline.Seated, ...], count: int) -> outline.Part:
    return outline.Part("", where, range(max(0, count)), seated, numbered=False, full=count)


def _size(members: Sequence[pods.Pod], key: str, where: str) -> int:
    """Return the size that all pods agree on."""
    found: dict[int, pods.Pod] = {}
    for one in sorted(members, key=lambda pod: pod.name):
        number = outline.written(one.annotations.get(key), f"pod {one.key}", f"metadata.annotations[{key}]")
        if number is None:
            raise bad_input.BadInput(
                "is missing",
                file=f"pod {one.key}",
                field=f"metadata.annotations[{key}]",
                remedy="write the gang's size",
            )
        found.setdefault(number, one)
    if not found:
        raise outline.NotYet(f"the first pod of {where}")
    if len(found) > 1:
        each = ", ".join(f"pod {one.key} says {number}" for number, one in sorted(found.items()))
        raise bad_input.BadInput(
            f"differs: {each}", file=where, field=f"metadata.annotations[{key}]", remedy="write one size on all pods"
        )
    return next(iter(found))


def _same_name(pod: pods.Pod) -> None:
    """Refuse a pod whose annotation and label name two gangs."""
    label, note = pod.labels.get(names.GANG_NAME), pod.annotations.get(names.GANG_NAME)
    if label and note and label != note:
        raise bad_input.BadInput(
            f"is another than the annotation's, {note}",
            file=f"pod {pod.key}",
            field=f"metadata.labels[{names.GANG_NAME}]",
            value=label,
            remedy="write one of the two, or the same in both",
        )


def _kueue_index(pod: pods.Pod) -> int | None:
    key = pod.annotations.get(marks.KUEUE_INDEX_LABEL) or marks.KUEUE_INDEX
    return outline.index(pod, key)


def _any_index(pod: pods.Pod) -> int | None:
    for key in (marks.COMPLETION_INDEX, marks.ORDINAL):
        found = outline.index(pod, key)
        if found is not None:
            return found
    return None
