"""Small replays: one row of equal machines, jobs as columns, cheap rules."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from scheduler.gang import config
from scheduler.model import gang as gangs
from scheduler.model import request
from scheduler.placement import policy, scoring
from scheduler.snapshot import topology
from simulator import replay
from simulator.trace import job
from tests.placement import fleets

POD = request.PodRequest(gpus=1)


def scored(fleet: topology.Topology, pods: str = "first-fit", domains: str = "tas-best-fit") -> scoring.Scoring:
    """Compile a policy of cheap rules."""
    gang_rules = policy.GangScoring(domains=domains, devices="first-fit")
    spec = policy.Spec(pods=policy.PodScoring(rule=pods), gangs=gang_rules)
    return scoring.compile_scoring(policy.ScoringPolicy(metadata=policy.Metadata(name="test"), spec=spec), fleet)


def shape(pods: int = 1, required: str = "", communication_milli: int = 0, **fields: Any) -> job.JobShape:
    """Return jobs of some pods; `fields` are those of the pods' request."""
    wanted = request.PodRequest(**({"gpus": 1} | fields))
    role = gangs.Role("worker", pods, wanted)
    one = gangs.Gang(f"{pods}x{wanted.gpus}", (role,), constraint=gangs.TopologyConstraint(required))
    return job.JobShape(one, communication_milli, 1 << 26)


def trace(submit_s: ArrayLike, duration_s: ArrayLike, shapes: Sequence[job.JobShape] = (), **columns: Any) -> job.Trace:
    """Return jobs named j0, j1, ... of one shape, unless the column `shape` says otherwise."""
    submit = np.asarray(submit_s, dtype=np.float64)
    columns.setdefault("names", [f"j{i}" for i in range(len(submit))])
    columns.setdefault("shape", np.zeros(len(submit), dtype=np.int32))
    return job.build("test", shapes or (shape(),), submit_s=submit, duration_s=duration_s, **columns)


def made(
    jobs: job.Trace, fleet: topology.Topology | None = None, queue: str | config.QueueConfig = "skip", **fields: Any
) -> replay.Replay:
    """Return a replay on one rack of two four-GPU machines, unless told otherwise; invariants are checked."""
    compiled = scored(fleet if fleet is not None else fleets.racks(2))
    mode = config.QueueConfig(mode=queue) if isinstance(queue, str) else queue  # type: ignore[arg-type]
    return replay.Replay(jobs, compiled, mode, **({"validate": True} | fields))


def mixed(count: int, seed: int, gap_s: float = 8.0) -> job.Trace:
    """Return a busy mix of lone pods, shares and gangs of three tenants and priorities, run times known roughly."""
    draw = np.random.default_rng(seed)
    shapes = (shape(), shape(gpu_milli=400), shape(gpus=2), shape(2, gpus=4), shape(3), shape(2, "rack", gpus=2))
    duration = draw.exponential(60.0, count)
    return trace(
        np.cumsum(draw.exponential(gap_s, count)),
        duration,
        shapes,
        shape=draw.integers(0, len(shapes), count),
        tenant=draw.integers(0, 3, count),
        tenants=("a", "b", "c"),
        priority=draw.integers(0, 3, count),
        expected_s=duration * draw.uniform(1.0, 2.0, count),
    )
