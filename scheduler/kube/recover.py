"""What a new leader does first: plans that its predecessor left half written are finished, or undone.

Before anything is decided about a plan, every claim of it that is not allocated is touched. A predecessor that was only
paused read those claims before; its late writes carry their old versions and are refused. So a plan has one writer.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import structlog

from scheduler.apiserver import client, errors, paths
from scheduler.kube import claim as claims
from scheduler.kube import gang_record, names, scribe
from scheduler.kube import plan as plans
from scheduler.kube import pod as pods

TERM = "muster.dev/term"
"""Annotation of claims: the leader that looked at an unfinished plan."""

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
        """Return whether every claim is allocated as planned and every pod let go, or nothing of it is left."""
        if not self.pods and not any(one.rows for one in self.claims.values()):
            return True
        return not self.unallocated and not any(names.GATE in pod.gates for pod in self.pods.values())

    @property
    def whole(self) -> bool:
        """Return whether every pod and every claim of it still is there."""
        claimed = [claim for pod in self.plan.pods for claim in pod.claims]
        return all(pod.uid in self.pods for pod in self.plan.pods) and all(one.uid in self.claims for one in claimed)

    @property
    def unallocated(self) -> list[plans.PlannedClaim]:
        """Return the claims that have not the planned devices."""
        claimed = [claim for pod in self.plan.pods for claim in pod.claims]
        return [one for one in claimed if one.uid not in self.claims or self.claims[one.uid].rows != one.rows]


async def recover(api: client.Client, writer: scribe.Scribe) -> int:
    """Finish or undo every unfinished plan; return how many there were."""
    try:
        records, _ = await api.list(paths.of(names.API_VERSION, names.PLURAL))
    except errors.ApiError as error:
        if error.missing:
            return 0
        raise
    planned = [found for item in records if (found := gang_record.read_plan(item)) is not None]
    spaces = {one.identity.namespace for one in planned}
    there = {space: await _read(api, space) for space in sorted(spaces)}
    unfinished = [one for one in (_found(one, *there[one.identity.namespace]) for one in planned) if not one.finished]
    for one in unfinished:
        await _resolve(api, writer, one)
    return len(unfinished)


async def _resolve(api: client.Client, writer: scribe.Scribe, one: Found) -> None:
    key = one.plan.identity.key
    await _touch(api, one, writer.epoch)
    if one.whole:
        try:
            await writer.resume(one.plan)
            log.info("plan of the leader before finished", gang=key)
            return
        except scribe.StartFailed as error:
            log.warning("plan of the leader before not finished", gang=key, problem=str(error))
            return
    bound = {uid for uid, pod in one.pods.items() if pod.node}
    await writer.take_back(one.plan, [pod for pod in one.plan.pods if pod.uid not in bound])
    log.info("plan of the leader before undone", gang=key)


async def _touch(api: client.Client, one: Found, epoch: int) -> None:
    """Change every claim that is not allocated, so that writes by who read it before are refused."""
    for planned in one.unallocated:
        if planned.uid in one.claims:
            change = {"metadata": {"uid": planned.uid, "annotations": {TERM: str(epoch)}}}
            path = paths.of(paths.RESOURCE, "resourceclaims", one.plan.identity.namespace, planned.name)
            try:
                await api.patch(path, change)
            except errors.ApiError as error:
                if not (error.missing or error.conflict):
                    raise


async def _read(api: client.Client, space: str) -> tuple[list[Any], list[Any]]:
    found, _ = await api.list(paths.of("v1", "pods", space))
    claimed, _ = await api.list(paths.of(paths.RESOURCE, "resourceclaims", space))
    return found, claimed


def _found(one: plans.Plan, items: Iterable[Any], claimed: Iterable[Any]) -> Found:
    uids = {pod.uid for pod in one.pods}
    own = {claim.uid for pod in one.pods for claim in pod.claims}
    read = (pods.read(item) for item in items if item["metadata"]["uid"] in uids)
    have = (claims.read(item) for item in claimed if item["metadata"]["uid"] in own)
    return Found(
        one,
        {pod.uid: pod for pod in read if not pod.deleting and not pod.finished},
        {claim.uid: claim for claim in have},
    )
