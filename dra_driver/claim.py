"""A ResourceClaim as the driver reads it: what was allocated to us, and with which configuration."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NewType

from scheduler.model import claim as model_claim
from scheduler.model import names

ClaimUid = NewType("ClaimUid", str)

MAX_RESULTS = model_claim.MAX_RESULTS
MAX_CONFIGS = 64  # AllocationConfigs of resource.k8s.io/v1: 32 of classes and 32 of the claim
MAX_PARAMETERS = 10 * 1024  # bytes of one opaque configuration, OpaqueParametersMaxLength
POD_CLAIM_NAME = "resource.kubernetes.io/pod-claim-name"

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]{1,6}", re.ASCII)
_UID = re.compile(r"[A-Za-z0-9-]{1,64}")

FROM_CLASS = "FromClass"
FROM_CLAIM = "FromClaim"


class ClaimError(ValueError):
    """This claim cannot be prepared as it stands; the message names it and says what is missing."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A claim as the kubelet names it."""

    namespace: str
    name: str
    uid: ClaimUid

    def __str__(self) -> str:
        return f"claim {self.namespace}/{self.name} ({self.uid})"


def reference(namespace: str, name: str, uid: str) -> Reference:
    """Check what the kubelet says: the parts become names of files and paths of requests."""
    for field, value, pattern in (("namespace", namespace, _NAME), ("name", name, _NAME), ("uid", uid, _UID)):
        if pattern.fullmatch(value) is None:
            raise ClaimError(f"claim {namespace[:253]}/{name[:253]}: {field} {value[:300]!r} is not valid")
    return Reference(namespace, name, ClaimUid(uid))


