"""The command ``discover``: what the node has, as a matrix, a tree, JSON or a picture."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click
import rich.console
import rich.table
import rich.tree

from dra_driver import mig
from dra_driver.probe import host, interface, roots
from scheduler.model import device, distance, export, node

Place = device.Gpu | device.Nic


@click.command()
@click.option("--json", "form", flag_value="json", help="All facts as JSON.")
@click.option("--tree", "form", flag_value="tree", help="Devices below NUMA nodes and host bridges.")
@click.option("--dot", "form", flag_value="dot", help="The wiring in the language of Graphviz.")
@click.option("--root", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path("/"))
@click.option("--library", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="libnvidia-ml.so.1")
@click.option("--accelerators", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Own mapping, YAML.")
@click.option("--node-name", default="node", show_default=True)
def discover(form: str | None, root: Path, library: Path | None, accelerators: Path | None, node_name: str) -> None:
    """Print the GPUs and NICs of this node and how they are joined, like nvidia-smi topo -m."""
    try:
        probe = host.probe(roots.Root(root), node_name, library, accelerators)
        try:
            found = probe.discover()
        finally:
            probe.close()
    except (mig.HardwareError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    for problem in found.problems:
        click.echo(problem, err=True)
    if form == "json":
        click.echo(json.dumps(dataclasses.asdict(found), indent=1))
    elif form == "dot":
        click.echo(export.node_dot(found.topology), nl=False)
    elif form == "tree":
        _print(_tree(found))
    else:
        _print(_table(found.topology))


def _print(what: rich.table.Table | rich.tree.Tree) -> None:
    rich.console.Console(width=240, highlight=False).print(what)


def places(machine: node.NodeTopology) -> list[Place]:
    """Return the GPUs and then the NICs."""
    return [*machine.gpus, *machine.nics]


def matrix(machine: node.NodeTopology) -> list[list[str]]:
    """Return the rows of the matrix: NV and the number of links, or the class of the distance."""
    devices = places(machine)
    return [[_cell(machine, a, b) for b in devices] for a in devices]


def _cell(machine: node.NodeTopology, a: Place, b: Place) -> str:
    if a is b:
        return "X"
    if isinstance(a, device.Gpu) and isinstance(b, device.Gpu):
        links = int(machine.link_counts()[a.index, b.index])
        if links:
            return f"NV{links}"
    return distance.between(a, b).name


def _table(machine: node.NodeTopology) -> rich.table.Table:
    names = [f"GPU{gpu.index}" for gpu in machine.gpus] + [f"NIC{nic.index}" for nic in machine.nics]
    table = rich.table.Table("", *names, "NUMA", "Device", box=None, pad_edge=False)
    for name, row, place in zip(names, matrix(machine), places(machine), strict=True):
        what = place.model.name if isinstance(place, device.Gpu) else place.name
        table.add_row(name, *row, str(place.numa) if place.numa >= 0 else "N/A", f"{place.pci_bus_id} {what}")
    return table


def _tree(found: interface.Discovered) -> rich.tree.Tree:
    machine = found.topology
    top = rich.tree.Tree(f"{machine.name}: {machine.machine}, driver {found.driver_release}, CUDA {found.cuda_version}")
    branches: dict[tuple[int, str], rich.tree.Tree] = {}
    for place in sorted(places(machine), key=lambda p: (p.numa, p.pcie_root, p.pci_bus_id)):
        if (place.numa, "") not in branches:
            branches[place.numa, ""] = top.add(f"NUMA {place.numa}")
        key = (place.numa, place.pcie_root or "no host bridge")
        if key not in branches:
            branches[key] = branches[place.numa, ""].add(key[1])
        what = f"{place.name} {place.model.name} {place.uuid}" if isinstance(place, device.Gpu) else place.name
        branches[key].add(f"{place.pci_bus_id} {what}")
    return top
