"""Servers without device taints (1.34, 1.35): what a stock pod can take there, and what it can't.

Measured, not hoped: docs/ownership.md has what these tests show.
"""

from __future__ import annotations

import asyncio
import collections
import json

import pytest

from scheduler.apiserver import paths
from tests.live import team as teams
from tests.live import test_waiting, work

ROUNDS, STOCK, GANGS = 5, 16, 12
"""Stock pods of two GPUs, gangs of two such pods: together all 80 GPUs."""


def untainted(team: teams.Team) -> None:
    if team.site.tainted:
        pytest.skip("device taints are on: test_waiting shows what they do")


async def shared(api: teams.Team) -> dict[str, list[str]]:
    """Return the devices that two claims of the cluster have, with the claims."""
    found, _ = await api.api.list(paths.of(paths.RESOURCE, "resourceclaims"))
    users = collections.defaultdict(list)
    for claim in found:
        for device in teams.allocated(claim):
            users[device].append(f"{claim['metadata']['namespace']}/{claim['metadata']['name']}")
    return {device: claims for device, claims in users.items() if len(claims) > 1}


async def test_a_gated_pod_waits_for_muster_and_an_ungated_one_takes_what_is_free(team: teams.Team) -> None:
    untainted(team)
    async with teams.Team.open(team.site, team.api, managed=False) as other:
        *gated, _ = work.gang("kept", 2, "one")  # one of two: not planned yet
        await team.create(gated)
        await other.create([work.pod("stock", "one")])
        await other.bound(1)
        assert await test_waiting.writers(other) <= {"kube-scheduler", "muster"}
        await team.never_bound("kept-0", still_s=2)
        assert await team.devices() == {}, "kube-scheduler leaves a gated pod alone"


async def test_what_is_allocated_is_never_taken(team: teams.Team) -> None:
    """Muster's gang has all the GPUs of the racks and the fabric but four; twelve stock pods of one GPU come."""
    untainted(team)
    await team.create([*work.gang("train", 8), *work.gang("side", 3, "four")])
    await team.bound(11)
    before = await team.devices()
    async with teams.Team.open(team.site, team.api, managed=False) as other:
        await other.create([work.pod(f"stock-{i}", "one") for i in range(12)])

        async def settled() -> bool:
            """Tell whether all four are given, and kube-scheduler has told every pod that it has a node or none."""
            told = [one["status"].get("conditions") or () for one in await other.pods()]
            return len(await given(other)) == 4 and all(
                any(one["type"] == "PodScheduled" for one in all_) for all_ in told
            )

        await other.until(settled)
        held = {row for rows in before.values() for row in rows}
        assert not await given(other) & held and await team.devices() == before


async def given(team: teams.Team) -> set[str]:
    """Return the devices that the pods of a team have; two pods may have one by a race, which `test_both_at_once` is about."""
    return {row for rows in (await team.devices()).values() for row in rows}


async def test_both_at_once(team: teams.Team) -> None:
    """Stock pods and gangs come in the same moment for the same devices; what is given out twice is counted and told."""
    untainted(team)
    most, told = 0, 0
    wrote: collections.Counter[str] = collections.Counter()
    for turn in range(ROUNDS):
        async with teams.Team.open(team.site, team.api, managed=False) as other:
            stock = [work.pod(f"stock-{turn}-{i}", "two") for i in range(STOCK)]
            gangs = [one for i in range(GANGS) for one in work.gang(f"g{turn}-{i}", 2, "two")]
            await asyncio.gather(*(other.create([one]) for one in stock), *(team.create([one]) for one in gangs))
            await other.bound(STOCK)
            await team.bound(2 * GANGS)
            twice = await shared(team)
            wrote.update(await test_waiting.writers(other))
            most = max(most, len(twice))
            if twice:
                told += 1
                assert await team.until(lambda: conflicts(team, other)), "what is given out twice is told"
            await team.empty()
    figures = {"rounds": ROUNDS, "rounds with a device given out twice": told, "most devices in one round": most}
    print(json.dumps(figures | {"rounds in which stock pods were served by": wrote}))


async def conflicts(*found: teams.Team) -> list[str]:
    return [note for one in found for _, word, note in one.events() if word == "DeviceConflict"]
