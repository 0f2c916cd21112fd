"""The driver's own work: calls of the kubelet by method and code, claims, and publications of slices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import prometheus_client

from dra_driver import plugin, prepared, state
from dra_driver.publish import publisher
from dra_driver.publish import turn as turns
from scheduler.apiserver import client

CALLS = {"prepare": "NodePrepareResources", "unprepare": "NodeUnprepareResources"}
CALL_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 45.0)
PUBLISH_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Work:
    """Counters and histograms in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = prometheus_client.CollectorRegistry()
        self.calls = prometheus_client.Counter(
            "muster_dra_grpc_requests", "Calls of the kubelet.", ["method", "code"], registry=registry
        )
        self.seconds = prometheus_client.Histogram(
            "muster_dra_grpc_request_duration_seconds",
            "Time of the kubelet's calls, failed ones too.",
            ["method"],
            buckets=CALL_S,
            registry=registry,
        )
        self.running = prometheus_client.Gauge(
            "muster_dra_grpc_requests_inflight", "Calls under way.", ["method"], registry=registry
        )
        self.claims = prometheus_client.Counter(
            "muster_dra_claims", "Claims in calls, by how they ended.", ["method", "result"], registry=registry
        )
        self.publications = prometheus_client.Histogram(
            "muster_dra_publish_duration_seconds",
            "Time to bring the slices to what is wanted, comparisons without a write too.",
            ["result"],
            buckets=PUBLISH_S,
            registry=registry,
        )
        for method in CALLS.values():  # so that a rate is there before the first failure
            self.calls.labels(method, "OK")
            self.seconds.labels(method)
            for result in ("ok", "failed"):
                self.claims.labels(method, result)
        for result in ("ok", "failed"):
            self.publications.labels(result)

    def ended(self, call: plugin.Call) -> None:
        """Count the claims of a call."""
        method = CALLS[call.method]
        self.claims.labels(method, "failed").inc(call.failed)
        self.claims.labels(method, "ok").inc(max(0, call.claims - call.failed))


class Plugin(plugin.Plugin):
    """Measures each call, also one that ends with an error of the driver or is given up by the kubelet."""

    def __init__(
        self,
        own: state.State,
        work: Work,
        *,
        prepared_claim: Callable[[prepared.Claim], None],
        ended: Callable[[plugin.Call], None],
    ) -> None:
        super().__init__(own, prepared_claim=prepared_claim, ended=ended)
        self._work = work

    async def serve(
        self, method: str, context: grpc.aio.ServicerContext[Any, Any], claims: Sequence[Any]
    ) -> dict[str, Any]:
        call, began, code = CALLS[method], time.monotonic(), "OK"
        with self._work.running.labels(call).track_inprogress():
            try:
                return await super().serve(method, context, claims)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except BaseException:
                code = "UNKNOWN"  # what gRPC makes of an exception
                raise
            finally:
                self._work.calls.labels(call, code).inc()
                self._work.seconds.labels(call).observe(time.monotonic() - began)


class Publisher(publisher.Publisher):
    """Measures each publication."""

    def __init__(
        self,
        api: client.Client,
        node_name: str,
        driver: str,
        work: Work,
        owned: bool = False,
        *,
        lists: bool = False,
        turn: turns.Turn | None = None,
    ) -> None:
        super().__init__(api, node_name, driver, owned, lists=lists, turn=turn)
        self._publications = work.publications

    async def publish(self) -> None:
        began, result = time.monotonic(), "failed"
        try:
            await super().publish()
            result = "ok"
        finally:
            self._publications.labels(result).observe(time.monotonic() - began)
