"""The trace from the gating webhook on, and the trace id in logs."""

import asyncio
import base64
import json
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace.export import in_memory_span_exporter

from scheduler.apiserver import client, errors
from scheduler.kube import names
from scheduler.tracing import context, exporter
from tests.kube import live
from tests.testbed import ports


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    async with live.cluster(tmp_path) as found:
        yield found


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> in_memory_span_exporter.InMemorySpanExporter:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    kept = in_memory_span_exporter.InMemorySpanExporter()
    monkeypatch.setattr(exporter.trace_exporter, "OTLPSpanExporter", lambda endpoint: kept)
    return kept


def review(pod: dict[str, Any]) -> dict[str, Any]:
    asked = {"uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "default"}
    asked |= {"operation": "CREATE", "object": pod}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}


def post(port: int, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/mutate-pods", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)["response"]


async def admit(port: int, pod: dict[str, Any]) -> dict[str, Any]:
    """Return a pod as the API server makes it of what the webhook says."""
    said = await asyncio.to_thread(post, port, review(pod))
    assert said["allowed"], said
    for one in json.loads(base64.b64decode(said["patch"])) if "patch" in said else ():
        parts = [part.replace("~1", "/").replace("~0", "~") for part in one["path"].strip("/").split("/")]
        at = pod
        for part in parts[:-1]:
            at = at[part]
        at[parts[-1]] = one["value"]
    return pod


async def serving(home: live.Cluster, **settings: Any) -> int:
    [port] = ports.free(1)
    await home.start(port=port, **settings)

    async def ready() -> bool:
        try:
            await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/readyz", timeout=5)
        except OSError:
            return False
        return True

    await home.until(ready)
    return port


async def test_admissions_are_below_the_root_that_the_leader_writes(
    home: live.Cluster, memory: in_memory_span_exporter.InMemorySpanExporter
) -> None:
    port = await serving(home, otlp_endpoint="http://127.0.0.1:1")
    pods = [await admit(port, live.pod(f"w-{i}", "g", 3, gated=False)) for i in range(3)]
    notes = [pod["metadata"]["annotations"] for pod in pods]
    assert len({one[names.TRACEPARENT] for one in notes}) == len({one[names.DECISION] for one in notes}) == 1
    found = context.of(notes[0][names.DECISION])
    assert notes[0][names.TRACEPARENT] == found.header()
    await home.create(*pods)
    await home.bound("w-0", "w-1", "w-2")

    async def finished() -> bool:
        return "gang" in {span.name for span in memory.get_finished_spans()}

    await home.until(finished)
    spans = memory.get_finished_spans()
    [root] = [span for span in spans if span.name == "gang"]
    admitted = [span for span in spans if span.name == "admit"]
    assert root.parent is None and f"{root.context.trace_id:032x}" == found.trace_id
    assert {span.attributes["pod"] for span in admitted} == {f"pod default/w-{i}" for i in range(3)}
    assert {span.parent.span_id for span in admitted} == {root.context.span_id}
    assert root.start_time == min(span.start_time for span in admitted), "the gang begins with its first admission"
    placement = await home.placement("gang-g")
    assert placement is not None and placement["metadata"]["annotations"][names.TRACEPARENT] == found.header()


async def test_the_webhook_keeps_the_submitters_trace_and_replaces_nonsense(
    home: live.Cluster, memory: in_memory_span_exporter.InMemorySpanExporter
) -> None:
    port = await serving(home, otlp_endpoint="http://127.0.0.1:1")
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    kept = await admit(port, live.pod("w-0", "g", 2, gated=False, traceparent=given))
    assert kept["metadata"]["annotations"][names.TRACEPARENT] == given
    mended = await admit(port, live.pod("x-0", "h", 2, gated=False, traceparent="nonsense"))
    notes = mended["metadata"]["annotations"]
    assert notes[names.TRACEPARENT] == context.of(notes[names.DECISION]).header()


async def test_the_webhook_counts_what_becomes_of_pods(home: live.Cluster) -> None:
    port = await serving(home)
    pod = await admit(port, live.pod("w-0", "g", 2, gated=False))
    assert names.TRACEPARENT not in pod["metadata"]["annotations"], "nothing is traced"
    other = live.pod("x", gated=False)
    del other["spec"]["resourceClaims"]
    await admit(port, other)
    denied = await asyncio.to_thread(post, port, review(live.pod("y", "g", -1, gated=False)))
    assert denied["allowed"] is False
    assert home.scheduler is not None
    count = home.scheduler.meters.registry.get_sample_value
    told = {word: count("muster_admission_reviews_total", {"outcome": word}) for word in ("gated", "left", "denied")}
    assert told == {"gated": 1, "left": 1, "denied": 1}


class Forgetful(client.Client):
    """Can't write the last status of a placement."""

    told = 0

    async def open(self, method: str, path: str, *rest: Any, **more: Any) -> Any:
        if method == "PATCH" and "/gangplacements/" in path and path.endswith("/status"):
            self.told += 1
            if self.told == 2:
                raise errors.ApiError(403, "Forbidden", "refused by the test")
        return await super().open(method, path, *rest, **more)


async def test_what_is_logged_while_a_gang_is_written_names_its_trace(
    home: live.Cluster, memory: in_memory_span_exporter.InMemorySpanExporter
) -> None:
    async with await Forgetful.connect(home.kubeconfig) as api:
        inner, home.api = home.api, api
        with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
            await home.start(otlp_endpoint="http://127.0.0.1:1")
            home.api = inner
            await home.create(*(live.pod(f"w-{i}", "g", 2, decision_id="d-1") for i in range(2)))
            await home.bound("w-0", "w-1")
            await home.until(lambda: _true(any(one["event"] == "status not written" for one in logs)))
        await home.stop()
    [told] = [one for one in logs if one["event"] == "status not written"]
    assert told["trace_id"] == context.of("d-1").trace_id and told["gang"] == "default/gang-g"


async def _true(found: bool) -> bool:
    return found
