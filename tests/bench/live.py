"""Muster on simulated nodes, beside what stock kube-scheduler does there with its own DRA allocation, in one run.

The same control plane, nodes, slices and pods; only who chooses the devices differs. Rounds alternate: stock alone, then
Muster as it is deployed (`product`), so that a machine that grows busier or slower does not favour one of them.

What limits both is the processor: all programs share the machine's cores, so no more pods can be bound in a second than
the cores have milliseconds, by "CPU per pod: all". Most of that is the API server's and etcd's for what is written of
each pod, whoever schedules it: 9 requests with stock (the pod, its claim, the claim's name in the pod's status, finalizer
and allocation of the claim, which the API takes in two, the binding, two states that kwok reports, an Event), 11 with
Muster (the patch that lets the pod go, an Event of its plan), and the webhook's review. Stock adds its search for devices
over all slices, in one thread of kube-scheduler: where that thread is the limit and not the cores, pods that the cores
would allow are not bound.
"""

import asyncio
import functools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from scheduler.apiserver import client
from tests.bench import burst, core, cost, extender, figure, product, stock
from tests.testbed import cluster
from tests.testbed.fleet import presets

FLEETS = stock.FLEETS
ROUNDS, WARM_PODS = 3, 20
PODS = {500: 300, 5000: 200}
"""Lone pods of a burst; stock takes 18 s for 200 at 5,000 nodes."""

FOREIGN_PODS = 100
"""Pods without claims, about which kube-scheduler asks our extender all the same."""

GANGS = {500: {64: 3}, 5000: {64: 3, 512: 1}}
"""Pods of each gang, and in how many of the rounds it comes; those of 512 take most of a minute to create and to clear."""

GANG_GPUS = 8
DURATION, DECISION = "muster_extender_duration_seconds", "muster_decision_duration_seconds"
VERBS = ("filter", "prioritize")


@dataclass(slots=True)
class Taken:
    """What one fleet came to, round by round.

    Attributes
    ----------
    gangs : dict of pods to bursts
    decided_s : dict of pods to seconds
        In which Muster says that it decided about each gang.
    sync_s : list of float
        From the start of Muster's process until it led.
    end_mib, peak_mib : list of float
    asked : list of (before, after)
        Muster's metrics around the bursts.
    """

    stock: list[burst.Burst] = field(default_factory=list)
    lone: list[burst.Burst] = field(default_factory=list)
    foreign: list[burst.Burst] = field(default_factory=list)
    gangs: dict[int, list[burst.Burst]] = field(default_factory=dict)
    decided_s: dict[int, list[float]] = field(default_factory=dict)
    sync_s: list[float] = field(default_factory=list)
    end_mib: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    asked: list[tuple[product.Metrics, product.Metrics]] = field(default_factory=list)
    costs: dict[str, list[cost.Cost]] = field(default_factory=dict)

    def bursts(self) -> Iterator[tuple[str, list[burst.Burst]]]:
        yield from (("stock", self.stock), ("lone", self.lone), ("foreign", self.foreign))
        yield from ((f"gangs of {pods}", found) for pods, found in self.gangs.items())


