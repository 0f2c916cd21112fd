"""Kubernetes objects that many tests need, as plain dicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.testbed import image

Object = dict[str, Any]


def pod(
    name: str,
    args: Sequence[str] = ("run",),
    node: str = "",
    claims: Sequence[str] = (),
    template: str = "",
    gates: Sequence[str] = (),
    **spec: Any,
) -> Object:
    """Return a pod of the test image, on a given node, with claims by name or from a template."""
    wanted = [{"name": one, "resourceClaimName": one} for one in claims]
    if template:
        wanted.append({"name": "gpu", "resourceClaimTemplateName": template})
    container = {
        "name": "main",
        "image": image.TEST,
        "imagePullPolicy": "Never",
        "args": list(args),
        "resources": {"claims": [{"name": one["name"]} for one in wanted]} if wanted else {},
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    }
    body: Object = {"restartPolicy": "Never", "hostNetwork": True, "terminationGracePeriodSeconds": 1}
    body |= {"containers": [container], **spec}
    if wanted:
        body["resourceClaims"] = wanted
    if gates:
        body["schedulingGates"] = [{"name": gate} for gate in gates]
    if node:
        body["affinity"] = pinned(node)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": body}


def pinned(node: str) -> Object:
    """Return the affinity that lets kube-scheduler look at one node only."""
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    terms = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def device_class(name: str, driver: str) -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": name},
        "spec": {"selectors": [{"cel": {"expression": f"device.driver == '{driver}'"}}]},
    }


def claim_spec(device_class: str, count: int = 1, request: str = "gpu") -> Object:
    exactly = {"deviceClassName": device_class, "allocationMode": "ExactCount", "count": count}
    return {"devices": {"requests": [{"name": request, "exactly": exactly}]}}


def claim(name: str, device_class: str, count: int = 1) -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": claim_spec(device_class, count),
    }


def template(name: str, device_class: str, count: int = 1) -> Object:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": {"spec": claim_spec(device_class, count)},
    }


def resource_slice(name: str, driver: str, node: str, devices: Sequence[str]) -> Object:
    """Return the only slice of a pool named like its node."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": name},
        "spec": {
            "driver": driver,
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": one} for one in devices],
        },
    }
