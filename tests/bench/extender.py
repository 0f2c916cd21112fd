"""How long the extender takes, in the server and with a round trip: the verbs at 500 and 5,000 names.

A whole scheduler decides (`still`), over a fleet of which most nodes are in use and some node changes before every
request. Each request is about another pod, which has not been asked about before, as kube-scheduler asks: filter, then
prioritize. To preempt it offers a tenth of the nodes at most, so what is measured there is far more than it asks.
Processor time is taken beside wall time: where other programs use the machine, the latter has their time in it.
"""

import asyncio
import functools
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from scheduler import app
from scheduler.snapshot import state
from scheduler.web import server
from tests.bench import figure, still
from tests.testbed import ports
from tests.testbed.fleet import presets

FLEETS = {500: presets.fleet_500, 5000: presets.fleet_5000}
ROUNDS = {"filter": 400, "prioritize": 400, "preempt": 100}
WARM, TRIPS = 30, 25
CASES = {"no claim": 0, "1 GPU": 1, "8 GPUs": 8, "a plan": 1}
PLAN = "a plan"


@dataclass(slots=True)
class Times:
    """Seconds of one verb and kind of pod: in the server, of the processor there, and of round trips."""

    inside: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    trips: list[float] = field(default_factory=list)

    def told(self, per_cent: int) -> tuple[float, str]:
        """Return a percentile of the milliseconds in the server, with the others in a note."""
        processor, trip = percentile(self.processor, per_cent), percentile(self.trips, per_cent)
        return percentile(self.inside, per_cent), f"processor {processor:.2f} ms, round trip {trip:.2f} ms"


Taken = dict[tuple[str, str], Times]


def percentile(took: Sequence[float], per_cent: int) -> float:
    """Return a percentile in milliseconds, nearest rank."""
    return 1e3 * sorted(took)[math.ceil(len(took) * per_cent / 100) - 1]


def in_use(fleet: presets.Fleet) -> still.Cluster:
    """Return a fleet with pods on most nodes, the same ones every time; one node in nine is full."""
    made, dice = still.Cluster(fleet), random.Random(1)
    for node, free in list(made.free.items()):
        gpus = dice.randint(0, len(free))
        if gpus:
            made.run(node, gpus)
    return made


def pods(made: still.Cluster) -> dict[str, list[still.Item]]:
    """Add pods that wait, as many of each kind as are asked about; what is planned is spread over the fleet."""
    free = [(place, node) for node, gpus in made.free.items() for place in range(len(gpus))]
    places = iter([node for _, node in sorted(free)])
    found: dict[str, list[still.Item]] = {}
    for name, gpus in CASES.items():
        called = name.lower().replace(" ", "-")
        wheres = (next(places) if name == PLAN else "" for _ in range(WARM + max(ROUNDS.values()) + TRIPS))
        found[name] = [made.pod(f"{called}-{i}", gpus, where) for i, where in enumerate(wheres)]
    return found


def bodies(made: still.Cluster, pod: still.Item) -> dict[str, bytes]:
    """Return the requests about a pod by verb, compact as Go writes them; preempt names each node's one pod as a victim."""
    listed = {"Pod": pod, "Nodes": None, "NodeNames": made.names()}
    victims = {
        name: {"Pods": [{"UID": made.running[name]}] if name in made.running else [], "NumPDBViolations": 0}
        for name in made.names()
    }
    asked: dict[str, Any] = {"filter": listed, "prioritize": listed}
    asked["preempt"] = {"Pod": pod, "NodeNameToVictims": None, "NodeNameToMetaVictims": victims}
    return {verb: json.dumps(body, separators=(",", ":")).encode() for verb, body in asked.items()}


class Requests:
    """The requests of a cluster: one text for all pods, in which each pod takes the place of another."""

    def __init__(self, made: still.Cluster) -> None:
        mark = {"metadata": {"name": "mark-of-the-pod"}}
        self.mark = json.dumps(mark, separators=(",", ":")).encode()
        self.texts = bodies(made, mark)

    def of(self, verb: str, pod: still.Item) -> bytes:
        return self.texts[verb].replace(self.mark, json.dumps(pod, separators=(",", ":")).encode())


def inside(face: server.Face, verb: str, body: bytes, times: Times) -> None:
    """Do what the server does between the whole body and the encoded answer."""
    begin, used = time.perf_counter(), time.thread_time()
    deciding = face.decisions()
    assert deciding is not None
    face.answer(verb, deciding, body)
    times.processor.append(time.thread_time() - used)
    times.inside.append(time.perf_counter() - begin)


async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, verb: str, body: bytes) -> bytes:
    head = (
        f"POST /{verb} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    told = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in told.split(b"\r\n", 1)[0], told
    length = next(int(line[15:]) for line in told.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return await reader.readexactly(length)


def change(snapshot: state.Snapshot, turn: int) -> None:
    """Take and give back a whole free GPU of one node, so that its version moves."""
    node = turn * 7 % len(snapshot.up)
    free = int(snapshot.free_mask[node])
    if free:
        grant = state.Grant(node, free & -free, state.FULL)
        snapshot.take(grant)
        snapshot.release(grant)


@functools.cache
def taken(count: int) -> Taken:
    """Return the times at so many names, by verb and kind of pod."""
    return asyncio.run(_taken(FLEETS[count]))


async def _taken(fleet: presets.Fleet) -> Taken:
    made, port = in_use(fleet), ports.one()
    waiting, found = pods(made), {}
    requests = Requests(made)
    async with still.scheduler(made, port) as one:
        face = server.Face(one.decisions, one.config.extender_weight)
        for name, some in waiting.items():
            times = {verb: Times() for verb in server.VERBS}
            for verbs in (("filter", "prioritize"), ("preempt",)):
                for turn, pod in enumerate(some[: WARM + ROUNDS[verbs[0]]]):
                    for verb in verbs:
                        change(_snapshot(one), turn)
                        inside(face, verb, requests.of(verb, pod), times[verb] if turn >= WARM else Times())
                    await asyncio.sleep(0)
            await _trips(port, requests, some[-TRIPS:], times)
            found |= {(verb, name): each for verb, each in times.items()}
    return found


def _snapshot(one: app.Scheduler) -> state.Snapshot:
    assert one.shell is not None
    return one.shell.machine.snapshot


async def _trips(port: int, requests: "Requests", some: Sequence[still.Item], times: dict[str, Times]) -> None:
    """Ask the server itself, over one connection that stays open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    for pod in some:
        for verb in server.VERBS:
            body = requests.of(verb, pod)
            begin = time.perf_counter()
            await post(reader, writer, verb, body)
            times[verb].trips.append(time.perf_counter() - begin)
    writer.close()


def latency(count: int, verb: str, name: str, per_cent: int) -> tuple[float, str]:
    """Return a percentile of the milliseconds in the server."""
    return taken(count)[verb, name].told(per_cent)


def measurements() -> Iterator[tuple[str, figure.Measurement]]:
    """Yield the figures, fleet by fleet and verb by verb."""
    for count in FLEETS:
        for verb in server.VERBS:
            for name in CASES:
                for per_cent in (50, 99):
                    yield (
                        f"{verb} p{per_cent} @ {count} names, {name}",
                        functools.partial(latency, count, verb, name, per_cent),
                    )
