"""The gating webhook, without a network: what is gated, what the patch does, what is refused."""

from __future__ import annotations

import base64
import copy
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from hypothesis import given as over
from hypothesis import strategies as st
from prometheus_client import parser

from scheduler import bad_input
from scheduler.model import names, wishes
from scheduler.web import admission, review, server, webhook, wire
from tests.testbed.embedded import patches
from tests.web import given

UID = "705ab4f5-6393-11e8-b7cc-42010a800002"


@dataclass
class Cluster:
    """What the webhook is told of a cluster, and what it asked."""

    mine: Mapping[str, bool] = field(default_factory=dict)
    gangs: str = "gang-ring"
    namespace: str = "ml"
    given: list[str] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    called: list[Mapping[str, Any]] = field(default_factory=list)

    def ours(self, namespace: str, kind: str, name: str) -> bool | None:
        self.asked.append((namespace, kind, name))
        return self.mine.get(name)

    def gang(self, pod: Mapping[str, Any]) -> str:
        assert pod["metadata"]["namespace"] == self.namespace and isinstance(pod["metadata"]["name"], str)
        self.called.append(pod)
        return self.gangs

    def tenant(self, namespace: str) -> str:
        return f"tenant-of-{namespace}"

    def decision_id(self, pod: Mapping[str, Any], gang: str) -> str:
        self.given.append(f"d-{len(self.given)}")
        return self.given[-1]


def pod(template: str = "gpu", **metadata: Any) -> dict[str, Any]:
    claims = [{"name": "gpu", "resourceClaimTemplateName": template}] if template else []
    spec = {"containers": [{"name": "main", "image": "x"}], "resourceClaims": claims, "newField": {"kept": [1, None]}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "w-0", **metadata}, "spec": spec}


def body(obj: Any, **request: Any) -> bytes:
    asked = {
        "uid": UID,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "ml",
        "operation": "CREATE",
        "userInfo": {"username": "anna"},
        "object": obj,
        "oldObject": None,
        "dryRun": False,
    }
    return json.dumps({"apiVersion": review.API_VERSION, "kind": review.KIND, "request": asked | request}).encode()


