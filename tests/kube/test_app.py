"""Replicas: one leads, the others answer read-only, and take over from what is in the API alone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler import app, config
from scheduler.apiserver import paths
from scheduler.kube import names, shell
from scheduler.web import wire
from tests.kube import live


@pytest.fixture
async def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[live.Cluster]:
    monkeypatch.setattr(app, "LEASE", {"lease_s": 5, "renew_s": 3.0, "retry_s": 0.05})
    async with live.cluster(tmp_path) as found:
        await found.api.create("/api/v1/namespaces", {"metadata": {"name": "muster-system"}})
        yield found


@contextlib.asynccontextmanager
async def replica(home: live.Cluster, name: str) -> AsyncIterator[app.Scheduler]:
    one = app.Scheduler(config.Config(port=0, host="127.0.0.1"), home.api, name)
    task = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def true(ask: Any) -> bool:
    return bool(ask())


async def machines(home: live.Cluster) -> list[str]:
    """Return the names of all nodes."""
    return sorted(node["metadata"]["name"] for node in (await home.api.list("/api/v1/nodes"))[0])


async def feasible(
    home: live.Cluster, one: app.Scheduler, name: str, spec: wire.PodSpec | None = None
) -> list[str] | None:
    """Return where a replica lets a pod go, None between two terms; raises `BadRequest` for what it can't read of the pod."""
    deciding, found = one.decisions(), (await home.pods())[name]
    if deciding is None:
        return None
    pod = wire.Pod(wire.Metadata(name=name, namespace="default", uid=found["metadata"]["uid"]), spec)
    return list(deciding.filter(pod, await machines(home)).feasible)


