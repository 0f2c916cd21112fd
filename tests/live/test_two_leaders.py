"""Two schedulers as two processes: the one that leads is stopped at a write, the other takes over, the first goes on.

Its Lease expires as it does in earnest. What it had sent when it was stopped reaches the API server only after the other
one has finished, undone and placed all that there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from scheduler.model import names
from tests.live import doomed, test_killed, work
from tests.live import site as sites
from tests.live import team as teams
from tests.testbed import ports, process
from tests.testbed.faults import processes, proxy, rules

OLD, NEW = "old", "new"
MACHINES = 8
"""Of eight GPUs, in the fleet of the site."""

CHANGES = ("create", "update", "patch", "delete")
PLANNED = ("gangplacements", "resourceclaims", "pods", "workloads")
"""What plans, evictions and answers are written to; Events and the Lease are left out."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A leader stops when it sends a write, the n-th of a kind; `held` keeps it and those after it from the server.

    `meanwhile` is what users do before the other one takes over.
    """

    match: rules.Match
    number: int
    scene: test_killed.Scene
    held: bool = True
    meanwhile: test_killed.Step = test_killed.nothing


@dataclass(slots=True, eq=False)
class Leader:
    """The first scheduler, whose traffic goes through a proxy."""

    team: teams.Team
    between: proxy.Proxy
    options: tuple[str, ...]
    hold: rules.Hold = field(default_factory=rules.Hold)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    part: process.Process = field(init=False)

    @property
    def name(self) -> str:
        """Return what its log is called; each test has one of its own."""
        return f"{OLD}-{self.team.name}"

    def start(self) -> None:
        """Lead, on ports of its own: kube-scheduler and the API server ask the other one, as a Service would have it."""
        site = self.team.site
        where = ("--port", str(ports.one()), "--webhook-port", str(ports.one()))
        through = ("--identity", OLD, "--kubeconfig", str(self.between.kubeconfig))
        self.part = site.home.parts.start(self.name, site.argv(*self.options, *where, *through), cwd=sites.ROOT)
        site.home.parts.wait(self.part, lambda: self.synced(leading=True), doomed.PATIENCE_S)

    def stop_at(self, pause: Pause) -> None:
        """Stop at a write that is still to come."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            os.kill(self.part.pid, signal.SIGSTOP)
            loop.call_soon_threadsafe(self.stopped.set)

        self.between.hooks.append(processes.AtCall(pause.match, stop, pause.number))
        if pause.held:
            held = rules.Match(pause.match.verbs, None, pause.match.resource, pause.match.subresource)
            self.between.add(_skipping(held, pause.number - 1), self.hold)

    async def go_on(self) -> None:
        """Let go what was held, then the process, and wait until it is a standby that knows everything."""
        self.hold.opened.set()
        told = self.told("leading no more")
        stood = self.told("synced")
        os.kill(self.part.pid, signal.SIGCONT)
        async with asyncio.timeout(doomed.PATIENCE_S):
            while self.told("leading no more") == told or self.told("synced") == stood:
                assert self.part.running, self.part.tail()
                await asyncio.sleep(0.05)

    def synced(self, leading: bool) -> bool:
        return any(one.get("leading") == leading for one in self.lines() if one.get("event") == "synced")

    def told(self, event: str) -> int:
        """Return how often it logged something."""
        return sum(one.get("event") == event for one in self.lines())

    def lines(self) -> Iterator[dict[str, Any]]:
        for line in self.part.log.read_bytes().splitlines():
            with contextlib.suppress(orjson.JSONDecodeError):  # the last line may be half written
                yield orjson.loads(line)

    def end(self) -> None:
        if self.part.running:
            os.kill(self.part.pid, signal.SIGCONT)
        self.team.site.home.parts.stop(self.name)


def _skipping(match: rules.Match, skip: int) -> rules.Match:
    return rules.Match(match.verbs, match.group, match.resource, match.subresource, skip=skip)


def at(resource: str, *verbs: str, sub: str = "") -> rules.Match:
    return rules.Match(verbs, resource=resource, subresource=sub)


async def lose(team: teams.Team) -> None:
    await team.api.delete(team.path("v1", "pods", "low-1"), grace_s=0)


async def holds_nothing(team: teams.Team) -> None:
    async def none() -> bool:
        return not await team.devices()

    await team.until(none, doomed.PATIENCE_S)


