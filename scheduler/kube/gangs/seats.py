"""Which pod has which rank.

The first that applies to a pod counts: ``muster.dev/rank``; the index that its owner gave it; for pods without an index,
the rank that it was placed with; else the free ranks in the order of names. So the pod that comes in the place of a lost
one gets its rank, and nobody else moves.

Of several pods with one rank the newest counts, and one that is being deleted gives way to any other: controllers make
the next pod before the last one is gone. Two living pods on which the user wrote the same rank are refused. An index
that no longer has to run (a Job scaled down) gives its pod no rank. Gaps are ranks whose pod has still to come.
"""

from collections.abc import Iterable, Mapping, Sequence

from scheduler import bad_input
from scheduler.kube import pod as pods
from scheduler.kube.gangs import outline
from scheduler.model import names

Order = tuple[bool, str, str]


def seated(slots: Sequence[int], numbered: bool, members: Iterable[outline.Seated], first: int) -> dict[int, pods.Pod]:
    """Seat the pods of a role; the answer is by position in the role, from 0 on.

    Parameters
    ----------
    slots : Sequence of int
        The role's indices, ascending.
    first : int
        Rank of the role's first pod in the gang, by which ``muster.dev/rank`` is counted.

    Raises
    ------
    BadInput
        A rank that the user wrote is none of the role's, or is written twice.
    """
    living = [one for one in members if not one.pod.gone]
    chosen = _told(living, len(slots), first)
    rest = [one for one in living if names.RANK not in one.pod.annotations]
    if numbered:
        positions = {slot: position for position, slot in enumerate(slots)}
        for one in sorted(rest, key=lambda seat: precedence(seat.pod)):
            if one.index in positions and not _is_told(chosen.get(positions[one.index])):
                chosen[positions[one.index]] = one.pod
        return chosen
    return _filled(chosen, rest, len(slots), first)


def precedence(pod: pods.Pod) -> Order:
    """Order pods with one rank: the last is the one that counts."""
    return not pod.deleting, pod.created, pod.uid


def told_rank(pod: pods.Pod) -> int | None:
    """Return the rank that the user wrote on a pod."""
    return outline.written(pod.annotations.get(names.RANK), f"pod {pod.key}", f"metadata.annotations[{names.RANK}]", 0)


def _told(living: Sequence[outline.Seated], count: int, first: int) -> dict[int, pods.Pod]:
    chosen: dict[int, pods.Pod] = {}
    for one in sorted(living, key=lambda seat: precedence(seat.pod)):
        rank = told_rank(one.pod)
        if rank is None:
            continue
        if not first <= rank < first + count:
            raise _refused(one.pod, f"is none of the role's {count} ranks, {first} to {first + count - 1}", "change it")
        other = chosen.get(rank - first)
        if other is not None and not other.deleting:
            raise _refused(one.pod, f"is that of pod {other.key} too", "write another rank on one of them")
        chosen[rank - first] = one.pod
    return chosen


def _is_told(pod: pods.Pod | None) -> bool:
    return pod is not None and names.RANK in pod.annotations


def _refused(pod: pods.Pod, problem: str, remedy: str) -> bad_input.BadInput:
    field = f"metadata.annotations[{names.RANK}]"
    return bad_input.BadInput(
        problem, file=f"pod {pod.key}", field=field, value=pod.annotations[names.RANK], remedy=remedy
    )


def _filled(chosen: dict[int, pods.Pod], rest: Sequence[outline.Seated], count: int, first: int) -> dict[int, pods.Pod]:
    """Seat pods without an index of their own: where they were placed before, else in order.

    Those that are being deleted come last: they keep a rank only while nobody else wants it.
    """
    waiting = []
    for one in sorted(rest, key=_in_order):
        position = _planned(one.pod.annotations) - first
        if 0 <= position < count and position not in chosen:
            chosen[position] = one.pod
        else:
            waiting.append(one.pod)
    free = [position for position in range(count) if position not in chosen]
    chosen.update(zip(free, waiting, strict=False))
    return chosen


def _in_order(one: outline.Seated) -> tuple[bool, int, str]:
    return one.pod.deleting, -1 if one.index is None else one.index, one.pod.name


def _planned(annotations: Mapping[str, str]) -> int:
    """Return the rank that the pod was placed with, -1 for none: what we wrote, or somebody else, who is not believed."""
    text = annotations.get(names.PLANNED_RANK, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
