"""Options that replay, compare and explain share, and the scenario that they make."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from scheduler import policies
from scheduler.gang import config
from scheduler.model import export, fabric
from scheduler.placement import policy, target
from simulator import faults, runtime, scenario, settings
from simulator.commands import console
from simulator.fleet import load as fleets
from simulator.report import provenance
from simulator.trace import job, load, pods, samples, synthetic, workload

YAML = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Given:
    """What the user named, as it came from the command line."""

    trace: str
    fleet: str
    queue: str
    preempt: bool
    quota: Path | None
    faults: Path | None
    runtime: str
    target: str
    rack_nodes: int
    gpus_per_pod: int
    head: int | None
    load: float
    validate: bool
    keep_impossible: bool


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the shared options to a command, which gets them as one `Given`."""

    def gathered(trace: str, **rest: Any) -> Any:
        own = {name: rest.pop(name) for name in tuple(rest) if name in Given.__slots__}
        return command(Given(trace=trace, **own), **rest)

    gathered.__name__, gathered.__doc__ = command.__name__, command.__doc__
    gathered.__click_params__ = list(getattr(command, "__click_params__", []))  # type: ignore[attr-defined]
    for option in reversed(OPTIONS):
        gathered = option(gathered)
    return gathered


OPTIONS = [
    click.argument("trace"),
    click.option("--fleet", required=True, help="Preset (demo, 80x8, 5000x8), Fleet document, node list or dump."),
    click.option(
        "--queue",
        type=click.Choice(["fifo", "skip", "easy"]),
        default="skip",
        show_default=True,
        help="Who may overtake.",
    ),
    click.option(
        "--preempt", is_flag=True, help="Higher priorities evict lower ones; tenants reclaim what others borrow."
    ),
    click.option("--quota", type=click.Path(path_type=Path), help="Quotas document."),
    click.option("--faults", type=click.Path(path_type=Path), help="Faults document: MTBF, repair, checkpoints."),
    click.option(
        "--runtime",
        default="collectives",
        show_default=True,
        help="How run time follows placement: none, collectives, collectives:ARCHITECTURE.",
    ),
    click.option(
        "--target",
        default="trace",
        show_default=True,
        help="Expected workload of the policy: trace, none, or a trace file.",
    ),
    click.option("--rack-nodes", type=click.IntRange(0), default=0, help="For node lists: nodes per rack."),
    click.option(
        "--gpus-per-pod", type=click.IntRange(1, 16), default=8, show_default=True, help="For traces of gangs by GPUs."
    ),
    click.option("--head", type=click.IntRange(1), help="Only the first jobs of the trace."),
    click.option("--load", type=float, default=1.0, show_default=True, help="Let jobs arrive this much faster."),
    click.option(
        "--keep-impossible", is_flag=True, help="Replay jobs larger than the fleet too: they are refused with a reason."
    ),
    click.option("--validate", is_flag=True, help="Check every invariant after every event (slow)."),
]


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Everything that was read, and its provenance."""

    given: Given
    fleet: fabric.Fabric
    queue: config.QueueConfig
    broken: faults.Faults
    runtime: runtime.RuntimeModel
    drawn: workload.Workload | None
    read: job.Trace | None
    wanted: job.Trace | None

    def trace(self, seed: int) -> job.Trace:
        """Return the trace: the one that was read, or the one that a workload draws from this seed."""
        if self.read is not None:
            return self.read
        assert self.drawn is not None
        return _cut(synthetic.generate(self.drawn, np.random.default_rng(seed)), self.given)

    def scenario(self, chosen: policy.ScoringPolicy, seed: int) -> scenario.Scenario:
        """Return the scenario of a policy and a seed."""
        trace = self.trace(seed)
        expected = target.TargetWorkload(())
        if self.given.target != "none":
            expected = scenario.target_of(trace if self.wanted is None else self.wanted)
        return scenario.Scenario(
            trace, self.fleet, chosen, expected, self.queue, self.broken, self.runtime, seed, self.given.validate
        )

    def record(self, chosen: list[policy.ScoringPolicy], seeds: list[int]) -> provenance.Provenance:
        """Return what determines the result."""
        given, trace = self.given, self.trace(seeds[0])
        inputs = [provenance.Input("trace", trace.name, trace.sha256)]
        inputs.append(provenance.text_input("fleet", Path(given.fleet).name, export.fabric_json(self.fleet)))
        inputs += [provenance.text_input("policy", p.metadata.name, p.model_dump_json(by_alias=True)) for p in chosen]
        inputs += [
            provenance.file_input(role, path)
            for role, path in (("quota", given.quota), ("faults", given.faults))
            if path is not None
        ]
        options = {
            "jobs": len(trace),
            "queue": given.queue,
            "preempt": given.preempt,
            "runtime": given.runtime,
            "target": given.target,
            "load": given.load,
        }
        return provenance.record(inputs, options, seeds)


def read(given: Given) -> Inputs:
    """Read everything that the user named, so that every fault is told before anything runs."""
    if not 0 < given.load < float("inf"):
        console.refuse(f"--load: must be a positive number, got {given.load}; 1 leaves the trace as it is")
    path = Path(given.trace)
    drawn = None
    if path.suffix in YAML:
        drawn = synthetic.read(path)
    elif given.trace == "demo" and not path.exists():
        drawn = samples.demo()
    made = None if drawn is not None else load.read(path, load.Options(pod_size=pods.PodSize(given.gpus_per_pod)))
    fleet = fleets.read(given.fleet, rack_nodes=given.rack_nodes)
    if made is not None and not given.keep_impossible:
        refuse_impossible(made, path, fleet)
    return Inputs(
        given=given,
        fleet=fleet,
        queue=config.QueueConfig(
            given.queue,  # type: ignore[arg-type]
            settings.quotas(given.quota) if given.quota else (),
            given.preempt,
        ),
        broken=settings.broken(given.faults) if given.faults else faults.Faults(),
        runtime=runtime.by_name(given.runtime),
        drawn=drawn,
        read=None if made is None else _cut(made, given),
        wanted=None if given.target in ("trace", "none") else load.read(Path(given.target)),
    )


def refuse_impossible(trace: job.Trace, path: Path, fleet: fabric.Fabric) -> None:
    """Refuse a trace with a gang that asks for more GPUs than the fleet has.

    Raises
    ------
    TraceError
        Names the line where the job's name stands.
    """
    have = sum(len(machine.gpus) for machine in fleet.nodes())
    gpus = [shape.gang.gpus for shape in trace.shapes]
    large = np.flatnonzero(np.array(gpus, dtype=np.int64)[trace.shape] > have)
    if not len(large):
        return
    name = str(trace.names[large[0]])
    raise job.TraceError(
        f"gang {name} is larger than the cluster, which has {have} GPUs ({len(large)} such jobs)",
        file=str(path),
        line=line_of(path, name),
        field="gpus",
        value=str(gpus[int(trace.shape[large[0]])]),
        remedy="name a larger fleet, or replay it with --keep-impossible",
    )


def line_of(path: Path, name: str) -> int:
    """Return the first line of a text file that holds a word, 0 where there is none (binary files, made-up names)."""
    with path.open("rb") as stream:
        return next((number for number, line in enumerate(stream, 1) if name.encode() in line.strip().split(b",")), 0)


def _cut(trace: job.Trace, given: Given) -> job.Trace:
    """Apply --head and --load."""
    trace = trace.head(given.head) if given.head else trace
    return trace.scale_load(given.load) if given.load != 1.0 else trace


def policies_of(names: Sequence[str]) -> list[policy.ScoringPolicy]:
    """Load policies; reports name them, so two of one name are refused."""
    made = [policies.load(name) for name in names]
    seen: dict[str, str] = {}
    for name, each in zip(names, made, strict=True):
        own = each.metadata.name
        if own in seen:
            console.refuse(f"--policy {name}: {seen[own]} has the same name {own!r}; change metadata.name of one")
        seen[own] = name
    return made
