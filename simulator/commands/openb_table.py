"""``muster-sim openb-table``: the published packing experiment, run here, beside its published results."""

from pathlib import Path

import click

from scheduler import policies
from simulator import inflation, published, scenario, study
from simulator.commands import console, replay
from simulator.report import provenance

OURS = ("random", "dot-product", "clustering", "packing", "best-fit", "fgd", "muster")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seeds", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Seeds 42, 43, ...")
@click.option("--policies", "names", default=",".join(OURS), show_default=True, help="Names or files, with commas.")
@click.option("--workloads", default="", help="Workloads with commas, for example default,gpuspec25; all without it.")
@click.option("--published", "table_file", type=click.Path(path_type=Path), help="CSV of the published figures.")
@console.workers_option
@console.json_option
def command(
    folder: Path, seeds: int, names: str, workloads: str, table_file: Path | None, workers: int, as_json: bool
) -> None:
    """Run the inflation experiment of the FGD study on the openb pod lists in FOLDER.

    Every policy sees the same order of pods and of nodes per seed, so differences are paired. Shows unallocated GPUs,
    deviations from the published table, our policy against FGD, and refused pods per kind. Ctrl-C ends with the seeds
    that are done, marked as partial, and exit code 130.

    \b
    muster-sim openb-table traces/openb --seeds 10 --published traces/openb/published/unallocated_gpu_percent.csv
    """
    chosen = [policies.load(name) for name in names.split(",") if name]
    if not chosen:
        console.refuse("--policies: name at least one policy")
    table = published.read(table_file) if table_file else {}
    wanted = [name for name in workloads.split(",") if name]
    with scenario.interruptible() as stopped, console.progress().status("reading") as status:
        made = study.run(folder, chosen, inflation.seeds(seeds), wanted, status.update, workers, stopped)
    lists = published.pod_lists(folder)
    inputs = [provenance.file_input("pods", lists[w]) for w in made.workloads]
    inputs.append(provenance.file_input("nodes", folder / study.NODE_LIST))
    record = provenance.record(inputs, {"experiment": "inflation 1.3"}, made.seeds)
    if as_json:
        console.put_json(figures(made, record))
    else:
        console.show([*(study.sheets(made, table) if made.seeds else []), record.sheet(16)])
    replay.finish(made.partial, None)


def figures(made: study.Study, record: provenance.Provenance) -> dict[str, object]:
    """Return every sample for programs."""
    rows = [
        {
            "workload": workload,
            "policy": name,
            "unallocated_percent": {str(load): made.at(workload, name, load) for load in study.LOADS},
            "refused": [dict(zip(inflation.KINDS, r.tolist(), strict=True)) for r in made.refused[workload, name]],
        }
        for workload, name in made.cells()
    ]
    return {"partial": made.partial, "provenance": record.as_json(), "results": rows}
