"""Which gang a pod belongs to, told from the pod alone, and which gang a Kueue Workload is about.

The first that applies counts:

1. ``muster.dev/gang-name``, annotation before label: what the user told Muster itself.
2. JobSet, by the labels of its pods. One JobSet is one gang, or a chain of them (`recognize` splits it into stages).
3. LeaderWorkerSet, by its labels: one replica is one gang. Kueue marks these pods as a pod group too; the set is closer.
4. A Job that controls the pod. Kubernetes 1.37 makes a PodGroup for each Job; it only adds to what the Job says.
5. ``spec.schedulingGroup``: a PodGroup of Kubernetes itself.
6. The label of a PodGroup of scheduling.x-k8s.io.
7. A plain pod group of Kueue, annotation before label as there. Not for the pods of a StatefulSet: Kueue marks them by
   itself, and where the set makes a pod only after the one before is ready, whoever waits for all waits for ever.
8. The pod alone; so are the pods of Deployments and StatefulSets.

Names are made to fit a label value (63 characters) and an object name at once; one that does not fit, or has other
characters, is cut and gets eight digits of its SHA-256, so that two long names stay two.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from scheduler.kube import pod as pods
from scheduler.kube import workload
from scheduler.kube.gangs import marks
from scheduler.model import names

Item = Mapping[str, Any]

LENGTH = 63
"""Of a label value."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_OTHER = re.compile(r"[^a-z0-9]+", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,9}", re.ASCII)


def of(pod: pods.Pod) -> workload.Identity | None:
    """Return the identity of a pod's gang.

    None where it can't be told yet, while the pod is being made: a lone pod whose name the API server has still to make
    up, and a pod of a LeaderWorkerSet that the set's own webhook has not numbered.
    """
    for find in (_annotated, _jobset, _lws):
        found = find(pod)
        if found is not None:
            return found
    if marks.LWS_NAME in pod.labels:
        return None
    for find in (_job, _pod_group, _sigs_group, _kueue_group):
        found = find(pod)
        if found is not None:
            return found
    return _lone(pod.namespace, pod.name) if pod.name else None


def of_workload(item: Item) -> workload.Identity | None:
    """Return the identity that the pods of a Kueue Workload have, or will have.

    None where its pods are placed one by one (a StatefulSet's, say), and where it does not tell which replica of a
    LeaderWorkerSet it stands for.
    """
    metadata = item["metadata"]
    namespace, owner = metadata.get("namespace", ""), _owner(metadata)
    told = _told(item)
    if told:
        return _annotated_as(namespace, told)
    match owner.kind:
        case "JobSet":
            return jobset(namespace, owner.name)
        case "Job":
            return job(namespace, owner.name)
        case "LeaderWorkerSet":
            group = _text(metadata.get("annotations"), marks.KUEUE_COMPONENT)
            return lws(namespace, owner.name, group) if _DIGITS.fullmatch(group) else None
        case "Pod":
            return _lone(namespace, owner.name)
        case "":
            return _of_pod_group(namespace, metadata)
    return None


def jobset(namespace: str, name: str) -> workload.Identity:
    """Return the identity of a JobSet."""
    return _made(namespace, "jobset", "JobSet", name)


def job(namespace: str, name: str) -> workload.Identity:
    """Return the identity of a Job that no JobSet owns."""
    return _made(namespace, "job", "Job", name)


def lws(namespace: str, name: str, group: str) -> workload.Identity:
    """Return the identity of one replica of a LeaderWorkerSet; its name leaves room for that of a stage."""
    return workload.Identity(namespace, _fitting(f"lws-{name}-{group}", LENGTH - 9), "LeaderWorkerSet", name)


def staged(identity: workload.Identity, stage: str) -> workload.Identity:
    """Return the identity of a later stage of a gang.

    A dot sets the stage apart: names of JobSets and LeaderWorkerSets have none, so that no other of them has that name.
    """
    return replace(identity, name=_fitting(f"{identity.name}.{stage}"))


