"""What a leader does, told to those who measure it: metrics and traces.

The shell, the carrier and the scribe tell the observer; it follows each gang from its first pod to its last binding and
passes on what it sees. Nothing here decides anything, and an ear that is told must neither wait nor raise.
"""

import contextvars
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from scheduler.gang import effects, events
from scheduler.kube import followed, life, mirror, plan, workload

BOUND = "pods"
"""The kind whose changes tell of bindings."""

WRITE = "write"
"""The stage that all others of a plan are in."""


class Ear:
    """Somebody who listens; each method may be left as it is, which does nothing."""

    def turned(self, seconds: float) -> None:
        """A turn of the loop has ended."""

    def decided(self, event: events.Event, found: Sequence[effects.Effect], seconds: float) -> None:
        """The machine has answered an event."""

    def planned(self, one: life.Life, effect: effects.Start | effects.Refill, seconds: float) -> None:
        """A gang was given its devices; the decision took `seconds`."""

    def waits(self, one: life.Life, effect: effects.Wait | effects.Reject) -> None:
        """A gang was told why it does not start."""

    def began(self, one: life.Life, name: str) -> None:
        """Part of the writing of a gang begins."""

    def stage(self, one: life.Life, name: str, began: float, ended: float, problem: str) -> None:
        """Part of the writing of a gang has ended, in seconds of the monotonic clock; "" for no problem."""

    def written(self, one: life.Life, seconds: float) -> None:
        """All pods of a gang were let go, so long after it was complete."""

    def bound(self, one: life.Life, seconds: float) -> None:
        """The last pod of a gang has its node, so long after it was complete."""

    def failed(self, one: life.Life, problem: str) -> None:
        """A plan could not be written."""

    def ended(self, one: life.Life) -> None:
        """A gang is followed no more."""

    def fenced(self) -> None:
        """A write was refused because this process does not lead any more."""

    def recovered(self, plans: int) -> None:
        """Unfinished plans of a leader before were finished or undone."""


@dataclass(slots=True, eq=False)
class Stage:
    """Part of the writing of a gang, from the beginning of a block to its end."""

    one: life.Life | None
    name: str
    ears: tuple[Ear, ...]
    trace: Callable[[workload.Workload], str]
    began: float = 0.0
    tokens: Mapping[str, contextvars.Token[Any]] = field(default_factory=dict)

    def __enter__(self) -> None:
        self.began = time.monotonic()
        if self.one is None:
            return
        if self.name == WRITE:
            trace = self.trace(self.one.workload) if self.one.workload is not None else ""
            told = {"gang": self.one.key, "trace_id": trace[3:35]} if trace else {"gang": self.one.key}
            self.tokens = structlog.contextvars.bind_contextvars(**told)
        for ear in self.ears:
            ear.began(self.one, self.name)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if self.one is None:
            return
        problem = f"{type(error).__name__}: {error}" if error is not None else ""
        for ear in self.ears:
            ear.stage(self.one, self.name, self.began, time.monotonic(), problem)
        if self.tokens:
            structlog.contextvars.reset_contextvars(**self.tokens)


