"""Spans of gangs, made of what the observer and the webhook tell.

A span is made when it is over, with the times that were noted: nothing is kept open, and what is kept for a gang goes
with it. Below the root span ``gang``: ``admit`` for each pod (from whichever replica), ``gather``, ``wait``, ``plan``,
``write`` with ``free``, ``record``, ``claims``, ``release``, ``status`` and ``rollback`` in it, and ``bind``.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.trace import id_generator, sampling
from opentelemetry.util import types

from scheduler.gang import effects
from scheduler.kube import life, observer
from scheduler.tracing import context

MAX_NOTES = 16
"""Events kept of one gang until they are written into a span."""

MAX_ADMITTED = 10_000
"""Gangs of which the first admission is remembered; each is forgotten when its root is written."""

STEP_NS = 100_000_000

WRITE = "write"

Note = tuple[float, str, dict[str, str]]
"""Time of the monotonic clock, name, attributes."""


class Ids(id_generator.RandomIdGenerator):
    """Gives the next span the ids that it is to have, and random ones else."""

    trace: int = 0
    span: int = 0

    def generate_trace_id(self) -> int:
        found, self.trace = self.trace, 0
        return found or super().generate_trace_id()

    def generate_span_id(self) -> int:
        found, self.span = self.span, 0
        return found or super().generate_span_id()


@dataclass(slots=True)
class Story:
    """What is kept of a gang between its spans.

    Attributes
    ----------
    write : int
        Id of the span of the writing that is under way, 0 for none.
    """

    write: int = 0
    waits: list[Note] = field(default_factory=list)
    failures: list[Note] = field(default_factory=list)
    early: list[tuple[str, float, float, dict[str, types.AttributeValue]]] = field(default_factory=list)


class Spans(observer.Ear):
    """Writes spans; must be told on one thread."""

    def __init__(self, provider: sdk.TracerProvider, ids: Ids) -> None:
        self._tracer = provider.get_tracer("muster")
        self._sampler, self._ids, self._clock = provider.sampler, ids, Clock()
        self._stories: dict[str, Story] = {}
        self._admitted: dict[str, float] = {}

    def traceparent(self, decision_id: str, given: str = "") -> str:
        """Return what the webhook writes on a pod, "" for one that has a valid traceparent of its own."""
        if context.read(given) is not None:
            return ""
        return self.header(context.of(decision_id))

    def header(self, found: context.Trace) -> str:
        """Return the traceparent of a gang's root."""
        return found.header(self._sampled(found))

    def admitted(self, decision_id: str, given: str, began: float, attributes: Mapping[str, str]) -> None:
        """A pod was admitted just now; `given` is the traceparent that it has."""
        found = context.of(decision_id, given)
        self._admitted.setdefault(found.trace_id, began)
        if len(self._admitted) > MAX_ADMITTED:
            del self._admitted[next(iter(self._admitted))]
        self._write(found, "admit", began, time.monotonic(), attributes, kind=trace.SpanKind.SERVER)

    def planned(self, one: life.Life, effect: effects.Start | effects.Refill, seconds: float) -> None:
        now, story, placed = time.monotonic(), self._story(one), effect.placement
        if one.complete is not None and one.waited and story.waits:
            notes, story.waits = story.waits, []
            self._say(one, "wait", one.complete, now - seconds, {}, notes)
        told: dict[str, types.AttributeValue] = {
            "muster.decision": effect.decision,
            "muster.because": effect.because,
            "muster.pods": len(placed.grants),
            "muster.domain": placed.domain,
            "muster.level": placed.level,
            "muster.bandwidth_mb_s": placed.bandwidth_mb_s,
            "muster.refill": isinstance(effect, effects.Refill),
        }
        if one.workload is None:
            story.early = [*story.early[-MAX_NOTES:], ("plan", now - seconds, now, told)]
        else:
            self._say(one, "plan", now - seconds, now, told)

    def waits(self, one: life.Life, effect: effects.Wait | effects.Reject) -> None:
        name = "rejected" if isinstance(effect, effects.Reject) else "waits"
        note = (
            time.monotonic(),
            name,
            {"muster.reason": effect.rejection.reason.value, "message": str(effect.rejection)},
        )
        story = self._story(one)
        story.waits = [*story.waits[-MAX_NOTES + 1 :], note]

    def began(self, one: life.Life, name: str) -> None:
        if name == WRITE:
            self._story(one).write = self._ids.generate_span_id()

    def stage(self, one: life.Life, name: str, began: float, ended: float, problem: str) -> None:
        story = self._story(one)
        if name == WRITE:
            write, story.write = story.write, 0
            self._say(one, name, began, ended, {}, problem=problem, span=write)
        else:
            self._say(one, name, began, ended, {}, problem=problem, above=story.write)

    def failed(self, one: life.Life, problem: str) -> None:
        story = self._story(one)
        story.failures = [*story.failures[-MAX_NOTES + 1 :], (time.monotonic(), "failed", {"message": problem})]

    def bound(self, one: life.Life, seconds: float) -> None:
        if one.written is not None and one.bound is not None:
            self._say(one, "bind", one.written, one.bound, {})
        self._root(one, one.bound or time.monotonic(), "")

    def ended(self, one: life.Life) -> None:
        if one.bound is None and one.key in self._stories:
            self._root(one, time.monotonic(), "the gang ended before it was bound")
        self._stories.pop(one.key, None)

    def _story(self, one: life.Life) -> Story:
        return self._stories.setdefault(one.key, Story())

    def _root(self, one: life.Life, ended: float, problem: str) -> None:
        """Write the span that all others are below."""
        if one.workload is None:
            return
        story, found = self._story(one), context.of_gang(one.workload)
        for name, began, until, told in story.early:
            self._say(one, name, began, until, told)
        if one.complete is not None:
            self._say(one, "gather", one.seen, one.complete, {})
        began = min(one.seen, self._admitted.pop(found.trace_id, one.seen))
        notes = sorted([*story.waits, *story.failures])
        self._write(found, "gang", began, ended, _told(one), notes, problem, span=int(found.root, 16), above=None)
        story.early, story.waits, story.failures = [], [], []

    def _say(
        self,
        one: life.Life,
        name: str,
        began: float,
        ended: float,
        told: Mapping[str, types.AttributeValue],
        notes: Iterable[Note] = (),
        problem: str = "",
        span: int = 0,
        above: int = 0,
    ) -> None:
        if one.workload is not None:
            found = context.of_gang(one.workload)
            self._write(found, name, began, ended, told, notes, problem, span, above or int(found.root, 16))

    def _write(
        self,
        found: context.Trace,
        name: str,
        began: float,
        ended: float,
        told: Mapping[str, types.AttributeValue],
        notes: Iterable[Note] = (),
        problem: str = "",
        span: int = 0,
        above: int | None = 0,
        kind: trace.SpanKind = trace.SpanKind.INTERNAL,
    ) -> None:
        """Write a span; `above` is None for the root, and 0 for what is below it."""
        parent = int(found.parent or "0", 16) if above is None else above or int(found.root, 16)
        self._ids.trace, self._ids.span = int(found.trace_id, 16), span
        attributes = {**told, "muster.decision_id": found.decision_id}
        one = self._tracer.start_span(
            name,
            self._above(found, parent),
            kind,
            attributes,
            start_time=self._clock.wall(began),
            record_exception=False,
        )
        self._ids.trace = self._ids.span = 0
        for at, word, more in notes:
            one.add_event(word, more, self._clock.wall(at))
        if problem:
            one.set_status(trace.StatusCode.ERROR, problem)
        one.end(self._clock.wall(ended))

    def _above(self, found: context.Trace, parent: int) -> contexts.Context:
        flags = trace.TraceFlags.SAMPLED if self._sampled(found) else trace.TraceFlags.DEFAULT
        above = trace.SpanContext(int(found.trace_id, 16), parent, True, trace.TraceFlags(flags))
        return trace.set_span_in_context(trace.NonRecordingSpan(above), contexts.Context())

    def _sampled(self, found: context.Trace) -> bool:
        """Return whether the spans of a trace are wanted: as the submitter says, else as the sampler draws."""
        if found.parent or not found.sampled:
            return found.sampled
        drawn = self._sampler.should_sample(None, int(found.trace_id, 16), "gang")
        return drawn.decision is sampling.Decision.RECORD_AND_SAMPLE


def _told(one: life.Life) -> dict[str, types.AttributeValue]:
    """Return what the root says of a gang."""
    assert one.workload is not None
    identity, asked = one.workload.identity, one.workload.gang
    found: dict[str, types.AttributeValue] = {
        "k8s.namespace.name": identity.namespace,
        "muster.gang": identity.key,
        "muster.kind": identity.kind,
        "muster.waited": one.waited,
    }
    if asked is not None:
        found |= {"muster.tenant": asked.tenant, "muster.pods": asked.size, "muster.gpus": asked.gpus}
    if one.plan is not None:
        found |= {"muster.domain": one.plan.domain, "muster.decision": one.plan.decision}
    return found


class Clock:
    """Turns times of the monotonic clock into times of the day, so that spans stay in order among themselves."""

    def __init__(self) -> None:
        self._apart = time.time_ns() - time.monotonic_ns()

    def wall(self, at: float) -> int:
        """Return nanoseconds of the day's time; a clock that was set is followed when it is off by `STEP_NS`."""
        now = time.time_ns() - time.monotonic_ns()
        if abs(now - self._apart) > STEP_NS:
            self._apart = now
        return self._apart + int(at * 1e9)
