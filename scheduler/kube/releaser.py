"""Lets pods go: pins each to its node and takes our gate off, in one request where the mirror has the pod as it is."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from scheduler import faultpoint
from scheduler.apiserver import client, errors, paths
from scheduler.kube import mirror, pens, pin, plan
from scheduler.kube import pod as pods

Item = dict[str, Any]

Seen = Callable[[mirror.Key], pods.Pod | None]
"""Finds a pod in the mirror, by namespace and name."""


def nothing(_: mirror.Key) -> None:
    """Find no pod: there is no mirror."""


@dataclass(frozen=True, slots=True)
class Releaser:
    """Writes the pods of one leader."""

    pen: pens.Pen
    seen: Seen = nothing

    async def release_all(self, whole: plan.Plan, planned: Iterable[plan.PlannedPod]) -> None:
        """Let pods go; one that can't be let go does not hold the others back.

        Raises
        ------
        ApiError, Refused, Fenced
            The first, when all have ended.
        """
        await self.pen.all(self._release(whole, pod) for pod in planned)

    async def let_go(self, pod: pods.Pod) -> None:
        """Take our gate off a pod and change nothing else of it."""

        def change(item: Item) -> bool:
            found = pin.gated(item)
            pin.ungate(item)
            return found

        try:
            if await self._change(paths.of("v1", "pods", pod.namespace, pod.name), pod.uid, change):
                faultpoint.reach("gate-dropped")
        except pens.Refused:
            return
        except errors.ApiError as error:
            if not error.missing:
                raise

    async def any_let_go(self, whole: plan.Plan) -> bool:
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

    async def _release(self, whole: plan.Plan, planned: plan.PlannedPod) -> None:
        path = paths.of("v1", "pods", whole.identity.namespace, planned.name)

        def change(pod: Item) -> bool:
            if pod["spec"].get("nodeName"):
                return False
            pin.release(pod, whole.identity.name, planned)
            return True

        if await self._patched(path, whole, planned) or await self._change(path, planned.uid, change):
            faultpoint.reach("pod-released")

    async def _patched(self, path: str, whole: plan.Plan, planned: plan.PlannedPod) -> bool:
        """Let a pod go that is as the mirror has it; tell whether it was."""
        pod = self.seen((whole.identity.namespace, planned.name))
        change = pin.patch(pod, whole.identity.name, planned) if pod is not None and pod.uid == planned.uid else None
        if change is None:
            return False
        try:
            await self.pen.patch(path, change, client.MERGE)
        except errors.ApiError as error:
            if error.conflict:
                return False
            raise
        return True

    async def _change(self, path: str, uid: str, change: Callable[[Item], bool]) -> bool:
        """Read, change and replace a pod until nobody was in between; tell whether anything was written."""
        for _ in range(pens.TRIES):
            pod = await self.pen.get(path)
            self.pen.same(path, pod, uid)
            if not change(pod):
                return False
            try:
                await self.pen.replace(path, pod)
            except errors.ApiError as error:
                if error.conflict:
                    continue
                raise
            return True
        raise pens.Refused(f"{path.rpartition('namespaces/')[2]} changed under every try")
