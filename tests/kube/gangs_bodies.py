"""Pods and owner objects as the controllers of JobSet, Job, LeaderWorkerSet and Kueue write them, for the tests of gangs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from scheduler.kube import pod as pods
from scheduler.kube import workload
from scheduler.kube.gangs import identity as identities
from scheduler.kube.gangs import outline, recognize
from scheduler.model import names, request

Obj = dict[str, Any]
EIGHT = request.PodRequest(gpus=8)


class Cluster:
    """What there is: objects by kind, and what each pod asks for."""

    def __init__(self, *items: Obj) -> None:
        self.items = {(_kind(one), one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in items}
        self.requests: dict[str, request.PodRequest | Exception] = {}

    def find(self, kind: str, namespace: str, name: str) -> Obj | None:
        return self.items.get((kind, namespace, name))

    def request_of(self, pod: pods.Pod) -> request.PodRequest:
        answer = self.requests.get(pod.name, EIGHT)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def gangs(self, *members: pods.Pod) -> tuple[workload.Workload, ...]:
        """Recognise pods that share an identity."""
        [identity] = {identities.of(one) for one in members}
        assert identity is not None
        return recognize.recognize(identity, members, self.find, self.request_of)

    def gang(self, *members: pods.Pod) -> workload.Workload:
        [found] = self.gangs(*members)
        return found


def _kind(item: Obj) -> str:
    return "SigsPodGroup" if item.get("apiVersion", "").startswith("scheduling.x-k8s.io") else item["kind"]


def pod(name: str, **more: Any) -> pods.Pod:
    """Return a pod that waits behind our gate; fields as `pods.Pod` has them."""
    fields: dict[str, Any] = {"uid": f"uid-{name}", "labels": {}, "annotations": {}, "gates": (names.GATE,)}
    return pods.Pod(
        **{"namespace": "ml", "name": name, "version": "1", "created": "2026-11-24T00:00:00Z", **fields, **more}
    )


def owner(kind: str, name: str, api_version: str = "batch/v1") -> pods.Owner:
    return pods.Owner(api_version, kind, name, f"uid-{name}")


def template(annotations: Mapping[str, str] | None = None) -> Obj:
    return {"metadata": {"annotations": dict(annotations or {})}, "spec": {"containers": [{"name": "main"}]}}


def job_spec(parallelism: int, completions: int | None = None, **more: Any) -> Obj:
    """Return the spec of an Indexed Job."""
    done = parallelism if completions is None else completions
    notes = more.pop("notes", None)
    return {
        "parallelism": parallelism,
        "completions": done,
        "completionMode": "Indexed",
        "template": template(notes),
        **more,
    }


def job(name: str, spec: Obj, status: Obj | None = None, **metadata: Any) -> Obj:
    meta = {"namespace": "ml", "name": name, "uid": f"uid-{name}", **metadata}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec, "status": status or {}}


def job_pods(name: str, indices: Iterable[int], **more: Any) -> list[pods.Pod]:
    labels = more.pop("labels", {})
    return [
        pod(
            f"{name}-{index}-x",
            owner=owner("Job", name),
            labels={"batch.kubernetes.io/job-completion-index": str(index), **labels},
            **more,
        )
        for index in indices
    ]


def jobset(roles: Mapping[str, Obj], annotations: Mapping[str, str] | None = None, **spec: Any) -> Obj:
    """Return JobSet ``train``; a role is what its entry of ``replicatedJobs`` has beside the name."""
    listed = [{"name": name, **role} for name, role in roles.items()]
    meta = {"namespace": "ml", "name": "train", "uid": "uid-train", "annotations": dict(annotations or {})}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": meta,
        "spec": {"replicatedJobs": listed, **spec},
    }


def role(replicas: int, parallelism: int, notes: Mapping[str, str] | None = None, **more: Any) -> Obj:
    return {"replicas": replicas, "template": {"spec": job_spec(parallelism, notes=notes)}, **more}


def jobset_pods(name: str, replicas: Iterable[int], parallelism: int, attempt: int = 0, **more: Any) -> list[pods.Pod]:
    """Return the pods of a replicated job of JobSet ``train``."""
    return [
        one
        for number in replicas
        for one in job_pods(
            f"train-{name}-{number}",
            range(parallelism),
            labels={
                "jobset.sigs.k8s.io/jobset-name": "train",
                "jobset.sigs.k8s.io/jobset-uid": "uid-train",
                "jobset.sigs.k8s.io/replicatedjob-name": name,
                "jobset.sigs.k8s.io/job-index": str(number),
                "jobset.sigs.k8s.io/restart-attempt": str(attempt),
            },
            **more,
        )
    ]


def lws(size: int, annotations: Mapping[str, str] | None = None, startup: str = "LeaderCreated", **more: Any) -> Obj:
    """Return LeaderWorkerSet ``decode``; `more` goes into its ``leaderWorkerTemplate``."""
    meta = {"namespace": "ml", "name": "decode", "uid": "uid-decode", "annotations": dict(annotations or {})}
    spec = {
        "replicas": 2,
        "startupPolicy": startup,
        "leaderWorkerTemplate": {"size": size, "workerTemplate": template(), **more},
    }
    return {"apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": meta, "spec": spec}


def lws_pods(group: int, indices: Iterable[int], size: int, revision: str = "a", **more: Any) -> list[pods.Pod]:
    notes = {"leaderworkerset.sigs.k8s.io/size": str(size), **more.pop("annotations", {})}
    return [
        pod(
            f"decode-{group}" + (f"-{index}" if index else ""),
            owner=owner("StatefulSet", f"decode-{group}" if index else "decode", "apps/v1"),
            labels={
                "leaderworkerset.sigs.k8s.io/name": "decode",
                "leaderworkerset.sigs.k8s.io/group-index": str(group),
                "leaderworkerset.sigs.k8s.io/worker-index": str(index),
                "leaderworkerset.sigs.k8s.io/template-revision-hash": revision,
            },
            annotations=notes,
            **more,
        )
        for index in indices
    ]


def names_by_rank(found: workload.Workload) -> list[str]:
    return [one.pod.name for one in found.members]


def counts(found: workload.Workload) -> dict[str, int]:
    assert found.gang is not None, (found.waiting_for, found.problem)
    return {one.name: one.count for one in found.gang.roles}


NotYet = outline.NotYet
