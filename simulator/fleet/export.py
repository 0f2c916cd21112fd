"""A fabric as a Fleet document, the reverse of `build`."""

from typing import Any

import yaml

from scheduler.model import fabric, machines, node
from simulator.fleet import spec


def document(source: fabric.Fabric, name: str) -> str:
    """Return the fleet as YAML that `load.read` takes.

    Raises
    ------
    FleetError
        A machine has wiring of its own: no kind of ours, and the document has no words for links.
    """
    own: dict[str, dict[str, Any]] = {}
    nested = all(_own_name(source, vertex) for vertex in source.graph)
    body: dict[str, Any] = {"levels": list(source.levels[1:-1]), "machines": own}
    body |= _tree(source, own) if nested else _graph(source, own)
    top = {"apiVersion": "muster.dev/v1alpha1", "kind": "Fleet", "metadata": {"name": name}}
    return yaml.safe_dump(top | {"spec": {key: value for key, value in body.items() if value}}, sort_keys=False)


def _own_name(source: fabric.Fabric, vertex: str) -> str:
    """Return a domain's name below its parent, "" when its full name does not begin with the parent's."""
    above = next(iter(source.graph.predecessors(vertex)), "")
    if above in ("", source.root) or source.level(vertex) == fabric.NODE_LEVEL:
        return vertex
    return vertex.removeprefix(f"{above}/") if vertex.startswith(f"{above}/") else ""


def _tree(source: fabric.Fabric, own: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return domains with what is inside: names repeat in other parents, as in data centres."""
    return _inside(source, source.root, own)


def _inside(source: fabric.Fabric, domain: str, own: dict[str, dict[str, Any]]) -> dict[str, Any]:
    domains, nodes = [], []
    for child in source.children(domain):
        if source.level(child) == fabric.NODE_LEVEL:
            nodes.append(_node(source.graph.nodes[child]["topology"], "", own))
        else:
            named = {"name": _own_name(source, child), "level": source.level(child)}
            domains.append(named | _inside(source, child, own))
    return ({"domains": domains} if domains else {}) | ({"nodes": nodes} if nodes else {})


def _graph(source: fabric.Fabric, own: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return domains that name their parents, and nodes that name their domain."""
    domains, nodes = [], []
    for vertex in source.graph:
        above = next(iter(source.graph.predecessors(vertex)), "")
        parent = "" if above == source.root else above
        if source.level(vertex) == fabric.NODE_LEVEL:
            nodes.append(_node(source.graph.nodes[vertex]["topology"], parent, own))
        elif vertex != source.root:
            domains.append({"name": vertex, "level": source.level(vertex)} | ({"parent": parent} if parent else {}))
    return {"graph": domains, "nodes": nodes}


def _node(machine: node.NodeTopology, domain: str, own: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return one node; machines that are no kind of ours are added to `own`."""
    entry: dict[str, Any] = {"machine": machine.machine, "name": machine.name}
    if domain:
        entry["domain"] = domain
    cut = [gpu.index for gpu in machine.gpus if gpu.mig_enabled]
    if cut:
        entry["migGpus"] = cut
    if machine.machine not in machines.KINDS:
        entry["machine"] = _own(machine, own)
    return entry


def _own(machine: node.NodeTopology, own: dict[str, dict[str, Any]]) -> str:
    """Name the machine's kind in `own` and return the name."""
    if machine.nvlinks or machine.nics or machine.accelerators:
        problem = f"node {machine.name} has links or devices for which a Fleet document has no words"
        raise spec.FleetError(problem, value=machine.machine, remedy="export it as json or dot")
    facts: dict[str, Any] = {"gpus": len(machine.gpus)}
    if machine.gpus:
        facts["model"] = machine.gpus[0].model.name
    facts |= {"cpuMilli": machine.cpu_milli, "memoryMiB": machine.memory_mib}
    kind = next((kind for kind, known in own.items() if known == facts), "")
    if not kind:
        kind = f"{machine.machine or 'machine'}-{len(own)}"
        own[kind] = facts
    return kind
