"""Which gang a pod belongs to, told from the pod alone, and which gang a Kueue Workload is about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler.kube import workload
from scheduler.kube.gangs import identity
from scheduler.model import names
from tests.kube import gangs_bodies as bodies

JOBSET = {"jobset.sigs.k8s.io/jobset-name": "train", "jobset.sigs.k8s.io/replicatedjob-name": "w"}
LWS = {"leaderworkerset.sigs.k8s.io/name": "decode", "leaderworkerset.sigs.k8s.io/group-index": "3"}
SIGS = {"scheduling.x-k8s.io/pod-group": "pg"}
KUEUE = {"kueue.x-k8s.io/pod-group-name": "kg"}


def test_the_closest_word_counts() -> None:
    """Take the marks of a pod away one by one, the strongest first: each time the next one counts."""
    labels: dict[str, str] = {names.GANG_NAME: "lab", **JOBSET, **LWS, **SIGS, **KUEUE}
    pod = bodies.pod(
        "p", labels=labels, owner=bodies.owner("Job", "j"), group="g", annotations={names.GANG_NAME: "told"}
    )
    seen = [_name(pod)]
    for take in (
        lambda one: replace(one, annotations={}),
        lambda one: _without(one, names.GANG_NAME),
        lambda one: _without(one, *JOBSET),
        lambda one: _without(one, *LWS),
        lambda one: replace(one, owner=bodies.owner("ReplicaSet", "r", "apps/v1")),
        lambda one: replace(one, group=""),
        lambda one: _without(one, *SIGS),
        lambda one: _without(one, *KUEUE),
    ):
        pod = take(pod)
        seen.append(_name(pod))
    assert seen == [
        "gang-told Annotated told",
        "gang-lab Annotated lab",
        "jobset-train JobSet train",
        "lws-decode-3 LeaderWorkerSet decode",
        "job-j Job j",
        "podgroup-g PodGroup g",
        "sigs-podgroup-pg SigsPodGroup pg",
        "kueue-podgroup-kg KueuePodGroup kg",
        "pod-p Pod p",
    ]


def test_pods_of_a_stateful_set_that_kueue_marked_as_a_group_are_lone() -> None:
    pod = bodies.pod("web-0", labels=KUEUE, owner=bodies.owner("StatefulSet", "web", "apps/v1"))
    assert _name(pod) == "pod-web-0 Pod web-0"


def test_a_kueue_group_is_named_by_annotation_before_label() -> None:
    pod = bodies.pod("p", labels=KUEUE, annotations={"kueue.x-k8s.io/pod-group-name": "note"})
    assert _name(pod) == "kueue-podgroup-note KueuePodGroup note"


def test_a_job_of_another_api_is_no_job() -> None:
    pod = bodies.pod("p", owner=bodies.owner("Job", "j", "batch.volcano.sh/v1alpha1"))
    assert _name(pod) == "pod-p Pod p"


def test_a_leader_is_known_by_its_name_before_its_group_is_written() -> None:
    pod = bodies.pod("decode-3", labels={"leaderworkerset.sigs.k8s.io/name": "decode"})
    assert _name(pod) == "lws-decode-3 LeaderWorkerSet decode"


def test_what_is_still_being_made_has_no_identity_yet() -> None:
    assert identity.of(bodies.pod("")) is None
    assert identity.of(bodies.pod("decode-3-1", labels={"leaderworkerset.sigs.k8s.io/name": "decode"})) is None
    labels = JOBSET
    assert identity.of(bodies.pod("", labels=labels)) == identity.jobset("ml", "train")


@pytest.mark.parametrize("name", ["a" * 253, "A_b", "x" * 57 + "-", "é", "a..b", "." * 300])
def test_every_name_fits_a_label_and_an_object(name: str) -> None:
    found = identity.of(bodies.pod("p", annotations={names.GANG_NAME: name}))
    assert found is not None
    assert identity._NAME.fullmatch(found.name) and len(found.name) <= 63
    assert found.owner == name


def test_two_long_names_stay_two() -> None:
    one, other = (identity.of(bodies.pod(f"{'p' * 250}{number}")) for number in (1, 2))
    assert one and other and one.name != other.name


def test_a_later_stage_has_a_name_that_no_other_gang_has() -> None:
    base = identity.jobset("ml", "train")
    assert identity.staged(base, "w").name == "jobset-train.w"
    assert identity.jobset("ml", "train-w").name == "jobset-train-w"


@pytest.mark.parametrize(
    ("owners", "annotations", "expected"),
    [
        ([("JobSet", "train", True)], {}, "jobset-train JobSet train"),
        ([("Job", "j", True)], {}, "job-j Job j"),
        ([("Pod", "p", True)], {}, "pod-p Pod p"),
        ([("Pod", "p", False), ("Pod", "q", False)], {}, "kueue-podgroup-wl KueuePodGroup wl"),
        (
            [("LeaderWorkerSet", "decode", False), ("Pod", "decode-3", False)],
            {"kueue.x-k8s.io/component-workload-index": "3"},
            "lws-decode-3 LeaderWorkerSet decode",
        ),
        ([("LeaderWorkerSet", "decode", False)], {}, None),
        ([("StatefulSet", "web", False), ("Pod", "web-0", False)], {}, None),
        ([("RayCluster", "r", True)], {}, None),
        ([], {}, None),
    ],
)
def test_a_workload_names_the_gang_of_its_pods(
    owners: list[tuple[str, str, bool]], annotations: dict[str, str], expected: str | None
) -> None:
    found = identity.of_workload(_workload(owners, annotations))
    assert (_text(found) if found else None) == expected


def test_a_workload_whose_templates_name_a_gang_is_about_that() -> None:
    item = _workload([("Job", "j", True)], {}, {names.GANG_NAME: "big"})
    assert _text(identity.of_workload(item)) == "gang-big Annotated big"


def _workload(
    owners: list[tuple[str, str, bool]], annotations: dict[str, str], told: dict[str, str] | None = None
) -> Any:
    references = [
        {"apiVersion": "x/v1", "kind": kind, "name": name, "uid": name, "controller": controls}
        for kind, name, controls in owners
    ]
    metadata = {"namespace": "ml", "name": "wl", "annotations": annotations, "ownerReferences": references}
    return {"metadata": metadata, "spec": {"podSets": [{"name": "main", "template": bodies.template(told)}]}}


def _without(pod: Any, *keys: str) -> Any:
    return replace(pod, labels={key: value for key, value in pod.labels.items() if key not in keys})


def _name(pod: Any) -> str:
    return _text(identity.of(pod))


def _text(found: workload.Identity | None) -> str:
    assert found is not None
    return f"{found.name} {found.kind} {found.owner}"
