"""What users and other projects ask of the topology, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from scheduler.kube import pod as kube_pod
from scheduler.kube import workload
from scheduler.model import admission, names
from scheduler.model import gang as gangs
from tests.kube import gangs_bodies as bodies

KUEUE = "kueue.x-k8s.io/"
REQUIRED, PREFERRED = f"{KUEUE}podset-required-topology", f"{KUEUE}podset-preferred-topology"
SLICE, SIZE, LAYERS = (
    f"{KUEUE}podset-slice-{end}" for end in ("required-topology", "size", "required-topology-constraints")
)
GROUP = f"{KUEUE}podset-group-name"
RACK, BLOCK = "example.com/rack", "example.com/block"
Constraint, Segment, Spread = gangs.TopologyConstraint, gangs.Segment, gangs.Spread


def test_words_on_the_owner_hold_for_the_gang_and_words_on_a_template_for_its_role() -> None:
    notes = {names.REQUIRED_LEVEL: "rack", PREFERRED: "nvlink"}
    found = _gang({"a": bodies.role(1, 2, notes), "b": bodies.role(1, 2)}, {names.REQUIRED_LEVEL: BLOCK}, a=notes)
    assert found.constraint == Constraint(BLOCK)
    assert [one.constraint for one in found.roles] == [Constraint("rack", "nvlink"), Constraint()]


@pytest.mark.parametrize(
    ("notes", "segment"),
    [
        ({SLICE: RACK, SIZE: "4"}, Segment(4, RACK)),
        ({SLICE: RACK}, Segment(2, RACK)),
        ({LAYERS: json.dumps([{"topology": RACK, "size": 4}])}, Segment(4, RACK)),
        ({names.SEGMENT_SIZE: "4", names.SEGMENT_LEVEL: "rack"}, Segment(4, "rack")),
        ({names.SEGMENT_SIZE: "4", names.SEGMENT_LEVEL: RACK, SLICE: RACK, SIZE: "4"}, Segment(4, RACK)),
        ({f"{KUEUE}podset-unconstrained-topology": "true"}, None),
    ],
)
def test_slices_of_kueue_and_our_segments_are_one_thing(notes: dict[str, str], segment: gangs.Segment | None) -> None:
    found = _gang({"w": bodies.role(4, 2, notes)}, w=notes)
    assert found.roles[0].segment == segment and found.constraint == Constraint()


def test_segments_and_spread_of_the_owner_hold_for_every_role_that_has_none() -> None:
    own = {names.SEGMENT_SIZE: "1", names.SEGMENT_LEVEL: "host"}
    owner = {names.SEGMENT_SIZE: "2", names.SEGMENT_LEVEL: "rack", names.SPREAD_MAX: "3", names.SPREAD_LEVEL: "block"}
    found = _gang({"a": bodies.role(1, 2, own), "b": bodies.role(1, 2)}, owner, a=own)
    assert [one.segment for one in found.roles] == [Segment(1, "host"), Segment(2, "rack")]
    assert [one.spread for one in found.roles] == [Spread("block", 3)] * 2


def test_pod_sets_of_one_group_share_their_domain() -> None:
    notes = {GROUP: "g", REQUIRED: RACK}
    found = _gang({"a": bodies.role(1, 1, notes), "b": bodies.role(1, 2, notes)}, a=notes, b=notes)
    assert found.constraint == Constraint(RACK) and {one.constraint for one in found.roles} == {Constraint()}
    apart = {REQUIRED: RACK}
    found = _gang({"a": bodies.role(1, 1, apart), "b": bodies.role(1, 2, apart)}, a=apart, b=apart)
    assert found.constraint == Constraint() and {one.constraint for one in found.roles} == {Constraint(RACK)}


def test_a_level_on_the_pods_of_an_annotated_gang_holds_for_all_of_them() -> None:
    notes = {names.GANG_NAME: "g", names.GANG_SIZE: "2", names.REQUIRED_LEVEL: RACK}
    pods = [bodies.pod(name, annotations={**notes, names.ROLE: name}) for name in "ab"]
    found = bodies.Cluster().gang(*pods).gang
    assert found and found.constraint == Constraint(RACK) and {one.constraint for one in found.roles} == {Constraint()}


def test_segments_end_when_pods_have_finished() -> None:
    notes = {names.SEGMENT_SIZE: "4", names.SEGMENT_LEVEL: "rack"}
    cluster = bodies.Cluster(bodies.jobset({"w": bodies.role(2, 4)}, notes))
    pods = bodies.jobset_pods("w", range(2), 4)
    found = cluster.gang(replace(pods[0], phase="Succeeded"), *pods[1:])
    assert found.complete and found.gang and found.gang.roles[0].segment is None
    assert bodies.counts(found) == {"w": 7}


@pytest.mark.parametrize(
    ("notes", "says"),
    [
        ({names.REQUIRED_LEVEL: "rack", REQUIRED: RACK}, (REQUIRED, names.REQUIRED_LEVEL, "rack", RACK)),
        ({names.PREFERRED_LEVEL: "rack", PREFERRED: RACK}, (PREFERRED, names.PREFERRED_LEVEL)),
        ({REQUIRED: RACK, f"{KUEUE}podset-unconstrained-topology": "true"}, ("unconstrained", REQUIRED)),
        ({f"{KUEUE}podset-unconstrained-topology": "maybe"}, ("maybe",)),
        ({names.SEGMENT_SIZE: "3", names.SEGMENT_LEVEL: "rack"}, ("3", "does not divide", "8")),
        ({names.SEGMENT_SIZE: "4", names.SEGMENT_LEVEL: "rack", SLICE: RACK, SIZE: "2"}, ("segments",)),
        ({names.SEGMENT_SIZE: "4"}, (names.SEGMENT_LEVEL, "is missing")),
        ({names.SEGMENT_SIZE: "-4", names.SEGMENT_LEVEL: "rack"}, (names.SEGMENT_SIZE, "-4")),
        ({names.SPREAD_MAX: "100001", names.SPREAD_LEVEL: "rack"}, (names.SPREAD_MAX, "100001")),
        ({names.MIN_MEMBER: "9"}, (names.MIN_MEMBER, "9", "8 pods")),
        ({names.EXPECTED_S: "soon"}, (names.EXPECTED_S, "soon")),
        ({names.PREEMPTIBLE: "no"}, (names.PREEMPTIBLE, "true")),
        ({names.GANG_SIZE: "8"}, (names.GANG_SIZE, names.GANG_NAME)),
        ({SIZE: "2"}, (SLICE, "is missing")),
        ({SLICE: RACK, SIZE: "0"}, (SIZE, "'0'")),
        ({LAYERS: "[]"}, (LAYERS, "one layer")),
        ({LAYERS: json.dumps([{"topology": RACK, "size": 4}] * 2)}, (LAYERS, "one layer")),
        ({LAYERS: json.dumps([{"topology": RACK, "size": -4}])}, (LAYERS, "-4")),
        ({LAYERS: json.dumps([{"topology": RACK, "size": 4}]), SLICE: RACK}, (LAYERS, SLICE)),
        ({LAYERS: json.dumps([{"topology": RACK, "size": 0}])}, (LAYERS, "no pods")),
        ({LAYERS: json.dumps([{"topology": 7, "size": 4}])}, (LAYERS, "node label")),
        ({REQUIRED: "rack one"}, (REQUIRED, "rack one")),
        ({REQUIRED: ""}, (REQUIRED, "empty")),
        ({names.REQUIRED_LEVEL: "r" * 300}, (names.REQUIRED_LEVEL,)),
    ],
)
def test_contradictions_are_refused_with_object_field_and_remedy(notes: dict[str, str], says: tuple[str, ...]) -> None:
    found = _found({"w": bodies.role(4, 2, notes)}, w=notes)
    assert found.gang is None and not found.complete
    assert all(word in found.problem for word in says), found.problem
    assert "JobSet ml/train" in found.problem and "; " in found.problem, "object and remedy"
    assert len(found.members) == 8, "whoever tells the pods needs to know them"


def test_the_name_of_a_gang_on_the_owner_alone_is_refused() -> None:
    found = _found({"w": bodies.role(1, 2)}, {names.GANG_NAME: "big", names.GANG_SIZE: "2"})
    assert "pod template" in found.problem and names.GANG_NAME in found.problem


def test_a_gang_named_by_a_label_is_one_with_pods_that_name_it_in_an_annotation() -> None:
    one = bodies.pod("a", labels={names.GANG_NAME: "g"}, annotations={names.GANG_SIZE: "2"})
    other = bodies.pod("b", annotations={names.GANG_NAME: "g", names.GANG_SIZE: "2"})
    assert bodies.Cluster().gang(one, other).complete


def test_pods_of_one_role_that_say_different_things_are_refused() -> None:
    cluster = bodies.Cluster(bodies.jobset({"w": bodies.role(1, 2)}))
    one, other = bodies.jobset_pods("w", [0], 2)
    found = cluster.gang(one, replace(other, annotations={names.REQUIRED_LEVEL: RACK}))
    assert f"pod {other.key}" in found.problem and names.REQUIRED_LEVEL in found.problem
    apart = replace(other, annotations={names.DECISION: "d2"})
    assert cluster.gang(replace(one, annotations={names.DECISION: "d1"}), apart).complete


def test_minimum_priority_tenant_time_and_decision_are_read() -> None:
    notes = {names.MIN_MEMBER: "2", names.EXPECTED_S: "60", names.PREEMPTIBLE: "false", names.DECISION: "req-7"}
    pods = bodies.jobset_pods("w", range(2), 2, priority=9)
    pods = [replace(pods[0], priority=5, labels={**pods[0].labels, names.TENANT: "chem"}), *pods[1:]]
    found = bodies.Cluster(bodies.jobset({"w": bodies.role(2, 2)}, notes)).gang(*pods).gang
    assert found and (found.min_member, found.expected_s, found.preemptible) == (2, 60.0, False)
    assert (found.priority, found.tenant, found.decision_id) == (5, "chem", "req-7")


def test_a_tenant_is_the_pods_or_the_owners_or_the_namespaces() -> None:
    parts = {"w": bodies.role(1, 2)}
    pods = bodies.jobset_pods("w", [0], 2)
    bare = bodies.Cluster(bodies.jobset(parts))
    assert _tenant(bare, pods) == "ml"
    bare.items["Namespace", "", "ml"] = {"metadata": {"labels": {names.TENANT: "space"}}}
    assert _tenant(bare, pods) == "space"
    owned = bodies.jobset(parts)
    owned["metadata"]["labels"] = {names.TENANT: "set"}
    assert _tenant(bodies.Cluster(owned), pods) == "set"
    named = [replace(one, labels={**one.labels, names.TENANT: tenant}) for one, tenant in zip(pods, "ab", strict=True)]
    assert names.TENANT in bare.gang(*named).problem


# Kueue's topology assignment.


def test_one_assigned_domain_holds_for_all_pods_of_its_role() -> None:
    found = _assigned({"levels": [BLOCK, RACK], "domains": [{"values": ["b1", "r1"], "count": 4}]})
    assert found.complete
    assert found.within == (workload.Within("w", RACK, "r1", above=((BLOCK, "b1"),)),)


def test_several_domains_are_filled_in_the_order_of_their_names() -> None:
    each = {"individual": {"prefix": "node-", "roots": ["9", "10"]}}
    slices = [{"domainCount": 2, "valuesPerLevel": [each], "podCounts": {"individual": [1, 3]}}]
    found = _assigned({"levels": ["kubernetes.io/hostname"], "slices": slices})
    assert [(one.domain, one.count) for one in found.within] == [("node-10", 3), ("node-9", 1)]


def test_a_pod_that_kueue_has_told_its_host_stays_there_and_the_others_share_the_rest() -> None:
    domains = [{"values": [host], "count": 1} for host in ("a", "b", "c", "d")]
    assignment = {"levels": ["kubernetes.io/hostname"], "domains": domains}
    hosts = [one.domain for one in _assigned(assignment, told={0: "c", 2: "a"}).within for _ in range(one.count)]
    assert hosts == ["c", "b", "a", "d"]
    every = dict(enumerate("badc"))
    assert [one.domain for one in _assigned(assignment, told=every).within] == list("badc")
    moved = _assigned(assignment, told={0: "gone"})  # its host failed, and Kueue has put another in the place of it
    assert [one.domain for one in moved.within] == ["gone", "a", "b", "c"]


def test_pods_of_a_template_agree_on_their_nodes_unless_all_of_them_run() -> None:
    cluster = bodies.Cluster(bodies.jobset({"w": bodies.role(1, 2)}))
    zone = admission.Requirement("zone", "In", ("z",))
    pods = [
        replace(one, nodes=admission.Admission((admission.Requirement("host", "In", (host,)), zone)))
        for one, host in zip(bodies.jobset_pods("w", [0], 2), "ab", strict=True)
    ]
    cluster.requests = {one.name: replace(bodies.EIGHT, nodes=one.nodes) for one in pods}
    assert "asks for other devices, resources or nodes than pod" in cluster.gang(*pods).problem
    running = cluster.gang(*(replace(one, node="n") for one in pods))
    assert running.gang and running.gang.roles[0].request.nodes == admission.Admission((zone,))


def test_leader_and_workers_of_one_pod_set_share_its_domains_by_rank() -> None:
    domains = [{"values": ["a"], "count": 2}, {"values": ["b"], "count": 2}]
    assignment = {"levels": ["kubernetes.io/hostname"], "domains": domains}
    item = _admitted({"name": "main", "topologyAssignment": assignment})
    cluster = bodies.Cluster(bodies.lws(4))
    cluster.items["Workload", "ml", "wl"] = item
    pods = bodies.lws_pods(0, range(4), 4, annotations={f"{KUEUE}workload": "wl"})
    found = cluster.gang(*(replace(one, labels={**one.labels, f"{KUEUE}podset": "main"}) for one in pods))
    assert [(one.role, one.domain, one.count) for one in found.within] == [
        ("leader", "a", 1),
        ("worker", "a", 1),
        ("worker", "b", 2),
    ]


def test_an_assignment_for_another_number_of_pods_is_refused_unless_all_run() -> None:
    domains = [{"values": ["a"], "count": 1}, {"values": ["b"], "count": 2}]
    assignment = {"levels": ["kubernetes.io/hostname"], "domains": domains}
    assert "3 pods, but 4" in _assigned(assignment).problem
    running = _assigned(assignment, node="n")
    assert not running.problem and not running.within


def test_an_assignment_that_is_still_to_come_is_waited_for() -> None:
    assert _assigned(None, assigning=True).waiting_for == "the topology assignment of Kueue's Workload ml/wl"
    gated = {"gates": (names.GATE, f"{KUEUE}topology")}
    assert _assigned(None, there=False, **gated).waiting_for == "Kueue's Workload ml/wl"
    assert _assigned(None, there=False).complete, "pods name their Workload without topology-aware scheduling too"
    assert _assigned(None).complete


def test_an_assignment_that_contradicts_itself_is_refused() -> None:
    slices = [{"domainCount": 2, "valuesPerLevel": [{"universal": "a"}], "podCounts": {"individual": [1]}}]
    assert "Workload ml/wl, pod set w" in _assigned({"levels": [RACK], "slices": slices}).problem


def _admitted(entry: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"namespace": "ml", "name": "wl"}, "status": {"admission": {"podSetAssignments": [entry]}}}


def _assigned(
    assignment: Any, assigning: bool = False, there: bool = True, told: Mapping[int, str] | None = None, **more: Any
) -> workload.Workload:
    notes, labels = {f"{KUEUE}workload": "wl"}, {f"{KUEUE}podset": "w"}
    cluster = bodies.Cluster(bodies.jobset({"w": bodies.role(2, 2)}))
    entry = {
        "name": "w",
        "topologyAssignment": assignment,
        "delayedTopologyRequest": "Pending" if assigning else "Ready",
    }
    item = _admitted(entry)
    if there:
        cluster.items["Workload", "ml", "wl"] = item
    pods = [
        replace(one, labels={**one.labels, **labels})
        for one in bodies.jobset_pods("w", range(2), 2, annotations=notes, **more)
    ]
    for rank, host in (told or {}).items():
        chosen = admission.Requirement("kubernetes.io/hostname", "In", (host,))
        pods[rank] = replace(pods[rank], nodes=admission.Admission((chosen,)))
    return cluster.gang(*pods)


def _found(roles: dict[str, Any], owner: dict[str, str] | None = None, **notes: dict[str, str]) -> workload.Workload:
    """Recognise a JobSet whose pods have the annotations of their templates."""
    pods: list[kube_pod.Pod] = []
    for name, role in roles.items():
        pods += bodies.jobset_pods(
            name, range(role["replicas"]), role["template"]["spec"]["parallelism"], annotations=notes.get(name, {})
        )
    return bodies.Cluster(bodies.jobset(roles, owner)).gang(*pods)


def _gang(roles: dict[str, Any], owner: dict[str, str] | None = None, **notes: dict[str, str]) -> gangs.Gang:
    found = _found(roles, owner, **notes)
    assert found.gang and found.complete, found.problem
    return found.gang


def _tenant(cluster: bodies.Cluster, pods: list[kube_pod.Pod]) -> str:
    found = cluster.gang(*pods).gang
    assert found
    return found.tenant
