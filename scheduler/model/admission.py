"""Which nodes take a pod: its node selector, its required node affinity and the taints that it tolerates, as values.

The rules are those of kube-scheduler 1.37 (``component-helpers/scheduling/corev1``): a node is for the pod when it has all
labels of the selector, fulfils one of the terms, and has no taint of effect NoSchedule or NoExecute that is not tolerated.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

Taint = tuple[str, str, str]
"""Key, value and effect of a taint that keeps pods off."""


def spelled(taint: Taint) -> str:
    """Return a taint as kubectl writes it."""
    key, value, effect = taint
    return f"{key}={value}:{effect}" if value else f"{key}:{effect}"


NAME = "metadata.name"
"""Field of a node that a term may ask for."""


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """What one label of a node has to be, or its name where `field` is true.

    Attributes
    ----------
    operator : str
        ``In``, ``NotIn``, ``Exists``, ``DoesNotExist``, ``Gt`` or ``Lt``; under any other no node is fit.
    values : tuple of str
        Sorted.
    """

    key: str
    operator: str = "In"
    values: tuple[str, ...] = ()
    field: bool = False

    def holds(self, value: str | None) -> bool:
        """Tell whether a node with this value is fit, None for a node without the label."""
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                return _compares(self.operator, value, self.values)
        return False

    def __str__(self) -> str:
        match self.operator:
            case "In" if len(self.values) == 1:
                return f"{self.key}={self.values[0]}"
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"no {self.key}"
            case "Gt" | "Lt":
                return f"{self.key} {'>' if self.operator == 'Gt' else '<'} {', '.join(self.values)}"
        return f"{self.key} {'in' if self.operator == 'In' else 'not in'} ({', '.join(self.values)})"


@dataclass(frozen=True, slots=True, order=True)
class Toleration:
    """Taints that a pod puts up with; "" in `key` (with ``Exists``) or `effect` means any."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def tolerates(self, taint: Taint) -> bool:
        """Tell whether it covers a taint."""
        key, value, effect = taint
        if (self.effect and self.effect != effect) or (self.key and self.key != key):
            return False
        if self.operator == "Exists":
            return True
        return self.operator == "Equal" and bool(self.key) and self.value == value


ANYTHING = (Toleration(operator="Exists"),)
"""Tolerates every taint."""


@dataclass(frozen=True, slots=True, order=True)
class Admission:
    """What a pod says about its node; without anything it may go to every node that has no taint.

    Attributes
    ----------
    selector : tuple of Requirement
        All have to hold.
    terms : tuple of tuple of Requirement
        One has to hold whole, unless there are none; an empty one holds nowhere.
    tolerations : tuple of Toleration
    """

    selector: tuple[Requirement, ...] = ()
    terms: tuple[tuple[Requirement, ...], ...] = ()
    tolerations: tuple[Toleration, ...] = ()

    @property
    def keys(self) -> frozenset[str]:
        """Return the labels that it reads."""
        every = (*self.selector, *(one for term in self.terms for one in term))
        return frozenset(one.key for one in every if not one.field)

    def tolerates(self, taints: Iterable[Taint]) -> bool:
        """Tell whether all of some taints are tolerated."""
        return all(any(one.tolerates(taint) for one in self.tolerations) for taint in taints)

    def without(self, keys: Collection[str]) -> "Admission":
        """Return it without what the selector asks of some labels."""
        kept = tuple(one for one in self.selector if one.key not in keys)
        return self if len(kept) == len(self.selector) else Admission(kept, self.terms, self.tolerations)

    def __str__(self) -> str:
        said = [str(one) for one in self.selector]
        if self.terms:
            said.append(" or ".join(" and ".join(map(str, term)) or "nothing" for term in self.terms))
        return ", ".join(said)


def common(several: Sequence[Admission]) -> Admission:
    """Return what several pods say alike."""
    first, *rest = several
    selector = tuple(one for one in first.selector if all(one in other.selector for other in rest))
    terms = first.terms if all(first.terms == other.terms for other in rest) else ()
    tolerations = tuple(one for one in first.tolerations if all(one in other.tolerations for other in rest))
    return Admission(selector, terms, tolerations)


EVERYWHERE = Admission(tolerations=ANYTHING)
"""Every node will do, with whatever taints."""


def _compares(operator: str, value: str | None, values: tuple[str, ...]) -> bool:
    """Compare whole numbers; what is none is never fit."""
    try:
        [other] = values
        difference = int(value or "") - int(other)
    except ValueError:
        return False
    return difference > 0 if operator == "Gt" else difference < 0
