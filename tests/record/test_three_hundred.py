"""Three hundred gangs that come and go: the log replays byte for byte, and the simulator decides what the live run did."""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from scheduler.gang import effects, events
from scheduler.gang import machine as machines
from scheduler.kube import shell
from scheduler.record import journal, line
from scheduler.record import replay as records
from simulator import replay
from simulator.trace import job
from tests.kube import live

pytestmark = pytest.mark.slow

GANGS, ALIVE = 300, 9
FLEET = "hgx-h100=4"
APART_S = 1e-6
"""Events of one turn have one time, and an order that the simulator has to keep: each is told a little later."""


@dataclass(frozen=True, slots=True)
class Told:
    """One event of a log with what was decided."""

    now: float
    event: events.Event
    done: tuple[effects.Effect, ...]
    machine: machines.Machine


def told(folder: Path) -> Iterator[Told]:
    """Yield the log's events, decided again."""
    lines = journal.lines(folder, journal.terms(folder)[-1])

    def load(name: str) -> bytes:
        return journal.fleet_path(folder, name).read_bytes()

    core = line.begin(next(lines), load)
    for one in lines:
        number, now, event = line.decode(one, load)
        yield Told(now + APART_S * number, event, tuple(core.handle(event, now)), core)


class Held:
    """Lets no turn be taken while gangs end.

    What a gang leaves behind counts as a stranger's until its claims are gone, one after the other. The simulator ends a
    gang in one moment; so does this run, by looking only when pods and claims are gone both.
    """

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self.holds, turn = False, shell.Shell.turn
        patched.setattr(shell.Shell, "turn", lambda one: None if self.holds else turn(one))

    async def end(self, home: live.Cluster, name: str, size: int) -> None:
        assert home.scheduler and home.scheduler.shell
        known = home.scheduler.shell.known
        self.holds = True
        members = [f"{name}-{i}" for i in range(size)]
        for one in members:
            await home.api.delete(f"/api/v1/namespaces/default/pods/{one}", grace_s=0)

        async def gone() -> bool:
            owners = {claim.owner.name for claim in known.store["claims"].values()}
            return not owners & set(members) and not any(known.pod(("default", one)) for one in members)

        await home.until(gone)
        self.holds = False


async def live_run(home: live.Cluster, held: Held) -> None:
    """Let gangs of one to four pods come, and the oldest that runs go once there are many; the last ones go too."""
    dice, alive = random.Random(11), list[tuple[str, int]]()
    await home.start(audit_folder=str(home.folder / "audit"))

    async def first_that_runs() -> tuple[str, int] | None:
        found = await home.pods()
        return next((one for one in alive if found[f"{one[0]}-0"]["spec"].get("nodeName")), None)

    for number in range(GANGS):
        name, size, claim = f"g{number}", dice.randint(1, 4), dice.choice(("one", "two", "four", "eight"))
        await home.create(*(live.pod(f"{name}-{i}", name, size, claim) for i in range(size)))
        alive.append((name, size))
        while len(alive) > ALIVE:
            oldest = await home.until(first_that_runs)
            alive.remove(oldest)
            await held.end(home, *oldest)
        await asyncio.sleep(dice.random() * 0.02)
    while alive:
        oldest = await home.until(first_that_runs)
        alive.remove(oldest)
        await held.end(home, *oldest)

    async def empty() -> bool:
        assert home.scheduler and home.scheduler.shell
        return not home.scheduler.shell.followed

    await home.until(empty, 120)
    await home.stop()


def trace(log: list[Told]) -> job.Trace:
    """Return the arrivals of a log, each gang with the time for which it ran, or for ever if it never did."""
    arrived = {one.event.gang.name: one for one in log if isinstance(one.event, events.GangSubmitted)}
    ended = {one.event.name: one.now for one in log if isinstance(one.event, events.GangFinished)}
    began = {effect.gang.name: one.now for one in log for effect in one.done if isinstance(effect, effects.Start)}
    gangs = [one.event.gang for one in arrived.values()]
    never = {name: one.now for name, one in arrived.items() if name not in began}
    assert not never, "each gang runs: nothing here is impossible, and all are waited for"
    return job.build(
        "live",
        [job.JobShape(replace(gang, name=gang.name, expected_s=0.0)) for gang in gangs],
        names=[gang.name for gang in gangs],
        submit_s=[arrived[gang.name].now for gang in gangs],
        duration_s=[ended[gang.name] - began[gang.name] for gang in gangs],
        expected_s=[gang.expected_s for gang in gangs],
        shape=np.arange(len(gangs)),
        tenants=[gangs[0].tenant],
        priority=[gang.priority for gang in gangs],
    )


def starts(lines: list[str]) -> list[tuple[str, int, Any]]:
    """Return which gang started as which decision on which devices, in order."""
    found = [orjson.loads(one) for one in lines]
    return [(one["gang"], one["decision"], one["pods"]) for one in found if one["effect"] == "Start"]


async def test_the_simulator_decides_what_a_live_run_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with live.cluster(tmp_path, FLEET) as home:
        await live_run(home, Held(monkeypatch))
    again = records.replay(tmp_path / "audit")
    assert again.difference is None
    assert again.starts == GANGS and again.refusals > 20, "gangs had to wait"
    log = list(told(tmp_path / "audit"))
    fleet = log[0].machine.scoring.topology
    decided = [replay.line(effect, one.now, fleet) for one in log for effect in one.done]
    said: list[str] = []
    first = log[0].machine
    run = replay.Replay(trace(log), first.scoring, first.config, log=said.append)
    run.run()
    assert starts(said) == starts(decided)
