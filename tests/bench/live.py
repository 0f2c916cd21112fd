"""Muster on simulated nodes, beside what stock kube-scheduler does there with its own DRA allocation, in one run.

The same control plane, nodes, slices and pods; only who chooses the devices differs. First kube-scheduler alone, then
with Muster as a process of its own and pods that carry its gate.
"""

import asyncio
import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from scheduler.apiserver import client
from tests.bench import burst, core, extender, figure, stock
from tests.testbed import cluster
from tests.testbed.fleet import presets

FLEETS = stock.FLEETS
RUNS, WARM_PODS = 3, 20
GANG_PODS, GANG_GPUS = 64, 8
SYNC_S = 180.0
CRD = Path(__file__).parents[2] / "deploy/scheduler/crd.yaml"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@dataclass(frozen=True, slots=True)
class Taken:
    """What one fleet came to.

    Attributes
    ----------
    sync_s : float
        From the start of Muster's process until it had read everything.
    memory_mib : float
        Resident, at the end.
    """

    stock: tuple[burst.Burst, ...]
    lone: tuple[burst.Burst, ...]
    gangs: tuple[burst.Burst, ...]
    sync_s: float
    memory_mib: float


@dataclass(slots=True)
class Bench(stock.Bench):
    """Clusters with fleets, each with and without Muster."""

    seen: dict[str, Taken | Exception] = field(default_factory=dict)

    def stock_rate(self, fleet: presets.Fleet) -> tuple[float, str]:
        """Return pods bound per second by kube-scheduler alone."""
        return _median([each.rate for each in self._taken(fleet).stock])

    def rate(self, fleet: presets.Fleet, kind: str = "") -> tuple[float, str]:
        """Return pods bound per second with Muster."""
        return _median([each.rate for each in self._taken(fleet).lone])

    def ratio(self, fleet: presets.Fleet) -> tuple[float, str]:
        """Return how many times as fast pods are bound with Muster."""
        return self.rate(fleet)[0] / self.stock_rate(fleet)[0], "medians of one run"

    def wait(self, fleet: presets.Fleet, kind: str = "", share: float = 0.5) -> tuple[float, str]:
        """Return a quantile of the seconds from a pod's creation until it was bound, with Muster."""
        return _median([each.quantile(share) for each in self._taken(fleet).lone])

    def gang(self, fleet: presets.Fleet) -> tuple[float, str]:
        """Return the seconds from a gang's last pod to its last binding."""
        return _median([each.seconds - each.create_s for each in self._taken(fleet).gangs])

    def sync(self, fleet: presets.Fleet) -> tuple[float, str]:
        """Return the seconds that Muster takes to begin."""
        return self._taken(fleet).sync_s, "from the start of the process"

    def memory(self, fleet: presets.Fleet) -> tuple[float, str]:
        """Return Muster's resident memory after everything, MiB."""
        return self._taken(fleet).memory_mib, ""

    def as_json(self) -> dict[str, object]:
        """Return every run, for the result file."""
        runs = {name: taken for name, taken in self.seen.items() if not isinstance(taken, Exception)}
        return {
            f"{name}, {kind}": [each.as_json() for each in getattr(taken, kind)]
            for name, taken in runs.items()
            for kind in ("stock", "lone", "gangs")
        }

    def _taken(self, fleet: presets.Fleet) -> Taken:
        made, _ = self._cluster(fleet)
        return stock.once(self.seen, f"{len(fleet)} nodes", lambda: asyncio.run(_take(made)))


async def _take(made: cluster.Cluster) -> Taken:
    """Run the bursts."""
    async with await client.Client.connect(made.kubeconfig) as api:
        await burst.run(api, "warm", WARM_PODS)
        alone = [await burst.run(api, f"stock-{i}") for i in range(RUNS)]
        await api.create(DEFINITIONS, yaml.safe_load(CRD.read_text()))
        with muster(made.kubeconfig) as (process, sync_s):
            watched = psutil.Process(process.pid)
            await burst.run(api, "warm-muster", WARM_PODS, gated=True)
            lone = [await burst.run(api, f"lone-{i}", watched=watched, gated=True) for i in range(RUNS)]
            gangs = [
                await burst.run(api, f"gang-{i}", GANG_PODS, GANG_GPUS, watched, gated=True, gang=True)
                for i in range(RUNS)
            ]
            memory = watched.memory_info().rss / 2**20
    return Taken(tuple(alone), tuple(lone), tuple(gangs), sync_s, memory)


@contextlib.contextmanager
def muster(kubeconfig: Path) -> Iterator[tuple["subprocess.Popen[bytes]", float]]:
    """Run the scheduler as a process; yields it and the seconds until it had read everything.

    Raises
    ------
    RuntimeError
        It ended, or was not synced in time; the message has the end of its log.
    """
    with tempfile.NamedTemporaryFile("wb+") as log:
        begin = time.monotonic()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "scheduler.cli", "run", "--kubeconfig", str(kubeconfig)),
                *("--no-leader-elect", "--host", "127.0.0.1", "--port", "0"),
            ],
            stderr=log,
            env=os.environ,
        )
        try:
            while not _synced(Path(log.name)):
                if process.poll() is not None or time.monotonic() - begin > SYNC_S:
                    raise RuntimeError(f"Muster is not synced: {Path(log.name).read_text()[-2000:]}")
                time.sleep(0.05)
            yield process, time.monotonic() - begin
        finally:
            process.terminate()
            process.wait(30)


def _synced(log: Path) -> bool:
    lines = (line for line in log.read_text().splitlines() if line.startswith("{"))
    return any(json.loads(line).get("event") == "synced" for line in lines)


def _median(values: Sequence[float]) -> tuple[float, str]:
    return statistics.median(values), burst.spread(values)


def measurements(made: Bench, fleets: Sequence[presets.Fleet] = FLEETS) -> Iterator[tuple[str, figure.Measurement]]:
    """Yield the figures, fleet by fleet, so that one cluster runs at a time."""
    for fleet in fleets:
        where = f"@ {len(fleet)} nodes"
        yield f"pods bound by stock {where}", functools.partial(made.stock_rate, fleet)
        yield f"pods bound with Muster {where}", functools.partial(made.rate, fleet)
        yield f"times stock {where}", functools.partial(made.ratio, fleet)
        yield f"wait p50 {where}", functools.partial(made.wait, fleet, "", 0.5)
        yield f"wait p99 {where}", functools.partial(made.wait, fleet, "", 0.99)
        yield f"last pod of a gang to all bound {where}", functools.partial(made.gang, fleet)
        yield f"time to sync {where}", functools.partial(made.sync, fleet)
        yield f"memory {where}", functools.partial(made.memory, fleet)
    yield "512-pod gang planned", core.gang_planned
    yield from extender.measurements()
