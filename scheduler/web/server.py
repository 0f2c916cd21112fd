"""The HTTP server: the extender's three verbs, health, readiness and metrics, on one asyncio loop.

kube-scheduler keeps one HTTP/1.1 connection open and takes every status but 200 for an error, so answers carry a
length, connections stay, and a refusal is a 400 with one sentence.
"""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import prometheus_client
import uvicorn
from prometheus_client import exposition
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler.web import extender, tls, wire

VERBS = ("filter", "prioritize", "preempt")

VERDICTS = ("all", "some", "none")

BUCKETS = (0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0)
"""Seconds. The goal is 2 ms; kube-scheduler's usual patience for an extender is 1 s."""

KEEP_ALIVE_S = 300
"""A quiet connection stays open longer than Go's client keeps it (90 s), so that the client closes first."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """What is counted per verb."""

    registry: prometheus_client.CollectorRegistry
    seconds: prometheus_client.Histogram
    answers: prometheus_client.Counter
    verdicts: prometheus_client.Counter

    @classmethod
    def new(cls, registry: prometheus_client.CollectorRegistry | None = None) -> "Metrics":
        """Return metrics in a registry, in one of their own by default."""
        registry = registry or prometheus_client.CollectorRegistry()
        seconds = prometheus_client.Histogram(
            "muster_extender_duration_seconds",
            "From the whole request read to the answer encoded.",
            ["verb"],
            buckets=BUCKETS,
            registry=registry,
        )
        answers = prometheus_client.Counter(
            "muster_extender_answers", "Answers by verb and HTTP status.", ["verb", "code"], registry=registry
        )
        verdicts = prometheus_client.Counter(
            "muster_extender_verdicts",
            "Answers of filter by how many of the nodes asked for can take the pod.",
            ["verdict"],
            registry=registry,
        )
        for verb in VERBS:
            seconds.labels(verb)
            answers.labels(verb, "200")
        for verdict in VERDICTS:
            verdicts.labels(verdict)
        return cls(registry, seconds, answers, verdicts)


@dataclass(frozen=True, slots=True)
class Face:
    """The routes.

    Attributes
    ----------
    decisions : callable
        Who decides now; None until the state is synced. Called for every request, so the owner may exchange it.
    weight : int
        The extender's weight in kube-scheduler's configuration.
    also : tuple of Route
        Routes of others: the gating webhook.
    verbs : tuple of str
        The extender's verbs that are served; none on the port for those who show no certificate.
    """

    decisions: Callable[[], extender.Decisions | None]
    weight: int = 13
    metrics: Metrics = field(default_factory=Metrics.new)
    also: tuple[Route, ...] = ()
    verbs: tuple[str, ...] = VERBS

    def app(self) -> Starlette:
        """Return the ASGI application."""
        routes = [Route(f"/{verb}", getattr(self, verb), methods=["POST"]) for verb in self.verbs]
        routes += [Route(f"/{name}", getattr(self, name)) for name in ("healthz", "readyz")]
        return Starlette(routes=[*routes, Route("/metrics", self.exposed), *self.also])

    async def filter(self, request: Request) -> Response:
        """Answer which nodes can take a pod."""
        return await self._answer("filter", request)

    async def prioritize(self, request: Request) -> Response:
        """Answer how good the nodes are for a pod."""
        return await self._answer("prioritize", request)

    async def preempt(self, request: Request) -> Response:
        """Answer on which nodes evictions would help."""
        return await self._answer("preempt", request)

    async def healthz(self, request: Request) -> Response:
        """Answer that the process lives."""
        return Response(b"ok\n", media_type="text/plain")

    async def readyz(self, request: Request) -> Response:
        """Answer whether decisions can be asked for."""
        if self.decisions() is None:
            return Response(b"not synced with the API server yet\n", 503, media_type="text/plain")
        return Response(b"ok\n", media_type="text/plain")

    async def exposed(self, request: Request) -> Response:
        """Answer the metrics in Prometheus's text format."""
        return Response(
            exposition.generate_latest(self.metrics.registry), headers={"Content-Type": exposition.CONTENT_TYPE_LATEST}
        )

    def _filter(self, deciding: extender.Decisions, body: bytes | bytearray) -> bytes:
        found = extender.filtered(deciding, wire.read_args(body))
        self.metrics.verdicts.labels(found.outcome).inc()
        return found.encoded()

    def _prioritize(self, deciding: extender.Decisions, body: bytes | bytearray) -> bytes:
        return extender.prioritized(deciding, wire.read_args(body), self.weight)

    def _preempt(self, deciding: extender.Decisions, body: bytes | bytearray) -> bytes:
        return wire.encode(extender.preempted(deciding, wire.read_preemption(body)))

    def answer(self, verb: str, deciding: extender.Decisions, body: bytes | bytearray) -> bytes:
        """Return the answer of a verb to a whole body.

        Raises
        ------
        BadRequest
        """
        match verb:
            case "filter":
                return self._filter(deciding, body)
            case "prioritize":
                return self._prioritize(deciding, body)
        return self._preempt(deciding, body)

    async def _answer(self, verb: str, request: Request) -> Response:
        """Read, decide, count. A request that can't be read is a 400, one that comes too early a 503."""
        try:
            body = await read_body(request, wire.MAX_BYTES)
            begin = time.perf_counter()
            deciding = self.decisions()
            if deciding is None:
                return self._refuse(verb, 503, "muster is not synced with the API server yet")
            answer = self.answer(verb, deciding, body)
        except wire.BadRequest as error:
            return self._refuse(verb, 400, str(error))
        except ClientDisconnect:
            return self._refuse(verb, 400, "the client closed the connection before its body was whole")
        self.metrics.seconds.labels(verb).observe(time.perf_counter() - begin)
        self.metrics.answers.labels(verb, "200").inc()
        return Response(answer, media_type="application/json")

    def _refuse(self, verb: str, code: int, problem: str) -> Response:
        self.metrics.answers.labels(verb, str(code)).inc()
        return Response(wire.encode(wire.Refusal(problem)), code, media_type="application/json")


