"""ResourceClaim objects as an API server returns them."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.driver import host


def uid(number: int) -> str:
    return f"{number:08d}-1111-2222-3333-444444444444"


def result(device: str, request: str = "gpus", *, pool: str = "node-a", driver: str = host.DRIVER, **more: Any) -> dict:
    return {"request": request, "driver": driver, "pool": pool, "device": device, **more}


def share(device: str, share_id: str, milli: int, request: str = "gpus") -> dict:
    return result(device, request, shareID=share_id, consumedCapacity={"milli": str(milli)})


def config(parameters: Mapping[str, Any], *, source: str = "FromClaim", requests: Sequence[str] = ()) -> dict:
    return {"source": source, "requests": list(requests), "opaque": {"driver": host.DRIVER, "parameters": parameters}}


def gpu_config(**more: Any) -> dict:
    return {"apiVersion": "gpu.muster.dev/v1alpha1", "kind": "GpuConfig", **more}


def mig_config(**more: Any) -> dict:
    return {"apiVersion": "gpu.muster.dev/v1alpha1", "kind": "MigDeviceConfig", **more}


def claim(
    number: int, *devices: str | dict, configs: Sequence[dict] = (), name: str = "", annotations: Mapping[str, str] = {}
) -> dict[str, Any]:
    """Return an allocated claim with a UID made of a number."""
    results = [result(device) if isinstance(device, str) else device for device in devices]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {
            "namespace": "default",
            "name": name or f"claim-{number}",
            "uid": uid(number),
            "generation": 1,
            "annotations": dict(annotations),
        },
        "status": {
            "allocation": {"devices": {"results": results, "config": list(configs)}},
            "reservedFor": [{"resource": "pods", "name": f"pod-{number}", "uid": uid(1000 + number)}],
        },
    }
