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
from dra_driver.commands import picture
from dra_driver.probe import host, interface, roots
from scheduler.model import device, distance, export, node

Place = device.Gpu | device.Nic | device.Accelerator

LEGEND = """
Legend:

  X    the device itself
  SYS  over the link between sockets or NUMA nodes
  NODE over several host bridges of one NUMA node
  PHB  over one host bridge
  PXB  over several PCIe switches
  PIX  over one PCIe switch at most
  NV#  over # NVLinks
"""


@click.command("discover")
@click.option("--json", "form", flag_value="json", help="All facts as JSON.")
@click.option("--tree", "form", flag_value="tree", help="Devices below NUMA nodes and host bridges.")
@click.option("--dot", "form", flag_value="dot", help="The wiring in the language of Graphviz.")
@click.option("--svg", "form", flag_value="svg", help="A drawing of the node.")
@click.option("--root", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path("/"))
@click.option("--library", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="libnvidia-ml.so.1")
@click.option("--accelerators", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Own mapping, YAML.")
@click.option("--node-name", default="node", show_default=True)
def command(form: str | None, root: Path, library: Path | None, accelerators: Path | None, node_name: str) -> None:
    """Print the devices of this node and how they are joined, like nvidia-smi topo -m."""
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
    elif form == "svg":
        click.echo(picture.svg(found.topology), nl=False)
    elif form == "tree":
        _print(_tree(found))
    else:
        _print(_table(found.topology, root))
        click.echo(LEGEND)


def _print(what: rich.table.Table | rich.tree.Tree) -> None:
    rich.console.Console(width=240, highlight=False).print(what)


def places(machine: node.NodeTopology) -> list[Place]:
    """Return the GPUs, then the NICs, then the accelerators."""
    return [*machine.gpus, *machine.nics, *machine.accelerators]


def matrix(machine: node.NodeTopology) -> list[list[str]]:
    """Return the rows of the matrix: NV and the number of links, or the class of the distance."""
    devices = places(machine)
    return [[_cell(machine, a, b) for b in devices] for a in devices]


def _cell(machine: node.NodeTopology, a: Place, b: Place) -> str:
    if a is b:
        return "X"
    if isinstance(a, device.Gpu) and isinstance(b, device.Gpu):
        links = machine.link_counts()[a.index][b.index]
        if links:
            return f"NV{links}"
    return distance.between(a, b).name


def _table(machine: node.NodeTopology, root: Path) -> rich.table.Table:
    names = [_short(place) for place in places(machine)]
    table = rich.table.Table("", *names, "CPU Affinity", "NUMA Affinity", "Device", box=None, pad_edge=False)
    for name, row, place in zip(names, matrix(machine), places(machine), strict=True):
        folder = f"sys/devices/system/node/node{place.numa}/cpulist"
        cpus = roots.text(roots.Root(root).at(folder)) if place.numa >= 0 else ""
        numa = str(place.numa) if place.numa >= 0 else "N/A"
        table.add_row(name, *row, cpus or "N/A", numa, f"{place.pci_bus_id} {_what(place)}")
    return table


def _short(place: Place) -> str:
    """Return the name of a device in the matrix."""
    kind = "GPU" if isinstance(place, device.Gpu) else "NIC" if isinstance(place, device.Nic) else "ACC"
    return f"{kind}{place.index}"


def _what(place: Place) -> str:
    match place:
        case device.Gpu():
            return place.model.name
        case device.Nic():
            return place.name
        case device.Accelerator():
            return f"{place.kind} {place.model}"


def _tree(found: interface.Discovered) -> rich.tree.Tree:
    machine = found.topology
    top = rich.tree.Tree(
        f"{machine.name}: {machine.machine}, driver {found.driver_release}, CUDA {machine.cuda_version}"
    )
    branches: dict[tuple[int, str], rich.tree.Tree] = {}
    for place in sorted(places(machine), key=lambda p: (p.numa, p.pcie_root, p.pci_bus_id)):
        if (place.numa, "") not in branches:
            branches[place.numa, ""] = top.add(f"NUMA {place.numa}")
        key = (place.numa, place.pcie_root or "no host bridge")
        if key not in branches:
            branches[key] = branches[place.numa, ""].add(key[1])
        more = f" {place.name} {place.uuid}" if isinstance(place, device.Gpu) else ""
        branches[key].add(f"{place.pci_bus_id} {_what(place)}{more}")
    return top