async def read_body(request: Request, limit: int) -> bytearray:
    """Read a body, but never more than is allowed.

    Raises
    ------
    BadRequest
        The body is announced to be, or becomes, larger than `limit` bytes.
    """
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or len(announced) > 12 or int(announced) > limit:
        raise wire.BadRequest(f"body of {announced[:20]} bytes is larger than {limit}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise wire.BadRequest(f"body is larger than {limit} bytes")
    return body


class Listener(uvicorn.Server):
    """A server that leaves signals to its owner, who runs several, and fails with a sentence.

    uvicorn would end the process where its port is taken.
    """

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until `should_exit` is set.

        Raises
        ------
        OSError
            Nothing can listen there; names address and port.
        """
        await super().serve(sockets or [self._bound()])

    def _bound(self) -> socket.socket:
        host, port = self.config.host, self.config.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            bound = socket.create_server((host, port), family=family, backlog=self.config.backlog)
        except OSError as error:
            raise OSError(f"can't listen on {host} port {port}: {error.strerror}; choose another port") from error
        # Connections inherit it; asyncio sets it only where a socket says that its protocol is TCP, which this one does not.
        # Without it the second piece of an answer waits for an acknowledgement, which Linux delays by 40 ms.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return bound

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def listening(face: Face, host: str, port: int, files: tls.Tls | None = None) -> uvicorn.Server:
    """Return a server that `await server.serve()` runs until `server.should_exit` is set.

    Raises
    ------
    BadInput
        A certificate file is missing or malformed.
    """
    context = tls.Renewed(files).context() if files is not None else None
    config = uvicorn.Config(
        face.app(),
        host=host,
        port=port,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=5,
        ssl_context_factory=None if context is None else lambda *_: context,
    )
    config.load()
    return Listener(config)
