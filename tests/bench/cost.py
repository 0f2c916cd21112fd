"""What a burst costs for each pod: processor time of every program, and requests that change something.

Neither depends much on what else the machine does. The sum of the processor times over the cores is the least time that
a pod can take on this machine, whoever schedules it.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import psutil

from scheduler.apiserver import client
from tests.testbed import process

COUNTED = re.compile(
    r'^apiserver_request_total(?=.*[{,]verb="(?P<verb>POST|PUT|PATCH|APPLY)")(?=.*[{,]resource="(?P<resource>[a-z]*)")'
    r'(?=.*[{,]subresource="(?P<part>[a-z/]*)").*\} (?P<count>[0-9.e+]+)$',
    re.MULTILINE,
)
OF_PODS = ("pods", "resourceclaims", "events")
"""What is written because of a pod; leases and nodes are written all the time."""


@dataclass(slots=True)
class Cost:
    """What happened from `begin` until `stop`.

    Attributes
    ----------
    seconds : dict of program to float
        Of the processor.
    writes : dict of "VERB resource/subresource" to int
    """

    api: client.Client | None
    pods: int
    parts: dict[str, psutil.Process]
    seconds: dict[str, float] = field(default_factory=dict)
    writes: dict[str, int] = field(default_factory=dict)
    _began: dict[str, float] = field(default_factory=dict)
    _had: Mapping[str, int] = field(default_factory=dict)

    async def stop(self) -> None:
        """Take the difference; what comes later, like the deletion of the pods, does not count."""
        assert self.api is not None
        self.seconds = {name: _used(one) - self._began[name] for name, one in self.parts.items()}
        now = read(await self.api.request("GET", "/metrics"))
        self.writes = {name: count - self._had.get(name, 0) for name, count in sorted(now.items())}

    def per_pod_ms(self, *programs: str) -> float:
        """Return the processor milliseconds of some programs for each pod, of all where none is named."""
        return 1e3 * sum(self.seconds[name] for name in programs or self.seconds) / self.pods

    def writes_per_pod(self) -> float:
        return sum(self.writes.values()) / self.pods

    def as_json(self) -> dict[str, object]:
        """Return all of it for each pod; processor time in milliseconds."""
        writes = {name: round(count / self.pods, 2) for name, count in self.writes.items() if count}
        return {"cpu": {name: round(self.per_pod_ms(name), 2) for name in self.seconds}, "writes": writes}


async def begin(api: client.Client, parts: process.Group, pods: int) -> Cost:
    """Measure a burst of so many pods from now on."""
    found = Cost(api, pods, {name: psutil.Process(one.pid) for name, one in parts.parts.items() if one.running})
    found._had = read(await api.request("GET", "/metrics"))
    found._began = {name: _used(one) for name, one in found.parts.items()}
    return found


def read(metrics: bytes) -> Counter[str]:
    """Read how many requests there were that change pods and what belongs to them, from the API server's metrics."""
    found: Counter[str] = Counter()
    for one in COUNTED.finditer(metrics.decode()):
        if one["resource"] in OF_PODS:
            name = f"{one['resource']}/{one['part']}".rstrip("/")
            found[f"{one['verb']} {name}"] += int(float(one["count"]))
    return found


def _used(one: psutil.Process) -> float:
    used = one.cpu_times()
    return float(used.user + used.system)
