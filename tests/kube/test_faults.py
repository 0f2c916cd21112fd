"""The whole scheduler behind a proxy that breaks its requests: gangs come and go meanwhile, and it converges afterwards.

Measured from the end of the faults until everything is as it should be; each test prints it. The time that is promised is
held on a real control plane (tests/live/test_faults.py), where a stalled watch is found out after `watch.STALL_S`; here it is
one second.
"""

import asyncio
import functools
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scheduler import app, config
from scheduler.apiserver import client, watch
from tests.kube import live
from tests.testbed import pki
from tests.testbed.faults import proxy, rules

pytestmark = pytest.mark.slow

CONVERGED_S = 60.0
GANGS, PODS = 10, 3
WRITES = ("create", "update", "patch", "delete")
OURS = ("resourceclaims", "pods", "gangplacements")


@dataclass
class Site:
    """A cluster, its scheduler behind the proxy, and who creates and deletes gangs without it."""

    home: live.Cluster
    between: proxy.Proxy
    api: client.Client
    draw: random.Random = field(default_factory=lambda: random.Random(7))
    alive: list[str] = field(default_factory=list)

    async def begin(self) -> None:
        settings = config.Config(leader_elect=False, port=0, host="127.0.0.1")
        self.home.scheduler = app.Scheduler(settings, self.api, "test")
        self.home.task = asyncio.create_task(self.home.scheduler.run())
        await asyncio.wait_for(self.home.scheduler.ready.wait(), 60)

    async def churn(self) -> None:
        """Create gangs, more than there is room for, and delete some of them."""
        for number in range(GANGS):
            name = f"g{number}"
            claim = self.draw.choice(("two", "four", "eight"))
            await self.home.create(*(live.pod(f"{name}-{i}", name, PODS, claim) for i in range(PODS)))
            self.alive.append(name)
            await asyncio.sleep(self.draw.uniform(0.05, 0.3))
            if len(self.alive) > 2:
                await self.end(self.alive.pop(self.draw.randrange(len(self.alive))))

    async def end(self, name: str) -> None:
        for i in range(PODS):
            await self.home.api.delete(f"/api/v1/namespaces/default/pods/{name}-{i}", grace_s=0)

    async def settled(self) -> bool:
        """Return whether every gang is whole or waits whole, devices are given once, and the mirror is as the API."""
        pods, claims = await self.home.pods(), await self.home.claims()
        if {name.rpartition("-")[0] for name in pods} != set(self.alive) or not set(claims) <= set(pods):
            return False
        for name in self.alive:
            held = {f"{name}-{i}" in claims for i in range(PODS)}
            bound = {bool(pods[f"{name}-{i}"]["spec"].get("nodeName")) for i in range(PODS)}
            if len(held) != 1 or held != bound:
                return False
        assert self.home.scheduler and self.home.scheduler.shell
        machine, known = self.home.scheduler.shell.machine, self.home.scheduler.shell.known
        used = sum(len(devices) for devices in claims.values())
        stored = {pod.uid for pod in known.store["pods"].values()}
        return (
            machine.snapshot.free_gpus == 32 - used
            and stored == {pod["metadata"]["uid"] for pod in pods.values()}
            and any(f"{name}-0" in claims for name in self.alive)
        )

    async def once(self) -> None:
        """Assert that no device was given twice."""
        devices = [device for own in (await self.home.claims()).values() for device in own]
        assert len(devices) == len(set(devices))


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(watch, "follow", functools.partial(watch.follow, stall_s=1.0))
    async with live.cluster(tmp_path) as home:
        with proxy.Proxy(home.kubeconfig, pki.Authority(tmp_path / "pki"), tmp_path) as between:
            async with await client.Client.connect(between.kubeconfig) as api:
                yield Site(home, between, api)
                await home.stop()


def every(*faults: rules.Fault, times: int, verbs: tuple[str, ...] = WRITES) -> list[rules.Rule]:
    """Return a rule for each fault on each kind that Muster writes."""
    return [rules.Rule(rules.Match(verbs, resource=kind), fault, times) for kind in OURS for fault in faults]


FAULTS: dict[str, list[Any]] = {
    "slow": [rules.Rule(rules.Match(), rules.Delay(0.02, 0.1))],
    "409": every(rules.Answer(409), times=12, verbs=("update", "patch")),
    "410": every(rules.Expire(2), times=12, verbs=("watch",)) + every(rules.Answer(410), times=2, verbs=("list",)),
    "429": every(rules.Answer(429, retry_after_s=1), times=8),
    "500": every(rules.Answer(500), times=12),
    "lost answers": every(rules.Reset(after=True), times=10),
    "lost requests": every(rules.Reset(), times=10),
    "cut watches": every(rules.Cut(1), rules.Cut(2, torn=True), times=15, verbs=("watch",)),
    "stalled watches": every(rules.Stall(2), times=3, verbs=("watch",)),
    "everything": [
        rules.Rule(rules.Match(), rules.Delay(0.0, 0.05)),
        *every(rules.Answer(409), times=4, verbs=("update", "patch")),
        *every(rules.Answer(500), rules.Reset(after=True), times=4),
        *every(rules.Cut(3), times=6, verbs=("watch",)),
    ],
}


@pytest.mark.parametrize("kind", FAULTS)
async def test_it_converges_when_the_faults_are_over(site: Site, kind: str) -> None:
    made = [rules.Rule(rule.match, rule.fault, rule.times) for rule in FAULTS[kind]]
    watched = [rule for rule in made if rule.match.verbs == ("watch",)]
    site.between.rules.extend(watched)  # they strike watches when these begin
    await site.begin()
    site.between.rules.extend(rule for rule in made if rule not in watched)
    await site.churn()
    await site.once()
    idle = {str(rule.fault) for rule in made} - {str(rule.fault) for rule in made if rule.applied}
    assert not idle, f"these never struck: {idle}"
    site.between.clear()
    began = time.monotonic()
    await site.home.until(site.settled, CONVERGED_S)
    print(f"{kind}: settled {time.monotonic() - began:.2f} s after the faults")
    await site.once()
    for name in list(site.alive):
        await site.end(name)
        site.alive.remove(name)

    async def empty() -> bool:
        assert site.home.scheduler and site.home.scheduler.shell
        return not await site.home.claims() and site.home.scheduler.shell.machine.snapshot.free_gpus == 32

    await site.home.until(empty, CONVERGED_S)


async def test_it_starts_behind_a_server_that_is_not_well(site: Site) -> None:
    made = every(rules.Answer(500), rules.Reset(), times=3, verbs=("list", "watch"))
    site.between.rules.extend(made)
    await site.begin()
    assert all(rule.applied for rule in made if rule.match.resource != "gangplacements")
    await site.home.create(*(live.pod(f"w-{i}", "w", PODS, "eight") for i in range(PODS)))
    await site.home.bound(*(f"w-{i}" for i in range(PODS)))
