"""The scheduler's manifests: that they agree with its settings and with each other, and that real servers take them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler import config
from scheduler.kube import world
from scheduler.model import names
from scheduler.web import server, webhook
from tests.testbed import cluster as clusters
from tests.testbed import process

DEPLOY = Path(__file__).parents[2] / "deploy/scheduler"
INSTALLED = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())["resources"]
SPACE, NAME = "muster-system", "muster-scheduler"
LABELS = {"app.kubernetes.io/name": NAME}

Obj = dict[str, Any]


def manifest(*files: str) -> list[Obj]:
    return [one for file in files for one in yaml.safe_load_all((DEPLOY / file).read_text())]


def of_kind(kind: str, *files: str) -> Obj:
    [found] = [one for one in manifest(*(files or INSTALLED)) if one["kind"] == kind]
    return found


def pod() -> Obj:
    found: Obj = of_kind("Deployment")["spec"]["template"]
    return found


def container() -> Obj:
    [found] = pod()["spec"]["containers"]
    return found


def settings() -> config.Config:
    """Return the settings that the Deployment gives."""
    values = {"NAMESPACE": SPACE, "POD_NAME": "one"}
    given = dict(one.removeprefix("--").split("=", 1) for one in container()["args"])
    filled = {name: _filled(value, values) for name, value in given.items()}
    return config.Config(**{name.replace("-", "_"): value for name, value in filled.items()})


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"$({name})", value)
    assert "$(" not in text, f"{text} uses a variable that the container does not have"
    return text


def test_every_argument_is_a_setting() -> None:
    found = settings()
    refs = {one["name"]: one["valueFrom"]["fieldRef"]["fieldPath"] for one in container()["env"]}
    assert refs == {"NAMESPACE": "metadata.namespace", "POD_NAME": "metadata.name"}
    assert (found.namespace, found.identity, found.leader_elect) == (SPACE, "one", True)
    assert not found.kubeconfig, "in a pod its own account is used"


def test_the_certificate_is_where_the_secret_is_mounted() -> None:
    found = settings()
    mount, decisions = container()["volumeMounts"]
    volume, kept = pod()["spec"]["volumes"]
    assert (mount["name"], decisions["name"]) == (volume["name"], kept["name"])
    assert found.audit_folder == decisions["mountPath"]
    assert "subPath" not in mount, "a single file would not change when the certificate is renewed"
    files = {Path(one) for one in (found.tls_certificate, found.tls_key, found.client_ca)}
    assert {str(one.parent) for one in files} == {mount["mountPath"]}
    assert {one.name for one in files} == {"tls.crt", "tls.key", "ca.crt"}, "the keys of cert-manager's secrets"
    secrets = {
        one["metadata"]["name"]: one["spec"] for one in manifest("certificates.yaml") if "secretName" in one["spec"]
    }
    [served] = [one for one in secrets.values() if one["secretName"] == volume["secret"]["secretName"]]
    assert f"{NAME}.{SPACE}.svc" in served["dnsNames"]


def test_the_ports_agree() -> None:
    found = settings()
    ports = {one["name"]: one["containerPort"] for one in container()["ports"]}
    assert ports == {"extender": found.port, "webhook": found.webhook_port}
    for probe in ("livenessProbe", "readinessProbe"):
        asked = container()[probe]["httpGet"]
        assert (asked["port"], asked["scheme"]) == ("webhook", "HTTPS"), "the kubelet has no client certificate"
    notes = pod()["metadata"]["annotations"]
    assert int(notes["prometheus.io/port"]) == found.webhook_port
    service = {one["port"]: one["targetPort"] for one in of_kind("Service")["spec"]["ports"]}
    assert service == {443: "webhook", 9443: "extender"}
    allowed = of_kind("NetworkPolicy")["spec"]["ingress"]
    assert {one["port"] for rule in allowed for one in rule["ports"]} == set(ports)


def test_the_registered_webhook_is_what_is_served() -> None:
    [hook] = of_kind("MutatingWebhookConfiguration", "webhook.yaml")["webhooks"]
    asked = hook["clientConfig"]["service"]
    service = of_kind("Service")
    assert (asked["name"], asked["namespace"]) == (service["metadata"]["name"], service["metadata"]["namespace"])
    assert asked["path"] == webhook.PATH
    assert {one["port"]: one["targetPort"] for one in service["spec"]["ports"]}[asked["port"]] == "webhook"


def test_the_stock_scheduler_asks_what_is_served() -> None:
    [told] = of_kind("KubeSchedulerConfiguration", "kube-scheduler.yaml")["extenders"]
    assert tuple(told[f"{verb}Verb"] for verb in server.VERBS) == server.VERBS
    assert "bindVerb" not in told and "managedResources" not in told
    assert told["weight"] == settings().extender_weight
    assert told["nodeCacheCapable"] and told["ignorable"]
    assert told["urlPrefix"].endswith(f":{settings().port}")
    assert told["tlsConfig"]["serverName"] == f"{NAME}.{SPACE}.svc"


def test_what_selects_the_pods_selects_them() -> None:
    assert pod()["metadata"]["labels"] == LABELS
    assert of_kind("Deployment")["spec"]["selector"]["matchLabels"] == LABELS
    assert of_kind("Service")["spec"]["selector"] == LABELS
    assert of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == LABELS
    assert of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == LABELS
    [apart] = pod()["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert apart["podAffinityTerm"]["labelSelector"]["matchLabels"] == LABELS


def test_both_parts_of_muster_have_the_same_namespace() -> None:
    """Whoever is applied last would take away the other's labels."""
    assert manifest("namespace.yaml") == list(yaml.safe_load_all((DEPLOY.parent / "driver/namespace.yaml").read_text()))
    assert manifest("namespace.yaml")[0]["metadata"]["name"] == SPACE
    for one in manifest(*INSTALLED, "certificates.yaml"):
        assert one["metadata"].get("namespace", SPACE) == SPACE


