"""What a pod's spec says about its nodes, as `scheduler.model.admission` has it."""

from collections.abc import Iterator, Mapping
from typing import Any

from scheduler.model import admission

Item = Mapping[str, Any]

LIFECYCLE = "node.kubernetes.io/"
"""Taints of this prefix say that a node is not well. Nothing new is planned on it, whatever a pod tolerates; the API server
makes all pods tolerate some of them for a while, so that running ones are not deleted at once."""

BARRING = ("NoSchedule", "NoExecute")


def read(spec: Item, pinned: bool = False) -> admission.Admission:
    """Read node selector, required node affinity and tolerations.

    Parameters
    ----------
    pinned : bool
        The last field of every term of the affinity is the pin that a plan wrote, which is left out.
    """
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = [tuple(_term(one, pinned)) for one in required.get("nodeSelectorTerms") or ()]
    if pinned and terms == [()]:
        terms = []  # there was no affinity before the pin
    return admission.Admission(
        selector(spec.get("nodeSelector") or {}), tuple(sorted(set(terms))), tolerations(spec.get("tolerations") or ())
    )


def selector(labels: Mapping[str, str]) -> tuple[admission.Requirement, ...]:
    """Return what a node selector requires."""
    return tuple(admission.Requirement(key, "In", (value,)) for key, value in sorted(labels.items()))


def tolerations(found: Any) -> tuple[admission.Toleration, ...]:
    """Return the tolerations that let a pod start on a node."""
    return tuple(sorted({_toleration(one) for one in found if _counts(one)}))


def both(one: admission.Admission, other: admission.Admission) -> admission.Admission:
    """Return what two objects ask of one pod together; only the first may have an affinity."""
    return admission.Admission(
        tuple(sorted({*one.selector, *other.selector})),
        one.terms,
        tuple(sorted({*one.tolerations, *other.tolerations})),
    )


def _counts(item: Item) -> bool:
    return not (item.get("key") or "").startswith(LIFECYCLE) and item.get("effect") in (None, "", *BARRING)


def _toleration(item: Item) -> admission.Toleration:
    value, effect = item.get("value") or "", item.get("effect") or ""
    return admission.Toleration(item.get("key") or "", item.get("operator") or "Equal", value, effect)


def _term(item: Item, pinned: bool) -> Iterator[admission.Requirement]:
    fields = list(item.get("matchFields") or ())
    for one in item.get("matchExpressions") or ():
        yield admission.Requirement(one["key"], one["operator"], tuple(sorted(one.get("values") or ())))
    for one in fields[:-1] if pinned else fields:
        yield admission.Requirement(one["key"], one["operator"], tuple(sorted(one.get("values") or ())), field=True)
