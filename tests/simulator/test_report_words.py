"""Every reason for waiting has words that a user can act on."""

import pytest

from scheduler.model import reasons
from simulator.report import words


@pytest.mark.parametrize("reason", reasons.Reason)
def test_every_reason_has_a_sentence_of_its_own(reason: reasons.Reason) -> None:
    said = words.meaning(reason)
    assert " " in said
    assert [other for other in reasons.Reason if words.meaning(other) == said] == [reason]
    assert words.by_name(reason.value) == said
