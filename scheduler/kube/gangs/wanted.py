"""What pods, templates and owner objects ask of the topology, in our words and in those of Kueue, as one answer.

What stands on pods or their template holds for their role. What stands on the owner object holds for the whole gang, or,
for segments and spread, for every role that says nothing itself. Two words for one thing have to agree.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scheduler import bad_input
from scheduler.kube import pod as pods
from scheduler.kube.gangs import marks, outline
from scheduler.model import gang as gangs
from scheduler.model import names, wishes

OWN = frozenset((names.RANK, names.ROLE, names.DECISION, names.GANG_NAME, names.GANG_SIZE))
"""Annotations in which the pods of one role may differ, or that were compared already."""

_LABEL = re.compile(r"([a-z0-9][-a-z0-9.]*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", re.ASCII)

KUEUE = (
    marks.KUEUE_REQUIRED,
    marks.KUEUE_PREFERRED,
    marks.KUEUE_UNCONSTRAINED,
    marks.KUEUE_SLICE_LEVEL,
    marks.KUEUE_SLICE_SIZE,
    marks.KUEUE_SLICE_LAYERS,
    marks.KUEUE_SET_GROUP,
)

SHARED = (*(key for key in wishes.READ if key not in OWN), *KUEUE)

Notes = Mapping[str, str]
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one role is to have; `together` names a Kueue group of pod sets that share a domain."""

    constraint: gangs.TopologyConstraint
    segment: gangs.Segment | None
    spread: gangs.Spread | None
    together: str
    wishes: wishes.Wishes


def notes(part: outline.Part, members: Sequence[pods.Pod]) -> Notes:
    """Return the annotations that a part's pods agree on, the gang's name from a label too; without pods, the template's.

    Raises
    ------
    BadInput
        Two pods differ in one of them.
    """
    if not members:
        return part.annotations
    first = members[0]
    said = {key: first.annotations.get(key) for key in SHARED}
    for other in members[1:]:
        for key, value in said.items():
            if value != other.annotations.get(key):
                raise bad_input.BadInput(
                    f"differs from that of pod {first.key}, {value or 'none'!r}",
                    file=f"pod {other.key}",
                    field=f"metadata.annotations[{key}]",
                    value=other.annotations.get(key, ""),
                    remedy="write the same on all pods of a role",
                )
    label = first.labels.get(names.GANG_NAME)
    return {names.GANG_NAME: label, **first.annotations} if label else first.annotations


def of_role(told: Notes, owner: Notes, part: outline.Part, count: int) -> Wanted:
    """Return what a role asks for.

    Raises
    ------
    BadInput, Contradiction
        Values that are none, or exclude each other; the message names object, field and remedy.
    """
    where = part.where
    mine = wishes.read(told, where, whole=False)
    wishes.read({**_ours(owner), **_ours(told)}, where)
    _check_unconstrained(told, where)
    required = same(
        (mine.required, names.REQUIRED_LEVEL), (_level(told, marks.KUEUE_REQUIRED, where), marks.KUEUE_REQUIRED), where
    )
    preferred = same(
        (mine.preferred, names.PREFERRED_LEVEL),
        (_level(told, marks.KUEUE_PREFERRED, where), marks.KUEUE_PREFERRED),
        where,
    )
    above = wishes.read(owner, where, whole=False)
    return Wanted(
        constraint=gangs.TopologyConstraint(required, preferred),
        segment=_segment(told, mine, above, part, count),
        spread=_spread(mine, above, part),
        together=told.get(marks.KUEUE_SET_GROUP, ""),
        wishes=mine,
    )


def same(one: tuple[str, str], other: tuple[str, str], where: str) -> str:
    """Return the one value of two (value, field) pairs of which either may be "".

    Raises
    ------
    BadInput
        They differ.
    """
    if one[0] and other[0] and one[0] != other[0]:
        raise bad_input.BadInput(
            f"is {other[0]!r}, but {one[1]} is {one[0]!r}",
            file=where,
            field=other[1],
            remedy="take one of the two away, or write the same level in both",
        )
    return one[0] or other[0]


def agreed(values: Iterable[_Value], where: str, key: str) -> _Value | None:
    """Return the one value that is written at several places, None for none.

    Raises
    ------
    BadInput
        There are several.
    """
    found = list(dict.fromkeys(values))
    if len(found) > 1:
        each = " and ".join(str(one) for one in found[:3])
        raise bad_input.BadInput(
            f"is said to be {each}", file=where, field=key, remedy="write it once, or the same everywhere"
        )
    return found[0] if found else None


