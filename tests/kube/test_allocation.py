"""The body of an allocation: configs in order, tolerations, shares, alternatives."""

from typing import Any

import pytest

from scheduler.kube import allocation, plan
from scheduler.model import claim as rows

NOW = "2026-01-01T00:00:00Z"
KEPT = {"opaque": {"driver": "gpu.muster.dev", "parameters": {"of": "class"}}}
OWN = {"opaque": {"driver": "gpu.muster.dev", "parameters": {"of": "claim"}}}


def device_class(name: str) -> dict[str, Any] | None:
    return {"spec": {"config": [KEPT]}} if name in ("gpu", "mig") else None


def body(requests: list[dict[str, Any]], config: list[dict[str, Any]], *given: rows.Allocation) -> dict[str, Any]:
    item = {"spec": {"devices": {"requests": requests, "config": config}}}
    return allocation.body(item, "n0", plan.PlannedClaim("c", "u", given), device_class, NOW)


def device(request: str, name: str, **more: Any) -> rows.Allocation:
    return rows.Allocation("gpu.muster.dev", "n0", name, request, **more)


def test_configs_of_classes_come_first() -> None:
    requests = [{"name": "a", "exactly": {"deviceClassName": "gpu"}}]
    found = body(requests, [OWN], device("a", "gpu-0"))
    assert found["devices"]["config"] == [
        {"source": "FromClass", "requests": ["a"], **KEPT},
        {"source": "FromClaim", **OWN},
    ]
    assert found["allocationTimestamp"] == NOW


def test_tolerations_and_shares_are_in_the_results() -> None:
    bears = [{"key": "muster.dev/broken", "operator": "Exists"}]
    requests = [{"name": "a", "exactly": {"deviceClassName": "gpu", "tolerations": bears}}]
    found = body(requests, [], device("a", "gpu-0", share_id="s", consumed=(("memory", 1024),)))
    assert found["devices"]["results"] == [
        {
            "request": "a",
            "driver": "gpu.muster.dev",
            "pool": "n0",
            "device": "gpu-0",
            "tolerations": bears,
            "shareID": "s",
            "consumedCapacity": {"memory": "1024"},
        }
    ]


def test_an_alternative_brings_its_own_class_and_configs() -> None:
    bears = [{"operator": "Exists"}]
    first = {"name": "big", "deviceClassName": "gone"}
    second = {"name": "small", "deviceClassName": "mig", "tolerations": bears}
    config = [OWN | {"requests": ["a/big"]}, OWN | {"requests": ["a/small"]}, OWN | {"requests": ["a"]}]
    found = body([{"name": "a", "firstAvailable": [first, second]}], config, device("a/small", "mig-0"))["devices"]
    assert [one["requests"] for one in found["config"]] == [["a/small"], ["a/small"], ["a"]]
    assert found["results"][0]["tolerations"] == bears


def test_a_class_that_is_gone_is_an_error_and_not_an_allocation_without_configs() -> None:
    with pytest.raises(LookupError, match="device class 'gone' does not exist"):
        body([{"name": "a", "exactly": {"deviceClassName": "gone"}}], [], device("a", "gpu-0"))
