"""The DRA driver: prepares through a real socket, publishing, the process from start to idle, and what first fit takes."""

import asyncio
import functools
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from dra_driver import claim
from dra_driver.publish import publisher
from scheduler.apiserver import paths
from scheduler.model import device, machines, node, slices
from scheduler.snapshot import subsets, wiring
from tests.bench import figure, served, site
from tests.driver import first_fit

ROUNDS = 300
BATCH = 32
PUBLICATIONS = 21
SEEDS = range(1, 4)
DEVICES = 208
"""Eight A100 with all their partitions."""
IDLE_S = 30.0
STORMS = 5
READINGS = 30

WORKS = {"1 GPU": 1, "8 GPU": 1, f"{BATCH} claims": BATCH, f"{BATCH} calls": BATCH}
"""Kinds of calls, and how many claims each reads: one claim in a call, many in one call, many calls at once."""


@dataclass
class Times:
    """Of one kind of call, s: how long each took, and each fsync of the driver during it."""

    took: list[float] = field(default_factory=list)
    fsyncs: list[list[float]] = field(default_factory=list)

    def floor(self, read_s: float) -> float:
        """Return what no driver that keeps its promises can beat: the claims read, and the files on the disk."""
        count = statistics.median(map(len, self.fsyncs))
        return read_s + count * statistics.median([each for call in self.fsyncs for each in call])


