"""The command ``slices``: what the driver would publish for this node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from dra_driver import mig
from dra_driver.probe import host, interface, roots
from dra_driver.publish import server
from scheduler.model import claim, slices


@click.command("slices")
@click.option("--dry-run", is_flag=True, required=True, help="Print and write nothing; there is no other way.")
@click.option("--json", "as_json", is_flag=True, help="The whole slices as JSON.")
@click.option("--root", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path("/"))
@click.option("--library", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="libnvidia-ml.so.1")
@click.option("--accelerators", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Own mapping, YAML.")
@click.option("--node-name", default="node", show_default=True)
@click.option("--driver", default=claim.DRIVER, show_default=True)
@click.option("--kubernetes", "minor", type=click.IntRange(34), default=37, show_default=True, help="34 for 1.34")
def command(
    dry_run: bool,
    as_json: bool,
    root: Path,
    library: Path | None,
    accelerators: Path | None,
    node_name: str,
    driver: str,
    minor: int,
) -> None:
    """Print the ResourceSlices of this node, one line for each device."""
    if not dry_run:
        raise click.UsageError("slices are published by `run`; give --dry-run")
    found = _discovered(root, library, accelerators, node_name)
    for problem in found.problems:
        click.echo(problem, err=True)
    form = slices.layout(minor, partitionable=True, consumable=minor >= server.SHARES_FROM)
    items = slices.encode(found.topology, 1, form, driver)
    click.echo(json.dumps(items, indent=1) if as_json else "\n".join(lines(items)))


def _discovered(root: Path, library: Path | None, accelerators: Path | None, node_name: str) -> interface.Discovered:
    try:
        probe = host.probe(roots.Root(root), node_name, library, accelerators)
        try:
            return probe.discover()
        finally:
            probe.close()
    except (mig.HardwareError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def lines(items: list[dict[str, Any]]) -> list[str]:
    """Return one line for each slice and each of its devices."""
    found = []
    for number, item in enumerate(items, 1):
        spec = item["spec"]
        devices = spec.get("devices") or []
        counters = len(spec.get("sharedCounters") or [])
        found.append(f"slice {number} of {len(items)}: {len(devices)} devices, {counters} counter sets")
        found += [f"  {device['name']}: {_facts(device)}" for device in devices]
    return found


def _facts(device: dict[str, Any]) -> str:
    """Return the attributes that tell devices apart."""
    values = {name: next(iter(value.values())) for name, value in (device.get("attributes") or {}).items()}
    return ", ".join(f"{name}={value}" for name, value in sorted(values.items()))
