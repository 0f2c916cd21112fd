"""Whoever asks why a gang waits, or what would let it start, changes no decision."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from scheduler.gang import config, events
from scheduler.snapshot import state
from tests.gang import test_machine_live as live

MODES = [
    config.QueueConfig(offers=("preempt", "defragment")),
    config.QueueConfig(preempt=True),
    config.QueueConfig(preempt=True, defragment=True, move_after_s=0.0),
    config.QueueConfig(mode="fifo", preempt=True),
    config.QueueConfig(mode="easy"),
    config.QueueConfig(mode="easy", easy_depth=1),
]


def story(seed: int) -> Iterator[events.Event]:
    """Yield what happens to gangs of all sizes and priorities, and to their machines."""
    dice = random.Random(seed)
    for step in range(80):
        name, node = f"g{dice.randrange(14)}", dice.choice(live.NAMES)
        expected = dice.choice((0.0, 5.0, 50.0))
        made = live.gang(name, dice.randint(1, 4), dice.choice((1, 2, 4)), dice.choice(("", "", "rack")))
        made = replace(made, priority=dice.randrange(3), expected_s=expected)
        yield dice.choice(
            (
                *[events.GangSubmitted(made)] * 4,
                events.GangFinished(name),
                events.GangFinished(name),
                events.GangChanged(made, tuple(range(-1, made.size - 1))),
                events.Bound(name),
                events.BindFailed(name),
                events.Occupied(f"x{step % 3}", node, state.Grant(0, dice.randint(1, 15), 1000, 100)),
                events.Vacated(f"x{step % 3}"),
                events.NodeCordoned(node),
                events.NodeUncordoned(node),
            )
        )


@pytest.mark.parametrize(
    "settings", MODES, ids=lambda one: f"{one.mode}-{one.preempt}-{one.defragment}-{one.easy_depth}"
)
def test_questions_change_no_decision(settings: config.QueueConfig) -> None:
    for seed in range(12):
        asked, alone = live.core(), live.core()
        asked.config = alone.config = settings
        for number, event in enumerate(story(seed)):
            now = number * 0.7
            assert asked.handle(event, now) == alone.handle(event, now), f"seed {seed}, event {number}"
            for name in list(asked.queue.waiting):
                asked.why(name)
                asked.offer(name, now)
