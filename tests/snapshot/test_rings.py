"""Bottleneck rings of any matrix agree with the enumeration of all cycles."""

from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.snapshot import rings


@st.composite
def matrices(draw: st.DrawFn, low: int = 0, high: int = 6) -> rings.Ints:
    """A symmetric matrix of small integers, so that ties and near ties are common."""
    count = draw(st.integers(low, high))
    edges = np.zeros((count, count), dtype=np.int64)
    for a in range(count):
        for b in range(a):
            edges[a, b] = edges[b, a] = draw(st.integers(0, 5))
    return edges


def widths(cycle: tuple[int, ...], edges: rings.Ints) -> list[int]:
    return [int(edges[a, b]) for a, b in zip(cycle, (*cycle[1:], cycle[0]), strict=True)]


@settings(max_examples=150, deadline=None)
@given(matrices(low=4))
def test_the_ring_is_widest_first_and_heaviest_second(edges: rings.Ints) -> None:
    cycles = [(0, *rest) for rest in permutations(range(1, len(edges)))]
    best = max((min(widths(c, edges)), sum(widths(c, edges))) for c in cycles)
    found = rings.ring(edges)
    assert (min(widths(found, edges)), sum(widths(found, edges))) == best
    assert found[0] == 0 and found[1] < found[-1]
    assert sorted(found) == list(range(len(edges)))


@settings(max_examples=60, deadline=None)
@given(matrices())
def test_bandwidths_of_all_subsets_are_those_of_all_cycles(edges: rings.Ints) -> None:
    table = rings.bandwidths(edges)
    assert table.shape == (1 << len(edges),)
    for mask in range(1 << len(edges)):
        members = [v for v in range(len(edges)) if mask >> v & 1]
        expected = 0
        if len(members) > 1:
            expected = max(min(widths((members[0], *rest), edges)) for rest in permutations(members[1:]))
        assert table[mask] == expected


def test_small_and_uniform_graphs_keep_ascending_order() -> None:
    assert rings.ring(np.zeros((0, 0), dtype=np.int64)) == ()
    assert rings.ring(np.array([[0, 1, 9], [1, 0, 2], [9, 2, 0]])) == (0, 1, 2)
    assert rings.ring(np.full((16, 16), 7)) == tuple(range(16))


def test_popcounts() -> None:
    assert rings.popcounts(0).tolist() == [0]
    assert rings.popcounts(10).tolist() == [mask.bit_count() for mask in range(1024)]
