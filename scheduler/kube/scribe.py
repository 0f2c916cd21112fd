"""Writes a plan: the record first, then the claims, then the pods; or takes back what it wrote.

Round trips one after the other, however large the gang: 1 for the record, 2 for a claim (the patch that
adds the finalizer is also the read; then the allocation), 2 for a pod (read, write), 1 for the last status. A claim
can't have fewer: the API takes the finalizer and the allocation in different requests.

Why a paused leader can't spoil what its successor did: see `scheduler.kube.pen`.
"""

import asyncio
import datetime
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from scheduler import faultpoint
from scheduler.apiserver import client, errors, paths
from scheduler.kube import allocation, gang_record, names, pens, pin, plan, workload
from scheduler.kube import pod as pods

Item = dict[str, Any]

POINTS = (
    "record-written",
    "status-written",
    "claim-protected",
    "claim-allocated",
    "pod-released",
    "claim-taken-back",
    "record-cleared",
)
"""Where a test can kill the scheduler, see `scheduler.faultpoint`; in the order of a start, then of a rollback."""

log = structlog.get_logger()


class StartFailed(Exception):
    """A plan could not be written; `stands` is what still is: the plan itself where it can only be gone on with."""

    def __init__(self, detail: str, stands: plan.Plan | None = None) -> None:
        super().__init__(detail)
        self.stands = stands


class _Refused(Exception):
    """The objects are not as the plan needs them."""


FAILED = (errors.ApiError, *pens.UNANSWERED, _Refused, StartFailed, LookupError)
"""How a write of a plan fails; `pens.Fenced` is not among them, because nothing may be taken back then."""


