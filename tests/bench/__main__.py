"""Run one benchmark: print a table, write ``build/bench/NAME.json``."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from rich import console

from simulator import study
from simulator.report import sheet, tables, whole
from tests.bench import core, driver, figure, host, live, openb, stock
from tests.testbed import versions

OUT = Path("build/bench")


@click.group()
def bench() -> None:
    """Measure Muster against its bounds."""


@bench.command("openb")
@click.option(
    "--quick", is_flag=True, help="Few seeds, three workloads and no robustness sweep: a look, not a verdict."
)
@click.option("--traces", type=click.Path(path_type=Path), help="Folder with the openb lists and published/.")
@click.option("--check", is_flag=True, help="Exit with 1 when a figure misses its bound.")
def run_openb(quick: bool, traces: Path | None, check: bool) -> None:
    """Take the published packing experiment, and our policy against FGD."""
    made = openb.Bench(traces, quick)
    figures = list(progress(figure.take("openb", openb.measurements(made))))
    print_sheet(study.refusals(made.paired, [openb.OURS, openb.BASELINE]))
    finish("openb", figures, check, refused=made.refused())


@bench.command("core")
@click.option("--traces", type=click.Path(path_type=Path), help="Folder with the openb lists.")
@click.option("--check", is_flag=True, help="Exit with 1 when a figure misses its bound.")
def run_core(traces: Path | None, check: bool) -> None:
    """Take speed and memory of the core."""
    finish("core", list(progress(figure.take("core", core.measurements(traces)))), check)


@bench.command("driver")
@click.option("--check", is_flag=True, help="Exit with 1 when a figure misses its bound.")
def run_driver(check: bool) -> None:
    """Take the DRA driver's prepares, publishing, start and memory, and what first fit takes from its slices."""
    finish("driver", list(progress(figure.take("driver", driver.measurements()))), check)


@bench.command("stock")
@click.option("--kubernetes", "version", default=versions.NEWEST, help="Version of Kubernetes.", show_default=True)
@click.option("--nodes", type=click.Choice(["500", "5000"]), help="Only the fleet of so many nodes.")
@click.option("--check", is_flag=True, help="Exit with 1 when a figure misses its bound.")
def run_stock(version: str, nodes: str | None, check: bool) -> None:
    """Take the throughput of stock kube-scheduler with its own DRA allocation on simulated nodes."""
    fleets = tuple(fleet for fleet in stock.FLEETS if nodes in (None, str(len(fleet))))
    with stock.Bench(version) as made:
        figures = list(progress(figure.take("stock", stock.measurements(made, fleets))))
        finish("stock", figures, check, parts=made.parts(), runs=made.as_json())


@bench.command("live")
@click.option("--kubernetes", "version", default=versions.NEWEST, help="Version of Kubernetes.", show_default=True)
@click.option("--nodes", type=click.Choice(["500", "5000"]), help="Only the fleet of so many nodes.")
@click.option(
    "--rounds", default=live.ROUNDS, show_default=True, help="Rounds of each fleet, stock and Muster in turn."
)
@click.option("--check", is_flag=True, help="Exit with 1 when a figure misses its bound.")
def run_live(version: str, nodes: str | None, rounds: int, check: bool) -> None:
    """Take Muster on simulated nodes beside stock kube-scheduler on the same control plane, and the extender's latency."""
    fleets = tuple(fleet for fleet in live.FLEETS if nodes in (None, str(len(fleet))))
    with live.Bench(version, rounds=rounds) as made:
        figures = list(progress(figure.take("live", live.measurements(made, fleets))))
        finish("live", figures, check, parts=made.parts(), runs=made.as_json())


def progress(figures: Iterable[figure.Figure]) -> Iterator[figure.Figure]:
    """Pass figures on, naming each on stderr as it arrives."""
    for each in figures:
        print(f"{each.figure}: {shown(each)}", file=sys.stderr, flush=True)
        yield each


def print_sheet(made: sheet.Sheet) -> None:
    """Print a table, 140 columns wide where there is no terminal."""
    console.Console(width=None if sys.stdout.isatty() else 140).print(tables.render(made))


def finish(name: str, figures: list[figure.Figure], check: bool, **more: object) -> None:
    """Print the table and write the JSON file."""
    words = {True: "ok", False: "MISSED", None: ""}
    rows = [(f.figure, shown(f), str(f.bound), f.bound.unit, words[f.ok], f.note) for f in figures]
    table = sheet.sheet(f"bench {name}", "<figure|value|bound|<unit|<|<note", rows, str(host.hardware()["cpu"]))
    print_sheet(table)
    result = {
        "benchmark": name,
        "hardware": host.hardware(),
        "versions": host.versions(),
        "results": [f.as_json() for f in figures],
        **more,
    }
    path = whole.write_text(OUT / f"{name}.json", json.dumps(result, indent=2) + "\n")
    missed, bounded = sum(f.ok is False for f in figures), sum(f.ok is not None for f in figures)
    click.echo(f"{path}: {len(figures)} figures, {bounded} of them with a bound, {missed} missed")
    if check and missed:
        sys.exit(1)


def shown(taken: figure.Figure) -> str:
    """Write a value with four figures."""
    return "-" if taken.value is None else f"{taken.value:.4g}"


if __name__ == "__main__":
    bench()
