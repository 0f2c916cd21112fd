"""What a URL means, and what the server says it serves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.testbed.embedded import failure
from tests.testbed.embedded.kinds import Kind

Served = Mapping[tuple[str, str, str], Kind]
VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


@dataclass(frozen=True, slots=True)
class Target:
    """An object, or with no name a collection; `namespace` is empty for all namespaces."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    sub: str = ""


def parse(path: str, served: Served) -> Target:
    steps = [step for step in path.split("/") if step]
    if steps[:1] == ["api"]:
        group, version, rest = "", *_split(steps[1:])
    elif steps[:1] == ["apis"] and len(steps) > 2:
        group, (version, rest) = steps[1], _split(steps[2:])
    else:
        raise failure.no_resource()
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces" and (group, version, rest[2]) in served:
        namespace, rest = rest[1], rest[2:]
    kind = served.get((group, version, rest[0])) if rest else None
    if kind is None or len(rest) > 3 or (namespace and not kind.namespaced):
        raise failure.no_resource()
    name, sub = (rest[1:] + ["", ""])[:2]
    if (sub and sub not in kind.subresources) or (name and kind.namespaced and not namespace):
        raise failure.no_resource()
    return Target(kind, namespace, name, sub)


def _split(steps: list[str]) -> tuple[str, list[str]]:
    return (steps[0], steps[1:]) if steps else ("", [])


def discovery(path: str, served: Served, version: str) -> dict[str, Any] | None:
    """Return the answer for a discovery path, None for any other."""
    steps = [step for step in path.split("/") if step]
    groups = sorted({kind.group for kind in served.values() if kind.group})
    match steps:
        case ["version"]:
            major, minor = version.split(".")[:2]
            return {"major": major, "minor": minor, "gitVersion": f"v{version}+embedded", "platform": "linux/amd64"}
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(one, served) for one in groups]}
        case ["apis", name] if name in groups:
            return {"kind": "APIGroup", "apiVersion": "v1"} | _group(name, served)
        case ["api", "v1"]:
            return _resources("v1", (kind for kind in served.values() if not kind.group))
        case ["apis", name, word]:
            found = [kind for kind in served.values() if (kind.group, kind.version) == (name, word)]
            return _resources(f"{name}/{word}", found) if found else None
    return None


def _group(name: str, served: Served) -> dict[str, Any]:
    versions = list(dict.fromkeys(kind.version for kind in served.values() if kind.group == name))
    told = [{"groupVersion": f"{name}/{one}", "version": one} for one in versions]
    return {"name": name, "versions": told, "preferredVersion": told[0]}


def _resources(group_version: str, found: Iterable[Kind]) -> dict[str, Any]:
    resources = []
    for kind in found:
        told = {"name": kind.plural, "singularName": kind.kind.lower(), "namespaced": kind.namespaced}
        told |= {"kind": kind.kind, "verbs": VERBS}
        resources.append(told | ({"shortNames": list(kind.short)} if kind.short else {}))
        for sub in sorted(kind.subresources):
            verbs = ["get", "patch", "update"] if sub == "status" else ["create"]
            resources.append(told | {"name": f"{kind.plural}/{sub}", "verbs": verbs})
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}
