"""What a new leader does first: plans that its predecessor left half written are finished, or undone.

Before anything is decided about a plan, every claim of it that is not allocated and every pod that is gated is stamped
with the new leader's term. What a predecessor that was only paused still sends carries the versions from before and is
refused; what it reads afterwards bears the stamp and stops it. So a plan has one writer; see `scheduler.kube.pens`.
"""

import dataclasses
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import structlog

from scheduler import faultpoint
from scheduler.apiserver import errors, paths
from scheduler.kube import claim as claims
from scheduler.kube import gang_record, names, pens, scribe
from scheduler.kube import plan as plans
from scheduler.kube import pod as pods
from scheduler.model import claim as rows

LISTS = (
    paths.of("v1", "pods"),
    paths.of(paths.RESOURCE, "resourceclaims"),
    paths.of(paths.RESOURCE, "deviceclasses"),
)

Item = dict[str, Any]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Found:
    """One plan beside what there is of it.

    Attributes
    ----------
    pods : dict of UID to Pod
        Those of the plan that exist and are not being deleted.
    claims : dict of UID to Claim
    """

    plan: plans.Plan
    pods: dict[str, pods.Pod]
    claims: dict[str, claims.Claim]

    @property
    def finished(self) -> bool:
        """Return whether there is nothing to write, and nothing to take back."""
        return not self.pending and not self.left

    @property
    def pending(self) -> list[plans.PlannedPod]:
        """Return the pods that are there and not bound, and have the gate yet or not all their devices."""
        lacking = {claim.uid for claim in self.unallocated}
        there = [(planned, self.pods[planned.uid]) for planned in self.plan.pods if planned.uid in self.pods]
        return [
            planned
            for planned, pod in there
            if not pod.node and (names.GATE in pod.gates or any(one.uid in lacking for one in planned.claims))
        ]

    @property
    def left(self) -> list[plans.PlannedPod]:
        """Return the pods that are gone, with their claims that have the planned devices and no user."""
        used = {claim.uid for pod in self.plan.pods if pod.uid in self.pods for claim in pod.claims}
        gone = (pod for pod in self.plan.pods if pod.uid not in self.pods)
        found = (
            (pod, tuple(one for one in pod.claims if one.uid not in used and self._idle(pod, one))) for pod in gone
        )
        return [dataclasses.replace(pod, claims=idle) for pod, idle in found if idle]

    def _idle(self, pod: plans.PlannedPod, one: plans.PlannedClaim) -> bool:
        claim = self.claims.get(one.uid)
        return claim is not None and claim.rows == one.rows and set(claim.reserved) <= {pod.uid}

    def bound(self, planned: plans.PlannedPod) -> bool:
        """Return whether a pod is on a node."""
        return planned.uid in self.pods and bool(self.pods[planned.uid].node)

    @property
    def whole(self) -> bool:
        """Return whether every pod and every claim of it still is there."""
        claimed = [claim for pod in self.plan.pods for claim in pod.claims]
        return all(pod.uid in self.pods for pod in self.plan.pods) and all(one.uid in self.claims for one in claimed)

    @property
    def let_go(self) -> bool:
        """Return whether a pod of it is without our gate already."""
        return any(names.GATE not in pod.gates for pod in self.pods.values())

    @property
    def unallocated(self) -> list[plans.PlannedClaim]:
        """Return the claims that have not the planned devices."""
        claimed = [claim for pod in self.plan.pods for claim in pod.claims]
        return [one for one in claimed if one.uid not in self.claims or self.claims[one.uid].rows != one.rows]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Pods, claims and classes as the API has them."""

    pods: list[Item]
    claims: list[Item]
    classes: list[Item]

    def found(self, one: plans.Plan) -> Found:
        """Return a plan beside what there is of it."""
        uids = {pod.uid for pod in one.pods}
        own = {claim.uid for pod in one.pods for claim in pod.claims}
        read = (pods.read(item) for item in self.pods if item["metadata"]["uid"] in uids)
        have = (claims.read(item) for item in self.claims if item["metadata"]["uid"] in own)
        return Found(
            one,
            {pod.uid: pod for pod in read if not pod.deleting and not pod.finished},
            {claim.uid: claim for claim in have},
        )

    def taken(self, one: plans.Plan) -> list[str]:
        """Return the claims outside a plan that have devices of it, by namespace and name; shares don't count."""
        own = {claim.uid for pod in one.pods for claim in pod.claims}
        wanted = {_device(row) for pod in one.pods for claim in pod.claims for row in claim.rows if not row.share_id}
        others = (claims.read(item) for item in self.claims if item["metadata"]["uid"] not in own)
        return sorted(two.key for two in others if any(_device(row) in wanted for row in two.rows or ()))

    def device_class(self, name: str) -> Item | None:
        """Return a DeviceClass."""
        return next((one for one in self.classes if one["metadata"]["name"] == name), None)