@dataclass(frozen=True, slots=True)
class Result:
    """One device that was allocated to us.

    Attributes
    ----------
    request : str
        As in the allocation: with the name of the subrequest where there is one.
    consumed : tuple of (str, str)
        Consumed capacity as quantities.
    """

    request: str
    pool: str
    device: str
    share_id: str = ""
    admin_access: bool = False
    consumed: tuple[tuple[str, str], ...] = ()

    @property
    def base_request(self) -> str:
        """Name of the request without its subrequest, by which the kubelet finds the containers."""
        return self.request.partition("/")[0]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the claim's pod stands in its gang, as the scheduler wrote it on the claim.

    Attributes
    ----------
    size : int
        Pods of the plan; an elastic gang may have grown since.
    """

    gang: str
    rank: int
    size: int


@dataclass(frozen=True, slots=True)
class Opaque:
    """An opaque configuration for us, not decoded yet.

    Attributes
    ----------
    place : str
        Where it stands in the claim, for messages.
    requests : tuple of str
        Requests that it is for; empty means all.
    """

    place: str
    source: str
    requests: tuple[str, ...]
    parameters: Mapping[str, Any]

    def names(self, result: Result) -> bool:
        """Tell whether it names the request of a result, or the request above its subrequest."""
        return result.request in self.requests or result.base_request in self.requests


@dataclass(frozen=True, slots=True)
class ResourceClaim:
    """A claim with the part of its allocation that is ours.

    Attributes
    ----------
    generation : int
        Of the object.
    pod_claim_name : str
        Name of the claim in the pod, for claims made from a template; otherwise "".
    results : tuple of Result
        In the order of the allocation, which is the order in which the container is to see the devices.
    configs : tuple of Opaque
        Those of classes first, then those of the claim; later ones win.
    place : Place or None
        None for a lone pod, and for a claim that no gang planner allocated.
    pods : tuple of str or None
        Names of the pods that use it now; None where something else than a pod may use it.
    """

    reference: Reference
    generation: int
    pod_claim_name: str
    results: tuple[Result, ...]
    configs: tuple[Opaque, ...] = ()
    place: Place | None = None
    pods: tuple[str, ...] | None = None

    @property
    def requests(self) -> tuple[str, ...]:
        """Base names of the requests that have results, each once, in order."""
        return tuple(dict.fromkeys(result.base_request for result in self.results))


def read(obj: Mapping[str, Any], reference: Reference, driver: str) -> ResourceClaim:
    """Read the object that the API server returned for a reference.

    Raises
    ------
    ClaimError
        Another claim of the same name, no allocation, none of our devices, or contents outside the API's limits.
    """
    metadata = obj.get("metadata") or {}
    found = metadata.get("uid", "")
    if found != reference.uid:
        raise ClaimError(f"{reference}: the API server has UID {found}; the claim was deleted and created again")
    allocation = (obj.get("status") or {}).get("allocation")
    if not allocation:
        raise ClaimError(f"{reference}: status.allocation is empty; the claim is not allocated")
    try:
        devices = allocation.get("devices") or {}
        results = tuple(_result(row) for row in devices.get("results") or () if row.get("driver") == driver)
    except (KeyError, TypeError, AttributeError) as error:
        raise ClaimError(f"{reference}: status.allocation.devices is malformed: {error!r}") from error
    if not results:
        raise ClaimError(f"{reference}: status.allocation.devices.results has no device of {driver}")
    if len(results) > MAX_RESULTS:
        raise ClaimError(f"{reference}: {len(results)} allocated devices, at most {MAX_RESULTS} are allowed")
    annotations = metadata.get("annotations") or {}
    return ResourceClaim(
        reference,
        int(metadata.get("generation") or 0),
        annotations.get(POD_CLAIM_NAME, ""),
        results,
        _configs(devices.get("config") or (), reference, driver),
        _place(annotations, reference),
        _pods((obj.get("status") or {}).get("reservedFor") or (), reference),
    )


def _pods(rows: Any, reference: Reference) -> tuple[str, ...] | None:
    """Return the pods for which a claim is reserved."""
    try:
        if any(row.get("apiGroup") or row["resource"] != "pods" for row in rows):
            return None
        return tuple(row["name"] for row in rows)
    except (KeyError, TypeError, AttributeError) as error:
        raise ClaimError(f"{reference}: status.reservedFor is malformed: {error!r}") from error


def _place(annotations: Mapping[str, str], reference: Reference) -> Place | None:
    """Read rank and size.

    Raises
    ------
    ClaimError
        An annotation is no such number, or no such name: it would become a variable of containers.
    """
    gang, rank, size = (annotations.get(key) for key in (names.GANG, names.PLANNED_RANK, names.PLANNED_SIZE))
    if gang is None or rank is None or size is None:
        return None
    if not _NAME.fullmatch(gang) or not _NUMBER.fullmatch(rank) or not _NUMBER.fullmatch(size):
        raise ClaimError(
            f"{reference}: metadata.annotations: {names.GANG}, {names.PLANNED_RANK} and {names.PLANNED_SIZE} are"
            f" {gang[:64]!r}, {rank[:16]!r} and {size[:16]!r}; Muster writes a name and two numbers, delete the pod"
        )
    return Place(gang, int(rank), int(size))


def _result(row: Mapping[str, Any]) -> Result:
    return Result(
        request=row["request"],
        pool=row["pool"],
        device=row["device"],
        share_id=row.get("shareID") or "",
        admin_access=bool(row.get("adminAccess")),
        consumed=tuple(sorted((row.get("consumedCapacity") or {}).items())),
    )


def _configs(rows: Any, reference: Reference, driver: str) -> tuple[Opaque, ...]:
    """Return our configurations, those of classes before those of the claim, each group in its order."""
    if len(rows) > MAX_CONFIGS:
        raise ClaimError(
            f"{reference}: {len(rows)} configurations in the allocation, at most {MAX_CONFIGS} are allowed"
        )
    found = []
    for i, row in enumerate(rows):
        place = f"status.allocation.devices.config[{i}]"
        opaque = row.get("opaque")
        if opaque is None:
            raise ClaimError(f"{reference}: {place}.opaque is missing; no other kind of configuration is known")
        if opaque.get("driver") != driver:
            continue
        source = row.get("source", FROM_CLAIM)
        if source not in (FROM_CLASS, FROM_CLAIM):
            raise ClaimError(f"{reference}: {place}.source is {source!r}, neither {FROM_CLASS} nor {FROM_CLAIM}")
        parameters = opaque.get("parameters")
        if not isinstance(parameters, Mapping):
            raise ClaimError(f"{reference}: {place}.opaque.parameters must be an object with apiVersion and kind")
        found.append(Opaque(place, source, tuple(row.get("requests") or ()), parameters))
    return tuple(sorted(found, key=lambda opaque: opaque.source == FROM_CLAIM))
