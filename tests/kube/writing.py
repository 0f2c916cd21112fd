"""Gated pods with claims on the embedded API server, a plan for them, and a client whose requests a test can touch."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from scheduler.apiserver import client, paths
from scheduler.kube import gang_record, plan, recover, scribe, workload
from scheduler.kube import pod as pods
from scheduler.model import claim as rows
from tests.kube import live

MEMBERS = ("w-0", "w-1", "w-2")
GANG = workload.Workload(workload.Identity("default", "gang-train", "Annotated"), pods.Owner(), None)
OTHER = workload.Workload(workload.Identity("default", "gang-other", "Annotated"), pods.Owner(), None)
WRITES = ("POST", "PUT", "PATCH", "DELETE")


class Lost(aiohttp.ClientError):
    """The answer did not come."""


class Touched(client.Client):
    """Counts requests; `before` and `after` a write a test may wait, or lose the answer."""

    def __init__(self, where: Any, **more: Any) -> None:
        super().__init__(where, **more)
        self.asked: list[tuple[str, str]] = []
        self.before: Callable[[int, str, str], Awaitable[None]] | None = None
        self.after: Callable[[int, str, str], Awaitable[None]] | None = None
        self.writes = 0

    async def request(self, method: str, path: str, *args: Any, **more: Any) -> bytes:
        self.asked.append((method, path))
        if method not in WRITES:
            return await super().request(method, path, *args, **more)
        self.writes += 1
        number = self.writes
        if self.before:
            await self.before(number, method, path)
        answer = await super().request(method, path, *args, **more)
        if self.after:
            await self.after(number, method, path)
        return answer


@dataclass
class Site:
    """A cluster without scheduler, and the plan of one gang."""

    home: live.Cluster
    api: Touched
    plan: plan.Plan
    found: list[str] = field(default_factory=list)

    def scribe(self, epoch: int = 1, api: client.Client | None = None, leads: Any = lambda: True) -> scribe.Scribe:
        one = scribe.Scribe(api or self.api, epoch, lambda name: live.device_class(name), leads)
        one.pen.patience_s = 2.0
        return one

    async def recover(self, epoch: int = 2) -> int:
        return await recover.recover(self.scribe(epoch, self.home.api))

    async def record(self) -> dict[str, Any]:
        found = await self.home.placement("gang-train")
        assert found is not None
        return found

    async def released(self) -> set[str]:
        found = await self.home.pods()
        return {name for name in MEMBERS if name in found and not found[name]["spec"].get("schedulingGates")}

    async def finalizers(self) -> dict[str, list[str]]:
        found, _ = await self.home.api.list(paths.of(paths.RESOURCE, "resourceclaims", "default"))
        return {one["metadata"]["name"]: one["metadata"].get("finalizers", []) for one in found}

    async def whole(self) -> None:
        """Assert that every pod is let go with its devices, none of them twice."""
        assert await self.released() == set(MEMBERS)
        await self.home.bound(*MEMBERS)
        claims = await self.home.claims()
        devices = [device for one in claims.values() for device in one]
        assert len(devices) == len(set(devices)) == 24
        assert (await self.record())["spec"]["plan"]["pods"]

    async def absent(self) -> None:
        """Assert that nothing holds anything and no plan is left to go on with."""
        assert await self.home.claims() == {}
        assert await self.released() == set()
        found = await self.home.placement("gang-train")
        assert found is None or gang_record.read_plan(found) is None


async def planned(home: live.Cluster, gang: workload.Workload, shift: int = 0) -> plan.Plan:
    """Return a plan: the i-th pod gets all of the (i + shift)-th node."""

    async def ready() -> Any:
        found = await home.pods()
        made = [found[name].get("status", {}).get("resourceClaimStatuses") for name in MEMBERS if name in found]
        return found if len(made) == len(MEMBERS) and all(made) else None

    found = await home.until(ready)
    nodes = sorted(one["metadata"]["name"] for one in (await home.api.list("/api/v1/nodes"))[0])
    claimed, _ = await home.api.list(paths.of(paths.RESOURCE, "resourceclaims", "default"))
    uids = {one["metadata"]["name"]: one["metadata"]["uid"] for one in claimed}
    given = []
    for rank, name in enumerate(MEMBERS):
        node = nodes[rank + shift]
        claim = found[name]["status"]["resourceClaimStatuses"][0]["resourceClaimName"]
        devices = tuple(rows.Allocation("gpu.muster.dev", node, f"gpu-{i}", "gpus") for i in range(8))
        one = plan.PlannedClaim(claim, uids[claim], devices)
        given.append(plan.PlannedPod(rank, "worker", name, found[name]["metadata"]["uid"], node, (one,)))
    return plan.Plan(gang.identity, tuple(given), 7, domain="rack-0", level="rack", bandwidth_mb_s=400_000)


@contextlib.asynccontextmanager
async def site(folder: Path, version: str = "1.37") -> AsyncIterator[Site]:
    async with live.cluster(folder, version=version) as home:
        await home.create(*(live.pod(name, "train", 3) for name in MEMBERS))
        async with await Touched.connect(home.kubeconfig) as api:
            yield Site(home, api, await planned(home, GANG))


async def pause(held: asyncio.Event, reached: asyncio.Event) -> None:
    reached.set()
    async with asyncio.timeout(20):
        await held.wait()
