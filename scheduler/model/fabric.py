"""The tree of domains over the nodes: zone, spine, block, rack, NVLink domain, node.

This is the authoring form. It is a networkx arborescence that people and tests can query; placement reads the arrays
that ``scheduler.snapshot.tree`` compiles from it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import networkx as nx

from scheduler.model import node

NODE_LEVEL = "node"
"""Name of the finest level; its domains are the nodes themselves."""


class FabricError(ValueError):
    """The fabric contradicts itself; the message names the domain and the remedy."""


class Fabric:
    """Domains as a tree of any depth with named levels and branches of unequal depth.

    Parameters
    ----------
    graph : networkx.DiGraph
        Edges from a domain to its children. Every vertex has an attribute ``level``; leaves have ``topology``, a
        ``NodeTopology`` whose name is the vertex.
    levels : sequence of str
        Coarsest first, ending in ``"node"``. A branch may leave levels out, but never reverses their order.

    Raises
    ------
    FabricError
        No arborescence, unknown or reversed levels, a leaf without topology.
    """

    def __init__(self, graph: "nx.DiGraph[str]", levels: Sequence[str]) -> None:
        self.graph = graph
        self.levels = tuple(levels)
        validate(self)

    @property
    def root(self) -> str:
        """Return the coarsest domain."""
        return next(str(v) for v, degree in self.graph.in_degree() if degree == 0)

    def level(self, domain: str) -> str:
        """Return the level name of a domain."""
        return str(self.graph.nodes[domain]["level"])

    def children(self, domain: str) -> list[str]:
        """Return the child domains in insertion order."""
        return list(self.graph.successors(domain))

    def parent(self, domain: str) -> str | None:
        """Return the domain above, None for the root."""
        return next((str(v) for v in self.graph.predecessors(domain)), None)

    def path(self, domain: str) -> tuple[str, ...]:
        """Return the domains from the root down to `domain`, itself included.

        Raises
        ------
        FabricError
            There is no such domain.
        """
        if domain not in self.graph:
            raise FabricError(f"there is no domain {domain}")
        steps = [domain]
        while (above := self.parent(steps[-1])) is not None:
            steps.append(above)
        return tuple(reversed(steps))

    def ancestor(self, domain: str, level: str) -> str | None:
        """Return the domain of a level above (or at) `domain`, None where its branch leaves the level out."""
        return next((step for step in self.path(domain) if self.level(step) == level), None)

    def common_domain(self, domains: Iterable[str]) -> str:
        """Return the finest domain that holds all of `domains`; the root for none."""
        paths = [self.path(domain) for domain in domains]
        common = self.root
        for steps in zip(*paths, strict=False):
            if len(set(steps)) > 1:
                break
            common = steps[0]
        return common

    def domains(self, level: str) -> list[str]:
        """Return the domains of a level, depth-first."""
        return [v for v in nx.dfs_preorder_nodes(self.graph, self.root) if self.level(v) == level]

    def nvlink_domains(self) -> dict[str, tuple[str, ...]]:
        """Return the multi-node NVLink fabrics: ``clusterUUID.cliqueId`` to the nodes whose GPUs are in it."""
        members: dict[str, list[str]] = {}
        for machine in self.nodes():
            for fabric_id in dict.fromkeys(gpu.fabric_id for gpu in machine.gpus if gpu.fabric_id):
                members.setdefault(fabric_id, []).append(machine.name)
        return {fabric_id: tuple(names) for fabric_id, names in members.items()}

    def nodes(self) -> Iterator[node.NodeTopology]:
        """Yield the machines depth-first, children in insertion order: the rank order of the fleet."""
        for vertex in nx.dfs_preorder_nodes(self.graph, self.root):
            if self.level(vertex) == NODE_LEVEL:
                yield self.graph.nodes[vertex]["topology"]


def from_paths(
    nodes: Mapping[str, node.NodeTopology], paths: Mapping[str, Sequence[str]], levels: Sequence[str]
) -> Fabric:
    """Build a fabric from one path per node.

    Parameters
    ----------
    nodes : mapping of node name to NodeTopology
    paths : mapping of node name to domain names
        One entry per level above ``node``, coarsest first; "" leaves a level out.
    levels : sequence of str
        Coarsest first, without the final ``node`` level and without the root.

    Raises
    ------
    FabricError
        A path of the wrong length or of no node, or a node with the name of another node or domain.

    Notes
    -----
    Domain names are made unique by their parents (``block-0/rack-3``), as data centres repeat rack names.
    """
    strangers = sorted(set(paths) - set(nodes))
    if strangers:
        raise FabricError(f"node {strangers[0]}: has a path but is no node of the fleet")
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_node("cluster", level="cluster")
    for name, topology in nodes.items():
        path = paths.get(name, ())
        if len(path) not in (0, len(levels)):
            raise FabricError(f"node {name}: path has {len(path)} domains, levels are {', '.join(levels)}")
        parent = "cluster"
        for level, domain in zip(levels, path, strict=False):
            if not domain:
                continue
            child = domain if parent == "cluster" else f"{parent}/{domain}"
            if child in graph and graph.nodes[child]["level"] != level:
                taken = graph.nodes[child]["level"]
                raise FabricError(f"node {name}: domain {child} of level {level} already is one of level {taken}")
            if child not in graph:
                graph.add_node(child, level=level)
                graph.add_edge(parent, child)
            parent = child
        if name in graph:
            raise FabricError(f"node {name}: the name is already taken by another node or domain")
        graph.add_node(name, level=NODE_LEVEL, topology=topology)
        graph.add_edge(parent, name)
    return Fabric(graph, ("cluster", *levels, NODE_LEVEL))


def validate(fabric: Fabric) -> None:
    """Check that the fabric is one tree whose levels get finer downwards.

    Raises
    ------
    FabricError
        Names the offending domain.
    """
    graph = fabric.graph
    if not graph or not nx.is_arborescence(graph):
        raise FabricError("the fabric is not one tree: " + _why_no_tree(graph))
    if len(set(fabric.levels)) != len(fabric.levels) or fabric.levels[-1:] != (NODE_LEVEL,):
        raise FabricError(f"levels must differ and end in {NODE_LEVEL}, got {', '.join(fabric.levels)}")
    order = {name: i for i, name in enumerate(fabric.levels)}
    for vertex, data in graph.nodes(data=True):
        if data.get("level") not in order:
            raise FabricError(f"domain {vertex}: level {data.get('level')!r} is not one of {', '.join(fabric.levels)}")
        if (data["level"] == NODE_LEVEL) != ("topology" in data):
            raise FabricError(f"domain {vertex}: exactly the domains of level {NODE_LEVEL} carry a machine")
        if "topology" in data and data["topology"].name != vertex:
            raise FabricError(f"domain {vertex}: its machine is called {data['topology'].name}")
    _check_uuids(fabric)
    for parent, child in graph.edges:
        if order[graph.nodes[parent]["level"]] >= order[graph.nodes[child]["level"]]:
            raise FabricError(f"domain {child}: its level is not finer than that of its parent {parent}")


def _check_uuids(fabric: Fabric) -> None:
    """Check that no GPU is in two nodes."""
    owner: dict[str, str] = {}
    for machine in fabric.nodes():
        for gpu in machine.gpus:
            other = owner.setdefault(gpu.uuid, machine.name) if gpu.uuid else machine.name
            if other != machine.name:
                raise FabricError(f"node {machine.name}: GPU {gpu.uuid} is also in node {other}")


def _why_no_tree(graph: "nx.DiGraph[str]") -> str:
    """Say which domain breaks the tree."""
    if not graph:
        return "it has no domains"
    for vertex, degree in graph.in_degree():
        if degree > 1:
            return f"domain {vertex} has {degree} parents"
    if not nx.is_directed_acyclic_graph(graph):
        return "it has a cycle through " + str(nx.find_cycle(graph)[0][0])
    roots = [str(v) for v, degree in graph.in_degree() if degree == 0]
    return f"it has {len(roots)} roots: {', '.join(roots[:5])}"
