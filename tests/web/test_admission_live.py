"""The gating webhook as a real API server calls it, on the newest version and on the floor."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.apiserver import client, errors, paths
from scheduler.model import names
from scheduler.web import server, tls, webhook
from tests.testbed import cluster as clusters
from tests.testbed import objects
from tests.testbed.assumptions import world
from tests.testbed.assumptions.conftest import assumed  # noqa: F401  a fixture
from tests.testbed.controllers import manifests, webhooks
from tests.web import given, test_admission

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "scheduler"
LATENCY_S = (
    0.05  # far above what was seen (about 3 ms), far below what a connection for each call would cost in a crowd
)
FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Hooked:
    """A managed namespace whose pods pass the webhook."""

    here: world.World
    known: test_admission.Cluster

    async def create(self, obj: dict[str, Any], **params: str) -> dict[str, Any]:
        return await self.here.api.create(self.here.path("pods"), obj, **params)


def pod(name: str = "w-0", template: str = "gpu", **metadata: Any) -> dict[str, Any]:
    made = objects.pod(name, template=template)
    made["metadata"] |= metadata
    return made


async def manage(api: client.Client, namespace: str, **labels: str) -> None:
    told = {"metadata": {"labels": {names.MANAGED: "true"} | labels}}
    await api.patch(paths.of("v1", "namespaces", "", namespace), told)


@contextlib.asynccontextmanager
async def applied(api: client.Client, loaded: list[manifests.Object]) -> AsyncIterator[None]:
    """Apply objects, and take them away at the end."""
    await manifests.apply(api, loaded)
    try:
        yield
    finally:
        known = manifests.Paths(api)
        for one in reversed(loaded):
            await api.delete(await known.of(one))


@pytest.fixture
async def here(assumed: clusters.Cluster) -> AsyncIterator[world.World]:  # noqa: F811
    async with await client.Client.connect(assumed.kubeconfig) as api, world.World.open(assumed, api) as opened:
        yield opened


@pytest.fixture
async def hooked(here: world.World) -> AsyncIterator[Hooked]:
    """The webhook of deploy/, called by URL; answered in this process."""
    known = test_admission.Cluster({FOREIGN: False}, namespace=here.namespace)
    pair = here.home.authority.issue("muster-scheduler")
    metrics = server.Metrics.new()
    face = server.Face(lambda: None, metrics=metrics, also=(webhook.Webhook.new(known, metrics.registry).route(),))
    [registration] = yaml.safe_load_all((DEPLOY / "webhook.yaml").read_text())
    async with given.listening(face, tls.Tls(pair.cert, pair.key)) as url:
        port = int(url.rsplit(":", 1)[1])
        async with applied(here.api, webhooks.by_url([registration], port, here.home.authority.ca.read_bytes())):
            await manage(here.api, here.namespace)
            probe = pod("probe")
            probe["metadata"]["namespace"] = here.namespace
            await webhooks.answer(here.api, probe, ("spec", "schedulingGates"))
            known.given.clear()
            yield Hooked(here, known)


async def test_pods_come_gated_and_labelled(hooked: Hooked) -> None:
    made = await hooked.create(pod())
    assert made["spec"]["schedulingGates"] == [{"name": names.GATE}]
    assert made["metadata"]["labels"] == {names.GANG: "gang-ring", names.TENANT: f"tenant-of-{hooked.here.namespace}"}
    assert made["metadata"]["annotations"][names.DECISION] == hooked.known.given[0]


async def test_a_generated_name_is_not_yet_there(hooked: Hooked) -> None:
    obj = pod(generateName="w-")
    del obj["metadata"]["name"]
    made = await hooked.create(obj)
    assert made["metadata"]["name"].startswith("w-") and made["metadata"]["labels"][names.GANG] == "gang-ring"
    assert hooked.known.called[-1]["metadata"]["name"] in ("", made["metadata"]["name"])


async def test_foreign_and_plain_pods_come_as_they_are(hooked: Hooked) -> None:
    for obj in (pod("foreign", FOREIGN), pod("plain", "")):
        made = await hooked.create(obj)
        assert "schedulingGates" not in made["spec"] and "labels" not in made["metadata"]
    placed = pod("placed")
    placed["spec"]["nodeName"] = "nowhere"
    assert "schedulingGates" not in (await hooked.create(placed))["spec"]


async def test_a_namespace_that_is_not_managed_is_left_alone(hooked: Hooked) -> None:
    api = hooked.here.api
    async with world.World.open(hooked.here.home, api) as other:
        made = await api.create(other.path("pods"), pod())
        assert "schedulingGates" not in made["spec"]


async def test_a_contradiction_is_read_at_apply(hooked: Hooked) -> None:
    with pytest.raises(errors.ApiError) as refused:
        await hooked.create(pod(annotations={names.GANG_SIZE: "-3"}))
    assert refused.value.status == 422
    assert "w-0, field metadata.annotations[muster.dev/gang-size]" in refused.value.message
    assert "write a whole number" in refused.value.message


async def test_a_dry_run_keeps_nothing(hooked: Hooked) -> None:
    made = await hooked.create(pod("dry"), dryRun="All")
    assert made["spec"]["schedulingGates"] == [{"name": names.GATE}]
    assert await hooked.here.get("pods", "dry") is None


async def test_pods_of_a_job_are_gated(hooked: Hooked) -> None:
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "ring", "namespace": hooked.here.namespace},
        "spec": {"parallelism": 2, "completions": 2, "completionMode": "Indexed"},
    }
    job["spec"]["template"] = {"spec": pod()["spec"]}
    await hooked.here.api.create(paths.of("batch/v1", "jobs", hooked.here.namespace), job)

    async def both() -> list[Any]:
        found, _ = await hooked.here.api.list(hooked.here.path("pods"))
        return found if len(found) == 2 else []

    for one in await hooked.here.until(both):
        assert one["spec"]["schedulingGates"] == [{"name": names.GATE}]


async def test_a_webhook_that_is_down_stops_nobody(here: world.World) -> None:
    [registration] = yaml.safe_load_all((DEPLOY / "webhook.yaml").read_text())
    [nobody] = webhooks.by_url([registration], 1, here.home.authority.ca.read_bytes())
    async with applied(here.api, [nobody]):
        await manage(here.api, here.namespace)
        nobody["webhooks"][0]["failurePolicy"] = "Fail"  # shows that the API server does call
        await manifests.apply(here.api, [nobody])
        await here.until(functools.partial(refused, here))
        nobody["webhooks"][0]["failurePolicy"] = registration["webhooks"][0]["failurePolicy"]
        await manifests.apply(here.api, [nobody])
        await here.until(functools.partial(taken, here))
        assert "schedulingGates" not in (await here.get("pods", "w-0"))["spec"]


async def refused(here: world.World) -> bool:
    try:
        await here.api.create(here.path("pods"), pod("w-1"), dryRun="All")
    except errors.ApiError as error:
        return "failed calling webhook" in error.message
    return False


async def taken(here: world.World) -> bool:
    try:
        await here.api.create(here.path("pods"), pod())
    except errors.ApiError:
        return False
    return True


async def test_the_webhook_costs_little(hooked: Hooked, record_property: Any) -> None:
    async with world.World.open(hooked.here.home, hooked.here.api) as other:
        took: dict[str, list[float]] = {"with": [], "without": []}
        for index in range(100):
            for name, place in (("with", hooked.here), ("without", other)):
                began = time.perf_counter()
                await place.api.create(place.path("pods"), pod(f"p-{index}"), dryRun="All")
                took[name].append(time.perf_counter() - began)
    median = {name: sorted(values)[50] for name, values in took.items()}
    record_property("median_s", median)
    print("median seconds of a pod's creation", median)
    assert median["with"] - median["without"] < LATENCY_S


async def test_the_policy_gates_without_a_webhook(here: world.World) -> None:
    if here.minor < 36:
        pytest.skip("MutatingAdmissionPolicy v1 came with 1.36")
    loaded = list(yaml.safe_load_all((DEPLOY / "webhook-policy.yaml").read_text()))
    async with applied(here.api, loaded):
        await manage(here.api, here.namespace, **{names.TENANT: "blue"})
        probe = pod("probe")
        probe["metadata"]["namespace"] = here.namespace
        await webhooks.answer(here.api, probe, ("spec", "schedulingGates"))
        made = await here.api.create(here.path("pods"), pod("bare"))
        assert made["spec"]["schedulingGates"] == [{"name": names.GATE}]
        assert made["metadata"]["labels"] == {names.TENANT: "blue"}
        other = pod("dressed", labels={"app": "x", names.TENANT: "red"})
        other["spec"]["schedulingGates"] = [{"name": "other/gate"}, {"name": names.GATE}]
        made = await here.api.create(here.path("pods"), other)
        assert [one["name"] for one in made["spec"]["schedulingGates"]] == ["other/gate", names.GATE]
        assert made["metadata"]["labels"] == {"app": "x", names.TENANT: "red"}
        plain = await here.api.create(here.path("pods"), pod("plain", ""))
        assert "schedulingGates" not in plain["spec"]
