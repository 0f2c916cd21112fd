"""Fleet document to fabric. Every refusal names the line of the document."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace

import networkx as nx

from scheduler import document
from scheduler.model import fabric, machines, node
from simulator.fleet import spec

MAX_NODES = 100_000

NVL72 = "gb200-nvl72"
CLIQUE_LABEL = "nvidia.com/gpu.clique"

CLUSTER = "cluster"
RESERVED = (CLUSTER, fabric.NODE_LEVEL)


@dataclass(frozen=True, slots=True)
class Member:
    """One node to be: its group, the document's place of it, and the domain that it is in."""

    group: spec.NodeGroup
    place: document.Place
    domain: str


class Builder:
    """One pass over a document; holds the graph under construction."""

    def __init__(self, source: document.Document) -> None:
        self.source = source
        self.fleet = source.check(spec.Fleet)
        self.levels = self.fleet.spec.levels
        self.order = {level: i for i, level in enumerate((CLUSTER, *self.levels, fabric.NODE_LEVEL))}
        self.graph: nx.DiGraph[str] = nx.DiGraph()
        self.graph.add_node(CLUSTER, level=CLUSTER)

    def fabric(self) -> fabric.Fabric:
        """Return the fabric.

        Raises
        ------
        FleetError
        """
        self._check_levels()
        self._check_graph()
        members = self._members()
        if not members:
            raise self.source.fault(("spec",), "the fleet has no nodes")
        self._add_nodes(members)
        try:
            return fabric.Fabric(self.graph, (CLUSTER, *self.levels, fabric.NODE_LEVEL))
        except fabric.FabricError as error:
            raise self.source.fault(("spec",), str(error)) from error

    def _check_levels(self) -> None:
        for index, level in enumerate(self.levels):
            if level in RESERVED or level in self.levels[:index]:
                problem = "this level is always there" if level in RESERVED else "two levels have this name"
                raise self.source.fault(("spec", "levels", index), problem, level)
        if self.fleet.spec.graph and self.fleet.spec.domains:
            remedy = "give a tree or a list of domains with parents"
            raise self.source.fault(("spec", "graph"), "domains are given twice", remedy=remedy)

    def _check_graph(self) -> None:
        """Add the domains that name their parents, and refuse cycles."""
        listed = self.fleet.spec.graph
        row: dict[str, int] = {}
        for index, domain in enumerate(listed):
            if domain.name in row or domain.name == CLUSTER:
                raise self._fault("graph", index, "name", "two domains have this name", domain.name)
            row[domain.name] = index
        for index, domain in enumerate(listed):
            if domain.parent and domain.parent != CLUSTER and domain.parent not in row:
                raise self._fault("graph", index, "parent", "there is no such domain", domain.parent)
            self._refuse_cycle(index, row)
        for index in sorted(range(len(listed)), key=lambda i: self._depth(i, row)):
            place: document.Place = ("spec", "graph", index)
            self._add_domain(listed[index].name, listed[index].level, listed[index].parent or CLUSTER, place)

    def _refuse_cycle(self, start: int, row: dict[str, int]) -> None:
        listed, steps = self.fleet.spec.graph, [start]
        while (parent := listed[steps[-1]].parent) in row:
            if row[parent] == start:
                names = " > ".join(listed[i].name for i in reversed([*steps, start]))
                raise self._fault("graph", start, "parent", f"a cycle: {names}", remedy="a domain is in one other")
            if row[parent] in steps:
                return
            steps.append(row[parent])

    def _depth(self, index: int, row: dict[str, int]) -> int:
        """Return how many domains are above, so that parents come first and siblings keep their order."""
        depth = 0
        while (parent := self.fleet.spec.graph[index].parent) in row:
            index, depth = row[parent], depth + 1
        return depth

    def _add_domain(self, name: str, level: str, parent: str, place: document.Place) -> None:
        if level not in self.levels:
            known = ", ".join(self.levels) or "none"
            raise self.source.fault((*place, "level"), "unknown level", level, f"spec.levels are {known}")
        if name in self.graph:
            raise self.source.fault((*place, "name"), "two domains have this name", name)
        above = self.graph.nodes[parent]["level"]
        if self.order[level] <= self.order[above]:
            problem = f"level {level} is not finer than level {above} of {parent}"
            raise self.source.fault((*place, "level"), problem, level)
        self.graph.add_node(name, level=level)
        self.graph.add_edge(parent, name)

    def _members(self) -> list[Member]:
        """Return the nodes to be, in the order of the document."""
        members: list[Member] = []
        trays: dict[str, int] = {}
        for member in (*self._of_tree(self.fleet.spec.domains, CLUSTER, ("spec", "domains")), *self._of_list()):
            members.append(member)
            if member.group.machine == NVL72:
                trays[member.domain] = trays.get(member.domain, 0) + 1
            if trays.get(member.domain, 0) > machines.TRAYS_PER_RACK:
                problem = f"more than {machines.TRAYS_PER_RACK} trays of {NVL72} in domain {member.domain}"
                raise self.source.fault(member.place, problem, remedy="give each rack its own domain")
        if len(members) > MAX_NODES:
            raise self.source.fault(("spec",), f"{len(members)} nodes, at most {MAX_NODES} are built")
        return members

    def _of_tree(self, domains: list[spec.Domain], parent: str, place: document.Place) -> Iterator[Member]:
        """Add a tree of domains and yield its nodes, depth-first."""
        for index, domain in enumerate(domains):
            at = (*place, index)
            for copy in range(domain.count):
                own = domain.name if domain.count == 1 else f"{domain.name}-{copy:0{len(str(domain.count - 1))}d}"
                name = own if parent == CLUSTER else f"{parent}/{own}"
                self._add_domain(name, domain.level, parent, at)
                if len(self.graph) > MAX_NODES:
                    raise self.source.fault(at, f"more than {MAX_NODES} domains")
                for number, group in enumerate(domain.nodes):
                    if group.path or group.domain:
                        problem = "this node is in a domain already"
                        raise self.source.fault((*at, "nodes", number, "path" if group.path else "domain"), problem)
                    yield from (Member(group, (*at, "nodes", number), name) for _ in range(group.count))
                yield from self._of_tree(domain.domains, name, (*at, "domains"))

    def _of_list(self) -> Iterator[Member]:
        """Yield the nodes that name their domain or path."""
        for index, group in enumerate(self.fleet.spec.nodes):
            place: document.Place = ("spec", "nodes", index)
            if group.path and group.domain:
                raise self.source.fault((*place, "path"), "a node has a path or a domain")
            if group.domain and group.domain not in self.graph:
                raise self.source.fault((*place, "domain"), "there is no such domain", group.domain)
            domain = self._walk(group.path, place) if group.path else group.domain or CLUSTER
            yield from (Member(group, place, domain) for _ in range(group.count))

    def _walk(self, path: list[str], place: document.Place) -> str:
        """Return the domain at the end of a path, made where it is new."""
        if len(path) != len(self.levels):
            problem = f"{len(path)} domains, there are {len(self.levels)} levels"
            remedy = 'leave a level out with ""'
            raise self.source.fault((*place, "path"), problem, remedy=remedy)
        parent = CLUSTER
        for level, own in zip(self.levels, path, strict=True):
            if not own:
                continue
            name = own if parent == CLUSTER else f"{parent}/{own}"
            if name not in self.graph:
                self._add_domain(name, level, parent, (*place, "path"))
            elif self.graph.nodes[name]["level"] != level:
                problem = f"domain {name} is of level {self.graph.nodes[name]['level']} elsewhere"
                raise self.source.fault((*place, "path"), problem)
            parent = name
        return parent

    def _add_nodes(self, members: list[Member]) -> None:
        """Name the nodes, build their machines and hang them into the graph."""
        sizes: dict[document.Place, int] = {}
        seats: dict[str, int] = {}
        numbers: dict[document.Place, int] = {}
        for member in members:
            sizes[member.place] = sizes.get(member.place, 0) + 1
        for member in members:
            number = numbers[member.place] = numbers.get(member.place, -1) + 1
            seat = seats[member.domain] = seats.get(member.domain, -1) + 1
            name = self._name(member, number, sizes[member.place], seat)
            if name in self.graph:
                raise self.source.fault((*member.place, "name"), "two nodes or domains have this name", name)
            self.graph.add_node(name, level=fabric.NODE_LEVEL, topology=self._machine(member, name))
            self.graph.add_edge(member.domain, name)

    def _name(self, member: Member, number: int, of: int, seat: int) -> str:
        if not member.group.name:
            return f"{member.domain.replace('/', '-')}-node-{seat}"
        return member.group.name if of == 1 else f"{member.group.name}-{number:0{len(str(of - 1))}d}"

    def _machine(self, member: Member, name: str) -> node.NodeTopology:
        kind, own = member.group.machine, self.fleet.spec.machines
        if kind in own:
            made = own[kind]
            machine = machines.plain(name, made.gpus, made.model, made.cpu_milli, made.memory_mib, kind)
        elif kind in machines.KINDS:
            machine = machines.build(kind, name)
        else:
            remedy = f"kinds are {', '.join((*own, *machines.KINDS))}"
            raise self.source.fault((*member.place, "machine"), "unknown machine", kind, remedy)
        if kind == NVL72:
            machine = in_nvlink_domain(machine, member.domain)
        return self._dressed(machine, member)

    def _dressed(self, machine: node.NodeTopology, member: Member) -> node.NodeTopology:
        """Return the machine with its MIG mode and labels."""
        cut = set(member.group.mig_gpus)
        for index, gpu in enumerate(member.group.mig_gpus):
            if gpu >= len(machine.gpus) or not machine.gpus[gpu].model.mig:
                place = (*member.place, "migGpus", index)
                raise self.source.fault(place, "there is no such GPU, or it has no MIG", gpu)
        if cut:
            gpus = tuple(replace(gpu, mig_enabled=gpu.index in cut) for gpu in machine.gpus)
            machine = replace(machine, gpus=gpus)
        if member.group.labels:
            machine = replace(machine, labels=tuple((dict(machine.labels) | member.group.labels).items()))
        return machine

    def _fault(self, table: str, index: int, field: str, problem: str, value: str = "", remedy: str = "") -> Exception:
        return self.source.fault(("spec", table, index, field), problem, value, remedy)


def fleet(source: document.Document) -> fabric.Fabric:
    """Return the fabric of a fleet document.

    Raises
    ------
    FleetError
    """
    return Builder(source).fabric()


def in_nvlink_domain(machine: node.NodeTopology, domain: str) -> node.NodeTopology:
    """Return a tray whose GPUs share one NVLink fabric with those of all trays of its domain."""
    fabric_id = f"{uuid.uuid5(uuid.NAMESPACE_OID, domain)}.0"
    gpus = tuple(replace(gpu, fabric_id=fabric_id) for gpu in machine.gpus)
    labels = dict(machine.labels) | {CLIQUE_LABEL: fabric_id}
    return replace(machine, gpus=gpus, labels=tuple(labels.items()))
