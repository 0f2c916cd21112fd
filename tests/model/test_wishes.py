"""Annotations of users: what is read, and every refusal with its field and its remedy."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.model import names, wishes

GANG = {names.GANG_NAME: "ring", names.GANG_SIZE: "4"}


def test_no_annotations_say_nothing() -> None:
    assert wishes.read({}, "pod ml/w") == wishes.Wishes()


def test_everything_is_read() -> None:
    said = {
        names.GANG_NAME: "ring",
        names.GANG_SIZE: "8",
        names.MIN_MEMBER: "6",
        names.ROLE: "worker",
        names.RANK: "0",
        names.REQUIRED_LEVEL: "rack",
        names.PREFERRED_LEVEL: "topology.kubernetes.io/zone",
        names.SEGMENT_SIZE: "2",
        names.SEGMENT_LEVEL: "nvlink",
        names.SPREAD_LEVEL: "node",
        names.SPREAD_MAX: "3",
        names.EXPECTED_S: "90.5",
        names.PREEMPTIBLE: "false",
        names.DECISION: "gw:7f3a",
    }
    assert set(said) == set(wishes.READ)
    assert wishes.read(said, "pod ml/w") == wishes.Wishes(
        "ring", 8, 6, "worker", 0, "rack", "topology.kubernetes.io/zone", 2, "nvlink", "node", 3, 90.5, False, "gw:7f3a"
    )


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (names.GANG_SIZE, "-3"),
        (names.GANG_SIZE, "0"),
        (names.GANG_SIZE, ""),
        (names.GANG_SIZE, "four"),
        (names.GANG_SIZE, "٤"),
        (names.GANG_SIZE, "9" * 5000),
        (names.GANG_SIZE, "100001"),
        (names.RANK, "-1"),
        (names.RANK, "100000"),
        (names.MIN_MEMBER, "1.5"),
        (names.EXPECTED_S, "-1"),
        (names.EXPECTED_S, "nan"),
        (names.EXPECTED_S, "inf"),
        (names.EXPECTED_S, "1e300"),
        (names.PREEMPTIBLE, "yes"),
        (names.GANG_NAME, "Ring_1"),
        (names.GANG_NAME, "r" * 59),
        (names.ROLE, "-"),
        (names.REQUIRED_LEVEL, ""),
        (names.SPREAD_LEVEL, "a b"),
        (names.DECISION, "<script>"),
        (names.DECISION, "d" * 65),
    ],
)
def test_a_value_that_is_none_is_refused_with_object_field_and_remedy(key: str, text: str) -> None:
    with pytest.raises(wishes.Contradiction, match="write ") as refused:
        wishes.read({key: text}, "pod ml/w", whole=False)
    assert f"pod ml/w, field metadata.annotations[{key}]: " in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("key", [names.MIN_MEMBER, names.SEGMENT_SIZE])
def test_more_than_the_gang_is_refused(key: str) -> None:
    with pytest.raises(wishes.Contradiction, match=r"is more than muster.dev/gang-size 4, got '5'; write at most 4"):
        wishes.read(GANG | {key: "5"}, "pod ml/w", whole=False)
    wishes.read(GANG | {key: "4"}, "pod ml/w", whole=False)


def test_a_rank_outside_the_gang_is_refused() -> None:
    with pytest.raises(wishes.Contradiction, match=r"is outside a gang of 4 pods, got '4'; write a rank from 0 to 3"):
        wishes.read(GANG | {names.RANK: "4"}, "pod ml/w")
    assert wishes.read(GANG | {names.RANK: "3"}, "pod ml/w").rank == 3


@pytest.mark.parametrize(
    ("key", "text", "other"),
    [
        (names.GANG_SIZE, "4", names.GANG_NAME),
        (names.GANG_NAME, "ring", names.GANG_SIZE),
        (names.SEGMENT_SIZE, "2", names.SEGMENT_LEVEL),
        (names.SPREAD_LEVEL, "rack", names.SPREAD_MAX),
    ],
)
def test_half_a_wish_is_refused_unless_the_owner_may_say_the_rest(key: str, text: str, other: str) -> None:
    wishes.read({key: text}, "pod ml/w", whole=False)
    with pytest.raises(wishes.Contradiction) as refused:
        wishes.read({key: text}, "pod ml/w")
    assert f"[{other}]: is missing, but {key} is there; add {other}" in str(refused.value)


def test_all_faults_come_at_once() -> None:
    with pytest.raises(wishes.Contradiction) as refused:
        wishes.read({names.GANG_SIZE: "x", names.RANK: "y", names.SEGMENT_LEVEL: "rack"}, "pod ml/w")
    assert len(refused.value.faults) == 4


def test_a_slip_of_the_keyboard_is_told_with_what_was_meant() -> None:
    slips = {"muster.dev/gang-sise": "4", "muster.dev/colour": "red", "other.dev/gang-size": "1", names.DECISION: "d"}
    assert wishes.unread(slips | GANG) == (
        "annotation muster.dev/colour is not read by Muster",
        "annotation muster.dev/gang-sise is not read by Muster; did you mean muster.dev/gang-size?",
    )


@given(st.dictionaries(st.sampled_from(wishes.READ), st.text(max_size=12)), st.booleans())
def test_any_text_is_read_or_refused(annotations: dict[str, str], whole: bool) -> None:
    with contextlib.suppress(wishes.Contradiction):
        found = wishes.read(annotations, "pod ml/w", whole)
        assert found.min_member <= (found.gang_size or found.min_member)
