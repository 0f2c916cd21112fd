"""The machines of the cluster: from nodes, slices and taints to the fleet that gangs are placed on.

Machines are kept decoded. What changes marks its node, and compiling decodes the marked nodes only; where neither a
machine nor its place changed, the very same `Scoring` comes back.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from scheduler.kube import catalog as catalogs
from scheduler.kube import names, part, places, taint_rule
from scheduler.kube import node as nodes
from scheduler.kube.machine import Machine as Machine
from scheduler.kube.machine import on_node, plugged
from scheduler.model import admission, claim, fabric, levels, nvidia_slices, slices
from scheduler.model import node as model
from scheduler.placement import engine, policy, scoring, target
from scheduler.snapshot import topology


@dataclass(frozen=True, slots=True)
class Options:
    """What the administrator may set.

    Attributes
    ----------
    level_labels : tuple of str
        Node labels, coarsest first; empty takes those of Kueue's Topologies and the conventions of `scheduler.model.levels`.
    paths : Paths
        A fabric file. Takes the place of all labels where it has levels; the NVLink domain stays a level.
    drivers : tuple of str
        Whose devices are planned.
    """

    level_labels: tuple[str, ...] = ()
    paths: places.Paths = field(default_factory=places.Paths)
    drivers: tuple[str, ...] = (claim.DRIVER, nvidia_slices.DRIVER)


SHAPES = 1000
"""Contents of slices that are kept decoded, beyond as many as there are nodes."""


@dataclass(frozen=True, slots=True)
class LevelOrder:
    """A Kueue Topology: node labels, coarsest first."""

    name: str
    labels: tuple[str, ...]


def read_topology(item: Mapping[str, Any]) -> LevelOrder:
    """Project a Topology of ``kueue.x-k8s.io``."""
    keys = (one["nodeLabel"] for one in (item.get("spec") or {}).get("levels") or ())
    return LevelOrder(item["metadata"]["name"], tuple(key for key in keys if key != levels.HOSTNAME))


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A fleet ready to be placed on.

    Attributes
    ----------
    scoring : Scoring
        The same object as before where only taints and states of nodes changed.
    rejected : dict of node to reason
        Nodes that are left out of the fleet.
    closed : dict of node to reason
        Nodes of the fleet on which nothing new can start: cordoned, not ready, tainted, being deleted, or with devices
        that are not published whole at the moment.
    failed : tuple of (node, GPU)
        GPUs that a taint keeps off, ascending.
    tainted : tuple of (node, device, Taint)
        All devices that a taint keeps off: partitions, NICs and accelerators too.
    spellings : dict of str to str
        Level of everything that users may write for it.
    """

    scoring: scoring.Scoring
    rejected: Mapping[str, str]
    closed: Mapping[str, str]
    failed: tuple[tuple[str, int], ...]
    tainted: tuple[tuple[str, str, part.Taint], ...]
    spellings: Mapping[str, str]

    @property
    def topology(self) -> topology.Topology:
        """Return the compiled fleet itself."""
        return self.scoring.topology


Value = nodes.Node | part.Part | taint_rule.Rule | LevelOrder


