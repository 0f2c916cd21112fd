"""What is read of Kueue: Workloads with their pod sets and checks, topologies, flavours, admission checks.

Both served versions are read; v1beta1 writes a topology assignment as a plain list of domains, v1beta2 compressed.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from scheduler.kube import admits
from scheduler.kube import pod as pods
from scheduler.model import admission

GROUP = "kueue.x-k8s.io"
VERSIONS = ("v1beta2", "v1beta1")
"""Best first; a mirror takes the first that is served."""

WORKLOADS, CHECKS, FLAVORS, TOPOLOGIES = "workloads", "admissionchecks", "resourceflavors", "topologies"

MAX_DOMAINS = 100_000
"""Kueue's own limit of domains in one slice of an assignment; ours for all slices together."""

Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TopologyRequest:
    """What a pod set asks of its place; level names are node labels, "" and 0 for none.

    Attributes
    ----------
    slice_level, slice_size : str, int
        Consecutive pods that share a domain: a segment.
    index_label : str
        Pod label that carries the rank in the pod set.
    group : str
        Pod sets of one group share a domain.
    layers : tuple of (str, int)
        Segments within segments, level and size, coarse to fine, where more than one is asked for.
    """

    required: str = ""
    preferred: str = ""
    unconstrained: bool = False
    slice_level: str = ""
    slice_size: int = 0
    index_label: str = ""
    group: str = ""
    layers: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain with the pods that Kueue put there; `values` has one entry for each level of the assignment."""

    values: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where Kueue's topology-aware scheduling put a pod set; `levels` are node labels, coarse to fine."""

    levels: tuple[str, ...]
    domains: tuple[Domain, ...]


@dataclass(frozen=True, slots=True)
class PodSet:
    """Equal pods of a workload.

    Attributes
    ----------
    count : int
        As Kueue admits it; less than the job asked for where it allows partial admission.
    minimum : int
        The least that the job runs with.
    template : Pod
        Its requests, labels, annotations and claims; the name is that of the pod set.
    flavors : tuple of str
        ResourceFlavors whose node labels the pods will be tied to.
    assignment : Assignment or None
        None where topology-aware scheduling is not used.
    """

    name: str
    count: int
    minimum: int
    template: pods.Pod
    request: TopologyRequest = TopologyRequest()
    flavors: tuple[str, ...] = ()
    assignment: Assignment | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """An entry of ``status.admissionChecks``; `state` is Pending, Ready, Retry or Rejected."""

    name: str
    state: str
    message: str = ""
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Workload:
    """A Kueue Workload.

    Attributes
    ----------
    version : str
        resourceVersion.
    owner : Owner
        The job that it stands for.
    true : frozenset of str
        Types of the conditions that are True.
    assigning : bool
        A topology assignment is still to come (``delayedTopologyRequest: Pending``).
    """

    namespace: str
    name: str
    uid: str
    version: str
    owner: pods.Owner = pods.Owner()
    queue: str = ""
    priority: int = 0
    active: bool = True
    deleting: bool = False
    podsets: tuple[PodSet, ...] = ()
    true: frozenset[str] = frozenset()
    checks: tuple[Check, ...] = ()
    assigning: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Return ``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    @property
    def reserved(self) -> bool:
        """Return whether it has quota and nothing is about to take that away."""
        ending = {"Evicted", "Finished", "DeactivationTarget"} & self.true
        return "QuotaReserved" in self.true and self.active and not self.deleting and not ending

    @property
    def admitted(self) -> bool:
        """Return whether its job may start."""
        return "Admitted" in self.true


@dataclass(frozen=True, slots=True)
class AdmissionCheck:
    """A check with its controller; `active` is its condition Active, None while nobody has set it."""

    name: str
    controller: str
    generation: int = 0
    parameters: str = ""
    active: bool | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Flavor:
    """A ResourceFlavor: `nodes` is what Kueue will write into the pods; `topology` names a Topology or is ""."""

    name: str
    labels: Mapping[str, str]
    topology: str = ""
    nodes: admission.Admission = admission.Admission()


def read_workload(item: Item) -> Workload:
    """Project a Workload.

    Raises
    ------
    ValueError
        A quantity that no API server takes, or a topology assignment that contradicts itself.
    """
    metadata, spec, status = item["metadata"], item["spec"], item.get("status") or {}
    assigned = {one["name"]: one for one in (status.get("admission") or {}).get("podSetAssignments") or ()}
    where = f"Workload {metadata['namespace']}/{metadata['name']}"
    return Workload(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        version=metadata.get("resourceVersion", ""),
        owner=pods.controller(metadata),
        queue=spec.get("queueName") or "",
        priority=spec.get("priority") or 0,
        active=spec.get("active") is not False,
        deleting="deletionTimestamp" in metadata,
        podsets=tuple(_podset(one, assigned.get(one["name"], {}), metadata, where) for one in spec["podSets"]),
        true=frozenset(one["type"] for one in status.get("conditions") or () if one["status"] == "True"),
        checks=tuple(_check(one) for one in status.get("admissionChecks") or ()),
        assigning=any(one.get("delayedTopologyRequest") == "Pending" for one in assigned.values()),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
    )


