"""A small fleet behind the extender, and a server that listens."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from scheduler import policies
from scheduler.model import machines
from scheduler.placement import scoring
from scheduler.snapshot import state
from scheduler.web import answers, asked, server, tls, wire
from tests.placement import fleets
from tests.testbed import ports

GOLDEN = Path(__file__).parents[1] / "testbed" / "assumptions" / "golden"
RESOURCE = "muster.dev/gpu"
wanted = functools.partial(asked.from_containers, resource=RESOURCE)


def decided(count: int = 3, kind: str = "a100-pcie-pairs", policy: str = "muster") -> answers.Answers:
    """Return decisions over machines `n-0`, `n-1`, ... with nothing placed."""
    built = {f"n-{i}": machines.build(kind, f"n-{i}") for i in range(count)}
    fleet = fleets.fleet(dict.fromkeys(built, ("b", "r")), built)
    score = scoring.compile_scoring(policies.load(policy), fleet)
    return answers.Answers(state.empty(fleet), score, {}, {}, wanted)


def pod(gpus: int | str | None = None, uid: str = "u") -> wire.Pod:
    """Return a pod that asks for some GPUs through the extended resource."""
    resources = wire.Resources() if gpus is None else wire.Resources(limits={RESOURCE: gpus})
    return wire.Pod(wire.Metadata("w", "ml", uid), wire.PodSpec([wire.Container(resources)]))


def body(names: Sequence[str], gpus: int | str | None = None, uid: str = "u") -> bytes:
    """Return a request of filter or prioritize as kube-scheduler sends it."""
    containers = [{"name": "main", "resources": {} if gpus is None else {"limits": {RESOURCE: gpus}}}]
    metadata = {"name": "w", "namespace": "ml", "uid": uid}
    asked_pod = {"metadata": metadata, "spec": {"containers": containers}, "status": {}}
    return json.dumps({"Pod": asked_pod, "Nodes": None, "NodeNames": list(names)}).encode()


@contextlib.asynccontextmanager
async def listening(face: server.Face, files: tls.Tls | None = None) -> AsyncIterator[str]:
    """Serve until the end of the block; yields the base URL."""
    port = ports.one()
    served = server.listening(face, "127.0.0.1", port, files)
    task = asyncio.create_task(served.serve())
    try:
        async with asyncio.timeout(10):
            while not served.started:
                assert not task.done(), "the server ended before it listened"
                await asyncio.sleep(0.01)
        yield f"http{'s' if files else ''}://127.0.0.1:{port}"
    finally:
        served.should_exit = True
        async with asyncio.timeout(15):
            await task


def golden(name: str) -> dict[str, Any]:
    """Return a request that a real kube-scheduler sent."""
    return json.loads((GOLDEN / name).read_text())
