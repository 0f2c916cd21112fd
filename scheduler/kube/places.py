"""Where the machines stand: which labels make levels, and the domains of every node."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from scheduler.model import levels, node


@dataclass(frozen=True, slots=True)
class Paths:
    """A fabric file: the domains of every node, coarsest first, as many as there are levels; "" leaves one out."""

    levels: tuple[str, ...] = ()
    domains: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Places:
    """The tree of domains as paths.

    Attributes
    ----------
    named : dict of label to level
        Coarsest first; only labels that some node has.
    paths : dict of node to domains
        One entry per level, "" where the node's branch leaves it out.
    rejected : dict of node to reason
        Nodes that no tree can hold beside those before them.
    """

    named: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rejected: Mapping[str, str] = field(default_factory=dict)


Machines = Mapping[str, node.NodeTopology]


def places(
    machines: Machines, given: Paths, labels: Sequence[str] = (), orders: Iterable[Sequence[str]] = ()
) -> Places:
    """Return where machines stand.

    Parameters
    ----------
    given : Paths
        Takes the place of all labels but that of the NVLink domain, where it has levels.
    labels : sequence of str
        Node labels, coarsest first; empty merges `orders` and the conventions.
    """
    if given.levels:
        keys: tuple[str, ...] = (levels.CLIQUE,)
    else:
        keys = tuple(labels) or levels.merge(orders)
    nothing = ("",) * len(given.levels)
    paths = {name: (*given.domains.get(name, nothing), *_domains(machine, keys)) for name, machine in machines.items()}
    used = [i for i, column in enumerate(zip(*paths.values(), strict=True)) if any(column)]
    every = (*given.levels, *keys)
    narrowed = {name: tuple(path[i] for i in used) for name, path in paths.items()}
    rejected = dict(_misfits(machines, narrowed))
    kept = {name: path for name, path in narrowed.items() if name not in rejected}
    return Places(levels.names([every[i] for i in used]), kept, rejected)


def _domains(machine: node.NodeTopology, keys: Sequence[str]) -> tuple[str, ...]:
    labels = dict(machine.labels)
    return tuple(levels.domain(machine, labels, key) for key in keys)


def _misfits(machines: Machines, paths: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """Yield the nodes that contradict those before them, with the reason."""
    level_of: dict[str, int] = {"cluster": -1}  # the root
    owner: dict[str, str] = {}
    for name, path in paths.items():
        steps = dict(_steps(path))
        other = next((owner[gpu.uuid] for gpu in machines[name].gpus if owner.get(gpu.uuid, name) != name), "")
        clash = next((step for step, level in steps.items() if level_of.get(step, level) != level), "")
        if other:
            yield name, f"has a GPU with the uuid of one in node {other}"
        elif clash:
            yield name, f"domain {clash} is of another level on other nodes: label all nodes with the same levels"
        elif taken := next((step for step in steps if step in machines), name if name in level_of else ""):
            yield name, f"domain {taken} has the name of a node"
        else:
            level_of |= steps
            owner |= {gpu.uuid: name for gpu in machines[name].gpus if gpu.uuid}


def _steps(path: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Yield the full names of the domains on a path with their levels, as `fabric.from_paths` names them."""
    above = ""
    for level, domain in enumerate(path):
        if domain:
            above = f"{above}/{domain}" if above else domain
            yield above, level
