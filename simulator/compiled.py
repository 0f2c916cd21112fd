"""Replays plain workloads with compiled code: the same decisions as ``simulator.replay``, a few microseconds each.

What is plain is said by `refusal`. The decision log and the words of refusals need the engine itself, so this path gives
the outcome only; for one decision in full there is ``muster-sim explain``.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from scheduler.gang import config
from scheduler.model import gang as gangs_of_model
from scheduler.model import reasons, request
from scheduler.placement import bandwidth, domains, engine, fit, gang_price, scoring
from scheduler.snapshot import state
from simulator import faults, kernel, replay, runtime
from simulator import outcome as outcomes
from simulator.trace import job

if kernel.AVAILABLE:
    from simulator.kernel import arrays, gangs, rows, tree
    from simulator.kernel import replay as loop

Ints = NDArray[np.int64]
Progress = Callable[[int, int, float], None]

CHUNK = 1 << 15
"""Events between two looks at the outside: some 0.1 s."""


def refusal(
    trace: job.Trace,
    scored: scoring.Scoring,
    queue: config.QueueConfig,
    broken: faults.Faults = faults.Faults(),
    times: runtime.RuntimeModel = runtime.Fixed(),
) -> str:
    """Return why compiled code can't replay this, "" when it can."""
    if not kernel.AVAILABLE:
        return "numba is not installed (extra 'sim')"
    if queue.mode == "easy" or queue.quotas or queue.preempt or queue.reservation_s:
        return "it knows neither EASY back-fill nor quotas, preemption and reservations"
    if broken.gpu_mtbf_s or broken.node_mtbf_s or broken.domain_mtbf_s or broken.maintenance:
        return "it knows no failures and no maintenance"
    if not isinstance(times, runtime.Fixed):
        return "it knows no run times that depend on the placement"
    if any(shape.gpus > 8 for shape in scored.topology.shapes):
        return "it knows no nodes with more than eight GPUs"
    empty = state.empty(scored.topology)
    for shape in trace.shapes:
        why = _gang_refusal(shape.gang, scored, empty)
        if why:
            return f"{shape.gang.name}: {why}"
    return ""


def _gang_refusal(gang: gangs_of_model.Gang, scored: scoring.Scoring, empty: state.Snapshot) -> str:
    """Return why a gang is not plain, "" when it is."""
    role = gang.roles[0]
    if len(gang.roles) > 1 or gang.minimum < gang.size or role.segment or role.spread:
        return "it knows gangs of one role only, without minimum, segments and spread"
    if not arrays.supported(role.request):
        return "it knows no MIG partitions, NICs or other accelerators"
    levels = scored.topology.tree.levels
    unknown = [level for level in engine.levels(gang) if level not in levels]
    if unknown:
        return f"the fleet has no level {unknown[0]}"
    if gang.size == 1:
        return "a lone pod has a required level" if gang.constraint.required or role.constraint.required else ""
    if scored.policy.spec.gangs.domains != "opportunity-cost":
        return "it places gangs by the opportunity-cost rule only"
    if int(fit.pods_that_fit(empty, scored.demand(role.request)).max(initial=0)) > 1:
        return "a node can hold several pods of the gang"
    return ""


