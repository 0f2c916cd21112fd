"""The simulator decides what a live scheduler did on the embedded API server; tests/live has the same at full length."""

import random
from pathlib import Path

import pytest

from scheduler.record import replay as records
from tests.kube import live
from tests.record import arrivals

pytestmark = pytest.mark.slow

GANGS, ALIVE = 60, 9
FLEET = "hgx-h100=4"


async def live_run(home: live.Cluster) -> None:
    """Let gangs of one to four pods come, and the oldest that runs go once there are many; the last ones go too."""
    dice, alive = random.Random(11), list[tuple[str, int]]()

    async def first_that_runs() -> tuple[str, int] | None:
        found = await home.pods()
        return next((one for one in alive if found[f"{one[0]}-0"]["spec"].get("nodeName")), None)

    async def one_goes() -> None:
        name, size = await home.until(first_that_runs)
        alive.remove((name, size))
        for i in range(size):
            await home.api.delete(f"/api/v1/namespaces/default/pods/{name}-{i}", grace_s=0)

    for number in range(GANGS):
        name, size, claim = f"g{number}", dice.randint(1, 4), dice.choice(("one", "two", "four", "eight"))
        await home.create(*(live.pod(f"{name}-{i}", name, size, claim) for i in range(size)))
        alive.append((name, size))
        while len(alive) > ALIVE:
            await one_goes()
    while alive:
        await one_goes()

    async def empty() -> bool:
        assert home.scheduler and home.scheduler.shell
        return not home.scheduler.shell.followed and not await home.claims()

    await home.until(empty, 120)


async def test_the_simulator_decides_what_a_live_run_did(tmp_path: Path) -> None:
    async with live.cluster(tmp_path, FLEET) as home:
        await home.start(audit_folder=str(tmp_path / "audit"))
        await live_run(home)
        await home.stop()
    again = records.replay(tmp_path / "audit")
    assert again.difference is None
    assert again.starts == GANGS and again.refusals > 5, "gangs had to wait"
    log = arrivals.read(tmp_path / "audit")
    assert arrivals.simulated(log, log.machine.scoring) == log.decided()
