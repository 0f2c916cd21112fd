"""Traces of gangs, from a scheduler that works on the embedded API server."""

import asyncio
import gzip
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import structlog
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import in_memory_span_exporter

from scheduler import bad_input
from scheduler.kube import names
from scheduler.tracing import context, exporter, opening
from tests.kube import live

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Collector:
    """An OTLP/HTTP collector that keeps what it gets; `status` is what it answers after `delay_s`."""

    def __init__(self) -> None:
        self.spans: list[object] = []
        self.services: set[str] = set()
        self.paths: list[str] = []
        self.status, self.delay_s = 200, 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(outer.delay_s)
                outer.take(self.path, gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def take(self, path: str, body: bytes) -> None:
        self.paths.append(path)
        if self.status == 200:
            for group in trace_service_pb2.ExportTraceServiceRequest.FromString(body).resource_spans:
                self.services |= {a.value.string_value for a in group.resource.attributes if a.key == "service.name"}
                self.spans += [span for scope in group.scope_spans for span in scope.spans]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join(5)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    found = Collector()
    yield found
    found.close()


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    async with live.cluster(tmp_path) as found:
        yield found


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> in_memory_span_exporter.InMemorySpanExporter:
    """Spans of the schedulers that are started in the test."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    kept = in_memory_span_exporter.InMemorySpanExporter()
    monkeypatch.setattr(exporter.trace_exporter, "OTLPSpanExporter", lambda endpoint: kept)
    return kept


async def spans(home: live.Cluster, kept: in_memory_span_exporter.InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """Return the spans by name once the root is there."""

    async def ask() -> dict[str, ReadableSpan]:
        found = {span.name: span for span in kept.get_finished_spans()}
        return found if "gang" in found else {}

    await home.until(ask)
    assert home.scheduler is not None and home.scheduler.tracing is not None
    home.scheduler.tracing.flush()
    return {span.name: span for span in kept.get_finished_spans()}


async def test_a_gang_has_one_trace_from_its_first_pod_to_its_binding(
    home: live.Cluster, memory: in_memory_span_exporter.InMemorySpanExporter
) -> None:
    await home.start(otlp_endpoint="http://127.0.0.1:1")
    await home.create(*(live.pod(f"w-{i}", "g", 3, decision_id="d-17") for i in range(3)))
    await home.bound("w-0", "w-1", "w-2")
    found = await spans(home, memory)
    wanted = {"gather", "plan", "write", "free", "record", "claims", "release", "status", "bind", "gang"}
    assert found.keys() == wanted
    root, trace = found["gang"], context.of("d-17")
    assert {f"{span.context.trace_id:032x}" for span in found.values()} == {trace.trace_id}
    assert f"{root.context.span_id:016x}" == trace.root and root.parent is None
    inside = {"free", "record", "claims", "release", "status"}
    for name in inside:
        assert found[name].parent.span_id == found["write"].context.span_id, name
    for name in wanted - inside - {"gang"}:
        assert found[name].parent.span_id == root.context.span_id, name
    order = ("gather", "plan", "free", "record", "claims", "release", "status")
    for before, after in itertools.pairwise(order):
        assert found[before].end_time <= found[after].start_time + 1_000_000, (before, after)
    assert all(root.start_time - 1_000_000 <= span.start_time <= span.end_time for span in found.values())
    assert root.attributes["muster.gang"] == "default/gang-g" and root.attributes["muster.gpus"] == 24
    assert root.attributes["muster.decision_id"] == "d-17" and root.status.is_unset
    assert found["plan"].attributes["muster.level"] == "rack"
    placement = await home.placement("gang-g")
    assert placement is not None
    assert placement["metadata"]["annotations"][names.TRACEPARENT] == trace.header()
    assert placement["spec"]["plan"]["decisionID"] == "d-17"


async def test_the_trace_of_whoever_submitted_the_gang_goes_on(
    home: live.Cluster, memory: in_memory_span_exporter.InMemorySpanExporter
) -> None:
    await home.start(otlp_endpoint="http://127.0.0.1:1")
    await home.create(*(live.pod(f"w-{i}", "g", 2, decision_id="d-1", traceparent=PARENT) for i in range(2)))
    root = (await spans(home, memory))["gang"]
    assert f"{root.context.trace_id:032x}" == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert f"{root.parent.span_id:016x}" == "00f067aa0ba902b7" and root.parent.is_remote


async def test_a_submitter_who_wants_no_spans_gets_none(
    home: live.Cluster, memory: in_memory_span_exporter.InMemorySpanExporter
) -> None:
    await home.start(otlp_endpoint="http://127.0.0.1:1")
    unsampled = PARENT.removesuffix("01") + "00"
    await home.create(*(live.pod(f"w-{i}", "quiet", 2, decision_id="d-1", traceparent=unsampled) for i in range(2)))
    await home.bound("w-0", "w-1")
    await home.create(*(live.pod(f"x-{i}", "loud", 2) for i in range(2)))
    await spans(home, memory)
    assert {span.attributes.get("muster.gang") for span in memory.get_finished_spans()} == {"default/gang-loud", None}
    quiet = int("4bf92f3577b34da6a3ce929d0e0e4736", 16)
    assert quiet not in {span.context.trace_id for span in memory.get_finished_spans()}


async def test_waiting_is_a_span_with_the_reasons(
    home: live.Cluster, memory: in_memory_span_exporter.InMemorySpanExporter
) -> None:
    await home.start(otlp_endpoint="http://127.0.0.1:1")
    await home.create(*(live.pod(f"first-{i}", "first", 3) for i in range(3)))
    await home.bound("first-0", "first-1", "first-2")
    await spans(home, memory)
    memory.clear()
    await home.create(*(live.pod(f"second-{i}", "second", 2) for i in range(2)))
    await asyncio.sleep(0.3)
    for i in range(3):
        await home.api.delete(f"/api/v1/namespaces/default/pods/first-{i}")
    await home.bound("second-0", "second-1")
    found = await spans(home, memory)
    wait = found["wait"]
    assert wait.end_time - wait.start_time > 100_000_000
    assert [event.attributes["muster.reason"] for event in wait.events][:1] == ["InsufficientGPUs"]
    assert found["gather"].end_time <= wait.start_time + 1_000_000 <= found["plan"].start_time + 2_000_000
    assert found["gang"].attributes["muster.waited"] is True


async def test_a_real_collector_gets_the_spans(home: live.Cluster, collector: Collector) -> None:
    await home.start(otlp_endpoint=collector.url)
    await home.create(*(live.pod(f"w-{i}", "g", 2) for i in range(2)))
    await home.bound("w-0", "w-1")
    await home.until(lambda: _true("gang" in {span.name for span in collector.spans}))
    assert collector.services == {"muster-scheduler"} and set(collector.paths) == {"/v1/traces"}
    assert value(home, "exported") >= 9 and value(home, "failed") == value(home, "dropped") == 0


async def test_a_collector_that_is_down_costs_spans_and_nothing_else(
    home: live.Cluster, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "12")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    collector.status = 400
    with structlog.testing.capture_logs() as logs:
        await home.start(otlp_endpoint=collector.url)
        await home.create(*(live.pod(f"w-{i}", "g", 2) for i in range(2)))
        await home.bound("w-0", "w-1")
        await home.until(lambda: _true(value(home, "failed") >= 4))
        assert value(home, "exported") == 0
        await home.until(lambda: _true(value(home, "failed") + value(home, "dropped") >= 10))
        collector.status = 200
        await home.create(*(live.pod(f"x-{i}", "h", 2) for i in range(2)))
        await home.until(lambda: _true(value(home, "exported") >= 4))
    told = [one["event"] for one in logs if "spans" in one["event"]]
    assert told == ["spans can't be exported", "spans are exported again"]


async def test_spans_are_dropped_while_a_slow_collector_has_too_many(
    home: live.Cluster, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    collector.delay_s = 1.0
    await home.start(otlp_endpoint=collector.url)
    await home.create(*(live.pod(f"w-{i}", "g", 2) for i in range(2)))
    await home.bound("w-0", "w-1")
    await home.until(lambda: _true(value(home, "dropped") >= 3))
    began = time.monotonic()
    await home.stop()
    assert time.monotonic() - began < exporter.CLOSE_S + 3


async def _true(found: bool) -> bool:
    return found


def value(home: live.Cluster, result: str) -> float:
    assert home.scheduler is not None
    found = home.scheduler.meters.registry.get_sample_value("muster_tracing_spans_total", {"result": result})
    assert found is not None
    return found


async def test_without_an_endpoint_nothing_is_traced(home: live.Cluster) -> None:
    await home.start()
    assert home.scheduler is not None and home.scheduler.tracing is None
    await home.create(*(live.pod(f"w-{i}", "g", 2) for i in range(2)))
    await home.bound("w-0", "w-1")
    placement = await home.placement("gang-g")
    assert placement is not None and "annotations" not in placement["metadata"]


@pytest.mark.parametrize(
    ("endpoint", "environment", "wanted"),
    [
        ("", {}, False),
        ("http://c:4318", {}, True),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ("", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ("http://c:4318", {"OTEL_SDK_DISABLED": "true"}, False),
        ("http://c:4318", {"OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_when_spans_are_exported(endpoint: str, environment: dict[str, str], wanted: bool) -> None:
    assert opening.wanted(endpoint, environment) is wanted


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'opentelemetry'", name="opentelemetry")

    monkeypatch.setattr(opening.importlib, "import_module", missing)
    with pytest.raises(bad_input.BadInput, match=r"opentelemetry.*extra `tracing`"):
        opening.begin("http://c:4318", "a", None, {})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        PARENT.upper(),
        PARENT + "-more",
        "ff" + PARENT[2:],
        PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        PARENT.replace("00f067aa0ba902b7", "0" * 16),
        PARENT + "\n",
        "cc" + PARENT[2:] + "-" + "x" * 10_000,
    ],
)
def test_a_malformed_traceparent_is_ignored(text: str) -> None:
    assert context.read(text) is None
    assert context.of("d", text) == context.of("d")


def test_a_traceparent_of_a_later_version_is_read() -> None:
    assert context.read("cc" + PARENT[2:] + "-what-the-future-brings") == context.read(PARENT)


def test_our_own_traceparent_is_not_taken_for_a_parent() -> None:
    own = context.of("d-1")
    assert context.of("d-1", own.header()) == own
    assert context.of("d-2", own.header()).parent == own.root


def test_trace_ids_are_spread_for_samplers() -> None:
    """A quarter of the trace ids lie in each quarter of the half by which samplers draw."""
    drawn = [int(context.of(f"{i:032x}").trace_id[16:], 16) >> 62 for i in range(2000)]
    assert all(400 < drawn.count(quarter) < 600 for quarter in range(4))


def test_the_ratio_of_the_environment_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    tracing = exporter.Tracing("a", _registry(), in_memory_span_exporter.InMemorySpanExporter())
    flags = [tracing.spans.traceparent(f"d-{i}")[-2:] for i in range(1000)]
    assert 180 < flags.count("01") < 320 and set(flags) == {"00", "01"}


def _registry() -> object:
    return exporter.prometheus_client.CollectorRegistry()
