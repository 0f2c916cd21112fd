"""The planner's answer about a Workload of Kueue, and the entry of ``status.admissionChecks`` that says it."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
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
        "" where it is not known yet; the pods then get theirs from the webhook.
    domains : Mapping
        By pod set, node label and value of a domain that holds all its pods; absent where there is none.
    """

    gang: str
    decision_id: str
    message: str
    domains: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wait:
    """There is no room now; `message` says what is missing. Nothing is reserved."""

    message: str
    retry_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Reject:
    """There can be no room, or the request contradicts itself. Nothing is reserved."""

    message: str


Answer = Start | Wait | Reject


STATES = {Start: "Ready", Wait: "Retry", Reject: "Rejected"}


def entry(answer: Answer, workload: kueue.Workload, flavors: Mapping[str, kueue.Flavor], now: float) -> dict[str, Any]:
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
        said["podSetUpdates"] = [_update(one, answer, flavors) for one in workload.podsets]
    return said


def _update(podset: kueue.PodSet, start: Start, flavors: Mapping[str, kueue.Flavor]) -> dict[str, Any]:
    """Return what the pods of a pod set get on their way.

    Kueue does not start a job whose template already says something else under one of the keys, so what the template
    says stays: the webhook and the planner settle labels and ids by themselves. The node selector only narrows what
    kube-scheduler looks at, and is left out as well where it could contradict another.
    """
    update: dict[str, Any] = {
        "name": podset.name,
        "labels": _new(names.GANG, start.gang, podset.template.labels),
        "annotations": _new(names.DECISION, start.decision_id, podset.template.annotations),
    }
    domain = start.domains.get(podset.name)
    if domain and podset.assignment is None and not _taken(domain[0], podset, flavors):
        update["nodeSelector"] = {domain[0]: domain[1]}
    return update


def _new(key: str, value: str, there: Mapping[str, str]) -> dict[str, str]:
    return {key: value} if value and key not in there else {}


def _taken(label: str, podset: kueue.PodSet, flavors: Mapping[str, kueue.Flavor]) -> bool:
    """Return whether the template or a flavour says, or may say, something about a label."""
    unknown = any(name not in flavors for name in podset.flavors)
    return unknown or label in podset.selector or any(label in flavors[name].labels for name in podset.flavors)


def timestamp(now: float) -> str:
    """Return a time of the API, in whole seconds."""
    return datetime.datetime.fromtimestamp(int(now), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
