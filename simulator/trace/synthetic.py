"""Seeded workloads with gangs, tenants, priorities and pools, for use without any trace.

The random generator is passed in, and every draw is a draw of a whole column in a fixed order, so that one seed gives
one trace.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from scheduler import document
from scheduler.model import gang, request
from simulator.trace import job, pods, pools, workload

GRID = 4096
"""Points per period at which the daily arrival rate is integrated."""


def read(path: Path) -> workload.Workload:
    """Read a workload document.

    Raises
    ------
    TraceError
    """
    return document.read(path, job.TraceError).check(workload.Workload)


def generate(source: workload.Workload, random: np.random.Generator) -> job.Trace:
    """Draw a trace.

    Notes
    -----
    The time over which jobs arrive follows from the run times that were drawn, so the offered load is exact; pools
    come on top of it.
    """
    spec = source.spec
    shape = _choices([row.weight for row in spec.classes], spec.jobs, random)
    shapes = [job_shape(row) for row in spec.classes]
    duration = _durations(spec, shape, random)
    gpus = np.array([sum(r.count * job.gpu_equivalents(r.request) for r in s.gang.roles) for s in shapes])[shape]
    horizon_s = max(float((gpus * duration).sum()) / (spec.offered_load * spec.fleet_gpus), 1.0)
    trace = job.build(
        source.metadata.name,
        shapes,
        names=_names(spec, shape),
        submit_s=_arrivals(spec, horizon_s, random),
        duration_s=duration,
        expected_s=duration * random.uniform(1.0, spec.overestimate, spec.jobs),
        shape=shape,
        tenant=_choices([row.weight for row in spec.tenants], spec.jobs, random),
        tenants=[row.name for row in spec.tenants],
        priority=np.array([row.priority for row in spec.classes], dtype=np.int32)[shape],
    )
    if not spec.pools:
        return trace
    return job.concat(source.metadata.name, [trace, *(_pool(row, horizon_s, random) for row in spec.pools)])


def job_shape(row: workload.JobClass) -> job.JobShape:
    """Return the shape of a class.

    Raises
    ------
    ValueError
        The gang contradicts itself.
    """
    roles = _roles(row)
    template = gang.Gang(
        name=row.name,
        roles=roles,
        constraint=gang.TopologyConstraint(row.required, row.preferred),
        min_member=row.min_pods,
        preemptible=row.preemptible,
    )
    together = row.gpus > 1
    return job.JobShape(template, row.communication_milli * together, row.message_bytes * together)


def _roles(row: workload.JobClass) -> tuple[gang.Role, ...]:
    """Return the pods of a job."""
    models = tuple(sorted(set(row.gpu_models)))
    if row.gpus and row.gpu_milli == 1000 and not row.mig:
        size = pods.PodSize(row.gpus_per_pod, row.cpu_milli, row.memory_mib)
        segment = gang.Segment(row.segment_pods, row.segment_level) if row.segment_pods else None
        return tuple(
            gang.Role(role.name, role.count, _of_models(role.request, models), segment=segment)
            for role in pods.training(row.gpus, size).gang.roles
        )
    pod = request.PodRequest(
        cpu_milli=row.cpu_milli,
        memory_mib=row.memory_mib,
        gpus=row.gpus,
        gpu_milli=row.gpu_milli,
        mig=row.mig,
        gpu_models=models,
    )
    return (gang.Role("worker", 1, pod),)


def _of_models(pod: request.PodRequest, models: tuple[str, ...]) -> request.PodRequest:
    return request.PodRequest(pod.cpu_milli, pod.memory_mib, pod.gpus, gpu_models=models)


def _choices(weights: list[float], size: int, random: np.random.Generator) -> job.Ints:
    """Draw indices in proportion to weights."""
    edges = np.cumsum(weights) / np.sum(weights)
    return np.minimum(np.searchsorted(edges, random.random(size), side="right"), len(weights) - 1).astype(np.int32)


def _durations(spec: workload.Spec, shape: job.Ints, random: np.random.Generator) -> job.Floats:
    """Draw log-normal run times."""
    normal = random.standard_normal(spec.jobs)
    column = {
        name: np.array([getattr(row.duration, name) for row in spec.classes])[shape]
        for name in ("median_s", "sigma", "min_s", "max_s")
    }
    drawn = column["median_s"] * np.exp(column["sigma"] * normal)
    # Whole milliseconds: sums of times then are the same on every machine.
    return np.asarray(np.round(np.clip(drawn, column["min_s"], column["max_s"]), 3), dtype=np.float64)


def _arrivals(spec: workload.Spec, horizon_s: float, random: np.random.Generator) -> job.Floats:
    """Draw submission times over the horizon, in order."""
    spacing = random.gamma(spec.burstiness**-2, 1.0, spec.jobs)
    even = np.cumsum(spacing) / spacing.sum()
    if not spec.swing:
        return np.asarray(np.round(even * horizon_s, 3), dtype=np.float64)
    points = np.linspace(0, horizon_s, int(min(horizon_s / spec.period_s + 1, 1000) * GRID))
    phase = 2 * np.pi * points / spec.period_s
    arrived = points - spec.swing * spec.period_s / (2 * np.pi) * np.sin(phase)
    return np.asarray(np.round(np.interp(even, arrived / arrived[-1], points), 3), dtype=np.float64)


def _names(spec: workload.Spec, shape: job.Ints) -> job.Texts:
    """Return class and number."""
    width = len(str(spec.jobs - 1))
    names = [row.name for row in spec.classes]
    return np.array([f"{names[kind]}-{i:0{width}d}" for i, kind in enumerate(shape.tolist())], dtype=job.TEXT)


def _pool(pool: workload.Pool, horizon_s: float, random: np.random.Generator) -> job.Trace:
    """Draw the replicas of a pool over the horizon.

    Notes
    -----
    One entry stands for all requests of a window: the capacity model only adds tokens up.
    """
    windows = max(int(horizon_s // pool.capacity.window_s), 1)
    if windows > pools.MAX_WINDOWS:
        raise job.TraceError(f"pool {pool.name}: more than {pools.MAX_WINDOWS} windows", remedy="raise window_s")
    middle = (np.arange(windows, dtype=np.float64) + 0.5) * pool.capacity.window_s
    rate = pool.requests_s * (1 + pool.swing * np.cos(2 * np.pi * (middle - pool.peak_s) / pool.period_s))
    count = random.poisson(rate * pool.capacity.window_s)
    requests = pools.Requests(
        name=pool.name,
        sha256="",
        arrival_s=np.asarray(middle, dtype=np.float64),
        prompt_tokens=np.round(count * pool.prompt_tokens).astype(np.int64),
        output_tokens=np.round(count * pool.output_tokens).astype(np.int64),
    )
    return replace(pools.jobs(requests, pool.capacity, pool.priority), notes=())
