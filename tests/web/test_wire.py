"""The extender's JSON: recorded requests are read, everything else is refused with a sentence."""

from __future__ import annotations

import contextlib
import json

import msgspec
import pytest
from hypothesis import given as over
from hypothesis import strategies as st

from scheduler.web import wire
from tests.web import given


@pytest.mark.parametrize("verb", ["filter", "prioritize"])
@pytest.mark.parametrize("minor", [34, 37])
def test_what_kube_scheduler_really_sent_is_read(verb: str, minor: int) -> None:
    recorded = given.golden(f"extender-{verb}-1.{minor}.json")
    asked = wire.read_args(json.dumps(recorded).encode())
    assert asked.node_names == recorded["NodeNames"]
    assert asked.pod.metadata.uid == recorded["Pod"]["metadata"]["uid"]
    assert asked.pod.spec is not None and len(asked.pod.spec.containers or ()) == 1


def test_null_stands_for_every_empty_list_and_map() -> None:
    spec = {"containers": None, "initContainers": None, "resourceClaims": None}
    pod = {"metadata": {"name": "w"}, "spec": spec, "status": {"resourceClaimStatuses": None}}
    assert wire.read_args(json.dumps({"Pod": pod, "Nodes": None, "NodeNames": []}).encode()).node_names == []
    both = {"Pod": pod, "NodeNameToVictims": None, "NodeNameToMetaVictims": None}
    assert wire.candidates(wire.read_preemption(json.dumps(both).encode())) == {}


def test_claims_of_a_pod_are_read() -> None:
    spec = {"resourceClaims": [{"name": "g", "resourceClaimTemplateName": "t"}]}
    status = {"resourceClaimStatuses": [{"name": "g", "resourceClaimName": "w-g-x"}]}
    pod = {"metadata": {}, "spec": spec, "status": status}
    read = wire.read_args(json.dumps({"Pod": pod, "NodeNames": []}).encode()).pod
    assert read.spec is not None and read.status is not None
    assert read.spec.resource_claims == [wire.PodClaim("g", None, "t")]
    assert read.status.resource_claim_statuses == [wire.ClaimStatus("g", "w-g-x")]


def test_answers_are_capitalised() -> None:
    result = wire.ExtenderFilterResult(node_names=["a"], failed_and_unresolvable_nodes={"b": "no"})
    assert json.loads(wire.encode(result)) == {
        "Nodes": None,
        "NodeNames": ["a"],
        "FailedNodes": {},
        "FailedAndUnresolvableNodes": {"b": "no"},
        "Error": "",
    }
    assert wire.encode([wire.HostPriority("a", 7)]) == b'[{"Host":"a","Score":7}]'
    preempted = wire.ExtenderPreemptionResult({"a": wire.MetaVictims([wire.MetaPod("u")], 2)})
    assert json.loads(wire.encode(preempted)) == {
        "NodeNameToMetaVictims": {"a": {"Pods": [{"UID": "u"}], "NumPDBViolations": 2}}
    }


def test_victims_come_whole_or_by_uid() -> None:
    whole = {"a": {"Pods": [{"metadata": {"uid": "u"}, "spec": {}}], "NumPDBViolations": 1}}
    meta = {"a": {"Pods": [{"UID": "u"}], "NumPDBViolations": 1}}
    pod = {"metadata": {}}
    first = wire.read_preemption(json.dumps({"Pod": pod, "NodeNameToVictims": whole}).encode())
    second = wire.read_preemption(json.dumps({"Pod": pod, "NodeNameToMetaVictims": meta}).encode())
    assert wire.candidates(first) == wire.candidates(second) == {"a": wire.MetaVictims([wire.MetaPod("u")], 1)}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b'{"NodeNames":[]}', "Pod"),
        (b'{"Pod":{"metadata":{}},"NodeNames":[1]}', "NodeNames"),
        (b'{"Pod":{"metadata":{}},"NodeNames":null}', "nodeCacheCapable"),
        (b'{"Pod":{"metadata":{}},"NodeNames":[""]}', "length >= 1 .*NodeNames"),
        (b'{"Pod":{"metadata":{}},"NodeNames":["' + b"a" * 254 + b'"]}', "length <= 253 .*NodeNames"),
        (b'{"Pod":{"metadata":{"name":"\xff"}},"NodeNames":[]}', "body"),
        (b'{"Pod":{"metadata":{}},"Nodes":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "deep"),
        (b" " * (wire.MAX_BYTES + 1), "larger than 16777216"),
    ],
)
def test_what_is_wrong_is_said(body: bytes, told: str) -> None:
    with pytest.raises(wire.BadRequest, match=told):
        wire.read_args(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
KEYS = st.sampled_from(["Pod", "Nodes", "NodeNames", "NodeNameToVictims", "NodeNameToMetaVictims"])


@over(st.binary(max_size=300) | st.dictionaries(KEYS, JSON).map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for read in (wire.read_args, wire.read_preemption):
        with contextlib.suppress(wire.BadRequest):
            assert isinstance(read(body), msgspec.Struct)
