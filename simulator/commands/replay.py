"""``muster-sim replay``: one trace, one fleet, one policy."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from rich import progress as bars

from simulator import scenario
from simulator.commands import audit, console, inputs
from simulator.report import provenance, results, runsheets, sheet, story, units, whole

AUTO_JOBS = 100_000


@click.command()
@inputs.options
@click.option(
    "--audit",
    type=click.Path(path_type=Path, file_okay=False),
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, folder: folder and ctx.exit(audit.replay(folder)),
    help="Decide again what a live scheduler's decision log holds, compare byte for byte, and end; no TRACE.",
)
@click.option("--policy", "name", default="muster", show_default=True, help="Built-in name or ScoringPolicy file.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Failures, ties, synthetic jobs.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for report, jobs, series and the decision log.")
@click.option(
    "--backend",
    type=click.Choice(["auto", "numpy", "compiled"]),
    default="auto",
    show_default=True,
    help="What computes decisions.",
)
@console.json_option
def command(given: inputs.Given, name: str, seed: int, out: Path | None, backend: str, as_json: bool) -> None:
    """Replay TRACE on a fleet: where every job went, how well, and why what waited had to wait.

    TRACE is a file of a known format, a Workload document (YAML), or the built-in workload called demo. Ctrl-C ends
    with the result so far, marked as partial, and exit code 130. Compiled code makes the same decisions much faster, but
    keeps neither the decision log nor the first reason for each wait; auto takes it above 100,000 jobs.

    \b
    muster-sim replay cluster04.csv --fleet 80x8 --policy muster --queue easy --out out/
    """
    read = inputs.read(given)
    chosen = inputs.policies_of([name])
    if out:
        results.check(out)
    record = read.record(chosen, [seed])
    made = read.scenario(chosen[0], seed)
    fast = is_compiled(made, backend)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(results.exchanging(out)) if out else None
        with contextlib.ExitStack() as inner:
            log = inner.enter_context(decisions(folder / "decisions.jsonl")) if folder and not fast else None
            stopped = inner.enter_context(scenario.interruptible())
            step = inner.enter_context(progress(name))
            run = scenario.run_compiled(made, step, stopped) if fast else scenario.run(made, log, step, stopped)
        if folder:
            write(folder, run, record)
    if as_json:
        console.put_json(results.of_run(run, record))
    else:
        console.show([*summary(run), record.sheet(16)])
    finish(run.outcome.partial, out)


def is_compiled(made: scenario.Scenario, backend: str) -> bool:
    """Tell whether compiled code replays the scenario; refuse where it is asked for and can't."""
    if backend == "numpy" or (backend == "auto" and len(made.trace) <= AUTO_JOBS):
        return False
    why = "--validate needs the engine" if made.validate else scenario.compiled_refusal(made)
    if why and backend == "compiled":
        console.refuse(f"--backend compiled: {why}; use --backend numpy or --runtime none")
    return not why


def write(folder: Path, run: scenario.Run, record: provenance.Provenance) -> None:
    """Write everything that a replay leaves behind."""
    results.write_run(folder, run)
    if run.outcome.partial and (folder / "decisions.jsonl").exists():
        (folder / "decisions.jsonl").rename(folder / "decisions.partial.jsonl")
    results.write_page(folder, story.of_run(run, record), story.drawings([run]))
    results.write_mark(folder, results.of_run(run, record))


def summary(run: scenario.Run) -> list[sheet.Sheet]:
    """Return the tables for a terminal."""
    return [
        runsheets.headline(run),
        runsheets.waits_by_size(run.outcome),
        runsheets.waits_by_tenant(run.outcome),
        runsheets.waits_by_type(run.outcome),
        runsheets.gang_sheet([run]),
        runsheets.bandwidth_by_size(run.outcome),
        runsheets.reasons_sheet(run),
        runsheets.longest_sheet(run),
        runsheets.blocked_sheet(run),
    ]


def finish(partial: str, out: Path | None) -> None:
    """Say where the result is, and end with 130 when it is partial."""
    if partial:
        click.echo(f"muster-sim: partial result: {partial}", err=True)
    if out:
        click.echo(f"{out / 'report.html'}", err=True)
    if partial:
        raise console.Interrupted


@contextlib.contextmanager
def decisions(path: Path) -> Iterator[Callable[[str], None]]:
    """Give a function that appends a line to the decision log."""
    with whole.replacing(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as stream:
        yield lambda line: print(line, file=stream)


@contextlib.contextmanager
def progress(title: str, noun: str = "jobs") -> Iterator[scenario.Progress]:
    """Give a function that shows how many jobs are done, on stderr when it is a terminal."""
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), bars.TextColumn("{task.fields[said]}"))
    with bars.Progress(*columns, console=console.progress(), transient=True) as shown:
        task = shown.add_task(title, total=None, said="")

        def step(done: int, jobs: int) -> None:
            said = f"{units.count(done)} of {units.count(jobs)} {noun}"
            shown.update(task, completed=done, total=jobs, said=said)

        yield step
