"""Speed and memory of the core."""

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from scheduler import policies
from scheduler.model import gang, reasons, request
from scheduler.placement import engine, placement, scoring, target
from scheduler.snapshot import state
from simulator import inflation, kernel
from simulator.fleet import load as fleets
from simulator.trace import load as traces
from tests.bench import clock, figure, inputs, million
from tests.bench import fleets as large

if kernel.AVAILABLE:
    from simulator.kernel import arrays, inflate

POD = request.PodRequest(cpu_milli=8000, memory_mib=65536, gpus=8)
WANTED = target.from_requests(
    [(request.PodRequest(gpus=n), share) for n, share in ((1, 60), (2, 10), (4, 10), (8, 20))]
)


def openb_run(given: Path | None) -> tuple[float, str]:
    """Return the time of one FGD run on the default workload, compiled code and caches warm."""
    folder = inputs.traces(given) / "openb"
    work = inflation.workload(traces.read(folder / "openb_pod_list_default.csv"))
    made = inflation.experiment(fleets.read(str(folder / "openb_node_list_gpu_node.csv")), work, policies.load("fgd"))
    seconds = clock.best_of(lambda: made.run(42), rounds=15, warm=2)
    own = clock.processor_of(lambda: made.run(42))
    return seconds, f"{len(made.run(42).node)} submissions, default workload; processor time {own:.3f} s"


def half_full(seed: int = 7) -> state.Snapshot:
    """Return the large fleet with about half of its GPUs taken, machine by machine unevenly."""
    snapshot = large.empty()
    generator = np.random.default_rng(seed)
    for node in range(len(snapshot.topology.nodes)):
        held = int(generator.integers(0, 9))
        if node % 64 >= 32 and held:
            mask = sum(1 << int(g) for g in generator.permutation(8)[:held])
            snapshot.take(state.Grant(node, mask, state.FULL, cpu_milli=1000 * held, memory_mib=1024 * held))
    return snapshot


def scored(name: str = "muster") -> scoring.Scoring:
    """Return a policy compiled for the large fleet."""
    return scoring.compile_scoring(policies.load(name), large.large(), WANTED)


def gang_planned() -> tuple[float, str]:
    """Return the time to plan 512 pods of eight GPUs on the half-full fleet, in ms."""
    snapshot, score = half_full(), scored()
    wanted = gang.Gang("bench", (gang.Role("worker", 512, POD),))
    answer = engine.place(snapshot, wanted, score)
    if not isinstance(answer, placement.Placement):
        raise figure.Missing(f"the gang was refused: {answer}")
    seconds = clock.median_of(lambda: engine.place(snapshot, wanted, score), rounds=31)
    return 1e3 * seconds, f"{len(answer.nodes)} nodes, level {answer.level}, median of 31"


def gang_refused() -> tuple[float, str]:
    """Return the time to refuse a gang that is larger than any domain of its level, in ms."""
    snapshot, score = half_full(), scored()
    constraint = gang.TopologyConstraint(required="rack")
    wanted = gang.Gang("bench", (gang.Role("worker", 512, POD),), constraint=constraint)
    answer = engine.place(snapshot, wanted, score)
    if not isinstance(answer, reasons.Rejection):
        raise figure.Missing("the gang was placed")
    seconds = clock.median_of(lambda: engine.place(snapshot, wanted, score), rounds=31)
    return 1e3 * seconds, f"{answer.reason.value}, median of 31"


def compiled_pass() -> tuple[float, str]:
    """Return the time of one compiled decision for a lone pod over all nodes after one node changed, in us."""
    if not kernel.AVAILABLE:
        raise figure.Missing("numba is not installed")
    snapshot, score = half_full(), scored()
    pods = arrays.pods_of(score, [request.PodRequest(cpu_milli=8000, memory_mib=65536, gpus=1)])
    rule = arrays.rule_of(score)

    def decide(count: int) -> None:
        inflate.inflate(arrays.nodes_of(snapshot), pods, rule, np.zeros(count, dtype=np.int64))

    # The difference of two lengths leaves out what happens once per run.
    short, long = (clock.best_of(functools.partial(decide, count), rounds=7) for count in (1000, 5000))
    return 1e6 * (long - short) / 4000, "cost row kept, one node changed, pod placed; mean of 4,000"


def numpy_pass() -> tuple[float, str]:
    """Return the time of one pass of the NumPy engine over the kept costs of all nodes, in us."""
    snapshot, score = half_full(), scored()
    wanted = score.demand(request.PodRequest(cpu_milli=8000, memory_mib=65536, gpus=1))
    score.choose(snapshot, wanted)
    return 1e6 * clock.median_of(lambda: score.choose(snapshot, wanted), rounds=501), "cost row kept; median of 501"


def numpy_changed() -> tuple[float, str]:
    """Return the time of one decision of the NumPy engine over all nodes after one node changed, in us."""
    snapshot, score = half_full(), scored()
    wanted = score.demand(request.PodRequest(cpu_milli=8000, memory_mib=65536, gpus=1))
    grant = state.Grant(3, 1, state.FULL)

    def decide() -> None:
        snapshot.take(grant)
        score.choose(snapshot, wanted)
        snapshot.release(grant)
        score.choose(snapshot, wanted)

    def change() -> None:
        snapshot.take(grant)
        snapshot.release(grant)

    decide()
    changes = clock.median_of(change, rounds=501)
    both = clock.median_of(decide, rounds=501)
    return 1e6 * (both - changes) / 2, "cost row kept, one node changed; median of 501"


def snapshot_copy() -> float:
    """Return the time to copy the occupancy of the large fleet, in us."""
    return 1e6 * clock.median_of(half_full().copy, rounds=501)


def naive_ratio() -> tuple[float, str]:
    """Return how many times longer a decision takes when every node is scored anew."""
    snapshot, pod = half_full(), request.PodRequest(cpu_milli=8000, memory_mib=65536, gpus=1)
    kept = scored()
    kept.choose(snapshot, kept.demand(pod))
    grant = state.Grant(3, 1, state.FULL)
    fresh = replace(kept, _rows={})

    def incremental() -> None:
        snapshot.take(grant)
        kept.choose(snapshot, kept.demand(pod))
        snapshot.release(grant)

    def naive() -> None:
        snapshot.take(grant)
        fresh._rows.clear()
        fresh.choose(snapshot, fresh.demand(pod))
        snapshot.release(grant)

    slow, quick = clock.median_of(naive, rounds=51), clock.median_of(incremental, rounds=201)
    return slow / quick, f"{1e6 * slow:.0f} us against {1e6 * quick:.0f} us"


def measurements(given: Path | None) -> Iterator[tuple[str, figure.Measurement]]:
    """Yield the figures of the benchmark."""
    yield "openb FGD run, warm", functools.partial(openb_run, given)
    yield "512-pod gang planned", gang_planned
    yield "impossible gang refused", gang_refused
    yield "scoring pass, 5000 nodes: compiled", compiled_pass
    yield "scoring pass, 5000 nodes: NumPy engine", numpy_pass
    yield "NumPy decision after one node changed", numpy_changed
    yield "snapshot copy, 5000 x 8", snapshot_copy
    yield "naive against incremental scoring", naive_ratio
    yield "million jobs on 5000 x 8", million.seconds
    yield "million jobs, peak memory", million.peak_gib