CUT_OFF = test_killed.Scene((), test_killed.cut_off, holds_nothing)
"""A start that the next leader undoes, because a pod is gone: its devices go to others."""

STARTS = test_killed.SCENES["start"]
EVICTS = test_killed.SCENES["evict"]
PAUSES = {
    "undone": Pause(at("resourceclaims", "update", sub="status"), 2, CUT_OFF, meanwhile=lose),
    "eviction": Pause(at("pods", "delete"), 2, EVICTS),
    "allocation": Pause(at("resourceclaims", "update", sub="status"), 2, STARTS),
    "record": Pause(at("gangplacements", "create"), 1, STARTS),
    "finalizer": Pause(at("resourceclaims", "patch"), 2, STARTS, held=False),
    "allocation-done": Pause(at("resourceclaims", "update", sub="status"), 2, STARTS, held=False),
    "release": Pause(at("pods", "patch", "update"), 2, STARTS),
    "mark": Pause(at("pods", "patch", sub="status"), 2, EVICTS),
    "eviction-done": Pause(at("pods", "delete"), 2, EVICTS, held=False),
    "lone": Pause(at("resourceclaims", "update", sub="status"), 1, test_killed.SCENES["lone"]),
    "refill": Pause(at("resourceclaims", "update", sub="status"), 1, test_killed.SCENES["refill"]),
    "kueue": Pause(at("workloads", "patch", sub="status"), 1, test_killed.SCENES["kueue"]),
}
TRIED = PAUSES if test_killed.EVERY else ("undone", "eviction")


clean = test_killed.clean


@pytest.mark.parametrize("name", TRIED)
async def test_a_leader_that_was_paused_spoils_nothing(clean: teams.Team, name: str) -> None:
    pause = PAUSES[name]
    with doomed.replaced(clean.site, pause.scene.options):
        async with doomed.witnessed(clean, {"train": 3}):
            await paused(clean, pause)
            await still_there(clean)
            await doomed.nothing_left(clean)


async def paused(team: teams.Team, pause: Pause) -> None:
    """Have one leader stop at a write, the other take over and place a gang more, and the first go on."""
    site, scene = team.site, pause.scene
    await scene.before(team)
    site.stop_muster()
    with proxy.between(site.home.folder / f"{sites.NAME}.kubeconfig", site.home.authority, site.home.folder) as between:
        old = Leader(team, between, scene.options)
        try:
            old.start()
            doomed.run(site, ("--identity", NEW, *scene.options))
            old.stop_at(pause)
            await scene.act(team)
            async with asyncio.timeout(doomed.PATIENCE_S):
                await old.stopped.wait()
            await pause.meanwhile(team)
            await taken_over(team)
            await scene.after(team)
            await another(team)
            before = len(between.seen)
            await old.go_on()
            assert late(between.seen[before:]) == []
        finally:
            old.hold.opened.set()
            old.end()


async def taken_over(team: teams.Team) -> None:
    async def leads() -> bool:
        return bool((await team.api.get(doomed.LEASE))["spec"]["holderIdentity"] == NEW)

    await team.until(leads, doomed.PATIENCE_S)


async def another(team: teams.Team) -> None:
    """Have the new leader place a gang more, on every machine that is free."""
    size = MACHINES - sum(bool(one["spec"].get("nodeName")) for one in await team.pods())
    await team.create(work.gang("more", size))
    await doomed.whole(team, [f"more-{i}" for i in range(size)])


def late(seen: list[proxy.Seen]) -> list[tuple[str, str, int]]:
    """Return the writes that the server did, of all that the old leader sent."""
    return [
        (one.asked.verb, one.asked.path, one.status)
        for one in seen
        if one.asked.verb in CHANGES and one.asked.resource in PLANNED and 200 <= one.status < 300
    ]


async def still_there(team: teams.Team) -> None:
    """Assert that all that was bound is, whole."""
    pods = [one for one in await team.pods() if teams.alive(one)]
    bound = [one["metadata"]["name"] for one in pods if one["spec"].get("nodeName")]
    assert len(bound) == MACHINES
    await doomed.whole(team, bound)
    gated = [one for one in pods if any(gate["name"] == names.GATE for gate in one["spec"].get("schedulingGates", ()))]
    assert len(bound) + len(gated) == len(pods)
