"""NVLinks between the GPUs of a node: counted one by one, direct, over a bridge, or through switches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

from scheduler.model import node

GPU, SWITCH = 0, 2  # what a link ends at, as the library numbers it
MAX_LINKS = 36
GBPS = {1: 20.0, 2: 25.0, 3: 25.0, 4: 25.0, 5: 25.0, 6: 26.562, 7: 53.125}
"""GB/s of one link and direction by the library's number of its version, where it does not tell the speed."""


@dataclass(frozen=True, slots=True)
class Link:
    """One end of an active link; `remote` is a PCI address."""

    kind: int
    remote: str
    gbps: float


Reach = Mapping[tuple[int, int], bool]


def joined(ends: Mapping[int, Iterable[Link]], addresses: Mapping[str, int], reach: Reach) -> tuple[node.NvLink, ...]:
    """Return the links of each pair of GPUs.

    Parameters
    ----------
    ends : mapping
        Active links of each GPU.
    addresses : mapping
        GPUs by PCI address.
    reach : mapping
        Whether two GPUs (the lower first) reach each other over NVLink, as the library has it; decides behind switches.
    """
    found = []
    for a, b in pairs(ends):
        # Both ends tell of a link; one that cannot be asked is made up for by the other.
        direct = _between(ends[a], addresses, b) or _between(ends[b], addresses, a)
        if direct:
            found.append(node.NvLink(a, b, len(direct), direct[0].gbps))
            continue
        ours, theirs = ([end for end in ends[gpu] if end.kind == SWITCH] for gpu in (a, b))
        if ours and theirs and reach.get((a, b)):
            found.append(node.NvLink(a, b, min(len(ours), len(theirs)), min(ours[0].gbps, theirs[0].gbps)))
    return tuple(found)


def pairs(ends: Mapping[int, object]) -> Iterable[tuple[int, int]]:
    """Return all pairs of GPUs, the lower first."""
    return combinations(sorted(ends), 2)


def _between(ends: Iterable[Link], addresses: Mapping[str, int], peer: int) -> list[Link]:
    return [end for end in ends if end.kind == GPU and addresses.get(end.remote) == peer]


def switches(ends: Mapping[int, Iterable[Link]]) -> int:
    """Return how many different switches the links end at."""
    return len({end.remote for links in ends.values() for end in links if end.kind == SWITCH})