class Bench:
    """Runs each experiment on first use and keeps what it found."""

    @functools.cached_property
    def calls(self) -> dict[str, Times]:
        return asyncio.run(calls())

    @functools.cached_property
    def idle(self) -> tuple[float, float, float]:
        return asyncio.run(idle())

    @functools.cached_property
    def publishing(self) -> tuple[list[float], list[float]]:
        return asyncio.run(publications())

    def quantile(self, call: str, work: str, share: float) -> tuple[float, str]:
        """Return a quantile of one kind of call, ms."""
        times = self.calls[f"{call} {work}"]
        return 1e3 * quantile(times.took, share), f"n {len(times.took)}, {self._limit(call, work)}"

    def times_the_limit(self, call: str, work: str) -> tuple[float, str]:
        """Return the median of one kind of call over what its fsyncs and the read of its claims take alone."""
        times = self.calls[f"{call} {work}"]
        return statistics.median(times.took) / times.floor(self._read(call, work)), self._limit(call, work)

    def _read(self, call: str, work: str) -> float:
        """Return how long it takes to read the claims, s; an unprepare reads none."""
        return statistics.median(self.calls[f"read {WORKS[work]}"].took) if call == "prepare" else 0.0

    def _limit(self, call: str, work: str) -> str:
        times, read = self.calls[f"{call} {work}"], self._read(call, work)
        count = statistics.median(map(len, times.fsyncs))
        one = statistics.median([each for made in times.fsyncs for each in made])
        told = f"limit {1e3 * times.floor(read):.2f} ms: {count:g} fsyncs of {1e3 * one:.2f} ms"
        return f"{told}, claims read {1e3 * read:.2f} ms" if read else told

    def registered(self) -> tuple[float, str]:
        """Return the time from the start of the process until the kubelet has it, s."""
        return self.idle[0], "the command, imports and discovery of 8 GPUs included"

    def resident(self) -> tuple[float, str]:
        """Return the highest resident memory of the idle process, MiB."""
        first, after = self.idle[1:]
        told = f"8 GPUs in MIG mode, health watched, scraped; {first:.1f} before and {after:.1f} after {STORMS} storms"
        return max(first, after), f"{told} of {BATCH} claims; {IDLE_S:g} s idle, highest of {READINGS}"

    def publish(self, again: bool) -> tuple[float, str]:
        """Return the time of a first publication, or of one without a change, ms."""
        times = self.publishing[again]
        return 1e3 * statistics.median(
            times
        ), f"{DEVICES} devices over HTTP, {'no' if again else 'every'} write, n {len(times)}"


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that a share of the values does not exceed."""
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * round(1000 * share) // 1000) - 1)]


async def calls() -> dict[str, Times]:
    """Prepare and unprepare one GPU, eight, and many shares of GPUs in one call and in as many at once."""
    async with site.serving(machines.build("dgx-a100", served.NODE)) as here:
        one = await here.claim("one", "gpu-0")
        eight = await here.claim("eight", *(f"gpu-{i}" for i in range(8)))
        parts = [await here.claim(f"part-{i}", share(i)) for i in range(BATCH)]
        times = {f"read {len(batch)}": await reads(here, batch) for batch in ([one], parts)}
        for work, claims in (("1 GPU", [one]), ("8 GPU", [eight]), (f"{BATCH} claims", parts)):
            times |= await measured(here, work, [claims])
        return times | await measured(here, f"{BATCH} calls", [[each] for each in parts])


def share(number: int) -> dict[str, object]:
    """Return a quarter of one of eight GPUs."""
    return {"device": f"gpu-{number % 8}", "shareID": f"s{number}", "consumedCapacity": {"milli": "250"}}


async def reads(here: site.Site, claims: Sequence[claim.Reference]) -> Times:
    """Read claims from the API server, all at once, as often as they are prepared."""
    times = Times()
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await asyncio.gather(*(here.api.get(f"{site.CLAIMS}/{each.name}") for each in claims))
        times.took.append(time.perf_counter() - began)
    return times


async def measured(here: site.Site, work: str, batches: Sequence[Sequence[claim.Reference]]) -> dict[str, Times]:
    """Prepare and unprepare batches of claims again and again, a call for each batch, all begun at once."""
    prepares, unprepares = Times(), Times()
    for _ in range(ROUNDS):
        answers = await timed(here, prepares, [here.kubelet.prepare(*batch) for batch in batches])
        if failed := [each.error for answer in answers for each in answer.values() if each.error]:
            raise figure.Missing(f"prepare failed: {failed[0]}")
        errors = await timed(here, unprepares, [here.kubelet.unprepare(*batch) for batch in batches])
        if failed := [each for answer in errors for each in answer.values() if each]:
            raise figure.Missing(f"unprepare failed: {failed[0]}")
    return {f"prepare {work}": prepares, f"unprepare {work}": unprepares}


async def timed(here: site.Site, times: Times, made: Sequence[Awaitable[dict]]) -> list[dict]:
    """Make calls at once; keep how long all took and the fsyncs of the driver meanwhile."""
    before = len(here.fsyncs())
    began = time.perf_counter()
    answers = await asyncio.gather(*made)
    times.took.append(time.perf_counter() - began)
    times.fsyncs.append(here.fsyncs(before))
    return answers


def cut(name: str) -> node.NodeTopology:
    """Return a DGX A100 in MIG mode without NICs: `DEVICES` devices."""
    built = machines.build("dgx-a100", name)
    return replace(built, gpus=tuple(replace(gpu, mig_enabled=True) for gpu in built.gpus), nics=())


async def idle() -> tuple[float, float, float]:
    """Return seconds to registration, and the highest MiB of the idle process before and after storms of claims."""
    async with site.serving(cut(served.NODE)) as here, asyncio.TaskGroup() as group:
        if len(await here.published()) != DEVICES:
            raise figure.Missing(f"{len(await here.published())} devices are published, not {DEVICES}")
        watching = group.create_task(here.watch_health())
        first = await highest(here)
        claims = [await here.claim(f"part-{i}", name) for i, name in enumerate(partitions(cut(served.NODE)))]
        for _ in range(STORMS):
            await asyncio.gather(*(here.kubelet.prepare(each) for each in claims))
            await asyncio.gather(*(here.kubelet.unprepare(each) for each in claims))
        after = await highest(here)
        watching.cancel()
        return here.registered_s, first, after


async def highest(here: site.Site) -> float:
    """Return the highest of some readings of memory, after a while and with metrics read between."""
    await asyncio.sleep(IDLE_S)
    found = []
    for _ in range(READINGS):
        await here.scrape()
        await asyncio.sleep(0.2)
        found.append(here.resident())
    return max(found)


def partitions(machine: node.NodeTopology) -> list[str]:
    """Return four of the smallest partitions of each GPU."""
    profile: device.MigProfile = min(machine.gpus[0].model.mig, key=lambda one: (one.memory_slices, one.name))
    return [
        f"{gpu.name}-mig-{profile.name.replace('.', '')}-{profile.profile_id}-{start}"
        for gpu in machine.gpus
        for start in profile.starts[:4]
    ]


async def publications() -> tuple[list[float], list[float]]:
    """Publish nodes of `DEVICES` devices; return the times of the first and of the second publication of each, s."""
    first, again = [], []
    async with site.serving(machines.build("dgx-a100", served.NODE)) as here:
        for number in range(PUBLICATIONS):
            name = f"published-{number}"
            await here.api.create(
                paths.of("v1", "nodes"), {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
            )
            made = publisher.Publisher(here.api, name)
            made.want(publisher.Wanted(cut(name)))
            first.append(await lasting(made.publish))
            writes = made.stats.creates
            again.append(await lasting(made.publish))
            if not writes or (made.stats.creates, made.stats.updates, made.stats.deletes) != (writes, 0, 0):
                raise figure.Missing(f"a second publication wrote: {made.stats}")
            found, _ = await here.api.list(site.SLICES, fieldSelector=f"spec.nodeName={name}")
            if (count := sum(len(item["spec"].get("devices") or ()) for item in found)) != DEVICES:
                raise figure.Missing(f"{count} devices are published, not {DEVICES}")
    return first, again


async def lasting(call: Callable[[], Awaitable[None]]) -> float:
    began = time.perf_counter()
    await call()
    return time.perf_counter() - began


@functools.cache
def optimal(kind: str, ours: bool) -> tuple[float, str]:
    """Return how often first fit takes the widest ring that is free, %, in our order or by index; mean of three seeds."""
    found = machines.build(kind, "n1")
    items = slices.encode(found) if ours else first_fit.by_index(slices.encode(found))
    tables = subsets.subsets(wiring.wiring(found))
    mean = sum(first_fit.share(tables, items, 500, seed) for seed in SEEDS) / len(SEEDS)
    return 100 * mean, "500 fills and drains, three seeds; claims of two GPUs and more"


def gain(kind: str) -> tuple[float, str]:
    """Return by how many points our order is better than the index."""
    ours, index = optimal(kind, ours=True)[0], optimal(kind, ours=False)[0]
    return ours - index, f"ours {ours:.1f} %, by index {index:.1f} %"


def measurements() -> Iterator[tuple[str, figure.Measurement]]:
    """Return the figures in the order of the table."""
    made = Bench()
    for call in ("prepare", "unprepare"):
        for work in WORKS:
            for label, share in (("p50", 0.5), ("p99", 0.99)):
                yield f"{call} {label}: {work}", lambda c=call, w=work, s=share: made.quantile(c, w, s)
            yield f"{call} p50, times the limit: {work}", lambda c=call, w=work: made.times_the_limit(c, w)
    yield "publish", lambda: made.publish(again=False)
    yield "publish: no change", lambda: made.publish(again=True)
    yield "start to registered", made.registered
    yield "resident memory idle", made.resident
    for kind in machines.KINDS:
        yield f"first fit optimal: {kind}", lambda k=kind: optimal(k, ours=True)
        yield f"first fit gain: {kind}", lambda k=kind: gain(k)
