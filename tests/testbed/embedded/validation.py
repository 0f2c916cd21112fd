"""What a new object or a change must satisfy, for every kind."""

from __future__ import annotations

import re
from typing import Any

from tests.testbed.embedded import claims, failure, pods
from tests.testbed.embedded.failure import Cause, barred, required, wrong
from tests.testbed.embedded.kinds import Kind

Object = dict[str, Any]
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
NAME_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
FIXED = {  # fields that never change: resource -> paths
    "resourceclaims.resource.k8s.io": (("spec",),),
    "resourceclaimtemplates.resource.k8s.io": (("spec",),),
    "resourceslices.resource.k8s.io": (("spec", "driver"), ("spec", "pool", "name"), ("spec", "nodeName")),
    "priorityclasses.scheduling.k8s.io": (("value",),),
    "secrets": (("type",),),
}
IMMUTABLE = "field is immutable"


def check_new(kind: Kind, minor: int, obj: Object) -> None:
    """Raise all that is wrong with a new object."""
    name = obj["metadata"]["name"]
    wrongs: list[Cause] = []
    if not SUBDOMAIN.fullmatch(name) or len(name) > 253:
        wrongs.append(wrong("metadata.name", f'"{name}": {NAME_RULE}'))
    wrongs += _check_kind(kind, minor, obj)
    if wrongs:
        raise failure.invalid(kind, name, wrongs)


def _check_kind(kind: Kind, minor: int, obj: Object) -> list[Cause]:
    match kind.resource:
        case "pods":
            return pods.check_new(obj)
        case "resourceslices.resource.k8s.io":
            return claims.check_slice(minor, obj)
        case "resourceclaims.resource.k8s.io" | "deviceclasses.resource.k8s.io":
            return [] if "spec" in obj else [required("spec")]
    return []


def check_update(kind: Kind, minor: int, before: Object, after: Object, sub: str) -> None:
    """Raise all that is wrong with a change of an object or of its status."""
    wrongs = _check_metadata(before["metadata"], after["metadata"])
    if sub == "status":
        if kind.resource == "resourceclaims.resource.k8s.io":
            wrongs += claims.check_status(minor, before, after)
    else:
        wrongs += [
            wrong(".".join(path), IMMUTABLE)
            for path in FIXED.get(kind.resource, ())
            if _at(before, path) != _at(after, path)
        ]
        if kind.resource == "configmaps" and before.get("immutable"):
            wrongs += [
                barred(name, "field is immutable when `immutable` is set")
                for name in ("data", "binaryData", "immutable")
                if before.get(name) != after.get(name)
            ]
        if kind.resource == "pods":
            wrongs += pods.check_update(before, after)
        elif not wrongs:
            wrongs += _check_kind(kind, minor, after)
    if wrongs:
        raise failure.invalid(kind, before["metadata"]["name"], wrongs)


def _check_metadata(old: Object, new: Object) -> list[Cause]:
    added = [one for one in new.get("finalizers") or [] if one not in (old.get("finalizers") or [])]
    if old.get("deletionTimestamp") and added:
        text = "no new finalizers can be added if the object is being deleted, found new finalizers " + str(added)
        return [barred("metadata.finalizers", text)]
    return []


def _at(obj: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        obj = obj.get(step) if isinstance(obj, dict) else None
    return obj
