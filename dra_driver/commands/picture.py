"""A drawing of a node as SVG: sockets, host bridges and switches as boxes around devices, NVLinks as arcs above them.

Drawn here and not by Graphviz, so that it needs no program and is the same byte for byte each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from xml.sax import saxutils

from scheduler.model import device, node

Place = device.Gpu | device.Nic | device.Accelerator

WIDTH, HEIGHT, GAP = 96, 46, 22
"""Of a device and the space around it, pixels."""

MARGIN, HEAD, CAPTION = 24, 40, 18
FILLS = {"gpu": "#cfe8cf", "nic": "#cfdcf2", "accelerator": "#f3dfc4"}
FRAME, LINK = "#8a8a8a", "#2f7d32"


@dataclass(frozen=True, slots=True)
class _Box:
    """A device where it is drawn."""

    place: Place
    x: int
    y: int


def svg(machine: node.NodeTopology) -> str:
    """Return the drawing: one column of devices after the other, grouped by NUMA node, host bridge and switch."""
    places: list[Place] = sorted([*machine.gpus, *machine.nics, *machine.accelerators], key=_order)
    arcs = _tallest(machine)
    top = MARGIN + HEAD + arcs + 3 * CAPTION
    boxes = [_Box(place, MARGIN + GAP + i * (WIDTH + GAP), top) for i, place in enumerate(places)]
    width = 2 * MARGIN + GAP + max(1, len(places)) * (WIDTH + GAP)
    height = top + HEIGHT + 2 * GAP + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif"'
        ' font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(MARGIN, MARGIN, f"{machine.name}: {machine.machine}", 16),
        *_frames(boxes),
        *_arcs(machine, {one.place.index: one for one in boxes if isinstance(one.place, device.Gpu)}),
        *(part for one in boxes for part in _device(one)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _order(place: Place) -> tuple[int, str, str, str]:
    return place.numa, place.pcie_root, place.pcie_switch, place.pci_bus_id


def _tallest(machine: node.NodeTopology) -> int:
    return 0 if not machine.nvlinks and not machine.nvswitches else 110


def _frames(boxes: list[_Box]) -> Iterator[str]:
    """Yield a frame around all neighbours that share a NUMA node, then a host bridge, then a switch."""
    for depth, (name, length) in enumerate((("NUMA", 1), ("", 2), ("switch", 3))):
        groups: dict[tuple[object, ...], list[_Box]] = {}
        for one in boxes:
            groups.setdefault(_order(one.place)[:length], []).append(one)
        for key, members in groups.items():
            if key[-1] in ("", -1):
                continue
            inset = depth * 4
            left, right = members[0].x - GAP // 2 + inset - 4, members[-1].x + WIDTH + GAP // 2 - inset + 4
            up = members[0].y - (3 - depth) * CAPTION
            down = members[0].y + HEIGHT + GAP - inset
            label = f"{name} {key[-1]}".strip()
            yield f'<rect x="{left}" y="{up}" width="{right - left}" height="{down - up}" fill="none" stroke="{FRAME}"/>'
            yield _text(left + 4, up + 13, label[: max(6, (right - left) // 7)])


def _arcs(machine: node.NodeTopology, gpus: Mapping[int, _Box]) -> Iterator[str]:
    """Yield an arc for each pair of GPUs with NVLinks, higher the farther apart; switched ones are told in a word."""
    if machine.nvswitches:
        word = f"all GPUs joined by {machine.nvswitches} NVSwitches"
        yield _text(MARGIN, MARGIN + HEAD, word, 13, LINK)
        return
    counts = machine.link_counts()
    for a in machine.gpus:
        for b in machine.gpus[a.index + 1 :]:
            links = counts[a.index][b.index]
            if links:
                yield from _arc(gpus[a.index], gpus[b.index], links, len(gpus))


def _arc(a: _Box, b: _Box, links: int, gpus: int) -> Iterator[str]:
    left, right = sorted((a.x + WIDTH // 2, b.x + WIDTH // 2))
    rise = 30 + 340 * (right - left) // (gpus * (WIDTH + GAP) * 2)
    base = a.y - 3 * CAPTION - 2
    middle = (left + right) // 2
    yield (
        f'<path d="M {left} {base} Q {middle} {base - rise} {right} {base}" fill="none" stroke="{LINK}"'
        f' stroke-width="{links + 0.5:g}"/>'
    )
    yield _text(middle - 10, base - rise // 2 - 3, f"NV{links}", 9, LINK)


def _device(one: _Box) -> Iterator[str]:
    place = one.place
    kind = "gpu" if isinstance(place, device.Gpu) else "nic" if isinstance(place, device.Nic) else "accelerator"
    what = f"{place.gbps} Gb/s" if isinstance(place, device.Nic) else _model(place)
    name = place.name if isinstance(place, device.Gpu | device.Nic) else place.device_name
    yield (
        f'<rect x="{one.x}" y="{one.y}" width="{WIDTH}" height="{HEIGHT}" rx="4" fill="{FILLS[kind]}" stroke="{FRAME}">'
        f"<title>{saxutils.escape(place.pci_bus_id)}</title></rect>"
    )
    yield _text(one.x + 6, one.y + 18, name[:14])
    yield _text(one.x + 6, one.y + 35, what[:15], 10)


def _model(place: device.Gpu | device.Accelerator) -> str:
    return place.model.name if isinstance(place, device.Gpu) else place.model


def _text(x: int, y: int, words: str, size: int = 11, fill: str = "black") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{fill}">{saxutils.escape(words)}</text>'
