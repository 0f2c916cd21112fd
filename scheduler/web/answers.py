"""The extender's decisions: from plans where there is one, else from the snapshot and the engine's scoring.

A pod with a plan may go to its node only. A pod without one gets from kube-scheduler's allocator the first devices that
fit, not the best; so its nodes are compared by exactly those devices.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scheduler.model import reasons, request
from scheduler.placement import plan, rows, scoring
from scheduler.placement.score import feasible
from scheduler.snapshot import demand, state
from scheduler.web import extender, first_fit, sheet, wire

Ints = NDArray[np.int64]

MAX_ROWS = 256
"""Requests whose costs are kept; the oldest goes first. 200 kB each at 5,000 nodes."""

NO_GPU_NODE = "muster: the node publishes no devices of ours"
DOWN = "muster: the node is cordoned or failed"
UNSUITED = f"muster: {reasons.Reason.NO_SUCH_DEVICE.value}: the node has too few GPUs that suit the pod"
TAKEN = f"muster: {reasons.Reason.GPUS.value}: too few suitable GPUs of the node are free"
FULL = "muster: CPU, memory, pods, NICs or accelerators of the node do not suffice"

REASONS = (NO_GPU_NODE, DOWN, UNSUITED, TAKEN, FULL)
"""Few different sentences, since kube-scheduler counts equal ones."""

PASSING = 3
"""From this row of `REASONS` on, evicting somebody may help."""


@dataclass(frozen=True, slots=True)
class Holder:
    """What is evicted together.

    Attributes
    ----------
    pods : tuple of str
        UIDs: one pod, or all pods of a gang.
    grants : tuple of Grant
        What the snapshot holds for them.
    """

    pods: tuple[str, ...]
    grants: tuple[state.Grant, ...]


@dataclass(slots=True, eq=False)
class Order:
    """All nodes in the order of one request's costs.

    Attributes
    ----------
    place : ndarray of int64, shape (N,)
        1 for the worst node, N for the best; 0 is left for nodes that the fleet does not have.
    """

    row: rows.Row
    place: Ints
    version: int = -1


@dataclass(slots=True, eq=False)
class Answers:
    """Decisions over one compiled fleet; the owner makes new ones when the fleet's topology changes.

    Its cache changes what an answer costs, never what it is.

    Attributes
    ----------
    plans : Mapping
        Node name by pod UID: every member of a placed gang.
    held : Mapping
        What goes with a pod by its UID: everything that kube-scheduler may evict. Pods with a plan that are missing here
        must stay.
    short : Container
        Names of nodes on which somebody holds what was not free, so that a planned pod may lack CPU or memory.
    wanted : callable
        What a pod asks of our devices; None for pods that ask nothing of them.
    """

    snapshot: state.Snapshot
    score: scoring.Scoring
    plans: Mapping[str, str]
    held: Mapping[str, Holder]
    wanted: Callable[[wire.Pod], request.PodRequest | None]
    short: Container[str] = frozenset()
    _rule: rows.Rule = field(init=False)
    _sheet: sheet.Sheet = field(init=False)
    _orders: dict[request.PodRequest, Order] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fleet = self.snapshot.topology
        self._sheet = sheet.Sheet([machine.name for machine in fleet.nodes])
        self._rule = first_fit.rule(scoring.RULES[self.score.policy.spec.pods.rule], fleet)

    def filter(self, pod: wire.Pod, names: Sequence[str]) -> extender.Verdict:
        """Tell which nodes can take the pod."""
        planned = self.plans.get(pod.metadata.uid)
        if planned is not None:
            return self._only(planned, names)
        asked = self.wanted(pod)
        if asked is None:
            return extender.Verdict(names)
        return self._by_devices(self.score.demand(asked), names)

    def ranks(self, pod: wire.Pod, names: Sequence[str]) -> extender.Ranks:
        """Return the nodes' places, best highest; all equal for a pod that asks nothing of us."""
        rows_of = self._sheet.rows(names)
        return extender.Ranks(names, self._ranked(pod, names, rows_of), rows_of, self._sheet)

    def _ranked(self, pod: wire.Pod, names: Sequence[str], nodes: Ints) -> Ints:
        planned = self.plans.get(pod.metadata.uid)
        if planned is not None:
            return self._is(planned, names, nodes).astype(np.int64)
        asked = self.wanted(pod)
        if asked is None:
            return np.zeros(len(names), dtype=np.int64)
        return np.where(nodes == sheet.UNKNOWN, 0, self._order(self.score.demand(asked)).place[nodes])

    def preempt(self, pod: wire.Pod, victims: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        """Return the candidates that let the pod in, with those who have to go.

        Notes
        -----
        A pod with a plan has its devices already: only its node is left, and nobody has to go there unless the node is
        short. For any other pod of ours a candidate falls whose victims are a part of a gang, or of one that must stay.
        """
        planned = self.plans.get(pod.metadata.uid)
        if planned is not None:
            return {planned: self._crowded(planned, victims[planned])} if planned in victims else {}
        asked, held = self.wanted(pod), self._holders(victims)
        able = {name: uids for name, uids in victims.items() if self._spares_gangs(uids, held)}
        return able if asked is None else self._opened(self.score.demand(asked), able, held)

    def _crowded(self, node: str, uids: Sequence[str]) -> Sequence[str]:
        """Return who has to go from the node of a planned pod."""
        return uids if node in self.short and self._spares_gangs(uids, self._holders({node: uids})) else ()

    def _holders(self, victims: Mapping[str, Sequence[str]]) -> dict[str, Holder]:
        """Return what goes with each victim; those of which nothing is known, or that must stay, are left out."""
        found = ((uid, self.held.get(uid)) for uids in victims.values() for uid in uids)
        return {uid: holder for uid, holder in found if holder is not None}

    def _spares_gangs(self, uids: Sequence[str], held: Mapping[str, Holder]) -> bool:
        """Tell whether the victims are whole gangs, all of which may go, and pods of no gang."""
        every = set(uids)
        return all(every.issuperset(held[uid].pods) if uid in held else uid not in self.plans for uid in every)

    def _opened(
        self, wanted: demand.Demand, victims: Mapping[str, Sequence[str]], held: Mapping[str, Holder]
    ) -> dict[str, Sequence[str]]:
        """Return the nodes that can take the pod once their victims are gone, tried on a copy."""
        trial = plan.Plan(self.snapshot.copy())
        names = [name for name in victims if self._sheet.row(name) != sheet.UNKNOWN]
        nodes = self._sheet.rows(names)
        for name, node in zip(names, nodes.tolist(), strict=True):
            holders = {held[uid].pods: held[uid] for uid in victims[name] if uid in held}
            for grant in (grant for one in holders.values() for grant in one.grants):
                if grant.node == node:
                    trial.release(grant)
        fits = feasible.feasible(trial.snapshot, wanted, nodes)
        return {name: victims[name] for name, fit in zip(names, fits.tolist(), strict=True) if fit}

    def _by_devices(self, wanted: demand.Demand, names: Sequence[str]) -> extender.Verdict:
        """Compare what is free on the nodes with what the pod asks."""
        nodes = self._sheet.rows(names)
        falls = np.flatnonzero((self._row(wanted).cost[nodes] >= rows.INFEASIBLE) | (nodes == sheet.UNKNOWN))
        if not len(falls):
            return extender.Verdict(names)
        causes = np.full(len(nodes), extender.FITS)
        causes[falls] = self._causes(wanted, nodes[falls])
        return extender.Verdict(names, causes, REASONS, PASSING, self._sheet.quoted(names, nodes))

    def _only(self, planned: str, names: Sequence[str]) -> extender.Verdict:
        """Let a pod go to its planned node and nowhere else."""
        nodes = self._sheet.rows(names)
        reason = f"muster: the plan of the pod's gang puts it on {planned}"
        causes = np.where(self._is(planned, names, nodes), extender.FITS, 0)
        return extender.Verdict(names, causes, (reason,), 1, self._sheet.quoted(names, nodes))

    def _is(self, planned: str, names: Sequence[str], nodes: Ints) -> NDArray[np.bool_]:
        """Tell which of some nodes is the planned one, which may have left the fleet."""
        row = self._sheet.row(planned)
        if row == sheet.UNKNOWN:
            return np.array([name == planned for name in names], dtype=np.bool_)
        return np.asarray(nodes == row)

    def _causes(self, wanted: demand.Demand, nodes: Ints) -> Ints:
        """Return for each node why it can't take the pod, as a row of `REASONS`."""
        suited = np.bitwise_count(wanted.eligible[nodes] & self.snapshot.topology.all_gpus[nodes])
        least = wanted.gpus if wanted.kind is request.RequestKind.WHOLE else min(wanted.gpus, 1)
        bare = self.snapshot
        roomy = (bare.cpu_free[nodes] >= wanted.cpu_milli) & (bare.memory_free[nodes] >= wanted.memory_mib)
        roomy &= bare.pods_free[nodes] >= 1
        causes = [nodes == sheet.UNKNOWN, ~bare.up[nodes], suited < least, roomy & (wanted.gpus > 0)]
        return np.select(causes, [0, 1, 2, 3], 4)

    def _kept(self, wanted: demand.Demand) -> Order:
        """Return what is kept of a request, up to date or not."""
        order = self._orders.get(wanted.request)
        if order is None:
            if len(self._orders) >= MAX_ROWS:
                del self._orders[next(iter(self._orders))]
            row = rows.new_row(self.snapshot, wanted)
            order = self._orders[wanted.request] = Order(row, np.zeros(len(self.snapshot.up), dtype=np.int64))
        return order

    def _row(self, wanted: demand.Demand) -> rows.Row:
        """Return the up-to-date costs of a request: all that filter needs."""
        row = self._kept(wanted).row
        row.refresh(self._rule, self.score.tables)
        return row

    def _order(self, wanted: demand.Demand) -> Order:
        """Return the up-to-date order of a request."""
        order, row = self._kept(wanted), self._row(wanted)
        if order.version != row.version:
            order.place, order.version = self._places(row, self.score.scarcity(self.snapshot, wanted)), row.version
        return order

    def _places(self, row: rows.Row, scarcity: Ints) -> Ints:
        """Sort the nodes by cost with the scarcity price, then tie rank, as the engine does.

        `ranked` is in tie order, so a stable sort is that total order.
        """
        tie = self.snapshot.topology.tie
        dearer = np.empty_like(scarcity)
        dearer[tie] = scarcity
        worst_last = np.argsort(row.ranked + dearer, kind="stable")
        by_tie = np.empty(len(worst_last), dtype=np.int64)
        by_tie[worst_last] = np.arange(len(worst_last), 0, -1)
        return by_tie[tie]