@dataclass(slots=True, eq=False)
class Fleet:
    """All nodes with their devices, as far as they were told.

    Attributes
    ----------
    dirty : set of str
        Nodes to look at again.
    generation : int
        Counts the topologies compiled.
    """

    options: Options = field(default_factory=Options)
    dirty: set[str] = field(default_factory=set)
    generation: int = 0
    _nodes: dict[str, nodes.Node] = field(default_factory=dict)
    _parts: dict[str, dict[str, part.Part]] = field(default_factory=dict)
    _rules: dict[str, taint_rule.Rule] = field(default_factory=dict)
    _orders: dict[str, LevelOrder] = field(default_factory=dict)
    _machines: dict[str, Machine] = field(default_factory=dict)
    _whole: dict[str, Machine] = field(default_factory=dict)
    _gaps: dict[str, str] = field(default_factory=dict)
    _problems: dict[str, str] = field(default_factory=dict)
    _templates: dict[tuple[object, ...], model.NodeTopology] = field(default_factory=dict)
    _catalog: catalogs.Catalog | None = None
    _labels: frozenset[str] = frozenset()
    _stale: bool = True
    _places: places.Places = field(default_factory=places.Places)
    _scoring: scoring.Scoring | None = None
    _topology: topology.Topology | None = None
    _asked: frozenset[str] = frozenset()
    _tolerations: set[admission.Toleration] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._reorder()

    def update(self, value: Value) -> None:
        """Take a new or changed node, slice, taint rule or Kueue Topology."""
        match value:
            case nodes.Node(name=name):
                self._nodes[name] = value
                self.dirty.add(name)
            case part.Part(name=name, node=owner):
                self._parts.setdefault(owner, {})[name] = value
                self.dirty.add(owner)
            case taint_rule.Rule(name=name):
                self._rules[name] = value
            case LevelOrder(name=name):
                self._orders[name] = value
                self._reorder()

    def remove(self, value: Value) -> None:
        """Forget a node, slice, taint rule or Kueue Topology."""
        match value:
            case nodes.Node(name=name):
                self._nodes.pop(name, None)
                self._whole.pop(name, None)
                self.dirty.add(name)
            case part.Part(name=name, node=owner):
                self._parts.get(owner, {}).pop(name, None)
                self.dirty.add(owner)
            case taint_rule.Rule(name=name):
                self._rules.pop(name, None)
            case LevelOrder(name=name):
                self._orders.pop(name, None)
                self._reorder()

    def compile(
        self, chosen: policy.ScoringPolicy, expected: target.TargetWorkload | None = None, seed: int = 0
    ) -> Compiled:
        """Bring the fleet up to date and return it, ready to be placed on. Bad nodes are left out, never an error."""
        self.refresh()
        found = self._topology
        if found is None or self._stale:
            found = self._topology = self._compiled()
            self._stale, self._scoring = False, None
        ready = self._scoring
        if ready is None or (ready.policy, ready.seed) != (chosen, seed) or (expected and ready.target != expected):
            ready = self._scoring = scoring.compile_scoring(chosen, found, expected, seed)
            engine.prepare(ready)
        tainted = tuple(self._tainted())
        return Compiled(
            scoring=ready,
            rejected={**self._problems, **self._places.rejected},
            closed=self._closed(),
            failed=tuple(sorted({(name, gpu) for name, found, _ in tainted for gpu in self._gpus(name, found)})),
            tainted=tainted,
            spellings=levels.spellings(self._places.named),
        )

    def look_for(self, wanted: admission.Admission) -> bool:
        """Keep the labels, and tell apart the taints, that a pod's placement depends on; tell whether that is news.

        Nodes have many labels, some of which change all the time: one that no pod asks for makes no new fleet.
        """
        labels, tolerations = wanted.keys - self._asked, set(wanted.tolerations) - self._tolerations
        self._asked |= labels
        self._tolerations |= tolerations
        before = len(self.dirty)
        for name, node in self._nodes.items() if labels or tolerations else ():
            if any(key in labels for key, _ in node.labels) or nodes.opened(node, tolerations):
                self.dirty.add(name)
        self._labels |= labels
        return len(self.dirty) > before

    def refresh(self) -> None:
        """Decode the nodes that changed; `machine`, `machines` and `catalog` are up to date then."""
        for name in sorted(self.dirty):
            self._refresh(name)
        self.dirty.clear()

    def machine(self, name: str) -> Machine | None:
        """Return a node of the fleet, None for one that is unknown or left out."""
        return None if name in self._places.rejected else self._machines.get(name)

    def machines(self) -> Iterator[Machine]:
        """Yield the nodes by name, those without devices too."""
        return (self._machines[name] for name in sorted(self._machines) if name not in self._places.rejected)

    def catalog(self) -> catalogs.Catalog:
        """Return the distinct devices that the machines publish; the same object while no machine changes."""
        if self._catalog is None:
            self._catalog = catalogs.of(self.machines())
        return self._catalog

    def offered(self, resource: str) -> int:
        """Return the least of an extended resource that a node with GPUs has."""
        with_gpus = (one.topology.name for one in self.machines() if one.topology.gpus)
        return min((dict(self._nodes[name].extended).get(resource, 0) for name in with_gpus), default=0)

    def anywhere(self, resource: str) -> bool:
        """Tell whether any node offers an extended resource."""
        return any(amount for node in self._nodes.values() for name, amount in node.extended if name == resource)

    def node(self, name: str) -> nodes.Node | None:
        """Return the projection of a node."""
        return self._nodes.get(name)

    def _reorder(self) -> None:
        """Take the labels of levels anew; all machines keep others of their labels then."""
        orders = (order.labels for order in self._orders.values())
        self._labels = frozenset(self.options.level_labels).union(levels.COARSE, levels.FINE, *orders, self._asked)
        self._stale = True
        self.dirty.update(self._nodes)

    def _refresh(self, name: str) -> None:
        """Decode one node again."""
        before, after = self._machines.pop(name, None), None
        self._problems.pop(name, None)
        self._gaps.pop(name, None)
        if name in self._nodes:
            try:
                after = self._machines[name] = self._decoded(self._nodes[name])
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                self._problems[name] = str(error) or type(error).__name__
        if before != after:
            self._catalog = None
        if before is None or after is None or before.topology != after.topology:
            self._stale |= before is not after

    def _decoded(self, node: nodes.Node) -> Machine:
        """Return a node with the devices of the pool that has most GPUs.

        A pool with a gap (slices on their way, or wiped by the kubelet while the driver starts) says nothing of devices
        that gangs run on: the node keeps those that it last published whole, and nothing new starts on it.
        """
        last, opened = self._whole.get(node.name), nodes.opened(node, self._tolerations)
        try:
            found = [self._pool(node, driver, parts) for driver, parts in self._pools(node.name).items()]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if last is None:
                raise
            self._gaps[node.name] = f"its devices are not published whole: {error}"
            return on_node(last, node, self._labels, opened)
        best = max(found, key=lambda one: len(one.topology.gpus), default=plugged(node))
        if last is not None and not best.driver and not best.topology.gpus:
            self._gaps[node.name] = "its devices are not published any more"
            return on_node(last, node, self._labels, opened)
        if best.driver:
            self._whole[node.name] = best
        return on_node(best, node, self._labels, opened)

    def _pools(self, name: str) -> dict[str, list[part.Part]]:
        """Group the slices of a node by driver, in the drivers' order."""
        parts = self._parts.get(name, {}).values()
        grouped = {driver: [one for one in parts if one.driver == driver] for driver in self.options.drivers}
        return {driver: found for driver, found in grouped.items() if found}

    def _pool(self, node: nodes.Node, driver: str, parts: list[part.Part]) -> Machine:
        """Return what one driver published, as a machine of its shape; a shape seen before is not decoded again."""
        for one in parts:
            if one.pool != node.name:
                raise ValueError(
                    f"slice {one.name}: spec.pool.name: is {one.pool}; a pool must be named after its node"
                )
        current = part.newest(parts)
        contents = tuple(one.content for one in current)
        template = self._templates.get((driver, *contents))
        if template is None:
            if len(self._templates) > len(self._machines) + SHAPES:
                self._templates.clear()  # what nodes were once; those in use are decoded again as nodes change
            template = slices.decode(part.pool_slices(current))
            self._templates[driver, *contents] = template
        identities = {(found, key): value for one in current for found, key, value in one.identities}
        taints = tuple((found, taint) for one in current for found, taint in one.taints if _bars(taint))
        return Machine(template, driver, contents, identities, taints)

    def _compiled(self) -> topology.Topology:
        """Compile the tree of domains over all machines that fit into it."""
        found = {name: one.topology for name, one in sorted(self._machines.items())}
        orders = [order.labels for _, order in sorted(self._orders.items())]
        self._places = places.places(
            found, self.options.paths, self.options.level_labels, orders, frozenset(self._places.paths)
        )
        kept = {name: found[name] for name in self._places.paths}
        self.generation += 1
        self._catalog = None
        tree = fabric.from_paths(kept, self._places.paths, list(self._places.named.values()))
        return topology.compile_topology(tree, self.generation)

    def _closed(self) -> dict[str, str]:
        """Return why nothing can start on some nodes."""
        nodes_of = ((name, self._nodes[name]) for name in sorted(self._machines))
        reasons = {name: nodes.closed(node, nodes.opened(node, self._tolerations)) for name, node in nodes_of}
        return {name: reason for name, reason in (reasons | self._gaps).items() if reason}

    def _tainted(self) -> Iterator[tuple[str, str, part.Taint]]:
        """Yield the devices that a taint keeps off, by node."""
        rules = [(rule, rule.taint) for _, rule in sorted(self._rules.items()) if rule.taint and _bars(rule.taint)]
        for one in self.machines():
            name = one.topology.name
            yield from ((name, found, taint) for found, taint in one.taints)
            for rule, taint in rules:
                if rule.driver in ("", one.driver) and rule.pool in ("", name):
                    yield from ((name, found, taint) for found in one.devices() if rule.device in ("", found))

    def _gpus(self, name: str, found: str) -> Iterator[int]:
        """Yield the GPU that a device name means, if it is a whole GPU."""
        yield from (gpu.index for gpu in self._machines[name].topology.gpus if gpu.name == found)


def _bars(taint: part.Taint) -> bool:
    """Tell whether a taint is a fault of the device rather than our mark of ownership."""
    return taint.effect == "NoExecute" or taint.key != names.OWNED
