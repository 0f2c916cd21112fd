"""Jobs, LeaderWorkerSets, PodGroups, Kueue's pod groups, annotated gangs and lone pods as gangs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler.kube import pod as kube_pod
from scheduler.kube import workload
from scheduler.model import gang as gangs
from scheduler.model import names, request
from tests.kube import gangs_bodies as bodies

RACK = "example.com/rack"
LWS = "leaderworkerset.sigs.k8s.io/"
ONE = request.PodRequest(gpus=1)


# Jobs.


def test_a_job_has_its_completion_indices_as_ranks() -> None:
    found = bodies.Cluster(bodies.job("j", bodies.job_spec(12))).gang(*bodies.job_pods("j", range(12)))
    assert found.complete and bodies.names_by_rank(found) == [f"j-{index}-x" for index in range(12)]
    assert found.owner == kube_pod.Owner("batch/v1", "Job", "j", "uid-j")


def test_a_job_with_more_completions_keeps_its_size_until_the_last_are_on_their_way() -> None:
    spec = bodies.job_spec(3, 5)
    pods = bodies.job_pods("j", range(5))
    done = [replace(one, phase="Succeeded") for one in pods]
    for finished, expected in (
        ([], "0 1 2"),
        ([1], "0 2 3"),
        ([1, 0], "2 3 4"),
        ([0, 1, 3], "2 4"),
        ([0, 1, 2, 3], "4"),
    ):
        there = [done[index] if index in finished else pods[index] for index in range(5)]
        there = [one for one in there if one.finished or one.name.split("-")[1] in expected.split()]
        found = bodies.Cluster(bodies.job("j", spec)).gang(*there)
        assert found.complete, found
        assert [one.pod.name.split("-")[1] for one in found.members] == expected.split()


def test_the_status_of_a_job_and_its_pods_count_alike() -> None:
    cluster = bodies.Cluster(bodies.job("j", bodies.job_spec(4), {"completedIndexes": "1", "failedIndexes": "3"}))
    found = cluster.gang(*bodies.job_pods("j", [0, 2]))
    assert found.complete and bodies.counts(found) == {"pods": 2}


def test_what_a_job_says_about_its_scheduling_counts() -> None:
    wanted = {"schedulingPolicy": {"gang": {"minCount": 2}}, "schedulingConstraints": {"topology": [{"key": RACK}]}}
    cluster = bodies.Cluster(bodies.job("j", bodies.job_spec(3, scheduling=wanted)))
    found = cluster.gang(*bodies.job_pods("j", range(3))).gang
    assert found and (found.min_member, found.constraint.required) == (2, RACK)
    spec = {**bodies.job_spec(2), "scheduling": wanted}
    cluster = bodies.Cluster(bodies.jobset({"w": {"replicas": 2, "template": {"spec": spec}}}))
    found = cluster.gang(*bodies.jobset_pods("w", range(2), 2)).gang
    assert found and found.roles[0].segment == gangs.Segment(2, RACK)
    two = {"schedulingConstraints": {"topology": [{"key": RACK}, {"key": "zone"}]}}
    cluster = bodies.Cluster(bodies.job("j", bodies.job_spec(3, scheduling=two)))
    assert "Job ml/j" in cluster.gang(*bodies.job_pods("j", range(3))).problem


def test_a_failed_pod_has_a_successor() -> None:
    cluster = bodies.Cluster(bodies.job("j", bodies.job_spec(2)))
    one, two = bodies.job_pods("j", range(2))
    lost = replace(two, name="j-1-lost", uid="lost", phase="Failed")
    assert cluster.gang(one, lost).missing == 1
    assert bodies.names_by_rank(cluster.gang(one, lost, two)) == [one.name, two.name]


def test_pods_of_a_job_of_the_same_name_that_is_gone_are_no_members() -> None:
    cluster = bodies.Cluster(bodies.job("j", bodies.job_spec(2), uid="newer"))
    assert cluster.gang(*bodies.job_pods("j", range(2))).missing == 2


def test_pods_without_index_are_ordered_by_name_and_a_new_one_takes_the_free_rank() -> None:
    spec = {"parallelism": 3, "completions": 3, "template": bodies.template()}
    cluster = bodies.Cluster(bodies.job("j", spec))
    pods = [bodies.pod(f"j-{name}", owner=bodies.owner("Job", "j")) for name in "bca"]
    assert bodies.names_by_rank(cluster.gang(*pods)) == ["j-a", "j-b", "j-c"]
    placed = [replace(one, annotations={names.PLANNED_RANK: rank}) for one, rank in zip(pods, "012", strict=True)]
    lost = replace(placed[1], phase="Failed")
    new = bodies.pod("j-0", owner=bodies.owner("Job", "j"))
    found = cluster.gang(placed[0], lost, placed[2], new)
    assert bodies.names_by_rank(found) == ["j-b", "j-0", "j-a"]


def test_a_pod_without_index_that_is_being_deleted_gives_way() -> None:
    spec = {"parallelism": 2, "completions": 2, "template": bodies.template()}
    pods = [bodies.pod(f"j-{name}", owner=bodies.owner("Job", "j")) for name in "abc"]
    found = bodies.Cluster(bodies.job("j", spec)).gang(replace(pods[0], deleting=True, node="n"), *pods[1:])
    assert found.complete and bodies.names_by_rank(found) == ["j-b", "j-c"]


def test_a_work_queue_that_runs_dry_asks_for_no_more_pods() -> None:
    spec = {"parallelism": 3, "template": bodies.template()}
    pods = [bodies.pod(f"j-{name}", owner=bodies.owner("Job", "j")) for name in "abc"]
    cluster = bodies.Cluster(bodies.job("j", spec))
    assert cluster.gang(*pods[:2]).missing == 1
    found = cluster.gang(*pods[:2], replace(pods[2], phase="Succeeded"))
    assert found.complete and bodies.counts(found) == {"pods": 2}


@pytest.mark.parametrize("state", [{"suspend": True}, {}])
def test_a_suspended_or_ended_job_is_no_gang(state: dict[str, Any]) -> None:
    status = {} if state else {"conditions": [{"type": "FailureTarget", "status": "True"}]}
    found = bodies.Cluster(bodies.job("j", bodies.job_spec(2, **state), status)).gang(*bodies.job_pods("j", range(2)))
    assert found.gang is None and found.waiting_for and not found.problem


def test_pods_that_live_are_told_also_while_their_owner_is_unknown_suspended_wrong_or_ended() -> None:
    """They hold devices; whoever takes the gang for vanished gives those away."""
    pods = [*bodies.job_pods("j", [1, 0]), *bodies.job_pods("j", [2], phase="Failed")]
    ended = {"conditions": [{"type": "Failed", "status": "True"}]}
    owners = [
        [],
        [bodies.job("j", bodies.job_spec(2, suspend=True))],
        [bodies.job("j", {"parallelism": -1})],
        [bodies.job("j", bodies.job_spec(2), ended)],
    ]
    for items in owners:
        found = bodies.Cluster(*items).gang(*pods)
        assert found.gang is None and not found.complete
        assert [(one.rank, one.pod.name) for one in found.members] == [(0, "j-0-x"), (1, "j-1-x")]


def test_a_gate_of_somebody_else_holds_the_gang() -> None:
    cluster = bodies.Cluster(bodies.job("j", bodies.job_spec(2)))
    one, other = bodies.job_pods("j", range(2))
    held = replace(other, gates=(names.GATE, "kueue.x-k8s.io/admission"))
    found = cluster.gang(one, held)
    assert not found.complete and "kueue.x-k8s.io/admission of pod ml/j-1-x" in found.waiting_for
    assert cluster.gang(one, replace(other, gates=())).complete
    assert cluster.gang(one, replace(other, gates=(names.GATE, "kueue.x-k8s.io/topology"))).complete


# LeaderWorkerSets.


def test_a_replica_is_a_gang_of_a_leader_and_workers() -> None:
    found = bodies.Cluster(bodies.lws(12)).gang(*bodies.lws_pods(1, range(12), 12))
    assert found.complete and bodies.counts(found) == {"leader": 1, "worker": 11}
    assert bodies.names_by_rank(found) == ["decode-1", *(f"decode-1-{index}" for index in range(1, 12))]
    assert found.identity.name == "lws-decode-1"


def test_workers_that_come_after_a_ready_leader_are_a_gang_in_its_domain() -> None:
    cluster = bodies.Cluster(bodies.lws(3, {names.REQUIRED_LEVEL: "rack"}, startup="LeaderReady"))
    [lead] = bodies.lws_pods(0, [0], 3)
    first, second = cluster.gangs(lead)
    assert first.complete and bodies.counts(first) == {"leader": 1}
    assert second.identity.name == "lws-decode-0.workers" and not second.complete
    pods = [replace(lead, node="n1"), *bodies.lws_pods(0, [1, 2], 3)]
    _, second = cluster.gangs(*pods)
    assert second.complete and bodies.counts(second) == {"worker": 2}
    assert second.within == (workload.Within("worker", "rack", node="n1"),)


def test_workers_of_an_exclusive_topology_wait_for_the_leaders_node() -> None:
    cluster = bodies.Cluster(bodies.lws(3, {f"{LWS}exclusive-topology": RACK}))
    first, second = cluster.gangs(*bodies.lws_pods(0, [0], 3))
    assert first.complete and "a node for the leader" in second.waiting_for
    assert second.within == (workload.Within("worker", RACK),)


def test_a_replica_of_one_pod_waits_for_no_workers() -> None:
    found = bodies.Cluster(bodies.lws(1, startup="LeaderReady")).gang(*bodies.lws_pods(0, [0], 1))
    assert found.complete and bodies.counts(found) == {"leader": 1}


def test_subgroups_are_segments_where_they_have_a_topology() -> None:
    policy = {"subGroupSize": 2, "subGroupPolicyType": "LeaderExcluded"}
    notes = {f"{LWS}subgroup-exclusive-topology": RACK}
    found = bodies.Cluster(bodies.lws(5, notes, subGroupPolicy=policy)).gang(*bodies.lws_pods(0, range(5), 5))
    assert found.gang and [one.segment for one in found.gang.roles] == [None, gangs.Segment(2, RACK)]
    free = bodies.Cluster(bodies.lws(5, subGroupPolicy=policy)).gang(*bodies.lws_pods(0, range(5), 5))
    assert free.gang and [one.segment for one in free.gang.roles] == [None, None]
    across = bodies.lws(4, notes, subGroupPolicy={"subGroupSize": 2, "subGroupPolicyType": "LeaderWorker"})
    found = bodies.Cluster(across).gang(*bodies.lws_pods(0, range(4), 4))
    assert found.gang and [(one.name, one.segment) for one in found.gang.roles] == [("pods", gangs.Segment(2, RACK))]
    uneven = bodies.lws(5, notes, subGroupPolicy={"subGroupSize": 2})
    found = bodies.Cluster(uneven).gang(*bodies.lws_pods(0, range(5), 5))
    assert "subGroupPolicy" in found.problem and "LeaderExcluded" in found.problem


def test_an_old_size_and_an_old_revision_are_told_apart_by_the_leader() -> None:
    cluster = bodies.Cluster(bodies.lws(2))
    assert bodies.counts(cluster.gang(*bodies.lws_pods(0, range(4), 4))) == {"leader": 1, "worker": 3}
    new, old = bodies.lws_pods(0, [0], 2, revision="b"), bodies.lws_pods(0, [1], 4, node="n", deleting=True)
    found = cluster.gang(*new, *old)
    assert bodies.names_by_rank(found) == ["decode-0"] and found.missing == 1


# PodGroups.


def test_a_pod_group_is_what_exists_from_its_minimum_on() -> None:
    spec = {
        "schedulingPolicy": {"gang": {"minCount": 2}},
        "schedulingConstraints": {"topology": [{"key": RACK}]},
        "priority": 7,
    }
    cluster = bodies.Cluster({"kind": "PodGroup", "metadata": {"namespace": "ml", "name": "g"}, "spec": spec})
    pods = [bodies.pod(name, group="g") for name in "abc"]
    assert cluster.gang(pods[0]).waiting_for == "1 of 2 pods"
    for count in (2, 3):
        found = cluster.gang(*pods[:count])
        assert found.complete and found.gang and (found.gang.size, found.gang.min_member) == (count, 2)
        assert found.gang.constraint.required == RACK and found.gang.priority == 7


def test_pods_of_a_group_that_succeeded_count_towards_its_minimum() -> None:
    spec = {"schedulingPolicy": {"gang": {"minCount": 3}}}
    cluster = bodies.Cluster({"kind": "PodGroup", "metadata": {"namespace": "ml", "name": "g"}, "spec": spec})
    done, *pods = [bodies.pod(name, group="g") for name in "abc"]
    found = cluster.gang(replace(done, phase="Succeeded"), *pods)
    assert found.complete and found.gang and (found.gang.size, found.gang.min_member) == (2, 2)


def test_claims_of_a_group_that_were_not_made_yet_are_waited_for() -> None:
    cluster = bodies.Cluster()
    cluster.requests["b"] = bodies.NotYet("claims of pod ml/b")
    found = cluster.gang(*(_annotated(name, 3) for name in "abc"))
    assert not found.problem and found.waiting_for == "claims of pod ml/b" and len(found.members) == 3


def test_a_pod_group_without_gang_starts_with_any_pod() -> None:
    spec = {"schedulingPolicy": {"basic": {}}}
    cluster = bodies.Cluster({"kind": "PodGroup", "metadata": {"namespace": "ml", "name": "g"}, "spec": spec})
    found = cluster.gang(*(bodies.pod(name, group="g") for name in "ab"))
    assert found.gang and (found.gang.size, found.gang.min_member) == (2, 1)


def test_a_pod_group_of_pod_groups_is_refused() -> None:
    spec = {"schedulingPolicy": {"basic": {}}, "parentCompositePodGroupName": "up"}
    cluster = bodies.Cluster({"kind": "PodGroup", "metadata": {"namespace": "ml", "name": "g"}, "spec": spec})
    assert "parentCompositePodGroupName" in cluster.gang(bodies.pod("a", group="g")).problem


def test_a_pod_group_of_the_other_api_has_its_own_minimum() -> None:
    item = {"apiVersion": "scheduling.x-k8s.io/v1alpha1", "kind": "PodGroup", "spec": {"minMember": 2}}
    cluster = bodies.Cluster({**item, "metadata": {"namespace": "ml", "name": "g"}})
    pods = [bodies.pod(name, labels={"scheduling.x-k8s.io/pod-group": "g"}) for name in "ab"]
    assert not cluster.gang(pods[0]).complete
    found = cluster.gang(*pods)
    assert found.complete and found.gang and found.gang.min_member == 2


# Groups that say their size themselves.


def test_a_kueue_group_is_complete_with_its_total_and_ordered_by_its_index() -> None:
    pods = [_kueue(name, index) for name, index in (("b", 0), ("a", 11), *((f"c{i}", i) for i in range(1, 11)))]
    found = bodies.Cluster().gang(*pods)
    assert found.complete and [one.pod.name for one in found.members][::11] == ["b", "a"]
    assert bodies.Cluster().gang(*pods[:3]).waiting_for == "9 of 12 pods"


def test_an_annotated_gang_has_roles_by_annotation_or_by_request() -> None:
    cluster = bodies.Cluster()
    cluster.requests["b"] = ONE
    pods = [_annotated(name, 3) for name in "abc"]
    found = cluster.gang(*pods)
    assert bodies.counts(found) == {"pods-0": 1, "pods-1": 2} and bodies.names_by_rank(found) == ["b", "a", "c"]
    pods = [
        _annotated("a", 3, **{names.ROLE: "big"}),
        _annotated("b", 3, **{names.ROLE: "small"}),
        _annotated("c", 3, **{names.ROLE: "big"}),
    ]
    assert bodies.counts(cluster.gang(*pods)) == {"big": 2, "small": 1}
    mixed = [replace(one, annotations={**one.annotations, names.ROLE: "big"}) for one in pods]
    assert names.ROLE in cluster.gang(*mixed).problem


def test_roles_may_ask_for_different_things_and_are_not_compared_before_all_are_there() -> None:
    pods = [_annotated(name, 3, **{names.ROLE: name, names.REQUIRED_LEVEL: name}) for name in "abc"]
    early = bodies.Cluster().gang(*pods[:2])
    assert not early.problem and early.gang is None and early.missing == 1
    found = bodies.Cluster().gang(*pods)
    assert found.gang and [one.constraint.required for one in found.gang.roles] == ["a", "b", "c"]


def test_ranks_that_the_user_wrote_count() -> None:
    pods = [_annotated(name, 3, **{names.RANK: rank}) for name, rank in (("a", "2"), ("b", "0"), ("c", "1"))]
    assert bodies.names_by_rank(bodies.Cluster().gang(*pods)) == ["b", "c", "a"]
    some = [pods[0], _annotated("b", 3), _annotated("c", 3)]
    assert bodies.names_by_rank(bodies.Cluster().gang(*some)) == ["b", "c", "a"]


@pytest.mark.parametrize(("ranks", "says"), [("011", "too"), ("013", "none of the role's"), ("01x", "whole number")])
def test_ranks_that_can_not_be_are_refused(ranks: str, says: str) -> None:
    pods = [_annotated(name, 3, **{names.RANK: rank}) for name, rank in zip("abc", ranks, strict=True)]
    found = bodies.Cluster().gang(*pods)
    assert says in found.problem and names.RANK in found.problem and "pod ml/c" in found.problem and found.gang is None


def test_ranks_that_mix_two_roles_are_refused() -> None:
    roles = {"a": "x", "b": "y", "c": "x"}
    pods = [_annotated(name, 3, **{names.RANK: str(n), names.ROLE: roles[name]}) for n, name in enumerate("abc")]
    assert names.RANK in bodies.Cluster().gang(*pods).problem


def test_sizes_that_differ_are_missing_or_too_small_are_refused() -> None:
    cluster = bodies.Cluster()
    assert "pod ml/a says 2, pod ml/b says 3" in cluster.gang(_annotated("a", 2), _annotated("b", 3)).problem
    bare = replace(_annotated("a", 2), annotations={names.GANG_NAME: "big"})
    assert names.GANG_SIZE in cluster.gang(bare).problem and "is missing" in cluster.gang(bare).problem
    assert "has 2 pods" in cluster.gang(_annotated("a", 1), _annotated("b", 1)).problem
    for size in ("-3", "100001", "many", "0"):
        wrong = replace(bare, annotations={**bare.annotations, names.GANG_SIZE: size})
        assert size in cluster.gang(wrong).problem


def test_pods_that_succeeded_need_no_successor() -> None:
    pods = [_annotated(name, 3) for name in "abc"]
    found = bodies.Cluster().gang(replace(pods[0], phase="Succeeded"), *pods[1:])
    assert found.complete and bodies.names_by_rank(found) == ["b", "c"]


def test_a_label_and_an_annotation_that_name_two_gangs_are_refused() -> None:
    pod = replace(_annotated("a", 1), labels={names.GANG_NAME: "other"})
    assert names.GANG_NAME in bodies.Cluster().gang(pod).problem


def test_a_lone_pod_is_a_gang_of_one_that_belongs_to_it() -> None:
    found = bodies.Cluster().gang(bodies.pod("a", priority=5))
    assert found.complete and found.gang and (found.gang.name, found.gang.priority) == ("ml/pod-a", 5)
    assert found.owner == kube_pod.Owner("v1", "Pod", "a", "uid-a")
    assert bodies.Cluster().gang(bodies.pod("a", phase="Succeeded")).gang is None


def _kueue(name: str, index: int) -> kube_pod.Pod:
    labels = {"kueue.x-k8s.io/pod-group-name": "g", "kueue.x-k8s.io/pod-group-pod-index": str(index)}
    return bodies.pod(name, labels=labels, annotations={"kueue.x-k8s.io/pod-group-total-count": "12"})


def _annotated(name: str, size: int, **more: str) -> kube_pod.Pod:
    return bodies.pod(name, annotations={names.GANG_NAME: "big", names.GANG_SIZE: str(size), **more})
