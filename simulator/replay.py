"""Drives the decision machine through a trace in virtual time.

The machine decides; this file only knows how long things take: when jobs arrive, how long they run on the devices that
they got, what breaks and what a failure costs them.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from scheduler.gang import config, effects, events
from scheduler.gang import machine as machines
from scheduler.gang import queue as queues
from scheduler.model import reasons
from scheduler.placement import bandwidth, engine, placement, policy, scoring
from scheduler.snapshot import state, topology
from simulator import clock, faults, outcome
from simulator import runtime as runtimes
from simulator.trace import job

SAMPLES = 400
"""Rows of the series, about: often enough for a curve, seldom enough not to cost more than the replay."""


@dataclass(frozen=True, slots=True)
class Finish:
    """A job ends, unless it was evicted since: then `start` is not its last one any more."""

    job: int
    start: int


@dataclass(frozen=True, slots=True)
class Remains:
    """What a pod of an ended job still holds: on a cluster its devices are free when its claim is, and that takes a while.

    Attributes
    ----------
    holder : str
        Who holds the devices meanwhile.
    rank : int
        Of the pod in its job.
    kept_s : float
        From the job's end on.
    """

    holder: str
    rank: int
    kept_s: float


Item = Finish | faults.Happening
Progress = Callable[[int, int, float], None]
"""Called now and then with jobs done, jobs in all, and virtual time."""

Log = Callable[[str], None]
"""Takes one line of the decision log, without its end of line."""


@dataclass(slots=True, eq=False)
class Replay:
    """One run of a trace over a fleet under a policy.

    Parameters
    ----------
    trace : Trace
    scored : Scoring
        Policy, fleet and target.
    queue : QueueConfig
    runtime : RuntimeModel
        Run time by placement.
    broken : Faults
    seed : int
        Draws the failures.
    log : callable, optional
        Receives the decision log line by line.
    validate : bool
        Check all invariants after every event.
    until_s : float
        Virtual time at which to stop; the outcome is partial then.
    remains : mapping of job name to Remains
        In the order in which they are given back; all devices of a job that is not named are free at its end.

    Notes
    -----
    `advance` may be called as often as one likes: a run in pieces is the same run. The object can be pickled between.
    """

    trace: job.Trace
    scored: scoring.Scoring
    queue: config.QueueConfig = config.QueueConfig()
    runtime: runtimes.RuntimeModel = runtimes.Fixed()
    broken: faults.Faults = faults.Faults()
    seed: int = 0
    tiers: bandwidth.Tiers = bandwidth.DEFAULT
    log: Log | None = None
    validate: bool = False
    until_s: float = float("inf")
    remains: Mapping[str, tuple[Remains, ...]] = field(default_factory=dict)
    jobs: outcome.Jobs = field(init=False)
    series: outcome.Series = field(default_factory=outcome.Series)
    machine: machines.Machine = field(init=False)
    handled: int = 0
    _clock: clock.Clock[Item] = field(default_factory=clock.Clock)
    _arrived: int = 0
    _done: int = 0
    _row: dict[str, int] = field(default_factory=dict)
    _remaining_s: dict[int, float] = field(default_factory=dict)
    _started_s: dict[int, float] = field(default_factory=dict)
    _queued_s: dict[int, float] = field(default_factory=dict)
    _stretch: dict[int, float] = field(default_factory=dict)
    _refusals: dict[int, reasons.Rejection] = field(default_factory=dict)
    _waited_for: dict[str, int] = field(default_factory=dict)
    _evictions: dict[str, int] = field(default_factory=dict)
    _breakage: faults.Breakage = field(init=False)
    _reference: "References" = field(init=False)
    _next_sample_s: float = 0.0
    _interval_s: float = 0.0
    _repairs: int = 0
    _broken: Counter[events.Event] = field(default_factory=Counter)
    _hopeless: dict[queues.ShapeKey, bool] = field(default_factory=dict)
    _cut: bool = False

    def __post_init__(self) -> None:
        fleet = self.scored.topology
        self.jobs = outcome.new_jobs(len(self.trace))
        self.machine = machines.Machine(self.scored, self.queue, self.tiers)
        self._breakage = faults.Breakage(fleet, self.broken, np.random.default_rng(self.seed))
        self._reference = References(fleet, self.tiers)
        for time, happening in faults.maintenance(fleet, self.broken):
            self._schedule(time, happening)
        self._break_next(0.0)
        if len(self.trace):
            self._interval_s = sample_interval(self.trace)
            self._next_sample_s = float(self.trace.submit_s[0])

    def run(self, progress: Progress | None = None, stopped: Callable[[], bool] = lambda: False) -> outcome.Outcome:
        """Replay to the end, or until `stopped` says so between two events: then the outcome says that it is partial."""
        more = True
        while more and not stopped():
            more = self.advance(256)
            if progress:
                progress(self._done, len(self.trace), self._clock.now)
        done = f"{self._done} of {len(self.trace)} jobs done"
        if more:
            return self.outcome(f"interrupted at {self._clock.now:.0f} s of virtual time, {done}")
        if self._cut:
            return self.outcome(f"stopped at {self._clock.now:.0f} s of virtual time, as asked, {done}")
        return self.outcome()

    def advance(self, steps: int) -> bool:
        """Handle at most `steps` happenings; tell whether there is more to come."""
        return all(self._step() for _ in range(steps))

    def outcome(self, partial: str = "") -> outcome.Outcome:
        """Return what has been found so far."""
        now, jobs, refusals = self._clock.now, self.jobs.copy(), dict(self._refusals)
        for row in np.flatnonzero(jobs.state == outcome.State.PENDING).tolist():
            jobs.wait_s[row] += now - self._queued_s[row]
            why = self.machine.why(str(self.trace.names[row]))
            if why is not None:
                refusals[row] = why
        for row in np.flatnonzero(jobs.state == outcome.State.RUNNING).tolist():
            ran = now - self._started_s[row]
            jobs.run_s[row] += ran
            jobs.lost_s[row] += min(ran, self._again_s(row))
        return outcome.Outcome(
            trace=self.trace,
            topology=self.scored.topology,
            policy=self.scored.policy.metadata.name,
            jobs=jobs,
            series=self.series.copy(),
            refusals=refusals,
            waited_for=dict(sorted(self._waited_for.items())),
            end_s=now,
            events=self.handled,
            evictions=dict(sorted(self._evictions.items())),
            partial=partial,
        )

    def _step(self) -> bool:
        """Handle the next arrival or happening."""
        time, rank = self._clock.peek()
        arrives = False
        if self._arrived < len(self.trace):
            submit = float(self.trace.submit_s[self._arrived])
            if (submit, clock.Rank.SUBMIT) < (time, rank):
                time, arrives = submit, True
        elif not self._alive():
            return False
        if time > self.until_s:
            self._clock.now, self._cut = max(self._clock.now, self.until_s), True
            return False
        if arrives:
            self._clock.now = time
            self._submit(self._arrived)
            return True
        if not len(self._clock):
            return False
        item = self._clock.take()
        if isinstance(item, Finish):
            self._finish(item)
        else:
            self._happen(item)
        return True

    def _alive(self) -> bool:
        """Tell whether anything can still change for a job: one runs, or one waits for a repair that can help it."""
        if len(self.machine.held):
            return True
        return self._repairs > 0 and any(map(self._may_start, self.machine.queue.waiting.values()))

    def _may_start(self, entry: queues.Waiting) -> bool:
        """Tell whether a gang would start in the empty fleet, everything repaired. Asked when nothing runs."""
        if self.machine.ledger.refusal(entry.gang) is not None:
            return False
        key = entry.shape.key
        if key not in self._hopeless:
            empty = state.empty(self.scored.topology)
            answer = engine.place(empty, entry.gang, self.scored, self.tiers)
            self._hopeless[key] = not isinstance(answer, placement.Placement)
        return not self._hopeless[key]

    def _submit(self, row: int) -> None:
        self._arrived += 1
        gang = self.trace.gang(row)
        self._row[gang.name] = row
        self._remaining_s[row] = float(self.trace.duration_s[row])
        self._queued_s[row] = self._clock.now
        self.jobs.state[row] = outcome.State.PENDING
        self.jobs.reference_s[row] = self.trace.duration_s[row]
        self._handle(events.GangSubmitted(gang))

    def _finish(self, item: Finish) -> None:
        row = item.job
        if self.jobs.starts[row] != item.start or self.jobs.state[row] != outcome.State.RUNNING:
            return
        self.jobs.run_s[row] += self._clock.now - self._started_s.pop(row)
        self.jobs.lost_s[row] += self._again_s(row)
        self.jobs.state[row] = outcome.State.FINISHED
        self.jobs.end_s[row] = self._clock.now
        self._done += 1
        self._forget(row)
        self._end(str(self.trace.names[row]))

    def _end(self, name: str) -> None:
        """Take a job's devices away, less what its pods still hold."""
        held, nodes, remains = self.machine.held[name].placement, self.scored.topology.nodes, self.remains.get(name, ())
        for one in remains:
            grant = held.grants[one.rank]
            devices = replace(grant, cpu_milli=0, memory_mib=0, pods=0)
            self._handle(events.Occupied(one.holder, nodes[grant.node].name, devices))
        self._handle(events.GangFinished(name))
        for one in remains:
            back = faults.Happening((events.Vacated(one.holder),), repair=True)
            self._schedule(self._clock.now + one.kept_s, back)

    def _forget(self, row: int) -> None:
        """Drop what is only needed while a job is alive."""
        for memory in (self._remaining_s, self._queued_s, self._stretch):
            memory.pop(row, None)
        self._row.pop(str(self.trace.names[row]), None)

    def _happen(self, item: faults.Happening) -> None:
        """Pass failures or repairs on, and draw the failure after a drawn one."""
        self._repairs -= item.repair
        for event in item.events:
            if self._changes(event):
                self._handle(event)
        if item.drawn:
            self._break_next(self._clock.now)

    def _changes(self, event: events.Event) -> bool:
        """Count what is broken or cordoned: of two overlapping causes the later repair is the one that counts."""
        undone = faults.undoes(event)
        if undone is None:
            self._broken[event] += 1
            return self._broken[event] == 1
        self._broken[undone] -= 1
        return self._broken[undone] == 0

    def _break_next(self, now: float) -> None:
        drawn = self._breakage.next(now)
        for time, happening in drawn:
            self._schedule(time, happening)

    def _schedule(self, time: float, happening: faults.Happening) -> None:
        self._clock.add(time, clock.Rank.REPAIR if happening.repair else clock.Rank.FAILURE, happening)
        self._repairs += happening.repair

    def _handle(self, event: events.Event) -> None:
        """Let the machine decide, and carry its effects out."""
        now = self._clock.now
        self.handled += 1
        for effect in self.machine.handle(event, now):
            self._carry_out(effect, now)
            if self.log:
                self.log(line(effect, now, self.scored.topology))
            if self.queue.reservation_s and isinstance(effect, effects.Start):
                self.machine.handle(events.Bound(effect.gang.name), now)
        if self.validate:
            self.machine.check_invariants()
        if now >= self._next_sample_s:
            self._sample(now)

    def _carry_out(self, effect: effects.Effect, now: float) -> None:
        row = self._row[effect.gang.name]
        match effect:
            case effects.Start():
                self._start(row, effect.placement, now)
            case effects.Wait():
                if row not in self._refusals:
                    reason = effect.rejection.reason.value
                    self._waited_for[reason] = self._waited_for.get(reason, 0) + 1
                self._refusals[row] = effect.rejection
            case effects.Reject():
                self.jobs.state[row] = outcome.State.REJECTED
                self._refusals[row] = effect.rejection
                self._done += 1
                self._forget(row)
            case effects.Evict():
                self._stop(row, effect.reason, now)
            case effects.Expire():
                raise state.InvariantError(
                    f"reservation of {effect.gang.name} expired, though it was confirmed at once"
                )

    def _start(self, row: int, found: placement.Placement, now: float) -> None:
        """Note the placement and schedule the end."""
        jobs = self.jobs
        if not jobs.starts[row]:
            jobs.start_s[row] = now
        jobs.starts[row] += 1
        jobs.state[row] = outcome.State.RUNNING
        jobs.wait_s[row] += now - self._queued_s[row]
        jobs.nodes[row] = len(found.nodes)
        jobs.level[row] = self.scored.topology.tree.levels.index(found.level)
        jobs.bandwidth_mb_s[row] = found.bandwidth_mb_s
        jobs.placed[row] = len(found.grants)
        self._refusals.pop(row, None)
        self._started_s[row] = now
        stretch = self._stretch[row] = self._slowdown(row, found)
        end = now + self._again_s(row) + self._remaining_s[row] * stretch
        self._clock.add(end, clock.Rank.FINISH, Finish(row, int(jobs.starts[row])))

    def _again_s(self, row: int) -> float:
        """Return the time that the current run of a job spends on restarting."""
        return self.broken.restart_s if self.jobs.starts[row] > 1 else 0.0

    def _slowdown(self, row: int, found: placement.Placement) -> float:
        """Return run time here over run time at the reference."""
        shape = self.trace.shapes[int(self.trace.shape[row])]
        reference = self._reference.of(int(self.trace.shape[row]), shape)
        self.jobs.reference_mb_s[row] = reference.bandwidth_mb_s
        gpus = sum(grant.mask.bit_count() for grant in found.grants)
        return self.runtime.seconds(
            1.0,
            shape,
            found.bandwidth_mb_s,
            reference.bandwidth_mb_s,
            gpus,
            nodes=joined(self.scored.topology, found),
            reference_nodes=reference.nodes,
        )

    def _stop(self, row: int, reason: effects.Eviction, now: float) -> None:
        """Note an eviction: what the checkpoints hold survives."""
        ran = now - self._started_s.pop(row)
        kept = self.broken.kept_s(max(0.0, ran - self._again_s(row)))
        self._evictions[reason.value] = self._evictions.get(reason.value, 0) + 1
        self.jobs.run_s[row] += ran
        self.jobs.lost_s[row] += ran - kept
        self._remaining_s[row] = max(0.0, self._remaining_s[row] - kept / self._stretch[row])
        self.jobs.state[row] = outcome.State.PENDING
        self._queued_s[row] = now

    def _sample(self, now: float) -> None:
        """Add a row to the series."""
        self._next_sample_s = now + self._interval_s
        snapshot, fleet = self.machine.snapshot, self.scored.topology
        failed = int(np.bitwise_count(snapshot.failed_gpus).sum())
        down = int(fleet.gpus[~snapshot.up].sum())
        free = float(snapshot.gpu_free.sum()) / state.FULL
        measure = self.scored.tables.whole
        fragments = measure.of(snapshot.gpu_free.astype(np.int64), snapshot.cpu_free, np.arange(len(fleet.nodes)))
        self.series.time_s.append(now)
        self.series.allocated_gpus.append(fleet.total_gpus - failed - free)
        self.series.up_gpus.append(float(fleet.total_gpus - failed - down))
        self.series.fragmented_gpus.append(float(fragments.sum()) / max(1, measure.total) / state.FULL)
        self.series.waiting.append(len(self.machine.queue.waiting))


