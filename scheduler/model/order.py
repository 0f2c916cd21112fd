"""How the GPUs of a node belong together: pairs, and the order in which whoever takes the first ones takes good ones.

Plain Python: the driver publishes with it on every node, and must not carry arrays and graph algorithms there for it.
"""

import functools
from collections.abc import Iterable, Iterator
from itertools import combinations, pairwise, permutations

from scheduler.model import distance, node

CLOSENESS_WEIGHT = {apart: 6 - apart for apart in distance.Distance}
"""Below any NVLink: decides between GPUs of equal links."""

LINK_WEIGHT = 1000

BLOCK = 4
"""GPUs that are ordered among each other by trying all orders."""

Pairs = tuple[tuple[int, int], ...]

Weights = dict[tuple[int, int], int]
"""How much two GPUs belong together, lower index first."""


def pairs(machine: node.NodeTopology) -> Pairs:
    """Match the linked GPUs two by two: most links first, then nearest on PCIe, then neighbours by index.

    A bridge is its own pair; behind NVSwitches the pairs are neighbours on PCIe. GPUs without NVLink are in no pair.
    """
    weights = []
    for link in machine.nvlinks:
        near = CLOSENESS_WEIGHT[distance.between(machine.gpus[link.a], machine.gpus[link.b])]
        weights.append((link.a, link.b, (link.links * LINK_WEIGHT + near * 10) * 100 - (link.b - link.a) ** 2 // 4))
    return _matching(len(machine.gpus), tuple(weights))


@functools.lru_cache(maxsize=64)
def _matching(gpus: int, weights: tuple[tuple[int, int, int], ...]) -> Pairs:
    """Return the pairs of most members and then of most weight; of equal matchings the first by number.

    Exact for as many GPUs as a node may have, by the best matching of each set of GPUs that is left: the lowest of them
    is matched first, so that 16 GPUs make 2**15 sets at most. Kept, as the order is.
    """
    linked: dict[int, list[tuple[int, int]]] = {}
    for a, b, weight in weights:
        linked.setdefault(a, []).append((b, weight))

    @functools.cache
    def best(left: int) -> tuple[int, int, int]:
        """Return pairs, weight and the partner of the lowest GPU, -1 for none."""
        if not left:
            return 0, 0, -1
        low = (left & -left).bit_length() - 1
        rest = left ^ 1 << low
        found = (0, 0, -1)
        for partner, weight in linked.get(low, ()):
            if rest >> partner & 1:
                count, total, _ = best(rest ^ 1 << partner)
                if (count + 1, total + weight) > found[:2]:
                    found = count + 1, total + weight, partner
        alone = best(rest)
        return (*alone[:2], -1) if alone[:2] > found[:2] else found

    left, matched = (1 << gpus) - 1, []
    while left:
        low, partner = (left & -left).bit_length() - 1, best(left)[2]
        left ^= 1 << low
        if partner >= 0:
            matched.append((low, partner))
            left ^= 1 << partner
    return tuple(matched)


def first_fit(machine: node.NodeTopology) -> tuple[int, ...]:
    """Order the GPUs so that whoever takes the first k free ones gets k that are well joined.

    Notes
    -----
    Halves the node again and again so that the links inside the halves are worth most: aligned blocks of 4 and
    8 in the result are quads and islands. Then the GPUs inside the blocks are put so that neighbours in the list are
    joined best, so that what is left between others' GPUs is well joined too; on a DGX-1V the list goes once round the
    ring of double links. kube-scheduler's allocator takes devices in list order.
    """
    gpus = len(machine.gpus)
    return _order(gpus, tuple(_weight(machine, a, b) for a, b in combinations(range(gpus), 2)))


@functools.lru_cache(maxsize=64)
def _order(gpus: int, weights: tuple[int, ...]) -> tuple[int, ...]:
    """Order GPUs by the weights of their pairs; kept, since 16 GPUs cost 0.1 s and are published at every change."""
    weight = dict(zip(combinations(range(gpus), 2), weights, strict=True))
    return _chain(weight, list(_blocks(weight, tuple(range(gpus)))))


def _blocks(weight: Weights, gpus: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield blocks of up to four GPUs by recursive bisection; the half with the lowest GPU comes first."""
    if len(gpus) <= BLOCK:
        yield from (gpus,) if gpus else ()
        return
    half = (len(gpus) + 1) // 2
    candidates = (
        combinations(gpus, half) if len(gpus) % 2 else ((gpus[0], *c) for c in combinations(gpus[1:], half - 1))
    )
    first = max(candidates, key=lambda c: _inside(weight, c) + _inside(weight, _rest(gpus, c)))
    yield from _blocks(weight, first)
    yield from _blocks(weight, _rest(gpus, first))


def _chain(weight: Weights, blocks: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """Order the GPUs inside the blocks so that the sum over neighbours is largest; of equals the first by number.

    Only the last GPU of a block matters to what follows, so one best beginning for each last GPU is kept.
    """
    best: list[tuple[int, ...]] = [()]
    for block in blocks:
        ends: dict[int, tuple[int, ...]] = {}
        for tail in permutations(block):
            longer = min((begin + tail for begin in best), key=lambda chain: _rank(weight, chain))
            ends[tail[-1]] = min(longer, ends.get(tail[-1], longer), key=lambda chain: _rank(weight, chain))
        best = list(ends.values())
    return min(best, key=lambda chain: _rank(weight, chain))


def _rank(weight: Weights, chain: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    return -sum(weight[min(pair), max(pair)] for pair in pairwise(chain)), chain


def _weight(machine: node.NodeTopology, a: int, b: int) -> int:
    """Return how much two GPUs belong together."""
    links = next((link.links for link in machine.nvlinks if (link.a, link.b) == (a, b)), 0)
    return links * LINK_WEIGHT + CLOSENESS_WEIGHT[distance.between(machine.gpus[a], machine.gpus[b])]


def _inside(weight: Weights, gpus: tuple[int, ...]) -> int:
    return sum(weight[pair] for pair in combinations(gpus, 2))


def _rest(gpus: tuple[int, ...], taken: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(g for g in gpus if g not in taken)
