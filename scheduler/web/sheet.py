"""The names of a fleet's nodes as JSON, encoded once: an answer about 5,000 nodes is put together from pieces.

What is made of the pieces decodes to the same as the types of `wire`; tests hold one against the other.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scheduler.web import wire

Ints = NDArray[np.int64]
Objects = NDArray[np.object_]

UNKNOWN = -1
"""Row of a node that the fleet does not have."""


@dataclass(slots=True, eq=False)
class Sheet:
    """Pieces of answers by row of the node.

    Attributes
    ----------
    names : sequence of str
        Of all nodes of the fleet.
    """

    names: Sequence[str]
    _index: dict[str, int] = field(init=False)
    _quoted: Objects = field(init=False)
    _hosts: Objects = field(init=False)
    _scores: dict[int, Objects] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._index = {name: row for row, name in enumerate(_together(self.names))}
        quoted = list(map(wire.encode, self.names))
        self._quoted = _objects([*quoted, b""])  # the last is what `UNKNOWN` finds
        self._hosts = _objects([*map(_host, quoted), b""])

    def row(self, name: str) -> int:
        """Return the row of a node."""
        return self._index.get(name, UNKNOWN)

    def rows(self, names: Sequence[str]) -> Ints:
        """Return the rows of nodes."""
        return np.fromiter(map(self._index.get, names, itertools.repeat(UNKNOWN)), np.int64, len(names))

    def quoted(self, names: Sequence[str], rows: Ints) -> Objects:
        """Return names as JSON."""
        found = self._quoted[rows]
        for place in np.flatnonzero(rows == UNKNOWN).tolist():
            found[place] = wire.encode(names[place])
        return found

    def priorities(self, names: Sequence[str], rows: Ints, places: Ints, step: int) -> bytes:
        """Encode the answer of prioritize: a score of `step` for each place; places are at most the number of nodes."""
        if not len(rows):
            return b"[]"
        pieces = np.empty(2 * len(rows), dtype=np.object_)
        pieces[::2] = self._hosts[rows]
        for place in np.flatnonzero(rows == UNKNOWN).tolist():
            pieces[2 * place] = _host(wire.encode(names[place]))
        pieces[1::2] = self._numbers(step)[places]
        found = pieces.tolist()
        found[0] = b"[" + found[0][1:]
        found.append(b"]")
        return b"".join(found)

    def _numbers(self, step: int) -> Objects:
        """Return the ends of entries by place."""
        found = self._scores.get(step)
        if found is None:
            found = self._scores[step] = _objects([b"%d}" % (step * place) for place in range(len(self.names) + 1)])
        return found


def filtered(
    feasible: Objects, failed: Iterable[tuple[str, Objects]], hopeless: Iterable[tuple[str, Objects]]
) -> bytes:
    """Encode the answer of filter from names as JSON: those that fit, and by sentence those that do not."""
    parts = (b",".join(feasible.tolist()), _told(failed), _told(hopeless))
    return b'{"Nodes":null,"NodeNames":[%b],"FailedNodes":{%b},"FailedAndUnresolvableNodes":{%b},"Error":""}' % parts


def _told(found: Iterable[tuple[str, Objects]]) -> bytes:
    """Return the members of a map of one sentence by name."""
    ends = ((b":" + wire.encode(sentence), names.tolist()) for sentence, names in found)
    return b",".join((end + b",").join(names) + end for end, names in ends if names)


def _together(names: Sequence[str]) -> list[str]:
    """Return copies that lie side by side: of names all over the heap, each look-up waits for the memory (0.4 ms of 5,000)."""
    return [name.encode().decode() for name in names]


def _host(quoted: bytes) -> bytes:
    """Return the beginning of an entry of prioritize, with the comma after the one before."""
    return b',{"Host":%b,"Score":' % quoted


def _objects(found: Sequence[bytes]) -> Objects:
    made = np.empty(len(found), dtype=np.object_)
    made[:] = found
    return made
