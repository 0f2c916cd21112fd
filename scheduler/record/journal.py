"""A machine whose every event and decision is written down before anybody acts on it."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from scheduler.gang import effects, events, machine
from scheduler.record import fleet, line
from scheduler.snapshot import topology

PART_BYTES = 64 << 20
"""A log goes on in another file after so many bytes."""

KEEP_TERMS = 10
"""Logs kept: one for each time that a scheduler began to lead."""

KEEP_BYTES = 4 << 30
"""Logs of earlier terms go, oldest first, when all together are larger."""

_NAME = re.compile(r"decisions-(.+)-(\d{4})\.jsonl")


@dataclass(slots=True, eq=False)
class Journal:
    """A machine and its log.

    Parameters
    ----------
    folder : Path
        Of the logs; made when it is missing.
    term : str
        Names this log: time and identity of the leader. Logs sort by it.
    failed : callable
        Told once when the log can't be written. Decisions go on without one: gangs matter more than their story.

    Notes
    -----
    The line is given to the operating system before `handle` returns, so it survives the end of the process but not
    that of the machine. Fleets are files of their own, named by digest, written once; those that no log names any more
    go with the logs.
    """

    machine: machine.Machine
    folder: Path
    term: str
    failed: Callable[[OSError], None] = lambda _: None
    ended: bool = False
    _number: int = 0
    _part: int = 0
    _bytes: int = 0
    _file: BinaryIO | None = field(default=None)

    def handle(self, event: events.Event, now: float) -> list[effects.Effect]:
        """Decide as the machine does, and write it down."""
        name = self._attempt(lambda: self._before(event)) or ""
        done = self.machine.handle(event, now)
        self._number += 1
        self._attempt(lambda: self._write(line.encode(self._number, now, event, name, done, self.machine)))
        return done

    def _before(self, event: events.Event) -> str:
        """Have a log, and the fleet of an event in a file; return its name."""
        if self._file is None:
            self._open(line.head(self.machine, self._fleet(self.machine.scoring.topology), self.term))
        return self._fleet(event.scoring.topology) if isinstance(event, events.TopologyChanged) else ""

    def _attempt(self, write: Callable[[], str | None]) -> str | None:
        """Write, unless the log has ended; a log with a gap would not replay, so the first failure ends it."""
        if self.ended:
            return None
        try:
            return write()
        except OSError as error:
            self.ended = True
            self.close()
            self.failed(error)
            return None

    def close(self) -> None:
        """End the log."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, first: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        clean(self.folder, KEEP_TERMS - 1, KEEP_BYTES, self.term)
        self._next()
        self._write(first)

    def _next(self) -> None:
        self.close()
        self._part += 1
        self._bytes = 0
        self._file = (self.folder / f"decisions-{self.term}-{self._part:04}.jsonl").open("xb", buffering=0)

    def _write(self, data: bytes) -> None:
        if self._bytes > PART_BYTES:
            clean(self.folder, KEEP_TERMS, KEEP_BYTES, self.term)
            self._next()
        assert self._file is not None
        self._file.write(data)
        self._bytes += len(data)

    def _fleet(self, one: topology.Topology) -> str:
        """Write a fleet down and return its name."""
        data = fleet.dump(one)
        name = fleet.digest(data)
        path = fleet_path(self.folder, name)
        self.folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            fresh = path.with_suffix(".new")
            fresh.write_bytes(data)
            fresh.replace(path)
        with names_path(self.folder, self.term).open("a") as file:
            file.write(f"{name}\n")
        return name


def clean(folder: Path, keep: int, most_bytes: int, term: str) -> None:
    """Remove the oldest logs but `keep`, and more while all are larger than allowed; never that of `term`."""
    old = [one for one in terms(folder) if one != term]
    sizes = {one: sum(part.stat().st_size for part in parts(folder, one)) for one in terms(folder)}
    while old and (len(old) > keep or sum(sizes.values()) > most_bytes):
        gone = old.pop(0)
        del sizes[gone]
        for path in (*parts(folder, gone), names_path(folder, gone)):
            path.unlink(missing_ok=True)
    named = {name for path in folder.glob("fleets-*.txt") for name in path.read_text().split()}
    for path in folder.glob("fleet-*.json"):
        if path.stem.removeprefix("fleet-") not in named:
            path.unlink()


def names_path(folder: Path, term: str) -> Path:
    """Return the file that names the fleets of a log."""
    return folder / f"fleets-{term}.txt"


def fleet_path(folder: Path, name: str) -> Path:
    """Return the file of a fleet."""
    return folder / f"fleet-{name}.json"


def terms(folder: Path) -> list[str]:
    """Return the logs of a folder, oldest first."""
    found = (_NAME.fullmatch(path.name) for path in folder.iterdir())
    return sorted({match.group(1) for match in found if match})


def parts(folder: Path, term: str) -> list[Path]:
    """Return the files of one log in order."""
    return sorted(folder.glob(f"decisions-{term}-[0-9][0-9][0-9][0-9].jsonl"))


def lines(folder: Path, term: str) -> Iterator[bytes]:
    """Yield the lines of a log over its parts, the head first; a last line that was cut off is left out."""
    for path in parts(folder, term):
        with path.open("rb") as file:
            yield from (one for one in file if one.endswith(b"\n"))