@dataclass(slots=True)
class Bench(stock.Bench):
    """Clusters with fleets, each with and without Muster in turn."""

    rounds: int = ROUNDS
    seen: dict[str, Taken | Exception] = field(default_factory=dict)

    def stock_rate(self, fleet: presets.Fleet) -> tuple[float, str]:
        """Return pods bound per second by kube-scheduler alone."""
        return _rates(self._taken(fleet).stock)

    def muster_rate(self, fleet: presets.Fleet) -> tuple[float, str]:
        """Return pods bound per second with Muster."""
        return _rates(self._taken(fleet).lone)

    def ratio(self, fleet: presets.Fleet) -> tuple[float, str]:
        """Return how many times as fast pods are bound with Muster, the median of the rounds."""
        taken = self._taken(fleet)
        return _median([ours.rate / theirs.rate for theirs, ours in zip(taken.stock, taken.lone, strict=True)])

    def created(self, fleet: presets.Fleet) -> tuple[float, str]:
        """Return pods created per second with Muster's webhook: near the rate of binding, the creator is what is measured."""
        return _median([len(each.waits) / each.create_s for each in self._taken(fleet).lone])

    def wait_of(self, fleet: presets.Fleet, share: float) -> tuple[float, str]:
        """Return a quantile of the seconds from a pod's creation until it was bound, with Muster."""
        return _median([each.quantile(share) for each in self._taken(fleet).lone])

    def foreign_rate(self, fleet: presets.Fleet) -> tuple[float, str]:
        """Return pods without claims bound per second, while kube-scheduler asks our extender about each."""
        return _rates(self._taken(fleet).foreign)

    def gang(self, fleet: presets.Fleet, pods: int) -> tuple[float, str]:
        """Return the seconds from a gang's last pod to its last binding."""
        return _median([each.seconds - each.create_s for each in self._taken(fleet).gangs[pods]])

    def decided(self, fleet: presets.Fleet, pods: int) -> tuple[float, str]:
        """Return the milliseconds in which the running scheduler decided about a gang."""
        return _median([1e3 * each for each in self._taken(fleet).decided_s[pods]])

    def sync(self, fleet: presets.Fleet) -> tuple[float, str]:
        """Return the seconds that Muster takes to begin."""
        return _median(self._taken(fleet).sync_s)

    def memory(self, fleet: presets.Fleet, peak: bool) -> tuple[float, str]:
        """Return Muster's resident memory at the end of a round or the most that it was, MiB."""
        taken = self._taken(fleet)
        return max(taken.peak_mib if peak else taken.end_mib), f"the most of {len(taken.end_mib)} rounds"

    def asked(self, fleet: presets.Fleet, verb: str, share: float) -> tuple[float, str]:
        """Return a quantile of the extender's milliseconds by Muster's own histogram."""
        spans = self._taken(fleet).asked
        found = product.quantile(spans, DURATION, share, verb=verb)
        count = sum(product.grown(*span, f"{DURATION}_count", verb=verb) for span in spans)
        if found is None:
            raise figure.Missing(f"{count:g} answers, the quantile is in no bucket")
        return 1e3 * found, f"{count:g} answers, wall time on this machine"

    def cpu(self, fleet: presets.Fleet, who: str, *programs: str) -> tuple[float, str]:
        """Return the processor milliseconds that some programs, or all, took for each pod of a burst."""
        return _median([each.per_pod_ms(*programs) for each in self._taken(fleet).costs[who]])

    def writes(self, fleet: presets.Fleet, who: str) -> tuple[float, str]:
        """Return the requests that changed something for each pod of a burst, whoever made them."""
        return _median([each.writes_per_pod() for each in self._taken(fleet).costs[who]])

    def as_json(self) -> dict[str, object]:
        """Return every run, for the result file."""
        runs = {name: taken for name, taken in self.seen.items() if not isinstance(taken, Exception)}
        found: dict[str, object] = {}
        for name, taken in runs.items():
            found |= {f"{name}, {kind}": [each.as_json() for each in bursts] for kind, bursts in taken.bursts()}
            found |= {
                f"{name}, {who}, for each pod": [one.as_json() for one in costs] for who, costs in taken.costs.items()
            }
        return found

    def _taken(self, fleet: presets.Fleet) -> Taken:
        made, _ = self._cluster(fleet)
        return stock.once(self.seen, f"{len(fleet)} nodes", lambda: asyncio.run(_take(made, len(fleet), self.rounds)))


async def _take(made: cluster.Cluster, nodes: int, rounds: int) -> Taken:
    """Take all rounds on one cluster."""
    taken = Taken()
    async with await client.Client.connect(made.kubeconfig) as api:
        ours = await product.Product.install(made, api)
        for number in range(rounds):
            await _stock(made, api, number, nodes, taken)
            taken.sync_s.append(await ours.on())
            await _muster(made, api, number, nodes, taken, ours)
            await ours.off()
    return taken


async def _stock(made: cluster.Cluster, api: client.Client, number: int, nodes: int, taken: Taken) -> None:
    await burst.run(api, f"stock-warm-{number}", WARM_PODS)
    spent = await cost.begin(api, made.parts, PODS[nodes])
    taken.stock.append(await burst.run(api, f"stock-{number}", PODS[nodes], settled=spent.stop))
    taken.costs.setdefault("stock", []).append(spent)


