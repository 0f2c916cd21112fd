"""The `status.allocation` of a claim, as kube-scheduler would have written it (KEP-4381)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from scheduler.kube import claim, plan
from scheduler.model import claim as rows

Item = dict[str, Any]

DeviceClass = Callable[[str], Mapping[str, Any] | None]
"""Finds a DeviceClass object by name."""


def body(item: Mapping[str, Any], node: str, one: plan.PlannedClaim, device_class: DeviceClass, now: str) -> Item:
    """Return the allocation of a claim object.

    Configs of classes come before those of the claim, because the later one counts. The time is never left out:
    kube-scheduler 1.37 would set it, the API server refuses that change, and the pod would never be bound.

    Raises
    ------
    LookupError
        A DeviceClass is not there, so that its configs would be lost.
    """
    chosen = {row.request for row in one.rows}
    asked = {name: exact for name, exact in _requests(item) if name in chosen}
    config = [*_of_classes(asked, device_class), *_of_claim(item, chosen)]
    devices: Item = {"results": [_result(row, asked.get(row.request, {})) for row in one.rows]}
    if config:
        devices["config"] = config
    selector = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {
        "devices": devices,
        "nodeSelector": {"nodeSelectorTerms": [selector]},
        "allocationTimestamp": now,
    }


def given(item: Mapping[str, Any]) -> tuple[rows.Allocation, ...]:
    """Return what a claim object has."""
    return claim.read(item).rows or ()


def _requests(item: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield requests and alternatives under the names that results use."""
    for request in item["spec"]["devices"].get("requests") or ():
        for one in request.get("firstAvailable") or ():
            yield f"{request['name']}/{one['name']}", one
        if request.get("exactly"):
            yield request["name"], request["exactly"]


def _of_classes(asked: Mapping[str, Mapping[str, Any]], device_class: DeviceClass) -> Iterator[Item]:
    for name, exact in asked.items():
        found = device_class(exact.get("deviceClassName", ""))
        if found is None:
            raise LookupError(f"device class {exact.get('deviceClassName')!r} does not exist; create it")
        for entry in (found.get("spec") or {}).get("config") or ():
            yield {"source": "FromClass", "requests": [name], **entry}


def _of_claim(item: Mapping[str, Any], chosen: Iterable[str]) -> Iterator[Item]:
    """Yield the claim's own configs, without those that are for alternatives which were not taken."""
    known = {*chosen, *(name.partition("/")[0] for name in chosen)}
    for entry in item["spec"]["devices"].get("config") or ():
        if not entry.get("requests") or known.intersection(entry["requests"]):
            yield {"source": "FromClaim", **entry}


def _result(row: rows.Allocation, exact: Mapping[str, Any]) -> Item:
    result: Item = {"request": row.request, "driver": row.driver, "pool": row.pool, "device": row.device}
    if exact.get("tolerations"):
        result["tolerations"] = exact["tolerations"]
    if row.share_id:
        result["shareID"] = row.share_id
        result["consumedCapacity"] = {name: str(value) for name, value in row.consumed}
    return result
