"""What a pod asks of our devices through an extended resource of its containers.

Pods with claims are known by their claims, which a request to the extender does not carry.
"""

from collections.abc import Iterable

from scheduler.model import admission, quantity, request
from scheduler.web import wire

MOST = 1 << 60
"""Quantities above this are cut to it: more than any node has, and no overflow in 64-bit arrays."""


def from_containers(pod: wire.Pod, resource: str) -> request.PodRequest | None:
    """Return the request of a pod for GPUs named `resource`, None where it asks for none.

    Notes
    -----
    The sum over containers, or the largest init container where that is more, as Kubernetes counts.

    Raises
    ------
    BadRequest
        A quantity that is none, negative, or a fraction of a GPU.
    """
    gpus = _wanted(pod, resource)
    if gpus == 0:
        return None
    if gpus % 1000:
        raise wire.BadRequest(f"pod {pod.key}: {resource} must be a whole number, got {gpus} thousandths")
    memory_mib = -(-_wanted(pod, "memory") // (1000 << 20))
    return request.PodRequest(
        cpu_milli=_wanted(pod, "cpu"),
        memory_mib=memory_mib,
        gpus=min(gpus // 1000, 1 << 20),
        nodes=admission.EVERYWHERE,  # kube-scheduler has been through selectors and taints before it asks
    )


def _wanted(pod: wire.Pod, resource: str) -> int:
    """Return how much of a resource a pod needs, in thousandths."""
    spec = pod.spec or wire.PodSpec()
    together = sum(_amounts(pod, spec.containers or (), resource))
    return min(max([together, *_amounts(pod, spec.init_containers or (), resource)]), MOST)


def _amounts(pod: wire.Pod, containers: Iterable[wire.Container], resource: str) -> list[int]:
    return [_amount(pod, one.resources, resource) for one in containers if one.resources is not None]


def _amount(pod: wire.Pod, resources: wire.Resources, resource: str) -> int:
    """Return the request of one container, or its limit where it names no request."""
    text = (resources.requests or {}).get(resource, (resources.limits or {}).get(resource, 0))
    try:
        amount = quantity.milli(text)
    except ValueError as error:
        raise wire.BadRequest(f"pod {pod.key}: {resource}: {error}") from None
    if amount < 0:
        raise wire.BadRequest(f"pod {pod.key}: {resource} must not be negative, got {text}")
    return amount
