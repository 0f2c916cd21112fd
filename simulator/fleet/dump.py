"""Fleets from ``kubectl get nodes,resourceslices -o json``: the very nodes, labels and devices of a cluster."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from scheduler.model import extended, fabric, levels, node, quantity, slices
from simulator.fleet import spec

LEVEL_LABELS = levels.merge(())
"""Labels that the live scheduler takes for levels by itself; data centres may have others for blocks and racks."""

Item = Mapping[str, Any]


def read(file: str, data: bytes, level_labels: tuple[str, ...] = LEVEL_LABELS) -> fabric.Fabric:
    """Make a fabric of a dump.

    Parameters
    ----------
    level_labels : tuple of str
        Node labels, coarsest first. Levels are called after the part behind the last ``/``, or by the whole label where
        two would be called the same; a label that no node has makes no level, and a node without one of them leaves that
        level out.

    Raises
    ------
    FleetError

    Notes
    -----
    CPU and memory are what the node can allocate, less nothing: a dump of nodes does not tell what runs there.
    """
    items = _items(file, data)
    nodes = [item for item in items if item.get("kind") == "Node"]
    if not nodes:
        raise spec.FleetError("no Node in the dump", file=file, remedy="kubectl get nodes,resourceslices -o json")
    devices = _devices(file, [item for item in items if item.get("kind") == "ResourceSlice"])
    machines = {machine.name: machine for machine in (_node(file, i, item, devices) for i, item in enumerate(nodes))}
    if len(machines) < len(nodes):
        names = [_name(file, i, item) for i, item in enumerate(nodes)]
        twice = next(name for name in names if names.count(name) > 1)
        raise spec.FleetError("two nodes have this name", file=file, field="metadata.name", value=twice)
    return _fabric(file, machines, level_labels)


def _items(file: str, data: bytes) -> list[Item]:
    """Return the objects of a list, or of one object."""
    try:
        top = json.loads(data)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 0)
        raise spec.FleetError(f"not valid JSON: {error}", file=file, line=line) from error
    items = top.get("items", [top]) if isinstance(top, dict) else top
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise spec.FleetError("not a list of Kubernetes objects", file=file, field="items")
    return items


def _devices(file: str, items: list[Item]) -> dict[str, list[node.NodeTopology]]:
    """Return what the ResourceSlices tell of each node, one entry per driver."""
    found: dict[str, list[node.NodeTopology]] = {}
    try:
        for group in slices.pools(items).values():
            owner = str(group[0].get("spec", {}).get("nodeName", ""))
            if owner:
                found.setdefault(owner, []).append(slices.decode(group))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise spec.FleetError(f"ResourceSlice: {error}", file=file) from error
    return found


def _node(file: str, index: int, item: Item, devices: dict[str, list[node.NodeTopology]]) -> node.NodeTopology:
    """Return one node with its devices."""
    name = _name(file, index, item)
    labels = _mapping(file, name, item["metadata"], "labels")
    allocatable = _mapping(file, name, _mapping(file, name, item, "status"), "allocatable")
    parts = devices.get(name) or [_extended(file, name, labels, allocatable)]
    machine = max(parts, key=lambda part: len(part.gpus))
    try:
        return replace(
            machine,
            name=name,
            cpu_milli=quantity.milli(allocatable.get("cpu", 0)),
            memory_mib=quantity.mib(allocatable.get("memory", 0)),
            max_pods=int(quantity.parse(allocatable.get("pods", machine.max_pods))),
            nics=machine.nics or next((part.nics for part in parts if part.nics), ()),
            labels=tuple((str(key), str(value)) for key, value in labels.items()),
        )
    except ValueError as error:
        raise spec.FleetError(f"node {name}: {error}", file=file, field="status.allocatable") from error


def _extended(file: str, name: str, labels: Item, allocatable: Item) -> node.NodeTopology:
    """Return the GPUs of a node that has them as an extended resource."""
    try:
        count = int(quantity.parse(allocatable.get(extended.GPU_RESOURCE, 0)))
        return extended.machine(name, labels, count)
    except ValueError as error:
        field = f"status.allocatable.{extended.GPU_RESOURCE}"
        raise spec.FleetError(f"node {name}: {error}", file=file, field=field) from error


def _fabric(file: str, machines: dict[str, node.NodeTopology], level_labels: tuple[str, ...]) -> fabric.Fabric:
    """Hang the nodes below the domains that their labels name."""
    labels = {name: dict(machine.labels) for name, machine in machines.items()}
    found = {
        key: {name: levels.domain(machines[name], own, key) for name, own in labels.items()} for key in level_labels
    }
    used = [key for key in level_labels if any(found[key].values())]
    paths = {name: [found[key][name] for key in used] for name in machines}
    try:
        return fabric.from_paths(machines, paths, list(levels.names(used).values()))
    except fabric.FabricError as error:
        raise spec.FleetError(str(error), file=file, field="metadata.labels") from error


def _name(file: str, index: int, item: Item) -> str:
    metadata = item.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(name, str) or not name:
        raise spec.FleetError(f"Node {index} has no name", file=file, field="metadata.name")
    return name


def _mapping(file: str, name: str, item: Item, key: str) -> dict[str, Any]:
    value = item.get(key) or {}
    if not isinstance(value, dict):
        raise spec.FleetError(f"node {name}: not a mapping", file=file, field=key)
    return value
