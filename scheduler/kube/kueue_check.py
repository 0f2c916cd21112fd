"""Muster as an admission check of Kueue, pure: what to ask the planner, and what to write into which Workload.

A Workload with quota and a Pending check of ours is asked about once. Start makes the check Ready, Wait makes it Retry,
Reject makes it Rejected. What Start reserved is held until the pods have come, or is given back when quota is lost, the
Workload ends, or too much time passes.

Kueue 0.19 keeps the quota of a Workload in Retry until the delay is over, then evicts it and sets the check back to
Pending: a long delay starves others of quota, a missing one spins. So the delay is always set and kept within bounds.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.kube import kueue, kueue_answer

CONTROLLER = "muster.dev/placement"
"""``spec.controllerName`` of our AdmissionChecks."""

ANSWER_S = 30.0
"""A Workload that the planner says nothing about for so long is sent to Retry, so that its quota serves others."""

HOLD_S = 300.0
"""Devices of a Workload that is Ready are kept so long for its pods; other checks may still be pending meanwhile.

Nothing else ends a reservation but the loss of quota. Without this bound a check of somebody else that never becomes Ready,
or a job whose pods nobody makes, would keep devices idle for ever.
"""


@dataclass(frozen=True, slots=True)
class Reserve:
    """Ask the planner for a place; it answers later, once."""

    workload: kueue.Workload


@dataclass(frozen=True, slots=True)
class Cancel:
    """Tell the planner to give back what it reserved, or to forget the question."""

    uid: str
    key: str
    because: str


@dataclass(frozen=True, slots=True)
class Report:
    """Write our entries of ``status.admissionChecks``, unless the Workload has changed since `workload`."""

    workload: kueue.Workload
    entries: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Activate:
    """Write the condition Active of an AdmissionCheck."""

    check: kueue.AdmissionCheck
    active: bool
    reason: str
    message: str


Effect = Reserve | Cancel | Report | Activate


@dataclass(slots=True)
class _Case:
    """A Workload that the planner was asked about.

    Attributes
    ----------
    since : float
        When it was asked, or answered, in seconds of the epoch.
    seen : bool
        Whether a state other than Pending was read back since the answer. Until then a Pending check is an old copy and
        no new question.
    here : bool
        Whether the pods have come.
    """

    workload: kueue.Workload
    since: float
    answer: kueue_answer.Answer | None = None
    seen: bool = False
    here: bool = False


class Desk:
    """All cases. Every method takes the time in seconds of the epoch where it needs it, and returns what is to be done."""

    def __init__(self, answer_s: float = ANSWER_S, hold_s: float = HOLD_S) -> None:
        self.answer_s, self.hold_s = answer_s, hold_s
        self.checks: dict[str, kueue.AdmissionCheck] = {}
        self.workloads: dict[str, kueue.Workload] = {}
        self._cases: dict[str, _Case] = {}

    @property
    def open(self) -> tuple[str, ...]:
        """Return the UIDs of the Workloads for which something is asked or held."""
        return tuple(
            uid
            for uid, case in self._cases.items()
            if case.answer is None or isinstance(case.answer, kueue_answer.Start)
        )

    def check_changed(self, check: kueue.AdmissionCheck, now: float) -> list[Effect]:
        """Take over an AdmissionCheck; its Workloads may have been read before it."""
        if check.controller != CONTROLLER:
            return self.check_gone(check.name)
        new = check.name not in self.checks
        self.checks[check.name] = check
        effects: list[Effect] = list(_activation(check))
        for one in tuple(self.workloads.values()) if new else ():
            effects += self.changed(one, now)
        return effects

    def check_gone(self, name: str) -> list[Effect]:
        """Forget an AdmissionCheck. Kueue takes its entries out of the Workloads, which gives their devices back."""
        self.checks.pop(name, None)
        return []

    def changed(self, workload: kueue.Workload, now: float) -> list[Effect]:
        """Take over a Workload as it is now."""
        uid, states = workload.uid, self._states(workload)
        self.workloads[uid] = workload
        case = self._cases.get(uid)
        if not states or not workload.reserved:
            return self._close(uid, _ended(workload))
        if case is None:
            return self._open(workload, now) if states & {"Pending", "Ready"} else []
        case.workload = workload
        if case.answer is None:
            return []
        if states != {"Pending"}:
            case.seen = True
        elif case.seen:  # Kueue asks anew
            return [*self._close(uid, "Kueue asks anew"), *self._open(workload, now)]
        return self._report(case, now)

    def gone(self, uid: str) -> list[Effect]:
        """Take note that a Workload was deleted."""
        self.workloads.pop(uid, None)
        return self._close(uid, "the Workload was deleted")

    def listed(self, workloads: Iterable[kueue.Workload], now: float) -> list[Effect]:
        """Take over a new list; what is not in it is gone."""
        there = {one.uid: one for one in workloads}
        effects = [effect for uid in set(self.workloads) - set(there) for effect in self.gone(uid)]
        return effects + [effect for one in there.values() for effect in self.changed(one, now)]

    def answered(self, uid: str, answer: kueue_answer.Answer, now: float) -> list[Effect]:
        """Take the planner's answer; one that comes too late is given back.

        Wait or Reject after Start withdraws the reservation, as long as the job is not admitted.
        """
        case = self._cases.get(uid)
        starts = isinstance(answer, kueue_answer.Start)
        if case is None or isinstance(case.answer, kueue_answer.Wait | kueue_answer.Reject):
            return [Cancel(uid, "", "the answer came too late")] if starts else []
        if starts and case.answer:
            return []
        if case.workload.admitted and not starts:
            return []  # its job may run already, so nothing is taken from it; its pods wait in the planner's own queue
        case.answer, case.since = answer, now
        case.seen = self._states(case.workload) != {"Pending"}
        return self._report(case, now)

    def pods_came(self, uid: str) -> list[Effect]:
        """Take note that all pods are there: from now on the reservation is theirs, and time does not end it."""
        if uid in self._cases:
            self._cases[uid].here = True
        return []

    def tick(self, now: float) -> list[Effect]:
        """End what has waited too long."""
        return [effect for uid, case in tuple(self._cases.items()) for effect in self._overdue(uid, case, now)]

    def _states(self, workload: kueue.Workload) -> set[str]:
        return {one.state for one in workload.checks if one.name in self.checks}

    def _open(self, workload: kueue.Workload, now: float) -> list[Effect]:
        if workload.assigning:  # the topology assignment that we are to respect is still to come
            return []
        self._cases[workload.uid] = _Case(workload, now)
        return [Reserve(workload)]

    def _close(self, uid: str, because: str) -> list[Effect]:
        case = self._cases.pop(uid, None)
        return [] if case is None else [Cancel(uid, case.workload.key, because)]

    def _overdue(self, uid: str, case: _Case, now: float) -> list[Effect]:
        if case.here or isinstance(case.answer, kueue_answer.Wait | kueue_answer.Reject):
            return []
        if now - case.since <= (self.answer_s if case.answer is None else self.hold_s):
            return []
        what = "no decision" if case.answer is None else "not all pods came"
        message = f"{what} within {now - case.since:.0f} s; the reservation was given back"
        cancel = Cancel(uid, case.workload.key, message)
        if case.workload.admitted:  # its job may run; pods that come later wait in the planner's own queue
            case.here = True
            return [cancel]
        case.answer, case.since = kueue_answer.Wait(message), now
        case.seen = self._states(case.workload) != {"Pending"}
        return [cancel, *self._report(case, now)]

    def _report(self, case: _Case, now: float) -> list[Effect]:
        """Return what of the answer the Workload does not say yet."""
        assert case.answer is not None
        state = kueue_answer.STATES[type(case.answer)]
        stale = [one for one in case.workload.checks if one.name in self.checks and one.state != state]
        if not stale:
            return []
        said = kueue_answer.entry(case.answer, case.workload, now)
        return [Report(case.workload, tuple({"name": one.name, **said} for one in stale))]


def _activation(check: kueue.AdmissionCheck) -> Iterator[Activate]:
    """Yield the condition that is to be written; none where it is right."""
    active, reason, message = True, "Active", "Muster plans the gangs of Workloads with this check"
    if check.parameters:
        active, reason = False, "UnknownParameters"
        message = f"spec.parameters names {check.parameters}, but this check takes none: take spec.parameters away"
    if (check.active, check.message) != (active, message):
        yield Activate(check, active, reason, message)


def _ended(workload: kueue.Workload) -> str:
    for condition in ("Finished", "Evicted", "DeactivationTarget"):
        if condition in workload.true:
            return f"the Workload has the condition {condition}"
    if workload.deleting or not workload.active:
        return "the Workload is deleted" if workload.deleting else "the Workload was deactivated"
    return "the Workload has no quota any more"
