"""JSON patch, JSON merge patch and strategic merge patch. All return new values; none changes its argument."""

from __future__ import annotations

import copy
from typing import Any

from tests.testbed.embedded import failure

KEYS = {  # list field -> key by which a strategic merge patch joins its items (patchMergeKey in the API types)
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "schedulingGates": "name",
    "resourceClaims": "name",
    "resourceClaimStatuses": "name",
    "conditions": "type",
    "ownerReferences": "uid",
    "reservedFor": "uid",
    "addresses": "type",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "topologySpreadConstraints": "topologyKey",
}
SETS = {"finalizers"}  # lists of plain values that a strategic merge patch adds to


def merge(value: Any, change: Any) -> Any:
    """RFC 7386."""
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    merged = dict(value) if isinstance(value, dict) else {}
    for name, inner in change.items():
        if inner is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), inner)
    return merged


def strategic(value: Any, change: Any, field: str = "") -> Any:
    """Join lists by their keys; `$patch`, `$deleteFromPrimitiveList`, `$setElementOrder` and `$retainKeys` are known."""
    if isinstance(change, list):
        return _strategic_list(value if isinstance(value, list) else [], change, field)
    if not isinstance(change, dict):
        return change
    directive = change.get("$patch")
    if directive == "delete":
        return {}
    merged = dict(value) if isinstance(value, dict) and directive != "replace" else {}
    if "$retainKeys" in change:
        merged = {name: inner for name, inner in merged.items() if name in change["$retainKeys"]}
    for name, inner in change.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            name = name.partition("/")[2]
            merged[name] = [one for one in merged.get(name) or [] if one not in inner]
        elif name.startswith("$"):
            continue
        elif inner is None:
            merged.pop(name, None)
        else:
            merged[name] = strategic(merged.get(name), inner, name)
    return merged


def _strategic_list(value: list[Any], change: list[Any], field: str) -> list[Any]:
    if field in SETS:
        return value + [one for one in change if one not in value]
    key = KEYS.get(field)
    if key is None or any(isinstance(one, dict) and one.get("$patch") == "replace" for one in change):
        return [one for one in change if not (isinstance(one, dict) and one.get("$patch") == "replace")]
    merged = list(value)
    for one in change:
        if not isinstance(one, dict) or key not in one:
            raise failure.bad_request(f"map: {one} does not contain declared merge key: {key}")
        at = next((index for index, old in enumerate(merged) if old.get(key) == one[key]), None)
        if one.get("$patch") == "delete":
            if at is not None:
                del merged[at]
        elif at is None:
            merged.append(strategic({}, one))
        else:
            merged[at] = strategic(merged[at], one)
    return merged


def apply_operations(value: Any, operations: Any) -> Any:
    """RFC 6902."""
    if not isinstance(operations, list):
        raise failure.bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    value = copy.deepcopy(value)
    for operation in operations:
        value = _operate(value, operation)
    return value


def _operate(value: Any, operation: dict[str, Any]) -> Any:
    word, path = operation.get("op"), operation.get("path", "")
    steps = _steps(path)
    if word in ("move", "copy"):
        found = copy.deepcopy(_find(value, _steps(operation["from"]), operation["from"]))
        if word == "move":
            value = _set(value, _steps(operation["from"]), operation["from"], "remove", None)
        return _set(value, steps, path, "add", found)
    if word == "test":
        if _find(value, steps, path) != operation.get("value"):
            raise _refused()
        return value
    if word not in ("add", "replace", "remove"):
        raise failure.bad_request(f"unexpected kind of operation: {word}")
    return _set(value, steps, path, word, copy.deepcopy(operation.get("value")))


def _refused() -> failure.Failure:
    return failure.Failure(422, "Invalid", "the server rejected our request due to an error in our request")


def _steps(path: str) -> list[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]


def _find(value: Any, steps: list[str], path: str) -> Any:
    for step in steps:
        try:
            value = value[int(step)] if isinstance(value, list) else value[step]
        except (KeyError, IndexError, ValueError, TypeError):
            raise _refused() from None
    return value


def _set(value: Any, steps: list[str], path: str, word: str, new: Any) -> Any:
    if not steps:
        return new
    home, last = _find(value, steps[:-1], path), steps[-1]
    try:
        if isinstance(home, list):
            index = len(home) if last == "-" else int(last)
            if word == "add":
                if index > len(home):
                    raise _refused()
                home.insert(index, new)
            elif word == "remove":
                del home[index]
            else:
                home[index] = new
        elif word == "remove":
            del home[last]
        elif word == "replace" and last not in home:
            raise _refused()
        else:
            home[last] = new
    except (KeyError, IndexError, ValueError, TypeError):
        raise _refused() from None
    return value
