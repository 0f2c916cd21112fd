"""Drives the machine with what happens in the cluster, and has its effects carried out.

One loop, one turn at a time: everything that changed since the last turn becomes events, in a fixed order (what writes
came to, the fleet, strangers, gangs, time), and each event's effects are handed to the carrier before the next event.
The loop decides nothing: which gang starts where is the machine's, what a gang is `gangs.recognize`'s.
"""

import asyncio
import math
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field

import structlog

from scheduler.gang import effects, events
from scheduler.gang import machine as machines
from scheduler.kube import carrier as carriers
from scheduler.kube import fleet, kueue_answer, names, sighting, words, workload, world
from scheduler.kube import followed as following
from scheduler.kube import occupants as occupying
from scheduler.kube import offers as offering
from scheduler.kube import verifier as verifiers
from scheduler.kube.gangs import identity as identities
from scheduler.model import gang as gangs
from scheduler.model import reasons
from scheduler.placement import placement, policy
from scheduler.placement import target as targets
from scheduler.record import journal as journals
from scheduler.snapshot import topology

REST_S = 0.01
"""Changes that come so close together are one turn."""

RETRY_S = 2.0
"""Gangs that could not grow or be written ask again after this."""

PATIENCE_S = 30.0
"""A gang that has not all its pods after so long is told of: its size may be mistyped, or a pod of it refused."""

