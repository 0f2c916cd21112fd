"""``muster-sim fleet``: show, tree, export, validate."""

from pathlib import Path

import click

from scheduler.model import export as graphs
from scheduler.model import fabric
from simulator.commands import console
from simulator.fleet import export, load
from simulator.report import fleetsheets, whole

source = click.argument("fleet")
rack_nodes = click.option(
    "--rack-nodes", type=click.IntRange(0), default=0, help="For node lists: nodes per rack; 0 leaves racks out."
)


@click.group()
def command() -> None:
    """Show, draw, export or validate a fleet.

    FLEET is a preset (demo, 80x8, 5000x8), a Fleet document in YAML, an openb node list, or a dump of a cluster
    (kubectl get nodes,resourceslices -o json).

    \b
    muster-sim fleet show demo
    muster-sim fleet tree fleet.yaml
    muster-sim fleet export demo --format yaml --output fleet.yaml
    """


@command.command()
@source
@rack_nodes
@console.json_option
def show(fleet: str, rack_nodes: int, as_json: bool) -> None:
    """Show levels and machines as tables.

    \b
    muster-sim fleet show nodes.csv --rack-nodes 32
    """
    made = load.read(fleet, rack_nodes=rack_nodes)
    if as_json:
        console.put_json(figures(made))
        return
    console.show(fleetsheets.sheets(made))


@command.command()
@source
@rack_nodes
def tree(fleet: str, rack_nodes: int) -> None:
    """Draw the domains; equal siblings appear once with their number.

    \b
    muster-sim fleet tree demo
    """
    console.terminal().print(fleetsheets.drawn(load.read(fleet, rack_nodes=rack_nodes)))


@command.command("export")
@source
@rack_nodes
@click.option("--format", "form", type=click.Choice(["yaml", "json", "dot"]), default="yaml", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="File to write; stdout without it.")
def export_(fleet: str, rack_nodes: int, form: str, output: Path | None) -> None:
    """Write the fleet as a Fleet document, as JSON or in the language of Graphviz.

    \b
    muster-sim fleet export demo --format dot | dot -Tsvg > fleet.svg
    """
    made = load.read(fleet, rack_nodes=rack_nodes)
    match form:
        case "dot":
            text = graphs.fabric_dot(made)
        case "json":
            text = graphs.fabric_json(made) + "\n"
        case _:
            text = export.document(made, Path(fleet).stem)
    if output:
        whole.write_text(output, text)
    else:
        click.echo(text, nl=False)


@command.command()
@source
@rack_nodes
def validate(fleet: str, rack_nodes: int) -> None:
    """Check a fleet: exit code 0 and one line when it is good, else 2 and the fault with file, line and field.

    \b
    muster-sim fleet validate fleet.yaml
    """
    facts = figures(load.read(fleet, rack_nodes=rack_nodes))
    click.echo(f"{fleet}: valid, {facts['nodes']} nodes, {facts['gpus']} GPUs")


def figures(made: fabric.Fabric) -> dict[str, object]:
    """Return the fleet's counts for programs."""
    machines = list(made.nodes())
    kinds: dict[str, int] = {}
    for machine in machines:
        kinds[machine.machine] = kinds.get(machine.machine, 0) + 1
    domains: dict[str, int] = dict.fromkeys(made.levels, 0)
    for vertex in made.graph:
        domains[made.level(vertex)] += 1
    return {
        "nodes": len(machines),
        "gpus": sum(len(machine.gpus) for machine in machines),
        "levels": list(made.levels),
        "domains": domains,
        "machines": kinds,
    }