def asked(known: admission.Knowledge, obj: Any, **request: Any) -> dict[str, Any]:
    reply = json.loads(admission.answer(known, body(obj, **request)))
    assert (reply["apiVersion"], reply["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert reply["response"]["uid"] == UID
    return reply["response"]


def patch(response: Mapping[str, Any]) -> list[dict[str, Any]]:
    assert response["patchType"] == "JSONPatch"
    return json.loads(base64.b64decode(response["patch"], validate=True))


def patched(known: admission.Knowledge, obj: dict[str, Any]) -> dict[str, Any]:
    """Return the pod as the API server would keep it."""
    response = asked(known, obj)
    assert response["allowed"] is True
    return patches.apply_operations(copy.deepcopy(obj), patch(response)) if "patch" in response else obj


def test_a_pod_with_our_claim_gets_gate_labels_and_decision_id() -> None:
    made = patched(Cluster({"gpu": True}), pod())
    assert made["spec"]["schedulingGates"] == [{"name": "muster.dev/placement"}]
    assert made["metadata"]["labels"] == {"muster.dev/gang": "gang-ring", "muster.dev/tenant": "tenant-of-ml"}
    assert made["metadata"]["annotations"] == {"muster.dev/decision-id": "d-0"}
    assert made["spec"]["newField"] == {"kept": [1, None]}


def test_what_is_there_stays_and_what_is_right_is_left_alone() -> None:
    obj = pod(labels={"app": "x", names.TENANT: "blue"}, annotations={names.DECISION: "gw-1", "a": "b"})
    obj["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/topology"}]
    made = patched(Cluster(), obj)
    assert made["spec"]["schedulingGates"] == [{"name": "kueue.x-k8s.io/topology"}, {"name": names.GATE}]
    assert made["metadata"]["labels"] == {"app": "x", names.TENANT: "blue", names.GANG: "gang-ring"}
    assert made["metadata"]["annotations"] == {names.DECISION: "gw-1", "a": "b"}


def test_asked_again_it_changes_nothing() -> None:
    known = Cluster()
    made = patched(known, pod(generateName="w-", name=""))
    again = asked(known, made)
    assert again["allowed"] and "patch" not in again
    assert known.given == ["d-0"]


@pytest.mark.parametrize(("mine", "gated"), [(True, True), (None, True), (False, False)])
def test_foreign_claims_are_left_alone_and_unknown_ones_wait(mine: bool | None, gated: bool) -> None:
    known = Cluster({} if mine is None else {"gpu": mine})
    assert ("patch" in asked(known, pod())) is gated
    assert known.asked == [("ml", admission.TEMPLATE, "gpu")]


def test_one_claim_of_ours_among_foreign_ones_is_enough() -> None:
    obj = pod("foreign")
    obj["spec"]["resourceClaims"].append({"name": "b", "resourceClaimName": "mine"})
    known = Cluster({"foreign": False, "mine": True})
    assert "patch" in asked(known, obj)
    assert known.asked == [("ml", admission.TEMPLATE, "foreign"), ("ml", admission.CLAIM, "mine")]


def test_a_reference_of_a_kind_that_we_do_not_know_waits() -> None:
    obj = pod("")
    obj["spec"]["resourceClaims"] = [{"name": "a", "podGroupResourceClaim": "shared"}]
    assert "patch" in asked(Cluster(), obj)


def test_pods_without_claims_and_pods_with_a_node_pass() -> None:
    assert asked(Cluster(), pod("")) == {"uid": UID, "allowed": True}
    obj = pod()
    obj["spec"]["nodeName"] = "n-0"
    response = asked(Cluster(), obj)
    assert "patch" not in response and "n-0" in response["warnings"][0]


def test_a_claim_by_name_that_nobody_knows_waits() -> None:
    obj = pod("")
    obj["spec"]["resourceClaims"] = [{"name": "a", "resourceClaimName": "new"}]
    assert "patch" in asked(Cluster(), obj) and "patch" not in asked(Cluster({"new": False}), obj)


def test_other_operations_pass() -> None:
    assert asked(Cluster(), None, operation="DELETE") == {"uid": UID, "allowed": True}
    assert asked(Cluster(), {"kind": "Binding"}, subResource="binding") == {"uid": UID, "allowed": True}


def test_a_gang_label_of_the_user_does_not_count() -> None:
    obj = pod(labels={names.GANG: "gang-of-another"})
    assert patched(Cluster(), obj)["metadata"]["labels"][names.GANG] == "gang-ring"
    assert names.GANG not in patched(Cluster(gangs=""), obj)["metadata"]["labels"]


def test_contradictions_are_refused_with_object_field_and_remedy() -> None:
    response = asked(Cluster(), pod(name="", generateName="w-", annotations={names.GANG_SIZE: "-3"}))
    assert response["allowed"] is False and "patch" not in response
    assert response["status"]["code"] == 422
    assert response["status"]["message"] == (
        "pod ml/w-*, field metadata.annotations[muster.dev/gang-size]: is not what it has to be, got '-3'; "
        "write a whole number from 1 to 100000"
    )


def test_annotations_of_foreign_pods_are_not_our_business() -> None:
    assert asked(Cluster({"gpu": False}), pod(annotations={names.GANG_SIZE: "-3"}))["allowed"] is True


def test_what_the_cluster_refuses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = bad_input.BadInput("is more than the Job has", file="Job ml/ring", field="x", remedy="write 4")

    def contradicts(self: Cluster, pod: Mapping[str, Any]) -> str:
        raise wishes.Contradiction((fault,))

    def unreadable(self: Cluster, pod: Mapping[str, Any]) -> str:
        raise ValueError("quantity 1x")

    monkeypatch.setattr(Cluster, "gang", contradicts)
    assert "Job ml/ring" in asked(Cluster(), pod())["status"]["message"]
    monkeypatch.setattr(Cluster, "gang", unreadable)
    with pytest.raises(wire.BadRequest, match="pod ml/w-0: quantity 1x"):
        asked(Cluster(), pod())


def test_slips_are_warned_of() -> None:
    response = asked(Cluster(), pod(annotations={"muster.dev/rnk": "0", "muster.dev/" + "x" * 300: "y"}))
    assert response["warnings"][0] == "annotation muster.dev/rnk is not read by Muster; did you mean muster.dev/rank?"
    assert all(len(one) <= 120 for one in response["warnings"])


def test_warnings_are_short_and_few() -> None:
    said = json.loads(review.allowed(UID, warnings=["w" * 500] * 50))["response"]["warnings"]
    assert said == ["w" * 120] * 8


def test_keys_are_escaped_in_pointers() -> None:
    assert admission._pointer(("metadata", "labels", "a/b~c")) == "/metadata/labels/a~1b~0c"


BAD = {
    "no JSON": b"{",
    "no review": b"{}",
    "not UTF-8": b'{"apiVersion": "\xff"}',
    "old version": body(pod()).replace(b"admission.k8s.io/v1", b"admission.k8s.io/v1beta1"),
    "no pod": body(pod(), kind={"group": "apps", "version": "v1", "kind": "Deployment"}),
    "no object": body(None),
    "labels of a wrong type": body(pod(labels={"a": 1})),
    "claims of a wrong type": body({"metadata": {}, "spec": {"resourceClaims": {"a": "b"}}}),
    "deep": body(pod()).replace(b'"newField": {', b'"newField": ' + b"[" * 200_000 + b"{"),
    "deep elsewhere": body(pod()).replace(b'"anna"', b"[" * 200_000),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_review_is_refused(name: str) -> None:
    with pytest.raises(wire.BadRequest) as refused:
        admission.answer(Cluster(), BAD[name])
    assert 10 < len(str(refused.value)) < 400


TEXT = st.text(max_size=10)
MAPS = st.none() | st.dictionaries(st.sampled_from([names.GANG, names.TENANT, names.DECISION, "a/b~c"]), TEXT)
GATES = st.none() | st.lists(st.sampled_from([names.GATE, "other/gate"]).map(lambda name: {"name": name}), max_size=2)


@over(MAPS, MAPS, GATES, st.sampled_from(["", "gang-ring"]))
def test_any_patch_applies_and_is_idempotent(
    labels: dict[str, str] | None, annotations: dict[str, str] | None, gates: list[dict[str, str]] | None, gang: str
) -> None:
    obj = pod(labels=labels, annotations=annotations)
    obj["spec"]["schedulingGates"] = gates
    known = Cluster(gangs=gang)
    response = asked(known, obj)
    if not response["allowed"]:
        assert "decision-id" in response["status"]["message"]
        return
    made = patches.apply_operations(copy.deepcopy(obj), patch(response)) if "patch" in response else obj
    assert {"name": names.GATE} in made["spec"]["schedulingGates"]
    assert made["metadata"]["labels"].get(names.GANG, "") == gang
    assert made["metadata"]["labels"][names.TENANT] and made["metadata"]["annotations"][names.DECISION]
    assert "patch" not in asked(known, made)


async def test_over_http_bad_input_is_a_400_and_all_is_counted() -> None:
    metrics = server.Metrics.new()
    hook = webhook.Webhook.new(Cluster(), metrics.registry)
    face = server.Face(lambda: None, metrics=metrics, also=(hook.route(),))
    async with given.listening(face) as url, aiohttp.ClientSession(url) as session:
        async with session.post("/mutate-pods?timeout=2s", data=body(pod())) as answer:
            assert answer.status == 200 and (await answer.json())["response"]["allowed"] is True
        for bad, words in ((b"{", "body"), (io.BytesIO(b"x" * (review.MAX_BYTES + 1)), "is larger than 4194304")):
            async with session.post("/mutate-pods", data=bad) as answer:
                assert answer.status == 400 and words in (await answer.json())["Error"]
        async with session.get("/mutate-pods") as answer:
            assert answer.status == 405
        async with session.get("/metrics") as answer:
            told = parser.text_string_to_metric_families(await answer.text())
            found = {sample.name: sample.value for family in told for sample in family.samples if not sample.labels}
            assert found["muster_admission_duration_seconds_count"] == 1
