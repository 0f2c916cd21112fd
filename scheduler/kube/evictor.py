"""Makes the pods of a gang go: each is marked first, as kube-scheduler does it, and none is deleted before all are.

The mark, a condition with the reason, is what a successor finds of an eviction that was not finished: whoever leads
deletes the rest of a gang of which a pod bears one (ADR 0008).
"""

import asyncio
import datetime
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from scheduler import faultpoint
from scheduler.apiserver import client, errors, paths
from scheduler.kube import names, pens
from scheduler.kube import pod as pods

AGAIN_S = (0.2, 30.0)
"""Wait before an eviction that failed is gone on with: at first, and at most."""

WHOLE = f"{names.EVICTED_BY}the gang of this pod has to leave its devices"
"""A pod with this mark takes its gang along, also where another leader goes on."""

ALONE = "the node of this pod left the cluster; Muster keeps its gang going"
"""Takes the pod alone."""

FAILED = (errors.ApiError, *pens.UNANSWERED)

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Evictor:
    """Deletes the pods of one leader's gangs.

    A Job with a pod failure policy does not count pods that carry the condition ``DisruptionTarget``.
    """

    pen: pens.Pen
    _going: set[str] = field(default_factory=set)

    async def evict(self, members: Iterable[pods.Pod], reason: str, why: str = WHOLE) -> None:
        """Mark pods, then delete them; those that are gone, others by now, or on their way already are left alone.

        Nothing but the end of the term ends it before all are gone: half a gang must not stay.

        Raises
        ------
        Fenced
        """
        fresh = [pod for pod in members if pod.uid not in self._going]
        if not fresh:
            return
        uids = {pod.uid for pod in fresh}
        log.info("evicting", pods=len(fresh), first=fresh[0].key, because=reason)
        self._going |= uids
        try:
            await self._until_done(fresh, reason, why)
        finally:
            self._going -= uids

    async def _until_done(self, members: list[pods.Pod], reason: str, why: str) -> None:
        wait, longest = AGAIN_S
        while True:
            try:
                await self.pen.all(self._mark(pod, reason, why) for pod in members if not pod.evicted)
                await self.pen.all(self._delete(pod) for pod in members)
                return
            except FAILED as error:
                problem = f"{type(error).__name__}: {error}"
                log.error("pods not evicted yet", pods=len(members), first=members[0].key, problem=problem)
            await asyncio.sleep(wait)
            wait = min(2 * wait, longest)

    async def _mark(self, pod: pods.Pod, reason: str, why: str) -> None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {
            "type": names.DISRUPTED,
            "status": "True",
            "reason": reason,
            "message": why,
            "lastTransitionTime": now,
        }
        change = {"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}}
        try:
            await self.pen.patch(f"{_path(pod)}/status", change, client.STRATEGIC)
        except errors.ApiError as error:
            if not await self._gone(pod, error):
                raise
            return
        faultpoint.reach("pod-marked")

    async def _delete(self, pod: pods.Pod) -> None:
        try:
            await self.pen.delete(_path(pod), uid=pod.uid)
        except errors.ApiError as error:
            if not await self._gone(pod, error):
                raise
            return
        faultpoint.reach("pod-deleted")

    async def _gone(self, pod: pods.Pod, error: errors.ApiError) -> bool:
        """Tell whether a refusal means that the pod is gone, or another by now; some say so of a conflict too."""
        if error.missing:
            return True
        if error.status not in (409, 422):
            return False
        try:
            found = await self.pen.get(_path(pod))
        except errors.ApiError as second:
            if second.missing:
                return True
            raise
        return bool(found["metadata"]["uid"] != pod.uid)


def _path(pod: pods.Pod) -> str:
    return paths.of("v1", "pods", pod.namespace, pod.name)