class Compiled:
    """A replay in compiled code, in pieces.

    Raises
    ------
    ValueError
        `refusal` has something to say.
    """

    def __init__(
        self,
        trace: job.Trace,
        scored: scoring.Scoring,
        queue: config.QueueConfig = config.QueueConfig(),
        tiers: bandwidth.Tiers = bandwidth.DEFAULT,
    ) -> None:
        why = refusal(trace, scored, queue)
        if why:
            raise ValueError(f"compiled code can't replay this: {why}")
        fleet = scored.topology
        self.trace, self.scored, self.tiers = trace, scored, tiers
        self.strict = queue.mode == "fifo"
        self.refused = _refused(trace, scored, tiers)
        self.classes, self.pods, self.ganged, kind = _classes(trace, scored, self.refused)
        self.jobs = _jobs(trace, kind, self.classes)
        self.nodes = arrays.nodes_of(state.empty(fleet))
        self.rule = arrays.rule_of(scored)
        self.fabric = tree.tree_of(fleet, scored.policy.spec.gangs, tiers)
        self.counts = tree.counts_of(fleet)
        changes = 2 * int(self.classes.size[kind].sum()) if len(trace) else 0
        self.rows = rows.new_rows(self.nodes, self.pods, changes)
        urgencies = len(np.unique(trace.priority)) if len(trace) else 1
        self.run = loop.new_run(self.jobs, self.classes, urgencies, 4 * replay.SAMPLES)
        if len(trace):
            self.run.time[loop.INTERVAL] = replay.sample_interval(trace)
            self.run.time[loop.NEXT_SAMPLE] = float(trace.submit_s[0])
        loop.begin(self.run, self.nodes, self.rule, self.rows)

    def advance(self, steps: int = CHUNK) -> bool:
        """Handle at most `steps` events; tell whether there is more to come."""
        return bool(
            loop.advance(
                self.run,
                self.jobs,
                self.classes,
                self.nodes,
                self.pods,
                self.rule,
                self.rows,
                self.fabric,
                self.counts,
                self.ganged,
                self.strict,
                steps,
            )
        )

    @property
    def done(self) -> int:
        """Return how many jobs have finished or were rejected."""
        return int(self.run.totals[loop.DONE])

    @property
    def now(self) -> float:
        """Return the virtual time."""
        return float(self.run.time[loop.NOW])

    def finish(self, progress: Progress | None = None) -> outcomes.Outcome:
        """Replay to the end, or until interrupted: then the outcome says that it is partial."""
        stopped = ""
        try:
            while self.advance():
                if progress:
                    progress(int(self.run.totals[loop.DONE]), len(self.trace), float(self.run.time[loop.NOW]))
        except KeyboardInterrupt:
            done = int(self.run.totals[loop.DONE])
            stopped = (
                f"interrupted at {self.run.time[loop.NOW]:.0f} s of virtual time, {done} of {len(self.trace)} jobs done"
            )
        return self.outcome(stopped)

    def outcome(self, partial: str = "") -> outcomes.Outcome:
        """Return what has been found so far."""
        now = float(self.run.time[loop.NOW])
        trace, jobs = self.trace, self.jobs
        started = ~np.isnan(jobs.start)
        stopped = np.where(np.isnan(jobs.end), now, jobs.end)
        pending = jobs.state == outcomes.State.PENDING
        known = jobs.state != outcomes.State.ABSENT
        reference = replay.References(self.scored.topology, self.tiers)
        best = [reference.of(n, shape).bandwidth_mb_s for n, shape in enumerate(trace.shapes)]
        columns = outcomes.Jobs(
            state=jobs.state,
            start_s=jobs.start,
            end_s=jobs.end,
            wait_s=np.where(started, jobs.start - trace.submit_s, np.where(pending, now - trace.submit_s, 0.0)),
            run_s=np.where(started, stopped - jobs.start, 0.0),
            reference_s=np.where(known, trace.duration_s, 0.0),
            lost_s=np.zeros(len(trace)),
            starts=started.astype(np.int64),
            nodes=jobs.nodes,
            level=jobs.level,
            bandwidth_mb_s=jobs.bandwidth,
            reference_mb_s=np.where(started, np.array(best, dtype=np.int64)[trace.shape], 0),
            placed=np.where(started, self.classes.size[jobs.kind], 0),
        )
        refusals = {int(row): self._refusal(int(row)) for row in np.flatnonzero(jobs.state == outcomes.State.REJECTED)}
        refusals |= {int(row): self._refusal(int(row)) for row in np.flatnonzero(pending)}
        return outcomes.Outcome(
            trace=trace,
            topology=self.scored.topology,
            policy=self.scored.policy.metadata.name,
            jobs=columns,
            series=self._series(),
            refusals=refusals,
            waited_for={},
            end_s=now,
            events=int(self.run.totals[loop.HANDLED]),
            partial=partial,
        )

    def _refusal(self, row: int) -> reasons.Rejection:
        """Return why a job was rejected, or that it waits."""
        name = str(self.trace.names[row])
        known = self.refused.get(int(self.trace.shape[row]))
        return reasons.Rejection(name, reasons.Reason.QUEUED) if known is None else known

    def _series(self) -> outcomes.Series:
        taken = self.run.samples[: int(self.run.sampled[0])]
        gpus = float(self.scored.topology.total_gpus)
        scale = max(1, self.scored.tables.whole.total) * state.FULL
        return outcomes.Series(
            time_s=taken[:, 0].tolist(),
            allocated_gpus=(taken[:, 1] / state.FULL).tolist(),
            up_gpus=[gpus] * len(taken),
            fragmented_gpus=(taken[:, 3] / scale).tolist(),
            waiting=taken[:, 2].astype(np.int64).tolist(),
        )


