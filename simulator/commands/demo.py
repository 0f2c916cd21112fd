"""``muster-sim demo``: needs nothing, shows everything."""

import contextlib
import tempfile
from pathlib import Path

import click

from simulator import demo, scenario
from simulator.commands import compare, console, replay
from simulator.report import fleetsheets, results


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("build/demo"),
    show_default=True,
    help="Folder of the result.",
)
@click.option("--seeds", type=click.IntRange(1, 100), default=len(demo.SEEDS), show_default=True)
@click.option("--jobs", type=click.IntRange(10, 100_000), default=demo.JOBS, show_default=True)
@console.workers_option
@console.json_option
def command(out: Path, seeds: int, jobs: int, workers: int, as_json: bool) -> None:
    """Replay a built-in fleet and workload under our policy and two baselines, and write the report.

    The fleet has HGX H100, PCIe pairs, L40S and DGX A100 machines and a GB200 NVL72 rack; the workload has gangs up to
    64 GPUs, shares, MIG partitions and two inference pools.

    \b
    muster-sim demo --out build/demo
    """
    results.check(out)
    made = demo.build(jobs)
    if not as_json:
        console.show(fleetsheets.sheets(made.fleet))
    with contextlib.ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="muster-sim-")))
        stopped = stack.enter_context(scenario.interruptible())
        found = compare.replays(made.scenario, made.policies, tuple(range(seeds)), logs, stopped, workers)
        told = [compare.Parting.of(found, other, logs) for other in found.policies[1:] if other in found.runs]
        record = made.record(tuple(range(seeds)))
        folder = stack.enter_context(results.exchanging(out))
        compare.write(folder, found, record, told, logs, demo.TITLE)
    if as_json:
        console.put_json(results.of_comparison(found, record, [each.as_json() for each in told]))
    else:
        console.show(compare.summary(found, told))
        click.echo(f"report: {out / 'report.html'}")
    replay.finish(found.partial, out if as_json or found.partial else None)
