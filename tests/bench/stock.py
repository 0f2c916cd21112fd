"""What stock kube-scheduler does with its own DRA allocation on simulated nodes: the peer that Muster is measured against.

Everything runs on this machine: etcd, API server, controllers, kube-scheduler with its default profile, kwok, and the
program that creates the pods.
"""

import asyncio
import contextlib
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

from scheduler.apiserver import client
from tests.bench import burst, figure
from tests.testbed import build, cluster, kwok, versions
from tests.testbed.fleet import create, presets

T = TypeVar("T")

RUNS, WARM_PODS = 3, 20
FLEETS = (presets.fleet_500, presets.fleet_5000)
KINDS = {"claims": burst.GPUS, "no claims": 0}


@dataclass(slots=True)
class Bench:
    """Clusters with fleets, one after the other, and the bursts that they were given; each is made when first asked for."""

    version: str = versions.NEWEST
    opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    ready: dict[str, tuple[cluster.Cluster, float] | Exception] = field(default_factory=dict)
    taken: dict[str, list[burst.Burst] | Exception] = field(default_factory=dict)

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *problem: object) -> None:
        self.opened.close()

    def fleet_ready(self, fleet: presets.Fleet) -> tuple[float, str]:
        """Return the seconds from the start of the cluster until all nodes were Ready, binaries built before."""
        return self._cluster(fleet)[1], "from the start of etcd, with slices"

    def rate(self, fleet: presets.Fleet, kind: str) -> tuple[float, str]:
        """Return pods bound per second."""
        return _median(self._bursts(fleet, kind), lambda each: each.rate)

    def wait(self, fleet: presets.Fleet, kind: str, share: float) -> tuple[float, str]:
        """Return a quantile of the seconds from a pod's creation until it was bound."""
        return _median(self._bursts(fleet, kind), lambda each: each.quantile(share))

    def processor(self, fleet: presets.Fleet, kind: str) -> tuple[float, str]:
        """Return the scheduler's processor time for each pod in ms, which other work on the machine hardly changes."""
        return _median(self._bursts(fleet, kind), lambda each: 1e3 * each.cpu_s / len(each.waits))

    def creation(self, fleet: presets.Fleet, kind: str) -> tuple[float, str]:
        """Return pods created per second: when it is near the rate of binding, the burst measures its own creator."""
        return _median(self._bursts(fleet, kind), lambda each: len(each.waits) / each.create_s)

    def parts(self) -> dict[str, str]:
        """Return the versions of what was measured."""
        return {
            "kubernetes": self.version,
            "etcd": versions.locked(f"kubernetes-{self.version}", "go.etcd.io/etcd/server/v3"),
            "kwok": versions.locked("kwok", "sigs.k8s.io/kwok"),
            "feature gates": ", ".join(versions.kubernetes(self.version).gates),
        }

    def as_json(self) -> dict[str, object]:
        """Return every run, for the result file."""
        runs = {name: bursts for name, bursts in self.taken.items() if not isinstance(bursts, Exception)}
        return {name: [each.as_json() for each in bursts] for name, bursts in runs.items()}

    def _bursts(self, fleet: presets.Fleet, kind: str) -> list[burst.Burst]:
        made, _ = self._cluster(fleet)
        return once(self.taken, f"{len(fleet)} nodes, {kind}", lambda: asyncio.run(_runs(made, kind)))

    def _cluster(self, fleet: presets.Fleet) -> tuple[cluster.Cluster, float]:
        """Return the cluster with a fleet, and how long it took until it was Ready."""
        return once(self.ready, fleet.name, lambda: self._started(fleet))

    def _started(self, fleet: presets.Fleet) -> tuple[cluster.Cluster, float]:
        """Start a cluster with a fleet in place of the one before."""
        self.opened.close()
        build.binary("kwok", say)
        made = self.opened.enter_context(cluster.Cluster(cluster.Options(self.version), tell=say))
        begin = time.monotonic()
        kwok.start(made.start())
        asyncio.run(_filled(made.kubeconfig, fleet, made.kubernetes.minor))
        return made, time.monotonic() - begin


def once(answers: dict[str, T | Exception], key: str, make: Callable[[], T]) -> T:
    """Return what `make` gives, asked once per key; a failure is raised again each time, since a try takes minutes."""
    if key not in answers:
        try:
            answers[key] = make()
        except Exception as error:
            answers[key] = error
    answer = answers[key]
    if isinstance(answer, Exception):
        raise answer
    return answer


async def _filled(kubeconfig: Path, fleet: presets.Fleet, minor: int) -> None:
    async with await client.Client.connect(kubeconfig) as api:
        await create.create(api, fleet, minor, told)


async def _runs(made: cluster.Cluster, kind: str) -> list[burst.Burst]:
    """Run one small burst to warm up and then those that count."""
    name, gpus = kind.replace(" ", "-"), KINDS[kind]
    scheduler = psutil.Process(made.parts.parts["kube-scheduler"].pid)
    async with await client.Client.connect(made.kubeconfig) as api:
        await burst.run(api, f"warm-{name}", WARM_PODS, gpus)
        return [await burst.run(api, f"{name}-{i}", gpus=gpus, watched=scheduler) for i in range(RUNS)]


def _median(bursts: Sequence[burst.Burst], value: Callable[[burst.Burst], float]) -> tuple[float, str]:
    values, loads = [value(each) for each in bursts], [each.load for each in bursts]
    return statistics.median(values), f"{burst.spread(values)}, load {min(loads):g} to {max(loads):g}"


def told(what: str, done: int, count: int) -> None:
    say(f"{what}: {done} of {count}")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measurements(made: Bench, fleets: Sequence[presets.Fleet] = FLEETS) -> Iterator[tuple[str, figure.Measurement]]:
    """Yield the figures, fleet by fleet, so that one cluster runs at a time."""
    for fleet in fleets:
        yield f"fleet ready @ {len(fleet)} nodes", functools.partial(made.fleet_ready, fleet)
        for kind in KINDS:
            where = f"@ {len(fleet)} nodes, {kind}"
            yield f"pods bound {where}", functools.partial(made.rate, fleet, kind)
            yield f"scheduler CPU per pod {where}", functools.partial(made.processor, fleet, kind)
            yield f"pods created {where}", functools.partial(made.creation, fleet, kind)
            yield f"wait p50 {where}", functools.partial(made.wait, fleet, kind, 0.5)
            yield f"wait p99 {where}", functools.partial(made.wait, fleet, kind, 0.99)