def _refused(trace: job.Trace, scored: scoring.Scoring, tiers: bandwidth.Tiers) -> dict[int, reasons.Rejection]:
    """Return the shapes that not even the empty fleet holds, in the engine's words."""
    empty = state.empty(scored.topology)
    answers = ((n, engine.place(empty, shape.gang, scored, tiers)) for n, shape in enumerate(trace.shapes))
    return {n: answer for n, answer in answers if isinstance(answer, reasons.Rejection)}


def _classes(
    trace: job.Trace, scored: scoring.Scoring, refused: dict[int, reasons.Rejection]
) -> tuple["loop.Classes", "arrays.Pods", "gangs.Gangs", Ints]:
    """Number what jobs ask for; jobs that the queue takes for equal have one class."""
    fleet = scored.topology
    keys: dict[tuple[object, ...], int] = {}
    of_shape = []
    for shape in trace.shapes:
        gang = shape.gang
        of_shape.append(keys.setdefault((gang.roles, gang.constraint, gang.min_member), len(keys)))
    firsts = [of_shape.index(c) for c in range(len(keys))]
    examples = [trace.shapes[n].gang for n in firsts]
    wanted = list(dict.fromkeys(gang.roles[0].request for gang in examples))
    several = [gang for gang in examples if gang.size > 1]
    bounds = [domains.bounds(fleet.tree, gang.constraint, gang.roles[0]) for gang in several]
    rule = scored.policy.spec.gangs.devices
    best = [gang_price.best_possible(fleet, g.roles[0].request.gpu_models, rule, _whole_gpus(g)) for g in several]
    ganged = gangs.new_gangs(
        np.array([wanted.index(gang.roles[0].request) for gang in several], dtype=np.int64),
        np.array([gang.size for gang in several], dtype=np.int64),
        np.array([bound.required for bound in bounds], dtype=np.int64),
        np.array(best, dtype=np.int64),
        len(fleet.tree.names),
        len(fleet.nodes),
    )
    number = {id(gang): i for i, gang in enumerate(several)}
    classes = loop.Classes(
        pod=np.array([wanted.index(gang.roles[0].request) for gang in examples], dtype=np.int64),
        gang=np.array([number.get(id(gang), -1) for gang in examples], dtype=np.int64),
        size=np.array([gang.size for gang in examples], dtype=np.int64),
        whole=np.array([_whole_gpus(gang) for gang in examples], dtype=np.int64),
        never=np.array([n in refused for n in firsts], dtype=np.bool_),
    )
    pods = arrays.pods_of(scored, wanted)
    kind = np.array(of_shape, dtype=np.int64)[trace.shape] if len(trace) else np.zeros(0, dtype=np.int64)
    return classes, pods, ganged, kind


def _whole_gpus(gang: gangs_of_model.Gang) -> int:
    """Return the whole GPUs of a gang of one role."""
    pod = gang.roles[0].request
    return gang.size * pod.gpus if pod.kind is request.RequestKind.WHOLE else 0


def _jobs(trace: job.Trace, kind: Ints, classes: "loop.Classes") -> "loop.Jobs":
    """Return the rows of jobs of which nothing has happened."""
    total = len(trace)
    levels = np.unique(-trace.priority.astype(np.int64))
    return loop.Jobs(
        submit=trace.submit_s.astype(np.float64),
        duration=trace.duration_s.astype(np.float64),
        kind=kind,
        urgency=np.searchsorted(levels, -trace.priority.astype(np.int64)),
        slot=np.cumsum(np.concatenate([[0], classes.size[kind][:-1]])).astype(np.int64) if total else kind,
        state=np.zeros(total, dtype=np.int8),
        start=np.full(total, np.nan),
        end=np.full(total, np.nan),
        nodes=np.zeros(total, dtype=np.int64),
        level=np.full(total, -1, dtype=np.int64),
        bandwidth=np.zeros(total, dtype=np.int64),
    )
