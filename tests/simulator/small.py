"""Small busy traces on small unequal fleets, drawn; and what their replay decided in a form that can be compared."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from scheduler.gang import config
from scheduler.model import gang, node, request
from scheduler.placement import policy, scoring, target
from scheduler.snapshot import topology
from simulator import outcome, replay
from simulator.trace import job
from tests.placement import fleets


@dataclass(frozen=True)
class Job:
    """A row of a trace, written shortly."""

    name: str
    submit_s: float
    duration_s: float
    pods: int = 1
    gpus: int = 1
    milli: int = 1000
    cpu: int = 0
    required: str = ""
    models: tuple[str, ...] = ()
    priority: int = 0

    def shape(self) -> job.JobShape:
        models = self.models if self.gpus else ()
        pod = request.PodRequest(cpu_milli=self.cpu * 1000, gpus=self.gpus, gpu_milli=self.milli, gpu_models=models)
        constraint = gang.TopologyConstraint(self.required)
        return job.JobShape(gang.Gang("shape", (gang.Role("worker", self.pods, pod),), constraint=constraint))


def trace(jobs: Sequence[Job]) -> job.Trace:
    """Build a trace."""
    shapes = list(dict.fromkeys(one.shape() for one in jobs))
    return job.build(
        "test",
        shapes,
        names=[one.name for one in jobs],
        submit_s=[one.submit_s for one in jobs],
        duration_s=[one.duration_s for one in jobs],
        shape=[shapes.index(one.shape()) for one in jobs],
        priority=[one.priority for one in jobs],
    )


TARGET = target.from_requests(
    [
        (request.PodRequest(gpus=1, gpu_milli=500, cpu_milli=2000), 5),
        (request.PodRequest(gpus=1, cpu_milli=4000), 6),
        (request.PodRequest(gpus=2, cpu_milli=4000), 2),
        (request.PodRequest(gpus=4, cpu_milli=8000), 1),
    ]
)
"""Fixed: where the target follows the trace, every added job changes every score."""


def scored(
    fleet: topology.Topology,
    rule: policy.PodRule = "best-fit",
    domains: policy.DomainRule = "opportunity-cost",
    weights: dict[str, int] | None = None,
    gang_weights: dict[str, int] | None = None,
    expected: target.TargetWorkload = TARGET,
) -> scoring.Scoring:
    """Compile a policy for the fixed target."""
    pods = policy.PodScoring(rule=rule, weights=weights or {})
    spec = policy.Spec(pods=pods, gangs=policy.GangScoring(domains=domains, weights=gang_weights or {}))
    return scoring.compile_scoring(
        policy.ScoringPolicy(metadata=policy.Metadata(name="test"), spec=spec), fleet, expected
    )


Sizes = Sequence[Sequence[int]]


def machines(sizes: Sizes, prefix: str = "", **fields: Any) -> dict[str, node.NodeTopology]:
    """Build racks of machines from the GPUs of each."""
    return {
        f"{prefix}n{r}{i}": fleets.machine(f"{prefix}n{r}{i}", gpus, 16, **fields)
        for r, rack in enumerate(sizes)
        for i, gpus in enumerate(rack)
    }


def paths(built: dict[str, node.NodeTopology]) -> dict[str, tuple[str, str]]:
    """Put every machine into the rack that its name says, two racks to a block."""
    return {name: (f"{name[:-3]}b{int(name[-2]) // 2}", f"{name[:-3]}r{name[-2]}") for name in built}


def racks(sizes: Sizes) -> topology.Topology:
    """Compile a fleet from the GPUs of each machine of each rack."""
    built = machines(sizes)
    return fleets.fleet(paths(built), built)


@dataclass
class Run:
    """A replay with its log."""

    log: list[str]
    outcome: outcome.Outcome

    def decisions(self) -> list[dict[str, Any]]:
        """Return the effects in order."""
        return [json.loads(line) for line in self.log]

    def effects(self, *kinds: str) -> list[tuple[Any, ...]]:
        """Return time, gang and devices of the effects of some kinds, in order."""
        kinds = kinds or ("Start", "Evict", "Reject")
        return [
            (one["t"], one["effect"], one["gang"], one.get("pods"))
            for one in self.decisions()
            if one["effect"] in kinds
        ]

    def starts(self) -> dict[str, tuple[float, Any]]:
        """Return time and devices of the last start of every job."""
        return {one["gang"]: (one["t"], one["pods"]) for one in self.decisions() if one["effect"] == "Start"}

    def rejected(self) -> set[str]:
        """Return the jobs that can never run."""
        return {one["gang"] for one in self.decisions() if one["effect"] == "Reject"}


def made(
    jobs: Sequence[Job], compiled: scoring.Scoring, mode: config.Mode = "skip", **fields: Any
) -> tuple[replay.Replay, list[str]]:
    """Return a replay that checks all invariants after every event, and the log that it will write."""
    log: list[str] = []
    queue = config.QueueConfig(mode=mode, preempt=fields.pop("preempt", False))
    return replay.Replay(trace(jobs), compiled, queue, log=log.append, validate=True, **fields), log


def run(jobs: Sequence[Job], compiled: scoring.Scoring, mode: config.Mode = "skip", **fields: Any) -> Run:
    """Replay jobs to the end."""
    one, log = made(jobs, compiled, mode, **fields)
    return Run(log, one.run())


@st.composite
def jobs(draw: st.DrawFn, most: int = 14) -> list[Job]:
    """Draw a busy little trace: whole and shared GPUs, gangs of a rack, jobs that fit nowhere."""
    count = draw(st.integers(1, most))
    submits = sorted(draw(st.lists(st.integers(0, 20), min_size=count, max_size=count)))
    found = []
    for index, submit in enumerate(submits):
        gpus = draw(st.sampled_from((0, 1, 1, 2, 4)))
        pods = draw(st.sampled_from((1, 1, 1, 2, 3)))
        found.append(
            Job(
                f"j{index:02d}",
                float(submit),
                float(draw(st.integers(1, 30))),
                pods,
                gpus,
                draw(st.sampled_from((1000, 500, 300))) if gpus == 1 else 1000,
                draw(st.integers(0, 5)),
                draw(st.sampled_from(("", "", "rack"))) if pods > 1 else "",
                priority=draw(st.sampled_from((0, 0, 0, 1))),
            )
        )
    return found


@st.composite
def crowds(draw: st.DrawFn) -> list[Job]:
    """Draw jobs that all come early and want much, so that most have to wait."""
    sizes = st.tuples(
        st.integers(1, 12), st.sampled_from((1, 1, 2)), st.sampled_from((1, 2, 2, 3, 4)), st.integers(0, 4)
    )
    drawn = draw(st.lists(sizes, min_size=5, max_size=12))
    submits = sorted(at for *_, at in drawn)
    return [
        Job(f"j{index:02d}", float(at), float(duration), pods, gpus)
        for index, (at, (duration, pods, gpus, _)) in enumerate(zip(submits, drawn, strict=True))
    ]


CROWDED = st.sampled_from(([[4]], [[4, 4]], [[4], [2, 3]], [[4, 2, 4]]))
"""Fleets on which a crowd has to wait."""

FLEETS = st.lists(st.lists(st.sampled_from((0, 1, 2, 4, 4)), min_size=1, max_size=3), min_size=1, max_size=3)
MODES = st.sampled_from(("fifo", "skip", "easy"))