def _ours(entries: Notes) -> dict[str, str]:
    return {key: value for key, value in entries.items() if key.startswith(names.PREFIX)}


def _level(told: Notes, key: str, where: str) -> str:
    """Return the node label that an annotation of Kueue names, "" where it is not there."""
    return "" if key not in told else _label(told[key], where, key)


def _label(text: object, where: str, key: str) -> str:
    if not isinstance(text, str) or len(text) > 317 or not _LABEL.fullmatch(text):
        remedy = "write the node label of a topology level, like example.com/rack"
        raise bad_input.BadInput("is no node label", file=where, field=key, value=str(text) or "(empty)", remedy=remedy)
    return text


def _check_unconstrained(told: Notes, where: str) -> None:
    free = told.get(marks.KUEUE_UNCONSTRAINED, "false")
    if free not in ("true", "false"):
        raise bad_input.BadInput(
            "is not what it has to be", file=where, field=marks.KUEUE_UNCONSTRAINED, value=free, remedy='write "true"'
        )
    bound = [key for key in (marks.KUEUE_REQUIRED, marks.KUEUE_PREFERRED) if told.get(key)]
    if free == "true" and bound:
        raise bad_input.BadInput(
            f"excludes {bound[0]}", file=where, field=marks.KUEUE_UNCONSTRAINED, remedy="take one of the two away"
        )


def _segment(
    told: Notes, mine: wishes.Wishes, above: wishes.Wishes, part: outline.Part, count: int
) -> gangs.Segment | None:
    """Return the segments of a role. Those that no longer divide it, since some of its pods finished, end."""
    own = mine if mine.segment_size else above
    ours = gangs.Segment(own.segment_size, own.segment_level) if own.segment_size and own.segment_level else None
    options = [one for one in (ours, _slice(told, part), part.segment) if one is not None]
    found = agreed(options, part.where, "segments (muster.dev/segment-size, Kueue's slices, the owner's subgroups)")
    if found is None or not count % found.size:
        return found
    if part.full != count and not part.full % found.size:
        return None
    raise bad_input.BadInput(
        f"of {found.size} pods does not divide the role's {count}",
        file=part.where,
        field="segment size",
        value=str(found.size),
        remedy="change the size of the segment or the number of pods",
    )


def _slice(told: Notes, part: outline.Part) -> gangs.Segment | None:
    """Return Kueue's slices: of one layer, by two annotations or by a list of one."""
    level, size = _level(told, marks.KUEUE_SLICE_LEVEL, part.where), told.get(marks.KUEUE_SLICE_SIZE)
    if marks.KUEUE_SLICE_LAYERS in told:
        return _layer(told[marks.KUEUE_SLICE_LAYERS], part.where, bool(level or size))
    pods_each = outline.written(size, part.where, marks.KUEUE_SLICE_SIZE) or (part.slice_size if level else 0)
    if not level and not pods_each:
        return None
    if not (level and pods_each):
        missing = marks.KUEUE_SLICE_SIZE if level else marks.KUEUE_SLICE_LEVEL
        raise bad_input.BadInput("is missing", file=part.where, field=missing, remedy="write both, or none")
    return gangs.Segment(pods_each, level)


def _layer(text: str, where: str, beside: bool) -> gangs.Segment:
    """Read Kueue's list of layers."""
    key = marks.KUEUE_SLICE_LAYERS
    if beside:
        remedy = f"write either it or {marks.KUEUE_SLICE_LEVEL} with {marks.KUEUE_SLICE_SIZE}"
        raise bad_input.BadInput("stands beside slices of one layer", file=where, field=key, remedy=remedy)
    remedy = 'write [{"topology": LABEL, "size": PODS}] with one layer: Muster follows one'
    try:
        [layer] = json.loads(text[:4096])
        level, size = layer["topology"], layer["size"]
    except (ValueError, TypeError, KeyError):
        raise bad_input.BadInput("is no list of one layer", file=where, field=key, value=text, remedy=remedy) from None
    pods_each = outline.amount(size, 0, where, key)
    if not pods_each:
        raise bad_input.BadInput("has a layer of no pods", file=where, field=key, value=text, remedy=remedy)
    return gangs.Segment(pods_each, _label(level, where, key))


def _spread(mine: wishes.Wishes, above: wishes.Wishes, part: outline.Part) -> gangs.Spread | None:
    own = mine if mine.spread_max else above
    ours = gangs.Spread(own.spread_level, own.spread_max) if own.spread_max and own.spread_level else None
    return agreed([one for one in (ours, part.spread) if one], part.where, names.SPREAD_LEVEL)
