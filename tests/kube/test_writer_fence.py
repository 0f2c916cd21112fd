"""A leader is stopped between any two of its writes, another one takes over, and the first one goes on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from scheduler.kube import gang_record, pens, scribe
from tests.kube import live, writing

WRITES = 12  # record, status, 3 finalizers, 3 allocations, 3 pods, status


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[writing.Site]:
    async with writing.site(tmp_path) as found:
        yield found


class Paused:
    """An old leader: every write from a certain one on waits until it is let on."""

    def __init__(self, site: writing.Site, number: int, after: bool, clock: bool) -> None:
        self.held, self.reached, self.stopped = asyncio.Event(), asyncio.Event(), False
        hook = "after" if after else "before"

        async def stop(turn: int, *_: object) -> None:
            if turn >= number and not self.held.is_set():
                self.stopped = True
                await writing.pause(self.held, self.reached)

        setattr(site.api, hook, stop)
        one = site.scribe(leads=lambda: not (clock and self.stopped))
        self.task = asyncio.create_task(one.start(writing.GANG, site.plan, None))

    async def stopped_there(self) -> None:
        async with asyncio.timeout(10):
            await self.reached.wait()
        await asyncio.sleep(0.05)  # the other requests of that moment

    async def go_on(self) -> None:
        self.held.set()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.mark.parametrize("clock", [True, False], ids=["clock", "no-clock"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(1, WRITES + 1))
async def test_two_leaders_leave_one_whole_plan(site: writing.Site, number: int, after: bool, clock: bool) -> None:
    old = Paused(site, number, after, clock)
    await old.stopped_there()
    unfinished = await site.recover(2)
    if not unfinished and not await site.released():
        shifted = await writing.planned(site.home, writing.GANG, shift=1)
        await site.scribe(2, site.home.api).start(writing.GANG, shifted, None)
    await old.go_on()
    await site.whole()
    assert await site.recover(3) == 0
    await site.whole()


@pytest.mark.parametrize("number", range(2, WRITES - 3))
async def test_a_plan_that_was_undone_is_not_written_by_who_comes_back(site: writing.Site, number: int) -> None:
    """A pod went away, so the new leader undoes the plan; the old one has the wrong time."""
    old = Paused(site, number, after=False, clock=False)
    await old.stopped_there()
    await site.home.api.delete("/api/v1/namespaces/default/pods/w-1", grace_s=0)
    assert await site.recover(2) == 1
    await site.absent()
    await old.go_on()
    await site.absent()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_record_that_comes_late_takes_no_devices(site: writing.Site, after: bool) -> None:
    """The devices of a plan that was in flight when its leader was stopped are given to another gang."""
    old = Paused(site, 1, after, clock=True)
    await old.stopped_there()
    if after:
        await site.recover(2)
        await old.go_on()
        await site.whole()
        return
    assert await site.recover(2) == 0
    await site.home.create(live.pod("x", "other", 1))
    name = await site.home.until(lambda: claim_of(site, "x"))
    item = await site.home.api.get(f"/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/{name}")
    pod = (await site.home.pods())["x"]
    same = site.plan.pods[0]
    claim = writing.plan.PlannedClaim(name, item["metadata"]["uid"], same.claims[0].rows)
    taken = writing.plan.PlannedPod(0, "worker", "x", pod["metadata"]["uid"], same.node, (claim,))
    other = writing.plan.Plan(writing.OTHER.identity, (taken,), 8)
    await site.scribe(2, site.home.api).start(writing.OTHER, other, None)
    await old.go_on()
    assert set(await site.home.claims()) == {"x"}
    assert await site.recover(3) == 1, "the late plan is on record"
    assert set(await site.home.claims()) == {"x"}
    assert gang_record.read_plan(await site.record()) is None


@pytest.mark.parametrize("clock", [True, False], ids=["clock", "no-clock"])
async def test_the_end_of_a_record_that_comes_late_takes_no_newer_plan_away(site: writing.Site, clock: bool) -> None:
    """A gang ended, its leader is stopped before it deletes the record, and a gang of that name comes anew."""
    await site.scribe(1, site.home.api).start(writing.GANG, site.plan, None)
    held, reached = asyncio.Event(), asyncio.Event()

    async def stop(_: int, method: str, __: str) -> None:
        if method == "DELETE" and not held.is_set():
            await writing.pause(held, reached)

    site.api.before = stop
    old = site.scribe(1, leads=lambda: not (clock and held.is_set()))
    late = asyncio.create_task(old.records.finish(writing.GANG))
    async with asyncio.timeout(10):
        await reached.wait()
    await site.scribe(2, site.home.api).start(writing.GANG, site.plan, None)
    held.set()
    with pytest.raises(pens.Fenced):
        await late
    await site.whole()


async def test_what_is_said_late_does_not_stand_over_what_is_newer(site: writing.Site) -> None:
    item = await site.scribe(1).records.write(writing.GANG, site.plan)
    held, reached = asyncio.Event(), asyncio.Event()

    async def stop(*_: object) -> None:
        if not held.is_set():
            await writing.pause(held, reached)

    site.api.before = stop
    late = asyncio.create_task(site.scribe(1).records.tell(item, gang_record.Phase.ALLOCATING, "", ""))
    async with asyncio.timeout(10):
        await reached.wait()
    await site.scribe(2, site.home.api).start(writing.GANG, site.plan, None)
    held.set()
    with pytest.raises(pens.Fenced):
        await late
    assert (await site.record())["status"]["phase"] == "Running"


async def claim_of(site: writing.Site, name: str) -> str:
    found = (await site.home.pods())[name]
    return str((found.get("status", {}).get("resourceClaimStatuses") or [{}])[0].get("resourceClaimName") or "")


async def test_an_old_leader_does_not_overwrite_a_newer_plan(site: writing.Site) -> None:
    await site.scribe(3, site.home.api).start(writing.GANG, site.plan, None)
    with pytest.raises(scribe.StartFailed, match="term 3 has taken over"):
        await site.scribe(2).start(writing.GANG, await writing.planned(site.home, writing.GANG, 1), None)
    await site.whole()
