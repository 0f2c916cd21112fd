"""Sends spans by OTLP/HTTP, in batches, from a thread of its own; what can't be sent is dropped and counted.

All ``OTEL_`` variables of the SDK hold: sampler, limits, batches, headers, certificates, resource. They are described at
opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Sequence

import prometheus_client
import structlog
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk import resources
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.trace import export

from scheduler.tracing import spans

CLOSE_S = 3.0
"""At the end, so long is waited for the last spans to be sent."""

MAX_QUEUE = 2048
"""Spans that wait to be sent, unless ``OTEL_BSP_MAX_QUEUE_SIZE`` says otherwise."""

PATH = "/v1/traces"

log = structlog.get_logger()


class Counted(export.SpanExporter):
    """Counts what another exporter does, and tells once when it begins to fail and when it works again."""

    def __init__(self, inner: export.SpanExporter, counter: prometheus_client.Counter) -> None:
        self._inner, self._counter = inner, counter
        self._failing = False
        self.done = 0

    def export(self, spans: Sequence[sdk.ReadableSpan]) -> export.SpanExportResult:
        result = export.SpanExportResult.FAILURE
        try:
            result = self._inner.export(spans)
        finally:
            failed = result is not export.SpanExportResult.SUCCESS
            self.done += len(spans)
            self._counter.labels("failed" if failed else "exported").inc(len(spans))
            if failed is not self._failing:
                self._failing = failed
                log.warning("spans can't be exported" if failed else "spans are exported again", spans=len(spans))
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()


class Bounded(export.BatchSpanProcessor):
    """Drops spans, and counts them, while too many wait to be sent."""

    def __init__(self, exporter: Counted, counter: prometheus_client.Counter) -> None:
        self._limit = int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE") or MAX_QUEUE)
        super().__init__(exporter, max_queue_size=self._limit)
        self._exporter, self._counter, self._taken = exporter, counter, 0

    def on_end(self, span: sdk.ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if self._taken - self._exporter.done >= self._limit:
            self._counter.labels("dropped").inc()
            return
        self._taken += 1
        super().on_end(span)


class Tracing:
    """Spans and their way out."""

    def __init__(
        self, identity: str, registry: prometheus_client.CollectorRegistry, exporter: export.SpanExporter
    ) -> None:
        counter = prometheus_client.Counter(
            "muster_tracing_spans",
            "Spans sent, lost because the collector did not take them, and dropped because too many waited.",
            ["result"],
            registry=registry,
        )
        for result in ("exported", "failed", "dropped"):
            counter.labels(result)
        ids = spans.Ids()
        resource = resources.Resource.create({"service.name": "muster-scheduler", "service.instance.id": identity})
        self._provider = sdk.TracerProvider(resource=resource, id_generator=ids, shutdown_on_exit=False)
        self._provider.add_span_processor(Bounded(Counted(exporter, counter), counter))
        self.spans = spans.Spans(self._provider, ids)

    def flush(self) -> None:
        """Send what waits; blocks."""
        self._provider.force_flush()

    async def close(self) -> None:
        """Send what waits, for `CLOSE_S` at most; a collector that does not answer keeps nobody from ending."""
        ending = threading.Thread(target=self._provider.shutdown, name="tracing ends", daemon=True)
        ending.start()
        until = time.monotonic() + CLOSE_S
        while ending.is_alive() and time.monotonic() < until:
            await asyncio.sleep(0.02)


def begin(endpoint: str, identity: str, registry: prometheus_client.CollectorRegistry) -> Tracing:
    """Start to export.

    Parameters
    ----------
    endpoint : str
        Base URL of a collector, to which ``/v1/traces`` is added; "" takes it from the environment.
    """
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # `Counted` tells it, once
    url = endpoint.rstrip("/") + ("" if endpoint.rstrip("/").endswith(PATH) else PATH) if endpoint else None
    return Tracing(identity, registry, trace_exporter.OTLPSpanExporter(endpoint=url))
