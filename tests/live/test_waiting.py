"""What has no room is told why, and starts by itself; strangers are kept off the devices that Muster owns."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator

import pytest

from scheduler.apiserver import paths
from scheduler.model import names
from tests.kube import live
from tests.live import allocations, told, work
from tests.live import site as sites
from tests.live import team as teams
from tests.testbed.fleet import create, nodes, presets

TOLD_S = 1.0
"""From the creation of a gang's last pod until its placement and an Event say why it does not run."""

RACK = "zone-a/e2e-b00/e2e-b00-r00"
"""The first rack, as refusals name it."""

STOCK, GANGS = 24, 10
"""Stock pods of one GPU, gangs of two pods of two: 64 of 80 GPUs."""


@contextlib.asynccontextmanager
async def cordoned(team: teams.Team, rack: str, count: int) -> AsyncIterator[list[str]]:
    """Cordon machines of a rack; yields their names, and uncordons what still is cordoned."""
    found = sorted(one["metadata"]["name"] for one in await team.nodes() if in_rack(one, rack))[:count]
    for name in found:
        await cordon(team, name, True)
    try:
        yield found
    finally:
        for name in found:
            await cordon(team, name, False)


def in_rack(node: teams.Obj, rack: str) -> bool:
    return node["metadata"]["labels"].get(work.RACK) == rack


async def cordon(team: teams.Team, name: str, shut: bool) -> None:
    await team.api.patch(paths.of("v1", "nodes", "", name), {"spec": {"unschedulable": shut}})


@pytest.mark.floor
async def test_gangs_without_room_read_why_within_a_second_and_start_when_there_is(team: teams.Team) -> None:
    def why(gang: str) -> str:
        nearest = f"nearest is {RACK}, which lacks 1 pods; nodes with GPUs that take nothing new: 3 (is cordoned)"
        return f"NoDomainLargeEnough: no rack can hold gang {team.name}/{gang} now; {nearest}"

    took = {}
    async with cordoned(team, "e2e-b00-r00", 1) as [one], cordoned(team, "e2e-b00-r01", 2):
        async with told.Told.watching(team.api, team.name) as seen:
            for name in ("a", "b", "c"):
                began = await last_made(team, work.gang(name, 4, notes=work.IN_ONE_RACK))
                text = why(f"gang-{name}")
                took[name] = (
                    await seen_in(team, seen, f"gang-{name}", f"Pod/{name}-3", ("Waiting", "GangWaiting"), text) - began
                )
            await team.apply(work.jobset("set", {"workers": work.job_spec(4, notes=work.IN_ONE_RACK)}))
            at = await seen_in(team, seen, "jobset-set", "JobSet/set", ("Waiting", "GangWaiting"), why("jobset-set"))
            took["set"] = at - seen.came("set-")
        in_time(took)
        assert await team.devices() == {}
        await cordon(team, one, False)
        assert await team.racks(await team.planned("gang-a", 4)) == {"e2e-b00-r00"}
        assert len(await team.devices()) == 4, "the others wait whole"


async def test_gangs_that_never_fit_are_rejected_within_a_second(team: teams.Team) -> None:
    took = {}
    async with told.Told.watching(team.api, team.name) as seen:
        for size in (11, 12, 13):
            name, placement = f"h{size}", f"gang-h{size}"
            began = await last_made(team, work.gang(name, size))
            nearest = f"nearest is cluster, which lacks {8 * size - 80} GPUs"
            text = (
                f"GangLargerThanCluster: the fleet cannot hold gang {team.name}/{placement} even when empty; {nearest}"
            )
            took[name] = (
                await seen_in(team, seen, placement, f"Pod/{name}-0", ("Rejected", "GangRejected"), text) - began
            )
            assert (await team.placement(placement))["status"]["reason"] == "GangLargerThanCluster"
    in_time(took)
    assert await team.devices() == {}


async def test_a_gang_that_was_rejected_runs_when_a_machine_is_added(team: teams.Team) -> None:
    await team.apply(work.jobset("five", {"workers": work.job_spec(5, notes=work.IN_ONE_RACK)}))
    found = await team.phase("jobset-five", "Rejected")
    assert f"even when empty; nearest is {RACK}, which lacks 1 pods" in found["status"]["message"]
    async with fifth_machine(team):
        assert await team.racks(await team.planned("jobset-five", 5)) == {"e2e-b00-r00"}
        await team.empty()


@contextlib.asynccontextmanager
async def fifth_machine(team: teams.Team) -> AsyncIterator[None]:
    """Add a machine to the first rack."""
    (first, *racks), *blocks = sites.FLEET.blocks
    larger = presets.Fleet(sites.FLEET.name, ((dataclasses.replace(first, nodes=5), *racks), *blocks))
    minor = team.site.home.kubernetes.minor
    before = {one.name for bodies in nodes.bodies(sites.FLEET, minor) for one in bodies}
    await create.create(team.api, larger, minor)
    try:
        yield
    finally:
        for one in [one for bodies in nodes.bodies(larger, minor) for one in bodies if one.name not in before]:
            await team.api.delete(f"{one.path}/{one.name}")


