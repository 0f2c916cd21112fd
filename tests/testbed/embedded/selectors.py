"""Label and field selectors of lists, watches and deletions of collections."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.testbed.embedded import failure
from tests.testbed.embedded.kinds import Kind

Matches = Callable[[dict[str, Any]], bool]
SET = re.compile(r"^\s*(\S+)\s+(in|notin)\s*\(([^)]*)\)\s*$")
METADATA = ("metadata.name", "metadata.namespace")
FIELDS = {
    "pods": ("spec.nodeName", "status.phase", "spec.schedulerName", "spec.restartPolicy", "spec.serviceAccountName"),
    "nodes": ("spec.unschedulable",),
    "namespaces": ("status.phase",),
    "secrets": ("type",),
    "events": (
        "reason",
        "type",
        *(
            f"{side}.{name}"
            for side in ("involvedObject", "regarding")
            for name in ("kind", "name", "namespace", "uid")
        ),
    ),
    "resourceslices.resource.k8s.io": ("spec.nodeName", "spec.driver", "spec.pool.name"),
    "jobs.batch": ("status.successful",),
}


def everything(_: dict[str, Any]) -> bool:
    return True


def parse(kind: Kind, labels: str, fields: str) -> Matches:
    """Return the test that both selectors make together."""
    tests = [_label(part) for part in _parts(labels)] + [_field(kind, part) for part in _parts(fields)]
    if not tests:
        return everything
    return lambda item: all(test(item) for test in tests)


def _parts(text: str) -> list[str]:
    return [part for part in re.split(r",(?![^(]*\))", text) if part.strip()]


def _label(part: str) -> Matches:
    def labels(item: dict[str, Any]) -> dict[str, str]:
        return item["metadata"].get("labels") or {}

    if found := SET.match(part):
        key, word, values = found[1], found[2], {value.strip() for value in found[3].split(",")}
        if word == "in":
            return lambda item: labels(item).get(key) in values
        return lambda item: labels(item).get(key) not in values
    for sign, equal in (("!=", False), ("==", True), ("=", True)):
        if sign in part:
            key, value = (side.strip() for side in part.split(sign, 1))
            return lambda item: (labels(item).get(key) == value) == equal
    key = part.strip()
    if not re.fullmatch(r"!?[A-Za-z0-9][A-Za-z0-9._/-]*", key):
        raise failure.bad_request(f'unable to parse requirement: found "{key}"')
    if key.startswith("!"):
        return lambda item: key[1:] not in labels(item)
    return lambda item: key in labels(item)


def _field(kind: Kind, part: str) -> Matches:
    sign = "!=" if "!=" in part else "==" if "==" in part else "="
    path, found, value = (side.strip() for side in part.partition(sign))
    if not found:
        raise failure.bad_request(f"invalid selector: '{part}'; can't understand '{part}'")
    if path not in METADATA + FIELDS.get(kind.storage, ()):
        raise failure.bad_request(f"field label not supported: {path}")
    steps = path.replace("regarding.", "involvedObject.").split(".")
    return lambda item: (_text(item, steps) == value) == (sign != "!=")


def _text(item: Any, steps: list[str]) -> str:
    for step in steps:
        item = item.get(step) if isinstance(item, dict) else None
    return "" if item is None else str(item).lower() if isinstance(item, bool) else str(item)
