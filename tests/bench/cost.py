"""Processor time of each program of a cluster during a burst, for each pod: hardly depends on what else the machine does."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

from tests.testbed import process


@dataclass(slots=True)
class Cost:
    """What each program took from the beginning until `stop`.

    Attributes
    ----------
    seconds : dict of program to float
    """

    pods: int
    parts: dict[str, psutil.Process]
    seconds: dict[str, float] = field(default_factory=dict)
    _began: dict[str, float] = field(default_factory=dict)

    def begin(self) -> None:
        self._began = {name: _used(one) for name, one in self.parts.items()}

    def stop(self) -> None:
        """Take the time; what comes later, like the deletion of the pods, does not count."""
        self.seconds = {name: _used(one) - self._began[name] for name, one in self.parts.items()}

    def per_pod_ms(self, program: str) -> float:
        return 1e3 * self.seconds[program] / self.pods

    def as_json(self) -> dict[str, float]:
        return {name: round(self.per_pod_ms(name), 2) for name in self.seconds}


@contextlib.contextmanager
def of(parts: process.Group, pods: int) -> Iterator[Cost]:
    """Measure a burst of so many pods."""
    found = Cost(pods, {name: psutil.Process(one.pid) for name, one in parts.parts.items() if one.running})
    found.begin()
    yield found


def _used(one: psutil.Process) -> float:
    used = one.cpu_times()
    return float(used.user + used.system)
