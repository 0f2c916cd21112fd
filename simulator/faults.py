"""Failures, repairs and maintenance as a stream of timed events, drawn from a seeded generator."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from scheduler.gang import events
from scheduler.snapshot import topology


@dataclass(frozen=True, slots=True)
class Maintenance:
    """A window in which a domain (or a single node) is out of service.

    Attributes
    ----------
    notice_s : float
        For so long before the start nothing new is placed there; what still runs at the start is evicted.
    """

    domain: str
    start_s: float
    duration_s: float
    notice_s: float = 0.0

    def __post_init__(self) -> None:
        if self.start_s < 0 or self.duration_s <= 0 or self.notice_s < 0:
            raise ValueError(
                f"maintenance of {self.domain}: start and notice must not be negative, duration must be positive"
            )


@dataclass(frozen=True, slots=True)
class Faults:
    """How often things break and what that costs.

    Attributes
    ----------
    gpu_mtbf_s, node_mtbf_s, domain_mtbf_s : float
        Mean time between failures of one GPU, one node, one domain of `domain_level`; 0 for never. Exponential.
    repair_s : float
        Mean time to repair, exponential.
    checkpoint_s : float
        Run time between checkpoints; 0 for jobs that lose everything.
    restart_s : float
        Run time that every restart adds.
    """

    gpu_mtbf_s: float = 0.0
    node_mtbf_s: float = 0.0
    domain_mtbf_s: float = 0.0
    domain_level: str = "rack"
    repair_s: float = 3600.0
    checkpoint_s: float = 0.0
    restart_s: float = 0.0
    maintenance: tuple[Maintenance, ...] = field(default=())

    def __post_init__(self) -> None:
        for name in ("gpu_mtbf_s", "node_mtbf_s", "domain_mtbf_s", "checkpoint_s", "restart_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a number of at least 0, got {getattr(self, name)}")
        if not 0 < self.repair_s < float("inf"):
            raise ValueError(f"repair_s must be above 0, got {self.repair_s}")

    def kept_s(self, run_s: float) -> float:
        """Return how much of an interrupted run survives in checkpoints."""
        return run_s // self.checkpoint_s * self.checkpoint_s if self.checkpoint_s else 0.0


@dataclass(frozen=True, slots=True)
class Happening:
    """Things that break, or are mended, at one moment.

    Attributes
    ----------
    repair : bool
        Everything here undoes an earlier happening.
    drawn : bool
        It came by chance, so that the next one of its kind is to be drawn after it.
    """

    events: tuple[events.Event, ...]
    repair: bool = False
    drawn: bool = False


Timed = tuple[float, Happening]


def maintenance(fleet: topology.Topology, faults: Faults) -> Iterator[Timed]:
    """Yield notice, start and end of every maintenance window.

    Raises
    ------
    ValueError
        The fleet has no such domain.
    """
    for window in faults.maintenance:
        nodes = nodes_of(fleet, window.domain)
        yield max(0.0, window.start_s - window.notice_s), Happening(tuple(map(events.NodeCordoned, nodes)))
        yield window.start_s, Happening(tuple(map(events.NodeFailed, nodes)))
        yield window.start_s + window.duration_s, Happening(_together_up(nodes), repair=True)


def undoes(event: events.Event) -> events.Event | None:
    """Return the event that a repair undoes, None for one that breaks something."""
    match event:
        case events.NodeUncordoned(node):
            return events.NodeCordoned(node)
        case events.NodeRepaired(node):
            return events.NodeFailed(node)
        case events.DeviceRepaired(node, gpu):
            return events.DeviceFailed(node, gpu)
        case _:
            return None


def _together_down(nodes: Sequence[str]) -> tuple[events.Event, ...]:
    """Take nodes out of service at once: cordoned first, lest what one loses is placed on the next to fail."""
    return (*map(events.NodeCordoned, nodes), *map(events.NodeFailed, nodes))


def _together_up(nodes: Sequence[str]) -> tuple[events.Event, ...]:
    """Undo `_together_down`."""
    return (*map(events.NodeRepaired, nodes), *map(events.NodeUncordoned, nodes))


def nodes_of(fleet: topology.Topology, domain: str) -> list[str]:
    """Return the names of the nodes of a domain.

    Raises
    ------
    ValueError
        There is no such domain.
    """
    if domain not in fleet.tree.names:
        raise ValueError(f"maintenance names domain {domain!r}, which the fleet does not have")
    vertex = fleet.tree.names.index(domain)
    return [fleet.nodes[n].name for n in range(int(fleet.tree.first_node[vertex]), int(fleet.tree.last_node[vertex]))]


class Breakage:
    """Draws failures one after the other: units of one kind fail independently, so together they are one process.

    Parameters
    ----------
    generator : numpy.random.Generator
        Advanced by every draw; the only source of chance.
    """

    def __init__(self, fleet: topology.Topology, faults: Faults, generator: np.random.Generator) -> None:
        self.fleet, self.faults, self.generator = fleet, faults, generator
        self.gpus = [(m.name, g.index) for m in fleet.nodes for g in m.gpus]
        level = fleet.tree.level_index(faults.domain_level)
        if faults.domain_mtbf_s and level is None:
            raise ValueError(
                f"domain_level {faults.domain_level!r} is no level of the fleet: {', '.join(fleet.tree.levels)}"
            )
        self.domains = [fleet.tree.names[v] for v in fleet.tree.domains_at(level)] if level is not None else []
        self.rates = (
            len(self.gpus) / faults.gpu_mtbf_s if faults.gpu_mtbf_s else 0.0,
            len(fleet.nodes) / faults.node_mtbf_s if faults.node_mtbf_s else 0.0,
            len(self.domains) / faults.domain_mtbf_s if faults.domain_mtbf_s else 0.0,
        )

    def next(self, now: float) -> tuple[Timed, ...]:
        """Draw the next failure and its repair; nothing where nothing ever fails."""
        total = sum(self.rates)
        if not total:
            return ()
        time = now + float(self.generator.exponential(1 / total))
        kind = int(self.generator.choice(3, p=np.array(self.rates) / total))
        down, up = self._unit(kind)
        repaired = time + float(self.generator.exponential(self.faults.repair_s))
        return (time, Happening(down, drawn=True)), (repaired, Happening(up, repair=True))

    def _unit(self, kind: int) -> tuple[tuple[events.Event, ...], tuple[events.Event, ...]]:
        """Choose the unit that fails; return what happens now and at its repair."""
        if kind == 0:
            node, gpu = self.gpus[int(self.generator.integers(len(self.gpus)))]
            return (events.DeviceFailed(node, gpu),), (events.DeviceRepaired(node, gpu),)
        if kind == 1:
            nodes = [self.fleet.nodes[int(self.generator.integers(len(self.fleet.nodes)))].name]
        else:
            nodes = nodes_of(self.fleet, self.domains[int(self.generator.integers(len(self.domains)))])
        return _together_down(nodes), _together_up(nodes)
