"""Writes a plan: the record first, then the claims, then the pods; or takes back what it wrote.

Round trips one after the other, however large the gang: 1 for the record, 2 for the claims, 1 for the pods, 1 for the
last status. A lone pod has no record: one claim can't be half allocated, and our stamp on it does what a record is for
(ADR 0007).

Why a paused leader can't spoil what its successor did: see `scheduler.kube.pens`.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog

from scheduler.apiserver import client, errors
from scheduler.kube import allocator, gang_record, pens, plan, releaser, workload
from scheduler.kube import claim as claiming
from scheduler.kube import observer as observers
from scheduler.kube import records as recording

Item = dict[str, Any]

log = structlog.get_logger()


class StartFailed(Exception):
    """A plan could not be written; `stands` is what still is: the plan itself where it can only be gone on with."""

    def __init__(self, detail: str, stands: plan.Plan | None = None) -> None:
        super().__init__(detail)
        self.stands = stands


FAILED = (errors.ApiError, *pens.UNANSWERED, pens.Refused, StartFailed, LookupError)
"""How a write of a plan fails; `pens.Fenced` is not among them, because nothing may be taken back then."""


@dataclass(slots=True, eq=False)
class Scribe:
    """Writes plans for one leader.

    Parameters
    ----------
    leads : callable
        Whether this process still leads; asked before each write.
    seen : callable
        Finds a pod in the mirror.
    """

    api: client.Client
    epoch: int
    device_class: Callable[[str], Item | None]
    leads: Callable[[], bool] = pens.always
    seen: releaser.Seen = releaser.nothing
    observer: observers.Observer = field(default_factory=observers.Observer)
    pen: pens.Pen = field(init=False)
    claims: allocator.Allocator = field(init=False)
    pods: releaser.Releaser = field(init=False)
    records: recording.Records = field(init=False)

    def __post_init__(self) -> None:
        self.pen = pens.Pen(self.api, self.epoch, self.leads, fenced=self.observer.fenced)
        self.claims = allocator.Allocator(self.pen, self.device_class)
        self.pods = releaser.Releaser(self.pen, self.seen)
        self.records = recording.Records(self.pen, self.observer.trace)

    async def start(self, gang: workload.Workload, new: plan.Plan, before: plan.Plan | None) -> None:
        """Write a plan whole.

        Raises
        ------
        StartFailed
            It was rolled back, unless a pod was let go already or the API server could not be reached.
        """
        had = {pod.uid for pod in before.pods} if before else set()
        fresh = [pod for pod in new.pods if pod.uid not in had]
        try:
            with self.observer.stage(new.identity.key, "record"):
                item = await self.records.write(gang, new)
            with self.observer.stage(new.identity.key, "claims"):
                item = await self._allocating(item, new, fresh)
        except pens.Fenced as error:
            raise StartFailed(str(error), new) from error
        except FAILED as error:
            await self._roll_back(gang, new, before, fresh, str(error))
            raise StartFailed(str(error), before) from error
        await self._release_all(new, fresh)
        await self.say_running(item)

    async def start_lone(self, new: plan.Plan, claim: claiming.Claim | None) -> None:
        """Write the plan of a lone pod, which has one claim or none.

        Parameters
        ----------
        claim : Claim or None
            Its claim as the mirror has it.

        Raises
        ------
        StartFailed
        """
        (pod,) = new.pods
        space = new.identity.namespace
        try:
            if claim is not None:
                with self.observer.stage(new.identity.key, "claims"):
                    await self.claims.allocate_lone(space, pod, claim)
        except pens.Fenced as error:
            raise StartFailed(str(error), new) from error
        except FAILED as error:
            await self._take_back_lone(new, str(error))
            raise StartFailed(str(error)) from error
        await self._release_all(new, new.pods)

    async def resume(self, whole: plan.Plan, pending: Iterable[plan.PlannedPod]) -> None:
        """Write what is missing of a plan whose record exists, or that was found in its claims.

        Raises
        ------
        StartFailed
            It was undone where no pod was let go yet; else all was done that can be, and `stands` is the plan.
        """
        pending = list(pending)
        try:
            await self.claims.allocate_all(whole, pending)
        except pens.Fenced as error:
            raise StartFailed(str(error), whole) from error
        except FAILED as error:
            if not await self.pods.any_let_go(whole):
                await self.undo(whole, whole.pods, str(error))
                raise StartFailed(str(error)) from error
            log.warning("a gang of which pods run is not whole", gang=whole.identity.key, problem=str(error))
        await self._release_all(whole, pending)
        item = await self.records.read(whole.identity)
        if item is not None:
            await self.say_running(item)

    async def undo(self, whole: plan.Plan, planned: Iterable[plan.PlannedPod], why: str) -> None:
        """Take back what nobody uses of a plan, then take the plan off its record.

        Raises
        ------
        StartFailed
            The API server could not be reached: the plan stands.
        """
        try:
            await self.claims.take_back(whole.identity.namespace, planned)
            await self.records.clear(whole.identity, why)
        except (*FAILED, pens.Fenced) as error:
            raise StartFailed(f"{why}; and it could not be taken back: {error}", whole) from error

    async def _take_back_lone(self, new: plan.Plan, why: str) -> None:
        try:
            with self.observer.stage(new.identity.key, "rollback"):
                await self.claims.take_back(new.identity.namespace, new.pods)
        except (*FAILED, pens.Fenced) as error:
            raise StartFailed(f"{why}; and it could not be taken back: {error}", new) from error

    async def _roll_back(
        self, gang: workload.Workload, new: plan.Plan, before: plan.Plan | None, fresh: list[plan.PlannedPod], why: str
    ) -> None:
        """Leave no claim of the fresh pods, and no plan that a successor would go on with."""
        with self.observer.stage(new.identity.key, "rollback"):
            await self._leave(gang, new, before, fresh, why)

    async def _leave(
        self, gang: workload.Workload, new: plan.Plan, before: plan.Plan | None, fresh: list[plan.PlannedPod], why: str
    ) -> None:
        if before is None:
            await self.undo(new, fresh, why)
            return
        try:
            await self.claims.take_back(new.identity.namespace, fresh)
            await self.records.tell(await self.records.write(gang, before), gang_record.Phase.RUNNING, "", why)
        except (*FAILED, pens.Fenced) as error:
            raise StartFailed(f"{why}; and it could not be taken back: {error}", new) from error

    async def _allocating(self, item: Item, new: plan.Plan, fresh: Iterable[plan.PlannedPod]) -> Item:
        """Allocate, and say so at the same time; both have ended when this ends, whatever became of them."""
        telling = self.records.tell(item, gang_record.Phase.ALLOCATING, "", "")
        allocating = self.claims.allocate_all(new, fresh)
        done, told = await asyncio.gather(allocating, telling, return_exceptions=True)
        for result in (done, told):
            if isinstance(result, BaseException):
                raise result
        return told  # type: ignore[return-value]

    async def _release_all(self, whole: plan.Plan, planned: Iterable[plan.PlannedPod]) -> None:
        try:
            with self.observer.stage(whole.identity.key, "release"):
                await self.pods.release_all(whole, planned)
        except (*FAILED, pens.Fenced) as error:
            raise StartFailed(f"not all pods were let go: {error}", whole) from error

    async def say_running(self, item: Item) -> None:
        """Tell people that all pods were let go; the gang runs, whether they can be told or not."""
        metadata = item["metadata"]
        try:
            with self.observer.stage(f"{metadata['namespace']}/{metadata['name']}", "status"):
                await self.records.tell(item, gang_record.Phase.RUNNING, "", "")
        except (*FAILED, pens.Fenced) as error:
            log.warning("status not written", placement=item["metadata"]["name"], problem=str(error))
