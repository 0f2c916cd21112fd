"""The planner's answer about a Workload of Kueue, and the entry of ``status.admissionChecks`` that says it."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.kube import kueue, names

RETRY_S = (5, 600)
"""Least and greatest delay of a retry in seconds."""

MESSAGE_LENGTH = 1024


@dataclass(frozen=True, slots=True)
class Start:
    """The gang has its devices.

    Attributes
    ----------
    gang : str
        Name of the GangPlacement.
    decision_id : str
        That of the gang; "" leaves it to the webhook.
    domain : str
        Level and name of the tightest domain that holds the gang.
    """

    gang: str
    decision_id: str
    message: str
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """There is no room now; `message` says what is missing. Nothing is reserved.

    When there will be room is not known: the run times of gangs are seldom declared, and others may come first. So the
    delay is one length for all, short beside a job, and long enough that a queue of hundreds asks a few times a second.
    """

    message: str
    retry_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Reject:
    """There can be no room, or the request contradicts itself. Nothing is reserved."""

    message: str


Answer = Start | Wait | Reject


STATES = {Start: "Ready", Wait: "Retry", Reject: "Rejected"}


def entry(answer: Answer, workload: kueue.Workload, now: float) -> dict[str, Any]:
    """Return an entry of ``status.admissionChecks`` without its name."""
    said: dict[str, Any] = {
        "state": STATES[type(answer)],
        "lastTransitionTime": timestamp(now),
        "message": answer.message[:MESSAGE_LENGTH],
    }
    if isinstance(answer, Wait):
        least, greatest = RETRY_S
        said["requeueAfterSeconds"] = int(min(max(answer.retry_s, least), greatest))
    if isinstance(answer, Start):
        said["podSetUpdates"] = [_update(one, answer) for one in workload.podsets]
    return said


def _update(podset: kueue.PodSet, start: Start) -> dict[str, Any]:
    """Return what the pods of a pod set get on their way: the gang, the decision, and for people the domain.

    Kueue does not start a job whose template already says something else under one of the keys, so what the template
    says stays: the webhook and the planner settle labels and ids by themselves. No node selector: it would stay on the
    job's template and bind the pods to this domain also when the gang is planned anew, after a node was lost say; each
    pod is pinned to its own node when it is let go.
    """
    there = podset.template.annotations
    return {
        "name": podset.name,
        "labels": _new(names.GANG, start.gang, podset.template.labels),
        "annotations": _new(names.DECISION, start.decision_id, there) | _new(names.DOMAIN, start.domain, there),
    }


def _new(key: str, value: str, there: Mapping[str, str]) -> dict[str, str]:
    return {key: value} if value and key not in there else {}


def timestamp(now: float) -> str:
    """Return a time of the API, in whole seconds."""
    return datetime.datetime.fromtimestamp(int(now), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
