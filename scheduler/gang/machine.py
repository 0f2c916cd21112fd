"""The decision machine: events in, effects out, `now` passed in.

Everything that decides is behind `Machine.handle`. It reads no clock, writes nothing and owns all mutable state: the
snapshot, the queue, the gangs that hold devices and the tenants' ledger. The live scheduler and the simulator drive the
same object; races, lost acknowledgements and restarts are orders of events.
"""

import heapq
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from scheduler.gang import backfill, effects, events, holdings, news, quota, refill, room, strangers
from scheduler.gang import config as configs
from scheduler.gang import queue as queues
from scheduler.model import gang as gangs
from scheduler.model import reasons
from scheduler.placement import bandwidth, engine, placement, preempt
from scheduler.placement import scoring as scorings
from scheduler.snapshot import bulk, state

RETRY_S = 1.0
"""Rest of a gang whose binding failed, doubled with each failure up to `RETRY_MAX_S`, as kube-scheduler's back-off."""

RETRY_MAX_S = 64.0


@dataclass(slots=True, eq=False)
class Machine:
    """Decides who starts where, who waits, and who has to leave.

    Parameters
    ----------
    scoring : Scoring
        The policy, compiled for the fleet.
    config : QueueConfig
    tiers : Tiers
        Oversubscription of the network, for predicted bandwidth.

    Attributes
    ----------
    snapshot : Snapshot
        Readable by shells; only the machine changes it.
    decisions : int
        Starts so far.

    Notes
    -----
    Order. Gangs are looked at by priority, then submission. ``fifo`` stops at the first that does not fit; ``skip``
    goes on to whoever fits; ``easy`` goes on to those who do not delay the first. A gang that its tenant's quota holds
    back never holds others back. A pass over the queue follows every event that made room or added a gang; a shape
    that was refused is not asked again before room appears that could matter, which changes no decision.
    """

    scoring: scorings.Scoring
    config: configs.QueueConfig = configs.QueueConfig()
    tiers: bandwidth.Tiers = bandwidth.DEFAULT
    snapshot: state.Snapshot = field(init=False)
    queue: queues.Queue = field(default_factory=queues.Queue)
    held: holdings.Holdings = field(default_factory=holdings.Holdings)
    foreign: strangers.Strangers = field(default_factory=strangers.Strangers)
    ledger: quota.Ledger = field(init=False)
    decisions: int = 0
    _submissions: int = 0
    _down: dict[str, set[str]] = field(default_factory=dict)
    _failed_gpus: set[tuple[str, int]] = field(default_factory=set)
    _resting: dict[str, tuple[float, gangs.Gang, int]] = field(default_factory=dict)
    _failures: dict[str, int] = field(default_factory=dict)
    _out: list[effects.Effect] = field(default_factory=list)
    _queued: list[str] = field(default_factory=list)
    _because: str = ""
    _searches: int = 0
    _search_at: float = math.inf

    def __post_init__(self) -> None:
        self.snapshot = state.empty(self.scoring.topology)
        self.ledger = quota.Ledger({one.tenant: one for one in self.config.quotas})
        self.queue.by_tenant = bool(self.config.quotas)

    def handle(self, event: events.Event, now: float) -> list[effects.Effect]:
        """Take note of an event and decide what follows from it.

        Parameters
        ----------
        event : Event
        now : float
            Seconds; never falls from call to call.

        Returns
        -------
        list of Effect
            To be carried out in order. Duplicate and late events have none.
        """
        self._out, self._because, self._queued, self._searches = [], events.describe(event), [], 0
        freed = self._expire(now)
        freed |= self._note(event, now)
        if freed:
            self.queue.unblock(self.snapshot.free_gpus)
        if freed or self._queued:
            self._serve(now)
        for name in self._queued:
            self._say_why(name)
        return self._out

    def next_tick(self) -> float:
        """Return when a `Tick` is due at the latest: the next expiry, end of a rest or search; infinite for never."""
        resting = min((until for until, _, _ in self._resting.values()), default=math.inf)
        return min(resting, self.held.next_expiry(), self._search_at)

    def knows(self, name: str) -> bool:
        """Return whether a gang waits, rests or holds devices."""
        return name in self.held or name in self.queue.waiting or name in self._resting

    def why(self, name: str) -> reasons.Rejection | None:
        """Return why a gang waits, None when it does not wait."""
        entry = self.queue.waiting.get(name)
        if entry is None:
            return None
        refused = self.ledger.refusal(entry.gang) or self._refusal(entry)
        return replace(refused, gang=name) if refused else _behind(entry, self.queue.head())

    def offer(self, name: str, now: float) -> room.Offer | None:
        """Return what would let a waiting gang start, in the first way of `config.offers` that does; changes nothing."""
        entry = self.queue.waiting.get(name)
        if entry is None or self.ledger.refusal(entry.gang) is not None:
            return None
        before = now - self.config.move_after_s
        known = (entry.gang, self.snapshot, self.scoring, self.held, self.ledger, self.tiers, before)
        found = (room.offer(way, *known) for way in self.config.offers)
        return next((one for one in found if one is not None), None)

    def _refusal(self, entry: queues.Waiting) -> reasons.Rejection | None:
        """Return why the gang's shape is blocked; what is missing is counted again when anything has changed since.

        Whoever asks changes no decision: `refusal` and `blocked` of the shape stay as the last pass left them.
        """
        shape, version = entry.shape, self.snapshot.version
        if shape.refusal is None or shape.asked == version:
            return shape.refusal
        if shape.told[0] != version:
            answer = engine.place(self.snapshot, entry.gang, self.scoring, self.tiers)
            # Where it would fit by now, only its place in the queue holds it back.
            shape.told = version, None if isinstance(answer, placement.Placement) else answer
        return shape.told[1]

    def _block(self, shape: queues.Shape, refused: reasons.Rejection) -> None:
        """Remember why gangs of a shape do not fit."""
        shape.refusal, shape.asked, shape.blocked = refused, self.snapshot.version, True

    def check_invariants(self) -> None:
        """Recompute the state from the held gangs and compare.

        Raises
        ------
        InvariantError
            Occupancy, ledger or queue contradict what the gangs hold.
        """
        fresh = state.empty(self.scoring.topology)
        for one in self.held:
            if not one.gang.minimum <= len(one.placement.grants) <= one.gang.size:
                raise state.InvariantError(f"gang {one.gang.name} holds part of itself")
            for grant in one.placement.grants:
                fresh.hold(grant)
        self._take_down(fresh)
        for held in self.foreign.grants():
            fresh.hold(held)
        state.compare(self.snapshot, fresh)
        used: dict[str, int] = {}
        for one in self.held:
            used[one.gang.tenant] = used.get(one.gang.tenant, 0) + quota.gpu_milli(one.gang)
        if used != {tenant: milli for tenant, milli in self.ledger.used.items() if milli or tenant in used}:
            raise state.InvariantError(f"the ledger says {self.ledger.used}, the gangs hold {used}")
        if not self.queue.waiting.keys().isdisjoint(one.gang.name for one in self.held):
            raise state.InvariantError("a gang waits and holds devices at the same time")

    # What happened. Each handler returns whether room may have appeared.

    def _note(self, event: events.Event, now: float) -> bool:
        match event:
            case events.GangSubmitted(gang):
                return self._submit(gang, now)
            case events.GangFinished(name) | events.GangCancelled(name):
                return self._forget(name)
            case events.Bound(name):
                self.held.confirm(name)
                return False
            case events.BindFailed(name):
                return self._bind_failed(name, now)
            case events.Adopted(holders=holders):
                left = [self.foreign.drop(self.snapshot, holder) for holder in holders]
                return self._adopt(event, now) or any(left)
            case events.GangChanged(gang, stays):
                return self._change(gang, stays, now)
            case events.Occupied(holder, node, use):
                return self.foreign.put(self.snapshot, holder, node, use)
            case events.Vacated(holder):
                return self.foreign.drop(self.snapshot, holder)
            case events.NodeCordoned(node):
                return self._mark_down(node, "cordoned", now)
            case events.NodeUncordoned(node):
                return self._mark_up(node, "cordoned")
            case events.NodeFailed(node):
                return self._mark_down(node, "failed", now)
            case events.NodeRepaired(node):
                return self._mark_up(node, "failed")
            case events.DeviceFailed(node, gpu):
                return self._device_failed(node, gpu, now)
            case events.DeviceRepaired(node, gpu):
                return self._device_repaired(node, gpu)
            case events.TopologyChanged(compiled):
                return self._topology_changed(compiled, now)
            case events.QuotasChanged(quotas):
                self.config = replace(self.config, quotas=quotas)
                self.ledger.quotas = {one.tenant: one for one in quotas}
                self.queue.regroup(bool(quotas))
                return True
            case _:
                return self._wake(now)

    def _submit(self, gang: gangs.Gang, now: float) -> bool:
        """Queue a gang unless it is known or can never run."""
        if self.knows(gang.name):
            return False
        self._submissions += 1
        self._admit(gang, self._submissions, now)
        return False

    def _admit(self, gang: gangs.Gang, number: int, now: float) -> None:
        """Queue a gang, or reject it at once when it can never start, wherever in the queue it would stand."""
        never = self._never(gang)
        if never is None:
            self._enqueue(gang, number, now)
        else:
            self._out.append(effects.Reject(gang, never, self._because))

    def _never(self, gang: gangs.Gang) -> reasons.Rejection | None:
        """Return why neither the tenant's quota nor the empty fleet can ever hold a gang, None when they may."""
        refused = self.ledger.refusal(gang)
        return refused if refused and refused.permanent else engine.never(gang, self.scoring)

    def _drop_impossible(self) -> None:
        """Reject the waiting gangs that the fleet, which has changed, can never hold."""
        for entry in self.queue.in_order():
            never = engine.never(entry.gang, self.scoring)
            if never is not None:
                self._drop(entry, never)

    def _drop(self, entry: queues.Waiting, never: reasons.Rejection) -> None:
        self.queue.remove(entry.gang.name)
        self._out.append(effects.Reject(entry.gang, never, self._because))

    def _enqueue(self, gang: gangs.Gang, number: int, now: float) -> None:
        self.queue.add(gang, number, now)
        self._queued.append(gang.name)

    def _forget(self, name: str) -> bool:
        """Drop a gang in whatever state it is."""
        self._resting.pop(name, None)
        self._failures.pop(name, None)
        if name in self.held:
            self._release(name)
            return True
        # The head of a strict queue may have been the one that held the others back.
        return self.queue.remove(name) is not None

    def _bind_failed(self, name: str, now: float) -> bool:
        if name not in self.held:
            return False
        one = self._release(name)
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        rest = min(RETRY_MAX_S, RETRY_S * 2 ** (failures - 1))
        self._resting[name] = now + rest, one.gang, one.number
        return True

    def _wake(self, now: float) -> bool:
        """Queue the gangs whose rest is over; tell whether any is, or moves are to be looked for again."""
        due = [name for name, (until, _, _) in self._resting.items() if until <= now]
        for name in due:
            _, gang, number = self._resting.pop(name)
            self._admit(gang, number, now)
        search = self._search_at <= now
        if search:
            self._search_at = math.inf
        return bool(due) or search

    def _adopt(self, event: events.Adopted, now: float) -> bool:
        """Follow a gang that has its devices already; it keeps its place in the queue when it is evicted later."""
        gang, grants = event.gang, event.grants
        if gang.name in self.held:
            return False
        waiting = self.queue.remove(gang.name)
        _, _, number = self._resting.pop(gang.name, (0.0, gang, 0))
        if waiting is not None:
            number = waiting.key[1]
        elif not number:
            self._submissions += 1
            number = self._submissions
        found = refill.located(self.snapshot.topology, gang, grants, self.scoring, self.tiers)
        taken = refill.hold_all(self.snapshot, grants)
        if taken:
            self._out.append(effects.Conflict(gang, taken, self._because))
            return False
        self._keep(gang, found, number, now, event.confirmed, event.crippled)
        return waiting is not None

    def _change(self, gang: gangs.Gang, stays: tuple[int, ...], now: float) -> bool:
        """Let a gang have other pods: at once while it waits, as far as there is room while it runs."""
        entry = self.queue.waiting.get(gang.name)
        if entry is not None:
            if entry.gang != gang:
                self.queue.remove(gang.name)
                self._admit(gang, entry.key[1], now)
            return entry.gang != gang
        if gang.name in self._resting:
            until, _, number = self._resting[gang.name]
            self._resting[gang.name] = until, gang, number
        if gang.name not in self.held:
            return False
        one = self.held[gang.name]
        grants = one.placement.grants
        kept = {rank: grants[old] for rank, old in enumerate(stays) if 0 <= old < len(grants)}
        if one.gang == gang and stays == tuple(range(len(grants))):
            return False
        return self._refill(one, gang, kept, now)

    def _refill(self, one: holdings.Holding, gang: gangs.Gang, kept: dict[int, state.Grant], now: float) -> bool:
        """Keep some grants of a held gang and find the others.

        Without room the gang runs on with what stays where that is its minimum, and is evicted where it is less.
        """
        stays = {id(grant) for grant in kept.values()}
        gone = [grant for grant in one.placement.grants if id(grant) not in stays]
        for grant in gone:
            self.snapshot.release(grant)
        self._settle(gone)  # a device that was tainted meanwhile must not go to the replacement
        found = refill.fill(self.snapshot, gang, kept, self.scoring, self.tiers)
        if isinstance(found, placement.Placement):
            self._exchange(one, gang, found, kept, now)
        elif len(kept) < gang.minimum and (one.crippled or len(kept) < len(one.placement.grants)):
            self._forget_holding(one)
            self._give_back(tuple(kept.values()))
            self._settle(gone)
            self._enqueue(gang, one.number, now)
            self._out.append(effects.Evict(gang, one.placement, effects.Eviction.MEMBER_LOST, self._because))
        else:
            self._hold_again(gone)
            self._out.append(effects.Wait(gang, found, self._because))
            return False
        return True

    def _hold_again(self, grants: Sequence[state.Grant]) -> None:
        """Hold what was released a moment ago; strangers that took some of it step aside."""
        nodes = {self.scoring.topology.nodes[grant.node].name for grant in grants}
        for node in sorted(nodes):
            self.foreign.leave(self.snapshot, node)
        refill.hold_all(self.snapshot, grants)
        for node in sorted(nodes):
            self.foreign.enter(self.snapshot, node)

    def _exchange(
        self,
        one: holdings.Holding,
        gang: gangs.Gang,
        found: placement.Placement,
        kept: dict[int, state.Grant],
        now: float,
    ) -> None:
        """Let a gang hold another placement, of which it holds the kept part already."""
        new = tuple(rank for rank in range(len(found.grants)) if rank not in kept)
        for rank in new:
            self.snapshot.take(found.grants[rank])
        self._forget_holding(one)
        self.decisions += 1
        self._keep(gang, found, one.number, now, confirmed=True)  # it runs: nothing of it expires
        self._out.append(effects.Refill(gang, found, new, self.decisions, self._because))

    def _forget_holding(self, one: holdings.Holding) -> None:
        self.held.remove(one.gang.name)
        self.ledger.charge(one.gang, -1)

    def _keep(
        self,
        gang: gangs.Gang,
        found: placement.Placement,
        number: int,
        now: float,
        confirmed: bool,
        crippled: bool = False,
    ) -> None:
        """Note that a gang holds the grants, which have been taken."""
        expires = math.inf if confirmed or not self.config.reservation_s else now + self.config.reservation_s
        self.ledger.charge(gang, +1)
        self.held.add(holdings.Holding(gang, found, number, self.decisions, now, expires, crippled))

    def _mark_down(self, node: str, why: str, now: float) -> bool:
        row = self.scoring.topology.row.get(node)
        if row is None or why in self._down.get(node, ()):
            return False
        if why == "failed":
            self._evict_from(row, effects.Eviction.NODE_FAILED, now)
        self._down.setdefault(node, set()).add(why)
        self.snapshot.set_up(row, False)
        return True

    def _mark_up(self, node: str, why: str) -> bool:
        reasons_down = self._down.get(node)
        if not reasons_down or why not in reasons_down:
            return False
        reasons_down.discard(why)
        if reasons_down:
            return False
        del self._down[node]
        if node in self.scoring.topology.row:
            self.snapshot.set_up(self.scoring.topology.row[node], True)
        return True

    def _device_failed(self, node: str, gpu: int, now: float) -> bool:
        row = self.scoring.topology.row.get(node)
        if row is None or (node, gpu) in self._failed_gpus or gpu >= int(self.scoring.topology.gpus[row]):
            return False
        for one in self.held.on_gpu(row, gpu):
            self._evict(one, effects.Eviction.DEVICE_FAILED, now)
        self._failed_gpus.add((node, gpu))
        self._set_gpu_failed(node, gpu, True)
        return True

    def _device_repaired(self, node: str, gpu: int) -> bool:
        if (node, gpu) not in self._failed_gpus:
            return False
        self._failed_gpus.discard((node, gpu))
        self._set_gpu_failed(node, gpu, False)
        return True

    def _set_gpu_failed(self, node: str, gpu: int, failed: bool) -> None:
        """Mark a GPU that no gang holds; strangers step aside meanwhile."""
        self.foreign.leave(self.snapshot, node)
        self.snapshot.set_gpu_failed(self.scoring.topology.row[node], gpu, failed)
        self.foreign.enter(self.snapshot, node)

    def _topology_changed(self, compiled: scorings.Scoring, now: float) -> bool:
        """Move to another fleet: what is still there stays, by node name."""
        before, self.scoring = self.scoring.topology, compiled
        self.snapshot = state.empty(compiled.topology)
        self.queue.forget()
        rows = compiled.topology.row
        self._failed_gpus = {(n, g) for n, g in self._failed_gpus if n in rows and g < compiled.topology.gpus[rows[n]]}
        self._down = {node: why for node, why in self._down.items() if node in rows}
        self._take_down(self.snapshot, nodes=False)
        broken = []
        for one in list(self.held):
            left = holdings.left(one, before, compiled.topology)
            kept = {} if refill.hold_all(self.snapshot, tuple(left.values())) else left
            if len(kept) == len(one.placement.grants):
                self.held.replace(one, replace(one.placement, grants=tuple(kept.values())))
            else:
                broken.append((one, kept))
        self._take_down(self.snapshot)
        self.foreign.move(self.snapshot)
        for one, kept in broken:  # once everybody else has what he holds
            self._mend(one, kept, now)
        self._drop_impossible()
        return True

    def _mend(self, one: holdings.Holding, kept: dict[int, state.Grant], now: float) -> None:
        """Give a gang that runs other devices for those that are gone, beside what is left; else all of it leaves."""
        runs = kept and one.expires == math.inf
        found = refill.fill(self.snapshot, one.gang, kept, self.scoring, self.tiers) if runs else None
        if isinstance(found, placement.Placement):
            self._exchange(one, one.gang, found, kept, now)
        else:
            self._give_back(tuple(kept.values()))
            self._evict(one, effects.Eviction.NODE_REMOVED, now, release=False)

    def _take_down(self, snapshot: state.Snapshot, nodes: bool = True) -> None:
        """Apply failed GPUs and, unless told otherwise, nodes that are down."""
        rows = self.scoring.topology.row
        for node, gpu in sorted(self._failed_gpus):
            snapshot.set_gpu_failed(rows[node], gpu, True)
        for node in sorted(self._down) if nodes else ():
            snapshot.set_up(rows[node], False)

    def _expire(self, now: float) -> bool:
        """Roll back reservations that nobody confirmed in time."""
        due = self.held.due(now)
        for one in due:
            self._release(one.gang.name)
            self._enqueue(one.gang, one.number, now)
            self._out.append(effects.Expire(one.gang, one.placement, "time"))
        return bool(due)

    # What to do about it.

    def _serve(self, now: float) -> None:
        """Start whatever may start."""
        evicts = self.config.preempt or self.config.defragment
        if self.config.mode == "skip" and not evicts:
            self._serve_shapes(now)
        elif self.config.mode == "fifo" and not evicts and not self.ledger.quotas:
            self._serve_heads(now)
        elif self._serve_in_order(now, may_evict=evicts):
            self.queue.unblock(self.snapshot.free_gpus)  # victims leave more room than was needed
            self._serve_in_order(now, may_evict=False)  # and may fit elsewhere themselves

    def _serve_shapes(self, now: float) -> None:
        """Serve ``skip``: in the order of gangs, but one refusal speaks for all gangs of a shape."""
        heads = self.queue.heads(self.snapshot.free_gpus)
        while heads:
            shape = heapq.heappop(heads)[2]
            entry = shape.head()
            if entry is None or shape.closed(self.snapshot.free_gpus) or self._held_back(entry):
                continue
            self._try(entry, now)
            following = shape.head()
            if entry.gone and following is not None:
                heapq.heappush(heads, (following.key, following.turn, shape))

    def _serve_heads(self, now: float) -> None:
        """Serve ``fifo`` without quotas: the head starts or everybody waits."""
        while (entry := self.queue.head()) is not None and not entry.shape.closed(self.snapshot.free_gpus):
            self._try(entry, now)

    def _serve_in_order(self, now: float, may_evict: bool) -> bool:
        """Look at the waiting gangs one by one, as the mode allows; tell whether any gang was evicted."""
        evicted = False
        asked: set[tuple[int, int, str]] = set()
        queued = (entry for entry in self.queue.in_order() if not (entry.gone or self._held_back(entry)))
        for entry in queued:
            if self._try(entry, now):
                continue
            same = id(entry.shape), entry.gang.priority, entry.gang.tenant
            if may_evict and not entry.gone and same not in asked and self._make_room(entry, now):
                evicted = True
            elif not entry.gone:
                asked.add(same)
                if self.config.mode == "easy":
                    self._serve_behind(entry.gang, queued, now)
                if self.config.mode != "skip":
                    return evicted
        return evicted

    def _serve_behind(self, head: gangs.Gang, queued: Iterator[queues.Waiting], now: float) -> None:
        """Start gangs behind the head for which it does not start later.

        The head's reservation is made when the first gang that fits asks for it: mostly none does.
        """
        ahead: backfill.Shadow | None = None
        known: dict[int, backfill.Candidate] = {}
        for entry in itertools.islice(queued, self.config.easy_depth):
            found = self._candidate(entry, known)
            if found is None:
                continue
            ahead = ahead or self._shadow(head)
            stays = (now + entry.gang.expected_s if entry.gang.expected_s else math.inf) > ahead.time
            if stays and found.harmless is None:
                found.harmless = backfill.beside(ahead, found.placement, self.scoring, self.tiers)
            if not stays or found.harmless:
                self._start(entry, replace(found.placement, gang=entry.gang), now)
                if stays:
                    bulk.take_all(ahead.at_start, found.placement.grants)

    def _held_back(self, entry: queues.Waiting) -> bool:
        """Tell whether the tenant's quota holds the gang back, and say so once."""
        if self.ledger.allows(entry.gang):
            return False
        refused = self.ledger.refusal(entry.gang) if entry.said is not reasons.Reason.QUOTA else None
        if refused is not None:
            self._say(entry, refused)
        return True

    def _try(self, entry: queues.Waiting, now: float) -> bool:
        """Start a gang if it fits; otherwise block its shape, or drop it when it never will."""
        found = self._fit(entry)
        if found is not None:
            self._start(entry, found, now)
        return found is not None

    def _fit(self, entry: queues.Waiting) -> placement.Placement | None:
        """Ask the engine, unless its refusal is certain; take note of a refusal."""
        if entry.shape.closed(self.snapshot.free_gpus):
            return None
        answer = engine.place(self.snapshot, entry.gang, self.scoring, self.tiers)
        if isinstance(answer, placement.Placement):
            return answer
        if answer.permanent:
            self._drop(entry, answer)
        else:
            self._block(entry.shape, answer)
            self._say(entry, answer)
        return None

    def _candidate(self, entry: queues.Waiting, known: dict[int, backfill.Candidate]) -> backfill.Candidate | None:
        """Return what the engine finds for a gang, kept for the others of its shape until something starts."""
        found = known.get(id(entry.shape))
        if found is None or found.version != self.snapshot.version:
            answer = self._fit(entry)
            if answer is None:
                return None
            found = known[id(entry.shape)] = backfill.Candidate(self.snapshot.version, answer)
        return found

    def _shadow(self, head: gangs.Gang) -> backfill.Shadow:
        ends = ((one.expected_end, one.placement.grants) for one in self.held)
        return backfill.shadow(self.snapshot, head, ends, self.scoring, self.tiers)

    def _make_room(self, entry: queues.Waiting, now: float) -> bool:
        """Preempt, reclaim or move for a gang; tell whether it started."""
        for reason, victims in room.victims(entry.gang, self.held, self.ledger) if self.config.preempt else ():
            found = preempt.preempt(self.snapshot, entry.gang, self.scoring, victims, self.tiers)
            if isinstance(found, preempt.Preemption):
                contested = bool(self.foreign.short)
                for victim in found.victims:
                    self._evict(self.held[victim.gang.name], reason, now)
                # Strangers may have had a right to what the victims held; then the plan is asked anew.
                return self._try(entry, now) if contested else self._started(entry, found.placement, now)
        return self.config.defragment and self._move(entry, now)

    def _move(self, entry: queues.Waiting, now: float) -> bool:
        """Put gangs elsewhere so that another one fits; tell whether it started.

        Where strangers wait for what somebody else holds, nothing is moved: they would take what the moved gangs leave.
        """
        if self.foreign.short or now < entry.search_after or self._searches >= room.SEARCHES:
            return False
        self._searches += 1
        before = now - self.config.move_after_s
        found = room.moves(self.snapshot, entry.gang, self.scoring, self.held, self.tiers, before)
        if found is None:
            entry.search_after = now + room.SEARCH_REST_S
            self._search_at = min(self._search_at, entry.search_after)
            return False
        for move in found.moves:
            self._evict(self.held[move.running.gang.name], effects.Eviction.MOVED, now)
        self._start(entry, found.placement, now)
        for move in found.moves:
            self._start(self.queue.waiting[move.running.gang.name], move.placement, now)
        return True

    def _started(self, entry: queues.Waiting, found: placement.Placement, now: float) -> bool:
        self._start(entry, found, now)
        return True

    def _start(self, entry: queues.Waiting, found: placement.Placement, now: float) -> None:
        """Take the devices of a whole gang and say so."""
        gang = entry.gang
        self.queue.remove(gang.name)
        bulk.take_all(self.snapshot, found.grants)
        self.decisions += 1
        self._keep(gang, found, entry.key[1], now, confirmed=False)
        self._out.append(effects.Start(gang, found, self.decisions, self._because))

    def _release(self, name: str) -> holdings.Holding:
        """Give back everything that a gang holds."""
        one = self.held.remove(name)
        self._give_back(one.placement.grants)
        self.ledger.charge(one.gang, -1)
        return one

    def _give_back(self, grants: Sequence[state.Grant]) -> None:
        bulk.release_all(self.snapshot, grants)
        self._settle(grants)

    def _settle(self, freed: Collection[state.Grant]) -> None:
        """Let strangers have what they hold in truth, where grants were given back."""
        if self.foreign.short:
            for node in sorted({self.scoring.topology.nodes[grant.node].name for grant in freed}):
                self.foreign.settle(self.snapshot, node)

    def _evict(self, one: holdings.Holding, why: effects.Eviction, now: float, release: bool = True) -> None:
        """Take a gang's devices away and queue it again in its old place."""
        if release:
            self._release(one.gang.name)
        else:
            self.held.remove(one.gang.name)
            self.ledger.charge(one.gang, -1)
        self._enqueue(one.gang, one.number, now)
        self._out.append(effects.Evict(one.gang, one.placement, why, self._because))

    def _evict_from(self, row: int, why: effects.Eviction, now: float) -> None:
        for one in self.held.on_node(row):
            self._evict(one, why, now)

    def _say(self, entry: queues.Waiting, refused: reasons.Rejection) -> None:
        """Tell the outside why a gang waits, when that is news."""
        if news.is_news(entry.said, entry.furthest, refused.reason):
            entry.said, entry.furthest = refused.reason, max(entry.furthest, news.STAGE.get(refused.reason, -1))
            self._out.append(effects.Wait(entry.gang, replace(refused, gang=entry.gang.name), self._because))

    def _say_why(self, name: str) -> None:
        """Tell a gang that was queued just now why it waits, unless it was told or has started meanwhile."""
        entry = self.queue.waiting.get(name)
        refused = self.why(name)
        if entry is not None and refused is not None:
            self._say(entry, refused)


def _behind(entry: queues.Waiting, head: queues.Waiting | None) -> reasons.Rejection:
    """Say that a gang waits for its turn."""
    detail = "" if head is None or head is entry else f"behind gang {head.gang.name}"
    return reasons.Rejection(entry.gang.name, reasons.Reason.QUEUED, detail=detail)
