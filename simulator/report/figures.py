"""An outcome reduced to figures and curves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator import metrics, outcome, scenario
from simulator.report import plots
from simulator.trace import job

Rows = NDArray[np.bool_]

BOUNDED_S = 600.0
"""Shorter run times count as this long in the bounded slowdown, so that trivial jobs do not rule the mean."""


@dataclass(frozen=True, slots=True)
class Gangs:
    """What became of the jobs of more than one pod; every gang is in exactly one of the first five."""

    whole: int
    reduced: int
    refused: int
    waiting: int
    unexplained: int
    total: int

    @property
    def success(self) -> float:
        """Return the share that was placed whole (or with its minimum), or refused or kept waiting with a reason."""
        return 1 - self.unexplained / self.total if self.total else float("nan")


def submitted(found: outcome.Outcome) -> Rows:
    """Return the jobs that arrived and were not refused for good."""
    state = found.jobs.state
    there: Rows = (state != outcome.State.ABSENT) & (state != outcome.State.REJECTED)
    return there


def sizes(trace: job.Trace) -> NDArray[np.int64]:
    """Return the GPUs of each job, rounded up."""
    return np.ceil(np.round(trace.gpus(), 6)).astype(np.int64)


def pods(trace: job.Trace) -> NDArray[np.int64]:
    """Return the pods of each job."""
    return np.array([shape.gang.size for shape in trace.shapes], dtype=np.int64)[trace.shape]


def gangs(found: outcome.Outcome) -> Gangs:
    """Sort the gangs by what became of them."""
    state, size = found.jobs.state, pods(found.trace)
    several = (size > 1) & (state != outcome.State.ABSENT)
    started = several & (found.jobs.starts > 0)
    refused = several & (state == outcome.State.REJECTED)
    waiting = several & ~started & ~refused
    told = np.zeros(len(state), dtype=np.bool_)
    told[list(found.refusals)] = True
    minimum = np.array([shape.gang.minimum for shape in found.trace.shapes], dtype=np.int64)[found.trace.shape]
    whole = started & (found.jobs.placed == size)
    reduced = started & ~whole & (found.jobs.placed >= minimum)
    fates = [int(rows.sum()) for rows in (whole, reduced, refused & told, waiting & told)]
    total = int(several.sum())
    return Gangs(fates[0], fates[1], fates[2], fates[3], total - sum(fates), total)


def measures(found: outcome.Outcome) -> dict[str, float]:
    """Return the figures by which replays are compared; lower is better but for those in `HIGHER`."""
    jobs, there = found.jobs, submitted(found)
    wait = jobs.wait_s[there] if there.any() else np.zeros(1)
    gpus, finished = found.trace.gpus(), jobs.state == outcome.State.FINISHED
    large = there & (sizes(found.trace) >= 8)
    flow = (jobs.wait_s + jobs.run_s)[finished]
    slowdown = np.maximum(1.0, flow / np.maximum(jobs.reference_s[finished], BOUNDED_S))
    ring = jobs.reference_mb_s > 0
    return {
        "wait, mean (s)": float(wait.mean()),
        "wait, p50 (s)": float(np.percentile(wait, 50)),
        "wait, p90 (s)": float(np.percentile(wait, 90)),
        "wait, p99 (s)": float(np.percentile(wait, 99)),
        "wait of jobs of 8 GPUs and more, mean (s)": float(jobs.wait_s[large].mean()) if large.any() else 0.0,
        "bounded slowdown, mean": float(slowdown.mean()) if len(slowdown) else 0.0,
        "makespan (s)": found.end_s - float(found.trace.submit_s[0]) if len(found.trace) else 0.0,
        "utilisation (%)": 100 * utilisation(found),
        "goodput (%)": 100 * np.nan_to_num(metrics.goodput(found)).item(),
        "effective training time (%)": 100 * np.nan_to_num(metrics.effective_ratio(found)).item(),
        "fragmentation (% of GPUs)": 100 * fragmentation(found),
        "bandwidth (% of the best)": 100 * share_of_best(found, ring),
        "jobs refused": float((jobs.state == outcome.State.REJECTED).sum()),
        "jobs not finished": float(len(found.trace) - finished.sum() - (jobs.state == outcome.State.REJECTED).sum()),
        "GPU-hours lost": float((gpus * jobs.lost_s).sum()) / 3600,
    }


HIGHER = frozenset({"utilisation (%)", "goodput (%)", "effective training time (%)", "bandwidth (% of the best)"})


def utilisation(found: outcome.Outcome) -> float:
    """Return GPU time in use over GPU time in service while jobs arrived; the tail after that says little."""
    return _over_time(found, found.series.allocated_gpus, found.series.up_gpus)


def fragmentation(found: outcome.Outcome) -> float:
    """Return free GPUs that the target workload cannot use, over GPUs in service, while jobs arrived."""
    return _over_time(found, found.series.fragmented_gpus, found.series.up_gpus)


def _over_time(found: outcome.Outcome, part: Sequence[float], of: Sequence[float]) -> float:
    """Return the ratio of two series' integrals up to the last arrival."""
    time = np.asarray(found.series.time_s)
    if len(time) < 2:
        return 0.0
    inside = np.diff(np.minimum(time, found.trace.submit_s[-1]))
    whole = float((inside * np.asarray(of)[:-1]).sum())
    return float((inside * np.asarray(part)[:-1]).sum()) / whole if whole else 0.0


def share_of_best(found: outcome.Outcome, rows: Rows) -> float:
    """Return predicted bandwidth over that of the best placement of the empty fleet, mean over started jobs."""
    jobs = found.jobs
    known = rows & (jobs.starts > 0) & (jobs.reference_mb_s > 0) & (jobs.bandwidth_mb_s > 0)
    if not known.any():
        return 0.0
    return float((jobs.bandwidth_mb_s[known] / jobs.reference_mb_s[known]).mean())


def bins(size: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return sizes as bins: 0, 1, 2, 3-4, 5-8, ... of which each holds a job."""
    top = int(size.max(initial=0))
    edges = [(0, 0), (1, 1)] + [(high // 2 + 1, high) for high in (2**i for i in range(1, 32)) if high // 2 < top]
    return [(low, high) for low, high in edges if ((size >= low) & (size <= high)).any()]


def curves(runs: Sequence[scenario.Run], part: str, percent: bool = True) -> list[plots.Curve]:
    """Return one series of every run over time, of all GPUs in per cent where asked."""
    made = []
    for run in runs:
        series = run.outcome.series
        scale = 100 / max(1, run.outcome.topology.total_gpus) if percent else 1.0
        y = np.asarray(getattr(series, part), dtype=np.float64) * scale
        made.append(plots.Curve(run.outcome.policy, np.asarray(series.time_s, dtype=np.float64), y))
    return made


def wait_curves(runs: Sequence[scenario.Run]) -> list[plots.Curve]:
    """Return the distribution of waits of every run."""
    made = []
    for run in runs:
        wait = np.sort(run.outcome.jobs.wait_s[submitted(run.outcome)])
        share = np.arange(1, len(wait) + 1) / max(1, len(wait))
        made.append(plots.Curve(run.outcome.policy, np.concatenate(([0.0], wait)), np.concatenate(([0.0], share))))
    return made
