"""What users apply in the tests: workloads of several kinds whose pods ask for whole machines or some GPUs of them."""

from __future__ import annotations

from typing import Any

from scheduler.model import names
from tests.testbed.fleet import nodes

Obj = dict[str, Any]

RACK = nodes.RACK_LABEL
BLOCK = nodes.BLOCK_LABEL
IN_ONE_RACK = {names.REQUIRED_LEVEL: RACK}
JOBSET, LWS, BATCH = "jobset.x-k8s.io/v1alpha2", "leaderworkerset.x-k8s.io/v1", "batch/v1"
POD_GROUP, SIGS_GROUP = "scheduling.k8s.io/v1beta1", "scheduling.x-k8s.io/v1alpha1"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"


def spec(claim: str = "eight", **more: Any) -> Obj:
    """Return the spec of a pod with one claim from a template."""
    wanted = {"requests": {"cpu": "1", "memory": "1Gi"}, "claims": [{"name": "devices"}]}
    return {
        "containers": [{"name": "main", "image": "none", "resources": wanted}],
        "resourceClaims": [{"name": "devices", "resourceClaimTemplateName": claim}],
        "terminationGracePeriodSeconds": 1,
        **more,
    }


def pod(name: str, claim: str = "eight", labels: Obj | None = None, notes: Obj | None = None, **more: Any) -> Obj:
    metadata = {"name": name, "labels": labels or {}, "annotations": notes or {}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec(claim, **more)}


def gang(name: str, size: int, claim: str = "eight", **notes: Any) -> list[Obj]:
    """Return the plain pods of an annotated gang."""
    told = {names.GANG_NAME: name, names.GANG_SIZE: str(size), **notes.pop("notes", {})}
    return [pod(f"{name}-{i}", claim, notes=told) for i in range(size)]


def job_spec(pods: int, claim: str = "eight", notes: Obj | None = None) -> Obj:
    """Return the spec of an Indexed Job whose pods run all at once."""
    template = {"metadata": {"annotations": notes or {}}, "spec": spec(claim, restartPolicy="Never")}
    return {"parallelism": pods, "completions": pods, "completionMode": "Indexed", "template": template}


def job(name: str, pods: int, claim: str = "eight", notes: Obj | None = None, **more: Any) -> Obj:
    metadata = {"name": name, **more}
    return {"apiVersion": BATCH, "kind": "Job", "metadata": metadata, "spec": job_spec(pods, claim, notes)}


def jobset(name: str, roles: Obj, notes: Obj | None = None, queue: str = "", **more: Any) -> Obj:
    """Return a JobSet; `roles` are specs of Jobs by name, one replica each."""
    metadata = {"name": name, "labels": {QUEUE_LABEL: queue} if queue else {}, "annotations": notes or {}}
    listed = [{"name": role, "replicas": 1, "template": {"spec": of}} for role, of in roles.items()]
    return {"apiVersion": JOBSET, "kind": "JobSet", "metadata": metadata, "spec": {"replicatedJobs": listed, **more}}


def leader_worker_set(name: str, size: int, replicas: int = 1, claim: str = "eight", notes: Obj | None = None) -> Obj:
    template = {"metadata": {"annotations": notes or {}}, "spec": spec(claim)}
    return {
        "apiVersion": LWS,
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "leaderWorkerTemplate": {"size": size, "workerTemplate": template}},
    }


def pod_group(name: str, minimum: int) -> Obj:
    """Return a PodGroup of Kubernetes itself."""
    policy = {"schedulingPolicy": {"gang": {"minCount": minimum}}}
    return {"apiVersion": POD_GROUP, "kind": "PodGroup", "metadata": {"name": name}, "spec": policy}
