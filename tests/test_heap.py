"""What stays is not walked over again and again, and no garbage is kept for it."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from scheduler import heap


class Ring:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.own = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_what_is_there_is_not_looked_at_any_more() -> None:
    kept = Ring()
    heap.settle()
    assert gc.get_freeze_count() > 1000
    assert not any(one is kept for one in gc.get_objects())


def test_garbage_is_not_kept_also_of_an_earlier_term() -> None:
    first, second = Ring(), Ring()
    seen = [weakref.ref(first), weakref.ref(second)]
    del first
    heap.settle()
    assert seen[0]() is None and seen[1]() is not None
    del second
    gc.collect()
    assert seen[1]() is not None  # out of sight
    heap.settle()
    assert seen[1]() is None
