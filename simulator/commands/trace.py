"""``muster-sim trace``: summary, convert, generate."""

from pathlib import Path

import click
import numpy as np

from simulator.commands import console
from simulator.report import tracesheets
from simulator.trace import job, load, samples, schema, summary, synthetic

file = click.argument("file", type=click.Path(path_type=Path))
SUFFIXES = (".csv", ".parquet")


@click.group()
def command() -> None:
    """Summarise, convert or generate traces.

    Known formats: openb, ElasticFlow, Gavel's Philly, SWF, Azure LLM, Mooncake, and our own columns. The format is told
    from the content.

    \b
    muster-sim trace summary cluster04.csv --fleet-gpus 640
    muster-sim trace convert cluster04.csv jobs.parquet
    muster-sim trace generate workload.yaml jobs.csv --seed 7
    """


@command.command("summary")
@file
@click.option("--fleet-gpus", type=click.IntRange(0), default=0, help="Also show the load that this many GPUs see.")
@console.json_option
def summary_(file: Path, fleet_gpus: int, as_json: bool) -> None:
    """Show what a trace holds: jobs by size, run times, arrivals, tenants.

    \b
    muster-sim trace summary cluster04.csv --fleet-gpus 640
    """
    trace = load.read(file)
    if as_json:
        console.put_json(summary.summarise(trace).as_dict())
        return
    console.show(tracesheets.sheets(trace, fleet_gpus))


@command.command()
@file
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--head", type=click.IntRange(1), help="Only the first jobs.")
@click.option("--load", "factor", type=float, default=1.0, show_default=True, help="Let jobs arrive this much faster.")
def convert(file: Path, output: Path, head: int | None, factor: float) -> None:
    """Write a trace in our own columns, as CSV or Parquet by the name of OUTPUT.

    \b
    muster-sim trace convert openb_pod_list_default.csv jobs.parquet --head 1000
    """
    check_suffix(output)
    trace = load.read(file)
    trace = trace.head(head) if head else trace
    write(trace.scale_load(factor) if factor != 1.0 else trace, output)


@command.command()
@click.argument("workload")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def generate(workload: str, output: Path, seed: int) -> None:
    """Draw a synthetic trace from a Workload document (YAML), or from the built-in one called demo.

    \b
    muster-sim trace generate demo jobs.csv --seed 7
    """
    check_suffix(output)
    source = samples.demo() if workload == "demo" and not Path(workload).exists() else synthetic.read(Path(workload))
    write(synthetic.generate(source, np.random.default_rng(seed)), output)


def check_suffix(output: Path) -> None:
    """Refuse a name that tells no format."""
    if output.suffix not in SUFFIXES:
        console.refuse(f"{output}: unknown suffix {output.suffix!r}; name the file *.csv or *.parquet")


def write(trace: job.Trace, output: Path) -> None:
    """Write the trace whole and say so."""
    schema.write(trace, output)
    click.echo(f"{output}: {len(trace)} jobs")
