"""The extender's preempt verb against what runs: pods of nobody go alone, gangs whole, and some not at all."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from scheduler.apiserver import paths
from scheduler.web import wire
from tests.kube import live, test_verifier


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    async with live.cluster(tmp_path, "hgx-h100=1") as found:
        yield found


async def test_preempt_frees_what_the_victims_hold(home: live.Cluster) -> None:
    await home.start()
    await test_verifier.stranger(home, "alone", "two", "gpu-0", "gpu-1")
    await home.until(lambda: test_verifier.true(test_verifier.free(home) == 6))
    await home.create(*(live.pod(f"g-{i}", "train", 2, "two") for i in range(2)))
    await home.create(live.pod("firm", "firm", 1, "two", preemptible="false"))
    [node] = set((await home.bound("g-0", "g-1", "firm")).values())
    plain = live.pod("plain", gated=False)
    del plain["spec"]["resourceClaims"]
    await home.create(plain)
    target = {"apiVersion": "v1", "kind": "Node", "name": node}
    for name in ("alone", "plain"):
        path = paths.of("v1", "pods", "default", name, "binding")
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        await home.api.create(path, body)
    await home.create(live.pod("late", claim="two", gated=False), live.pod("wide", claim="four", gated=False))
    await home.create(live.pod("wider", claim="eight", gated=False))
    uid = {name: one["metadata"]["uid"] for name, one in (await home.pods()).items()}
    assert home.scheduler and home.scheduler.shell
    now = home.scheduler.shell
    assert test_verifier.free(home) == 0

    def helps(name: str, *victims: str) -> bool:
        deciding = home.scheduler and home.scheduler.decisions()
        assert deciding
        pod = wire.Pod(wire.Metadata(name=name, namespace="default", uid=uid[name]))
        found = deciding.preempt(pod, {node: [uid[one] for one in victims]})
        assert found in ({}, {node: [uid[one] for one in victims]})
        return bool(found)

    await home.until(lambda: test_verifier.true(f"pod/{uid['plain']}" in now.occupants.told))
    await home.until(lambda: test_verifier.true(all(uid[name] in now.known.by_uid for name in uid)))
    await home.until(lambda: test_verifier.true(len(now.followed) >= 2 and helps("late", "alone")))
    before = now.machine.snapshot.version
    assert not helps("late")
    assert not helps("late", "plain"), "it has no devices"
    assert helps("late", "plain", "alone")
    assert not helps("wide", "alone")
    assert not helps("late", "g-0"), "a part of a gang"
    assert helps("late", "g-0", "g-1") and helps("wide", "g-0", "g-1")
    assert not helps("late", "firm"), "it is not preemptible"
    assert not helps("wider", "alone", "g-0", "g-1")
    assert now.machine.snapshot.version == before