def test_the_roles_are_bound_to_the_account_of_the_pods() -> None:
    bound = [one for one in manifest("rbac.yaml", "kueue.yaml") if one["kind"].endswith("Binding")]
    account = {"kind": "ServiceAccount", "name": pod()["spec"]["serviceAccountName"], "namespace": SPACE}
    assert [one["subjects"] for one in bound] == [[account]] * 3
    made = {(one["kind"], one["metadata"]["name"]) for one in manifest("rbac.yaml", "kueue.yaml")}
    assert {(one["roleRef"]["kind"], one["roleRef"]["name"]) for one in bound} <= made


def test_the_lease_that_may_be_taken_is_the_one_that_is_taken() -> None:
    role = of_kind("Role")
    named = [rule["resourceNames"] for rule in role["rules"] if "resourceNames" in rule]
    assert named == [[settings().lease]]


def test_every_watched_kind_may_be_watched() -> None:
    """Also the kinds that a cluster may not have: the API server looks at the right before it says so."""
    may = {
        (group, resource)
        for one in manifest("rbac.yaml")
        if one["kind"] == "ClusterRole" and one["metadata"]["name"] == NAME
        for rule in one["rules"]
        if {"list", "watch"} <= set(rule["verbs"])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    watched = {_group_and_plural(path) for kind in world.KINDS for path in kind.paths}
    assert may == watched


def _group_and_plural(path: str) -> tuple[str, str]:
    parts = path.strip("/").split("/")
    return ("" if parts[0] == "api" else parts[1], parts[-1])


def test_no_right_reaches_secrets_or_makes_pods() -> None:
    for one in manifest("rbac.yaml", "kueue.yaml"):
        for rule in one.get("rules", ()):
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            assert "secrets" not in rule["resources"]
            assert not ("pods" in rule["resources"] and "create" in rule["verbs"])
            assert not {"nodes/status", "pods/exec", "pods/binding", "serviceaccounts/token"} & set(rule["resources"])


def test_the_taint_is_the_one_that_the_scheduler_looks_for() -> None:
    spec = of_kind("DeviceTaintRule", "ownership.yaml")["spec"]
    assert spec == {
        "deviceSelector": {"driver": "gpu.muster.dev"},
        "taint": {"key": names.OWNED, "effect": "NoSchedule"},
    }


def served(home: clusters.Cluster, items: list[Obj]) -> Iterator[Obj]:
    """Leave out what this version does not have."""
    for one in items:
        recent = {"DeviceTaintRule": 37, "MutatingAdmissionPolicy": 36, "MutatingAdmissionPolicyBinding": 36}
        if home.kubernetes.minor >= recent.get(one["kind"], 0):
            yield one


async def test_a_real_server_takes_every_field(cluster: clusters.Cluster) -> None:
    optional = ["webhook.yaml", "webhook-policy.yaml", "ownership.yaml"]
    roles = [one for one in manifest("kueue.yaml") if one["kind"] != "AdmissionCheck"]
    items = list(served(cluster, [*manifest(*INSTALLED, *optional), *roles]))
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    space = json.dumps(manifest("namespace.yaml")[0])
    await asyncio.to_thread(cluster.kubectl, "apply", "-f", "-", stdin=space)
    took = (await asyncio.to_thread(cluster.kubectl, *clusters.TRY_APPLY, stdin=text)).split()
    assert len(took) == len(items)
    with pytest.raises(process.Failed, match="unknown field"):
        text = text.replace('"maxUnavailable": 1', '"maxUnavailables": 1')
        await asyncio.to_thread(cluster.kubectl, *clusters.TRY_APPLY, stdin=text)


async def test_the_pods_pass_the_restricted_standard(cluster: clusters.Cluster) -> None:
    """Held by the server's own check, in a namespace that enforces it."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "muster-strict", "labels": labels}}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": "muster-strict"}}
    told = json.dumps({"apiVersion": "v1", "kind": "List", "items": [space, account]})
    await asyncio.to_thread(cluster.kubectl, "apply", "-f", "-", stdin=told)
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "namespace": "muster-strict"}} | {
        "spec": pod()["spec"]
    }
    asked = ("create", "--dry-run=server", "-f", "-")
    try:
        assert "created" in await asyncio.to_thread(cluster.kubectl, *asked, stdin=json.dumps(body))
        loose = json.dumps(body).replace('"runAsNonRoot": true, ', "")
        with pytest.raises(process.Failed, match="PodSecurity"):
            await asyncio.to_thread(cluster.kubectl, *asked, stdin=loose)
    finally:
        await asyncio.to_thread(cluster.kubectl, "delete", "namespace", "muster-strict", "--wait=false")
