"""Gangs that move so that another fits: real Jobs, whose controller makes the pods anew, on a real control plane."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from tests.live import team as teams
from tests.live import test_waiting, work

RACK, FABRIC = "e2e-b00-r00", "e2e-b01-r00"
LONG_S = 60.0


@contextlib.asynccontextmanager
async def two_machines(team: teams.Team) -> AsyncIterator[None]:
    """Leave two open machines of eight GPUs, and restart Muster so that it moves gangs, however short they have run."""
    async with contextlib.AsyncExitStack() as shut:
        for rack, count in ((RACK, 2), ("e2e-b00-r01", 4), (FABRIC, 4)):
            await shut.enter_async_context(test_waiting.cordoned(team, rack, count))
        team.site.stop_muster()
        team.site.start_muster("--defragment", "execute", "--move-after-s", "0")
        try:
            yield
        finally:
            team.site.stop_muster()
            team.site.start_muster()


async def running(team: teams.Team) -> dict[str, str]:
    """Return the nodes of the pods that run, by their Job, or by their name."""
    found = {}
    for one in await team.pods():
        if teams.alive(one) and one["spec"].get("nodeName"):
            owner = one["metadata"].get("ownerReferences") or [one["metadata"]]
            found[owner[0]["name"]] = one["spec"]["nodeName"]
    return found


async def runs(team: teams.Team, *wanted: str) -> dict[str, str]:
    async def ask() -> dict[str, str] | None:
        found = await running(team)
        return found if set(found) == set(wanted) else None

    found: dict[str, str] = await team.until(ask, LONG_S)
    return found


async def test_a_job_moves_so_that_a_gang_of_a_whole_machine_fits(team: teams.Team) -> None:
    async with two_machines(team):
        await team.create([work.pod("filler", "four")])
        await runs(team, "filler")
        await team.apply(work.job("first", 1, "four"))
        await runs(team, "filler", "first")
        await team.apply(work.job("last", 1, "four"))
        before = await runs(team, "filler", "first", "last")
        assert before["first"] == before["filler"] != before["last"]
        await team.api.delete(team.path("v1", "pods", "filler"), grace_s=0)
        await runs(team, "first", "last")
        await team.create(work.gang("big", 1))
        after = await runs(team, "first", "last", "big-0")
        assert after["first"] == after["last"] != after["big-0"]
        assert sum(after[name] != before[name] for name in ("first", "last")) == 1, "one of them moved"
        devices = [device for own in (await team.devices()).values() for device in own]
        assert len(devices) == len(set(devices)) == 16
        told = [note for _, word, note in team.events() if word == "GangEvicted"]
        assert told and all("put elsewhere" in note for note in told)
