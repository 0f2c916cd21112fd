"""Gives claims their devices, and takes them back.

A claim takes two requests, one after the other, because the API takes the finalizer and the allocation in different
ones: the patch that adds the finalizer is also the read. The allocation reserves the claim for its pod at once, so that
kube-scheduler has nothing left to write to it.
"""

import datetime
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from scheduler import faultpoint
from scheduler.apiserver import client, errors, paths
from scheduler.kube import allocation, names, pens, pin, plan
from scheduler.kube import claim as claims

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Allocator:
    """Writes the claims of one leader.

    Parameters
    ----------
    device_class : callable
        Finds a DeviceClass object by name.
    """

    pen: pens.Pen
    device_class: Callable[[str], Item | None]

    async def allocate_all(self, whole: plan.Plan, planned: Iterable[plan.PlannedPod]) -> None:
        """Give all claims of some pods of a plan their devices; nothing is done to those that have them.

        Raises
        ------
        ApiError, Refused, Fenced, LookupError
            The first, when all have ended.
        """
        uses = Counter(claim.uid for pod in whole.pods for claim in pod.claims)
        await self.pen.all(
            self._allocate(whole.identity.namespace, pod, one, _place(whole, pod) if uses[one.uid] == 1 else {})
            for pod in planned
            for one in pod.claims
        )

    async def allocate_lone(self, namespace: str, pod: plan.PlannedPod, seen: claims.Claim) -> None:
        """Give the claim of a lone pod its devices; our stamp on the claim stands in for a record.

        The stamp carries the version that was seen: it never covers that of a later leader.
        """
        (one,) = pod.claims
        metadata = {"uid": one.uid, "resourceVersion": seen.version, "finalizers": [names.CLAIM_FINALIZER]}
        change = {"metadata": metadata | {"annotations": {pens.TERM: str(self.pen.epoch)}}}
        path = _path(namespace, one)
        for _ in range(pens.TRIES):
            try:
                item = await self._protect(path, one, change)
                if await self._settled(path, item, pod, one):
                    return
            except errors.ApiError as error:
                if not error.conflict:
                    raise
            item = await self.pen.get(path)
            self.pen.same(path, item, one.uid)
            metadata["resourceVersion"] = item["metadata"]["resourceVersion"]
            change = {"metadata": metadata | {"annotations": {pens.TERM: str(self.pen.epoch)}}}
        raise pens.Refused(f"claim {namespace}/{one.name} changed under every try")

    async def _allocate(
        self, namespace: str, pod: plan.PlannedPod, one: plan.PlannedClaim, notes: dict[str, str]
    ) -> None:
        path = _path(namespace, one)
        change: Item = {"metadata": {"uid": one.uid, "finalizers": [names.CLAIM_FINALIZER]}}
        if notes:
            change["metadata"]["annotations"] = notes
        for _ in range(pens.TRIES):
            try:
                if await self._settled(path, await self._protect(path, one, change), pod, one):
                    return
            except errors.ApiError as error:
                if not error.conflict:
                    raise
        raise pens.Refused(f"claim {namespace}/{one.name} changed under every try")

    async def _protect(self, path: str, one: plan.PlannedClaim, change: Item) -> Item:
        """Put the finalizer on a claim, which has to be there before the allocation, and return the claim.

        A strategic patch adds to the finalizers that others have, and changes nothing where ours is there.
        """
        item: Item = await self.pen.patch(path, change, client.STRATEGIC)
        faultpoint.reach("claim-protected")
        self.pen.same(path, item, one.uid)
        return item

    async def _settled(self, path: str, item: Item, pod: plan.PlannedPod, one: plan.PlannedClaim) -> bool:
        """Allocate a claim that was just read.

        Raises
        ------
        Refused
            It has other devices already.
        """
        status = item.setdefault("status", {})
        if status.get("allocation"):
            if allocation.given(item) != one.rows:
                raise pens.Refused(f"claim {_key(path)} is allocated to other devices already; delete its pod")
            return True
        status["allocation"] = allocation.body(item, pod.node, one, self.device_class, _now())
        users = status.setdefault("reservedFor", [])
        if all(user["uid"] != pod.uid for user in users):
            users.append({"resource": "pods", "name": pod.name, "uid": pod.uid})
        await self.pen.replace(f"{path}/status", item)
        faultpoint.reach("claim-allocated")
        return True

    async def take_back(self, namespace: str, planned: Iterable[plan.PlannedPod]) -> None:
        """Take back every allocation of a plan that nobody uses."""
        await self.pen.all(self._take_back(namespace, pod, one) for pod in planned for one in pod.claims)

    async def _take_back(self, namespace: str, pod: plan.PlannedPod, one: plan.PlannedClaim) -> None:
        """Free one claim, then drop the finalizer: a new version, so that no late write of ours allocates it again."""
        path = _path(namespace, one)
        for _ in range(pens.TRIES):
            try:
                item = await self.pen.get(path)
                self.pen.check(item)
                if item["metadata"]["uid"] == one.uid and await self._unused(namespace, item, pod):
                    await self._free(path, item, one)
                return
            except errors.ApiError as error:
                if error.missing:
                    return
                if not error.conflict:
                    raise
        raise pens.Refused(f"claim {namespace}/{one.name} changed under every try to take it back")

    async def _unused(self, namespace: str, item: Item, pod: plan.PlannedPod) -> bool:
        """Return whether a claim is reserved for nobody, or only for its planned pod while that can't start."""
        users = (item.get("status") or {}).get("reservedFor") or ()
        if not users:
            return True
        if any(user["uid"] != pod.uid for user in users):
            return False
        try:
            found = await self.pen.get(paths.of("v1", "pods", namespace, pod.name))
        except errors.ApiError as error:
            if error.missing:
                return True
            raise
        return found["metadata"]["uid"] != pod.uid or pin.gated(found)

    async def _free(self, path: str, item: Item, one: plan.PlannedClaim) -> None:
        status = item.get("status") or {}
        if status.get("allocation") and allocation.given(item) != one.rows:
            return
        if status.get("allocation"):
            del status["allocation"]
            status.pop("reservedFor", None)
            item = await self.pen.replace(f"{path}/status", item)
            faultpoint.reach("claim-taken-back")
        finalizers = item["metadata"].get("finalizers") or []
        if names.CLAIM_FINALIZER in finalizers:
            item["metadata"]["finalizers"] = [one for one in finalizers if one != names.CLAIM_FINALIZER]
            await self.pen.replace(path, item)
            faultpoint.reach("claim-unprotected")


def _place(whole: plan.Plan, pod: plan.PlannedPod) -> dict[str, str]:
    """Return what the driver tells containers of their pod's place; of a claim that pods share it can't be told."""
    return {
        names.GANG: whole.identity.name,
        names.PLANNED_RANK: str(pod.rank),
        names.PLANNED_SIZE: str(len(whole.pods)),
    }


def _path(namespace: str, one: plan.PlannedClaim) -> str:
    return paths.of(paths.RESOURCE, "resourceclaims", namespace, one.name)


def _key(path: str) -> str:
    return path.rpartition("namespaces/")[2].replace("/resourceclaims/", "/")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
