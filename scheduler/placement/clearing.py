"""Which running gangs to take away so that another gang fits: the search that preemption and defragmentation share."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from scheduler.model import gang as gangs
from scheduler.placement import domains, fit, refusal, scoring
from scheduler.snapshot import bulk, state

Ints = domains.Ints

DOMAINS = 16
"""Domains of each level that are tried."""

EXACT = 8
"""Up to so many gangs in a domain every set is considered: 255 of them; with more, the greedy set stands."""

Fits = Callable[[state.Snapshot], bool]


NO_LIMIT = 1 << 30


class Spent(Exception):
    """The search has asked as often as it may."""


@dataclass(slots=True)
class Budget:
    """How often a search may still ask whether a gang fits: what bounds its time."""

    left: int = NO_LIMIT

    def counting(self, fits: Fits) -> Fits:
        """Return the same question, which takes from the budget and raises `Spent` at its end."""

        def ask(snapshot: state.Snapshot) -> bool:
            if self.left <= 0:
                raise Spent
            self.left -= 1
            return fits(snapshot)

        return ask


@dataclass(frozen=True, slots=True)
class Running:
    """A gang that holds devices.

    Attributes
    ----------
    grants : tuple of Grant
        All that it holds.
    cost : int
        What it costs to take it away, such as the GPU-seconds since its last checkpoint; -1 when the caller does not
        know, for GPUs times priority.
    """

    gang: gangs.Gang
    grants: tuple[state.Grant, ...]
    cost: int = -1

    @property
    def price(self) -> int:
        """Return the cost, or the stand-in for it: at least 1, so that no gang is taken away for nothing."""
        return self.cost if self.cost >= 0 else max(1, self.gang.gpus) * max(1, self.gang.priority + 1)


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Gangs that may be taken away, with all that they hold as columns.

    Attributes
    ----------
    gangs : tuple of Running
        In the order that breaks ties.
    node, weight, owner : ndarray of int64
        One entry per grant: its node, the milli-GPU that it frees, its gang's position in `gangs`.
    """

    gangs: tuple[Running, ...]
    node: Ints
    weight: Ints
    owner: Ints


def pool(movable: Sequence[Running]) -> Pool:
    """Return the pool of some gangs."""
    rows = [(grant.node, _weight(grant), turn) for turn, one in enumerate(movable) for grant in one.grants]
    node, weight, owner = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return Pool(tuple(movable), node, weight, owner)


def without(snapshot: state.Snapshot, gone: Sequence[Running]) -> state.Snapshot:
    """Return a copy of a snapshot in which some gangs have given everything back."""
    room = snapshot.copy()
    bulk.release_all(room, [grant for one in gone for grant in one.grants])
    return room


def candidates(
    snapshot: state.Snapshot, emptied: state.Snapshot, gang: gangs.Gang, score: scoring.Scoring
) -> list[int]:
    """Return the domains in which a gang could be given room, those that lack least first.

    Parameters
    ----------
    emptied : Snapshot
        `snapshot` without any of the gangs that may be taken away.

    Notes
    -----
    At every level from the finest at which the emptied fleet holds each role up to the required one, the `DOMAINS`
    domains that hold most pods now. With several roles the first one that has pods stands for all.
    """
    fabric_tree = snapshot.topology.tree
    counts = refusal.smallest(gang)
    row = next(row for row, count in enumerate(counts) if count)
    limit = domains.bounds(fabric_tree, gang.constraint, gang.roles[row])
    wanted = score.demand(gang.roles[row].request)
    able = domains.capacity(fabric_tree, fit.pods_that_fit(emptied, wanted), limit)
    now = domains.capacity(fabric_tree, fit.pods_that_fit(snapshot, wanted), limit)
    required = fabric_tree.level_index(gang.constraint.required) if gang.constraint.required else 0
    found: list[int] = []
    for level in range(len(fabric_tree.levels) - 1, (required or 0) - 1, -1):
        vertices = np.flatnonzero((fabric_tree.level == level) & (able.whole >= counts[row]))
        order = np.lexsort((vertices, -now.whole[vertices]))[:DOMAINS]
        found += vertices[order].tolist()
    return found


