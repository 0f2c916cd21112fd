"""Muster as deployed behind a proxy that breaks its requests, while gangs and JobSets come and go on a real control plane.

Every rule has to strike. When the faults end, everything settles within the time that docs/workloads.md states; a
witness beside it sees at no instant half a gang that can't become whole, or a device given out twice.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scheduler.apiserver import watch
from scheduler.model import names
from tests.live import site as sites
from tests.live import team as teams
from tests.live import test_losses, test_waiting, witness, work
from tests.testbed.faults import proxy, rules

SETTLED_S = 5.0
"""From the last fault until all is as it should be, on a machine with nothing else to do."""
LOADED = 6.0
"""Machines that run the tests have other things to do: so many times longer is not taken for a fault."""
PAUSE_S = 1.0
STRUCK_S = 90.0
"""For every rule to strike while gangs come and go."""
EVERYTHING = int(os.environ.get("MUSTER_ROUNDS", "0")) >= 200
"""`make test-live` stalls the watches of pods and claims too, which takes another `watch.STALL_S`."""

ALIVE = 4
SIZE = 2
SHUT = "e2e-b00-r01"
PODS, CLAIMS, RECORDS = "pods", "resourceclaims", "gangplacements"
WRITTEN = {PODS: ("patch",), CLAIMS: ("patch", "update"), RECORDS: ("create", "patch")}
"""Verbs that strike often; most records are deleted by the garbage collector with their owners."""
"""What Muster writes of each kind when gangs come and go."""
WATCHED = (PODS, CLAIMS, "jobsets", "jobs")
LEASES = rules.Match(("update",), resource="leases")


def writes(fault: rules.Fault, times: int) -> list[rules.Rule]:
    """Break each kind of write."""
    pairs = [(resource, verb) for resource, verbs in WRITTEN.items() for verb in verbs]
    return [rules.Rule(rules.Match((verb,), resource=resource), fault, times) for resource, verb in pairs]


def reads(fault: rules.Fault, times: int, verb: str = "watch") -> list[rules.Rule]:
    """Break each list, or each watch from its beginning."""
    return [rules.Rule(rules.Match((verb,), resource=resource), fault, times) for resource in WATCHED]


def changes(fault: rules.Fault, times: int) -> list[rules.Rule]:
    """Break what changes an object that exists."""
    return [rule for rule in writes(fault, times) if rule.match.verbs in (("patch",), ("update",))]


KINDS: dict[str, Callable[[], list[rules.Rule]]] = {
    "slow": lambda: [rules.Rule(rules.Match(), rules.Delay(0.05, 0.2))],
    "409": lambda: [*changes(rules.Answer(409), 3), rules.Rule(LEASES, rules.Answer(409), 1)],
    "410": lambda: [*reads(rules.Expire(1), 2), *reads(rules.Answer(410), 1, "list")],
    "429": lambda: [*writes(rules.Answer(429, retry_after_s=1), 3), *reads(rules.Answer(429, retry_after_s=1), 1)],
    "500": lambda: [*writes(rules.Answer(500), 3), *reads(rules.Answer(500), 2)],
    "503": lambda: [*writes(rules.Answer(503), 3), rules.Rule(LEASES, rules.Answer(503), 2)],
    "lost requests": lambda: writes(rules.Reset(), 3),
    "lost answers": lambda: [*writes(rules.Reset(after=True), 3), rules.Rule(LEASES, rules.Reset(after=True), 1)],
    "cut watches": lambda: [*reads(rules.Cut(1), 3), *reads(rules.Cut(1, torn=True), 2)],
    "everything": lambda: [
        rules.Rule(rules.Match(), rules.Delay(0.0, 0.05)),
        *changes(rules.Answer(409), 1),
        *writes(rules.Answer(429, retry_after_s=1), 1),
        *writes(rules.Answer(500), 1),
        *writes(rules.Reset(after=True), 1),
        *reads(rules.Cut(1), 1),
        *reads(rules.Expire(2), 1),
    ],
}


@dataclass(slots=True)
class Ill:
    """A team whose Muster is behind the proxy.

    Attributes
    ----------
    sizes : dict of str to int
        All workloads that ever came, which the witness reads.
    alive : list of str
        Those that are there, oldest first: plain gangs and JobSets take turns.
    """

    team: teams.Team
    between: proxy.Proxy
    sizes: dict[str, int] = field(default_factory=dict)
    alive: list[str] = field(default_factory=list)
    number: itertools.count[int] = field(default_factory=itertools.count)

    async def come(self) -> None:
        number = next(self.number)
        name = f"g{number}" if number % 2 else f"j{number}"
        self.sizes[name] = SIZE
        if number % 2:
            await self.team.create(work.gang(name, SIZE, "four"))
        else:
            await self.team.apply(work.jobset(name, {"w": work.job_spec(SIZE, "two")}))
        self.alive.append(name)

    async def go(self, name: str) -> None:
        self.alive.remove(name)
        if name.startswith("j"):
            await self.team.delete(work.JOBSET, "jobsets", name)
        else:
            for rank in range(SIZE):
                await self.team.api.delete(self.team.path("v1", "pods", f"{name}-{rank}"), grace_s=0)

    async def churn(self, made: list[rules.Rule]) -> None:
        """Let workloads come and go, whatever becomes of them, until every rule has struck."""
        end = time.monotonic() + STRUCK_S
        while not all(rule.applied for rule in made):
            idle = [f"{rule.match.verbs} {rule.match.resource} {rule.fault}" for rule in made if not rule.applied]
            assert time.monotonic() < end, f"these never struck: {'; '.join(idle)}"
            await self.come()
            while len(self.alive) > ALIVE:
                await self.go(self.alive[0])
            await self.pause()

    async def pause(self) -> None:
        """Wait until all is settled, but not for long: the faults may keep it from settling."""
        end = time.monotonic() + PAUSE_S
        while time.monotonic() < end and not await self.settled():
            await asyncio.sleep(0.05)

    async def settled(self) -> bool:
        """Tell whether exactly the workloads that are there run, all of them whole, on devices of their own."""
        pods = await self.team.pods()
        if len(pods) != SIZE * len(self.alive) or not all(one["spec"].get("nodeName") for one in pods):
            return False
        given = await self.team.devices()
        rows = [row for devices in given.values() for row in devices]
        records = await self.team.list(names.API_VERSION, names.PLURAL)
        return (
            set(given) == {one["metadata"]["name"] for one in pods}
            and len(rows) == len(set(rows))
            and len(records) == len(self.alive)
            and all((one.get("status") or {}).get("phase") == "Running" for one in records)
        )

    async def through(self, kind: str) -> float:
        """Break what a kind of fault breaks until each rule has struck; return how long all took to settle afterwards."""
        made = KINDS[kind]()
        self.between.rules.extend(made)
        self.between.cut(*WATCHED)  # those that run would feel nothing
        await self.churn(made)
        self.between.clear()
        await self.team.until(self.settled, SETTLED_S * LOADED)
        return time.monotonic() - max(one.at for one in self.between.seen if one.faults)

    async def stall(self, *resources: str) -> None:
        """Let the watches of some kinds go silent."""
        made = [
            self.between.add(rules.Match(("watch",), resource=resource), rules.Stall(0), times=1)
            for resource in resources
        ]
        self.between.cut(*resources)
        await self.team.until(lambda: struck(made))

    def found_out(self, resource: str) -> float:
        """Return for how long the watch of a kind was silent until Muster began another."""
        asked = [one for one in self.between.seen if one.asked.verb == "watch" and one.asked.resource == resource]
        silent = next(i for i, one in enumerate(asked) if any(isinstance(fault, rules.Stall) for fault in one.faults))
        return asked[silent + 1].at - asked[silent].at


@pytest.fixture
async def ill(team: teams.Team, tmp_path: Path) -> AsyncIterator[Ill]:
    """Start Muster behind a proxy; when it leads, the watch of the nodes stalls, and a rack that was cordoned is opened."""
    site = team.site
    site.stop_muster()
    with proxy.between(site.home.folder / f"{sites.NAME}.kubeconfig", site.home.authority, tmp_path) as between:
        try:
            made = Ill(team, between)
            async with test_waiting.cordoned(team, SHUT, 4):
                site.start_muster("--kubeconfig", str(between.kubeconfig))
                await team.until(lambda: leads(site))
                await made.stall("nodes")
            yield made
        finally:
            site.stop_muster()
            site.start_muster()


@pytest.mark.timeout(900)
async def test_it_converges_through_every_fault(ill: Ill) -> None:
    took: dict[str, float] = {}
    async with witness.Witness.watching(ill.team.api, ill.team.name, ill.sizes) as seen:
        for kind in KINDS:
            took[kind] = await ill.through(kind)
            print(f"{kind}: settled {took[kind]:.2f} s after the faults", flush=True)
        if EVERYTHING:
            took["stalled watches"] = await stalled(ill)
        await ill.team.empty()
        ill.alive.clear()
        await hears_of_the_nodes(ill)
    print(json.dumps({kind: round(seconds, 2) for kind, seconds in took.items()}))
    faults = list(seen.faults())
    assert not faults, faults[:5]
    assert len({one.item["metadata"]["name"] for one in seen.seen}) > len(KINDS) * SIZE, "the witness saw little"


async def hears_of_the_nodes(ill: Ill) -> None:
    """A gang that needs the rack that was opened behind a dead watch runs when the watch is found out."""
    await ill.team.apply(work.jobset("whole", test_losses.WHOLE))
    ill.sizes["whole"] = 12
    await ill.team.bound(12, watch.STALL_S + SETTLED_S * LOADED)
    silent = ill.found_out("nodes")
    print(f"the stalled watch of the nodes was found out after {silent:.1f} s")
    assert silent >= watch.STALL_S, "another term began, so that the nodes were listed anew"
    assert silent < watch.STALL_S + SETTLED_S * LOADED
    await ill.team.empty()


async def stalled(ill: Ill) -> float:
    """Stall the watches of all that makes a gang, have gangs come, and return how long it took until they ran."""
    await ill.stall(*WATCHED)
    began = time.monotonic()
    for _ in range(2):
        await ill.come()
    await ill.team.until(ill.settled, watch.STALL_S + SETTLED_S * LOADED)
    took = time.monotonic() - began
    print(f"stalled watches: settled {took:.2f} s after they went silent", flush=True)
    return took


async def leads(site: sites.Site) -> bool:
    return "muster_leader 1" in site.get("/metrics")


async def struck(made: list[rules.Rule]) -> bool:
    return all(rule.applied for rule in made)
