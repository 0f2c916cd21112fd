"""Racks, nodes and GPUs at one instant, coloured by state, as one SVG element without script."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.snapshot import state

WIDTH = 1160
CELL, GAP = 9, 2
PAD, LABEL = 6, 16
GPU_LIMIT = 4_000
"""Above this many GPUs a cell is a whole node, shaded by the share in use."""

FREE, SHARED, BUSY, PARTITIONED, FAILED = range(5)
STATES = ("free", "shared, room left", "in use", "cut into partitions", "failed or cordoned")
SHADES = ("free", "up to a half in use", "over a half in use", "all in use", "failed or cordoned")
CLASSES = ("g-free", "g-shared", "g-busy", "g-mig", "g-failed")
SHADE_CLASSES = ("g-free", "g-low", "g-high", "g-busy", "g-failed")


@dataclass(frozen=True, slots=True)
class Box:
    """One rack: its name, its nodes' cells by row."""

    name: str
    rows: tuple[NDArray[np.int8], ...]

    @property
    def width(self) -> int:
        """Return the width in pixels; names are cut to it."""
        return max(64, max(len(row) for row in self.rows) * (CELL + GAP) - GAP + 2 * PAD)

    @property
    def height(self) -> int:
        """Return the height in pixels."""
        return LABEL + len(self.rows) * (CELL + GAP) - GAP + PAD


def draw(snapshot: state.Snapshot, limit: int = GPU_LIMIT) -> str:
    """Draw the fleet as it is in the snapshot."""
    coarse = snapshot.topology.total_gpus > limit
    boxes = list(_shaded(snapshot) if coarse else _detailed(snapshot))
    x = y = shelf = 0
    parts: list[str] = []
    for each in boxes:
        if x and x + each.width > WIDTH:
            x, y, shelf = 0, y + shelf + 10, 0
        parts.append(_rack(each, x, y, SHADE_CLASSES if coarse else CLASSES))
        x, shelf = x + each.width + 10, max(shelf, each.height)
    size = f'viewBox="0 0 {WIDTH} {y + shelf + 1}" width="{WIDTH}"'
    return f'<svg class="fleet" role="img" aria-label="fleet map" {size}>{"".join(parts)}</svg>' + _legend(coarse)


def gpu_states(snapshot: state.Snapshot, node: int) -> NDArray[np.int8]:
    """Return the state of each GPU of a node."""
    count = int(snapshot.topology.gpus[node])
    free = snapshot.gpu_free[node, :count]
    states = np.where(free == state.FULL, FREE, np.where(free > 0, SHARED, BUSY)).astype(np.int8)
    states[snapshot.slices_used[node, :count] > 0] = PARTITIONED
    broken = (int(snapshot.failed_gpus[node]) >> np.arange(count)) & 1
    states[broken.astype(bool) | (not snapshot.up[node])] = FAILED
    return states


def _racks(snapshot: state.Snapshot) -> Iterator[tuple[str, Sequence[int]]]:
    """Yield the innermost domains above the nodes, in rank order, with their GPU nodes."""
    tree = snapshot.topology.tree
    members: dict[int, list[int]] = {}
    for node, vertex in enumerate(tree.vertex.tolist()):
        if snapshot.topology.gpus[node]:
            members.setdefault(int(tree.parent[vertex]), []).append(node)
    for vertex, nodes in members.items():
        yield tree.names[vertex], nodes


def _detailed(snapshot: state.Snapshot) -> Iterator[Box]:
    for name, nodes in _racks(snapshot):
        yield Box(name, tuple(gpu_states(snapshot, node) for node in nodes))


def _shaded(snapshot: state.Snapshot) -> Iterator[Box]:
    """Yield racks whose cells are nodes, 16 to a row."""
    for name, nodes in _racks(snapshot):
        shades = [_shade(gpu_states(snapshot, node), snapshot.gpu_free[node]) for node in nodes]
        cells = np.array(shades, dtype=np.int8)
        yield Box(name, tuple(cells[i : i + 16] for i in range(0, len(cells), 16)))


def _shade(states: NDArray[np.int8], free: NDArray[np.int32]) -> int:
    """Return the class of a node by the share of its GPU milli that is in use."""
    if bool((states == FAILED).all()):
        return 4
    used = 1 - float(free.sum()) / (state.FULL * len(states))
    return 0 if used == 0 else 1 if used <= 0.5 else 2 if used < 1 else 3


def _rack(box: Box, x: int, y: int, classes: Sequence[str]) -> str:
    """Draw one rack: frame, name, and one path per state that holds all cells of that state."""
    short = box.name if len(box.name) * 6 <= box.width - 8 else "…" + box.name[-(box.width - 14) // 6 :]
    paths: dict[int, list[str]] = {}
    for r, row in enumerate(box.rows):
        top = y + LABEL + r * (CELL + GAP)
        for c, cell in enumerate(row.tolist()):
            paths.setdefault(cell, []).append(f"M{x + PAD + c * (CELL + GAP)} {top}h{CELL}v{CELL}h-{CELL}z")
    cells = "".join(f'<path class="{classes[s]}" d="{"".join(d)}"/>' for s, d in sorted(paths.items()))
    return (
        f"<g><title>{html.escape(box.name)}</title>"
        f'<rect class="rack" x="{x + 0.5}" y="{y + 0.5}" width="{box.width}" height="{box.height}" rx="3"/>'
        f'<text x="{x + PAD}" y="{y + 12}">{html.escape(short)}</text>{cells}</g>'
    )


def _legend(coarse: bool) -> str:
    words, classes = (SHADES, SHADE_CLASSES) if coarse else (STATES, CLASSES)
    unit = "one cell is a node" if coarse else "one cell is a GPU, one row a node"
    keys = "".join(f'<span><i class="{c}"></i>{w}</span>' for w, c in zip(words, classes, strict=True))
    return f'<p class="legend">{keys}<span>{unit}</span></p>'
