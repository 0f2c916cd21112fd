"""What measuring costs: the same work with and without, in turns of one run."""

import statistics
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import in_memory_span_exporter

from scheduler.gang import effects, events
from scheduler.kube import mirror, observer
from scheduler.kube import shell as shells
from scheduler.tracing import exporter
from scheduler.web import extender, server, wire
from tests.kube import live
from tests.web import given

pytestmark = pytest.mark.slow

ROUNDS = 36
GANGS, PODS = 4, 4


@pytest.fixture
async def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[live.Cluster]:
    kept = in_memory_span_exporter.InMemorySpanExporter()
    monkeypatch.setattr(exporter.trace_exporter, "OTLPSpanExporter", lambda endpoint: kept)
    async with live.cluster(tmp_path, "hgx-h100=16") as found:
        yield found


async def round_of(home: live.Cluster, number: int) -> float:
    """Start some gangs and end them; return how long that took until all were bound."""
    names = [f"r{number}-g{g}-{p}" for g in range(GANGS) for p in range(PODS)]
    began = time.perf_counter()
    for g in range(GANGS):
        await home.create(*(live.pod(f"r{number}-g{g}-{p}", f"r{number}-g{g}", PODS) for p in range(PODS)))
    await home.bound(*names)
    took = time.perf_counter() - began
    for name in names:
        await home.api.delete(f"/api/v1/namespaces/default/pods/{name}")
    assert home.scheduler is not None and home.scheduler.shell is not None
    shell = home.scheduler.shell

    async def gone() -> bool:
        return not shell.followed

    await home.until(gone)
    return took


async def test_turns_with_metrics_and_traces(home: live.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    spent: list[float] = []
    turn = shells.Shell.turn

    def timed(self: shells.Shell) -> None:
        began = time.perf_counter()
        turn(self)
        spent.append(time.perf_counter() - began)

    monkeypatch.setattr(shells.Shell, "turn", timed)
    await home.start(otlp_endpoint="http://127.0.0.1:1")
    assert home.scheduler is not None and home.scheduler.shell is not None and home.scheduler.tracing is not None
    told: observer.Observer = home.scheduler.shell.carrier.observer
    ears, trace = told.ears, told.trace
    work, spans = home.scheduler.meters.work, home.scheduler.tracing.spans
    assert {work, spans} <= set(ears)
    ways = {"nothing": (), "metrics": (work,), "metrics and traces": (work, spans)}
    turns: dict[str, list[float]] = {way: [] for way in ways}
    whole: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(ROUNDS):
        order = list(ways) if number // 3 % 2 else list(ways)[::-1]
        way = order[number % 3]
        told.ears, told.trace = ways[way], trace if spans in ways[way] else lambda _: ""
        spent.clear()
        whole[way].append(await round_of(home, number))
        turns[way].append(sum(spent))
    middle = {way: statistics.median(found) for way, found in turns.items()}
    for way, seconds in middle.items():
        more = (seconds - middle["nothing"]) / GANGS
        print(
            f"\n{way}: turns of a round of {GANGS} gangs {seconds * 1e3:.2f} ms, {more * 1e6:+.0f} us for each gang; "
            f"all bound after {statistics.median(whole[way]) * 1e3:.0f} ms",
            end="",
        )
    assert middle["metrics and traces"] - middle["nothing"] < 0.005 * GANGS  # such turns differ by more than ears cost


async def test_what_the_ears_of_one_gang_take(home: live.Cluster) -> None:
    await home.start(otlp_endpoint="http://127.0.0.1:1")
    await home.create(*(live.pod(f"w-{i}", "g", 8) for i in range(8)))
    await home.bound(*(f"w-{i}" for i in range(8)))
    assert home.scheduler is not None and home.scheduler.shell is not None and home.scheduler.tracing is not None
    shell = home.scheduler.shell
    gang = shell.followed["default/gang-g"]
    held = shell.machine.held[gang.key]
    start = effects.Start(held.gang, held.placement, 1, "test")
    changes = [
        mirror.Change("pods", ("default", member.pod.name), None, member.pod) for member in gang.workload.members
    ]

    def lived(ears: tuple[observer.Ear, ...], trace: Callable[..., str]) -> None:
        told = observer.Observer(ears, trace)
        told.met(gang)
        told.completed(gang)
        told.decided(events.GangSubmitted(held.gang), [start], 0.001)
        told.writing(gang, gang.plan)
        with told.stage(gang.key, "write"):
            for name in ("free", "record", "claims", "release", "status"):
                with told.stage(gang.key, name):
                    pass
        for change in changes:
            told.changed(change)
        told.turned(0.001)
        told.written(gang)
        told.ended(gang.key)

    work, spans = home.scheduler.meters.work, home.scheduler.tracing.spans
    trace = shell.carrier.observer.trace
    counted, nothing = paired(lambda: lived((work,), lambda _: ""), lambda: lived((), lambda _: ""))
    traced, _ = paired(lambda: lived((work, spans), trace), lambda: lived((), lambda _: ""))
    print(f"\none gang: heard by nobody {nothing * 1e6:.0f} us, metrics {(counted - nothing) * 1e6:+.0f} us, ", end="")
    print(f"metrics and traces {(traced - nothing) * 1e6:+.0f} us")
    assert counted - nothing < 0.001 and traced - nothing < 0.005


def test_an_extender_call_with_metrics() -> None:
    deciding = given.decided(500)
    body = given.body([f"n-{i}" for i in range(500)], 1)
    face = server.Face(lambda: deciding)

    def counted() -> None:
        began = time.perf_counter()
        face._filter(deciding, body)
        face.metrics.seconds.labels("filter").observe(time.perf_counter() - began)
        face.metrics.answers.labels("filter", "200").inc()

    def bare() -> None:
        extender.filtered(deciding, wire.read_args(body)).encoded()

    with_, without = paired(counted, bare)
    print(f"\nfilter of 500 names: {without * 1e6:.0f} us, counted {with_ * 1e6:.0f} us")
    assert with_ - without < 0.0002


def paired(one: Callable[[], None], other: Callable[[], None], rounds: int = 400) -> tuple[float, float]:
    """Return the medians of two ways, called in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for call in (one, other):
        call()
    for number in range(rounds):
        for i in (0, 1) if number % 2 else (1, 0):
            began = time.perf_counter()
            (one, other)[i]()
            times[i].append(time.perf_counter() - began)
    return statistics.median(times[0]), statistics.median(times[1])
