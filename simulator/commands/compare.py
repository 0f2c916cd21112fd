"""``muster-sim compare``: several policies on the same scenarios."""

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from scheduler.placement import policy
from simulator import compare, scenario, workers
from simulator.commands import console, inputs, replay
from simulator.report import comparesheets, figures, provenance, results, runsheets, sheet, story


@click.command()
@inputs.options
@click.option("--policy", "names", multiple=True, required=True, help="Twice or more; the first is compared with all.")
@click.option("--seeds", "count", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Seeds 0, 1, ...")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for report, jobs, series and decision logs.")
@console.workers_option
@console.json_option
def command(
    given: inputs.Given, names: tuple[str, ...], count: int, out: Path | None, workers: int, as_json: bool
) -> None:
    """Compare policies on the same jobs: paired differences with intervals, and where their decisions part.

    A seed draws the jobs of a Workload document, the failures, and (from seed 1 on) the order of equal nodes; every
    policy sees the same. The interval is Student's t over the paired differences, 95 %. Changed jobs and the first
    divergent decision are those of seed 0.

    \b
    muster-sim compare cluster04.csv --fleet 80x8 --policy muster --policy kueue-tas-best-fit --seeds 10 --out cmp/
    """
    if len(names) < 2:
        console.refuse("--policy: name at least two policies to compare")
    read = inputs.read(given)
    chosen = inputs.policies_of(names)
    if out:
        results.check(out)
    seeds = list(range(count))
    with contextlib.ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="muster-sim-")))
        stopped = stack.enter_context(scenario.interruptible())
        made = replays(read.scenario, chosen, seeds, logs, stopped, workers)
        told = [Parting.of(made, other, logs) for other in made.policies[1:] if other in made.runs]
        record = read.record(chosen, seeds)
        if out:
            folder = stack.enter_context(results.exchanging(out))
            write(folder, made, record, told, logs)
    if as_json:
        console.put_json(results.of_comparison(made, record, [each.as_json() for each in told]))
    else:
        console.show([*summary(made, told), record.sheet(16)])
    replay.finish(made.partial, out)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What one replay leaves: its measures, of the first seed also the run itself, and why it is partial if it is."""

    measures: dict[str, float]
    run: scenario.Run | None
    partial: str


@dataclass(frozen=True, slots=True, eq=False)
class Replaying:
    """Makes the replay of one policy and seed, in this process or in a spawned one.

    Attributes
    ----------
    first : int
        The seed of which runs and logs are kept.
    shown : bool
        Whether every replay shows its own progress.
    """

    scenario_of: Callable[[policy.ScoringPolicy, int], scenario.Scenario]
    first: int
    logs: Path
    shown: bool

    def __call__(self, item: tuple[int, policy.ScoringPolicy], stopped: workers.Stopped) -> Replayed:
        """Replay one policy on one seed."""
        seed, each = item
        name = each.metadata.name
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(replay.decisions(self.logs / f"{name}.jsonl")) if seed == self.first else None
            step = stack.enter_context(replay.progress(f"{name}, seed {seed}")) if self.shown else None
            run = scenario.run(self.scenario_of(each, seed), log, step, stopped)
        measures = {} if run.outcome.partial else figures.measures(run.outcome)
        return Replayed(measures, run if seed == self.first else None, run.outcome.partial)


def replays(
    scenario_of: Callable[[policy.ScoringPolicy, int], scenario.Scenario],
    chosen: Sequence[policy.ScoringPolicy],
    seeds: Sequence[int],
    logs: Path,
    stopped: Callable[[], bool],
    count: int = 1,
) -> compare.Comparison:
    """Replay every policy on every seed; logs are kept of the first seed. Seeds without all policies are dropped.

    Parameters
    ----------
    count : int
        Worker processes; the result is the same for every number.
    """
    names = tuple(each.metadata.name for each in chosen)
    made = compare.Comparison(names, (), {name: [] for name in names}, {})
    items = [(seed, each) for seed in seeds for each in chosen]
    one = Replaying(scenario_of, seeds[0], logs, shown=min(count, len(items)) == 1)
    with contextlib.ExitStack() as stack:
        step = None if one.shown else stack.enter_context(replay.progress(f"{count} workers", "replays"))
        found: list[Replayed] = []
        for (seed, each), answer in zip(items, workers.answers(one, items, count, stopped), strict=True):
            if answer is not None and answer.run is not None:
                made.runs[each.metadata.name] = answer.run
            if answer is None or answer.partial:
                why = answer.partial if answer else f"interrupted after {len(found)} of {len(items)} replays"
                made.partial = made.partial or f"{each.metadata.name}, seed {seed}: {why}"
            elif not made.partial:
                found.append(answer)
            if step:
                step(len(found), len(items))
    for row, seed in enumerate(seeds[: len(found) // len(names)]):
        for column, name in enumerate(names):
            made.samples[name].append(found[row * len(names) + column].measures)
        made.seeds = (*made.seeds, seed)
    return made


@dataclass(frozen=True, slots=True)
class Parting:
    """Where another policy parts from the first: jobs that changed, first divergent decision."""

    first: str
    other: str
    changes: list[compare.Change]
    jobs: int
    divergence: compare.Divergence | None = field(default=None)

    @classmethod
    def of(cls, made: compare.Comparison, other: str, logs: Path) -> "Parting":
        """Compare the runs and the logs of the first seed."""
        first = made.policies[0]
        a, b = made.runs[first].outcome, made.runs[other].outcome
        with (logs / f"{first}.jsonl").open() as mine, (logs / f"{other}.jsonl").open() as theirs:
            return cls(first, other, compare.changes(a, b), len(a.trace), compare.divergence(mine, theirs))

    def sheets(self) -> tuple[sheet.Sheet, sheet.Sheet]:
        """Return both as tables."""
        return (
            comparesheets.changed(self.first, self.other, self.changes, self.jobs),
            comparesheets.parted(self.first, self.other, self.divergence),
        )

    def as_json(self) -> dict[str, Any]:
        """Return both for programs."""
        parted = self.divergence
        return {
            "policies": [self.first, self.other],
            "changed_jobs": [change.job for change in self.changes],
            "first_divergent_decision": None if parted is None else {"number": parted.number, "lines": parted.lines},
        }


def summary(made: compare.Comparison, told: Sequence[Parting]) -> list[sheet.Sheet]:
    """Return the tables for a terminal."""
    tables = comparesheets.sheets(made) if made.seeds else []
    return [*tables, runsheets.gang_sheet(list(made.runs.values())), *(each for one in told for each in one.sheets())]


def write(
    folder: Path,
    made: compare.Comparison,
    record: provenance.Provenance,
    told: Sequence[Parting],
    logs: Path,
    title: str = "",
) -> None:
    """Write everything that a comparison leaves behind."""
    runs = list(made.runs.values())
    for run in runs:
        mark = ".partial" if run.outcome.partial else ""
        results.write_run(folder, run, f"{run.outcome.policy}-")
        log = (logs / f"{run.outcome.policy}.jsonl").read_bytes()
        (folder / f"{run.outcome.policy}-decisions{mark}.jsonl").write_bytes(log)
    text = story.of_comparison(made, record, [each.sheets() for each in told], title)
    results.write_page(folder, text, story.drawings(runs))
    results.write_mark(folder, results.of_comparison(made, record, [each.as_json() for each in told]))
