"""Exact answers for small instances, by integer programming: the judge of the engine in tests and in `explain`.

This is a second, independent statement of what a placement is. It shares no code with the engine: it reads the
occupancy and writes constraints. Partitions (MIG), NICs and other accelerators are outside its model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import optimize, sparse

from scheduler.model import gang, request
from scheduler.snapshot import state, topology


class OracleError(RuntimeError):
    """The solver gave no proof within its limits, or the instance is outside the model."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An optimum with proof.

    Attributes
    ----------
    value : int
        Objective at the optimum.
    placed : tuple of bool
        Which of the gangs are placed, in the order given.
    """

    value: int
    placed: tuple[bool, ...]


@dataclass(slots=True)
class _Model:
    """A mixed-integer programme under construction: columns with bounds, rows with limits."""

    upper: list[float] = field(default_factory=list)
    rows: list[dict[int, float]] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def integer(self, upper: float) -> int:
        """Add an integer column in ``0..upper`` and return its number."""
        self.upper.append(upper)
        return len(self.upper) - 1

    def limit(self, terms: dict[int, float], low: float, high: float) -> None:
        """Add the row ``low <= sum(coefficient * column) <= high``."""
        self.rows.append(terms)
        self.low.append(low)
        self.high.append(high)

    def maximise(self, objective: dict[int, float], seconds: float) -> tuple[int, np.ndarray]:
        """Solve to proven optimality.

        Raises
        ------
        OracleError
            No proof within `seconds`.
        """
        cost = np.zeros(len(self.upper))
        for column, weight in objective.items():
            cost[column] = -weight
        matrix = sparse.lil_array((len(self.rows), len(self.upper)))
        for i, terms in enumerate(self.rows):
            for column, coefficient in terms.items():
                matrix[i, column] = coefficient
        result = optimize.milp(
            cost,
            integrality=np.ones(len(cost), dtype=np.int64),
            bounds=optimize.Bounds(0, np.array(self.upper)),
            constraints=optimize.LinearConstraint(matrix.tocsr(), self.low, self.high),
            options={"time_limit": seconds, "mip_rel_gap": 0},
        )
        if result.status != 0:
            raise OracleError(f"the solver stopped without a proof: {result.message}")
        return round(-result.fun), np.round(result.x)


def most(
    snapshot: state.Snapshot, gangs: Sequence[gang.Gang], weights: Sequence[int] | None = None, seconds: float = 30.0
) -> Answer:
    """Choose the gangs of largest total weight that fit together.

    Parameters
    ----------
    weights : sequence of int, optional
        One per gang; by default 1 each.
    seconds : float
        Limit of the solver.

    Raises
    ------
    OracleError
        No proof in time, or a request with MIG, NICs or accelerators.
    """
    model = _Model()
    placed = [model.integer(1) for _ in gangs]
    used = _Capacity(snapshot, model)
    for column, wanted in zip(placed, gangs, strict=True):
        _place(snapshot, model, used, wanted, column)
    used.close()
    chosen = weights if weights is not None else [1] * len(gangs)
    value, x = model.maximise({c: float(w) for c, w in zip(placed, chosen, strict=True)}, seconds)
    return Answer(value, tuple(bool(x[c]) for c in placed))


def feasible(snapshot: state.Snapshot, wanted: gang.Gang, seconds: float = 30.0) -> bool:
    """Tell whether the gang fits as a whole under all of its required constraints."""
    return most(snapshot, [wanted], seconds=seconds).value == 1


def fewest_domains(snapshot: state.Snapshot, wanted: gang.Gang, level: str, seconds: float = 30.0) -> int | None:
    """Return the least number of domains of `level` over which the gang can be spread, None when it doesn't fit."""
    model = _Model()
    placed = model.integer(1)
    model.limit({placed: 1}, 1, 1)
    used = _Capacity(snapshot, model)
    pods = _place(snapshot, model, used, wanted, placed)
    used.close()
    opened = {}
    for domain, nodes in _members(snapshot.topology, level).items():
        opened[domain] = model.integer(1)
        model.limit(
            {**{c: 1.0 for n in nodes for c in pods.get(n, ())}, opened[domain]: -float(wanted.size)}, -np.inf, 0
        )
    try:
        value, _ = model.maximise(dict.fromkeys(opened.values(), -1.0), seconds)
    except OracleError:
        if feasible(snapshot, wanted, seconds):
            raise
        return None
    return -value


class _Capacity:
    """Rows of the nodes' CPU, memory and pods, and of each GPU's milli-shares, filled while pods are added."""

    def __init__(self, snapshot: state.Snapshot, model: _Model) -> None:
        self.snapshot, self.model = snapshot, model
        nodes = len(snapshot.topology.nodes)
        self.cpu: list[dict[int, float]] = [{} for _ in range(nodes)]
        self.memory: list[dict[int, float]] = [{} for _ in range(nodes)]
        self.pods: list[dict[int, float]] = [{} for _ in range(nodes)]
        self.gpu: dict[tuple[int, int], dict[int, float]] = {}

    def add(self, node: int, column: int, pod: request.PodRequest) -> None:
        """Charge every pod counted by `column` to the node."""
        self.cpu[node][column] = pod.cpu_milli
        self.memory[node][column] = pod.memory_mib
        self.pods[node][column] = 1

    def close(self) -> None:
        """Write the rows."""
        s = self.snapshot
        for n in range(len(s.topology.nodes)):
            self.model.limit(self.cpu[n], -np.inf, float(s.cpu_free[n]))
            self.model.limit(self.memory[n], -np.inf, float(s.memory_free[n]))
            self.model.limit(self.pods[n], -np.inf, float(s.pods_free[n]))
        for (n, g), terms in self.gpu.items():
            self.model.limit(terms, -np.inf, float(s.gpu_free[n, g]))


