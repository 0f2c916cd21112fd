"""The few fields of a Node that say what pods find there and whether they may go there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scheduler.kube import admits
from scheduler.model import admission, quantity

Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Taint:
    """A taint of a node that keeps pods off, effect NoSchedule or NoExecute."""

    key: str
    value: str
    effect: str

    @property
    def plain(self) -> admission.Taint:
        """Return it as the model has it."""
        return self.key, self.value, self.effect

    def __str__(self) -> str:
        return admission.spelled(self.plain)


@dataclass(frozen=True, slots=True)
class Node:
    """A node as far as placement cares.

    Attributes
    ----------
    version : str
        resourceVersion; no part of equality, since kubelets touch their node every few minutes.
    cpu_milli, memory_mib, max_pods : int
        Allocatable.
    extended : tuple of (str, int)
        Allocatable extended resources (names with a "/"), sorted.
    ready : bool
        Whether the condition Ready is True.
    taints : tuple of Taint
        Those that keep pods off, sorted.
    """

    name: str
    uid: str = ""
    version: str = field(default="", compare=False)
    labels: tuple[tuple[str, str], ...] = ()
    cpu_milli: int = 0
    memory_mib: int = 0
    max_pods: int = 110
    extended: tuple[tuple[str, int], ...] = ()
    unschedulable: bool = False
    ready: bool = True
    taints: tuple[Taint, ...] = ()
    deleting: bool = False


def read(item: Item) -> Node:
    """Project a Node of the API.

    Raises
    ------
    ValueError
        Names the node and the field that no API server would accept.
    """
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    name, allocatable = metadata["name"], status.get("allocatable") or {}
    try:
        return Node(
            name=name,
            uid=metadata.get("uid", ""),
            version=metadata.get("resourceVersion", ""),
            labels=tuple(sorted((metadata.get("labels") or {}).items())),
            cpu_milli=quantity.milli(allocatable.get("cpu", 0)),
            memory_mib=quantity.mib(allocatable.get("memory", 0)),
            max_pods=int(quantity.parse(allocatable.get("pods", 110))),
            extended=_extended(allocatable),
            unschedulable=bool(spec.get("unschedulable")),
            ready=_ready(status),
            taints=tuple(
                sorted(_taint(one) for one in spec.get("taints") or () if one.get("effect") in admits.BARRING)
            ),
            deleting="deletionTimestamp" in metadata,
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"node {name}: status.allocatable: {error}") from error


def closed(node: Node, opened: Iterable[Taint] = ()) -> str:
    """Return why no new pod can start on a node, in a few words; "" where some can.

    Parameters
    ----------
    opened : iterable of Taint
        Taints that some pods tolerate: they close the node to the others only.
    """
    if node.deleting:
        return "is being deleted"
    if not node.ready:
        return "is not ready"
    if node.unschedulable:
        return "is cordoned"
    barring = next((taint for taint in node.taints if taint not in opened), None)
    return f"has taint {barring}" if barring else ""


def opened(node: Node, tolerated: Iterable[admission.Toleration]) -> tuple[Taint, ...]:
    """Return the taints of a node that one of some tolerations covers, without those that say that it is not well."""
    able = [one for one in node.taints if not one.key.startswith(admits.LIFECYCLE)]
    return tuple(one for one in able if any(each.tolerates(one.plain) for each in tolerated))


def _taint(item: Item) -> Taint:
    return Taint(item["key"], item.get("value") or "", item["effect"])


def _extended(allocatable: Item) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((name, int(quantity.parse(value))) for name, value in allocatable.items() if "/" in name))


def _ready(status: Item) -> bool:
    conditions = {one["type"]: one.get("status") for one in status.get("conditions") or ()}
    return conditions.get("Ready") == "True"