async def _muster(
    made: cluster.Cluster, api: client.Client, number: int, nodes: int, taken: Taken, ours: product.Product
) -> None:
    await burst.run(api, f"warm-{number}", WARM_PODS, managed=True)
    before = ours.metrics()
    spent = await cost.begin(api, made.parts, PODS[nodes])
    taken.lone.append(await burst.run(api, f"lone-{number}", PODS[nodes], managed=True, settled=spent.stop))
    taken.costs.setdefault("Muster", []).append(spent)
    taken.foreign.append(await burst.run(api, f"foreign-{number}", FOREIGN_PODS, gpus=0))
    taken.asked.append((before, ours.metrics()))
    for pods in [pods for pods, times in GANGS[nodes].items() if number < times]:
        before = ours.metrics()
        found = await burst.run(api, f"gang-{pods}-{number}", pods, GANG_GPUS, managed=True, gang=True)
        taken.gangs.setdefault(pods, []).append(found)
        taken.decided_s.setdefault(pods, []).append(_decided(before, ours.metrics()))
    end, peak = ours.memory()
    taken.end_mib.append(end)
    taken.peak_mib.append(peak)


def _decided(before: product.Metrics, after: product.Metrics) -> float:
    """Return the seconds of the one decision that started something."""
    started = product.grown(before, after, f"{DECISION}_count", outcome="start")
    if started != 1:
        raise figure.Missing(f"{started:g} decisions started something, not the one of the gang")
    return product.grown(before, after, f"{DECISION}_sum", outcome="start")


def _rates(bursts: Sequence[burst.Burst]) -> tuple[float, str]:
    value, spread = _median([each.rate for each in bursts])
    loads = [each.load for each in bursts]
    return value, f"{spread}, load {min(loads):g} to {max(loads):g}"


def _median(values: Sequence[float]) -> tuple[float, str]:
    return statistics.median(values), burst.spread(values)


def measurements(made: Bench, fleets: Sequence[presets.Fleet] = FLEETS) -> Iterator[tuple[str, figure.Measurement]]:
    """Yield the figures: first those of this process alone, then fleet by fleet, so that one cluster runs at a time."""
    yield "512-pod gang planned", core.gang_planned
    yield from extender.measurements()
    for fleet in fleets:
        where = f"@ {len(fleet)} nodes"
        yield f"pods bound by stock {where}", functools.partial(made.stock_rate, fleet)
        yield f"pods bound with Muster {where}", functools.partial(made.muster_rate, fleet)
        yield f"times stock {where}", functools.partial(made.ratio, fleet)
        yield f"pods created {where}", functools.partial(made.created, fleet)
        yield f"wait p50 {where}", functools.partial(made.wait_of, fleet, 0.5)
        yield f"wait p99 {where}", functools.partial(made.wait_of, fleet, 0.99)
        yield f"pods without claims bound {where}", functools.partial(made.foreign_rate, fleet)
        for who, *programs in (("stock", "kube-scheduler"), ("Muster", "kube-scheduler"), ("Muster", product.NAME)):
            yield f"CPU per pod {where}, {who}: {programs[0]}", functools.partial(made.cpu, fleet, who, *programs)
        for who in ("stock", "Muster"):
            yield f"CPU per pod {where}, {who}: all", functools.partial(made.cpu, fleet, who)
            yield f"writes per pod {where}, {who}", functools.partial(made.writes, fleet, who)
        for pods in GANGS[len(fleet)]:
            yield f"last pod of {pods} to all bound {where}", functools.partial(made.gang, fleet, pods)
            yield f"gang of {pods} decided {where}", functools.partial(made.decided, fleet, pods)
        yield f"time to sync {where}", functools.partial(made.sync, fleet)
        yield f"memory at most {where}", functools.partial(made.memory, fleet, True)
        yield f"memory at the end {where}", functools.partial(made.memory, fleet, False)
        for verb in VERBS:
            for per_cent in (50, 99):
                yield f"{verb} p{per_cent} live {where}", functools.partial(made.asked, fleet, verb, per_cent / 100)
