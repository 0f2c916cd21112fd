"""Makes the pods of a gang go: the reason in a condition first, as kube-scheduler does, then the deletion."""

import asyncio
import datetime
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp
import structlog

from scheduler.apiserver import client, errors, paths
from scheduler.kube import pod as pods

TRIES = 5
FIRST_WAIT_S = 0.2

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Evictor:
    """Deletes pods.

    A Job with a pod failure policy does not count pods that carry the condition ``DisruptionTarget``.
    """

    api: client.Client

    async def evict(self, members: Iterable[pods.Pod], reason: str) -> None:
        """Delete pods, all at the same time; those that are gone or others by now are left alone."""
        await asyncio.gather(*(self._evict(pod, reason) for pod in members))

    async def _evict(self, pod: pods.Pod, reason: str) -> None:
        for turn in range(TRIES):
            try:
                await self._condition(pod, reason)
                await self.api.delete(_path(pod), uid=pod.uid)
                return
            except errors.ApiError as error:
                if error.missing or error.status == 409:
                    return
                problem: Exception = error
            except (TimeoutError, OSError, aiohttp.ClientError) as error:
                problem = error
            await asyncio.sleep(FIRST_WAIT_S * 2**turn)
        log.error("pod not evicted", pod=pod.key, problem=str(problem))

    async def _condition(self, pod: pods.Pod, reason: str) -> None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": reason,
            "message": "Muster: the gang of this pod has to leave its devices",
            "lastTransitionTime": now,
        }
        change = {"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}}
        await self.api.patch(f"{_path(pod)}/status", change, client.STRATEGIC)


def _path(pod: pods.Pod) -> str:
    return paths.of("v1", "pods", pod.namespace, pod.name)
