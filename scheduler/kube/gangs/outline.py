"""What an owner object says about a gang, before the pods' requests are known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scheduler import bad_input
from scheduler.kube import pod as pods
from scheduler.kube import workload
from scheduler.kube.gangs import marks
from scheduler.model import gang as gangs
from scheduler.model import names, wishes

Item = Mapping[str, Any]

Objects = Callable[[str, str, str], Item | None]
"""Looks an object up by kind (the names in `marks`), namespace and name, as the API has it; None if it is not there."""


class NotYet(ValueError):
    """Something has still to come before more can be said; the message names it: "claims of pod ml/w-0"."""


@dataclass(frozen=True, slots=True)
class Seated:
    """A pod with its index, in the numbers of its owner; None where the owner numbers no pods."""

    index: int | None
    pod: pods.Pod


@dataclass(frozen=True, slots=True)
class Part:
    """Pods of one template.

    Attributes
    ----------
    role : str
        "" where pods of different kinds may be among them: they are told apart by their ``muster.dev/role``, and else
        by what they ask for.
    where : str
        The object and field that speak of it, for messages.
    slots : Sequence of int
        Indices that have to run now, ascending; their number is the role's count, their positions are the ranks within
        the role.
    numbered : bool
        Whether pods have an index of these slots. Pods without take the slots in the order of their names.
    full : int
        The number of slots before any finished.
    template : Mapping
        The pod template, whose annotations count until there is a pod.
    segment, spread
        What the owner's own fields ask for.
    slice_size : int
        What a Kueue slice has when no size is written; 0 for no such rule.
    """

    role: str
    where: str
    slots: Sequence[int]
    seated: tuple[Seated, ...]
    numbered: bool = True
    full: int = 0
    template: Item = field(default_factory=dict)
    segment: gangs.Segment | None = None
    spread: gangs.Spread | None = None
    slice_size: int = 0

    @property
    def annotations(self) -> Mapping[str, str]:
        """Return the annotations of the template."""
        return annotations(self.template)


@dataclass(frozen=True, slots=True)
class Outline:
    """A gang without requests.

    Attributes
    ----------
    where : str
        The owner object, for messages.
    item : Mapping
        The owner object; empty where there is none.
    required : str
        Level that the owner's own fields ask all pods to share.
    min_member : int
        As the owner's own fields have it; 0 for all.
    priority : int or None
        Where the owner's own fields say it.
    suspended : bool
        The owner keeps its pods from existing.
    """

    identity: workload.Identity
    owner: pods.Owner
    where: str
    parts: tuple[Part, ...]
    item: Item = field(default_factory=dict)
    required: str = ""
    min_member: int = 0
    priority: int | None = None
    within: tuple[workload.Within, ...] = ()
    suspended: bool = False

    @property
    def full(self) -> int:
        """Return the number of pods before any finished."""
        return sum(part.full for part in self.parts)


def found(objects: Objects, kind: str, namespace: str, name: str) -> Item:
    """Return an object.

    Raises
    ------
    NotYet
        It has not been seen.
    """
    item = objects(kind, namespace, name)
    if item is None:
        raise NotYet(f"{kind} {namespace}/{name}")
    return item


def owner_of(item: Item, api_version: str, kind: str) -> pods.Owner:
    """Return the reference by which others are owned by an object; lists leave apiVersion and kind out."""
    metadata = item["metadata"]
    return pods.Owner(item.get("apiVersion") or api_version, kind, metadata["name"], metadata.get("uid", ""))


def annotations(item: Item) -> Mapping[str, str]:
    """Return the annotations of an object or template."""
    return (item.get("metadata") or {}).get("annotations") or {}


def labels(item: Item) -> Mapping[str, str]:
    """Return the labels of an object or template."""
    return (item.get("metadata") or {}).get("labels") or {}


def topology(spec: Item, where: str) -> str:
    """Return the level that a PodGroup, or the ``scheduling`` of a Job, wants its pods to share; "" for none.

    Raises
    ------
    BadInput
        There are several; Kubernetes 1.37 takes one.
    """
    listed = (spec.get("schedulingConstraints") or {}).get("topology") or ()
    if len(listed) > 1:
        raise bad_input.BadInput(
            "names several levels", file=where, field="schedulingConstraints.topology", remedy="name one"
        )
    return str(listed[0].get("key") or "") if listed else ""


def amount(value: object, default: int, where: str, name: str) -> int:
    """Return a number of pods.

    Raises
    ------
    BadInput
        It is no whole number, negative, or above the limit.
    """
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= wishes.MAX_PODS:
        remedy = f"write a whole number from 0 to {wishes.MAX_PODS}"
        raise bad_input.BadInput("is no number of pods", file=where, field=name, value=str(value), remedy=remedy)
    return value


def written(text: str | None, where: str, key: str, least: int = 1) -> int | None:
    """Return the number that a label or annotation holds; None where it is not there.

    Raises
    ------
    BadInput
        The text is no number from `least` on, or above the limit.
    """
    if text is None:
        return None
    number = int(text) if len(text) < 10 and text.isascii() and text.isdigit() else -1
    if not least <= number <= wishes.MAX_PODS:
        remedy = f"write a whole number from {least} to {wishes.MAX_PODS}"
        raise bad_input.BadInput("is no number of pods", file=where, field=key, value=text or "(empty)", remedy=remedy)
    return number


def index(pod: pods.Pod, key: str) -> int | None:
    """Return the index in a label of a pod, set by its controller; None where there is none."""
    text = pod.labels.get(key)
    if text is None:
        text = pod.annotations.get(key)
    return None if text is None else written(text, f"pod {pod.key}", f"metadata.labels[{key}]", 0)


def tenant(objects: Objects, namespace: str) -> str:
    """Return the tenant of what names none: that of the namespace, or else the namespace's name."""
    return labels(objects(marks.NAMESPACE, "", namespace) or {}).get(names.TENANT) or namespace
