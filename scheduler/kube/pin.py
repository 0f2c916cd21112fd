"""What a plan changes of a pod: the one node that it may run on, its rank and devices, and the gate."""

from typing import Any

from scheduler.kube import names, plan
from scheduler.kube import pod as pods

Item = dict[str, Any]


def release(pod: Item, gang: str, planned: plan.PlannedPod) -> None:
    """Pin a pod and take our gate off, in place.

    A pod that was never gated by us keeps its spec, which can't be changed any more: the taint of our devices keeps
    kube-scheduler from choosing others for it, and its allocated claims admit the planned node only.
    """
    spec, metadata = pod["spec"], pod["metadata"]
    metadata.setdefault("annotations", {}).update(_annotations(planned))
    metadata.setdefault("labels", {})[names.GANG] = gang
    if gated(pod):
        ungate(pod)
        node(spec, planned.node)


def patch(pod: pods.Pod, gang: str, planned: plan.PlannedPod) -> Item | None:
    """Return `release` as a merge patch of the version that is known; None where the pod has to be read for it.

    A merge patch replaces lists whole: the version makes sure that the other gates are still those that are known.
    """
    if names.GATE not in pod.gates or pod.affine or pod.node:
        return None
    spec: Item = {"schedulingGates": [{"name": gate} for gate in pod.gates if gate != names.GATE]}
    node(spec, planned.node)
    labels = {names.GANG: gang}
    metadata = {"uid": pod.uid, "resourceVersion": pod.version, "labels": labels, "annotations": _annotations(planned)}
    return {"metadata": metadata, "spec": spec}


def _annotations(planned: plan.PlannedPod) -> dict[str, str]:
    devices = ",".join(row.device for claim in planned.claims for row in claim.rows)
    return {names.PLANNED_RANK: str(planned.rank), names.PLANNED_DEVICES: devices}


def gated(pod: Item) -> bool:
    """Return whether our gate is on a pod."""
    return any(gate["name"] == names.GATE for gate in pod["spec"].get("schedulingGates") or ())


def ungate(pod: Item) -> None:
    """Take our gate off, in place."""
    gates = pod["spec"].get("schedulingGates") or ()
    pod["spec"]["schedulingGates"] = [gate for gate in gates if gate["name"] != names.GATE]


def node(spec: Item, name: str) -> None:
    """Let a pod run on one node only; terms that it has are narrowed, which the API allows while it is gated."""
    affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    required = affinity.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms = required.get("nodeSelectorTerms") or [{}]
    field = {"key": "metadata.name", "operator": "In", "values": [name]}
    required["nodeSelectorTerms"] = [
        {**term, "matchFields": [*(term.get("matchFields") or ()), field]} for term in terms
    ]
