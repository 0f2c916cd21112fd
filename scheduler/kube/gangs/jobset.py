"""A JobSet as a gang, or as a chain of gangs where it starts in stages.

Pods of a later stage do not exist before the earlier one runs, so whoever waits for all pods of such a JobSet waits for
ever. A stage of its own is what has another ``dependsOn``, every replicated job under ``startupPolicy: InOrder``, and
under ``exclusive-topology`` the followers of each Job: JobSet's webhook lets them in only after their leader has a node.
The first stage has the name of the JobSet's gang, later ones that of their first replicated job in addition,
followers that of their Job's index too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scheduler import bad_input
from scheduler.kube import pod as pods
from scheduler.kube import workload
from scheduler.kube.gangs import identity as identities
from scheduler.kube.gangs import job, marks, outline
from scheduler.model import gang as gangs

Item = Mapping[str, Any]

API = "jobset.x-k8s.io/v1alpha2"


@dataclass(frozen=True, slots=True)
class _Replicated:
    """A replicated job with its part, its stage, and its exclusive topology."""

    part: outline.Part
    stage: tuple[str, ...]
    exclusive: str
    stride: int


def outlines(
    identity: workload.Identity, members: Sequence[pods.Pod], objects: outline.Objects
) -> tuple[outline.Outline, ...]:
    """Outline the gangs of a JobSet, the first stage first."""
    namespace, name = identity.namespace, identity.owner
    item = outline.found(objects, marks.JOBSET, namespace, name)
    where = f"JobSet {namespace}/{name}"
    owner = outline.owner_of(item, API, "JobSet")
    if (item.get("status") or {}).get("terminalState"):
        return (outline.Outline(identity, owner, where, (), item),)
    suspended = bool((item.get("spec") or {}).get("suspend"))
    current = _current(members, item["metadata"].get("uid", ""))
    stages: dict[tuple[str, ...], list[_Replicated]] = {}
    for one in _replicated(item, where, current, objects):
        stages.setdefault(one.stage, []).append(one)
    found: list[outline.Outline] = []
    for count, stage in enumerate(stages.values()):
        mine = identities.staged(identity, stage[0].part.role) if count else identity
        whole = outline.Outline(mine, owner, where, tuple(one.part for one in stage), item, suspended=suspended)
        found += _led(identity, whole, stage) if any(one.exclusive for one in stage) else [whole]
    return tuple(found)


def _current(members: Sequence[pods.Pod], uid: str) -> list[pods.Pod]:
    """Return the pods of this JobSet's present attempt, and of each Job's.

    The attempt is read off the pods and not off the JobSet: its status may be older or newer than the pods that we see,
    and a restart in place raises it without making new pods.
    """
    mine = [(one, _attempt(one)) for one in members if one.labels.get(marks.JOBSET_UID, uid) == uid]
    newest = max((attempt for _, (attempt, _) in mine), default=0)
    attempts: dict[tuple[str | None, ...], tuple[int, int]] = {}
    for one, attempt in mine:
        attempts[_job(one)] = max(attempts.get(_job(one), (newest, 0)), attempt)
    return [one for one, attempt in mine if attempt == attempts[_job(one)]]


def _job(pod: pods.Pod) -> tuple[str | None, ...]:
    return pod.labels.get(marks.JOBSET_ROLE), pod.labels.get(marks.JOBSET_JOB)


def _attempt(pod: pods.Pod) -> tuple[int, int]:
    return outline.index(pod, marks.JOBSET_ATTEMPT) or 0, outline.index(pod, marks.JOBSET_JOB_ATTEMPT) or 0


def _replicated(item: Item, where: str, members: Sequence[pods.Pod], objects: outline.Objects) -> Iterator[_Replicated]:
    spec = item["spec"]
    in_order = (spec.get("startupPolicy") or {}).get("startupPolicyOrder") == "InOrder"
    for one in spec.get("replicatedJobs") or ():
        mine = [pod for pod in members if pod.labels.get(marks.JOBSET_ROLE) == one["name"]]
        part, stride = _part(item, one, f"{where}, replicatedJob {one['name']}", mine, objects)
        depends = tuple(f"{on['name']} {on.get('status', '')}" for on in one.get("dependsOn") or ())
        stage = (one["name"],) if in_order else depends
        yield _Replicated(part, stage, _exclusive(item, one, where), stride)


def _part(
    item: Item, one: Item, where: str, members: Sequence[pods.Pod], objects: outline.Objects
) -> tuple[outline.Part, int]:
    """Return the part of a replicated job, whose indices are ``job index * stride + completion index``, and the stride."""
    metadata, spec = item["metadata"], (one.get("template") or {}).get("spec") or {}
    replicas = outline.amount(one.get("replicas"), 1, where, "replicas")
    empty = job.work(spec, {}, (), where)
    outline.amount(replicas * empty.full, 0, where, "replicas times parallelism")
    jobs: dict[int | None, list[pods.Pod]] = {}
    for pod in members:
        jobs.setdefault(outline.index(pod, marks.JOBSET_JOB), []).append(pod)
    slots: list[int] = []
    seated: list[outline.Seated] = []
    for number in range(replicas):
        made = objects(marks.JOB, metadata.get("namespace", ""), f"{metadata['name']}-{one['name']}-{number}")
        left = job.work(spec, _status(made, jobs.get(number, ()), metadata), jobs.get(number, ()), where)
        slots += [number * left.stride + slot for slot in left.slots]
        seated += _seated(left, number * left.stride)
    part = outline.Part(
        role=one["name"],
        where=f"{where}, template.spec.template",
        slots=tuple(slots),
        seated=tuple(seated),
        full=replicas * empty.full,
        template=spec.get("template") or {},
        segment=_own_level(spec, where, empty.full),
        slice_size=empty.full,
    )
    return part, empty.stride


def _own_level(spec: Item, where: str, size: int) -> gangs.Segment | None:
    """Return the pods of each Job as a segment where ``scheduling`` (Kubernetes 1.37) names a level for them."""
    level = outline.topology(spec.get("scheduling") or {}, where)
    return gangs.Segment(size, level) if level and size else None


def _status(made: Item | None, members: Sequence[pods.Pod], metadata: Item) -> Item:
    """Return the status of a Job of this JobSet and of the attempt that its pods are of; empty for any other.

    Empty for a failed one too: the JobSet starts it anew, with all others or alone, so its pods are still to come. What
    is left of the others meanwhile is no gang.
    """
    if made is None or pods.controller(made["metadata"]).uid != metadata.get("uid", ""):
        return {}
    if members and outline.labels(made).get(marks.JOBSET_ATTEMPT) != members[0].labels.get(marks.JOBSET_ATTEMPT):
        return {}
    status: Item = made.get("status") or {}
    return {} if job.failed(status) else status


def _seated(left: job.Work, first: int) -> Iterator[outline.Seated]:
    """Yield pods with their index in the replicated job; Jobs without indices number their pods by name."""
    if left.indexed:
        for one in left.seated:
            yield replace(one, index=None if one.index is None else first + one.index)
        return
    living = sorted((one.pod for one in left.seated if not one.pod.gone), key=lambda pod: pod.name)
    for number, pod in enumerate(living):
        yield outline.Seated(first + number, pod)


def _exclusive(item: Item, one: Item, where: str) -> str:
    """Return the topology that each Job wants for itself, "" for none."""
    told = {**outline.annotations(item), **outline.annotations(one.get("template") or {})}
    if marks.JOBSET_EXCLUSIVE in told and marks.JOBSET_NODE_SELECTOR in told:
        raise bad_input.BadInput(
            "binds Jobs to nodes that were labelled beforehand, which leaves Muster nothing to place",
            file=where,
            field=f"metadata.annotations[{marks.JOBSET_NODE_SELECTOR}]",
            remedy="take the annotation away",
        )
    return told.get(marks.JOBSET_EXCLUSIVE, "")


def _led(
    identity: workload.Identity, whole: outline.Outline, stage: Sequence[_Replicated]
) -> Iterator[outline.Outline]:
    """Split a stage with exclusive topology: leaders first, one to a domain; then the followers of each Job."""
    yield replace(whole, parts=tuple(_leaders(one) if one.exclusive else one.part for one in stage))
    for one in stage:
        if one.exclusive:
            yield from _followers(identity, whole, one)


def _leaders(one: _Replicated) -> outline.Part:
    slots = tuple(slot for slot in one.part.slots if slot % one.stride == 0)
    seated = tuple(seat for seat in one.part.seated if seat.index is not None and seat.index % one.stride == 0)
    return replace(
        one.part,
        slots=slots,
        seated=seated,
        full=len(slots),
        spread=gangs.Spread(one.exclusive, 1),
        slice_size=0,
        segment=None,
    )


def _followers(identity: workload.Identity, whole: outline.Outline, one: _Replicated) -> Iterator[outline.Outline]:
    """Yield the followers of each Job that has any, in the domain that its leader is in."""
    part, stride = one.part, one.stride
    for number in sorted({slot // stride for slot in part.slots if slot % stride}):
        first = number * stride
        seated = tuple(seat for seat in part.seated if seat.index is not None and first < seat.index < first + stride)
        slots = tuple(slot for slot in part.slots if first < slot < first + stride)
        node = next((seat.pod.node for seat in part.seated if seat.index == first and not seat.pod.finished), "")
        mine = identities.staged(identity, f"{part.role}.{number}")
        yield replace(
            whole,
            identity=mine,
            parts=(replace(part, slots=slots, seated=seated, full=len(slots), slice_size=0, segment=None),),
            within=(workload.Within(part.role, one.exclusive, node=node),),
        )
