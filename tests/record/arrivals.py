"""A decision log of a live run as what a simulator is given: who came when, when it ended, when its devices were free.

Nothing of what was decided goes in: where a gang went, in which order gangs started and why others waited comes out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from scheduler.gang import effects, events
from scheduler.gang import machine as machines
from scheduler.placement import scoring
from scheduler.record import journal, line
from simulator import replay
from simulator.trace import job

APART_S = 1e-6
"""Events of one turn have one time, and an order that the simulator has to keep: each is told a little later."""


@dataclass(frozen=True, slots=True)
class Told:
    """One event of a log with what was decided."""

    now: float
    event: events.Event
    done: tuple[effects.Effect, ...]


@dataclass(frozen=True, slots=True)
class Log:
    """One term of a live scheduler; `machine` is as it began."""

    machine: machines.Machine
    told: tuple[Told, ...]

    @property
    def kinds(self) -> Counter[str]:
        """Return how often each kind of event had effects."""
        return Counter(type(one.event).__name__ for one in self.told if one.done)

    def decided(self) -> list[dict[str, Any]]:
        """Return the decisions in order."""
        fleet = self.machine.scoring.topology
        return [_content(replay.line(effect, one.now, fleet)) for one in self.told for effect in one.done]

    def trace(self) -> job.Trace:
        """Return the gangs that came, each with the time for which it ran."""
        arrived = {one.event.gang.name: one for one in self.told if isinstance(one.event, events.GangSubmitted)}
        began = {effect.gang.name: one.now for one in self.told for effect in one.done if _starts(effect)}
        ended = {one.event.name: one.now for one in self.told if isinstance(one.event, events.GangFinished)}
        gangs = [one.event.gang for one in arrived.values() if isinstance(one.event, events.GangSubmitted)]
        tenants = list(dict.fromkeys(gang.tenant for gang in gangs))
        ran = [ended[gang.name] - began[gang.name] if gang.name in began else 0.0 for gang in gangs]
        return job.build(
            "live",
            [job.JobShape(replace(gang, expected_s=0.0)) for gang in gangs],
            names=[gang.name for gang in gangs],
            submit_s=[arrived[gang.name].now for gang in gangs],
            duration_s=ran,
            expected_s=[gang.expected_s for gang in gangs],
            shape=np.arange(len(gangs)),
            tenant=[tenants.index(gang.tenant) for gang in gangs],
            tenants=tenants,
            priority=[gang.priority for gang in gangs],
        )

    def remains(self) -> dict[str, tuple[replay.Remains, ...]]:
        """Return which pods of each gang still held devices at its end, and for how long.

        A gang's claims are told as strangers' right before its end; which pod's a claim is, its node and devices say.
        """
        placed = {effect.gang.name: effect.placement for one in self.told for effect in one.done if _starts(effect)}
        gone = {one.event.holder: one.now for one in self.told if isinstance(one.event, events.Vacated)}
        held: list[events.Occupied] = []
        found: dict[str, list[replay.Remains]] = defaultdict(list)
        for one in self.told:
            if isinstance(one.event, events.Occupied):
                held.append(one.event)
            elif isinstance(one.event, events.GangFinished) and held:
                grants, nodes = placed[one.event.name].grants, self.machine.scoring.topology.nodes
                seats = {(nodes[grant.node].name, grant.mask): rank for rank, grant in enumerate(grants)}
                for each in held:
                    rank = seats[each.node, each.use.mask]
                    found[one.event.name].append(replay.Remains(each.holder, rank, gone[each.holder] - one.now))
                held = []
        return {name: tuple(sorted(rows, key=lambda row: row.kept_s)) for name, rows in found.items()}


def read(folder: Path) -> Log:
    """Read the newest log of a folder; its events are decided again."""
    lines = journal.lines(folder, journal.terms(folder)[-1])

    def load(name: str) -> bytes:
        return journal.fleet_path(folder, name).read_bytes()

    head = next(lines)
    core = line.begin(head, load)

    def tell() -> Iterator[Told]:
        for one in lines:
            number, now, event = line.decode(one, load)
            yield Told(now + APART_S * number, event, tuple(core.handle(event, now)))

    return Log(line.begin(head, load), tuple(tell()))


def simulated(log: Log, scored: scoring.Scoring) -> list[dict[str, Any]]:
    """Give a simulator the arrivals of a log, and return its decisions in order."""
    said: list[dict[str, Any]] = []
    run = replay.Replay(
        log.trace(),
        scored,
        log.machine.config,
        log=lambda text: said.append(_content(text)),
        validate=True,
        remains=log.remains(),
    )
    run.run()
    return said


def _starts(effect: effects.Effect) -> bool:
    return isinstance(effect, effects.Start)


def _content(text: str) -> dict[str, Any]:
    """Return a line of the simulator's log without its time."""
    said: dict[str, Any] = orjson.loads(text)
    del said["t"]
    return said
