"""The proxy in front of kube-apiserver, with our client and with kubectl."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.apiserver import client, watch
from tests.testbed import build, fixtures
from tests.testbed import cluster as clusters
from tests.testbed.faults import proxy, rules


@pytest.fixture
def between(cluster: clusters.Cluster, tmp_path: Path) -> Iterator[proxy.Proxy]:
    with proxy.between(cluster.kubeconfig, cluster.authority, tmp_path) as running:
        yield running


def kubectl(between: proxy.Proxy, *args: str) -> subprocess.CompletedProcess[str]:
    argv = [str(build.kubectl()), "--kubeconfig", str(between.kubeconfig), *args]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_kubectl_goes_through_and_sees_the_faults(between: proxy.Proxy, space: fixtures.Space) -> None:
    assert kubectl(between, "-n", space.name, "create", "configmap", "a", "--from-literal=x=1").returncode == 0
    assert kubectl(between, "-n", space.name, "get", "configmaps", "a", "-o", "jsonpath={.data.x}").stdout == "1"
    between.add(rules.Match(verbs=("get",), resource="configmaps"), rules.Answer(403), times=1)
    refused = kubectl(between, "-n", space.name, "get", "configmaps", "a")
    assert refused.returncode == 1 and "a fault on purpose" in refused.stderr


async def test_a_follower_converges_through_cuts_stalls_and_expiry(between: proxy.Proxy, space: fixtures.Space) -> None:
    path = f"/api/v1/namespaces/{space.name}/configmaps"
    watches = rules.Match(verbs=("watch",), resource="configmaps")
    struck = [
        between.add(watches, rules.Cut(1), times=2),
        between.add(watches, rules.Stall(1), times=1),
        between.add(watches, rules.Expire(1), times=1),
    ]
    seen: dict[str, str] = {}
    wanted = {f"c{index}": str(index) for index in range(12)}
    async with await client.Client.connect(between.kubeconfig) as api:

        async def follow() -> None:
            async for event in watch.follow(api, path, stall_s=1):
                items = event.items if isinstance(event, watch.Listed) else []
                items = [event.item] if isinstance(event, watch.Changed) else items
                seen.update({one["metadata"]["name"]: (one.get("data") or {}).get("x", "") for one in items})

        listening = asyncio.create_task(follow())
        await asyncio.sleep(0.3)
        for name, value in wanted.items():
            await api.create(path, {"metadata": {"name": name}, "data": {"x": value}})
            await asyncio.sleep(0.1)
        async with asyncio.timeout(30):
            while not wanted.items() <= seen.items():
                await asyncio.sleep(0.05)
        listening.cancel()
        await asyncio.wait([listening])
    assert all(rule.applied for rule in struck)
