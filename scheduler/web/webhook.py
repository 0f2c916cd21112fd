"""The HTTP side of the gating webhook: one route for the server, and what is counted of it."""

import time
from dataclasses import dataclass

import prometheus_client
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler.web import admission, review, server, wire

PATH = "/mutate-pods"


@dataclass(frozen=True, slots=True)
class Webhook:
    """Answers the API server from what is known of the cluster."""

    known: admission.Knowledge
    seconds: prometheus_client.Histogram
    answers: prometheus_client.Counter

    @classmethod
    def new(cls, known: admission.Knowledge, registry: prometheus_client.CollectorRegistry) -> "Webhook":
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
        return cls(known, seconds, answers)

    def route(self) -> Route:
        """Return what the server adds to its routes."""
        return Route(PATH, self.mutate_pods, methods=["POST"])

    async def mutate_pods(self, request: Request) -> Response:
        """Answer an AdmissionReview; one that can't be read is a 400 with a sentence."""
        try:
            body = await server.read_body(request, review.MAX_BYTES)
            begin = time.perf_counter()
            said = admission.answer(self.known, body)
        except wire.BadRequest as error:
            return self._refuse(str(error))
        except ClientDisconnect:
            return self._refuse("the client closed the connection before its body was whole")
        self.seconds.observe(time.perf_counter() - begin)
        self.answers.labels("200").inc()
        return Response(said, media_type="application/json")

    def _refuse(self, problem: str) -> Response:
        self.answers.labels("400").inc()
        return Response(wire.encode(wire.Refusal(problem)), 400, media_type="application/json")