def sample_interval(trace: job.Trace) -> float:
    """Return the virtual time between two rows of the series."""
    span = float(trace.submit_s[-1] - trace.submit_s[0])
    return max(span, float(trace.duration_s.max())) / SAMPLES


@dataclass(frozen=True, slots=True)
class Reference:
    """Bandwidth and joined nodes of the best placement that an empty fleet has."""

    bandwidth_mb_s: int
    nodes: int


@dataclass(slots=True, eq=False)
class References:
    """References of job shapes, found once each with the default policy, whatever policy is replayed."""

    fleet: topology.Topology
    tiers: bandwidth.Tiers
    _known: dict[int, Reference] = field(default_factory=dict)
    _scored: scoring.Scoring = field(init=False)

    def __post_init__(self) -> None:
        default = policy.ScoringPolicy(metadata=policy.Metadata(name="reference"))
        self._scored = scoring.compile_scoring(default, self.fleet)

    def of(self, number: int, shape: job.JobShape) -> Reference:
        """Return the reference of shape `number`."""
        if number not in self._known:
            self._known[number] = self._best(shape)
        return self._known[number]

    def _best(self, shape: job.JobShape) -> Reference:
        """Try every domain above one machine of each kind, and take the widest placement on the fewest joined nodes."""
        fleet, empty = self.fleet, state.empty(self.fleet)
        found = Reference(0, 1)
        for kind in range(len(fleet.shapes)):
            vertex = int(fleet.tree.vertex[int(np.flatnonzero(fleet.shape == kind)[0])])
            while vertex >= 0:
                best = engine.place(empty, shape.gang, self._scored, self.tiers, vertex)
                vertex = int(fleet.tree.parent[vertex])
                if isinstance(best, placement.Placement):
                    tried = Reference(best.bandwidth_mb_s, joined(fleet, best))
                    found = max(found, tried, key=lambda one: (one.bandwidth_mb_s, -one.nodes))
        return found


