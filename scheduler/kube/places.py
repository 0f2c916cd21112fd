"""Where the machines stand: which labels make levels, and the domains of every node."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
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
    machines: Machines,
    given: Paths,
    labels: Sequence[str] = (),
    orders: Iterable[Sequence[str]] = (),
    settled: Container[str] = frozenset(),
) -> Places:
    """Return where machines stand.

    Parameters
    ----------
    given : Paths
        Takes the place of all labels where it has levels.
    labels : sequence of str
        Node labels, coarsest first; empty merges `orders` and the conventions.
    settled : container of str
        Nodes that stand already: where two contradict each other, the newcomer is left out.

    Notes
    -----
    NVLink domains are a level in any case. Where `labels` does not say which, it is the finest that holds them whole.
    """
    ordered: tuple[str, ...] = ()
    if not given.levels:
        ordered = tuple(labels) or tuple(key for key in levels.merge(orders) if key != levels.CLIQUE)
    every = (*given.levels, *ordered)
    nothing = ("",) * len(given.levels)
    paths = {
        name: (*given.domains.get(name, nothing), *_domains(machine, ordered)) for name, machine in machines.items()
    }
    if levels.CLIQUE not in ordered:
        every, paths = _with_cliques(machines, every, paths)
    used = [i for i, column in enumerate(zip(*paths.values(), strict=True)) if any(column)]
    narrowed = {name: tuple(path[i] for i in used) for name, path in paths.items()}
    narrowed = _told_apart(narrowed)
    rejected = dict(_misfits(machines, narrowed, settled))
    kept = {name: path for name, path in narrowed.items() if name not in rejected}
    return Places(levels.names([every[i] for i in used]), kept, rejected)


def _with_cliques(
    machines: Machines, keys: tuple[str, ...], paths: Mapping[str, tuple[str, ...]]
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Add the level of NVLink domains: the finest one at which no domain is torn apart by the levels above it."""
    cliques = {name: levels.domain(one, dict(one.labels), levels.CLIQUE) for name, one in machines.items()}
    above: dict[str, tuple[str, ...]] = {}
    for name, clique in cliques.items():
        if clique:
            above[clique] = _common(above.get(clique, paths[name]), paths[name])
    place = min((len(shared) for shared in above.values()), default=len(keys))
    found = {name: (*path[:place], cliques[name], *path[place:]) for name, path in paths.items()}
    return (*keys[:place], levels.CLIQUE, *keys[place:]), found


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    """Return the beginning that two paths share."""
    differ = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return one[: next(differ, min(len(one), len(other)))]


def _domains(machine: node.NodeTopology, keys: Sequence[str]) -> tuple[str, ...]:
    labels = dict(machine.labels)
    return tuple(levels.domain(machine, labels, key) for key in keys)


def _told_apart(paths: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Add the number of the level to a domain whose full name means a domain of a coarser level on other nodes.

    A rack named like a block is no contradiction where its branch has no blocks.
    """
    coarsest: dict[str, int] = {}
    for path in paths.values():
        for step, level in _steps(path):
            coarsest[step] = min(level, coarsest.get(step, level))
    return {name: tuple(_distinct(path, coarsest)) for name, path in paths.items()}


def _distinct(path: tuple[str, ...], coarsest: Mapping[str, int]) -> Iterator[str]:
    full = {level: step for step, level in _steps(path)}
    for level, domain in enumerate(path):
        yield f"{domain}.{level}" if domain and coarsest[full[level]] != level else domain


def _misfits(
    machines: Machines, paths: Mapping[str, tuple[str, ...]], settled: Container[str]
) -> Iterator[tuple[str, str]]:
    """Yield the nodes that contradict those before them, settled ones first, with the reason."""
    level_of: dict[str, int] = {"cluster": -1}  # the root
    owner: dict[str, str] = {}
    for name, path in sorted(paths.items(), key=lambda one: one[0] not in settled):
        steps = dict(_steps(path))
        before = (step for step in steps if step in machines and (step in settled or name not in settled))
        other = next((owner[gpu.uuid] for gpu in machines[name].gpus if owner.get(gpu.uuid, name) != name), "")
        clash = next((step for step, level in steps.items() if level_of.get(step, level) != level), "")
        if other:
            yield name, f"has a GPU with the uuid of one in node {other}"
        elif clash:
            yield name, f"domain {clash} is of another level on other nodes: label all nodes with the same levels"
        elif taken := next(before, name if name in level_of else ""):
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
