"""A Job as a gang: the pods that it runs at once, less what has finished.

``parallelism`` pods run at a time; with more ``completions``, the next index takes the place of a finished one, and the
gang keeps its size until the last are on their way. ``spec.scheduling`` (Kubernetes 1.37) may name a level and a minimum;
without a gang in it the Job is one all the same, since a pod that starts alone holds devices and waits for the others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.kube import pod as pods
from scheduler.kube import workload
from scheduler.kube.gangs import marks, outline

Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Work:
    """What is left of a Job.

    Attributes
    ----------
    slots : tuple of int
        Completion indices that have to run now; where pods have no index, as many numbers from 0 on.
    stride : int
        Indices that the whole Job may ever use.
    full : int
        Pods that run at once when nothing has finished yet.
    """

    slots: tuple[int, ...]
    seated: tuple[outline.Seated, ...]
    indexed: bool
    stride: int
    full: int


def outlines(
    identity: workload.Identity, members: Sequence[pods.Pod], objects: outline.Objects
) -> tuple[outline.Outline, ...]:
    """Outline the gang of a Job that no other project made."""
    item = outline.found(objects, marks.JOB, identity.namespace, identity.owner)
    where = f"Job {identity.namespace}/{identity.owner}"
    spec = item.get("spec") or {}
    uid = item["metadata"].get("uid", "")
    left = work(spec, item.get("status") or {}, [one for one in members if one.owner.uid in (uid, "")], where)
    part = outline.Part(
        role="pods",
        where=f"{where}, spec.template",
        slots=left.slots,
        seated=left.seated,
        numbered=left.indexed,
        full=left.full,
        template=spec.get("template") or {},
    )
    owner = outline.owner_of(item, "batch/v1", "Job")
    scheduling = spec.get("scheduling") or {}
    gang = (scheduling.get("schedulingPolicy") or {}).get("gang") or {}
    least = outline.amount(gang.get("minCount"), 0, where, "spec.scheduling.schedulingPolicy.gang.minCount")
    return (
        outline.Outline(
            identity,
            owner,
            where,
            (part,),
            item,
            required=outline.topology(scheduling, where),
            min_member=min(least, len(left.slots)),
            suspended=bool(spec.get("suspend")),
        ),
    )


def work(spec: Item, status: Item, members: Sequence[pods.Pod], where: str) -> Work:
    """Tell which pods of a Job have to run now; `members` are its pods.

    A pod that succeeded counts as completed even while the Job's status does not say so yet.
    """
    parallelism = outline.amount(spec.get("parallelism"), 1, where, "spec.parallelism")
    completions = outline.amount(spec.get("completions"), 0, where, "spec.completions")
    indexed = spec.get("completionMode") == "Indexed"
    full = min(parallelism, completions) if spec.get("completions") is not None else parallelism
    if ended(status):
        return Work((), (), indexed, max(parallelism, completions), full)
    slots: Sequence[int]
    if indexed:
        seated = tuple(outline.Seated(outline.index(one, marks.COMPLETION_INDEX), one) for one in members)
        slots = _indices(range(completions), parallelism, _finished(status, seated), seated)
    else:
        seated = tuple(outline.Seated(None, one) for one in members)
        slots = range(_count(spec, status, members, parallelism, completions))
    return Work(tuple(slots), seated, indexed, max(parallelism, completions), full)


def ended(status: Item) -> bool:
    """Return whether a Job runs no more pods."""
    return failed(status) or _holds(status, ("Complete", "SuccessCriteriaMet"))


def failed(status: Item) -> bool:
    """Return whether a Job has failed as a whole."""
    return _holds(status, ("Failed", "FailureTarget"))


def _holds(status: Item, wanted: Sequence[str]) -> bool:
    return any(one.get("type") in wanted and one.get("status") == "True" for one in status.get("conditions") or ())


def intervals(text: str) -> Iterator[range]:
    """Read the index lists of a Job's status, like ``1,3-5``."""
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield range(int(first), int(last or first) + 1)


def _finished(status: Item, seated: Sequence[outline.Seated]) -> set[int | None]:
    """Return the indices that will not run again."""
    done: set[int | None] = {one.index for one in seated if one.pod.phase == "Succeeded"}
    for field in ("completedIndexes", "failedIndexes"):
        for interval in intervals(status.get(field) or ""):
            done.update(interval)
    return done


def _indices(whole: range, limit: int, done: set[int | None], seated: Sequence[outline.Seated]) -> list[int]:
    """Return the indices that run now: those with a pod, and the lowest others up to the limit, as the controller does."""
    running = {one.index for one in seated if not one.pod.gone} - done
    chosen = [one for one in whole if one in running][:limit]
    taken = set(chosen)
    for one in whole:
        if len(chosen) >= limit:
            break
        if one not in taken and one not in done:
            chosen.append(one)
    return sorted(chosen)


def _count(spec: Item, status: Item, members: Sequence[pods.Pod], parallelism: int, completions: int) -> int:
    """Return how many pods without an index run now."""
    succeeded = max(int(status.get("succeeded") or 0), sum(one.phase == "Succeeded" for one in members))
    if spec.get("completions") is not None:
        return max(0, min(parallelism, completions - succeeded))
    return sum(not one.gone for one in members) if succeeded else parallelism  # a work queue that is nearly empty
