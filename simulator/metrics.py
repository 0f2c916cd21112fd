"""How much of the time in service was work, and how tightly gangs were put together: figures from an outcome's columns.

Useful run time is what neither a failure undid nor a restart took: ``run_s - lost_s``.

References
----------
Effective training time ratio: Kokolis et al., "Revisiting Reliability in Large-Scale Machine Learning Research Clusters"
(HPCA 2025); productive time over the time that passed, here weighted by GPUs.
"""

import numpy as np
from numpy.typing import NDArray

from simulator import outcome
from simulator.trace import job

Rows = NDArray[np.bool_]
Floats = NDArray[np.float64]


def useful_s(found: outcome.Outcome) -> Floats:
    """Return the useful run time of every job."""
    useful: Floats = found.jobs.run_s - found.jobs.lost_s
    return useful


def effective_ratio(found: outcome.Outcome, rows: Rows | None = None) -> float:
    """Return the effective training time ratio of the jobs that started: useful time over time since the first start.

    Time in the queue between two runs counts as lost, the wait before the first start does not.

    Parameters
    ----------
    rows : ndarray of bool, optional
        Only these jobs.
    """
    jobs = found.jobs
    started = jobs.starts > 0 if rows is None else rows & (jobs.starts > 0)
    weight = found.trace.gpus()[started]
    ended = np.where(np.isnan(jobs.end_s), found.end_s, jobs.end_s)
    passed = float((weight * (ended - jobs.start_s)[started]).sum())
    return float((weight * useful_s(found)[started]).sum()) / passed if passed else float("nan")


def goodput(found: outcome.Outcome) -> float:
    """Return useful GPU time over GPU time in service, from the first submission to the end.

    Work that a worse placement slowed down counts as what it would have taken on the best one.
    """
    served = served_gpu_s(found)
    work = useful_s(found) / _stretch(found)
    return float((found.trace.gpus() * work).sum()) / served if served else float("nan")


def served_gpu_s(found: outcome.Outcome) -> float:
    """Return the integral of GPUs in service over time, a step function between samples."""
    time, up = np.asarray(found.series.time_s), np.asarray(found.series.up_gpus)
    if not len(time):
        return 0.0
    return float((np.diff(np.append(time, max(found.end_s, time[-1]))) * up).sum())


def _stretch(found: outcome.Outcome) -> Floats:
    """Return how many times as long finished jobs took as on the best placement; 1 for the others."""
    jobs = found.jobs
    known = (jobs.state == outcome.State.FINISHED) & (jobs.reference_s > 0)
    return np.where(known, useful_s(found) / np.where(known, jobs.reference_s, 1.0), 1.0)


def gpu_types(trace: job.Trace) -> list[str]:
    """Return, per shape, the GPU types that its jobs ask for: ``any``, ``none``, or names joined by a bar."""
    found = []
    for shape in trace.shapes:
        wanted = [role.request for role in shape.gang.roles if role.request.gpus]
        named = sorted({model for one in wanted for model in one.gpu_models})
        found.append("none" if not wanted else "|".join(named) or "any")
    return found


def by_type(trace: job.Trace) -> dict[str, Rows]:
    """Return the jobs that ask for each GPU type, most jobs first."""
    labels = gpu_types(trace)
    rows = {name: np.array([label == name for label in labels], dtype=np.bool_)[trace.shape] for name in labels}
    return dict(sorted(rows.items(), key=lambda one: (-int(one[1].sum()), one[0])))
