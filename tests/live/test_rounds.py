"""Two gangs that each fit alone but not together, again and again, under the eyes of a witness."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator

import pytest

from tests.live import team as teams
from tests.live import test_waiting, witness, work

ROUNDS = int(os.environ.get("MUSTER_ROUNDS", "30"))
"""Of two gangs each; `make test-live` takes 200."""
ROUND_S = 30.0
MACHINES = 4


@pytest.fixture
async def small(team: teams.Team) -> AsyncIterator[teams.Team]:
    """A team for which only one rack of four machines of eight GPUs is open."""
    async with test_waiting.cordoned(team, "e2e-b00-r01", MACHINES):
        yield team


def pair(number: int, draw: random.Random) -> dict[str, list[teams.Obj]]:
    """Return two gangs of which each has room in the rack, but not both."""
    one = draw.randint(1, MACHINES)
    other = draw.randint(MACHINES - one + 1, MACHINES)
    return {f"g{number}-{name}": work.gang(f"g{number}-{name}", size) for name, size in (("a", one), ("b", other))}


@pytest.mark.timeout(900)
async def test_of_two_gangs_one_runs_whole_and_the_other_waits_whole(small: teams.Team) -> None:
    draw = random.Random(7)
    async with witness.Witness.watching(small.api, small.name) as seen:
        for number in range(ROUNDS):
            await one_round(small, pair(number, draw), draw)
    faults = list(seen.faults())
    assert not faults, faults[:5]
    assert len(seen.seen) > ROUNDS * MACHINES, "the witness saw little"


async def one_round(team: teams.Team, gangs: dict[str, list[teams.Obj]], draw: random.Random) -> None:
    """Create both at once in any order; when one runs whole, end it, and the other has to run whole."""
    pods = [pod for gang in gangs.values() for pod in gang]
    draw.shuffle(pods)
    await asyncio.gather(*(team.create([pod]) for pod in pods))
    first = await team.bound_of(*gangs, within_s=ROUND_S)
    [other] = set(gangs) - {first}
    names = {pod["metadata"]["name"] for pod in gangs[other]}
    waiting = [one for one in await team.pods() if one["metadata"]["name"] in names]
    assert len(waiting) == len(names) and not any(one["spec"].get("nodeName") for one in waiting)
    await end(team, gangs[first])
    assert await team.bound_of(other, within_s=ROUND_S) == other
    await end(team, gangs[other])


async def end(team: teams.Team, gang: list[teams.Obj]) -> None:
    await asyncio.gather(
        *(team.api.delete(team.path("v1", "pods", one["metadata"]["name"]), grace_s=0) for one in gang)
    )
