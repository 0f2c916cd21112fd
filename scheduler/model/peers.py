"""The NVLinks of a GPU as text that fits the attributes of a device: ``2@25.0:3-4;1@25.0:1-2``.

Each entry is the number of links, the GB/s of one link, and the peers. An attribute holds 64 bytes, so the text of a
GPU with many different peers goes on in further attributes.
"""

import re
from collections.abc import Iterable, Iterator

from scheduler.model import node

ATTRIBUTE = "nvlinkPeers"
MAX_TEXT = 64

_ENTRY = re.compile(r"(\d{1,4})@(\d+(?:\.\d+)?(?:e[+-]?\d+)?):([\d,-]+)")
_RANGE = re.compile(r"(\d{1,3})(?:-(\d{1,3}))?")


def attribute(part: int) -> str:
    """Return the name of the attribute for a part of the text."""
    return f"{ATTRIBUTE}{part or ''}"


def texts(machine: node.NodeTopology, gpu: int) -> tuple[str, ...]:
    """Return the NVLinks of a GPU in parts of at most 64 bytes; () without NVLinks.

    Notes
    -----
    A range may run through the GPU itself, so that all-to-all is one entry: ``18@26.562:0-7``.
    """
    groups: dict[tuple[int, float], set[int]] = {}
    for link in machine.nvlinks:
        if gpu in (link.a, link.b):
            groups.setdefault((link.links, link.gbps), {gpu}).add(link.a + link.b - gpu)
    entries = [f"{links}@{gbps}:{ranges}" for (links, gbps), peers in groups.items() for ranges in _ranges(peers, gpu)]
    parts: list[str] = []
    for entry in entries:
        if parts and len(parts[-1]) + 1 + len(entry) <= MAX_TEXT:
            parts[-1] += f";{entry}"
        else:
            parts.append(entry)
    return tuple(parts)


def parse(gpu: int, text: str) -> Iterator[tuple[int, int, float]]:
    """Yield peer, number of links and GB/s of one link from a text of `texts`.

    Raises
    ------
    ValueError
        The text has another form.

    Examples
    --------
    >>> list(parse(1, "2@25.0:0-2;1@25.0:5"))
    [(0, 2, 25.0), (2, 2, 25.0), (5, 1, 25.0)]
    """
    for entry in text.split(";"):
        match = _ENTRY.fullmatch(entry)
        if not match:
            raise ValueError(f"{entry!r} is not LINKS@GBPS:PEERS")
        links, gbps = int(match[1]), float(match[2])
        for peer in _members(match[3]):
            if peer != gpu:
                yield peer, links, gbps


def _ranges(peers: set[int], gpu: int) -> Iterator[str]:
    """Yield the peers as ranges, up to eight to an entry; the GPU itself only inside of a range."""
    runs: list[list[int]] = []
    for peer in sorted(peers):
        if runs and peer == runs[-1][-1] + 1:
            runs[-1].append(peer)
        else:
            runs.append([peer])
    words = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs if run != [gpu]]
    for i in range(0, len(words), 8):
        yield ",".join(words[i : i + 8])


def _members(ranges: str) -> Iterable[int]:
    for word in ranges.split(","):
        match = _RANGE.fullmatch(word)
        if not match:
            raise ValueError(f"{word!r} is no range of GPUs")
        yield from range(int(match[1]), int(match[2] or match[1]) + 1)
