"""Node and ResourceSlice objects of simulated machines, as bytes.

Objects of one kind differ in a few names only. They are made and encoded once per kind, with marks in place of the
names, and a member's body is that text with the marks replaced: 5,000 nodes cost a fraction of a second.
"""

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from scheduler.model import machines, node, slices
from tests.testbed.fleet import presets

BLOCK_LABEL, RACK_LABEL = "muster.dev/block", "muster.dev/rack"
FLEET_LABEL = "muster.dev/simulated"
"""Holds the name of the fleet on nodes and slices alike, so that a whole fleet can be listed and deleted."""
CLIQUE_LABEL = "nvidia.com/gpu.clique"
KWOK_ANNOTATION, KWOK_VALUE = "kwok.x-k8s.io/node", "fake"

MAX_PODS = 110
MARKS = {field: f"mark-of-the-{field}" for field in ("name", "zone", "block", "rack")}
"""Stand for a member's names in a template; nothing in them that JSON escapes."""

NEWEST = 37
"""Minor version of Kubernetes whose slice layout is the default."""


@dataclass(frozen=True, slots=True)
class Body:
    """One object to create: the collection it goes to, its name and its JSON."""

    path: str
    name: str
    data: bytes


NODES = "/api/v1/nodes"
SLICES = "/apis/resource.k8s.io/v1/resourceslices"


def bodies(fleet: presets.Fleet, minor: int = NEWEST) -> Iterator[tuple[Body, ...]]:
    """Yield for each node of a fleet its Node object and its ResourceSlices.

    Parameters
    ----------
    minor : int
        The server is Kubernetes 1.`minor`: decides how the slices are laid out.
    """
    for member in fleet.members():
        yield tuple(_filled(member, each) for each in _templates(fleet.name, member.kind, member.clique, minor))


def _filled(member: presets.Member, template: Body) -> Body:
    """Put the names of a member in place of the marks."""
    data = template.data
    for field in MARKS:
        data = data.replace(MARKS[field].encode(), getattr(member, field).encode())
    return Body(template.path, template.name.replace(MARKS["name"], member.name), data)


@functools.cache
def _templates(fleet: str, kind: str, clique: str, minor: int) -> tuple[Body, ...]:
    """Return the objects of a kind of node with marks for the names."""
    made = machine(presets.Member(**MARKS, kind=kind, clique=clique))
    published = slices.encode(made, form=slices.layout(minor))
    return _body(NODES, _node(made, fleet)), *(_body(SLICES, _labelled(item, fleet)) for item in published)


def machine(member: presets.Member) -> node.NodeTopology:
    """Return the machine of a member, links and all."""
    if not member.clique:
        return machines.build(member.kind, member.name)
    cluster, _, number = member.clique.rpartition(".")
    tray = machines.nvl72(member.name, cluster, int(number))[0]
    gpus = tuple(dataclasses.replace(gpu, uuid=f"GPU-{member.name}-{gpu.index}") for gpu in tray.gpus)
    return dataclasses.replace(tray, name=member.name, gpus=gpus)


def _body(path: str, item: dict[str, Any]) -> Body:
    return Body(path, item["metadata"]["name"], orjson.dumps(item))


def _labelled(item: dict[str, Any], fleet: str) -> dict[str, Any]:
    """Add the fleet's label to a slice; the spec stays as our codec made it."""
    return item | {"metadata": item["metadata"] | {"labels": {FLEET_LABEL: fleet}}}


def _node(made: node.NodeTopology, fleet: str) -> dict[str, Any]:
    """Return the Node object of a marked machine, not Ready yet: kwok makes it so, and Kubernetes takes its taint away."""
    labels = {
        "kubernetes.io/hostname": made.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "arm64" if made.machine == presets.NVL72 else "amd64",
        "node.kubernetes.io/instance-type": made.machine,
        "topology.kubernetes.io/zone": MARKS["zone"],
        BLOCK_LABEL: MARKS["block"],
        RACK_LABEL: MARKS["rack"],
        FLEET_LABEL: fleet,
    }
    room = {"cpu": f"{made.cpu_milli}m", "memory": f"{made.memory_mib}Mi", "pods": str(MAX_PODS)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": made.name,
            "labels": labels | dict(made.labels),
            "annotations": {KWOK_ANNOTATION: KWOK_VALUE},
        },
        "spec": {},
        "status": {"capacity": room, "allocatable": room},
    }
