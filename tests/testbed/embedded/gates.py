"""Fields of features that are off in a version: the server drops them without a word."""

from __future__ import annotations

from typing import Any

from tests.testbed.embedded.kinds import Kind

FROM = 36  # device taints, partitions, consumable capacity and the timestamp of allocations are on by default from here
DEVICE_FIELDS = ("taints", "consumesCounters", "allowMultipleAllocations")


def drop(kind: Kind, minor: int, obj: dict[str, Any]) -> None:
    """Take the fields out of an object that 1.`minor` would not store."""
    if minor >= FROM:
        return
    if kind.resource == "resourceslices.resource.k8s.io":
        spec = obj.get("spec") or {}
        spec.pop("sharedCounters", None)
        for device in spec.get("devices") or []:
            for name in DEVICE_FIELDS:
                device.pop(name, None)
    if kind.resource == "resourceclaims.resource.k8s.io":
        allocation = (obj.get("status") or {}).get("allocation") or {}
        allocation.pop("allocationTimestamp", None)