RESPAWN_S = 120.0
"""Devices of an evicted gang are kept so long for the pods that its owner makes anew."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Settings:
    """What stays the same while this scheduler leads.

    Attributes
    ----------
    bind_s : float
        Seconds in which kube-scheduler has to bind the pods that were let go.
    """

    policy: policy.ScoringPolicy
    target: targets.TargetWorkload | None = None
    owned: bool = True
    bind_s: float = 300.0


@dataclass(slots=True, eq=False)
class Shell:
    """The loop of a scheduler that leads.

    Parameters
    ----------
    make : callable
        Makes the machine from the first compiled fleet, or a journal around it.
    leads : bool
        False for a replica that stands by: everything is a stranger's to it, and it plans nothing.

    Attributes
    ----------
    followed : dict of key to Followed
        Gangs that exist or hold something.
    members : dict of pod UID to gang key
        Pods with a plan, written or being written.
    """

    known: world.World
    sight: sighting.Sight
    settings: Settings
    make: Callable[[fleet.Compiled], journals.Journal | machines.Machine]
    carrier: carriers.Carrier
    leads: bool = True
    clock: Callable[[], float] = time.monotonic
    followed: dict[str, following.Followed] = field(default_factory=dict)
    occupants: occupying.Occupants = field(default_factory=occupying.Occupants)
    compiled: fleet.Compiled = field(init=False)
    journal: journals.Journal | machines.Machine = field(init=False)
    verifier: verifiers.Verifier = field(init=False)
    offers: offering.Offers = field(default_factory=offering.Offers)
    turns: int = 0
    _stages: dict[str, set[str]] = field(default_factory=dict)
    _later: dict[str, float] = field(default_factory=dict)
    _short: set[str] = field(default_factory=set)
    _hidden: set[str] = field(default_factory=set)
    _asks: list[tuple[workload.Workload | None, str]] = field(default_factory=list)
    _refused: dict[str, kueue_answer.Answer] = field(default_factory=dict)
    _freed: bool = False

    def __post_init__(self) -> None:
        tell = self.carrier.recorder.tell if self.leads else verifiers.silent
        self.verifier = verifiers.Verifier(self.known, tell, self.settings.owned)

    @property
    def machine(self) -> machines.Machine:
        """Return the machine; only the shell feeds it."""
        return self.journal.machine if isinstance(self.journal, journals.Journal) else self.journal

    def begin(self) -> None:
        """Make the machine and tell it what is there: gangs that run first, then strangers, then who waits."""
        self.compiled = self.known.live.compile(self.settings.policy, self.settings.target)
        self.known.fleet_changed = False
        self.journal = self.make(self.compiled)
        now = self.clock()
        self._close(self.compiled.closed, {}, now)
        for identity in list(self.known.gangs.dirty.values()) if self.leads else ():
            for found in self.sight.see(identity, self.compiled):
                if not found.evicted:
                    self._adopt(found, now)
        self._strangers(now)
        self.verifier.taints()
        self.turn()

    async def run(self) -> None:
        """Take turns until cancelled."""
        try:
            while True:
                await self._sleep()
                self.turn()
        finally:
            await self.carrier.close()
            if isinstance(self.journal, journals.Journal):
                self.journal.close()

    def turn(self) -> None:
        """Tell the machine everything that changed."""
        now, began = self.clock(), time.perf_counter()
        self.turns += 1
        self.known.wake.clear()
        self._done(now)
        if self.known.fleet_changed:
            self._fleet(now)
        self._strangers(now)
        for event in self.verifier.devices(self.occupants):
            self._tell(event, now)
        if self.leads:
            self._reservations(now)
            self._gangs(now)
        if self.machine.next_tick() <= now:
            self._tell(events.Tick(), now)
        if self.leads:
            self._answers(now)
            self._offers(now)
        if self._freed:
            self._freed = False
            self._later.update(dict.fromkeys(self._short, now))
        self.carrier.observer.turned(time.perf_counter() - began)

    def reserve(self, found: workload.Workload, reserver: str) -> None:
        """Ask for devices for a gang whose pods do not exist yet; the carrier is told what came of it."""
        self._asks.append((found, reserver))
        self.known.wake.set()

    def cancel(self, reserver: str) -> None:
        """Give a reservation back, unless its pods have come."""
        self._asks.append((None, reserver))
        self.known.wake.set()

    # What changed.

    async def _sleep(self) -> None:
        """Wait for a change, or for the next thing that is due."""
        offers = self.offers.due(self.machine) if self.leads else math.inf
        due = min([self.machine.next_tick(), offers, *self._later.values()], default=math.inf)
        timeout = None if due == math.inf else max(0.0, due - self.clock())
        try:
            async with asyncio.timeout(timeout):
                await self.known.wake.wait()
        except TimeoutError:
            return
        await asyncio.sleep(REST_S)

    def _offers(self, now: float) -> None:
        """Tell a waiting gang what would let it start."""
        for key, found in self.offers.turn(self.machine, now):
            gang, refused = self.followed.get(key), self.machine.why(key)
            if gang is not None and refused is not None and found is not None:
                self.carrier.say_offered(gang, refused, found)
            elif gang is not None and refused is not None:
                self.carrier.say_waiting(gang, refused, words.closed(self.compiled))

    def _done(self, now: float) -> None:
        """Hear what became of writes."""
        for one in self.carrier.take_done():
            gang = self.followed.get(one.key)
            if gang is None or gang.plan is not one.written:
                continue
            if one.problem:
                self._write_failed(gang, one, now)
            else:
                gang.state, gang.failures, gang.let_go_at = following.State.RUNNING, 0, now
                self.carrier.released(gang)
            self._recall(gang)

    def _write_failed(self, gang: following.Followed, one: carriers.Done, now: float) -> None:
        """Have the machine place the gang again; pods that run already keep what they have."""
        gang.failures += 1
        before = gang.plan
        gang.plan = one.stands
        if before is not None:
            self._look_again(before.identity.namespace, before.pods)
        if one.stands is None:
            gang.state, gang.placement = following.State.WAITING, None
            self._tell(events.BindFailed(gang.key, one.problem), now)
        else:
            gang.state = following.State.WRITING if one.stands is one.written else following.State.RUNNING
            self._later[gang.key] = now + min(64.0, RETRY_S * 2**gang.failures)
        self.carrier.say_failed(gang, one.problem)

    def _fleet(self, now: float) -> None:
        """Compile what changed and tell the machine the difference."""
        self.known.fleet_changed = False
        before, self.compiled = self.compiled, self.known.live.compile(self.settings.policy, self.settings.target)
        if self.compiled.scoring is not before.scoring:
            self._tell(events.TopologyChanged(self.compiled.scoring), now)
            self._reopen()
            self._recount(_changed(before.topology, self.compiled.topology))
            self.verifier.recount()
        self._close(self.compiled.closed, before.closed, now)
        tainted = [(node, name) for node, name, _ in self.compiled.tainted]
        for event in list(self.occupants.taints(tainted, self.known.live)):
            self._tell(event, now)
        self.verifier.taints()

    def _recount(self, nodes: Container[str]) -> None:
        """Look at the claims on some nodes again: these may be in the fleet only now, or with other devices."""
        for key, claim in self.known.store["claims"].items():
            if any(row.pool in nodes for row in claim.rows or ()):
                self.known.moved_claims.setdefault(key, claim)

    def _close(self, closed: Iterable[str], before: Iterable[str], now: float) -> None:
        """Tell on which nodes nothing new can start."""
        shut, was = set(closed), set(before)
        for node in sorted(was - shut):
            self._tell(events.NodeUncordoned(node), now)
        for node in sorted(shut - was):
            self._tell(events.NodeCordoned(node), now)

    def _strangers(self, now: float) -> None:
        """Tell what pods and claims hold that are of no gang that the machine holds."""
        moved, self.known.moved_pods = self.known.moved_pods, {}
        claims, self.known.moved_claims = self.known.moved_claims, {}
        planned = self.carrier.members
        for key, pod in moved.items():
            ours = pod.uid in planned or self.known.pod(key) is None
            for event in self.occupants.pod(pod, ours):
                self._tell(event, now)
        for key, claim in claims.items():
            ours = claim.uid in planned or self.known.store["claims"].get(key) is None
            for event in self.occupants.claim(claim, ours, self.known.live):
                self._tell(event, now)

    def _reservations(self, now: float) -> None:
        """Take wishes for gangs without pods, and their ends."""
        asks, self._asks = self._asks, []  # in their order: Kueue takes a question back and asks it anew at once
        for found, reserver in asks:
            if found is not None:
                self._ask(found, reserver, now)
                continue
            for gang in [one for one in self.followed.values() if one.reserver == reserver]:
                self._withdraw(gang, now)

    def _ask(self, found: workload.Workload, reserver: str, now: float) -> None:
        """Ask for devices for a gang without pods."""
        gang = self._follow(found)
        gang.reserver = reserver
        refused = self.machine.why(gang.key)
        if gang.placement is not None:
            self.carrier.reserved(gang)
        elif refused is not None:
            self._refused[gang.key] = kueue_answer.Wait(str(refused))
        elif not self.machine.knows(gang.key) and found.gang is not None:
            gang.see(found)
            self._tell(events.GangSubmitted(found.gang), now)

    def _answers(self, now: float) -> None:
        """Tell Kueue which gangs found no room, and forget them: they have no quota any more when Kueue knows.

        At the end of a turn, since what had no room at first may have been given some.
        """
        refused, self._refused = self._refused, {}
        for key, answer in refused.items():
            gang = self.followed.get(key)
            if gang is not None and gang.reserver and key not in self.machine.held:
                self.carrier.answer(gang.reserver, answer)
                self._withdraw(gang, now, told=True)
        if self._refused:  # what was given back started some, and was too little for others
            self.known.wake.set()

    def _withdraw(self, gang: following.Followed, now: float, told: bool = False) -> None:
        """Keep nothing for a gang without pods any more; one with pods is looked at as any other.

        Parameters
        ----------
        told : bool
            Its record, which says why there is no room, stays for people to read.
        """
        gang.reserver = ""
        if gang.plan is not None or any(not member.pod.gone for member in gang.workload.members):
            if gang.plan is None and not gang.workload.complete and self.machine.knows(gang.key):
                gang.placement, gang.state = None, following.State.NEW
                self._tell(events.GangCancelled(gang.key), now)
            self._recall(gang)
            return
        self._end(gang, now, recorded=told)

    def _gangs(self, now: float) -> None:
        """Look at the gangs that something happened to."""
        for key in [key for key, due in self._later.items() if due <= now]:
            del self._later[key]
            if key in self.followed:
                self._recall(self.followed[key])
        dirty, self.known.gangs.dirty = self.known.gangs.dirty, {}
        for identity in dirty.values():
            for stray in self.sight.strays(identity):
                self.carrier.let_go(stray)
            self._stages_of(identity, list(self.sight.see(identity, self.compiled)), now)

    def _stages_of(self, identity: workload.Identity, seen: list[workload.Workload], now: float) -> None:
        """Look at the stages of a gang; one that is not told of any more has ended, unless nothing could be told."""
        for found in seen:
            self._gang(found, now)
        told = {found.identity.key for found in seen}
        unclear = any(found.gang is None and found.members for found in seen)
        for key in sorted(self._stages.get(identity.key, set()) - told) if not unclear else ():
            self._vanished(self.followed[key], now)

    def _follow(self, found: workload.Workload) -> following.Followed:
        """Return a gang as it is followed, from now on if it was not."""
        key = found.identity.key
        if key not in self.followed:
            self.followed[key] = following.Followed(found, lone=bool(found.members) and found.lone)
            self._stages.setdefault(identities.base(found.identity).key, set()).add(key)
            self.carrier.observer.met(self.followed[key])
        return self.followed[key]

    def _recall(self, gang: following.Followed) -> None:
        """Have a gang looked at in the next turn, with all its stages."""
        first = identities.base(gang.workload.identity)
        self.known.gangs.dirty.setdefault(first.key, first)

    def _gang(self, found: workload.Workload, now: float) -> None:
        """Compare what a gang is with what the machine knows of it."""
        key = found.identity.key
        alive = [member for member in found.members if not member.pod.gone]
        gang = self.followed.get(key)
        if gang is None:
            if not alive:
                return
            gang = self._follow(found)
        gang.see(found)
        if gang.invalid and not found.problem:
            gang.invalid, gang.state = False, following.State.NEW
        if found.complete:
            gang.short_since = None
        if found.complete and alive and gang.plan is None:
            self.carrier.observer.completed(gang)
        if found.evicted:
            self.carrier.go_on_evicting(found)  # ours, or begun by a leader before
        if not alive:
            self._vanished(gang, now)
        elif found.problem:
            self._refuse(gang, found.problem, now)
        elif not found.complete or found.gang is None:
            self._incomplete(gang, now)
        elif key in self.machine.held:
            self._compare(gang, found.gang, now)
            self._unbound(gang, now)
        elif self.machine.knows(key):
            self._tell(events.GangChanged(found.gang), now)
            self._complete_again(gang)
        elif found.evicted or self._adopt(found, now) or self.sight.left_alone(found):
            pass  # it is about to go, has its devices, or gets them from kube-scheduler
        elif hidden := self.sight.hidden(found, self.compiled):
            self._wait_for(gang, hidden)
        elif gang.state is not following.State.REJECTED:
            gang.complete_at = gang.complete_at or time.time()
            self._tell(events.GangSubmitted(found.gang), now)

    def _incomplete(self, gang: following.Followed, now: float) -> None:
        """A gang has not all its pods and claims: told where it had them, or has been without for long."""
        gang.lacks = gang.complete_at is not None and gang.plan is None and self.machine.knows(gang.key)
        gang.short_since = now if gang.short_since is None else gang.short_since
        overdue = gang.plan is None and now >= gang.short_since + PATIENCE_S
        if gang.plan is None and not overdue:
            self._later.setdefault(gang.key, gang.short_since + PATIENCE_S)
        (self.carrier.say_lacks if gang.lacks or overdue else self.carrier.say_incomplete)(gang)

    def _complete_again(self, gang: following.Followed) -> None:
        """Say why a gang waits that waited for pods or claims until now."""
        refused = self.machine.why(gang.key) if gang.lacks else None
        gang.lacks = False
        if refused is not None:
            self.carrier.say_waiting(gang, refused, words.closed(self.compiled))

    def _compare(self, gang: following.Followed, now_is: gangs.Gang, now: float) -> None:
        """Write what is not written yet, and exchange what has changed."""
        if not gang.settled:
            return  # looked at again when the writing is done
        held = self.machine.held[gang.key]
        (self._short.discard if gang.plan is None or held.gang == now_is else self._short.add)(gang.key)
        if gang.plan is None:
            if held.gang != now_is:
                self._tell(events.GangChanged(now_is), now)
            elif gang.placement is not None and self.sight.writable(gang):
                self._write(gang, gang.placement, now)
            return
        uids = tuple(member.pod.uid for member in gang.workload.members)
        ranks = {uid: rank for rank, uid in enumerate(gang.seats)}
        self._tell(events.GangChanged(now_is, tuple(ranks.get(uid, -1) for uid in uids)), now)
        if gang.key in self.machine.held and self.machine.held[gang.key].decision != held.decision:
            gang.seats = uids
        if (
            gang.state is following.State.WRITING
            and gang.settled
            and gang.plan is not None
            and not self._due(gang, now)
        ):
            self.carrier.go_on(gang, gang.plan)

    def _unbound(self, gang: following.Followed, now: float) -> None:
        """Give up pods that were let go and that kube-scheduler has not bound in time: they are made anew, or told of.

        A gang of which enough runs loses those pods alone, and gets others in their place.
        """
        if gang.let_go_at is None or gang.state is not following.State.RUNNING or not gang.settled or gang.plan is None:
            return
        released = {pod.uid for pod in gang.plan.pods}
        waiting = [one.pod for one in gang.workload.members if one.pod.uid in released and not one.pod.node]
        late = gang.let_go_at + self.settings.bind_s
        if not waiting or now < late:
            gang.let_go_at = gang.let_go_at if waiting else None
            if waiting:
                self._later[gang.key] = min(self._later.get(gang.key, late), late)
            return
        found = gang.workload.gang
        problem = words.unbound(waiting, self.settings.bind_s)
        gang.let_go_at = None
        if found is None or not found.movable:
            self.carrier.say_unbound(gang, problem)
        elif len(gang.workload.members) - len(waiting) >= found.minimum:
            self.carrier.give_up(gang, waiting, problem)
        else:
            gang.evicted_at, gang.placement, gang.state = now, None, following.State.WAITING
            self._forget_plan(gang)
            self._tell(events.BindFailed(gang.key, problem), now)
            self.carrier.give_up(gang, [one.pod for one in gang.workload.members if not one.pod.gone], problem)

    def _due(self, gang: following.Followed, now: float) -> bool:
        """Return whether a gang is to be looked at later."""
        return self._later.get(gang.key, now) > now

    def _vanished(self, gang: following.Followed, now: float) -> None:
        """All pods of a gang are gone: it ends, unless they are about to come (again)."""
        if gang.reserver and gang.plan is None:
            return
        respawn = gang.evicted_at is not None and now < gang.evicted_at + RESPAWN_S
        left = self.known.gangs.members(identities.base(gang.workload.identity).key)
        if respawn and gang.plan is None and (left or gang.placement is not None):
            self._later[gang.key] = gang.evicted_at + RESPAWN_S if gang.evicted_at is not None else now
            return
        self._end(gang, now)

    def _end(self, gang: following.Followed, now: float, recorded: bool = False) -> None:
        """Forget a gang, and its record unless that is to stay; what it still holds in the API is a stranger's until let go."""
        self.followed.pop(gang.key, None)
        self.carrier.observer.ended(gang.key)
        first = identities.base(gang.workload.identity).key
        self._stages[first].discard(gang.key)
        if not self._stages[first]:
            del self._stages[first]
        self._later.pop(gang.key, None)
        self._short.discard(gang.key)
        self._hidden.discard(gang.key)
        self._forget_plan(gang)
        self._strangers(now)
        self._freed = True
        self._tell(events.GangFinished(gang.key), now)
        if not recorded:
            self.carrier.finished(gang)

    def _forget_plan(self, gang: following.Followed) -> None:
        plan, gang.plan = gang.plan, None
        if plan is not None:
            self.carrier.forget(plan)
            self._look_again(plan.identity.namespace, plan.pods)

    def _look_again(self, namespace: str, planned: Iterable[carriers.PlannedPod]) -> None:
        """Have pods and their claims counted as what they now are."""
        for one in planned:
            for key, pod in self.carrier.seen_pods(namespace, one):
                self.known.moved_pods.setdefault(key, pod)
            for key, claim in self.carrier.seen_claims(namespace, one):
                self.known.moved_claims.setdefault(key, claim)

    def _refuse(self, gang: following.Followed, problem: str, now: float) -> None:
        """A gang contradicts itself: it does not wait any more."""
        if self.machine.knows(gang.key) and gang.key not in self.machine.held:
            self._tell(events.GangCancelled(gang.key), now)
        if gang.key not in self.machine.held:
            gang.invalid, gang.state = True, following.State.REJECTED
        self.carrier.say_problem(gang, problem)
        if gang.reserver:
            self._refused[gang.key] = kueue_answer.Reject(problem)

    def _reopen(self) -> None:
        """The fleet is another: what could never run may now, and what was hidden may be seen."""
        hidden, self._hidden = self._hidden, set()
        for gang in self.followed.values():
            if gang.state is following.State.REJECTED:
                gang.state = following.State.NEW
                self._recall(gang)
            elif gang.key in hidden:
                self._recall(gang)

    def _adopt(self, found: workload.Workload, now: float) -> bool:
        """Take over a gang whose claims are allocated already, or what runs of one; tell whether it was one."""
        now_is = found
        grants = self.sight.grants(found, self.compiled)
        if grants is None:
            if self.sight.hidden(found, self.compiled):
                return False
            found = self.sight.remaining(found, self.compiled) or found
            grants = self.sight.grants(found, self.compiled)
        if grants is None or found.gang is None:
            return False
        gang = self._follow(found)
        gang.see(found)
        gang.state, gang.let_go_at = following.State.RUNNING, now
        gang.plan = self.sight.standing(found, self.compiled)
        gang.seats = tuple(member.pod.uid for member in found.members)
        self.carrier.remember(gang.plan, gang.key)
        holders = tuple(name for pod in gang.plan.pods for name in self._vacated(found.identity.namespace, pod))
        crippled = any(self.sight.unplugged(member.pod, self.compiled) for member in now_is.members)
        self._tell(events.Adopted(found.gang, grants, holders=holders, crippled=crippled), now)
        if gang.key in self.machine.held:
            gang.placement = self.machine.held[gang.key].placement
            self.carrier.adopted(gang)
        if self.leads and any(names.GATE in member.pod.gates for member in found.members):
            gang.state = following.State.WRITING
            self._later[gang.key] = now  # allocated, but never let go, and without a record that `recover` would see
        if found is not now_is:
            gang.see(now_is)
            self._later[gang.key] = now  # the pods that have nothing yet are asked for in the next turn
        elif any(not member.pod.node for member in found.members):
            self._later.setdefault(gang.key, now)  # from then on it is watched whether they are bound
        return True

    def _wait_for(self, gang: following.Followed, hidden: str) -> None:
        """Leave a gang alone of which a pod runs on devices that are not published now; it is adopted when they are."""
        if gang.key not in self._hidden:
            log.warning("a gang is not adopted yet: devices of it are not published", gang=gang.key, node=hidden)
        self._hidden.add(gang.key)

    def _vacated(self, namespace: str, planned: carriers.PlannedPod) -> Iterator[str]:
        """Yield the names under which a pod and its claims were counted as strangers: what they hold is the gang's now."""
        gone = [
            event
            for _, pod in self.carrier.seen_pods(namespace, planned)
            for event in self.occupants.pod(pod, ours=True)
        ]
        for _, claim in self.carrier.seen_claims(namespace, planned):
            gone += self.occupants.claim(claim, True, self.known.live)
        yield from (event.holder for event in gone if isinstance(event, events.Vacated))

    # What follows.

    def _tell(self, event: events.Event, now: float) -> None:
        """Let the machine decide, and have its effects carried out."""
        self._freed |= isinstance(event, events.Vacated | events.NodeUncordoned | events.TopologyChanged)
        began = time.perf_counter()
        found = self.journal.handle(event, now)
        self.carrier.observer.decided(event, found, time.perf_counter() - began)
        for effect in found:
            gang = self.followed.get(effect.gang.name)
            if gang is not None:
                self._effect(gang, effect, now)

    def _effect(self, gang: following.Followed, effect: effects.Effect, now: float) -> None:
        match effect:
            case effects.Start(_, found, decision, because) | effects.Refill(_, found, _, decision, because):
                gang.placement, gang.decision, gang.because = found, decision, because
                self._started(gang, found, now)
                self._leave_behind(gang)
            case effects.Wait(_, rejection):
                self._waits(gang, rejection)
            case effects.Reject(_, rejection):
                gang.state = following.State.REJECTED
                self.carrier.say_rejected(gang, rejection)
                if gang.reserver:
                    self._refused[gang.key] = kueue_answer.Reject(str(rejection))
            case effects.Evict(_, _, reason):
                self._evicted(gang, reason, now)
            case effects.Expire():
                gang.placement, gang.state = None, following.State.WAITING
                if gang.reserver:
                    self._refused[gang.key] = kueue_answer.Wait("the pods did not come in time; the devices went back")
            case effects.Conflict(_, detail):
                self._forget_plan(gang)  # what it holds is a stranger's from the next turn on
                self.known.wake.set()
                self.carrier.say_conflict(gang, detail)

    def _started(self, gang: following.Followed, found: placement.Placement, now: float) -> None:
        """Write the plan when the pods are there; else keep the devices for them."""
        ready = gang.workload.complete and gang.workload.gang == found.gang and self.sight.writable(gang)
        if ready:
            self._write(gang, found, now)
        else:
            gang.state = following.State.RESERVED
            if gang.reserver:
                self.carrier.reserved(gang)
                self._tell(events.Bound(gang.key), now)  # kept until pods come or Kueue takes it back, not for a time

    def _leave_behind(self, gang: following.Followed) -> None:
        """Have the pods deleted whose nodes are gone, so that their owner makes them anew for the devices kept for them."""
        row = self.compiled.topology.row
        lost = {one.uid for one in (gang.plan.pods if gang.plan else ()) if one.node not in row}
        pods = [one.pod for one in gang.workload.members if not (one.pod.gone or one.pod.deleting)]
        gone = [pod for pod in pods if pod.uid in lost or self.sight.unplugged(pod, self.compiled)]
        if gone:
            self.carrier.replace(gang, gone)

    def _write(self, gang: following.Followed, found: placement.Placement, now: float) -> None:
        """Turn a placement into a plan and have it written."""
        try:
            others = (one.plan for one in self.followed.values() if one.plan is not None and one is not gang)
            plan = self.sight.planned(gang, found, self.compiled, others)
        except sighting.Unplannable as problem:
            self._tell(events.BindFailed(gang.key, str(problem)), now)
            gang.placement, gang.state = None, following.State.WAITING
            self.carrier.say_failed(gang, str(problem))
            return
        before, gang.plan = gang.plan, plan
        gang.seats = tuple(pod.uid for pod in plan.pods)
        if before is not None:
            self.carrier.forget(before)
        self.carrier.remember(plan, gang.key)
        if before is not None:
            kept = {pod.uid for pod in plan.pods}
            self._look_again(before.identity.namespace, [pod for pod in before.pods if pod.uid not in kept])
        gang.evicted_at = None
        if self.sight.unwritten(plan, before):
            gang.state = following.State.WRITING
            self.carrier.write(gang, plan, before)
        self._tell(events.Bound(gang.key), now)

    def _waits(self, gang: following.Followed, rejection: reasons.Rejection) -> None:
        if gang.plan is None:
            gang.state = following.State.WAITING
        closed = words.closed(self.compiled)
        self.carrier.say_waiting(gang, rejection, closed)
        if gang.reserver:
            self._refused[gang.key] = kueue_answer.Wait(f"{rejection}{closed}")

    def _evicted(self, gang: following.Followed, reason: effects.Eviction, now: float) -> None:
        """Have the pods deleted; the gang waits until its owner has made them anew."""
        gang.evicted_at, gang.placement, gang.state = now, None, following.State.WAITING
        self._forget_plan(gang)
        self.carrier.evict(gang, reason)

    def why(self, key: str) -> reasons.Rejection | None:
        """Return why a gang waits, as of now."""
        return self.machine.why(key)


def _changed(before: topology.Topology, after: topology.Topology) -> set[str]:
    """Return the nodes that came, went or are not the same."""
    had, has = ({one.name: one for one in fleet.nodes} for fleet in (before, after))
    return {name for name in had.keys() | has.keys() if had.get(name) is not has.get(name)}
