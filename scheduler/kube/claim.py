"""The few fields of a ResourceClaim that a plan reads and writes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.kube import pod as pods
from scheduler.model import claim as claims
from scheduler.model import quantity

Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a claim, or one alternative of a prioritised list.

    Attributes
    ----------
    name : str
        ``request`` or ``request/alternative``, as allocation results name it.
    mode : str
        ``ExactCount`` or ``All``.
    capacity : tuple of (str, str)
        Consumable capacity asked of each device, quantities as written.
    tolerations : tuple of dict
        Copied to results as they are.
    alternatives : tuple of Request
        Of ``firstAvailable``, best first; the request itself then has no class.
    """

    name: str
    device_class: str = ""
    mode: str = "ExactCount"
    count: int = 1
    selectors: tuple[str, ...] = ()
    capacity: tuple[tuple[str, str], ...] = ()
    admin: bool = False
    tolerations: tuple[Item, ...] = ()
    alternatives: tuple["Request", ...] = ()


@dataclass(frozen=True, slots=True)
class Spec:
    """What a claim or a claim template asks for; `constraints` and `config` are the API's own objects."""

    requests: tuple[Request, ...] = ()
    constraints: tuple[Item, ...] = ()
    config: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim.

    Attributes
    ----------
    owner : Owner
        The pod that a template-made claim belongs to.
    rows : tuple of Allocation, or None
        Allocated devices in order; None while nothing is allocated.
    node : str
        The node that the allocation ties it to, "" for none.
    reserved : tuple of str
        UIDs in ``status.reservedFor``.
    """

    namespace: str
    name: str
    uid: str
    version: str
    spec: Spec
    owner: pods.Owner = pods.Owner()
    finalizers: tuple[str, ...] = ()
    deleting: bool = False
    rows: tuple[claims.Allocation, ...] | None = None
    node: str = ""
    reserved: tuple[str, ...] = ()
    allocated_at: str = ""
    annotations: Mapping[str, str] | None = None

    @property
    def key(self) -> str:
        """Return ``namespace/name``."""
        return f"{self.namespace}/{self.name}"


def read(item: Item) -> Claim:
    """Project a ResourceClaim of the API."""
    metadata, status = item["metadata"], item.get("status") or {}
    allocation = status.get("allocation")
    return Claim(
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        version=metadata.get("resourceVersion", ""),
        spec=read_spec(item.get("spec") or {}),
        owner=pods.controller(metadata),
        finalizers=tuple(metadata.get("finalizers") or ()),
        deleting="deletionTimestamp" in metadata,
        rows=None if allocation is None else _rows(allocation),
        node="" if allocation is None else _node(allocation),
        reserved=tuple(one["uid"] for one in status.get("reservedFor") or ()),
        allocated_at="" if allocation is None else allocation.get("allocationTimestamp") or "",
        annotations=metadata.get("annotations"),
    )


def read_spec(spec: Item) -> Spec:
    """Project the spec of a claim, or of a template's ``spec.spec``."""
    devices = spec.get("devices") or {}
    return Spec(
        tuple(_request(one) for one in devices.get("requests") or ()),
        tuple(devices.get("constraints") or ()),
        tuple(devices.get("config") or ()),
    )


def _request(item: Item) -> Request:
    listed = item.get("firstAvailable")
    if listed:
        name = item["name"]
        return Request(name, alternatives=tuple(_exact(f"{name}/{one['name']}", one) for one in listed))
    return _exact(item["name"], item.get("exactly") or {})


def _exact(name: str, item: Item) -> Request:
    wanted = (item.get("capacity") or {}).get("requests") or {}
    return Request(
        name=name,
        device_class=item.get("deviceClassName") or "",
        mode=item.get("allocationMode") or "ExactCount",
        count=item.get("count") or 1,
        selectors=tuple((one.get("cel") or {}).get("expression", "") for one in item.get("selectors") or ()),
        capacity=tuple(sorted((key, str(value)) for key, value in wanted.items())),
        admin=bool(item.get("adminAccess")),
        tolerations=tuple(item.get("tolerations") or ()),
    )


def _rows(allocation: Item) -> tuple[claims.Allocation, ...]:
    results = (allocation.get("devices") or {}).get("results") or ()
    return tuple(
        claims.Allocation(
            driver=one["driver"],
            pool=one["pool"],
            device=one["device"],
            request=one["request"],
            share_id=one.get("shareID") or "",
            consumed=tuple(sorted((key, _number(value)) for key, value in (one.get("consumedCapacity") or {}).items())),
        )
        for one in results
        if not one.get("adminAccess")
    )


def _number(text: object) -> int:
    return int(quantity.parse(text))  # type: ignore[arg-type]


def _node(allocation: Item) -> str:
    """Return the node of a node-local allocation."""
    for term in (allocation.get("nodeSelector") or {}).get("nodeSelectorTerms") or ():
        for one in term.get("matchFields") or ():
            if one.get("key") == "metadata.name" and len(one.get("values") or ()) == 1:
                return str(one["values"][0])
    return ""