async def recover(writer: scribe.Scribe) -> int:
    """Finish or undo every unfinished plan; return how many there were."""
    recorded = [(item, gang_record.read_plan(item)) for item in await _records(writer.pen)]
    there = Cluster(*[await writer.pen.listed(path) for path in LISTS])
    await _touch_begun(writer.pen, there.claims)
    planned = [(item, there.found(plan)) for item, plan in recorded if plan is not None]
    unfinished = [one for _, one in planned if not one.finished]
    writer = dataclasses.replace(writer, device_class=there.device_class)
    for one in unfinished:
        await _touch(writer.pen, one)
    for one in unfinished:
        await _resolve(writer, one, there)
    for item, one in planned:
        if one.finished and one.pods and gang_record.phase(item) != gang_record.Phase.RUNNING.value:
            await writer.say_running(item)  # all was done but to say so
    return len(unfinished)


async def sweep(pen: pens.Pen, followed: Container[str]) -> None:
    """Delete the records of gangs that ended while nobody led: no pod of theirs is left.

    Parameters
    ----------
    followed : container of str
        Keys of the gangs that have pods, as of any moment from now on.
    """
    try:
        for item in await _records(pen):
            metadata = item["metadata"]
            if f"{metadata['namespace']}/{metadata['name']}" not in followed:
                await _end(pen, metadata)
    except (errors.ApiError, *pens.UNANSWERED, pens.Fenced) as error:
        log.warning("records of gangs that ended not deleted", problem=f"{type(error).__name__}: {error}")


async def _end(pen: pens.Pen, metadata: Item) -> None:
    """Delete a record as it was listed; one that was written since belongs to a gang that has come meanwhile."""
    path = paths.of(names.API_VERSION, names.PLURAL, metadata["namespace"], metadata["name"])
    try:
        await pen.delete(path, metadata["uid"], metadata["resourceVersion"])
        faultpoint.reach("record-deleted")
    except errors.ApiError as error:
        if not (error.missing or error.conflict):
            raise


async def _records(pen: pens.Pen) -> list[Item]:
    try:
        return await pen.listed(paths.of(names.API_VERSION, names.PLURAL))
    except errors.ApiError as error:
        if error.missing:
            return []
        raise


async def _touch_begun(pen: pens.Pen, listed: list[Item]) -> None:
    """Change every claim of a lone pod that was begun and has no devices: its allocation may still be on its way."""
    found = [claims.read(item) for item in listed if pens.TERM in (item["metadata"].get("annotations") or {})]
    begun = [one for one in found if one.rows is None and not one.deleting]
    await pen.all(
        _stamp(pen, paths.of(paths.RESOURCE, "resourceclaims", one.namespace, one.name), one.uid) for one in begun
    )


async def _resolve(writer: scribe.Scribe, one: Found, there: Cluster) -> None:
    """Go on with a plan that is whole, or of which a pod was let go; undo any other.

    A plan that can be neither finished nor undone stays on record. Its allocated claims keep their devices; those of
    the others may be given away, which the next leader sees (`Cluster.taken`).
    """
    key = one.plan.identity.key
    taken = there.taken(one.plan)
    try:
        if (one.whole or one.let_go) and not taken:
            await writer.resume(one.plan, one.pending)
            await writer.claims.take_back(one.plan.identity.namespace, one.left)
            log.info("plan of the leader before finished", gang=key)
            return
        why = f"its devices are of claim {taken[0]} by now" if taken else "a pod of it went away before any was let go"
        await writer.undo(one.plan, [pod for pod in one.plan.pods if not one.bound(pod)], why)
        log.info("plan of the leader before undone", gang=key, because=why)
    except scribe.FAILED as error:
        log.error("plan of the leader before not resolved", gang=key, problem=str(error))


async def _touch(pen: pens.Pen, one: Found) -> None:
    """Change every claim without its devices and every gated pod, so that writes by who read it before are refused."""
    space = one.plan.identity.namespace
    planned = [claim for claim in one.unallocated if claim.uid in one.claims]
    gated = [pod for pod in one.pods.values() if names.GATE in pod.gates]
    claimed = [_stamp(pen, paths.of(paths.RESOURCE, "resourceclaims", space, two.name), two.uid) for two in planned]
    await pen.all([*claimed, *(_stamp(pen, paths.of("v1", "pods", space, pod.name), pod.uid) for pod in gated)])


async def _stamp(pen: pens.Pen, path: str, uid: str) -> None:
    try:
        await pen.patch(path, {"metadata": {"uid": uid, "annotations": {pens.TERM: str(pen.epoch)}}})
        faultpoint.reach("recovery-stamped")
    except errors.ApiError as error:
        another = error.status == 422  # what the API server says of another UID
        if not (error.missing or error.conflict or another):
            raise


def _device(row: rows.Allocation) -> tuple[str, str, str]:
    return row.driver, row.pool, row.device