async def test_nobody_is_answered_from_what_a_standby_knew_while_it_begins_to_lead(
    home: live.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lets pods go then that it has no plan of yet."""
    reached, held, recover = asyncio.Event(), asyncio.Event(), app.recover.recover

    async def slow(writer: Any) -> int:
        reached.set()
        async with asyncio.timeout(20):
            await held.wait()
        return await recover(writer)

    async with contextlib.AsyncExitStack() as second:
        async with replica(home, "one") as one:
            await home.until(lambda: true(lambda: one.leading))
            two = await second.enter_async_context(replica(home, "two"))
            await home.until(lambda: true(lambda: two.decisions() is not None))
            monkeypatch.setattr(app.recover, "recover", slow)
        async with asyncio.timeout(20):
            await reached.wait()
        assert two.decisions() is None and two.present() is None
        held.set()
        await home.until(lambda: true(lambda: two.leading and two.decisions() is not None))


async def test_the_second_takes_over_and_leaves_what_runs_alone(home: live.Cluster) -> None:
    async with contextlib.AsyncExitStack() as second:
        async with replica(home, "one") as one:
            await home.until(lambda: true(lambda: one.leading))
            two = await second.enter_async_context(replica(home, "two"))
            await home.until(lambda: true(lambda: two.shell is not None))
            await home.create(*(live.pod(f"a-{i}", "first", 2) for i in range(2)))
            await home.bound("a-0", "a-1")
            assert not two.leading
        before = await home.claims()
        await home.until(lambda: true(lambda: two.leading))
        await home.create(*(live.pod(f"b-{i}", "second", 2) for i in range(2)))
        await home.bound("b-0", "b-1")
        assert before.items() <= (await home.claims()).items()


async def test_a_replica_that_stands_by_answers_by_what_is_taken(home: live.Cluster) -> None:
    async with replica(home, "one") as one, replica(home, "two") as two:
        await home.until(lambda: true(lambda: one.leading and two.shell is not None))
        standby = two if one.leading else one
        await home.create(*(live.pod(f"a-{i}", "first", 3) for i in range(3)))
        nodes = await home.bound("a-0", "a-1", "a-2")
        await home.create(live.pod("late", gated=False))
        left = [name for name in await machines(home) if name not in nodes.values()]

        async def answers() -> bool:
            return await feasible(home, standby, "late") == left

        await home.until(answers)


async def test_a_standby_that_is_behind_refuses_no_pod_that_a_leader_has_let_go(home: live.Cluster) -> None:
    """To it the pod has its gate yet, and others have all devices; kube-scheduler asks about no pod that has a gate."""
    async with replica(home, "one") as one, replica(home, "two") as two:
        await home.until(lambda: true(lambda: one.leading and two.shell is not None))
        standby = two if one.leading else one
        every = await machines(home)
        await home.create(*(live.pod(f"a-{i}", "first", len(every)) for i in range(len(every))))
        await home.bound(*(f"a-{i}" for i in range(len(every))))
        await home.create(live.pod("gated", "second", 2), live.pod("free", gated=False))

        async def answers() -> bool:
            told = {name: await feasible(home, standby, name, wire.PodSpec()) for name in ("gated", "free")}
            return told == {"gated": every, "free": []}

        await home.until(answers)


async def test_what_a_pod_asks_for_is_looked_up_again_when_its_class_changes(home: live.Cluster) -> None:
    async with replica(home, "one") as one:
        await home.until(lambda: true(lambda: one.leading))
        await home.create(live.pod("free", gated=False))

        async def everywhere() -> bool:
            return await feasible(home, one, "free") == await machines(home)

        await home.until(everywhere)
        name = "gpu.muster.dev"
        path = paths.of(paths.RESOURCE, "deviceclasses", name=name)
        item = await home.api.get(path)
        item["spec"]["selectors"] = [
            {"cel": {"expression": f'device.driver == "{name}" && device.attributes["{name}"].type == "none"'}}
        ]
        await home.api.replace(path, item)

        async def barred() -> bool:
            try:
                return await feasible(home, one, "free") == []
            except wire.BadRequest:
                return True

        await home.until(barred)


async def test_a_replica_that_can_not_follow_the_cluster_any_more_ends(
    home: live.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replica(home, "one") as one:
        await home.until(lambda: true(lambda: one.leading))
        two = app.Scheduler(config.Config(port=0, host="127.0.0.1"), home.api, "two")
        standing = asyncio.create_task(two.run())
        await home.until(lambda: true(lambda: two.shell is not None))
        assert two.shell is not None

        def broken() -> None:
            raise RuntimeError("a defect")

        monkeypatch.setattr(shell.Shell, "turn", lambda self: broken() if not self.leads else None)
        two.shell.known.wake.set()
        async with asyncio.timeout(live.WAIT_S):
            with pytest.raises(ExceptionGroup):
                await standing


async def test_a_fabric_file_says_where_the_machines_stand(home: live.Cluster, tmp_path: Path) -> None:
    names = sorted(one["metadata"]["name"] for one in (await home.api.list("/api/v1/nodes"))[0])
    file = tmp_path / "fabric.yaml"
    rows = "".join(f"  {name}: [row-{i % 2}]\n" for i, name in enumerate(names))
    file.write_text(f"apiVersion: muster.dev/v1alpha1\nkind: FabricPaths\nlevels: [row]\nnodes:\n{rows}")
    await home.start(fabric=str(file))
    await home.create(*(live.pod(f"a-{i}", "first", 2, required_level="row") for i in range(2)))
    nodes = await home.bound("a-0", "a-1")
    assert len({names.index(node) % 2 for node in nodes.values()}) == 1
    placed = await home.placement("gang-first")
    assert placed is not None and placed["spec"]["plan"]["level"] == "row"


async def state(home: live.Cluster) -> list[str]:
    """Return the version of every object that a scheduler could write."""
    kinds = (
        paths.of("v1", "pods"),
        paths.of(paths.RESOURCE, "resourceclaims"),
        paths.of(names.API_VERSION, names.PLURAL),
    )
    found = [one for kind in kinds for one in (await home.api.list(kind))[0]]
    return sorted(f"{one['metadata']['uid']} {one['metadata']['resourceVersion']}" for one in found)


async def test_a_replica_that_stands_by_answers_every_verb_as_the_leader_does_and_writes_nothing(
    home: live.Cluster,
) -> None:
    async with replica(home, "one") as one, replica(home, "two") as two:
        await home.until(lambda: true(lambda: one.shell and two.shell and (one.leading or two.leading)))
        leader, standby = (one, two) if one.leading else (two, one)
        await home.create(*(live.pod(f"a-{i}", "first", 2, "four") for i in range(2)))
        await home.create(live.pod("firm", "firm", 1, "eight", preemptible="false"))
        where = await home.bound("a-0", "a-1", "firm")
        await home.create(live.pod("late", "never", 2, "eight", gated=False))
        nodes = sorted(each["metadata"]["name"] for each in (await home.api.list("/api/v1/nodes"))[0])
        uid = {name: each["metadata"]["uid"] for name, each in (await home.pods()).items()}

        def asked(which: app.Scheduler) -> dict[str, Any]:
            deciding = which.decisions()
            assert deciding
            pods = {name: wire.Pod(wire.Metadata(name, "default", uid[name])) for name in uid}
            late = pods["late"]
            tried = {node: [uid[name] for name in where if where[name] == node] for node in nodes}
            part = {where["a-0"]: [uid["a-0"]]}
            return {
                "planned": list(deciding.filter(pods["a-0"], nodes).feasible),
                "ranks": [deciding.ranks(pod, nodes).places.tolist() for pod in (pods["a-1"], late)],
                "late": list(deciding.filter(late, nodes).feasible),
                "victims": deciding.preempt(late, tried),
                "part": deciding.preempt(late, part),
                "own": deciding.preempt(pods["a-0"], tried),
            }

        await home.until(lambda: true(lambda: asked(leader) == asked(standby)))

        async def quiet() -> bool:
            then = await state(home)
            await asyncio.sleep(0.3)
            return then == await state(home)

        await home.until(quiet)
        before, found = await state(home), asked(standby)
        assert found["planned"] == [where["a-0"]] and found["own"] == {where["a-0"]: ()}
        assert set(found["late"]) == set(nodes) - set(where.values()) and found["part"] == {}
        whole = {where["a-0"]} if where["a-0"] == where["a-1"] else set()
        assert set(found["victims"]) == whole | set(found["late"])
        assert asked(standby) == found and await state(home) == before and not standby.leading