def joined(fleet: topology.Topology, found: placement.Placement) -> int:
    """Return the nodes that a network joins: 1 where one NVLink fabric spans all GPUs."""
    nodes = found.nodes
    fabrics = {gpu.fabric_id for node in nodes for gpu in fleet.nodes[node].gpus}
    return 1 if len(fabrics) == 1 and "" not in fabrics else len(nodes)


def line(effect: effects.Effect, now: float, fleet: topology.Topology) -> str:
    """Write one effect as a line of the decision log: JSON with sorted keys, equal for equal decisions."""
    said: dict[str, object] = {"t": now, "gang": effect.gang.name, "effect": type(effect).__name__}
    said["because"] = effect.because
    match effect:
        case effects.Start(_, found, decision, _):
            said["decision"] = decision
            said["domain"] = found.domain
            said["bandwidth_mb_s"] = found.bandwidth_mb_s
            said["terms"] = dict(found.terms)
            said["pods"] = [
                [fleet.nodes[g.node].name, list(g.gpus), *([list(map(list, g.partitions))] if g.partitions else [])]
                for g in found.grants
            ]
        case effects.Wait(_, refused, _) | effects.Reject(_, refused, _):
            said["reason"] = refused.reason.value
            said["says"] = str(refused)
        case effects.Evict(_, _, why, _):
            said["reason"] = why.value
        case _:
            pass
    return json.dumps(said, sort_keys=True, separators=(",", ":"))
