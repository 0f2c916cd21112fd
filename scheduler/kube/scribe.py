"""Writes a plan: the record first, then the claims, then the pods; or takes back what it wrote."""

import asyncio
import copy
import datetime
import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import structlog

from scheduler import faultpoint
from scheduler.apiserver import client, errors, paths
from scheduler.kube import claim, gang_record, names, plan, workload
from scheduler.kube import pod as pods
from scheduler.model import claim as rows

Item = dict[str, Any]

FLIGHT = 64
"""Requests at the same time."""

TRIES = 6
FIRST_WAIT_S = 0.1

POINTS = (
    "record-written",
    "status-written",
    "claim-protected",
    "claim-allocated",
    "pod-released",
    "claim-taken-back",
)
"""Where a test can kill the scheduler, see `scheduler.faultpoint`; in the order of a start, then of a rollback."""

log = structlog.get_logger()


class StartFailed(Exception):
    """A plan could not be written; `stands` is what still is."""

    def __init__(self, detail: str, stands: plan.Plan | None = None) -> None:
        super().__init__(detail)
        self.stands = stands


@dataclass(slots=True, eq=False)
class Scribe:
    """Writes plans for one leader."""

    api: client.Client
    epoch: int
    device_class: Callable[[str], Item | None]
    _gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(FLIGHT))

    async def start(self, gang: workload.Workload, new: plan.Plan, before: plan.Plan | None) -> None:
        """Write a plan whole.

        Raises
        ------
        StartFailed
            It was rolled back, as far as no pod was let go.
        """
        had = {pod.uid for pod in before.pods} if before else set()
        fresh = [pod for pod in new.pods if pod.uid not in had]
        try:
            await self._record(gang, new, gang_record.Phase.ALLOCATING)
            await self._all(self._allocate(new.identity.namespace, pod, one) for pod in fresh for one in pod.claims)
        except (errors.ApiError, TimeoutError, OSError, aiohttp.ClientError, _Refused) as error:
            await self.take_back(new, fresh)
            raise StartFailed(str(error), before) from error
        try:
            await self._all(self._release(new, pod) for pod in fresh)
        except (errors.ApiError, TimeoutError, OSError, aiohttp.ClientError, _Refused) as error:
            raise StartFailed(f"not all pods were let go: {error}", new) from error
        await self._record(gang, new, gang_record.Phase.RUNNING)

    async def resume(self, whole: plan.Plan) -> None:
        """Write what is missing of a plan whose record exists.

        Raises
        ------
        StartFailed
            It was undone, as far as no pod was let go.
        """
        namespace = whole.identity.namespace
        try:
            await self._all(self._allocate(namespace, pod, one) for pod in whole.pods for one in pod.claims)
            await self._all(self._release(whole, pod) for pod in whole.pods)
        except (errors.ApiError, TimeoutError, OSError, aiohttp.ClientError, _Refused) as error:
            await self.take_back(whole, whole.pods)
            raise StartFailed(str(error)) from error

    async def _all(self, jobs: Any) -> None:
        """Do all at the same time, bounded; the first error is raised when all have ended."""
        results = await asyncio.gather(*(self._bounded(job) for job in jobs), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _bounded(self, job: Awaitable[None]) -> None:
        async with self._gate:
            await job

    async def _allocate(self, namespace: str, pod: plan.PlannedPod, one: plan.PlannedClaim) -> None:
        path = paths.of(paths.RESOURCE, "resourceclaims", namespace, one.name)
        item = await self._get(path, one.uid)
        if item.get("status", {}).get("allocation"):
            if _rows(item) == one.rows:
                return
            raise _Refused(f"claim {namespace}/{one.name} is allocated to other devices already")
        if names.CLAIM_FINALIZER not in (item["metadata"].get("finalizers") or ()):
            item["metadata"].setdefault("finalizers", []).append(names.CLAIM_FINALIZER)
            item = await self._retry(lambda: self.api.replace(path, item))
            faultpoint.reach("claim-protected")
        fresh = copy.deepcopy(item)
        fresh.setdefault("status", {})["allocation"] = self._allocation(item, pod, one)
        await self._retry(lambda: self.api.replace(f"{path}/status", fresh))
        faultpoint.reach("claim-allocated")

    def _allocation(self, item: Item, pod: plan.PlannedPod, one: plan.PlannedClaim) -> Item:
        """Return an allocation as kube-scheduler would have written it (KEP-4381)."""
        requests = item["spec"]["devices"].get("requests") or ()
        exact = {request["name"]: request.get("exactly") or {} for request in requests}
        config = [
            {"source": "FromClass", "requests": [request["name"]], **entry}
            for request in requests
            for entry in self._class_config((request.get("exactly") or {}).get("deviceClassName", ""))
        ]
        config += [{"source": "FromClaim", **entry} for entry in item["spec"]["devices"].get("config") or ()]
        selector = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [pod.node]}]}
        devices: Item = {"results": [_result(row, exact.get(row.request.partition("/")[0], {})) for row in one.rows]}
        if config:
            devices["config"] = config
        return {
            "devices": devices,
            "nodeSelector": {"nodeSelectorTerms": [selector]},
            "allocationTimestamp": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    def _class_config(self, name: str) -> list[Item]:
        found = self.device_class(name) or {}
        return list((found.get("spec") or {}).get("config") or ())

    async def _release(self, whole: plan.Plan, planned: plan.PlannedPod) -> None:
        """Pin a pod to its node and take the gate off, in one update."""
        namespace = whole.identity.namespace
        path = paths.of("v1", "pods", namespace, planned.name)
        for _ in range(TRIES):
            pod = await self._get(path, planned.uid)
            spec = pod["spec"]
            if spec.get("nodeName"):
                return
            metadata = pod["metadata"]
            devices = ",".join(row.device for claim in planned.claims for row in claim.rows)
            metadata.setdefault("annotations", {}).update(
                {names.PLANNED_RANK: str(planned.rank), names.PLANNED_DEVICES: devices}
            )
            metadata.setdefault("labels", {})[names.GANG] = whole.identity.name
            gates = [gate for gate in spec.get("schedulingGates") or () if gate["name"] != names.GATE]
            if len(gates) < len(spec.get("schedulingGates") or ()):
                spec["schedulingGates"] = gates
                pin(spec, planned.node)
            try:
                await self.api.replace(path, pod)
            except errors.ApiError as error:
                if error.conflict:
                    continue
                raise
            faultpoint.reach("pod-released")
            return
        raise _Refused(f"pod {namespace}/{planned.name} changed under every try")

    async def let_go(self, pod: pods.Pod) -> None:
        """Take our gate off a pod and change nothing else of it."""
        path = paths.of("v1", "pods", pod.namespace, pod.name)
        for _ in range(TRIES):
            try:
                item = await self._get(path, pod.uid)
                gates = item["spec"].get("schedulingGates") or ()
                item["spec"]["schedulingGates"] = [gate for gate in gates if gate["name"] != names.GATE]
                await self.api.replace(path, item)
                return
            except _Refused:
                return
            except errors.ApiError as error:
                if error.missing:
                    return
                if not error.conflict:
                    raise

    async def _get(self, path: str, uid: str) -> Item:
        found: Item = await self._retry(lambda: self.api.get(path))
        if found["metadata"]["uid"] != uid or "deletionTimestamp" in found["metadata"]:
            raise _Refused(f"{path.rpartition('namespaces/')[2]} is another one by now, or is being deleted")
        return found

    async def _retry(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask again while the server is busy."""
        for turn in range(TRIES):
            try:
                return await ask()
            except errors.ApiError as error:
                if not error.passing or turn == TRIES - 1:
                    raise
                await asyncio.sleep(max(error.retry_after_s or 0, FIRST_WAIT_S * 2**turn))
        raise AssertionError("unreachable")

    async def take_back(self, whole: plan.Plan, planned: Iterable[plan.PlannedPod]) -> None:
        """Take back every allocation of a plan that nobody uses."""
        namespace = whole.identity.namespace
        for pod in planned:
            for one in pod.claims:
                try:
                    await self._take_back(namespace, one)
                except (errors.ApiError, TimeoutError, OSError, aiohttp.ClientError) as error:
                    log.warning("allocation not taken back", claim=f"{namespace}/{one.name}", problem=str(error))

    async def _take_back(self, namespace: str, one: plan.PlannedClaim) -> None:
        path = paths.of(paths.RESOURCE, "resourceclaims", namespace, one.name)
        try:
            item = await self.api.get(path)
        except errors.ApiError as error:
            if error.missing:
                return
            raise
        status = item.get("status") or {}
        if item["metadata"]["uid"] != one.uid or not status.get("allocation") or status.get("reservedFor"):
            return
        if _rows(item) == one.rows:
            del status["allocation"]
            await self.api.replace(f"{path}/status", item)
            faultpoint.reach("claim-taken-back")

    async def _record(self, gang: workload.Workload, new: plan.Plan, phase: gang_record.Phase) -> None:
        """Write the plan down."""
        await self._put(gang_record.body(gang, new, self.epoch), phase, "", "")

    async def say(self, gang: workload.Workload, phase: gang_record.Phase, reason: str, text: str) -> None:
        """Write the state of a gang without a plan."""
        await self._put(gang_record.body(gang, None, self.epoch), phase, reason, text)

    async def finish(self, gang: workload.Workload) -> None:
        """Delete the record of a gang that is gone."""
        path = paths.of(names.API_VERSION, names.PLURAL, gang.identity.namespace, gang.identity.name)
        try:
            await self.api.delete(path)
        except errors.ApiError as error:
            if not error.missing:
                raise

    async def _put(self, body: Item, phase: gang_record.Phase, reason: str, text: str) -> None:
        """Create or replace a record, then its status."""
        metadata = body["metadata"]
        collection = paths.of(names.API_VERSION, names.PLURAL, metadata["namespace"])
        path = f"{collection}/{metadata['name']}"
        for _ in range(TRIES):
            try:
                found = await self._retry(lambda: self.api.get(path))
                body["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"]
                written = await self.api.replace(path, body)
            except errors.ApiError as error:
                if error.conflict:
                    continue
                if not error.missing:
                    raise
                body["metadata"].pop("resourceVersion", None)
                written = await self.api.create(collection, body)
            faultpoint.reach("record-written")
            change = {"status": gang_record.status(written, phase, reason, text)}
            await self._retry(functools.partial(self.api.patch, f"{path}/status", change))
            faultpoint.reach("status-written")
            return


class _Refused(Exception):
    """The objects are not as the plan needs them."""


def pin(spec: Item, node: str) -> None:
    """Let a pod run on one node only; terms that it has are narrowed, which the API allows while it is gated."""
    affinity = spec.setdefault("affinity", {}).setdefault("nodeAffinity", {})
    required = affinity.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
    terms = required.get("nodeSelectorTerms") or [{}]
    field_ = {"key": "metadata.name", "operator": "In", "values": [node]}
    required["nodeSelectorTerms"] = [
        {**term, "matchFields": [*(term.get("matchFields") or ()), field_]} for term in terms
    ]


def _result(row: rows.Allocation, exact: Mapping[str, Any]) -> Item:
    result: Item = {"request": row.request, "driver": row.driver, "pool": row.pool, "device": row.device}
    if exact.get("tolerations"):
        result["tolerations"] = exact["tolerations"]
    if row.share_id:
        result["shareID"] = row.share_id
        result["consumedCapacity"] = {name: str(value) for name, value in row.consumed}
    return result


def _rows(item: Item) -> tuple[rows.Allocation, ...]:
    return claim.read(item).rows or ()