def _place(
    snapshot: state.Snapshot, model: _Model, used: _Capacity, wanted: gang.Gang, placed: int
) -> dict[int, list[int]]:
    """Add one gang: pods per role and node, bound to the column `placed`. Return the pod columns of every node."""
    if wanted.minimum != wanted.size:
        raise OracleError("gangs with min_member below their size are outside the model")
    pods: dict[int, list[int]] = {}
    for role in wanted.roles:
        every = ((n, _pods_on(snapshot, model, used, n, role)) for n in range(len(snapshot.topology.nodes)))
        on_node = {n: column for n, column in every if column is not None}
        model.limit({**dict.fromkeys(on_node.values(), 1.0), placed: -float(role.count)}, 0, 0)
        _segments(snapshot.topology, model, role, on_node)
        _spread(snapshot.topology, model, role, on_node)
        _same_domain(
            snapshot.topology, model, role.constraint.required, {n: [c] for n, c in on_node.items()}, role.count
        )
        for n, column in on_node.items():
            pods.setdefault(n, []).append(column)
    _same_domain(snapshot.topology, model, wanted.constraint.required, pods, wanted.size)
    return pods


def _pods_on(snapshot: state.Snapshot, model: _Model, used: _Capacity, n: int, role: gang.Role) -> int | None:
    """Add the column that counts the role's pods on a node; None where the node can't take any."""
    pod = role.request
    if pod.mig or pod.nics or pod.accelerators:
        raise OracleError("MIG, NICs and accelerators are outside the model")
    if not snapshot.up[n]:
        return None
    column = model.integer(role.count)
    used.add(n, column, pod)
    if not pod.gpus:
        return column
    machine = snapshot.topology.nodes[n]
    shares: dict[int, float] = {}
    for gpu in machine.gpus:
        if pod.gpu_models and gpu.model.name not in pod.gpu_models:
            continue
        if pod.kind is request.RequestKind.SHARE and (gpu.mig_enabled or not gpu.shareable):
            continue
        taken = model.integer(1 if pod.kind is request.RequestKind.WHOLE else role.count)
        used.gpu.setdefault((n, gpu.index), {})[taken] = pod.gpu_milli
        shares[taken] = 1.0
    model.limit({**shares, column: -float(pod.gpus)}, 0, 0)
    return column


def _members(fleet: topology.Topology, level: str) -> dict[int, list[int]]:
    """Group the nodes by their domain of a level; nodes whose branch lacks the level are left out."""
    row = fleet.tree.level_index(level)
    if row is None:
        raise OracleError(f"the fleet has no level {level}")
    groups: dict[int, list[int]] = {}
    for n, domain in enumerate(fleet.tree.ancestor[row].tolist()):
        if domain >= 0:
            groups.setdefault(domain, []).append(n)
    return groups


def _same_domain(fleet: topology.Topology, model: _Model, level: str, pods: dict[int, list[int]], count: int) -> None:
    """Allow pods in one domain of `level` only."""
    if not level:
        return
    chosen = []
    inside: set[int] = set()
    for nodes in _members(fleet, level).values():
        flag = model.integer(1)
        chosen.append(flag)
        inside.update(nodes)
        model.limit({**{c: 1.0 for n in nodes for c in pods.get(n, ())}, flag: -float(count)}, -np.inf, 0)
    model.limit(dict.fromkeys(chosen, 1.0), -np.inf, 1)
    model.limit({c: 1.0 for n, columns in pods.items() if n not in inside for c in columns}, 0, 0)


def _segments(fleet: topology.Topology, model: _Model, role: gang.Role, on_node: dict[int, int]) -> None:
    """Make the pods in each domain of the segment's level a multiple of the segment's size."""
    if not role.segment:
        return
    inside: set[int] = set()
    for nodes in _members(fleet, role.segment.level).values():
        inside.update(nodes)
        whole = model.integer(role.count // role.segment.size)
        model.limit({**{on_node[n]: 1.0 for n in nodes if n in on_node}, whole: -float(role.segment.size)}, 0, 0)
    model.limit({c: 1.0 for n, c in on_node.items() if n not in inside}, 0, 0)


def _spread(fleet: topology.Topology, model: _Model, role: gang.Role, on_node: dict[int, int]) -> None:
    """Limit the role's pods in each domain of the spread's level; a node without such a domain takes none."""
    if not role.spread:
        return
    inside: set[int] = set()
    for nodes in _members(fleet, role.spread.level).values():
        inside.update(nodes)
        model.limit({on_node[n]: 1.0 for n in nodes if n in on_node}, -np.inf, float(role.spread.max_pods))
    model.limit({c: 1.0 for n, c in on_node.items() if n not in inside}, 0, 0)
