"""Fleets for tests of what reads and writes the API, told as the driver and kubelets tell them."""

from collections.abc import Mapping
from typing import Any

from scheduler.kube import claim, classes, fleet, node, part
from scheduler.kube import pod as pods
from scheduler.model import node as model
from scheduler.model import slices

CLASSES = {
    "gpu.muster.dev": "device.driver == 'gpu.muster.dev' && device.attributes['gpu.muster.dev'].type == 'gpu'",
    "mig.muster.dev": "device.driver == 'gpu.muster.dev' && device.attributes['gpu.muster.dev'].type == 'mig'",
    "nic.muster.dev": "device.driver == 'gpu.muster.dev' && device.attributes['gpu.muster.dev'].type == 'nic'",
    "accelerator.muster.dev": "device.driver == 'gpu.muster.dev' && device.attributes['gpu.muster.dev'].type == 'accelerator'",
    "gpu.nvidia.com": "device.driver == 'gpu.nvidia.com' && device.attributes['gpu.nvidia.com'].type == 'gpu'",
    "mig.nvidia.com": "device.driver == 'gpu.nvidia.com' && device.attributes['gpu.nvidia.com'].type == 'mig'",
    "any.muster.dev": "device.driver == 'gpu.muster.dev'",
}


def node_object(name: str, labels: Mapping[str, str] | None = None, **allocatable: str) -> dict[str, Any]:
    """Return a ready Node."""
    room = {"cpu": "200", "memory": "1000Gi", "pods": "110"} | allocatable
    conditions = [{"type": "Ready", "status": "True"}]
    metadata = {"name": name, "labels": dict(labels or {}), "resourceVersion": "1"}
    return {"metadata": metadata, "spec": {}, "status": {"allocatable": room, "conditions": conditions}}


def told(*found: model.NodeTopology, options: fleet.Options | None = None, **allocatable: str) -> fleet.Fleet:
    """Return a fleet of machines that our driver published."""
    made = fleet.Fleet(options or fleet.Options())
    for machine in found:
        made.update(node.read(node_object(machine.name, dict(machine.labels), **allocatable)))
        for item in slices.encode(machine):
            made.update(part.read(item))
    made.refresh()
    return made


def device_classes(**extended: str) -> dict[str, classes.DeviceClass]:
    """Return the classes of our driver; keywords give extended resources by the first part of a class's name."""
    return {
        name: classes.read(
            {
                "metadata": {"name": name},
                "spec": {
                    "selectors": [{"cel": {"expression": text}}],
                    "extendedResourceName": extended.get(name.partition(".")[0], ""),
                },
            }
        )
        for name, text in CLASSES.items()
    }


def exactly(name: str, device_class: str, count: int = 1, *selectors: str, **more: Any) -> dict[str, Any]:
    """Return a request of the API."""
    chosen = [{"cel": {"expression": text}} for text in selectors]
    return {"name": name, "exactly": {"deviceClassName": device_class, "count": count, "selectors": chosen, **more}}


def spec(*requests: dict[str, Any], constraints: list[dict[str, Any]] | None = None) -> claim.Spec:
    """Return the spec of a claim."""
    return claim.read_spec({"devices": {"requests": list(requests), "constraints": constraints or []}})


def pod(name: str = "p", extended: dict[str, str] | None = None, **claims: str) -> pods.Pod:
    """Return a pod whose claims are given by entry name."""
    container = {"name": "c", "resources": {"requests": {"cpu": "2", "memory": "4Gi", **(extended or {})}}}
    entries = [{"name": entry, "resourceClaimName": value} for entry, value in claims.items()]
    body = {"containers": [container], "resourceClaims": entries}
    return pods.read({"metadata": {"namespace": "ml", "name": name}, "spec": body})


def nvidia_partitions(name: str) -> fleet.Fleet:
    """Return a fleet of one node, two GPUs of which NVIDIA's driver publishes three partitions each and nothing else."""
    made = fleet.Fleet()
    devices = [_nvidia_partition(gpu, start) for gpu in range(2) for start in range(3)]
    pool = {"name": name, "generation": 1, "resourceSliceCount": 1}
    body = {"driver": "gpu.nvidia.com", "nodeName": name, "pool": pool, "devices": devices}
    made.update(node.read(node_object(name)))
    made.update(part.read({"metadata": {"name": f"{name}-slice"}, "spec": body}))
    made.refresh()
    return made


def _nvidia_partition(gpu: int, start: int) -> dict[str, Any]:
    texts = {"type": "mig", "profile": "1g.10gb", "parentUUID": f"GPU-{gpu}", "uuid": f"MIG-{gpu}-{start}"}
    texts |= {"productName": "NVIDIA H100 80GB HBM3"}
    attributes = {key: {"string": value} for key, value in texts.items()}
    capacity = {"memory": {"value": "9728Mi"}, f"memorySlice{start}": {"value": "1"}}
    return {"name": f"gpu-{gpu}-mig-1g10gb-19-{start}", "attributes": attributes, "capacity": capacity}