@dataclass(slots=True, eq=False)
class Observer:
    """Follows the gangs of one term.

    Parameters
    ----------
    trace : callable
        Returns the traceparent of a gang, "" for none.

    Attributes
    ----------
    lives : dict of key to Life
        Gangs that are followed.
    """

    ears: tuple[Ear, ...] = ()
    trace: Callable[[workload.Workload], str] = lambda _: ""
    lives: dict[str, life.Life] = field(default_factory=dict)
    _gang_of: dict[str, str] = field(default_factory=dict)

    def turned(self, seconds: float) -> None:
        """Tell that a turn of the loop has ended."""
        for ear in self.ears:
            ear.turned(seconds)

    def met(self, gang: followed.Followed) -> None:
        """Follow a gang from now on."""
        self.lives.setdefault(gang.key, life.Life(gang.key, time.monotonic()))

    def completed(self, gang: followed.Followed) -> None:
        """All members of a gang are there, and none of them is about to go."""
        one = self.lives.get(gang.key)
        if one is not None and one.complete is None and not any(m.pod.deleting for m in gang.workload.members):
            one.complete, one.workload = time.monotonic(), gang.workload

    def decided(self, event: events.Event, found: Sequence[effects.Effect], seconds: float) -> None:
        """The machine has answered an event."""
        for ear in self.ears:
            ear.decided(event, found, seconds)
        for effect in found:
            one = self.lives.get(effect.gang.name)
            if one is not None:
                self._effect(one, effect, seconds)

    def writing(self, gang: followed.Followed, new: plan.Plan) -> None:
        """A plan is about to be written."""
        one = self.lives.get(gang.key)
        if one is None:
            return
        one.workload, one.plan, one.written = gang.workload, new, None
        nodes = {member.pod.uid: member.pod.node for member in gang.workload.members}
        self._forget(one)
        one.pending = {pod.uid for pod in new.pods if not nodes.get(pod.uid)}
        self._gang_of.update(dict.fromkeys(one.pending, gang.key))

    def stage(self, key: str, name: str) -> "Stage":
        """Measure part of the writing of a gang; what is logged in the whole of it names gang and trace."""
        return Stage(self.lives.get(key), name, self.ears, self.trace)

    def written(self, gang: followed.Followed) -> None:
        """All pods of a gang were let go."""
        one = self.lives.get(gang.key)
        if one is None or one.written is not None:
            return
        one.written = time.monotonic()
        for ear in self.ears if one.complete is not None else ():
            ear.written(one, one.written - (one.complete or one.written))
        self._settle(one)

    def failed(self, gang: followed.Followed, problem: str) -> None:
        """A plan could not be written."""
        one = self.lives.get(gang.key)
        if one is not None:
            for ear in self.ears:
                ear.failed(one, problem)

    def ended(self, key: str) -> None:
        """A gang is followed no more."""
        one = self.lives.pop(key, None)
        if one is not None:
            self._forget(one)
            for ear in self.ears:
                ear.ended(one)

    def fenced(self) -> None:
        """A write was refused because this process does not lead any more."""
        for ear in self.ears:
            ear.fenced()

    def recovered(self, plans: int) -> None:
        """Unfinished plans of a leader before were finished or undone."""
        for ear in self.ears:
            ear.recovered(plans)

    def changed(self, change: mirror.Change) -> None:
        """An object changed in the mirror; a pod of ours that has its node now is bound."""
        if change.kind != BOUND or change.after is None or not change.after.node:
            return
        key = self._gang_of.pop(change.after.uid, None)
        one = self.lives.get(key) if key is not None else None
        if one is not None:
            one.pending.discard(change.after.uid)
            one.last_bound = time.monotonic()
            self._settle(one)

    def _effect(self, one: life.Life, effect: effects.Effect, seconds: float) -> None:
        match effect:
            case effects.Start() | effects.Refill():
                one.planned = time.monotonic()
                for ear in self.ears:
                    ear.planned(one, effect, seconds)
            case effects.Wait() | effects.Reject():
                one.waited = True
                for ear in self.ears:
                    ear.waits(one, effect)
            case effects.Evict():
                self.ended(one.key)
                self.lives[one.key] = life.Life(one.key, time.monotonic())  # the pods come anew

    def _settle(self, one: life.Life) -> None:
        """Tell once that a gang is bound: let go, and each pod on its node."""
        if one.written is None or one.pending or one.bound is not None:
            return
        one.bound = max(one.written, one.last_bound)
        for ear in self.ears if one.complete is not None else ():
            ear.bound(one, one.bound - (one.complete or one.bound))

    def _forget(self, one: life.Life) -> None:
        for uid in one.pending:
            self._gang_of.pop(uid, None)
        one.pending = set()
