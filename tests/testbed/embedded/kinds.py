"""The kinds that the embedded server knows by itself; a CustomResourceDefinition adds more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Keys = tuple[str, ...]
STATUS = frozenset({"status"})


@dataclass(frozen=True, slots=True)
class Kind:
    """One served resource. `storage` names the collection; two versions of one resource share it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    subresources: frozenset[str] = frozenset()
    generation: bool = False  # metadata.generation counts changes of the spec
    unconditional: bool = True  # PUT without a resourceVersion is taken
    creates_on_put: bool = False
    returns_deleted: bool = False  # DELETE answers with the object, not with a Status
    short: tuple[str, ...] = ()
    custom: bool = False
    lists: Mapping[Keys, Keys] = field(default_factory=dict)  # list fields of a custom kind that are merged by keys

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def storage(self) -> str:
        return "events" if self.plural == "events" else self.resource

    @property
    def resource(self) -> str:
        """``pods``, ``resourceclaims.resource.k8s.io``: as the API server names it in messages."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def title(self) -> str:
        return f"{self.kind}.{self.group}" if self.group else self.kind


BUILT_IN = (
    Kind("", "v1", "namespaces", "Namespace", False, STATUS, returns_deleted=True, short=("ns",)),
    Kind("", "v1", "nodes", "Node", False, STATUS, short=("no",)),
    Kind(
        "",
        "v1",
        "pods",
        "Pod",
        subresources=frozenset({"status", "binding", "eviction"}),
        generation=True,
        returns_deleted=True,
        short=("po",),
    ),
    Kind("", "v1", "configmaps", "ConfigMap", short=("cm",)),
    Kind("", "v1", "secrets", "Secret"),
    Kind("", "v1", "serviceaccounts", "ServiceAccount", returns_deleted=True, short=("sa",)),
    Kind("", "v1", "events", "Event", creates_on_put=True, short=("ev",)),
    Kind("events.k8s.io", "v1", "events", "Event", creates_on_put=True, short=("ev",)),
    Kind("coordination.k8s.io", "v1", "leases", "Lease", unconditional=False, creates_on_put=True),
    Kind("resource.k8s.io", "v1", "resourceslices", "ResourceSlice", False, generation=True, returns_deleted=True),
    Kind("resource.k8s.io", "v1", "deviceclasses", "DeviceClass", False, generation=True, returns_deleted=True),
    Kind("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim", subresources=STATUS, returns_deleted=True),
    Kind("resource.k8s.io", "v1", "resourceclaimtemplates", "ResourceClaimTemplate", returns_deleted=True),
    Kind("batch", "v1", "jobs", "Job", subresources=STATUS, generation=True),
    Kind("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", False, generation=True, short=("pc",)),
    Kind(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        False,
        STATUS,
        generation=True,
        unconditional=False,
        short=("crd", "crds"),
    ),
)
TAINT_RULE = Kind("resource.k8s.io", "v1", "devicetaintrules", "DeviceTaintRule", False, STATUS, generation=True)


def built_in(minor: int) -> dict[tuple[str, str, str], Kind]:
    """Return the kinds of Kubernetes 1.`minor`, by group, version and plural name."""
    served = BUILT_IN + ((TAINT_RULE,) if minor >= 37 else ())
    return {(one.group, one.version, one.plural): one for one in served}


def from_definition(definition: Mapping[str, Any]) -> list[Kind]:
    """Return the kinds that a CustomResourceDefinition adds, one for each served version."""
    spec = definition["spec"]
    names = spec["names"]
    return [
        Kind(
            spec["group"],
            version["name"],
            names["plural"],
            names["kind"],
            spec["scope"] == "Namespaced",
            STATUS & set(version.get("subresources") or {}),
            generation=True,
            unconditional=False,
            short=tuple(names.get("shortNames") or ()),
            custom=True,
            lists=merged_lists((version.get("schema") or {}).get("openAPIV3Schema") or {}),
        )
        for version in spec["versions"]
        if version["served"]
    ]


def merged_lists(schema: Mapping[str, Any], path: Keys = ()) -> dict[Keys, Keys]:
    """Return the paths of lists of type map or set, with their keys; a set has none."""
    found: dict[Keys, Keys] = {}
    if schema.get("x-kubernetes-list-type") in ("map", "set"):
        found[path] = tuple(schema.get("x-kubernetes-list-map-keys") or ())
    for name, inner in (schema.get("properties") or {}).items():
        found |= merged_lists(inner, (*path, name))
    if isinstance(inner := schema.get("items"), dict):
        found |= merged_lists(inner, path)
    return found
