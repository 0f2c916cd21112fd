"""Carries out what the machine decided: plans are written by tasks, people are told, Kueue is answered.

Nothing here decides. Each method returns at once; what became of a write is fetched by the shell with `take_done`.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import structlog

from scheduler.apiserver import errors
from scheduler.gang import effects, room
from scheduler.kube import claim as claims
from scheduler.kube import (
    event,
    followed,
    free,
    gang_record,
    inference_pools,
    kueue_answer,
    mirror,
    names,
    pens,
    plan,
    words,
    workload,
    world,
)
from scheduler.kube import evictor as evictors
from scheduler.kube import observer as observers
from scheduler.kube import pod as pods
from scheduler.kube import recorder as recorders
from scheduler.kube import scribe as scribes
from scheduler.model import reasons

PlannedPod = plan.PlannedPod

PODS_TOLD = 8
"""Pods of a gang that get its Events; the others are told of by the owner."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a write.

    Attributes
    ----------
    problem : str
        "" for success.
    stands : Plan or None
        What still is written after a failure: the plan before, for a gang of which some pods ran already.
    """

    key: str
    written: plan.Plan
    problem: str = ""
    stands: plan.Plan | None = None


@dataclass(slots=True, eq=False)
class Carrier:
    """Tasks that write, and words that are said.

    Parameters
    ----------
    answer : callable
        Tells Kueue's admission check what came of a reservation, by UID of the Workload.
    came : callable
        Tells it that the pods of a Workload have come.

    Attributes
    ----------
    members : dict of UID to gang
        Pods and claims of all plans in force.
    members_node : dict of pod UID to node
    """

    known: world.World
    scribe: scribes.Scribe
    recorder: recorders.Recorder
    evictor: evictors.Evictor
    answer: Callable[[str, kueue_answer.Answer], None]
    came: Callable[[str], None] = lambda _: None
    observer: observers.Observer = field(default_factory=observers.Observer)
    members: dict[str, str] = field(default_factory=dict)
    members_node: dict[str, str] = field(default_factory=dict)
    _done: list[Done] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    # Plans.

    def remember(self, one: plan.Plan, key: str) -> None:
        """Count the pods and claims of a plan as the gang's."""
        for pod in one.pods:
            self.members[pod.uid] = key
            self.members_node[pod.uid] = pod.node
            for claim in pod.claims:
                self.members[claim.uid] = key

    def forget(self, one: plan.Plan) -> None:
        """Count them as nobody's."""
        for pod in one.pods:
            self.members.pop(pod.uid, None)
            self.members_node.pop(pod.uid, None)
            for claim in pod.claims:
                self.members.pop(claim.uid, None)

    def seen_pods(self, namespace: str, planned: PlannedPod) -> Iterator[tuple[mirror.Key, pods.Pod]]:
        """Yield the pod of a plan, if it still is the same one."""
        key = namespace, planned.name
        pod = self.known.pod(key)
        if pod is not None and pod.uid == planned.uid:
            yield key, pod

    def seen_claims(self, namespace: str, planned: PlannedPod) -> Iterator[tuple[mirror.Key, claims.Claim]]:
        """Yield the claims of a planned pod, those that still are the same."""
        for one in planned.claims:
            key = namespace, one.name
            claim = self.known.claim(*key)
            if claim is not None and claim.uid == one.uid:
                yield key, claim

    def write(self, gang: followed.Followed, new: plan.Plan, before: plan.Plan | None) -> None:
        """Have a plan written once nobody else has its devices."""
        if gang.reserver:
            self.came(gang.reserver)
            gang.reserver = ""
        self.observer.writing(gang, new)
        task = asyncio.create_task(self._write(gang, new, before), name=f"write {gang.key}")
        gang.task = task
        self._keep(task)

    def go_on(self, gang: followed.Followed, stands: plan.Plan) -> None:
        """Have the rest of a plan written, for the pods of it that still are there."""
        alive = {member.pod.uid for member in gang.workload.members if not member.pod.gone}
        pending = [pod for pod in stands.pods if pod.uid in alive]
        gang.task = asyncio.create_task(self._go_on(gang.key, stands, pending), name=f"go on with {gang.key}")
        self._keep(gang.task)

    def take_done(self) -> list[Done]:
        """Return what became of writes since the last call."""
        done, self._done = self._done, []
        return done

    def evict(self, gang: followed.Followed, reason: effects.Eviction) -> None:
        """Have the pods of a gang deleted."""
        members = [member.pod for member in gang.workload.members if not member.pod.gone]
        self._tell(gang, event.Reason.GANG_EVICTED, words.evicted(gang, reason))
        self._later(f"evict {gang.key}", self.evictor.evict(members, reason.value))

    def go_on_evicting(self, found: workload.Workload) -> None:
        """Have what is left of an evicted gang deleted; a pod that came anew, and has our gate yet, stays."""
        alive = [member.pod for member in found.members if not (member.pod.finished or member.pod.deleting)]
        left = [pod for pod in alive if pod.evicted or names.GATE not in pod.gates]
        if left:
            self._later(f"evict the rest of {found.identity.key}", self.evictor.evict(left, found.evicted))

    def replace(self, gang: followed.Followed, lost: Sequence[pods.Pod]) -> None:
        """Have some pods of a gang deleted whose nodes are gone; the others run on."""
        nodes = ", ".join(sorted({pod.node or "a node that is gone" for pod in lost}))
        text = f"{len(lost)} of {len(gang.workload.members)} pods are deleted: {nodes} left the cluster; {words.planned(gang)}"
        self._tell(gang, event.Reason.PODS_REPLACED, text)
        reason = effects.Eviction.NODE_REMOVED.value
        self._later(f"replace pods of {gang.key}", self.evictor.evict(lost, reason, evictors.ALONE))

    def give_up(self, gang: followed.Followed, members: list[pods.Pod], problem: str) -> None:
        """Have pods deleted that kube-scheduler does not bind."""
        self._say(gang, event.Reason.GANG_NOT_BOUND, "NotBound", f"{problem}; they are deleted, to be made anew")
        self._keep(asyncio.create_task(self.evictor.evict(members, "NotBound"), name=f"give up {gang.key}"))

    def let_go(self, pod: pods.Pod) -> None:
        """Take our gate off a pod that has nothing of ours."""
        self._later(f"let go {pod.key}", self.scribe.pods.let_go(pod))

    async def close(self) -> None:
        """Stop all writing; whoever leads next finishes or undoes it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _write(self, gang: followed.Followed, new: plan.Plan, before: plan.Plan | None) -> None:
        problem, stands = "", None
        try:
            with self.observer.stage(gang.key, "write"):
                with self.observer.stage(gang.key, "free"):
                    await free.wait(self.known, new)
                await self._start(gang, new, before)
        except scribes.StartFailed as error:
            problem, stands = str(error), error.stands
        except (TimeoutError, OSError, aiohttp.ClientError, errors.ApiError) as error:
            problem, stands = f"{type(error).__name__}: {error}", before
        self._done.append(Done(gang.key, new, problem, stands))
        self.known.wake.set()

    async def _start(self, gang: followed.Followed, new: plan.Plan, before: plan.Plan | None) -> None:
        if gang.recorded or not gang.lone or before is not None:
            gang.recorded = True
            await self.scribe.start(gang.workload, new, before)
            return
        claimed = [claim for pod in new.pods for _, claim in self.seen_claims(new.identity.namespace, pod)]
        if len(claimed) != sum(len(pod.claims) for pod in new.pods):
            raise scribes.StartFailed("its claim is gone")
        await self.scribe.start_lone(new, claimed[0] if claimed else None)

    async def _go_on(self, key: str, stands: plan.Plan, pending: list[PlannedPod]) -> None:
        problem: str = ""
        rest: plan.Plan | None = stands
        try:
            with self.observer.stage(key, "write"):
                await self.scribe.resume(stands, pending)
        except scribes.StartFailed as error:
            problem, rest = str(error), error.stands
        except scribes.FAILED as error:
            problem = f"{type(error).__name__}: {error}"
        self._done.append(Done(key, stands, problem, rest))
        self.known.wake.set()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._drop)

    def _drop(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a write ended in a defect", task=task.get_name(), exc_info=task.exception())
            raise task.exception()  # type: ignore[misc]

    # Words.

    def say_incomplete(self, gang: followed.Followed) -> None:
        """The gang has not all its pods or claims yet."""
        gang.said = ""

    def say_lacks(self, gang: followed.Followed) -> None:
        """The gang waits and has lost a pod or a claim."""
        self._say(gang, event.Reason.GANG_INCOMPLETE, "Incomplete", words.incomplete(gang))

    def say_waiting(self, gang: followed.Followed, rejection: reasons.Rejection, closed: str = "") -> None:
        """There is no room for the gang now."""
        self._say(gang, event.Reason.GANG_WAITING, rejection.reason.value, f"{rejection}{closed}")

    def say_offered(self, gang: followed.Followed, rejection: reasons.Rejection, found: room.Offer) -> None:
        """There is no room for the gang now, but others could make some."""
        text = f"{rejection}; {words.offered(found)}"
        self._say(gang, event.Reason.ROOM_OFFERED, rejection.reason.value, text, gang_record.offer(found))

    def say_rejected(self, gang: followed.Followed, rejection: reasons.Rejection) -> None:
        """There never will be room for the gang."""
        self._say(gang, event.Reason.GANG_REJECTED, rejection.reason.value, str(rejection))

    def say_problem(self, gang: followed.Followed, problem: str) -> None:
        """The gang contradicts itself."""
        self._say(gang, event.Reason.GANG_INVALID, "Invalid", problem)

    def say_failed(self, gang: followed.Followed, problem: str) -> None:
        """The plan could not be written."""
        self.observer.failed(gang, problem)
        self._say(gang, event.Reason.GANG_ROLLED_BACK, "RolledBack", problem)

    def say_unbound(self, gang: followed.Followed, problem: str) -> None:
        """Pods were let go and are not bound, and nobody would make them anew."""
        text = f"{problem}; nobody would make the pods anew, so they keep their devices: delete them to end that"
        self._say(gang, event.Reason.GANG_NOT_BOUND, "NotBound", text)
        if gang.recorded:
            told = gang_record.Phase.RUNNING, "NotBound", text
            self._later(f"say {gang.key}", self.scribe.records.remark(gang.workload.identity, *told))

    def say_conflict(self, gang: followed.Followed, detail: str) -> None:
        """Two hold the same device."""
        self._say(gang, event.Reason.DEVICE_CONFLICT, "DeviceConflict", detail)

    def reserved(self, gang: followed.Followed) -> None:
        """The gang has its devices before its pods exist."""
        found = gang.placement
        decision, domain = (found.gang.decision_id, f"{found.level} {found.domain}") if found else ("", "")
        start = kueue_answer.Start(gang.workload.identity.name, decision, words.planned(gang), domain)
        self.answer(gang.reserver, start)

    def released(self, gang: followed.Followed) -> None:
        """All pods of the gang were let go; of a gang that only became smaller nothing is told."""
        gang.said = ""
        self.observer.written(gang)
        before, gang.told = gang.told, frozenset(pod.uid for pod in gang.plan.pods) if gang.plan else frozenset()
        if not gang.told <= before:
            self._tell(gang, event.Reason.GANG_PLANNED, words.planned(gang))

    def adopted(self, gang: followed.Followed) -> None:
        """The gang was found running."""
        gang.said = ""

    def finished(self, gang: followed.Followed) -> None:
        """The gang is gone."""
        if gang.task is not None and not gang.task.done():
            gang.task.cancel()
        if gang.recorded or not gang.lone:
            self._later(f"finish {gang.key}", self.scribe.records.finish(gang.workload))

    def _say(
        self,
        gang: followed.Followed,
        reason: event.Reason,
        word: str,
        text: str,
        offered: gang_record.Item | None = None,
    ) -> None:
        """Tell people once: an Event, and the status of the GangPlacement where no plan is in force."""
        if gang.said == text:
            return
        gang.said = text
        self._tell(gang, reason, text)
        if gang.plan is None and not gang.lone:
            gang.recorded = True
            phase = gang_record.Phase.REJECTED if gang.state is followed.State.REJECTED else gang_record.Phase.WAITING
            self._later(f"say {gang.key}", self.scribe.records.say(gang.workload, phase, word, text, offered))

    def _tell(self, gang: followed.Followed, reason: event.Reason, text: str) -> None:
        """Write Events on the owner and on the first pods."""
        found = gang.workload
        own = {member.pod.uid for member in found.members}
        if found.owner.uid and found.owner.uid not in own:  # a lone pod is its own owner
            self.recorder.tell(event.Subject.owner(found.identity.namespace, found.owner), reason, text)
        for member in found.members[:PODS_TOLD]:
            self.recorder.tell(event.Subject.pod(member.pod), reason, text)
        for pool, pod in inference_pools.serving(self.known, [member.pod for member in found.members[:PODS_TOLD]]):
            self.recorder.tell(pool, reason, f"pod {pod.name}: {text}")

    def _later(self, name: str, job: Coroutine[Any, Any, None]) -> None:
        """Do something that nobody waits for; a failure is logged."""

        async def run() -> None:
            try:
                await job
            except (errors.ApiError, *pens.UNANSWERED, pens.Refused, pens.Fenced) as error:
                log.warning("not written", what=name, problem=f"{type(error).__name__}: {error}")

        self._keep(asyncio.create_task(run(), name=name))