def read_check(item: Item) -> AdmissionCheck:
    """Project an AdmissionCheck."""
    metadata, spec = item["metadata"], item["spec"]
    found = [one for one in (item.get("status") or {}).get("conditions") or () if one["type"] == "Active"]
    parameters = spec.get("parameters")
    return AdmissionCheck(
        name=metadata["name"],
        controller=spec["controllerName"],
        generation=metadata.get("generation") or 0,
        parameters=f"{parameters['kind']} {parameters['name']}" if parameters else "",
        active=found[0]["status"] == "True" if found else None,
        message=found[0].get("message") or "" if found else "",
    )


def read_flavor(item: Item) -> Flavor:
    """Project a ResourceFlavor."""
    spec = item.get("spec") or {}
    labels = spec.get("nodeLabels") or {}
    nodes = admission.Admission(admits.selector(labels), (), admits.tolerations(spec.get("tolerations") or ()))
    return Flavor(item["metadata"]["name"], labels, spec.get("topologyName") or "", nodes)


def read_topology(item: Item) -> tuple[str, ...]:
    """Return the node labels of a Topology's levels, coarse to fine."""
    return tuple(one["nodeLabel"] for one in item["spec"]["levels"])


def _podset(item: Item, assigned: Item, metadata: Item, where: str) -> PodSet:
    template, count = item["template"], item["count"]
    named = {**(template.get("metadata") or {}), "name": item["name"], "namespace": metadata["namespace"]}
    assignment = assigned.get("topologyAssignment")
    return PodSet(
        name=item["name"],
        count=assigned.get("count") or count,
        minimum=item.get("minCount") or count,
        template=pods.read({"metadata": named, "spec": template["spec"]}),
        request=_request(item.get("topologyRequest") or {}),
        flavors=tuple(sorted(set((assigned.get("flavors") or {}).values()))),
        assignment=None if assignment is None else read_assignment(assignment, f"{where}, pod set {item['name']}"),
    )


def _request(item: Item) -> TopologyRequest:
    return TopologyRequest(
        required=item.get("required") or "",
        preferred=item.get("preferred") or "",
        unconstrained=bool(item.get("unconstrained")),
        slice_level=item.get("podSetSliceRequiredTopology") or "",
        slice_size=item.get("podSetSliceSize") or 0,
        index_label=item.get("podIndexLabel") or "",
        group=item.get("podSetGroupName") or "",
        layers=tuple(
            (one["topology"], one["size"]) for one in item.get("podsetSliceRequiredTopologyConstraints") or ()
        ),
    )


def _check(item: Item) -> Check:
    return Check(item["name"], item["state"], item.get("message") or "", item.get("retryCount") or 0)


def read_assignment(item: Item, where: str) -> Assignment:
    """Decode a topology assignment of either version; `where` is for the message.

    Raises
    ------
    ValueError
        Lists of different lengths, or more than `MAX_DOMAINS` domains.
    """
    levels = tuple(item["levels"])
    if "domains" in item:
        plain = (Domain(tuple(one["values"]), one["count"]) for one in item["domains"])
        return Assignment(levels, tuple(plain))
    if sum(one["domainCount"] for one in item["slices"]) > MAX_DOMAINS:
        raise ValueError(f"{where}: the topology assignment has more than {MAX_DOMAINS} domains")
    try:
        return Assignment(levels, tuple(_domains(item["slices"])))
    except (ValueError, KeyError) as error:
        raise ValueError(f"{where}: the topology assignment contradicts itself: {error}") from None


def _domains(slices: Iterable[Item]) -> Iterator[Domain]:
    for one in slices:
        size = one["domainCount"]
        columns = [_values(level, size) for level in one["valuesPerLevel"]]
        for values, count in zip(zip(*columns, strict=True), _counts(one["podCounts"], size), strict=True):
            yield Domain(values, count)


def _values(level: Item, size: int) -> list[str]:
    if level.get("universal") is not None:
        return [level["universal"]] * size
    each = level["individual"]
    return [f"{each.get('prefix') or ''}{root}{each.get('suffix') or ''}" for root in each["roots"]]


def _counts(item: Item, size: int) -> list[int]:
    return [item["universal"]] * size if item.get("universal") is not None else list(item["individual"])