def clear(snapshot: state.Snapshot, movable: Pool, domain: int, fits: Fits, ceiling: int) -> tuple[Running, ...] | None:
    """Find a cheap set of gangs without which `fits` holds.

    Parameters
    ----------
    domain : int
        Only gangs that hold something in this domain are considered.
    fits : callable
        Tells whether a snapshot has room; more room must not turn it false.
    ceiling : int
        Sets that cost as much or more are of no interest.

    Returns
    -------
    tuple of Running or None
        Minimal: with any one of them back, `fits` is false. None when all together do not suffice, or cost too much.

    Notes
    -----
    Greedy: gangs are taken away in the order of cost per milli-GPU freed in the domain until `fits`, found by
    bisection; then each that is not needed comes back, dearest first. Up to `EXACT` gangs the cheaper sets are then
    tried one by one, cheapest first. Every trial is a copy of the snapshot, so that nothing is ever undone.
    """
    inside = _inside(snapshot, movable, domain)
    if not inside or not fits(without(snapshot, inside)):
        return None
    chosen = prune(snapshot, _shortest(snapshot, inside, fits), fits)
    best = sum(one.price for one in chosen)
    if len(inside) <= EXACT:
        for subset in _cheaper(inside, min(best, ceiling)):
            if fits(without(snapshot, subset)):
                return prune(snapshot, subset, fits)
    return chosen if best < ceiling else None


def prune(snapshot: state.Snapshot, chosen: Sequence[Running], fits: Fits) -> tuple[Running, ...]:
    """Drop gangs that need not go, dearest first."""
    work = without(snapshot, chosen)
    kept = list(chosen)
    for one in sorted(chosen, key=lambda victim: (-victim.price, victim.gang.name)):
        trial = work.copy()
        # What it held on nodes that are down is no room, and could not be taken back.
        bulk.take_all(trial, [grant for grant in one.grants if trial.up[grant.node]])
        if fits(trial):
            work = trial
            kept = [other for other in kept if other is not one]
    return tuple(kept)


def _shortest(snapshot: state.Snapshot, inside: Sequence[Running], fits: Fits) -> Sequence[Running]:
    """Return the shortest beginning of a list of gangs without which `fits` holds; the whole list suffices."""
    low, high = 0, len(inside)
    without_low = snapshot
    while low + 1 < high:
        middle = (low + high) // 2
        trial = without(without_low, inside[low:middle])
        if fits(trial):
            high = middle
        else:
            low, without_low = middle, trial
    return inside[:high]


def _inside(snapshot: state.Snapshot, movable: Pool, domain: int) -> list[Running]:
    """Return the gangs with something in a domain, cheapest per milli-GPU freed there first."""
    low, high = snapshot.topology.tree.first_node[domain], snapshot.topology.tree.last_node[domain]
    rows = (movable.node >= low) & (movable.node < high)
    freed = np.zeros(len(movable.gangs), dtype=np.int64)
    np.add.at(freed, movable.owner[rows], movable.weight[rows])
    turns = np.flatnonzero(freed).tolist()
    rates = {turn: movable.gangs[turn].price * 1_000_000 // int(freed[turn]) for turn in turns}
    return [movable.gangs[turn] for turn in sorted(turns, key=lambda turn: (rates[turn], turn))]


def _weight(grant: state.Grant) -> int:
    """Return the milli-GPU that a grant frees, at least 1 for pods without GPUs."""
    slices = sum(mask.bit_count() for _, mask in grant.partitions)
    return max(1, grant.milli * grant.mask.bit_count() + 125 * slices)


def _cheaper(inside: Sequence[Running], ceiling: int) -> Iterator[tuple[Running, ...]]:
    """Yield the sets that cost less than the ceiling, cheapest first, then smallest, then in order."""
    sets = [
        (sum(one.price for one in chosen), size, chosen)
        for size in range(1, len(inside) + 1)
        for chosen in combinations(inside, size)
    ]
    for cost, _, chosen in sorted(sets, key=lambda entry: entry[:2]):
        if cost >= ceiling:
            return
        yield chosen