def base(identity: workload.Identity) -> workload.Identity:
    """Return the identity of a gang's first stage, which is what `of` says of the pods of every stage."""
    match identity.kind:
        case "JobSet":
            return jobset(identity.namespace, identity.owner)
        case "LeaderWorkerSet":
            return replace(identity, name=identity.name.partition(".")[0])
    return identity


def _annotated(pod: pods.Pod) -> workload.Identity | None:
    name = pod.annotations.get(names.GANG_NAME) or pod.labels.get(names.GANG_NAME)
    return _annotated_as(pod.namespace, name) if name else None


def _jobset(pod: pods.Pod) -> workload.Identity | None:
    name = pod.labels.get(marks.JOBSET_NAME)
    return jobset(pod.namespace, name) if name else None


def _lws(pod: pods.Pod) -> workload.Identity | None:
    """A leader is called ``<set>-<group>``, which tells its group before the set's webhook has written the label."""
    name = pod.labels.get(marks.LWS_NAME)
    if not name:
        return None
    group = pod.labels.get(marks.LWS_GROUP) or pod.name.removeprefix(f"{name}-")
    return lws(pod.namespace, name, group) if _DIGITS.fullmatch(group) else None


def _job(pod: pods.Pod) -> workload.Identity | None:
    owner = pod.owner
    return job(pod.namespace, owner.name) if (owner.kind, owner.api_version) == BATCH_JOB else None


def _pod_group(pod: pods.Pod) -> workload.Identity | None:
    return _made(pod.namespace, "podgroup", "PodGroup", pod.group) if pod.group else None


def _sigs_group(pod: pods.Pod) -> workload.Identity | None:
    name = pod.labels.get(marks.SIGS_GROUP)
    return _made(pod.namespace, "sigs-podgroup", "SigsPodGroup", name) if name else None


def _kueue_group(pod: pods.Pod) -> workload.Identity | None:
    name = pod.annotations.get(marks.KUEUE_GROUP) or pod.labels.get(marks.KUEUE_GROUP)
    if not name or pod.owner.kind == "StatefulSet":
        return None
    return _made(pod.namespace, "kueue-podgroup", "KueuePodGroup", name)


BATCH_JOB = ("Job", "batch/v1")


def _annotated_as(namespace: str, name: str) -> workload.Identity:
    return _made(namespace, "gang", "Annotated", name)


def _lone(namespace: str, name: str) -> workload.Identity:
    return _made(namespace, "pod", "Pod", name)


def _of_pod_group(namespace: str, metadata: Item) -> workload.Identity | None:
    """Return the identity of a plain pod group, whose pods all own the Workload, none of them as its controller."""
    owners = metadata.get("ownerReferences") or ()
    if not owners or any(one.get("kind") != "Pod" for one in owners):
        return None
    return _made(namespace, "kueue-podgroup", "KueuePodGroup", metadata["name"])


def _told(item: Item) -> str:
    """Return the gang that all pod templates of a Workload name; "" where they name none, or several."""
    found = {_named(one.get("template") or {}) for one in (item.get("spec") or {}).get("podSets") or ()}
    return found.pop() if len(found) == 1 else ""


def _named(template: Item) -> str:
    metadata = template.get("metadata") or {}
    return _text(metadata.get("annotations"), names.GANG_NAME) or _text(metadata.get("labels"), names.GANG_NAME)


def _owner(metadata: Item) -> pods.Owner:
    """Return the object that a Workload stands for; Kueue makes a LeaderWorkerSet its owner but not its controller."""
    for one in metadata.get("ownerReferences") or ():
        if one.get("kind") == "LeaderWorkerSet":
            return pods.Owner(one["apiVersion"], one["kind"], one["name"], one["uid"])
    return pods.controller(metadata)


def _text(entries: object, key: str) -> str:
    return str(entries.get(key) or "") if isinstance(entries, Mapping) else ""


def _made(namespace: str, prefix: str, kind: str, owner: str) -> workload.Identity:
    return workload.Identity(namespace, _fitting(f"{prefix}-{owner}"), kind, owner)


def _fitting(name: str, length: int = LENGTH) -> str:
    """Return a name that is a label value and an object name at once."""
    if len(name) <= length and _NAME.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{_OTHER.sub('-', name.lower())[: length - 9].strip('-')}-{digest}"
