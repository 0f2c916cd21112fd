"""Which nodes of a fleet take a pod, as a mask: each label is read once per fleet, each rule once per distinct value."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from scheduler.model import admission
from scheduler.snapshot import topology

Mask = NDArray[np.bool_]
Value = TypeVar("Value", bound=Hashable)


@dataclass(frozen=True, slots=True, eq=False)
class Column(Generic[Value]):
    """One property of all nodes: its distinct values, and for every node which of them it has."""

    values: tuple[Value, ...]
    code: NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Admitted:
    """Nodes that take a pod.

    Attributes
    ----------
    selected, tolerated : ndarray of bool, shape (N,)
        By selector and affinity, and by taints.
    """

    selected: Mask
    tolerated: Mask

    @property
    def both(self) -> Mask:
        """Return the nodes that are fit in both respects."""
        return np.asarray(self.selected & self.tolerated)


def admitted(fleet: topology.Topology, wanted: admission.Admission) -> Admitted:
    """Return which nodes take a pod."""
    selected = np.ones(len(fleet.nodes), dtype=np.bool_)
    for one in wanted.selector:
        selected &= _holds(fleet, one)
    if wanted.terms:
        fit = np.zeros_like(selected)
        for term in wanted.terms:
            fit |= np.logical_and.reduce([_holds(fleet, one) for one in term]) if term else False
        selected &= fit
    taints = _taints(fleet)
    return Admitted(selected, np.array([wanted.tolerates(one) for one in taints.values], dtype=np.bool_)[taints.code])


def tainted(fleet: topology.Topology) -> bool:
    """Tell whether any node has a taint."""
    return any(_taints(fleet).values)


def _holds(fleet: topology.Topology, one: admission.Requirement) -> Mask:
    """Return the nodes that fulfil a requirement."""
    if one.field:
        found = _names(fleet) if one.key == admission.NAME else _column(None for _ in fleet.nodes)
    else:
        found = _labels(fleet, one.key)
    return np.array([one.holds(value) for value in found.values], dtype=np.bool_)[found.code]


@lru_cache(maxsize=256)
def _labels(fleet: topology.Topology, key: str) -> Column[str | None]:
    return _column(dict(one.labels).get(key) for one in fleet.nodes)


@lru_cache(maxsize=4)
def _names(fleet: topology.Topology) -> Column[str | None]:
    return _column(one.name for one in fleet.nodes)


@lru_cache(maxsize=4)
def _taints(fleet: topology.Topology) -> Column[tuple[admission.Taint, ...]]:
    return _column(one.taints for one in fleet.nodes)


def _column(values: Iterable[Value]) -> Column[Value]:
    known: dict[Value, int] = {}
    code = np.array([known.setdefault(value, len(known)) for value in values], dtype=np.intp)
    return Column(tuple(known), code)