@dataclass(slots=True, eq=False)
class Scribe:
    """Writes plans for one leader.

    Parameters
    ----------
    leads : callable
        Whether this process still leads; asked before each write.
    """

    api: client.Client
    epoch: int
    device_class: Callable[[str], Item | None]
    leads: Callable[[], bool] = pens.always
    pen: pens.Pen = field(init=False)
    _turns: "weakref.WeakValueDictionary[str, asyncio.Lock]" = field(default_factory=weakref.WeakValueDictionary)

    def __post_init__(self) -> None:
        self.pen = pens.Pen(self.api, self.epoch, self.leads)

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
            item = await self._record(gang, new)
            item = await self._allocating(item, new, fresh)
        except pens.Fenced as error:
            raise StartFailed(str(error), new) from error
        except FAILED as error:
            await self._roll_back(gang, new, before, fresh, str(error))
            raise StartFailed(str(error), before) from error
        await self._release_all(new, fresh)
        await self._say_running(item)

    async def resume(self, whole: plan.Plan, pending: Iterable[plan.PlannedPod]) -> None:
        """Write what is missing of a plan whose record exists.

        Raises
        ------
        StartFailed
            It was undone where no pod was let go yet; else all was done that can be, and `stands` is the plan.
        """
        pending = list(pending)
        try:
            await self._allocate_all(whole, pending)
        except pens.Fenced as error:
            raise StartFailed(str(error), whole) from error
        except FAILED as error:
            if not await self._any_let_go(whole):
                await self.undo(whole, whole.pods, str(error))
                raise StartFailed(str(error)) from error
            log.warning("a gang of which pods run is not whole", gang=whole.identity.key, problem=str(error))
        await self._release_all(whole, pending)
        item = await self._read(whole.identity)
        if item is not None:
            await self._say_running(item)

    async def undo(self, whole: plan.Plan, planned: Iterable[plan.PlannedPod], why: str) -> None:
        """Take back what nobody uses of a plan, then take the plan off its record.

        Raises
        ------
        StartFailed
            The API server could not be reached: the plan stands.
        """
        try:
            await self.take_back(whole, planned)
            await self._clear(whole.identity, why)
        except (*FAILED, pens.Fenced) as error:
            raise StartFailed(f"{why}; and it could not be taken back: {error}", whole) from error

    async def _roll_back(
        self, gang: workload.Workload, new: plan.Plan, before: plan.Plan | None, fresh: list[plan.PlannedPod], why: str
    ) -> None:
        """Leave no claim of the fresh pods, and no plan that a successor would go on with."""
        if before is None:
            await self.undo(new, fresh, why)
            return
        try:
            await self.take_back(new, fresh)
            await self._tell(await self._record(gang, before), gang_record.Phase.RUNNING, "", why)
        except (*FAILED, pens.Fenced) as error:
            raise StartFailed(f"{why}; and it could not be taken back: {error}", new) from error

    # Claims.

    async def _allocate_all(self, new: plan.Plan, planned: Iterable[plan.PlannedPod]) -> None:
        namespace = new.identity.namespace
        await self.pen.all(self._allocate(namespace, pod.node, one) for pod in planned for one in pod.claims)

    async def _allocating(self, item: Item, new: plan.Plan, fresh: Iterable[plan.PlannedPod]) -> Item:
        """Allocate, and say so at the same time; both have ended when this ends, whatever became of them.

        Of a lone pod it is not said: nobody could read it before it is over.
        """
        if len(new.pods) == 1:
            await self._allocate_all(new, fresh)
            return item
        telling = self._tell(item, gang_record.Phase.ALLOCATING, "", "")
        done, told = await asyncio.gather(self._allocate_all(new, fresh), telling, return_exceptions=True)
        for result in (done, told):
            if isinstance(result, BaseException):
                raise result
        return told  # type: ignore[return-value]

    async def _allocate(self, namespace: str, node: str, one: plan.PlannedClaim) -> None:
        """Give a claim its devices; nothing is done where it has them."""
        path = paths.of(paths.RESOURCE, "resourceclaims", namespace, one.name)
        for _ in range(pens.TRIES):
            try:
                item = await self._protect(path, one)
                if (item.get("status") or {}).get("allocation"):
                    break
                status = item.setdefault("status", {})
                status["allocation"] = allocation.body(item, node, one, self.device_class, _now())
                await self.pen.replace(f"{path}/status", item)
                faultpoint.reach("claim-allocated")
                return
            except errors.ApiError as error:
                if not error.conflict:
                    raise
        else:
            raise _Refused(f"claim {namespace}/{one.name} changed under every try")
        if allocation.given(item) != one.rows:
            raise _Refused(f"claim {namespace}/{one.name} is allocated to other devices already; delete its pod")

    async def _protect(self, path: str, one: plan.PlannedClaim) -> Item:
        """Put the finalizer on a claim, which has to be there before the allocation, and return the claim.

        A strategic patch adds to the finalizers that others have, and changes nothing where ours is there.
        """
        change = {"metadata": {"uid": one.uid, "finalizers": [names.CLAIM_FINALIZER]}}
        item: Item = await self.pen.patch(path, change, client.STRATEGIC)
        faultpoint.reach("claim-protected")
        self._same(path, item, one.uid)
        return item

    async def take_back(self, whole: plan.Plan, planned: Iterable[plan.PlannedPod]) -> None:
        """Take back every allocation of a plan that nobody uses."""
        namespace = whole.identity.namespace
        await self.pen.all(self._take_back(namespace, one) for pod in planned for one in pod.claims)

    async def _take_back(self, namespace: str, one: plan.PlannedClaim) -> None:
        """Free one claim, then drop the finalizer: a new version, so that no late write of ours allocates it again."""
        path = paths.of(paths.RESOURCE, "resourceclaims", namespace, one.name)
        for _ in range(pens.TRIES):
            try:
                item = await self.pen.get(path)
                self.pen.check(item)
                if item["metadata"]["uid"] == one.uid:
                    await self._free(path, item, one)
                return
            except errors.ApiError as error:
                if error.missing:
                    return
                if not error.conflict:
                    raise
        raise _Refused(f"claim {namespace}/{one.name} changed under every try to take it back")

    async def _free(self, path: str, item: Item, one: plan.PlannedClaim) -> None:
        status = item.get("status") or {}
        if status.get("reservedFor") or (status.get("allocation") and allocation.given(item) != one.rows):
            return
        if status.get("allocation"):
            del status["allocation"]
            item = await self.pen.replace(f"{path}/status", item)
            faultpoint.reach("claim-taken-back")
        finalizers = item["metadata"].get("finalizers") or []
        if names.CLAIM_FINALIZER in finalizers:
            item["metadata"]["finalizers"] = [one for one in finalizers if one != names.CLAIM_FINALIZER]
            await self.pen.replace(path, item)

    # Pods.

    async def _release_all(self, whole: plan.Plan, planned: Iterable[plan.PlannedPod]) -> None:
        """Let pods go; one that can't be let go does not hold the others back.

        Raises
        ------
        StartFailed
        """
        try:
            await self.pen.all(self._release(whole, pod) for pod in planned)
        except (*FAILED, pens.Fenced) as error:
            raise StartFailed(f"not all pods were let go: {error}", whole) from error

    async def _release(self, whole: plan.Plan, planned: plan.PlannedPod) -> None:
        """Pin a pod to its node and take the gate off, in one update."""
        path = paths.of("v1", "pods", whole.identity.namespace, planned.name)

        def change(pod: Item) -> bool:
            if pod["spec"].get("nodeName"):
                return False
            pin.release(pod, whole.identity.name, planned)
            return True

        if await self._change_pod(path, planned.uid, change):
            faultpoint.reach("pod-released")

    async def let_go(self, pod: pods.Pod) -> None:
        """Take our gate off a pod and change nothing else of it."""

        def change(item: Item) -> bool:
            found = pin.gated(item)
            pin.ungate(item)
            return found

        try:
            await self._change_pod(paths.of("v1", "pods", pod.namespace, pod.name), pod.uid, change)
        except _Refused:
            return
        except errors.ApiError as error:
            if not error.missing:
                raise

    async def _change_pod(self, path: str, uid: str, change: Callable[[Item], bool]) -> bool:
        """Read, change and replace a pod until nobody was in between; tell whether anything was written."""
        for _ in range(pens.TRIES):
            pod = await self.pen.get(path)
            self._same(path, pod, uid)
            if not change(pod):
                return False
            try:
                await self.pen.replace(path, pod)
            except errors.ApiError as error:
                if error.conflict:
                    continue
                raise
            return True
        raise _Refused(f"{path.rpartition('namespaces/')[2]} changed under every try")

    async def _any_let_go(self, whole: plan.Plan) -> bool:
        """Return whether a pod of the plan is without our gate; one that can't be read counts as such."""
        for planned in whole.pods:
            try:
                pod = await self.pen.get(paths.of("v1", "pods", whole.identity.namespace, planned.name))
            except errors.ApiError as error:
                if error.missing:
                    continue
                return True
            except pens.UNANSWERED:
                return True
            if pod["metadata"]["uid"] == planned.uid and not pin.gated(pod):
                return True
        return False

    def _same(self, path: str, item: Mapping[str, Any], uid: str) -> None:
        self.pen.check(item)
        if item["metadata"]["uid"] != uid or "deletionTimestamp" in item["metadata"]:
            raise _Refused(f"{path.rpartition('namespaces/')[2]} is another one by now, or is being deleted")

    # The record.

    async def say(self, gang: workload.Workload, phase: gang_record.Phase, reason: str, text: str) -> None:
        """Write the state of a gang without a plan."""
        await self._tell(await self._put(gang_record.body(gang, None, self.epoch)), phase, reason, text)

    async def finish(self, gang: workload.Workload) -> None:
        """Delete the record of a gang that is gone."""
        async with self._turn(gang.identity):
            try:
                await self.pen.delete(_path(gang.identity))
            except errors.ApiError as error:
                if not error.missing:
                    raise

    async def _record(self, gang: workload.Workload, new: plan.Plan) -> Item:
        """Write the plan down."""
        item = await self._put(gang_record.body(gang, new, self.epoch))
        faultpoint.reach("record-written")
        return item

    async def _put(self, body: Item) -> Item:
        """Create or replace a record; what others have in its metadata stays."""
        metadata = body["metadata"]
        identity = workload.Identity(metadata["namespace"], metadata["name"], "")
        async with self._turn(identity):
            for turn in range(pens.TRIES):
                found = await self._read(identity) if turn else None  # most gangs are new: one request less for them
                try:
                    if found is None:
                        collection = paths.of(names.API_VERSION, names.PLURAL, identity.namespace)
                        return dict(await self.pen.create(collection, body))
                    found["spec"] = body["spec"]
                    found["metadata"] |= {key: metadata[key] for key in ("ownerReferences",) if key in metadata}
                    return dict(await self.pen.replace(_path(identity), found))
                except errors.ApiError as error:
                    if not (error.conflict or error.exists or (error.missing and found is not None)):
                        raise
        raise _Refused(f"{names.KIND} {identity.key} changed under every try")

    async def _read(self, identity: workload.Identity) -> Item | None:
        try:
            found: Item = await self.pen.get(_path(identity))
        except errors.ApiError as error:
            if error.missing:
                return None
            raise
        self.pen.compare(gang_record.epoch(found))
        return found

    async def _clear(self, identity: workload.Identity, why: str) -> None:
        """Take the plan off a record."""
        async with self._turn(identity):
            for _ in range(pens.TRIES):
                found = await self._read(identity)
                if found is None:
                    return
                found["spec"].pop("plan", None)
                try:
                    found = await self.pen.replace(_path(identity), found)
                except errors.ApiError as error:
                    if error.conflict or error.missing:
                        continue
                    raise
                faultpoint.reach("record-cleared")
                await self._tell(found, gang_record.Phase.WAITING, "RolledBack", why)
                return
        raise _Refused(f"{names.KIND} {identity.key} changed under every try")

    async def _tell(self, item: Item, phase: gang_record.Phase, reason: str, text: str) -> Item:
        """Write the status of a record that was just read or written."""
        change = {"status": gang_record.status(item, phase, reason, text)}
        metadata = item["metadata"]
        path = _path(workload.Identity(metadata["namespace"], metadata["name"], ""))
        try:
            told: Item = await self.pen.patch(f"{path}/status", change)
        except errors.ApiError as error:
            if error.missing:
                return item
            raise
        faultpoint.reach("status-written")
        return told

    async def _say_running(self, item: Item) -> None:
        """Tell people that all pods were let go; the gang runs, whether they can be told or not."""
        try:
            await self._tell(item, gang_record.Phase.RUNNING, "", "")
        except (*FAILED, pens.Fenced) as error:
            log.warning("status not written", placement=item["metadata"]["name"], problem=str(error))

    def _turn(self, identity: workload.Identity) -> asyncio.Lock:
        """Return the lock of a record: what is said of a gang must not overwrite a plan that is written meanwhile."""
        return self._turns.setdefault(identity.key, asyncio.Lock())


def _path(identity: workload.Identity) -> str:
    return paths.of(names.API_VERSION, names.PLURAL, identity.namespace, identity.name)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
