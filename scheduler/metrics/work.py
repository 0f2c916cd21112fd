"""What a leader does: turns, decisions, the writing of plans, and gangs from their last pod to their binding."""

from collections.abc import Sequence

import prometheus_client

from scheduler.gang import effects, events
from scheduler.kube import life, observer

TURN_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
DECISION_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0)
STAGE_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
GANG_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0)
PODS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)

OUTCOMES = {
    effects.Conflict: "conflict",
    effects.Evict: "evict",
    effects.Start: "start",
    effects.Refill: "refill",
    effects.Expire: "expire",
    effects.Reject: "reject",
    effects.Wait: "wait",
}
"""By the weightiest effect first: an event that evicts one gang and starts another counts as an eviction."""

NOTHING = "nothing"

STAGES = ("free", "record", "claims", "release", "status", "rollback", "write")


class Work(observer.Ear):
    """Counts what it is told."""

    def __init__(self, registry: prometheus_client.CollectorRegistry) -> None:
        self._turns = prometheus_client.Histogram(
            "muster_turn_duration_seconds",
            "A turn of the loop: what changed is told to the machine, and its effects are begun.",
            buckets=TURN_S,
            registry=registry,
        )
        self._decisions = prometheus_client.Histogram(
            "muster_decision_duration_seconds",
            "Time in which the machine decided about an event, by what came of it.",
            ["outcome"],
            buckets=DECISION_S,
            registry=registry,
        )
        self._plan_pods = prometheus_client.Histogram(
            "muster_plan_pods", "Pods of the plans made.", buckets=PODS, registry=registry
        )
        self._stages = prometheus_client.Histogram(
            "muster_write_duration_seconds",
            "Writing of a plan (write) and its parts, by whether they succeeded.",
            ["stage", "result"],
            buckets=STAGE_S,
            registry=registry,
        )
        self._written, self._bound = (
            prometheus_client.Histogram(
                f"muster_gang_{name}_seconds",
                f"From the last pod of a gang seen to {text}, by whether it had to wait for room.",
                ["waited"],
                buckets=GANG_S,
                registry=registry,
            )
            for name, text in (("written", "all its pods let go"), ("bound", "all its pods on their nodes"))
        )
        self._evictions = prometheus_client.Counter(
            "muster_evictions", "Gangs told to leave their devices.", ["reason"], registry=registry
        )
        self._conflicts, self._expired, self._rolled_back, self._fenced, self._recovered, self._unlogged = (
            prometheus_client.Counter(f"muster_{name}", text, registry=registry)
            for name, text in (
                ("device_conflicts", "Gangs found to hold devices that somebody else holds too."),
                ("expired_reservations", "Reservations that went back because the pods did not come in time."),
                ("failed_plans", "Plans that could not be made or written whole."),
                ("fenced_writes", "Writes refused because the term of this process had ended."),
                ("recovered_plans", "Unfinished plans of an earlier leader that were finished or undone."),
                ("decision_logs_ended", "Decision logs that could not be written any more; decisions go on."),
            )
        )
        self._start()

    def _start(self) -> None:
        """Make the series, so that a rate is there before the first event."""
        for outcome in (*OUTCOMES.values(), NOTHING):
            self._decisions.labels(outcome)
        for stage in STAGES:
            self._stages.labels(stage, "ok")
        for waited in ("false", "true"):
            self._written.labels(waited)
            self._bound.labels(waited)
        for reason in effects.Eviction:
            self._evictions.labels(reason.value)

    def turned(self, seconds: float) -> None:
        self._turns.observe(seconds)

    def unlogged(self) -> None:
        """Count a decision log that ended early."""
        self._unlogged.inc()

    def decided(self, event: events.Event, found: Sequence[effects.Effect], seconds: float) -> None:
        kinds = {type(effect) for effect in found}
        outcome = next((word for kind, word in OUTCOMES.items() if kind in kinds), NOTHING)
        self._decisions.labels(outcome).observe(seconds)
        for effect in found:
            match effect:
                case effects.Start(_, placed) | effects.Refill(_, placed):
                    self._plan_pods.observe(len(placed.grants))
                case effects.Evict(_, _, reason):
                    self._evictions.labels(reason.value).inc()
                case effects.Conflict():
                    self._conflicts.inc()
                case effects.Expire():
                    self._expired.inc()

    def stage(self, one: life.Life, name: str, began: float, ended: float, problem: str) -> None:
        self._stages.labels(name, "failed" if problem else "ok").observe(ended - began)

    def written(self, one: life.Life, seconds: float) -> None:
        self._written.labels(str(one.waited).lower()).observe(seconds)

    def bound(self, one: life.Life, seconds: float) -> None:
        self._bound.labels(str(one.waited).lower()).observe(seconds)

    def failed(self, one: life.Life, problem: str) -> None:
        self._rolled_back.inc()

    def fenced(self) -> None:
        self._fenced.inc()

    def recovered(self, plans: int) -> None:
        self._recovered.inc(plans)
