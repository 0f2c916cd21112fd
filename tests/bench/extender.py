"""Latency of the extender's verbs at 5,000 names over one kept connection; part of `make bench-live`.

Between two pods a device of some node is taken or given back, as each placement does, so that no answer is a cached one.
`server` is from the whole body read to the answer encoded; `client` is the round trip that a kube-scheduler would see.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import math
import random
import time
from collections.abc import Iterator, Sequence

from scheduler import policies
from scheduler.placement import scoring
from scheduler.snapshot import state
from scheduler.web import answers, asked, extender, server, wire
from tests.bench import figure, fleets
from tests.testbed import ports

ROUNDS, WARM = 400, 30
RESOURCE = "muster.dev/gpu"


def half_full(score: scoring.Scoring) -> state.Snapshot:
    """Return the large fleet with some GPUs of most nodes taken, the same ones every time."""
    snapshot, dice = state.empty(score.topology), random.Random(1)
    for node in range(len(snapshot.up)):
        mask = dice.getrandbits(8) & dice.getrandbits(8)
        if mask:
            snapshot.take(state.Grant(node, mask, state.FULL))
    return snapshot


def decided() -> answers.Answers:
    score = scoring.compile_scoring(policies.load("muster"), fleets.large())
    wanted = functools.partial(asked.from_containers, resource=RESOURCE)
    return answers.Answers(half_full(score), score, {"planned": "node-0007"}, {}, wanted)


def request(gpus: int, uid: str) -> bytes:
    """Return a request with all nodes and a pod of about 6 kB."""
    env = [{"name": f"VARIABLE_{i}", "value": "x" * 40} for i in range(60)]
    container = {"name": "main", "env": env, "resources": {"limits": {RESOURCE: str(gpus)} if gpus else {}}}
    pod = {"metadata": {"name": "w", "namespace": "ml", "uid": uid}, "spec": {"containers": [container]}, "status": {}}
    names = [machine.name for machine in fleets.large().nodes]
    return json.dumps({"Pod": pod, "Nodes": None, "NodeNames": names}).encode()


def percentile(took: Sequence[float], per_cent: int) -> float:
    """Return a percentile in milliseconds, nearest rank."""
    return 1e3 * sorted(took)[math.ceil(len(took) * per_cent / 100) - 1]


async def post(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, verb: str, body: bytes) -> bytes:
    head = (
        f"POST /{verb} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    told = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in told.split(b"\r\n", 1)[0], told
    length = next(int(line[15:]) for line in told.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return await reader.readexactly(length)


def alone(deciding: answers.Answers, verb: str, body: bytes) -> None:
    """Do what the server does between the whole body and the encoded answer."""
    if verb == "filter":
        wire.encode(extender.filtered(deciding, wire.read_args(body)))
    else:
        wire.encode(extender.prioritized(deciding, wire.read_args(body), 13))


async def measure(deciding: answers.Answers, port: int, verb: str, body: bytes) -> tuple[list[float], list[float]]:
    """Return the times in the server and of round trips."""
    inside, outside = [], []
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    for turn in range(ROUNDS + WARM):
        change(deciding.snapshot, turn)
        begin = time.perf_counter()
        alone(deciding, verb, body)
        inside.append(time.perf_counter() - begin)
        change(deciding.snapshot, turn)
        begin = time.perf_counter()
        await post(reader, writer, verb, body)
        outside.append(time.perf_counter() - begin)
    writer.close()
    return inside[WARM:], outside[WARM:]


def change(snapshot: state.Snapshot, turn: int) -> None:
    """Take and give back a whole free GPU of one node, so that its version moves."""
    node = turn * 7 % len(snapshot.up)
    free = int(snapshot.free_mask[node])
    if free:
        grant = state.Grant(node, free & -free, state.FULL)
        snapshot.take(grant)
        snapshot.release(grant)


CASES = {"no GPUs": (0, "u"), "1 GPU": (1, "u"), "8 GPUs": (8, "u"), "a plan": (1, "planned")}
VERBS = ("filter", "prioritize")

Times = dict[tuple[str, str], tuple[list[float], list[float]]]


@functools.cache
def taken() -> Times:
    """Return the times in the server and of round trips, by verb and case."""
    return asyncio.run(_taken())


async def _taken() -> Times:
    deciding, port = decided(), ports.one()
    served = server.listening(server.Face(lambda: deciding), "127.0.0.1", port)
    task = asyncio.create_task(served.serve())
    while not served.started:
        await asyncio.sleep(0.01)
    gc.freeze()
    bodies = {name: request(*case) for name, case in CASES.items()}
    found = {(verb, name): await measure(deciding, port, verb, bodies[name]) for name in CASES for verb in VERBS}
    served.should_exit = True
    await task
    gc.unfreeze()
    return found


def latency(verb: str, name: str, per_cent: int) -> tuple[float, str]:
    """Return a percentile of the milliseconds in the server."""
    inside, outside = taken()[verb, name]
    return percentile(inside, per_cent), f"round trip {percentile(outside, per_cent):.2f} ms"


def measurements() -> Iterator[tuple[str, figure.Measurement]]:
    """Yield the figures, verb by verb."""
    for verb in VERBS:
        for name in CASES:
            for per_cent in (50, 99):
                yield f"{verb} p{per_cent} @ 5000 names, {name}", functools.partial(latency, verb, name, per_cent)
