"""What a waiting gang is told, and that it is told of each stage once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.gang import news
from scheduler.model import reasons

Reason = reasons.Reason


def told(reasons_of_a_stay: list[Reason]) -> list[Reason]:
    """Return what a gang is told whose reason changes like this."""
    said, furthest, out = None, -1, []
    for reason in reasons_of_a_stay:
        if news.is_news(said, furthest, reason):
            said, furthest = reason, max(furthest, news.STAGE.get(reason, -1))
            out.append(reason)
    return out


def test_every_reason_but_the_quota_has_a_stage() -> None:
    assert news.STAGE.keys() == set(Reason) - {Reason.QUOTA}


def test_a_reason_that_alternates_is_told_once() -> None:
    assert told([Reason.DOMAIN, Reason.SHAPE] * 5) == [Reason.DOMAIN]
    assert told([Reason.SHAPE, Reason.DOMAIN] * 5) == [Reason.SHAPE, Reason.DOMAIN]
    assert told([Reason.CPU, Reason.MEMORY] * 3) == [Reason.CPU]


def test_the_way_to_a_place_is_told_step_by_step() -> None:
    way = [Reason.QUEUED, Reason.GPUS, Reason.CPU, Reason.SHAPE, Reason.DOMAIN, Reason.SEGMENT, Reason.SPREAD]
    assert told(way) == way


@pytest.mark.parametrize("fleet", [Reason.GPUS, Reason.DOMAIN])
def test_a_change_between_quota_and_fleet_is_always_told(fleet: Reason) -> None:
    assert told([fleet, Reason.QUOTA, Reason.QUOTA, fleet, Reason.QUOTA]) == [fleet, Reason.QUOTA, fleet, Reason.QUOTA]


@given(st.lists(st.sampled_from(sorted(news.STAGE, key=news.STAGE.__getitem__))))
def test_what_is_told_only_ever_goes_further(stay: list[Reason]) -> None:
    stages = [news.STAGE[reason] for reason in told(stay)]
    assert stages == sorted(set(stages))
    assert max(stages, default=-1) == max((news.STAGE[reason] for reason in stay), default=-1)
