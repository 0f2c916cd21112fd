"""JobSets as gangs: roles, ranks, stages, restarts, what finished, exclusive topology."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.kube import workload
from scheduler.kube.gangs import identity, recognize
from scheduler.model import gang as gangs
from scheduler.model import request
from tests.kube import gangs_bodies as bodies

RACK = "example.com/rack"


def test_roles_and_ranks_follow_the_spec_and_the_indices() -> None:
    cluster = bodies.Cluster(bodies.jobset({"driver": bodies.role(1, 1), "workers": bodies.role(2, 12)}))
    pods = [*bodies.jobset_pods("workers", range(2), 12), *bodies.jobset_pods("driver", [0], 1)]
    found = cluster.gang(*pods)
    assert found.complete and bodies.counts(found) == {"driver": 1, "workers": 24}
    order = [f"train-workers-{job}-{index}-x" for job in range(2) for index in range(12)]
    assert bodies.names_by_rank(found) == ["train-driver-0-0-x", *order]
    assert [one.rank for one in found.members] == list(range(25))
    assert found.owner.kind == "JobSet" and found.owner.uid == "uid-train"
    assert found.gang and found.gang.name == "ml/jobset-train"


def test_pods_that_have_still_to_come_are_counted() -> None:
    cluster = bodies.Cluster(bodies.jobset({"workers": bodies.role(2, 4)}))
    found = cluster.gang(*bodies.jobset_pods("workers", [1], 4))
    assert not found.complete and found.missing == 4 and found.waiting_for == "4 of 8 pods"
    assert [one.rank for one in found.members] == [4, 5, 6, 7]
    assert bodies.counts(found) == {"workers": 8}


def test_a_role_without_a_pod_leaves_the_gang_unknown() -> None:
    cluster = bodies.Cluster(bodies.jobset({"driver": bodies.role(1, 1), "workers": bodies.role(1, 2)}))
    found = cluster.gang(*bodies.jobset_pods("workers", [0], 2))
    assert found.gang is None and found.missing == 1 and not found.problem


def test_an_owner_that_was_not_seen_yet_is_waited_for() -> None:
    found = bodies.Cluster().gang(*bodies.jobset_pods("workers", [0], 2))
    assert found.waiting_for == "JobSet ml/train" and found.gang is None


def test_a_suspended_jobset_is_no_gang() -> None:
    cluster = bodies.Cluster(bodies.jobset({"workers": bodies.role(1, 2)}, suspend=True))
    found = cluster.gang(*bodies.jobset_pods("workers", [0], 2))
    assert found.gang is None and "spec.suspend" in found.waiting_for


def test_pods_of_an_older_attempt_or_of_a_deleted_jobset_are_no_members() -> None:
    cluster = bodies.Cluster(bodies.jobset({"workers": bodies.role(1, 2)}))
    old = [
        replace(one, name=f"{one.name}-old", deleting=True, node="n") for one in bodies.jobset_pods("workers", [0], 2)
    ]
    [new, *_] = bodies.jobset_pods("workers", [0], 1, attempt=1)
    stranger = replace(new, name="stranger", labels={**new.labels, "jobset.sigs.k8s.io/jobset-uid": "other"})
    found = cluster.gang(*old, new, stranger)
    assert bodies.names_by_rank(found) == [new.name] and found.missing == 1


def test_jobs_whose_new_pods_have_still_to_come_are_not_filled_with_old_ones() -> None:
    cluster = bodies.Cluster(bodies.jobset({"workers": bodies.role(2, 1)}))
    [new, _], [_, old] = (
        bodies.jobset_pods("workers", range(2), 1, attempt=1),
        bodies.jobset_pods("workers", range(2), 1),
    )
    found = cluster.gang(new, old)
    assert found.missing == 1 and bodies.names_by_rank(found) == [new.name]
    stranger = replace(
        old, labels={**new.labels, "jobset.sigs.k8s.io/job-index": "1", "jobset.sigs.k8s.io/jobset-uid": "x"}
    )
    assert cluster.gang(new, stranger).missing == 1, "a pod of the JobSet of that name before"


def test_a_single_restarted_job_drops_only_its_own_old_pods() -> None:
    cluster = bodies.Cluster(bodies.jobset({"workers": bodies.role(2, 1)}))
    other, old = bodies.jobset_pods("workers", range(2), 1)
    labels = {**old.labels, "jobset.sigs.k8s.io/job-restart-attempt": "1"}
    new = replace(old, name="train-workers-1-0-new", labels=labels, created="2026-11-23T00:00:00Z")  # a clock that lags
    found = cluster.gang(other, old, new)
    assert bodies.names_by_rank(found) == [other.name, new.name] and found.complete


def test_finished_jobs_and_indices_no_longer_count() -> None:
    parts = {"workers": bodies.role(3, 4)}
    made = [
        bodies.job("train-workers-0", {}, {"conditions": [{"type": "Complete", "status": "True"}]}, **_of_train()),
        bodies.job("train-workers-1", {}, {"completedIndexes": "0,2-3"}, **_of_train()),
    ]
    pods = [*bodies.jobset_pods("workers", [1, 2], 4)]
    pods = [replace(one, phase="Succeeded") if one.name == "train-workers-2-1-x" else one for one in pods]
    found = bodies.Cluster(bodies.jobset(parts), *made).gang(*pods)
    assert bodies.counts(found) == {"workers": 4} and found.complete
    assert bodies.names_by_rank(found) == [f"train-workers-{n}-x" for n in ("1-1", "2-0", "2-2", "2-3")]


def test_the_finished_job_of_an_older_attempt_says_nothing() -> None:
    made = bodies.job("train-workers-0", {}, {"completedIndexes": "0-1"}, **_of_train(attempt=0))
    cluster = bodies.Cluster(bodies.jobset({"workers": bodies.role(1, 2)}), made)
    found = cluster.gang(*bodies.jobset_pods("workers", [0], 2, attempt=1))
    assert bodies.counts(found) == {"workers": 2} and found.complete


@pytest.mark.parametrize("condition", ["Failed", "FailureTarget"])
def test_what_is_left_beside_a_failed_job_is_no_whole_gang(condition: str) -> None:
    made = bodies.job("train-workers-0", {}, {"conditions": [{"type": condition, "status": "True"}]}, **_of_train())
    cluster = bodies.Cluster(bodies.jobset({"workers": bodies.role(2, 2)}), made)
    left = [replace(one, phase="Failed") for one in bodies.jobset_pods("workers", [0], 1)]
    found = cluster.gang(*left, *bodies.jobset_pods("workers", [1], 2))
    assert not found.complete and found.missing == 2 and bodies.counts(found) == {"workers": 4}


def test_an_ended_jobset_is_no_gang() -> None:
    ended = {**bodies.jobset({"workers": bodies.role(1, 2)}), "status": {"terminalState": "Failed"}}
    found = bodies.Cluster(ended).gang(*bodies.jobset_pods("workers", [0], 2))
    assert found.gang is None and found.waiting_for.startswith("nothing")


def test_what_is_all_finished_is_no_gang() -> None:
    cluster = bodies.Cluster(bodies.jobset({"workers": bodies.role(1, 2)}))
    found = cluster.gang(*bodies.jobset_pods("workers", [0], 2, phase="Succeeded"))
    assert found.gang is None and found.waiting_for.startswith("nothing") and not found.members


def test_jobs_that_start_in_order_are_gangs_of_their_own() -> None:
    parts = {"driver": bodies.role(1, 1), "workers": bodies.role(1, 2)}
    cluster = bodies.Cluster(bodies.jobset(parts, startupPolicy={"startupPolicyOrder": "InOrder"}))
    first, second = cluster.gangs(*bodies.jobset_pods("driver", [0], 1))
    assert first.identity.name == "jobset-train" and first.complete and bodies.counts(first) == {"driver": 1}
    assert second.identity.name == "jobset-train.workers" and second.waiting_for == "2 of 2 pods"


def test_the_identity_of_a_later_stage_leads_to_all_stages() -> None:
    parts = {"driver": bodies.role(1, 1), "workers": bodies.role(1, 2)}
    cluster = bodies.Cluster(bodies.jobset(parts, startupPolicy={"startupPolicyOrder": "InOrder"}))
    pods = bodies.jobset_pods("driver", [0], 1)
    later = identity.staged(identity.jobset("ml", "train"), "workers")
    assert recognize.recognize(later, pods, cluster.find, cluster.request_of) == cluster.gangs(*pods)
    workers = identity.staged(identity.lws("ml", "decode", "3"), "workers")
    assert identity.base(workers) == identity.lws("ml", "decode", "3")


def test_a_dependency_makes_a_stage_and_equal_dependencies_make_one() -> None:
    on = [{"name": "store", "status": "Ready"}]
    parts = {
        "store": bodies.role(1, 1),
        "a": bodies.role(1, 2, dependsOn=on),
        "b": bodies.role(1, 3, dependsOn=on),
        "late": bodies.role(1, 1, dependsOn=[{"name": "store", "status": "Complete"}]),
        "free": bodies.role(1, 1),
    }
    pods = [*bodies.jobset_pods("store", [0], 1), *bodies.jobset_pods("free", [0], 1)]
    pods += [*bodies.jobset_pods("a", [0], 2), *bodies.jobset_pods("b", [0], 3)]
    stages = bodies.Cluster(bodies.jobset(parts)).gangs(*pods)
    assert [one.identity.name for one in stages] == ["jobset-train", "jobset-train.a", "jobset-train.late"]
    assert [one.complete for one in stages] == [True, True, False]
    assert bodies.counts(stages[0]) == {"store": 1, "free": 1} and bodies.counts(stages[1]) == {"a": 2, "b": 3}


def test_leaders_of_an_exclusive_topology_go_first_one_to_a_domain_and_followers_join_them() -> None:
    notes = {"alpha.jobset.sigs.k8s.io/exclusive-topology": RACK}
    cluster = bodies.Cluster(bodies.jobset({"workers": bodies.role(2, 3)}, notes))
    pods = bodies.jobset_pods("workers", range(2), 3)
    leaders = [one for one in pods if "-0-x" in one.name]
    first, *late = cluster.gangs(*leaders)
    assert first.complete and bodies.counts(first) == {"workers": 2}
    assert first.gang and first.gang.roles[0].spread == gangs.Spread(RACK, 1)
    assert [one.identity.name for one in late] == ["jobset-train.workers.0", "jobset-train.workers.1"]
    assert "a node for the leader" in late[0].waiting_for
    bound = [replace(one, node="n7") if one == leaders[0] else one for one in pods]
    _, followers, others = cluster.gangs(*bound)
    assert followers.complete and followers.within == (workload.Within("workers", RACK, node="n7"),)
    assert not others.complete and others.waiting_for == "a node for the leader"


def test_nodes_that_were_labelled_beforehand_are_refused() -> None:
    prefix = "alpha.jobset.sigs.k8s.io/"
    notes = {f"{prefix}exclusive-topology": RACK, f"{prefix}node-selector": "true"}
    cluster = bodies.Cluster(bodies.jobset({"workers": bodies.role(2, 3)}, notes))
    found = cluster.gang(*bodies.jobset_pods("workers", range(2), 3))
    assert "JobSet ml/train" in found.problem and "node-selector" in found.problem and found.gang is None


def test_the_gang_is_known_before_its_pods_and_is_the_same() -> None:
    notes = {"muster.dev/required-level": RACK, "muster.dev/segment-size": "2", "muster.dev/segment-level": "host"}
    parts = {"driver": bodies.role(1, 1), "workers": bodies.role(2, 4, notes)}
    pods = [*bodies.jobset_pods("driver", [0], 1), *bodies.jobset_pods("workers", range(2), 4, annotations=notes)]
    owner = {"muster.dev/min-member": "3"}
    waiting = bodies.Cluster(bodies.jobset(parts, owner, suspend=True))
    assert waiting.gang(*pods).waiting_for == "JobSet ml/train to be resumed (spec.suspend)"
    [before] = recognize.expected(identity.jobset("ml", "train"), waiting.find, waiting.request_of)
    after = bodies.Cluster(bodies.jobset(parts, owner)).gang(*pods)
    assert before.gang == after.gang and before.identity == after.identity and before.owner == after.owner
    assert not before.members


def test_stages_are_known_before_their_pods() -> None:
    parts = {"driver": bodies.role(1, 1), "workers": bodies.role(1, 2)}
    cluster = bodies.Cluster(bodies.jobset(parts, startupPolicy={"startupPolicyOrder": "InOrder"}))
    found = recognize.expected(identity.jobset("ml", "train"), cluster.find, cluster.request_of)
    assert [one.identity.name for one in found] == ["jobset-train", "jobset-train.workers"]
    with pytest.raises(bodies.NotYet, match="JobSet ml/train"):
        recognize.expected(identity.jobset("ml", "train"), bodies.Cluster().find, cluster.request_of)


def test_a_scaled_jobset_is_another_gang() -> None:
    pods = bodies.jobset_pods("workers", range(3), 2)
    for replicas, size in ((3, 6), (2, 4), (4, 8)):
        found = bodies.Cluster(bodies.jobset({"workers": bodies.role(replicas, 2)})).gang(*pods)
        assert bodies.counts(found) == {"workers": size} and found.missing == max(0, size - 6)
        assert len(found.members) == min(size, 6)


@pytest.mark.parametrize("replicas", [-1, 100_001, "two", True])
def test_sizes_that_are_none_are_refused(replicas: object) -> None:
    cluster = bodies.Cluster(bodies.jobset({"workers": {**bodies.role(1, 2), "replicas": replicas}}))
    found = cluster.gang(*bodies.jobset_pods("workers", [0], 2))
    assert "replicatedJob workers" in found.problem and "replicas" in found.problem and found.gang is None


def test_a_product_above_the_limit_is_refused() -> None:
    cluster = bodies.Cluster(bodies.jobset({"workers": bodies.role(1000, 1000)}))
    found = cluster.gang(*bodies.jobset_pods("workers", [0], 2))
    assert "replicas times parallelism" in found.problem


def test_pods_of_one_template_that_ask_for_different_things_are_refused() -> None:
    cluster = bodies.Cluster(bodies.jobset({"workers": bodies.role(1, 2)}))
    cluster.requests["train-workers-0-1-x"] = request.PodRequest(gpus=4)
    found = cluster.gang(*bodies.jobset_pods("workers", [0], 2))
    assert "pod ml/train-workers-0-1-x" in found.problem and not found.complete


def test_claims_that_were_not_made_yet_are_waited_for() -> None:
    cluster = bodies.Cluster(bodies.jobset({"workers": bodies.role(1, 2)}))
    cluster.requests["train-workers-0-1-x"] = bodies.NotYet("claims of pod ml/train-workers-0-1-x")
    found = cluster.gang(*bodies.jobset_pods("workers", [0], 2))
    assert not found.complete and found.missing == 0 and found.waiting_for == "claims of pod ml/train-workers-0-1-x"


def test_a_pod_that_is_being_deleted_makes_way_and_holds_the_gang_up_until_then() -> None:
    cluster = bodies.Cluster(bodies.jobset({"workers": bodies.role(1, 2)}))
    one, two = bodies.jobset_pods("workers", [0], 2)
    leaving = replace(two, name="old", uid="old", deleting=True, node="n")
    found = cluster.gang(one, leaving)
    assert not found.complete and "pod ml/old" in found.waiting_for
    found = cluster.gang(one, leaving, two)
    assert found.complete and bodies.names_by_rank(found) == [one.name, two.name]


def _of_train(attempt: int = 0) -> dict[str, object]:
    reference = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "name": "train", "uid": "uid-train"}
    return {
        "labels": {"jobset.sigs.k8s.io/restart-attempt": str(attempt)},
        "ownerReferences": [{**reference, "controller": True}],
    }
