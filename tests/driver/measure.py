"""How long prepares and unprepares take through a real socket: ``python -m tests.driver.measure``."""

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import structlog

from dra_driver import checkpoint, instance, sockets
from tests.driver import host, kubelet, objects

ROUNDS = 100


def figures(name: str, seconds: Sequence[float]) -> str:
    ranked = sorted(seconds)
    p50, p99 = ranked[len(ranked) // 2], ranked[min(len(ranked) - 1, int(len(ranked) * 0.99))]
    return f"{name}: p50 {p50 * 1000:.2f} ms, p99 {p99 * 1000:.2f} ms, n {len(ranked)}"


async def timed(calls: kubelet.Kubelet, claims: Sequence[object], rounds: int) -> tuple[list[float], list[float]]:
    prepares, unprepares = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        answers = await calls.prepare(*claims)
        prepares.append(time.perf_counter() - began)
        assert not any(a.error for a in answers.values()), answers
        began = time.perf_counter()
        assert set((await calls.unprepare(*claims)).values()) == {""}
        unprepares.append(time.perf_counter() - began)
    return prepares, unprepares


def fsyncs(folder: Path, rounds: int = 100) -> list[float]:
    """Return how long a durable replacement of a small file takes: the floor of a prepare."""
    found = []
    for i in range(rounds):
        began = time.perf_counter()
        checkpoint.replace_file(folder / "floor", b"x" * 1500, "checkpoint")
        found.append(time.perf_counter() - began)
    return found


async def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory(prefix="muster-") as folder:
        root = Path(folder) / "n"
        topology = host.machine(mig_gpus=(4, 5, 6, 7))
        host.lay_out(root, replace(topology))
        claims = host.Claims()
        parts = host.parts(root, topology, claims)
        plain = host.machine()
        own = sockets.of_instance(host.DRIVER, root / "r", root / host.PLUGINS)
        began = time.perf_counter()
        running = instance.Instance(parts, own, "boot")
        await running.start()
        async with kubelet.Kubelet(root / "r") as calls:
            await calls.scan()
            print(f"start to registered: {(time.perf_counter() - began) * 1000:.1f} ms")
            resident = psutil.Process(os.getpid()).memory_info().rss / 2**20
            print(f"resident memory idle, kubelet of the test included: {resident:.1f} MiB")
            print(figures("one durable file", fsyncs(root / host.PLUGINS)))
            parts.machine.topology = plain
            for count in (1, 8):
                wanted = claims.add(objects.claim(count, *(f"gpu-{i}" for i in range(count))))
                prepares, unprepares = await timed(calls, [wanted], ROUNDS)
                print(figures(f"prepare {count} GPU", prepares), "|", figures("unprepare", unprepares))
            shares = [
                claims.add(objects.claim(100 + i, objects.share(f"gpu-{i % 8}", f"s{i}", 250))) for i in range(32)
            ]
            prepares, unprepares = await timed(calls, shares, 20)
            print(figures("prepare 32 claims in one call", prepares), "|", figures("unprepare", unprepares))
            writes = parts.store.writes
            began = time.perf_counter()
            await asyncio.gather(*(calls.prepare(share) for share in shares))
            took = (time.perf_counter() - began) * 1000
            print(
                f"prepare 32 claims in 32 calls at once: {took:.1f} ms, {parts.store.writes - writes} checkpoint writes"
            )
            await calls.unprepare(*shares)
            parts.machine.topology = topology
            mig = claims.add(objects.claim(200, "gpu-7-mig-1g10gb-19-6"))
            prepares, unprepares = await timed(calls, [mig], 50)
            print(figures("prepare a MIG device, hardware excluded", prepares), "|", figures("unprepare", unprepares))
        await running.stop()


if __name__ == "__main__":
    asyncio.run(main())
