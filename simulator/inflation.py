"""The inflation protocol of the FGD study (ATC'23), step by step as published.

Pods arrive one at a time until the requests reach 130 % of the fleet's GPUs. Nothing departs, nothing is retried: what
does not fit is dropped. Reported is the GPU left unallocated at each arrived load.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scheduler.model import fabric, request
from scheduler.placement import policy, scoring, target
from scheduler.placement.score import tables
from scheduler.snapshot import state, topology
from simulator import kernel
from simulator.trace import job

if kernel.AVAILABLE:
    from simulator.kernel import arrays, inflate

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

TUNING = 1.3
LOADS = 131
"""Buckets 0..130 of arrived load, per cent."""

KINDS = ("CPU-only", "share", "1 GPU", "2 GPU", "4 GPU", "8 GPU", "other")
_OF_SIZE = {1: 2, 2: 3, 4: 4, 8: 5}


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """A pod list: distinct requests, and the request of every pod in the order of the pods' names."""

    name: str
    requests: tuple[request.PodRequest, ...]
    pods: NDArray[np.int32]

    def target(self) -> target.TargetWorkload:
        """Return the distribution of the pods: what the study's policies know about the future."""
        counts = np.bincount(self.pods, minlength=len(self.requests)).tolist()
        return target.from_requests(zip(self.requests, counts, strict=True))

    def kinds(self) -> Ints:
        """Return the row in `KINDS` of every request."""
        return np.array([_kind(pod) for pod in self.requests], dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run of the protocol.

    Attributes
    ----------
    node : ndarray of int64, shape (S,)
        Where each submission went, -1 for dropped ones.
    used_milli, arrived_milli : ndarray of int64, shape (S,)
        GPU milli allocated and requested so far, dropped pods included in the latter.
    fragmentation : ndarray of int64, shape (S,)
        Fragmentation of the fleet over the popular 95 % of the target, milli-GPU times `fragmentation_scale`.
    submitted, refused : ndarray of int64, shape (7,)
        Pods per kind, in the order of `KINDS`.
    """

    node: Ints
    used_milli: Ints
    arrived_milli: Ints
    fragmentation: Ints
    fragmentation_scale: int
    capacity_milli: int
    submitted: Ints
    refused: Ints

    def unallocated(self) -> Floats:
        """Return the unallocated GPU in per cent at arrived loads 0..130, shape (131,)."""
        rounded = np.round(100 * self.used_milli / self.capacity_milli, 2)
        return np.asarray(100.0 - self._by_load(rounded))

    def fragmentation_percent(self) -> Floats:
        """Return the fragmentation in per cent of the fleet's GPUs at arrived loads 0..130, shape (131,)."""
        scale = self.fragmentation_scale * self.capacity_milli
        return self._by_load(100 * self.fragmentation / max(1, scale))

    def _by_load(self, values: Floats) -> Floats:
        """Average over the submissions of each bucket; an empty bucket borrows from its neighbours.

        Buckets are rounded half to even, as pandas rounds in the study's scripts.
        """
        bucket = np.rint(100 * self.arrived_milli / self.capacity_milli).astype(np.int64)
        count = np.bincount(bucket, minlength=LOADS)[:LOADS]
        total = np.bincount(bucket, weights=values, minlength=LOADS)[:LOADS]
        mean = np.divide(total, count, out=np.full(LOADS, np.nan), where=count > 0)
        for load in np.flatnonzero(count == 0).tolist():
            near = [at for at in (load + 1, load - 1) if 0 <= at < LOADS and count[at]]
            mean[load] = mean[near[0]] if near else np.nan
        return np.asarray(mean)


def workload(trace: job.Trace) -> Workload:
    """Make a workload of a trace of lone pods, ordered by name as the study does.

    Raises
    ------
    TraceError
        The trace has gangs.
    """
    for shape in trace.shapes:
        if shape.gang.size != 1:
            raise job.TraceError(f"the protocol submits lone pods, {trace.name} has gangs of {shape.gang.size}")
    order = np.argsort(trace.names, kind="stable")
    return Workload(trace.name, tuple(s.gang.roles[0].request for s in trace.shapes), trace.shape[order])


def submissions(work: Workload, capacity_milli: int, generator: np.random.Generator) -> Ints:
    """Draw the order of submissions.

    Returns
    -------
    ndarray of int64
        Request of every submission: the shuffled pods, then sampled ones until the next would exceed 130 % of the
        capacity; or the shuffled pods with random ones deleted until they are within it.

    Notes
    -----
    The study compares the total plus the *per-GPU* milli of the sampled pod with the limit, not its whole request.
    """
    whole = np.array([pod.total_gpu_milli for pod in work.requests], dtype=np.int64)
    per_gpu = np.array([pod.gpu_milli if pod.gpus else 0 for pod in work.requests], dtype=np.int64)
    pods = work.pods.astype(np.int64)
    sequence = pods[generator.permutation(len(pods))]
    limit = int(TUNING * capacity_milli)
    total = int(whole[sequence].sum())
    if total > limit:
        return _thin(sequence, whole, total - limit, generator)
    extra: list[int] = []
    while True:
        drawn = int(pods[generator.integers(len(pods))])
        if total + int(per_gpu[drawn]) > limit or not whole.any():
            return np.concatenate([sequence, np.array(extra, dtype=np.int64)])
        extra.append(drawn)
        total += int(whole[drawn])


def _thin(sequence: Ints, whole: Ints, excess: int, generator: np.random.Generator) -> Ints:
    """Delete uniformly random pods until their requests fall by `excess`."""
    order = generator.permutation(len(sequence))
    removed = int(np.searchsorted(np.cumsum(whole[sequence[order]]), excess)) + 1
    keep = np.ones(len(sequence), dtype=np.bool_)
    keep[order[:removed]] = False
    return sequence[keep]


@dataclass(frozen=True, slots=True, eq=False)
class Experiment:
    """A fleet and a workload, compiled once for all seeds of a policy."""

    fleet: topology.Topology
    work: Workload
    policy: policy.ScoringPolicy
    tables: tables.Tables

    def run(self, seed: int, compiled: bool | None = None) -> Run:
        """Run the protocol once.

        Parameters
        ----------
        seed : int
            Draws the order of submissions and the node order that breaks ties, the same for every policy.
        compiled : bool, optional
            Use compiled code; by default where it is available. The result is the same.
        """
        generator = np.random.default_rng(seed)
        capacity = self.fleet.total_gpus * state.FULL
        sequence = submissions(self.work, capacity, generator)
        tie = generator.permutation(len(self.fleet.nodes)).astype(np.int32)
        fleet = replace(self.fleet, tie=tie)
        weighed = replace(self.tables, seed=seed)
        scored = scoring.Scoring(self.policy, fleet, self.work.target(), weighed, seed)
        chosen = _compiled if (kernel.AVAILABLE if compiled is None else compiled) else _interpreted
        node, used, fragments = chosen(scored, self.work, sequence)
        return _finish(self, sequence, node, used, fragments, capacity)


def experiment(source: fabric.Fabric, work: Workload, chosen: policy.ScoringPolicy) -> Experiment:
    """Compile fleet, workload and policy."""
    fleet = topology.compile_topology(source)
    return Experiment(fleet, work, chosen, tables.compile_tables(fleet, work.target(), policy.pod_weights(chosen), 0))


def _finish(made: Experiment, sequence: Ints, node: Ints, used: Ints, fragments: Ints, capacity: int) -> Run:
    """Add up what was asked for and what was refused."""
    whole = np.array([pod.total_gpu_milli for pod in made.work.requests], dtype=np.int64)
    kinds = made.work.kinds()[sequence]
    return Run(
        node=node,
        used_milli=used,
        arrived_milli=np.cumsum(whole[sequence]),
        fragmentation=fragments,
        fragmentation_scale=made.tables.popular.total,
        capacity_milli=capacity,
        submitted=np.bincount(kinds, minlength=len(KINDS)).astype(np.int64),
        refused=np.bincount(kinds[node < 0], minlength=len(KINDS)).astype(np.int64),
    )


def _compiled(scored: scoring.Scoring, work: Workload, sequence: Ints) -> tuple[Ints, Ints, Ints]:
    """Place the submissions with compiled code."""
    empty = state.empty(scored.topology)
    pods = arrays.pods_of(scored, work.requests)
    series = inflate.inflate(arrays.nodes_of(empty), pods, arrays.rule_of(scored), sequence)
    return series.node, series.used, series.fragmentation


def _interpreted(scored: scoring.Scoring, work: Workload, sequence: Ints) -> tuple[Ints, Ints, Ints]:
    """Place the submissions with the NumPy engine."""
    snapshot = state.empty(scored.topology)
    measure = scored.tables.popular
    every = np.arange(len(scored.topology.nodes))
    fragments = measure.of(snapshot.gpu_free.astype(np.int64), snapshot.cpu_free, every)
    node = np.full(len(sequence), -1, dtype=np.int64)
    used, total = np.zeros(len(sequence), dtype=np.int64), np.zeros(len(sequence), dtype=np.int64)
    milli = 0
    for i, pod in enumerate(sequence.tolist()):
        wanted = scored.demand(work.requests[pod])
        found = scored.choose(snapshot, wanted)
        if found:
            snapshot.take(scored.grant(snapshot, wanted, found))
            at = np.array([found.node])
            fragments[at] = measure.of(snapshot.gpu_free[at].astype(np.int64), snapshot.cpu_free[at], at)
            node[i] = found.node
            milli += wanted.total_gpu_milli
        used[i], total[i] = milli, fragments.sum()
    return node, used, total


def _kind(pod: request.PodRequest) -> int:
    """Return the row of a request in `KINDS`."""
    match pod.kind:
        case request.RequestKind.CPU:
            return 0
        case request.RequestKind.SHARE:
            return 1
        case request.RequestKind.WHOLE:
            return _OF_SIZE.get(pod.gpus, len(KINDS) - 1)
        case _:
            return len(KINDS) - 1


def seeds(count: int, first: int = 42) -> Sequence[int]:
    """Return the study's seeds: 42, 43, ..."""
    return range(first, first + count)
