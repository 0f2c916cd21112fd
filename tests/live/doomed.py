"""Muster as a program that dies on purpose, and what must hold when it is back."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import signal
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

from scheduler.apiserver import paths
from tests.live import instant, witness, work
from tests.live import site as sites
from tests.live import team as teams
from tests.testbed import process
from tests.testbed.faults import processes

PATIENCE_S = 120.0
"""For what takes a second or two, or a Lease's 15, where nothing else runs."""

LEASE = paths.of("coordination.k8s.io/v1", "leases", sites.SPACE, sites.NAME)
JOBSET_NAME = "jobset.sigs.k8s.io/jobset-name"


@dataclasses.dataclass(slots=True, eq=False)
class Doom:
    """A scheduler that kills itself when it reaches a fault point, `point` or `point:turn`."""

    team: teams.Team
    point: str
    options: tuple[str, ...] = ()

    def start(self, ready: bool = True) -> None:
        """Take the place of the site's Muster; it may not live until it is `ready`."""
        name, _, turn = self.point.partition(":")
        self.team.site.stop_muster()
        run(self.team.site, self.options, processes.at_point(name, int(turn or 1)), ready)

    async def died(self, lease_expires: bool = False) -> None:
        """Wait for the death; then give the Lease back in its name, unless a test wants to wait until it expires."""
        part = self.team.site.home.parts.parts[sites.NAME]
        try:
            async with asyncio.timeout(PATIENCE_S):
                while part.running:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"{self.point} was never reached; {await self.team.story()}") from None
        assert part.popen.returncode == -signal.SIGKILL, part.tail()
        if not lease_expires:
            await self.team.api.patch(LEASE, {"spec": {"holderIdentity": ""}})


def run(
    site: sites.Site, options: Iterable[str] = (), env: Mapping[str, str] | None = None, ready: bool = True
) -> process.Process:
    """Start the site's Muster, and wait until it is ready unless it may not live so long."""
    wait = site.ready if ready else None
    argv = site.argv(*options)
    return site.home.parts.start(sites.NAME, argv, env, wait, PATIENCE_S, sites.ROOT)


@contextlib.contextmanager
def replaced(site: sites.Site, options: tuple[str, ...]) -> Iterator[None]:
    """Have the site's own Muster run again after the block, which leaves one with some options, or fails."""
    left_as_it_was = False
    try:
        yield
        left_as_it_was = not options
    finally:
        if not left_as_it_was:
            site.stop_muster()
            run(site)


@contextlib.asynccontextmanager
async def witnessed(team: teams.Team, sizes: dict[str, int], silent: bool = False) -> AsyncIterator[None]:
    """Watch everything that happens to pods and claims of the block, if anything does, and judge it at the end."""
    known = collections.defaultdict(lambda: 1, sizes)
    async with witness.Witness.watching(team.api, team.name, known) as seen:
        yield
    faults = list(seen.faults())
    assert not faults, faults[:5]
    assert silent or any(one.kind == instant.POD for one in seen.seen), "the witness saw nothing"


async def whole(team: teams.Team, pods: Iterable[str] = (), count: int = 0) -> dict[str, teams.Obj]:
    """Wait until some pods, or so many, are bound, each with all eight devices of its node and of nobody else."""
    wanted = set(pods)

    async def ask() -> dict[str, teams.Obj] | None:
        alive = {one["metadata"]["name"]: one for one in await team.pods() if teams.alive(one)}
        found = {name: one for name, one in alive.items() if name in wanted} if wanted else alive
        ready = len(found) == (len(wanted) or count) and all(one["spec"].get("nodeName") for one in found.values())
        return found if ready else None

    found: dict[str, teams.Obj] = await team.until(ask, PATIENCE_S)
    given = await team.devices()
    for name, one in found.items():
        node = one["spec"]["nodeName"]
        assert {row.partition("/")[0] for row in given[name]} == {node}, f"{name} on {node} has {given[name]}"
        assert len(given[name]) == 8
    rows = [row for each in given.values() for row in each]
    assert len(rows) == len(set(rows)), "a device in two claims"
    return found


async def waits_whole(team: teams.Team, gang: str, count: int) -> None:
    """Wait until a JobSet has all its pods again, none of which has a node or devices."""

    async def ask() -> bool:
        mine = [one for one in await team.pods() if one["metadata"].get("labels", {}).get(JOBSET_NAME) == gang]
        ready = len(mine) == count and all(teams.alive(one) for one in mine)
        return ready and not any(one["spec"].get("nodeName") for one in mine)

    await team.until(ask, PATIENCE_S)
    given = await team.devices()
    assert not [name for name in given if name.startswith(f"{gang}-")], given


async def nothing_left(team: teams.Team) -> None:
    """Delete everything; afterwards no claim holds a device, and Muster counts every GPU of an open machine as free."""
    await team.empty()

    async def free() -> bool:
        samples = [line for line in team.site.get("/metrics").splitlines() if line.startswith("muster_gpus{")]
        held = [one for one in samples if 'state="used"' in one or 'state="partial"' in one]
        return bool(held) and all(float(one.rpartition(" ")[2]) == 0 for one in held)

    await team.until(free, PATIENCE_S)


def jobset(name: str) -> teams.Obj:
    """Return a gang of two roles, three pods in all."""
    return work.jobset(name, {"leader": work.job_spec(1), "workers": work.job_spec(2)})
