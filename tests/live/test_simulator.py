"""Three hundred gangs come and go on a real control plane: the log replays byte for byte, and the simulator decides the same.

The simulator is given the fleet as ``kubectl`` shows it, who came when and for how long each ran, and when the claims
of pods that were gone gave their devices back. Where each gang went, in which order gangs started, who waited or was refused
and why: that has to come out, word for word.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scheduler import policies
from scheduler.apiserver import paths
from scheduler.model import names
from scheduler.placement import scoring
from scheduler.snapshot import topology
from simulator.fleet import load
from tests.live import team as teams
from tests.live import work
from tests.record import arrivals

GANGS, ALIVE = 300 if int(os.environ.get("MUSTER_ROUNDS", "0")) >= 200 else 120, 16
"""All of them by `make test-live`."""

PRIORITIES = {"urgent": 1000, "usual": 0}
TENANTS = ("red", "green", "blue")
LEVELS: tuple[dict[str, str], ...] = (
    *({},) * 4,
    {names.REQUIRED_LEVEL: work.RACK},
    {names.REQUIRED_LEVEL: work.BLOCK},
    {names.PREFERRED_LEVEL: work.RACK},
)
TOO_WIDE = 9
"""Pods with a whole machine each in one block, which has eight: such a gang can never run."""
REPLAYED = [sys.executable, "-m", "simulator.cli", "replay", "--audit"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A gang that comes; `kind` says as what."""

    name: str
    kind: str
    size: int
    claim: str
    level: dict[str, str]
    priority: str
    tenant: str

    @property
    def hopeless(self) -> bool:
        return self.size >= TOO_WIDE

    async def come(self, team: teams.Team) -> None:
        spec = work.spec(self.claim, restartPolicy="Never", priorityClassName=self.priority)
        labels = {names.TENANT: self.tenant}
        metadata = {"labels": labels, "annotations": self.level}
        job = {**work.job_spec(self.size, self.claim), "template": {"metadata": metadata, "spec": spec}}
        match self.kind:
            case "pods":
                gang = work.gang(self.name, self.size, self.claim, notes=self.level)
                await team.create(
                    one | {"metadata": one["metadata"] | {"labels": labels}, "spec": spec} for one in gang
                )
            case "jobs":
                await team.apply(work.job(self.name, self.size) | {"spec": job})
            case "jobsets":
                await team.apply(work.jobset(self.name, {"w": job}))

    async def go(self, team: teams.Team) -> None:
        match self.kind:
            case "pods":
                for rank in range(self.size):
                    await team.api.delete(team.path("v1", "pods", f"{self.name}-{rank}"), grace_s=0)
            case "jobs":
                await team.delete(work.BATCH, "jobs", self.name)
            case "jobsets":
                await team.delete(work.JOBSET, "jobsets", self.name)


def drawn(seed: int) -> Iterator[Arrival]:
    """Yield gangs of all sorts; most are small."""
    dice = random.Random(seed)
    for number in range(GANGS):
        kind = "jobsets" if number % 30 == 12 else "jobs" if number % 15 == 4 else "pods"
        size, claim, level = (
            dice.choice((1, 1, 1, 2, 2, 3, 4)),
            dice.choice(("one", "two", "four", "eight")),
            dice.choice(LEVELS),
        )
        if number % 60 == 7:
            kind, size, claim, level = "pods", TOO_WIDE, "eight", {names.REQUIRED_LEVEL: work.BLOCK}
        yield Arrival(f"g{number}", kind, size, claim, level, dice.choice(tuple(PRIORITIES)), dice.choice(TENANTS))


@pytest.fixture
async def logged(team: teams.Team) -> AsyncIterator[Path]:
    """Begin a log of decisions for this test, and give two priorities to users."""
    for name, value in PRIORITIES.items():
        metadata = {"name": name}
        await team.api.create(
            PRIORITY_CLASSES,
            {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": metadata, "value": value},
        )
    team.site.stop_muster()
    team.site.start_muster()
    yield max(team.site.audit.iterdir())
    for name in PRIORITIES:
        await team.api.delete(f"{PRIORITY_CLASSES}/{name}")


PRIORITY_CLASSES = paths.of("scheduling.k8s.io/v1", "priorityclasses")


async def live_run(team: teams.Team) -> None:
    """Let gangs come, and the oldest that runs whole go once there are many; all are gone at the end."""
    alive: list[Arrival] = []

    async def oldest() -> Arrival | None:
        placed: Counter[str] = Counter()
        for pod in await team.pods():
            labels = pod["metadata"]["labels"]
            if pod["spec"].get("nodeName") and teams.alive(pod):
                placed[labels[names.GANG].partition("-")[2]] += 1
        return next((one for one in alive if placed[one.name] == one.size), None)

    async def one_goes() -> None:
        gone = await team.until(oldest)
        alive.remove(gone)
        await gone.go(team)

    for one in drawn(11):
        await one.come(team)
        if not one.hopeless:
            alive.append(one)
        while len(alive) > ALIVE:
            await one_goes()
    while alive:
        await one_goes()
    await team.empty()


@pytest.mark.timeout(600)
async def test_the_simulator_decides_what_a_live_run_did(team: teams.Team, logged: Path, tmp_path: Path) -> None:
    await live_run(team)
    replayed = subprocess.run([*REPLAYED, str(logged)], capture_output=True, text=True, check=False)
    assert replayed.returncode == 0 and "byte for byte" in replayed.stdout, replayed.stdout + replayed.stderr
    log = arrivals.read(logged)
    decided = log.decided()
    said = Counter(one["effect"] for one in decided)
    hopeless = sum(one.hopeless for one in drawn(11))
    print(replayed.stdout, dict(said), dict(log.kinds), f"{len(log.remains())} gangs left devices behind")
    assert said["Start"] == GANGS - hopeless and said["Reject"] == hopeless
    assert said["Wait"] > GANGS / 10, "hardly anybody had to wait"
    dump = tmp_path / "fleet.json"
    dump.write_text(team.site.home.kubectl("get", "nodes,resourceslices", "-o", "json"))
    fleet = topology.compile_topology(load.read(str(dump)))
    simulated = arrivals.simulated(log, scoring.compile_scoring(policies.load("muster"), fleet))
    for number, (here, there) in enumerate(zip(decided, simulated, strict=False)):
        assert here == there, f"decision {number} of {len(decided)}"
    assert len(decided) == len(simulated)
