"""Who owns which field: sets of paths, their form in `managedFields`, and server-side apply.

A path is a tuple of steps in the wire's own form: ``f:name`` for a field, ``k:{...}`` for an item of a list that is merged
by keys, ``v:...`` for an item of a set. Lists of other kinds are owned as a whole.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import orjson

from tests.testbed.embedded import failure
from tests.testbed.embedded.kinds import Keys, Kind

Path = tuple[str, ...]
Fields = set[Path]
NAMED = {  # the last field of a path -> keys
    "conditions": ("type",),
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "ports": ("containerPort", "protocol"),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "ownerReferences": ("uid",),
    "schedulingGates": ("name",),
    "resourceClaims": ("name",),
    "resourceClaimStatuses": ("name",),
    "reservedFor": ("uid",),
}
PLACED = {("status", "devices"): ("driver", "device", "pool", "shareID"), ("metadata", "finalizers"): ()}
SERVERS_OWN = {  # fields of metadata that belong to nobody
    "name", "namespace", "uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink",
    "deletionTimestamp", "deletionGracePeriodSeconds", "generateName",
}  # fmt: skip


def keys_of(kind: Kind, place: Keys) -> Keys | None:
    """Return the keys of a list, no keys for a set, None for a list that is one value."""
    if place in PLACED and (place[0] == "metadata" or kind.plural == "resourceclaims"):
        return PLACED[place]
    if place == ("metadata", "ownerReferences"):
        return NAMED["ownerReferences"]
    if kind.custom:
        return kind.lists.get(place)
    return NAMED.get(place[-1])


def _item_step(keys: Keys, item: Any) -> str:
    if not keys:
        return "v:" + orjson.dumps(item).decode()
    return "k:" + orjson.dumps({key: item[key] for key in keys if key in item}, option=orjson.OPT_SORT_KEYS).decode()


def leaves(kind: Kind, value: Any) -> dict[Path, Any]:
    """Return every owned path of an object with its value; an item of a list has a path of its own, with value None."""
    found: dict[Path, Any] = {}
    _leaves(kind, {name: inner for name, inner in value.items() if name not in ("kind", "apiVersion")}, (), (), found)
    return found


def _leaves(kind: Kind, value: Any, path: Path, place: Keys, found: dict[Path, Any]) -> None:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            if not (place == ("metadata",) and name in SERVERS_OWN):
                _leaves(kind, inner, (*path, "f:" + name), (*place, name), found)
    elif isinstance(value, list) and (keys := keys_of(kind, place)) is not None:
        for item in value:
            step = (*path, _item_step(keys, item))
            found[step] = None
            if isinstance(item, dict):
                _leaves(kind, item, step, place, found)
    else:
        found[path] = value


def to_wire(fields: Iterable[Path]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in sorted(fields):
        home = tree
        for step in path:
            home = home.setdefault(step, {})
        if path[-1].startswith("k:"):
            home["."] = {}
    return tree


def from_wire(tree: dict[str, Any], path: Path = ()) -> Fields:
    found: Fields = set()
    for step, inner in tree.items():
        if step == ".":
            found.add(path)
        elif not inner:
            found.add((*path, step))
        else:
            found |= from_wire(inner, (*path, step))
    return found


def note(kind: Kind, before: dict[str, Any] | None, after: dict[str, Any], manager: str, sub: str, now: str) -> None:
    """Give the changed fields of an update to its manager, and take them from the others."""
    old, new = (leaves(kind, before) if before else {}), leaves(kind, after)
    changed = {path for path, value in new.items() if path not in old or old[path] != value}
    entries = _entries(before)
    for key in list(entries):
        entries[key] = (entries[key][0] - changed) & new.keys(), entries[key][1]
    own = (manager, "Update", sub)
    if changed:
        entries[own] = entries.get(own, (set(), now))[0] | changed, now
    _write(kind, after, entries)


def _entries(obj: dict[str, Any] | None) -> dict[tuple[str, str, str], tuple[Fields, str]]:
    listed = (obj or {}).get("metadata", {}).get("managedFields") or []
    return {
        (one["manager"], one["operation"], one.get("subresource", "")): (from_wire(one["fieldsV1"]), one["time"])
        for one in listed
    }


def _write(kind: Kind, obj: dict[str, Any], entries: dict[tuple[str, str, str], tuple[Fields, str]]) -> None:
    obj["metadata"]["managedFields"] = [
        {
            "manager": manager,
            "operation": operation,
            "apiVersion": kind.api_version,
            "time": time,
            "fieldsType": "FieldsV1",
            "fieldsV1": to_wire(fields),
            **({"subresource": sub} if sub else {}),
        }
        for (manager, operation, sub), (fields, time) in entries.items()
        if fields
    ]


def apply(
    kind: Kind, live: dict[str, Any], config: dict[str, Any], manager: str, sub: str, force: bool, now: str
) -> dict[str, Any]:
    """Return the object with exactly the fields of `config` owned by `manager`, or raise the conflict."""
    entries, own = _entries(live), (manager, "Apply", sub)
    wanted, there = leaves(kind, config), leaves(kind, live)
    differing = {path for path, value in wanted.items() if path in there and there[path] != value}
    rivals = {key: fields & differing for key, (fields, _) in entries.items() if key != own and fields & differing}
    if rivals and not force:
        raise _conflict(kind, live["metadata"]["name"], rivals)
    for key in rivals:
        entries[key] = entries[key][0] - differing, entries[key][1]
    others = set().union(*(fields for key, (fields, _) in entries.items() if key != own))
    dropped = entries.get(own, (set(), now))[0] - wanted.keys() - others
    # an item of a list stays for as long as anybody owns anything in it
    kept = {path for path in dropped if any(one[: len(path)] == path for one in others | wanted.keys())}
    merged = _prune(kind, copy.deepcopy(live), (), (), dropped - kept)
    merged = _merge(kind, merged, config, ())
    if own not in entries or entries[own][0] != wanted.keys():
        entries[own] = set(wanted), now
    _write(kind, merged, entries)
    return merged


def _conflict(kind: Kind, name: str, rivals: dict[tuple[str, str, str], Fields]) -> failure.Failure:
    causes = [
        (_readable(path), "FieldManagerConflict", f'conflict with "{manager}"' + _manner(operation, sub, kind))
        for (manager, operation, sub), fields in sorted(rivals.items())
        for path in sorted(fields)
    ]
    count = f"{len(causes)} conflict" + ("s" if len(causes) > 1 else "")
    said = f"Apply failed with {count}: " + ", ".join(f"{message}: {field}" for field, _, message in causes)
    told = {"causes": [{"reason": reason, "message": message, "field": field} for field, reason, message in causes]}
    return failure.Failure(409, "Conflict", said, told)


def _manner(operation: str, sub: str, kind: Kind) -> str:
    return "" if operation == "Apply" else (f' with subresource "{sub}"' if sub else "") + f" using {kind.api_version}"


def _readable(path: Path) -> str:
    text = ""
    for step in path:
        form, _, rest = step.partition(":")
        if form == "f":
            text += "." + rest
        elif form == "k":
            text += "[" + ",".join(f"{k}={orjson.dumps(v).decode()}" for k, v in orjson.loads(rest).items()) + "]"
        else:
            text += f"[={rest}]"
    return text


def _prune(kind: Kind, value: Any, path: Path, place: Keys, gone: Fields) -> Any:
    if isinstance(value, dict):
        kept = {}
        for name, inner in value.items():
            step = (*path, "f:" + name)
            if step in gone:
                continue
            pruned = _prune(kind, inner, step, (*place, name), gone)
            if pruned or pruned == inner:  # a map or list that is emptied goes away with its last part
                kept[name] = pruned
        return kept
    if isinstance(value, list) and place and (keys := keys_of(kind, place)) is not None:
        steps = [((*path, _item_step(keys, item)), item) for item in value]
        return [_prune(kind, item, step, place, gone) for step, item in steps if step not in gone]
    return value


def _merge(kind: Kind, value: Any, config: Any, place: Keys) -> Any:
    if isinstance(config, dict) and isinstance(value, dict):
        merged = dict(value)
        for name, inner in config.items():
            merged[name] = _merge(kind, merged.get(name), inner, (*place, name))
        return merged
    keys = keys_of(kind, place) if isinstance(config, list) and place else None
    if keys is None or not isinstance(value, list):
        return copy.deepcopy(config)
    merged_list = list(value)
    places = {_item_step(keys, item): index for index, item in enumerate(value)}
    for item in config:
        at = places.get(_item_step(keys, item))
        if at is None:
            merged_list.append(copy.deepcopy(item))
        else:
            merged_list[at] = _merge(kind, merged_list[at], item, place)
    return merged_list
