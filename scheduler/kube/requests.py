"""What a pod asks of one node, from its claims, their templates and its extended resources."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from scheduler.kube import catalog as catalogs
from scheduler.kube import claim, classes, constraints, needs
from scheduler.kube import pod as pods
from scheduler.kube.needs import RequestError as RequestError
from scheduler.model import device, extended, request

Key = tuple[str, str]
"""Namespace and name, as `mirror` has it."""

Specs = Mapping[str, claim.Spec]


class Fleet(Protocol):
    """What of a fleet is asked; `fleet.Fleet` is one."""

    def catalog(self) -> catalogs.Catalog:
        """Return the distinct published devices."""

    def offered(self, resource: str) -> int:
        """Return the least of an extended resource that a node with GPUs has."""


def asked(
    pod: pods.Pod, claims: Mapping[Key, claim.Claim], templates: Mapping[Key, claim.Spec]
) -> dict[str, claim.Spec]:
    """Return what the claims of a pod ask for, by claim name, in the pod's order.

    A claim that the claim controller has not made yet is taken from its template, under the name of the pod's entry.

    Raises
    ------
    RequestError
        Neither claim nor template exists (`passing`).
    """
    found: dict[str, claim.Spec] = {}
    for one in pod.claims:
        made = claims.get((pod.namespace, one.claim)) if one.claim else None
        if made is not None:
            found[one.claim] = made.spec
        elif one.template and (pod.namespace, one.template) in templates:
            found[one.claim or one.name] = templates[pod.namespace, one.template]
        else:
            what = f"ResourceClaimTemplate {one.template}" if one.template else f"ResourceClaim {one.claim}"
            raise RequestError(f"pod {pod.key}", f"spec.resourceClaims {one.name}: there is no {what}", passing=True)
    return found


def of(pod: pods.Pod, specs: Specs, found: Mapping[str, classes.DeviceClass], fleet: Fleet) -> request.PodRequest:
    """Return what a pod asks of its node.

    Parameters
    ----------
    specs : dict of claim name to Spec
        From `asked`, in the pod's order.
    found : dict of name to DeviceClass

    Raises
    ------
    RequestError
        Names the claim, the request and the remedy. Where its `passing` is true, the cluster lacks something that may
        still come; otherwise the pod has to change.
    """
    catalog = fleet.catalog()
    wanted = [*of_claims(specs, found, catalog), *_of_resources(pod, found, fleet)]
    return _merged(pod, wanted)


def of_claims(
    specs: Specs, found: Mapping[str, classes.DeviceClass], catalog: catalogs.Catalog
) -> tuple[needs.Need, ...]:
    """Return what claims need, request by request; the alternative of a prioritised list is in the request's name.

    Raises
    ------
    RequestError
    """
    wanted: list[needs.Need] = []
    for name, spec in specs.items():
        own = needs.of_spec(name, spec, found, catalog)
        constraints.check(name, spec, own, catalog)
        wanted += own
    return tuple(wanted)


def _of_resources(pod: pods.Pod, found: Mapping[str, classes.DeviceClass], fleet: Fleet) -> Iterable[needs.Need]:
    """Yield what extended resources need: devices of a class, GPUs of a device plugin, or nothing where all nodes have it.

    Raises
    ------
    RequestError
        A resource that some node with GPUs lacks.
    """
    for resource, count in pod.extended:
        own, plugged = classes.of_resource(found.values(), resource), fleet.catalog().plugged
        if not count:
            continue
        if own is not None:
            yield needs.of_exact("", claim.Request(resource, own.name, count=count), found, fleet.catalog())
        elif resource == extended.GPU_RESOURCE and plugged:
            whole = device.WHOLE_GPU_MILLI
            yield needs.Need("", resource, "gpu", count, plugged, "", whole, (), catalogs.Wanted(()))
        elif fleet.offered(resource) < count:
            problem = f"not every node with GPUs offers {count} of it: can't be planned by Muster; use a claim"
            raise RequestError(f"pod {pod.key}: resources.requests {resource}", problem, passing=True)


def _merged(pod: pods.Pod, wanted: list[needs.Need]) -> request.PodRequest:
    """Put the needs of a pod together.

    Raises
    ------
    RequestError
        A pod of several kinds of GPU shares, or partitions, that a plan can't express.
    """
    gpus = [need for need in wanted if need.kind in ("gpu", "mig")]
    kinds = {(need.kind, need.sort, need.milli) for need in gpus}
    count = sum(need.count for need in gpus)
    if len(kinds) > 1:
        told = " and ".join(sorted(f"{need.where} ({_told(need)})" for need in gpus))
        raise RequestError(f"pod {pod.key}", f"{told} can't be planned by Muster in one pod: use one kind, or two pods")
    kind, profile, milli = next(iter(kinds), ("", "", device.WHOLE_GPU_MILLI))
    if milli < device.WHOLE_GPU_MILLI and count > 1:
        raise RequestError(
            f"pod {pod.key}", f"{count} shares of GPUs in one pod can't be planned by Muster: ask for one"
        )
    kinds_of = sorted({need.sort for need in wanted if need.kind == "accelerator"})
    return request.PodRequest(
        cpu_milli=pod.cpu_milli,
        memory_mib=pod.memory_mib,
        gpus=count,
        gpu_milli=milli,
        mig=profile if kind == "mig" else "",
        nics=sum(need.count for need in wanted if need.kind == "nic"),
        gpu_models=needs.narrowed(gpus) or (),
        accelerators=tuple(
            (sort, sum(n.count for n in wanted if (n.kind, n.sort) == ("accelerator", sort))) for sort in kinds_of
        ),
        nodes=pod.nodes,
    )


def _told(need: needs.Need) -> str:
    if need.kind == "mig":
        return f"partitions {need.sort}"
    return "whole GPUs" if need.milli == device.WHOLE_GPU_MILLI else f"{need.milli} milli of a GPU"
