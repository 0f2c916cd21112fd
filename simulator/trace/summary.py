"""What a trace holds, in figures."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.trace import job

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of a trace.

    Attributes
    ----------
    gpu_hours : float
        GPUs times run time over all jobs; shares as fractions, MIG partitions as one GPU each.
    span_s : float
        From the first submission to the last.
    kinds : tuple of (str, int)
        Jobs by how their pods cut GPUs; a gang with several ways counts by its first role.
    gangs : tuple of (float, int, float)
        GPUs of a job, rounded up; jobs of this size; their GPU-hours.
    tenants : tuple of (str, int, float)
        Jobs and GPU-hours of each, most GPU-hours first.
    duration_s, between_s : tuple of (int, float)
        Percentiles of run times, and of times between arrivals.
    arrival_cv : float
        Standard deviation over mean of the times between arrivals; 1 for a Poisson process.
    notes : tuple of str
        What the reader assumed or left out.
    """

    name: str
    sha256: str
    jobs: int
    pods: int
    gpus: float
    gpu_hours: float
    span_s: float
    kinds: tuple[tuple[str, int], ...]
    gangs: tuple[tuple[int, int, float], ...]
    tenants: tuple[tuple[str, int, float], ...]
    duration_s: tuple[tuple[int, float], ...]
    between_s: tuple[tuple[int, float], ...]
    arrival_cv: float
    notes: tuple[str, ...] = ()

    def offered_load(self, fleet_gpus: int) -> float:
        """Return GPU-hours asked for over GPU-hours that a fleet has while the jobs arrive; infinite for one instant."""
        if self.span_s <= 0 or fleet_gpus <= 0:
            return float("inf")
        return self.gpu_hours * 3600 / (self.span_s * fleet_gpus)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def summarise(trace: job.Trace) -> Summary:
    """Return the figures of a trace."""
    gpus = trace.gpus()
    hours = gpus * trace.duration_s / 3600
    between = np.diff(trace.submit_s)
    mean = float(between.mean()) if len(between) else 0.0
    return Summary(
        name=trace.name,
        sha256=trace.sha256,
        jobs=len(trace),
        pods=int(sum(s.gang.size * n for s, n in zip(trace.shapes, trace.shape_counts().tolist(), strict=True))),
        gpus=round(float(gpus.sum()), 6),
        gpu_hours=float(hours.sum()),
        span_s=float(trace.submit_s[-1] - trace.submit_s[0]) if len(trace) else 0.0,
        kinds=_kinds(trace),
        gangs=_gangs(gpus, hours),
        tenants=_tenants(trace, hours),
        duration_s=_percentiles(trace.duration_s),
        between_s=_percentiles(between),
        arrival_cv=float(between.std()) / mean if mean else 0.0,
        notes=trace.notes,
    )


def _kinds(trace: job.Trace) -> tuple[tuple[str, int], ...]:
    counts: dict[str, int] = {}
    for shape, jobs in zip(trace.shapes, trace.shape_counts().tolist(), strict=True):
        kind = shape.gang.roles[0].request.kind.value
        counts[kind] = counts.get(kind, 0) + jobs
    return tuple(sorted((kind, count) for kind, count in counts.items() if count))


def _gangs(gpus: job.Floats, hours: job.Floats) -> tuple[tuple[int, int, float], ...]:
    sizes, which = np.unique(np.ceil(np.round(gpus, 6)).astype(np.int64), return_inverse=True)
    jobs, weight = np.bincount(which, minlength=len(sizes)), np.bincount(which, hours, len(sizes))
    return tuple(zip(sizes.tolist(), jobs.tolist(), weight.tolist(), strict=True))


def _tenants(trace: job.Trace, hours: job.Floats) -> tuple[tuple[str, int, float], ...]:
    jobs = np.bincount(trace.tenant, minlength=len(trace.tenants)).tolist()
    weight = np.bincount(trace.tenant, hours, len(trace.tenants)).tolist()
    rows = [row for row in zip(trace.tenants, jobs, weight, strict=True) if row[1]]
    return tuple(sorted(rows, key=lambda row: (-row[2], row[0])))


def _percentiles(values: Iterable[float] | job.Floats) -> tuple[tuple[int, float], ...]:
    column = np.asarray(values, dtype=np.float64)
    return tuple((p, float(np.percentile(column, p))) for p in PERCENTILES) if len(column) else ()
