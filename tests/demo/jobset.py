"""A JobSet for a cluster without its controller: the object, its Job, and the pods that the controllers would make."""

from typing import Any

from scheduler.apiserver import client, paths
from scheduler.kube import names
from tests.kube import live

GROUP, VERSION = "jobset.x-k8s.io", "v1alpha2"
LABEL = "jobset.sigs.k8s.io"
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"jobsets.{GROUP}"},
    "spec": {
        "group": GROUP,
        "scope": "Namespaced",
        "names": {"plural": "jobsets", "singular": "jobset", "kind": "JobSet", "listKind": "JobSetList"},
        "versions": [
            {
                "name": VERSION,
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        ],
    },
}


async def define(api: client.Client) -> None:
    """Have the API server know JobSets; a scheduler that starts later watches them."""
    await api.create(paths.of("apiextensions.k8s.io/v1", "customresourcedefinitions"), DEFINITION)


async def create(home: live.Cluster, name: str, pods: int, claim: str, **notes: str) -> list[str]:
    """Make a JobSet of one replicated job; annotations have "_" for "-" and no prefix. Returns the pods by rank."""
    template = _pod(f"{name}-workers-0", claim, notes)
    job = {"parallelism": pods, "completions": pods, "completionMode": "Indexed", "template": _template(template)}
    spec = {"replicatedJobs": [{"name": "workers", "replicas": 1, "template": {"spec": job}}]}
    item = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "JobSet", "metadata": {"name": name}, "spec": spec}
    made = await home.api.create(paths.of(item["apiVersion"], "jobsets", "default"), item)
    labels = {
        f"{LABEL}/jobset-name": name,
        f"{LABEL}/jobset-uid": made["metadata"]["uid"],
        f"{LABEL}/replicatedjob-name": "workers",
        f"{LABEL}/job-index": "0",
        f"{LABEL}/restart-attempt": "0",
    }
    metadata = {"name": f"{name}-workers-0", "labels": labels, "ownerReferences": [_owner(made)]}
    owned = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job}
    worker = await home.api.create(paths.of("batch/v1", "jobs", "default"), owned)
    members = []
    for rank in range(pods):
        one = _pod(f"{name}-workers-0-{rank}", claim, notes)
        one["metadata"] |= {
            "labels": {**labels, "batch.kubernetes.io/job-completion-index": str(rank)},
            "ownerReferences": [_owner(worker)],
        }
        one["spec"]["schedulingGates"] = [{"name": names.GATE}]  # by the webhook
        members.append(one)
    await home.create(*members)
    return [one["metadata"]["name"] for one in members]


def _pod(name: str, claim: str, notes: dict[str, str]) -> dict[str, Any]:
    return live.pod(name, claim=claim, gated=False, **notes)


def _template(pod: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"annotations": pod["metadata"]["annotations"]}, "spec": pod["spec"]}


def _owner(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": item["apiVersion"],
        "kind": item["kind"],
        "name": item["metadata"]["name"],
        "uid": item["metadata"]["uid"],
        "controller": True,
    }
