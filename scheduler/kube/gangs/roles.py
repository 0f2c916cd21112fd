"""The roles of an outline: which pods are of one kind, in which order, and what each asks for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from scheduler import bad_input
from scheduler.kube import pod as pods
from scheduler.kube import workload
from scheduler.kube.gangs import outline, seats
from scheduler.model import admission, names, request

RequestOf = Callable[[pods.Pod], request.PodRequest]


@dataclass(frozen=True, slots=True)
class Role:
    """A role with its pods.

    Attributes
    ----------
    seats : dict
        Pods by position in the role.
    request : PodRequest or None
        None while no pod can tell.
    unread : str
        What the request of a pod waits for; "" for nothing.
    """

    name: str
    count: int
    part: outline.Part
    seats: dict[int, pods.Pod]
    request: request.PodRequest | None
    unread: str = ""


def of(one: outline.Outline, request_of: RequestOf) -> tuple[Role, ...]:
    """Return the roles in rank order; those with nothing left to run are left out.

    Raises
    ------
    ValueError
        The pods contradict each other, or what one asks for can't be read.
    """
    found: list[Role] = []
    for part in one.parts:
        first = sum(role.count for role in found)
        if not part.slots:
            continue
        found += [_uniform(part, request_of, first)] if part.role else _mixed(part, request_of, first)
    return tuple(found)


def _uniform(part: outline.Part, request_of: RequestOf, first: int) -> Role:
    """Return the role of a template, whose pods all have to ask for the same."""
    chosen = seats.seated(part.slots, part.numbered, part.seated, first)
    asked: dict[request.PodRequest, pods.Pod] = {}
    unread = ""
    for position in sorted(chosen):
        try:
            asked.setdefault(request_of(chosen[position]), chosen[position])
        except outline.NotYet as missing:
            unread = unread or str(missing)
    if len(asked) > 1 and all(pod.node for pod in chosen.values()) and len({_anywhere(one) for one in asked}) == 1:
        nodes = admission.common(
            [one.nodes for one in asked]
        )  # what differs has done its work: Kueue's host by host, say
        asked = {replace(next(iter(asked)), nodes=nodes): next(iter(asked.values()))}
    if len(asked) > 1:
        one, other, *_ = asked.values()
        raise bad_input.BadInput(
            f"asks for other devices, resources or nodes than pod {one.key} of the same template",
            file=f"pod {other.key}",
            field="spec",
            remedy="let whatever changes pods at creation change all of a template alike",
        )
    return Role(part.role, len(part.slots), part, chosen, next(iter(asked), None), unread)


def _anywhere(asked: request.PodRequest) -> request.PodRequest:
    return replace(asked, nodes=admission.Admission())


def expected(part: outline.Part, identity: workload.Identity, request_of: RequestOf) -> Role:
    """Return the role that the pods of a template will be, with one pod made from it.

    Raises
    ------
    ValueError
        There is no template.
    """
    if not part.template:
        raise bad_input.BadInput("has no template of its pods", file=part.where, remedy="wait until the pods exist")
    named = {
        **(part.template.get("metadata") or {}),
        "name": f"{identity.owner}-{part.role}",
        "namespace": identity.namespace,
    }
    pod = pods.read({"metadata": named, "spec": part.template.get("spec") or {}})
    return Role(part.role, len(part.slots), part, {0: pod}, request_of(pod))


Kind = tuple[str, request.PodRequest]


def _mixed(part: outline.Part, request_of: RequestOf, first: int) -> Iterator[Role]:
    """Yield the roles of pods of several kinds: by their role annotation, else by what they ask for.

    Which roles there are is not known before the last pod is there and tells what it asks for.
    """
    staying = _staying(part)
    if len(staying) < len(part.slots):
        yield _unknown(part, staying, first)
        return
    kinds: dict[Kind, list[outline.Seated]] = {}
    try:
        for one in staying:
            kinds.setdefault((one.pod.annotations.get(names.ROLE, ""), request_of(one.pod)), []).append(one)
    except outline.NotYet as missing:
        yield _unknown(part, staying, first, str(missing))
        return
    called = _called(kinds, part.where)
    for kind in sorted(kinds, key=lambda kind: (_lowest(kinds[kind]), kind)):
        pods_of = kinds[kind]
        chosen = seats.seated(range(len(pods_of)), False, pods_of, first)
        yield Role(called[kind], len(pods_of), part, chosen, kind[1])
        first += len(pods_of)


def _unknown(part: outline.Part, staying: Sequence[outline.Seated], first: int, unread: str = "") -> Role:
    """Return a role for all pods of several kinds while it is not known which there are; ranks may still change."""
    chosen = seats.seated(part.slots, False, staying, first)
    return Role("pods", len(part.slots), part, chosen, None, unread)


def _staying(part: outline.Part) -> list[outline.Seated]:
    """Return as many living pods as there are places, those that are being deleted last."""
    living = [one for one in part.seated if not one.pod.gone]
    return sorted(living, key=lambda one: (one.pod.deleting, one.pod.name))[: len(part.slots)]


def _lowest(members: Sequence[outline.Seated]) -> int:
    """Return the lowest rank that the user wrote on a pod of a role, 0 for none: roles come in the order of their ranks."""
    return min((rank for rank in (seats.told_rank(one.pod) for one in members) if rank is not None), default=0)


def _called(kinds: dict[Kind, list[outline.Seated]], where: str) -> dict[Kind, str]:
    """Name each kind of pods."""
    unnamed = sorted(kind for kind in kinds if not kind[0])
    called = {kind: f"pods-{number}" if len(unnamed) > 1 else "pods" for number, kind in enumerate(unnamed)}
    for kind in kinds:
        if kind[0] in called.values():
            one, other = (kinds[found][0].pod for found in kinds if kind[0] == (found[0] or called.get(found)))
            raise bad_input.BadInput(
                f"is also that of pod {one.key}, which asks for something else",
                file=f"pod {other.key}",
                field=f"metadata.annotations[{names.ROLE}]",
                value=kind[0],
                remedy="give pods that ask for different things different roles",
            )
        if kind[0]:
            called[kind] = kind[0]
    return called