async def last_made(team: teams.Team, gang: list[teams.Obj]) -> float:
    """Create a gang and return when its last pod was asked for."""
    *first, last = gang
    await team.create(first)
    began = time.monotonic()
    await team.create([last])
    return began


async def seen_in(
    team: teams.Team, seen: told.Told, placement: str, about: str, words: tuple[str, str], text: str
) -> float:
    """Wait until placement and Event of a gang say why, check that both say it so, and return when that was."""
    phase, reason = words

    async def ask() -> tuple[tuple[float, str], tuple[float, str]] | None:
        found = seen.status(placement, phase), seen.event(about, reason)
        return found if all(note for _, note in found) else None

    (status_at, message), (event_at, note) = await team.until(ask)
    assert message == note == text
    return max(float(status_at), float(event_at))


def in_time(took: dict[str, float]) -> None:
    """Print the seconds that gangs waited for a reason. On a machine with other work not all are held to the bound."""
    print(
        json.dumps({"seconds until placement and Event say why": {name: round(one, 3) for name, one in took.items()}})
    )
    assert min(took.values()) < TOLD_S, took


async def test_two_gangs_that_fit_alone_run_one_after_the_other(team: teams.Team) -> None:
    await team.create([*work.gang("one", 5), *work.gang("two", 5)])
    first = await team.bound_of("one", "two")
    other = "two" if first == "one" else "one"
    found = await team.phase(f"gang-{other}", "Waiting")
    assert found["status"]["message"]
    await team.never_bound(*(f"{other}-{i}" for i in range(5)), still_s=1)
    for i in range(5):
        await team.api.delete(team.path("v1", "pods", f"{first}-{i}"), grace_s=0)
    await team.phase(f"gang-{other}", "Running")
    await team.bound(5)


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
async def test_stock_pods_that_come_with_gangs_never_take_an_owned_device(team: teams.Team, up: bool) -> None:
    """Nothing gates those pods, and their claims are plain: the taint alone keeps kube-scheduler off the devices."""
    if not team.site.tainted:
        pytest.skip("no device taints before 1.36: only the gate protects the devices there")
    stock = [work.pod(f"stock-{i}", "one") for i in range(STOCK)]
    gangs = [one for i in range(GANGS) for one in work.gang(f"g{i}", 2, "two")]
    async with (
        teams.Team.open(team.site, team.api, managed=False) as other,
        allocations.Allocations.watching(team.api) as story,
    ):
        if not up:
            team.site.stop_muster()
        try:
            await asyncio.gather(*(other.create([one]) for one in stock), *(team.create([one]) for one in gangs))
            if not up:
                await team.until(lambda: refused_by_stock(other, team))
                assert await other.devices() == await team.devices() == {}
        finally:
            if not up:
                team.site.start_muster()
        await other.bound(STOCK)
        await team.bound(2 * GANGS)
        assert len(await other.devices()) == STOCK and len(await team.devices()) == 2 * GANGS
        await team.until(lambda: asyncio.sleep(0, len(story.claims) == STOCK + 2 * GANGS))
    faults = list(story.faults())
    assert not faults, faults[:5]


async def refused_by_stock(*found: teams.Team) -> bool:
    """Tell whether kube-scheduler has said of every pod that it can't allocate its claims."""
    told = [cannot(pod) for one in found for pod in await one.pods()]
    return len(told) == STOCK + 2 * GANGS and all(told)


def cannot(pod: teams.Obj) -> bool:
    said = [one.get("message", "") for one in pod["status"].get("conditions") or () if one["type"] == "PodScheduled"]
    return any("cannot allocate all claims" in one for one in said)


async def writers(team: teams.Team) -> set[str]:
    """Return who allocated the claims of a team."""
    claims = await team.list(paths.RESOURCE, "resourceclaims")
    return {one for claim in claims for one in allocations.writers(claim)}


@pytest.mark.floor
async def test_plain_pods_go_where_the_extender_scores_best(team: teams.Team) -> None:
    """Their claims tolerate our taint, so kube-scheduler gives the devices; it packs them only because we say so.

    Before 1.36 there is neither taint nor toleration: whoever of the two is first gives the devices, on the same node.
    """
    tolerating = [{"key": names.OWNED, "operator": "Exists", "effect": "NoSchedule"}]
    async with teams.Team.open(team.site, team.api, managed=False) as other:
        await other.apply(live.template("free", 1, **({"tolerations": tolerating} if team.site.tainted else {})))
        for i in range(4):
            await other.create([work.pod(f"p-{i}", "free")])
            await other.bound(i + 1)
        assert len({one["spec"]["nodeName"] for one in await other.pods()}) == 1
        wrote = await writers(other)
        assert wrote == {"kube-scheduler"} if team.site.tainted else wrote <= {"kube-scheduler", "muster"}
        devices = [row for rows in (await other.devices()).values() for row in rows]
        assert len(set(devices)) == 4
