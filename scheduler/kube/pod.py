"""The few fields of a pod by which it is recognised, placed and followed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.kube import admits
from scheduler.model import admission, names, quantity

Item = Mapping[str, Any]

FINISHED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Owner:
    """An owner reference; `kind` "" for none."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""


@dataclass(frozen=True, slots=True)
class ClaimRef:
    """An entry of ``spec.resourceClaims``.

    Attributes
    ----------
    template : str
        ResourceClaimTemplate, "" where the pod names a claim itself.
    claim : str
        The claim's name; "" until the claim controller has made it from the template.
    """

    name: str
    template: str = ""
    claim: str = ""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as far as placement cares.

    Attributes
    ----------
    version : str
        resourceVersion.
    owner : Owner
        The controlling owner.
    node : str
        Where it is bound, "" before.
    pinned : str
        The only node that its affinity admits by ``matchFields metadata.name``, "" without such a term.
    affine : bool
        Whether it says on which nodes it must run by a required node affinity.
    group : str
        ``spec.schedulingGroup.podGroupName``.
    cpu_milli, memory_mib : int
        As kube-scheduler counts them: containers and restartable init containers together, or the largest plain init
        container where that is more; overhead added.
    extended : tuple of (str, int)
        Extended resources (names with a "/"), whole numbers, sorted.
    evicted : str
        Why Muster evicts it, "" where it does not.
    nodes : Admission
        On which nodes it may run, without our own pin.
    unbound : str
        Why kube-scheduler could not bind it when it last tried, "" for a pod that it has not refused.
    """

    namespace: str
    name: str
    uid: str
    version: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    owner: Owner = Owner()
    gates: tuple[str, ...] = ()
    node: str = ""
    pinned: str = ""
    affine: bool = False
    phase: str = "Pending"
    deleting: bool = False
    priority: int = 0
    scheduler: str = "default-scheduler"
    group: str = ""
    claims: tuple[ClaimRef, ...] = ()
    cpu_milli: int = 0
    memory_mib: int = 0
    extended: tuple[tuple[str, int], ...] = ()
    created: str = ""
    evicted: str = ""
    nodes: admission.Admission = admission.Admission()
    unbound: str = ""

    @property
    def key(self) -> str:
        """Return ``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def finished(self) -> bool:
        """Return whether its containers will not run again."""
        return self.phase in FINISHED

    @property
    def gone(self) -> bool:
        """Return whether it no longer counts as a member: finished, or deleted before it ever ran."""
        return self.finished or (self.deleting and not self.node)


def read(item: Item) -> Pod:
    """Project a pod of the API.

    Raises
    ------
    ValueError
        A quantity or a field that no API server would accept.
    """
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    made = {one["name"]: one.get("resourceClaimName") or "" for one in status.get("resourceClaimStatuses") or ()}
    containers, inits = spec.get("containers") or (), spec.get("initContainers") or ()
    overhead = spec.get("overhead") or {}
    wanted = {name for one in (*containers, *inits) for name in _wants(one) if "/" in name}
    return Pod(
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        version=metadata.get("resourceVersion", ""),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        owner=controller(metadata),
        gates=tuple(one["name"] for one in spec.get("schedulingGates") or ()),
        node=spec.get("nodeName") or "",
        pinned=_pinned(spec),
        affine=bool(_required(spec)),
        phase=status.get("phase") or "Pending",
        deleting="deletionTimestamp" in metadata,
        priority=spec.get("priority") or 0,
        scheduler=spec.get("schedulerName") or "default-scheduler",
        group=(spec.get("schedulingGroup") or {}).get("podGroupName") or "",
        claims=tuple(_claim(one, made) for one in spec.get("resourceClaims") or ()),
        cpu_milli=_total(containers, inits, "cpu") + quantity.milli(overhead.get("cpu", 0)),
        memory_mib=-(
            -(_total(containers, inits, "memory") + quantity.milli(overhead.get("memory", 0))) // (1000 << 20)
        ),
        extended=tuple((name, _total(containers, inits, name) // 1000) for name in sorted(wanted)),
        created=metadata.get("creationTimestamp") or "",
        evicted=_evicted(status),
        nodes=admits.read(spec, pinned=_planned(metadata, spec)),
        unbound="" if spec.get("nodeName") else _unbound(status),
    )


def _evicted(status: Item) -> str:
    """Return the reason of the condition with which Muster marks pods that it deletes."""
    for one in status.get("conditions") or ():
        if one["type"] == names.DISRUPTED and one["status"] == "True":
            return str(one.get("reason") or "") if (one.get("message") or "").startswith(names.EVICTED_BY) else ""
    return ""


def controller(metadata: Item) -> Owner:
    """Return the controlling owner of an object."""
    for one in metadata.get("ownerReferences") or ():
        if one.get("controller"):
            return Owner(one["apiVersion"], one["kind"], one["name"], one["uid"])
    return Owner()


def _claim(entry: Item, made: Mapping[str, str]) -> ClaimRef:
    name = entry["name"]
    direct = entry.get("resourceClaimName") or ""
    return ClaimRef(name, entry.get("resourceClaimTemplateName") or "", direct or made.get(name, ""))


def _planned(metadata: Item, spec: Item) -> bool:
    """Return whether a plan has pinned a pod: it does so, and writes the rank, with the same write that ungates it."""
    gated = any(one["name"] == names.GATE for one in spec.get("schedulingGates") or ())
    return names.PLANNED_RANK in (metadata.get("annotations") or {}) and bool(_pinned(spec)) and not gated


def _unbound(status: Item) -> str:
    """Return the message of kube-scheduler's refusal."""
    for one in status.get("conditions") or ():
        if one["type"] == "PodScheduled" and one.get("reason") == "Unschedulable":
            return str(one.get("message") or "")
    return ""


def _pinned(spec: Item) -> str:
    """Return the node that a required affinity term of one name leaves."""
    nodes = {_only(term) for term in _required(spec).get("nodeSelectorTerms") or ()}
    return nodes.pop() if len(nodes) == 1 else ""


def _required(spec: Item) -> Item:
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    found: Item = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    return found


def _only(term: Item) -> str:
    for one in term.get("matchFields") or ():
        if one.get("key") == "metadata.name" and one.get("operator") == "In" and len(one.get("values") or ()) == 1:
            return str(one["values"][0])
    return ""


def _wants(container: Item) -> Mapping[str, Any]:
    """Return the requests of a container; a limit stands in for a missing request."""
    resources = container.get("resources") or {}
    return {**(resources.get("limits") or {}), **(resources.get("requests") or {})}


def _total(containers: Iterable[Item], inits: Iterable[Item], resource: str) -> int:
    """Return what a pod needs of a resource, in thousandths (KEP-753 for restartable init containers)."""
    together, most = 0, 0
    for one in inits:
        amount = quantity.milli(_wants(one).get(resource, 0))
        if one.get("restartPolicy") == "Always":
            together += amount
            most = max(most, together)
        else:
            most = max(most, together + amount)
    return max(most, together + sum(quantity.milli(_wants(one).get(resource, 0)) for one in containers))
