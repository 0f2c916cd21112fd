"""The model's gang of an outline and its roles: constraints, minimum, priority, tenant."""

from collections.abc import Iterator, Mapping, Sequence

from scheduler import bad_input
from scheduler.kube import pod as pods
from scheduler.kube.gangs import outline, roles, wanted
from scheduler.model import gang as gangs
from scheduler.model import names, wishes

Constraint = gangs.TopologyConstraint

REMADE = ("JobSet", "Job", "LeaderWorkerSet")
"""Kinds of owners that make their pods anew; of other gangs each pod tells whether it has such an owner."""


def of(one: outline.Outline, found: Sequence[roles.Role], objects: outline.Objects) -> gangs.Gang | None:
    """Return the gang; None while the request of a role is not known.

    Raises
    ------
    ValueError
        The gang contradicts itself.
    """
    owner = outline.annotations(one.item)
    _check_name(one, owner)
    if any(role.request is None and not role.part.role for role in found):
        return None  # pods of several kinds, which need not agree
    asked = [wanted.of_role(wanted.notes(role.part, _pods(role)), owner, role.part, role.count) for role in found]
    above = wishes.read(owner, one.where, whole=False)
    constraint, lifted = _constraint(one, above, asked)
    if any(role.request is None for role in found):
        return None
    everyone = [above, *(each.wishes for each in asked)]
    size, members = sum(role.count for role in found), [pod for role in found for pod in _pods(role)]
    return gangs.Gang(
        name=one.identity.key,
        roles=tuple(_role(role, each, lifted) for role, each in zip(found, asked, strict=True)),
        tenant=_tenant(one, members, objects),
        priority=min((pod.priority for pod in members), default=0) if one.priority is None else one.priority,
        constraint=constraint,
        min_member=_minimum(one, everyone, size),
        preemptible=all(each.preemptible is not False for each in everyone),
        movable=one.identity.kind in REMADE or all(pod.owner.uid for pod in members),
        expected_s=wanted.agreed(filter(None, (each.expected_s for each in everyone)), one.where, names.EXPECTED_S)
        or 0.0,
        decision_id=next(_decisions(above, members), ""),
    )


def _check_name(one: outline.Outline, owner: Mapping[str, str]) -> None:
    """Refuse the name of a gang where its pods do not have it: on the owner object it names nobody's gang."""
    if names.GANG_NAME in owner:
        raise bad_input.BadInput(
            "stands on the owner object, but the pods do not carry it",
            file=one.where,
            field=f"metadata.annotations[{names.GANG_NAME}]",
            value=owner[names.GANG_NAME],
            remedy="write it, and the gang's size, on the pod template",
        )


def _pods(role: roles.Role) -> list[pods.Pod]:
    return [role.seats[position] for position in sorted(role.seats)]


def _role(role: roles.Role, each: wanted.Wanted, lifted: bool) -> gangs.Role:
    if role.request is None:
        raise outline.NotYet(f"the request of role {role.name}")
    constraint = Constraint() if lifted else each.constraint
    return gangs.Role(role.name, role.count, role.request, constraint, each.segment, each.spread)


def _constraint(one: outline.Outline, above: wishes.Wishes, asked: Sequence[wanted.Wanted]) -> tuple[Constraint, bool]:
    """Return what holds for the gang as a whole, and whether the constraints of the roles are in it.

    They are where all roles say the same and mean one domain together: pods that name their gang themselves, and pod
    sets of one Kueue group.
    """
    required = wanted.same((one.required, "the owner's topology"), (above.required, names.REQUIRED_LEVEL), one.where)
    whole = Constraint(required, above.preferred)
    shared = {each.constraint for each in asked}
    if not _together(one, asked) or len(shared) != 1 or shared == {Constraint()}:
        return whole, False
    [inner] = shared
    return Constraint(
        wanted.same((required, one.where), (inner.required, "the pods"), one.where),
        wanted.same((above.preferred, one.where), (inner.preferred, "the pods"), one.where),
    ), True


def _together(one: outline.Outline, asked: Sequence[wanted.Wanted]) -> bool:
    """Return whether what the roles ask for means all of them in one domain.

    Raises
    ------
    BadInput
        A Kueue group of some of the pod sets, which the gang can't express.
    """
    sets = {each.together for each in asked}
    if sets - {""} and len(sets) > 1:
        raise bad_input.BadInput(
            "groups some of the pod sets: Muster follows a group of all of them",
            file=one.where,
            field="metadata.annotations[kueue.x-k8s.io/podset-group-name]",
            remedy="write one group on all pod templates, or none",
        )
    return bool(sets - {""}) or all(not part.role for part in one.parts)


def _minimum(one: outline.Outline, everyone: Sequence[wishes.Wishes], size: int) -> int:
    """Return how many pods have to be placed for the gang to start."""
    told = wanted.agreed(filter(None, (each.min_member for each in everyone)), one.where, names.MIN_MEMBER) or 0
    if told > max(size, one.full):
        raise bad_input.BadInput(
            f"is more than the gang's {size} pods",
            file=one.where,
            field=f"metadata.annotations[{names.MIN_MEMBER}]",
            value=str(told),
            remedy=f"write at most {size}",
        )
    if told and one.min_member > 1 and told != one.min_member:
        raise bad_input.BadInput(
            f"is {told}, but the group's own minimum is {one.min_member}",
            file=one.where,
            field=f"metadata.annotations[{names.MIN_MEMBER}]",
            remedy="take the annotation away",
        )
    return min(told or one.min_member, size)


def _tenant(one: outline.Outline, members: Sequence[pods.Pod], objects: outline.Objects) -> str:
    told = wanted.agreed(
        filter(None, (pod.labels.get(names.TENANT, "") for pod in members)),
        one.where,
        f"metadata.labels[{names.TENANT}]",
    )
    return told or outline.labels(one.item).get(names.TENANT) or outline.tenant(objects, one.identity.namespace)


def _decisions(above: wishes.Wishes, members: Sequence[pods.Pod]) -> Iterator[str]:
    """Yield decision ids, the owner's first, then those of the pods by rank."""
    yield from filter(None, (above.decision_id, *(pod.annotations.get(names.DECISION, "") for pod in members)))
