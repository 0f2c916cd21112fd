"""Projections of Kueue's objects in both versions, and every turn that a Workload with our check can take."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.kube import kueue, kueue_answer, kueue_check, names
from scheduler.model import admission

CHECK = kueue.AdmissionCheck("place", kueue_check.CONTROLLER, 1)
START = kueue_answer.Start("job-ring", "7f3a", "rack r3", "rack r3")
WAIT, REJECT = kueue_answer.Wait("r3 lacks 2 nodes", 30), kueue_answer.Reject("no such device")
PENDING, READY, RETRY = "Pending", "Ready", "Retry"
QUOTA = frozenset({"QuotaReserved"})

WORKLOAD: dict[str, Any] = {
    "metadata": {
        "namespace": "ml",
        "name": "job-ring",
        "uid": "u",
        "resourceVersion": "7",
        "annotations": {"kueue.x-k8s.io/component-workload-index": "2"},
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "ring", "uid": "j", "controller": True}],
    },
    "spec": {
        "queueName": "main",
        "priority": 5,
        "podSets": [
            {
                "name": "main",
                "count": 4,
                "minCount": 2,
                "template": {
                    "metadata": {"labels": {"app": "x"}, "annotations": {names.REQUIRED_LEVEL: "rack"}},
                    "spec": {
                        "nodeSelector": {"zone": "a"},
                        "containers": [{"name": "c", "resources": {"requests": {"cpu": "2", "memory": "1Gi"}}}],
                        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "eight"}],
                    },
                },
                "topologyRequest": {
                    "required": "example.com/rack",
                    "podSetSliceRequiredTopology": "example.com/nvlink",
                    "podSetSliceSize": 2,
                    "podIndexLabel": "batch.kubernetes.io/job-completion-index",
                    "podsetSliceRequiredTopologyConstraints": [{"topology": "example.com/nvlink", "size": 2}],
                },
            }
        ],
    },
    "status": {
        "conditions": [{"type": "QuotaReserved", "status": "True"}, {"type": "Admitted", "status": "False"}],
        "admission": {
            "clusterQueue": "cq",
            "podSetAssignments": [
                {
                    "name": "main",
                    "count": 3,
                    "flavors": {"cpu": "h100", "memory": "h100"},
                    "topologyAssignment": {
                        "levels": ["example.com/rack", "kubernetes.io/hostname"],
                        "slices": [
                            {
                                "domainCount": 2,
                                "valuesPerLevel": [
                                    {"universal": "r3"},
                                    {"individual": {"prefix": "n-", "suffix": ".a", "roots": ["0", "1"]}},
                                ],
                                "podCounts": {"individual": [2, 1]},
                            },
                            {
                                "domainCount": 1,
                                "valuesPerLevel": [{"universal": "r4"}, {"individual": {"roots": ["n-9"]}}],
                                "podCounts": {"universal": 1},
                            },
                        ],
                    },
                }
            ],
        },
        "admissionChecks": [{"name": "place", "state": "Pending", "lastTransitionTime": "x", "message": ""}],
    },
}


def test_a_workload_is_read() -> None:
    found = kueue.read_workload(WORKLOAD)
    assert (found.key, found.owner.kind, found.queue, found.priority) == ("ml/job-ring", "Job", "main", 5)
    assert found.reserved and not found.admitted and found.checks == (kueue.Check("place", "Pending"),)
    assert found.annotations == {"kueue.x-k8s.io/component-workload-index": "2"} and found.labels == {}
    [podset] = found.podsets
    assert (podset.count, podset.minimum, podset.flavors) == (3, 2, ("h100",))
    assert (podset.template.cpu_milli, podset.template.memory_mib) == (2000, 1024)
    assert podset.template.claims[0].template == "eight"
    assert podset.template.nodes.selector == (admission.Requirement("zone", "In", ("a",)),)
    assert podset.template.annotations == {names.REQUIRED_LEVEL: "rack"}
    assert podset.request == kueue.TopologyRequest(
        required="example.com/rack",
        slice_level="example.com/nvlink",
        slice_size=2,
        index_label="batch.kubernetes.io/job-completion-index",
        layers=(("example.com/nvlink", 2),),
    )


def test_an_assignment_is_the_same_in_both_versions() -> None:
    item = WORKLOAD["status"]["admission"]["podSetAssignments"][0]["topologyAssignment"]
    expected = [(["r3", "n-0.a"], 2), (["r3", "n-1.a"], 1), (["r4", "n-9"], 1)]
    plain = {"levels": item["levels"], "domains": [{"values": one, "count": count} for one, count in expected]}
    decoded = kueue.read_assignment(item, "w")
    assert decoded == kueue.read_assignment(plain, "w")
    assert [(list(one.values), one.count) for one in decoded.domains] == expected


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("slices", 0, "domainCount"), 3),
        (("slices", 0, "podCounts"), {"individual": [1]}),
        (("slices", 1, "podCounts"), {}),
        (("slices", 0, "domainCount"), 100_001),
    ],
)
def test_an_assignment_that_contradicts_itself_is_refused(path: tuple[Any, ...], value: object) -> None:
    item = copy.deepcopy(WORKLOAD["status"]["admission"]["podSetAssignments"][0]["topologyAssignment"])
    place: Any = item
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ValueError, match="ml/w, pod set main: the topology assignment"):
        kueue.read_assignment(item, "ml/w, pod set main")


def test_flavors_and_topologies_are_read() -> None:
    taint = {"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}
    spec = {"nodeLabels": {"gpu": "h100"}, "topologyName": "dc", "tolerations": [taint]}
    tolerations = (admission.Toleration("dedicated", "Exists", "", "NoSchedule"),)
    nodes = admission.Admission((admission.Requirement("gpu", "In", ("h100",)),), (), tolerations)
    found = kueue.read_flavor({"metadata": {"name": "h100"}, "spec": spec})
    assert found == kueue.Flavor("h100", {"gpu": "h100"}, "dc", nodes)
    assert kueue.read_flavor({"metadata": {"name": "any"}}) == kueue.Flavor("any", {})
    assert kueue.read_topology({"spec": {"levels": [{"nodeLabel": "rack"}, {"nodeLabel": "host"}]}}) == ("rack", "host")


def workload(state: str = PENDING, true: frozenset[str] = QUOTA, version: str = "1", **given: Any) -> kueue.Workload:
    template = kueue.read_workload(WORKLOAD).podsets[0]
    podset = dataclasses.replace(template, assignment=None)
    checks = (kueue.Check("place", state), kueue.Check("foreign", PENDING)) if state else ()
    made = kueue.Workload("ml", "job-ring", "u", version, podsets=(podset,), true=true, checks=checks)
    return dataclasses.replace(made, **given)


@pytest.fixture
def desk() -> kueue_check.Desk:
    made = kueue_check.Desk()
    made.check_changed(CHECK, 0)
    return made


def entries(effects: list[kueue_check.Effect]) -> list[dict[str, Any]]:
    [report] = effects
    assert isinstance(report, kueue_check.Report)
    return [dict(one) for one in report.entries]


def test_our_checks_become_active_and_others_are_left_alone() -> None:
    desk = kueue_check.Desk()
    [effect] = desk.check_changed(CHECK, 0)
    assert isinstance(effect, kueue_check.Activate) and effect.active
    right = dataclasses.replace(CHECK, active=True, message=effect.message)
    assert desk.check_changed(right, 0) == []
    assert desk.check_changed(dataclasses.replace(CHECK, name="b", controller="example.com/other"), 0) == []
    assert set(desk.checks) == {"place"}


def test_a_pending_workload_is_asked_about_once(desk: kueue_check.Desk) -> None:
    assert desk.changed(workload(), 0) == [kueue_check.Reserve(workload())]
    assert desk.changed(workload(version="2"), 1) == []
    assert desk.open == ("u",)


def test_a_workload_that_was_read_before_its_check_is_asked_about() -> None:
    desk = kueue_check.Desk()
    assert desk.changed(workload(), 0) == []
    assert kueue_check.Reserve(workload()) in desk.check_changed(CHECK, 0)


@pytest.mark.parametrize(
    "not_ready",
    [
        {"true": frozenset()},
        {"true": QUOTA | {"Evicted"}},
        {"true": QUOTA | {"Finished"}},
        {"true": QUOTA | {"DeactivationTarget"}},
        {"active": False},
        {"deleting": True},
        {"assigning": True},
        {"state": ""},
    ],
)
def test_without_quota_nobody_is_asked(desk: kueue_check.Desk, not_ready: dict[str, Any]) -> None:
    assert desk.changed(workload(**not_ready), 0) == []


def test_start_makes_the_check_ready_with_what_the_pods_get(desk: kueue_check.Desk) -> None:
    desk.changed(workload(), 0)
    [entry] = entries(desk.answered("u", START, 1_700_000_000.9))
    assert entry == {
        "name": "place",
        "state": "Ready",
        "lastTransitionTime": "2023-11-14T22:13:20Z",
        "message": "rack r3",
        "podSetUpdates": [
            {
                "name": "main",
                "labels": {names.GANG: "job-ring"},
                "annotations": {names.DECISION: "7f3a", names.DOMAIN: "rack r3"},
            }
        ],
    }
    assert desk.changed(workload(READY, version="2"), 2) == []


def test_what_the_template_says_stays_and_nothing_is_said_emptily(desk: kueue_check.Desk) -> None:
    one = workload()
    [podset] = one.podsets
    template = dataclasses.replace(podset.template, labels={names.GANG: "mine"}, annotations={names.DECISION: "gw-1"})
    desk.changed(dataclasses.replace(one, podsets=(dataclasses.replace(podset, template=template),)), 0)
    [entry] = entries(desk.answered("u", START, 1))
    [update] = entry["podSetUpdates"]
    assert update["labels"] == {} and update["annotations"] == {names.DOMAIN: "rack r3"}
    desk.changed(dataclasses.replace(one, uid="v"), 0)
    [entry] = entries(desk.answered("v", dataclasses.replace(START, decision_id="", domain=""), 1))
    assert entry["podSetUpdates"][0]["annotations"] == {}


@pytest.mark.parametrize(("asked", "told"), [(30, 30), (0, 5), (-1, 5), (1e9, 600), (7.9, 7)])
def test_wait_always_has_a_delay_within_bounds(desk: kueue_check.Desk, asked: float, told: int) -> None:
    desk.changed(workload(), 0)
    [entry] = entries(desk.answered("u", kueue_answer.Wait("lacks 2", asked), 1))
    assert (entry["state"], entry["requeueAfterSeconds"], entry["message"]) == ("Retry", told, "lacks 2")
    assert "podSetUpdates" not in entry and desk.open == ()


def test_an_old_copy_that_is_still_pending_is_no_new_question(desk: kueue_check.Desk) -> None:
    desk.changed(workload(), 0)
    desk.answered("u", WAIT, 1)
    assert [one["state"] for one in entries(desk.changed(workload(version="2"), 2))] == ["Retry"]
    assert desk.changed(workload(RETRY, version="3"), 3) == []
    effects = desk.changed(workload(version="4"), 4)
    assert [type(one) for one in effects] == [kueue_check.Cancel, kueue_check.Reserve]


def test_after_the_eviction_of_a_retry_it_is_asked_anew(desk: kueue_check.Desk) -> None:
    desk.changed(workload(), 0)
    desk.answered("u", WAIT, 1)
    desk.changed(workload(RETRY), 2)
    assert [type(one) for one in desk.changed(workload(PENDING, QUOTA | {"Evicted"}), 3)] == [kueue_check.Cancel]
    assert desk.changed(workload(PENDING, frozenset()), 4) == []
    assert desk.changed(workload(), 5) == [kueue_check.Reserve(workload())]


def test_reject_says_why(desk: kueue_check.Desk) -> None:
    desk.changed(workload(), 0)
    [entry] = entries(desk.answered("u", REJECT, 1))
    assert (entry["state"], entry["message"]) == ("Rejected", "no such device")
    assert "requeueAfterSeconds" not in entry


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (workload(READY, frozenset()), "no quota"),
        (workload(READY, QUOTA | {"Evicted"}), "Evicted"),
        (workload(READY, QUOTA | {"Finished"}), "Finished"),
        (workload(READY, active=False), "deactivated"),
        (workload(READY, deleting=True), "deleted"),
        (None, "deleted"),
    ],
)
@pytest.mark.parametrize("answered", [True, False])
def test_what_ends_a_workload_gives_its_devices_back_once(
    desk: kueue_check.Desk, after: kueue.Workload | None, words: str, answered: bool
) -> None:
    desk.changed(workload(), 0)
    if answered:
        desk.answered("u", START, 1)
    [cancel] = desk.changed(after, 2) if after else desk.gone("u")
    assert isinstance(cancel, kueue_check.Cancel) and words in cancel.because and cancel.uid == "u"
    assert (desk.changed(after, 3) if after else desk.gone("u")) == []


def test_a_relist_without_the_workload_gives_its_devices_back(desk: kueue_check.Desk) -> None:
    desk.changed(workload(), 0)
    other = dataclasses.replace(workload(), uid="v")
    effects = desk.listed([other], 1)
    assert [type(one) for one in effects] == [kueue_check.Cancel, kueue_check.Reserve]


@pytest.mark.parametrize("refused", ["wait", "reject"])
def test_a_refused_question_is_taken_back_at_the_end_too(desk: kueue_check.Desk, refused: str) -> None:
    desk.changed(workload(), 0)
    desk.answered("u", WAIT if refused == "wait" else REJECT, 1)
    assert [type(one) for one in desk.changed(workload(RETRY, frozenset()), 2)] == [kueue_check.Cancel]
    assert desk.gone("u") == []


def test_an_answer_that_comes_too_late_is_given_back(desk: kueue_check.Desk) -> None:
    assert desk.answered("u", WAIT, 0) == []
    assert [type(one) for one in desk.answered("u", START, 0)] == [kueue_check.Cancel]
    desk.changed(workload(), 0)
    desk.answered("u", WAIT, 1)
    assert [type(one) for one in desk.answered("u", START, 2)] == [kueue_check.Cancel]


def test_a_reservation_may_be_withdrawn_before_the_job_is_admitted(desk: kueue_check.Desk) -> None:
    desk.changed(workload(), 0)
    desk.answered("u", START, 1)
    desk.changed(workload(READY), 2)
    [entry] = entries(desk.answered("u", kueue_answer.Wait("node n-3 is gone"), 3))
    assert entry["state"] == "Retry" and desk.open == ()


def test_from_an_admitted_job_nothing_is_taken(desk: kueue_check.Desk) -> None:
    running = workload(READY, QUOTA | {"Admitted"})
    assert desk.changed(running, 0) == [kueue_check.Reserve(running)]  # after a restart
    assert desk.answered("u", WAIT, 1) == [] == desk.answered("u", REJECT, 2)
    assert [type(one) for one in desk.tick(100)] == [kueue_check.Cancel]
    assert desk.tick(10_000) == []


def test_no_answer_and_no_pods_end_the_wait(desk: kueue_check.Desk) -> None:
    desk.changed(workload(), 0)
    assert desk.tick(30) == []
    cancel, report = desk.tick(31)
    assert isinstance(cancel, kueue_check.Cancel) and "no decision within 31 s" in cancel.because
    assert entries([report])[0]["state"] == "Retry"
    desk.changed(workload(RETRY), 32)
    desk.changed(workload(), 40)
    desk.answered("u", START, 41)
    assert desk.tick(341) == []
    cancel, report = desk.tick(342)
    assert "not all pods came" in entries([report])[0]["message"]
    assert desk.tick(1000) == []


def test_pods_that_came_keep_what_they_have(desk: kueue_check.Desk) -> None:
    desk.changed(workload(), 0)
    desk.answered("u", START, 1)
    desk.changed(workload(READY, QUOTA | {"Admitted"}), 2)
    desk.pods_came("u")
    assert desk.tick(1e6) == []
    assert [type(one) for one in desk.changed(workload(READY, frozenset()), 3)] == [kueue_check.Cancel]


def test_messages_are_bounded(desk: kueue_check.Desk) -> None:
    desk.changed(workload(), 0)
    assert len(entries(desk.answered("u", kueue_answer.Reject("x" * 5000), 1))[0]["message"]) == 1024


STEPS = st.one_of(
    st.tuples(st.just("answer"), st.sampled_from([START, WAIT, REJECT])),
    st.tuples(st.just("tick"), st.sampled_from([0.0, 20.0, 400.0])),
    st.tuples(st.just("pods"), st.none()),
    st.tuples(st.just("gone"), st.none()),
    st.tuples(
        st.just("changed"),
        st.tuples(
            st.sampled_from(["", PENDING, READY, RETRY, "Rejected"]),
            st.frozensets(st.sampled_from(["QuotaReserved", "Admitted", "Evicted", "Finished"])),
            st.booleans(),
        ),
    ),
)


@given(st.lists(STEPS, max_size=30))
def test_whatever_happens_each_question_ends_and_nothing_is_held_unasked(steps: list[tuple[str, Any]]) -> None:
    """The planner's view: it holds from Reserve on until Cancel, or until its own Wait or Reject."""
    desk, now, holds = kueue_check.Desk(), 0.0, False
    desk.check_changed(CHECK, 0)
    for what, value in steps:
        match what:
            case "answer":
                effects = desk.answered("u", value, now)
                holds = (
                    isinstance(value, kueue_answer.Start) if holds or isinstance(value, kueue_answer.Start) else False
                )
            case "tick":
                now += value
                effects = desk.tick(now)
            case "pods":
                effects = desk.pods_came("u")
            case "gone":
                effects = desk.gone("u")
            case _:
                effects = desk.changed(workload(value[0], value[1], active=value[2]), now)
        for effect in effects:
            if isinstance(effect, kueue_check.Reserve):
                assert not holds, "asked while something is held"
                holds = True
            elif isinstance(effect, kueue_check.Cancel):
                holds = False
            elif isinstance(effect, kueue_check.Report):
                assert effect.workload.reserved
    for effect in desk.gone("u"):
        assert isinstance(effect, kueue_check.Cancel)
        holds = False
    assert not holds and desk.open == ()
