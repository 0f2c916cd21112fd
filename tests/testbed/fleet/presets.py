"""Fleets of simulated machines: which kinds, in which blocks and racks.

A rack of ``gb200-nvl72`` is one NVLink domain. Names of racks and nodes are unique in the whole fleet, so that a label
alone says which rack is meant.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from scheduler.model import machines

ZONES = ("zone-a", "zone-b")
NVL72 = "gb200-nvl72"
DOMAINS = uuid.UUID("6d757374-6572-4000-8000-000000000000")
"""Namespace of the made-up identities of NVLink fabrics."""


@dataclass(frozen=True, slots=True)
class Rack:
    """Equal machines."""

    kind: str
    nodes: int

    def __post_init__(self) -> None:
        if self.kind not in machines.KINDS:
            raise ValueError(f"rack: kind {self.kind!r}: there are {', '.join(machines.KINDS)}")
        if self.kind == NVL72 and self.nodes > machines.TRAYS_PER_RACK:
            raise ValueError(f"rack: {self.nodes} trays of {NVL72}: one NVLink domain has {machines.TRAYS_PER_RACK}")


@dataclass(frozen=True, slots=True)
class Member:
    """A node and where it stands; `clique` identifies its NVLink domain, "" where it ends with the machine."""

    name: str
    kind: str
    zone: str
    block: str
    rack: str
    clique: str = ""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Blocks of racks; the zone of a block is its number's turn."""

    name: str
    blocks: tuple[tuple[Rack, ...], ...]

    def __len__(self) -> int:
        return sum(rack.nodes for block in self.blocks for rack in block)

    def members(self) -> Iterator[Member]:
        """Yield the nodes, block by block and rack by rack."""
        for b, block in enumerate(self.blocks):
            for r, rack in enumerate(block):
                yield from _rack(f"{self.name}-b{b:02d}", f"r{r:02d}", ZONES[b % len(ZONES)], rack)


def _rack(block: str, number: str, zone: str, rack: Rack) -> Iterator[Member]:
    name = f"{block}-{number}"
    clique = f"{uuid.uuid5(DOMAINS, name)}.0" if rack.kind == NVL72 else ""
    for n in range(rack.nodes):
        yield Member(f"{name}-n{n:02d}", rack.kind, zone, block, name, clique)


def blocks(count: int, racks: int, kind: str, nodes: int) -> tuple[tuple[Rack, ...], ...]:
    """Return equal blocks of equal racks."""
    return ((Rack(kind, nodes),) * racks,) * count


fleet_16 = Fleet("f16", ((Rack("hgx-h100", 4), Rack("hgx-h100", 4)), (Rack("dgx-a100", 4), Rack(NVL72, 4))))
fleet_500 = Fleet(
    "f500",
    blocks(4, 10, "hgx-h100", 8) + blocks(1, 8, "dgx-a100", 8) + blocks(1, 11, "l40s-8", 4) + blocks(1, 4, NVL72, 18),
)
fleet_5000 = Fleet(
    "f5000",
    blocks(16, 25, "hgx-h100", 8)
    + blocks(2, 25, "hgx-b200", 8)
    + blocks(2, 30, "dgx-a100", 8)
    + blocks(2, 25, "l40s-8", 4)
    + blocks(5, 8, NVL72, 18),
)
PRESETS = {"fleet_16": fleet_16, "fleet_500": fleet_500, "fleet_5000": fleet_5000}


def read(text: str) -> Fleet:
    """Return a preset by its name, or a fleet of ``KIND=COUNT`` with commas, in racks of eight (NVL72: eighteen).

    >>> len(read("hgx-h100=10,gb200-nvl72=18"))
    28

    Raises
    ------
    ValueError
    """
    if text in PRESETS:
        return PRESETS[text]
    made = tuple(_block(*part.partition("=")[::2]) for part in text.split(",") if part)
    if not made:
        raise ValueError(f"fleet {text!r}: name one of {', '.join(PRESETS)}, or KIND=COUNT with commas")
    return Fleet("sim", made)


def _block(kind: str, count: str) -> tuple[Rack, ...]:
    if not count.isdecimal() or not 0 < int(count) <= 20_000:
        raise ValueError(f"fleet: {kind}={count}: a preset ({', '.join(PRESETS)}) or KIND=COUNT, COUNT from 1 to 20000")
    size = machines.TRAYS_PER_RACK if kind == NVL72 else 8
    whole, rest = divmod(int(count), size)
    return (Rack(kind, size),) * whole + ((Rack(kind, rest),) if rest else ())
