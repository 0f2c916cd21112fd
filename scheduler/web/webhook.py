"""The HTTP side of the gating webhook: one route for the server, and what is counted of it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import prometheus_client
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler.web import admission, review, server, wire

PATH = "/mutate-pods"

OUTCOMES = ("gated", "left", "denied")

Admitted = Callable[[str, str, float, Mapping[str, str]], None]
"""Told of a gated pod: decision id, traceparent, when the review came (monotonic clock), attributes."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Answers the API server from what is known of the cluster."""

    known: admission.Knowledge
    seconds: prometheus_client.Histogram
    answers: prometheus_client.Counter
    reviews: prometheus_client.Counter
    trace: admission.Trace = admission.untraced
    admitted: Admitted = lambda *_: None

    @classmethod
    def new(
        cls,
        known: admission.Knowledge,
        registry: prometheus_client.CollectorRegistry,
        trace: admission.Trace = admission.untraced,
        admitted: Admitted = lambda *_: None,
    ) -> "Webhook":
        """Return a webhook that counts in `registry`."""
        seconds = prometheus_client.Histogram(
            "muster_admission_duration_seconds",
            "From the whole review read to the answer encoded.",
            buckets=server.BUCKETS,
            registry=registry,
        )
        answers = prometheus_client.Counter(
            "muster_admission_answers", "Answers of the gating webhook by HTTP status.", ["code"], registry=registry
        )
        reviews = prometheus_client.Counter(
            "muster_admission_reviews", "Pods reviewed, by what became of them.", ["outcome"], registry=registry
        )
        answers.labels("200")
        for outcome in OUTCOMES:
            reviews.labels(outcome)
        return cls(known, seconds, answers, reviews, trace, admitted)

    def route(self) -> Route:
        """Return what the server adds to its routes."""
        return Route(PATH, self.mutate_pods, methods=["POST"])

    async def mutate_pods(self, request: Request) -> Response:
        """Answer an AdmissionReview; one that can't be read is a 400 with a sentence."""
        try:
            body = await server.read_body(request, review.MAX_BYTES)
            begin, came = time.perf_counter(), time.monotonic()
            said, verdict = admission.decided(self.known, body, self.trace)
        except wire.BadRequest as error:
            return self._refuse(str(error))
        except ClientDisconnect:
            return self._refuse("the client closed the connection before its body was whole")
        self.seconds.observe(time.perf_counter() - begin)
        self.answers.labels("200").inc()
        self.reviews.labels(verdict.outcome).inc()
        if verdict.stamp is not None:
            stamp = verdict.stamp
            self.admitted(stamp.decision_id, stamp.traceparent, came, {"pod": stamp.where, "muster.gang": stamp.gang})
        return Response(said, media_type="application/json")

    def _refuse(self, problem: str) -> Response:
        self.answers.labels("400").inc()
        return Response(wire.encode(wire.Refusal(problem)), 400, media_type="application/json")
