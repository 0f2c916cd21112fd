"""Rules of resource.k8s.io: claims, their status, templates, and the limits of ResourceSlices."""

from __future__ import annotations

import re
from typing import Any

from tests.testbed.embedded.failure import Cause, required, too_many, wrong

DELETE_PROTECTION = "resource.kubernetes.io/delete-protection"
RESERVED, RESULTS = 256, 32  # k8s.io/api/resource/v1 ResourceClaimReservedForMaxSize, AllocationResultsMaxSize
DEVICES, ADVANCED_DEVICES, ATTRIBUTES, COUNTER_SETS, COUNTERS = 128, 64, 32, 8, 32  # ResourceSliceMax...
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
IMMUTABLE = "field is immutable"
NUMBER, WORD = r"(0|[1-9]\d*)", r"[0-9A-Za-z-]+"
SEMVER = re.compile(rf"{NUMBER}\.{NUMBER}\.{NUMBER}(-{WORD}(\.{WORD})*)?(\+{WORD}(\.{WORD})*)?")  # semver.org 2.0.0


def requests_of(spec: dict[str, Any]) -> set[str]:
    found = set()
    for one in (spec.get("devices") or {}).get("requests") or []:
        found.add(one["name"])
        found |= {f"{one['name']}/{sub['name']}" for sub in one.get("firstAvailable") or []}
    return found


def check_status(minor: int, before: dict[str, Any], after: dict[str, Any]) -> list[Cause]:
    """Check a write of a claim's status against what was there."""
    old, new = before.get("status") or {}, after.get("status") or {}
    wrongs = _check_allocation(minor, after, old.get("allocation"), new.get("allocation"))
    wrongs += _check_reserved(after, old, new)
    return wrongs + _check_devices(new)


def _check_allocation(minor: int, claim: dict[str, Any], old: Any, new: Any) -> list[Cause]:
    if old and new and old != new:
        return [wrong("status.allocation", "field cannot be modified once set" if minor >= 36 else IMMUTABLE)]
    results = ((new or {}).get("devices") or {}).get("results") or []
    wrongs = [too_many("status.allocation.devices.results", len(results), RESULTS)] * (len(results) > RESULTS)
    known = requests_of(claim["spec"])
    for index, one in enumerate(results):
        if one.get("request") not in known and old is None:
            rule = (
                "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
            )
            text = f'"{one.get("request")}": {rule}'
            wrongs.append(wrong(f"status.allocation.devices.results[{index}].request", text))
    return wrongs


def _check_reserved(claim: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> list[Cause]:
    was, now = old.get("reservedFor") or [], new.get("reservedFor") or []
    wrongs = [too_many("status.reservedFor", len(now), RESERVED)] * (len(now) > RESERVED)
    if now and not new.get("allocation"):
        wrongs.append(
            ("status.reservedFor", "FieldValueForbidden", "Forbidden: may not be specified when `allocated` is not set")
        )
    held = {one.get("uid") for one in was}
    if claim["metadata"].get("deletionTimestamp") and any(one.get("uid") not in held for one in now):
        text = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"
        wrongs.append(("status.reservedFor", "FieldValueForbidden", f"Forbidden: {text}"))
    uids = [one.get("uid") for one in now]
    wrongs += [
        (f"status.reservedFor[{index}]", "FieldValueDuplicate", f'Duplicate value: "{uid}"')
        for index, uid in enumerate(uids)
        if uid in uids[:index]
    ]
    return wrongs


def _check_devices(status: dict[str, Any]) -> list[Cause]:
    def name(one: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(one.get(part) for part in ("driver", "pool", "device", "shareID"))

    results = ((status.get("allocation") or {}).get("devices") or {}).get("results") or []
    allocated = {name(one) for one in results}
    return [
        wrong(f"status.devices[{index}]", "must be an allocated device in the claim")
        for index, one in enumerate(status.get("devices") or [])
        if name(one) not in allocated
    ]


def check_slice(minor: int, piece: dict[str, Any]) -> list[Cause]:
    """Check a ResourceSlice's spec against the limits of Kubernetes 1.`minor`."""
    spec = piece.get("spec") or {}
    wrongs = [required(f"spec.{name}") for name in ("driver",) if not spec.get(name)]
    where = [name for name in ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection") if spec.get(name)]
    fields = "`nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection`"
    if not where:
        wrongs.append(required("spec", f"exactly one of {fields} is required"))
    elif len(where) > 1:
        wrongs.append(wrong("spec", f"exactly one of {fields} is required, but multiple fields are set"))
    pool = spec.get("pool") or {}
    if not pool.get("name"):
        wrongs.append(required("spec.pool.name"))
    if pool.get("resourceSliceCount", 0) < 1:
        wrongs.append(
            wrong("spec.pool.resourceSliceCount", f"{pool.get('resourceSliceCount', 0)}: must be greater than zero")
        )
    devices, counters = spec.get("devices") or [], spec.get("sharedCounters") or []
    if minor >= 35 and devices and counters:
        wrongs.append(wrong("spec", "only one of `sharedCounters` or `devices` is allowed"))
    advanced = minor >= 35 and any(one.get("taints") or one.get("consumesCounters") for one in devices)
    limit = ADVANCED_DEVICES if advanced else DEVICES
    if len(devices) > limit:
        wrongs.append(too_many("spec.devices", len(devices), limit))
    if minor >= 35 and len(counters) > COUNTER_SETS:
        wrongs.append(too_many("spec.sharedCounters", len(counters), COUNTER_SETS))
    for index, one in enumerate(counters):
        if len(one.get("counters") or {}) > COUNTERS:
            wrongs.append(too_many(f"spec.sharedCounters[{index}].counters", len(one["counters"]), COUNTERS))
    names = [one.get("name", "") for one in devices]
    for index, one in enumerate(devices):
        wrongs += _check_device(f"spec.devices[{index}]", one, names[:index], minor)
    return wrongs


def _check_device(field: str, device: dict[str, Any], earlier: list[str], minor: int) -> list[Cause]:
    wrongs: list[Cause] = []
    name = device.get("name", "")
    if not LABEL.fullmatch(name):
        wrongs.append(wrong(f"{field}.name", f'"{name}": a lowercase RFC 1123 label is needed'))
    if name in earlier:
        wrongs.append((f"{field}.name", "FieldValueDuplicate", f'Duplicate value: "{name}"'))
    facts = len(device.get("attributes") or {}) + len(device.get("capacity") or {})
    if facts > ATTRIBUTES:
        text = f"{facts}: the total number of attributes and capacities must not exceed {ATTRIBUTES}"
        wrongs.append(wrong(field, text))
    for key, value in (device.get("attributes") or {}).items():
        text = value.get("string") or value.get("version") or ""
        if len(text.encode()) > 64:
            word = "string" if value.get("string") else "version"
            long = "Too long: may not be more than 64 bytes"
            wrongs.append((f"{field}.attributes[{key}].{word}", "FieldValueTooLong", long))
        if "version" in value and not SEMVER.fullmatch(value["version"]):
            text = f'"{value["version"]}": must be a string compatible with semver.org spec 2.0.0'
            wrongs.append(wrong(f"{field}.attributes[{key}].version", text))
        if len(value) != 1:
            wrongs.append(wrong(f"{field}.attributes[{key}]", "exactly one value must be specified"))
    taints, limit = device.get("taints") or [], 16 if minor >= 35 else 4
    if len(taints) > limit:
        wrongs.append(too_many(f"{field}.taints", len(taints), limit))
    return wrongs
