"""Mirrors of an API server's objects, over the embedded one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.apiserver import client, paths
from scheduler.kube import mirror
from tests.testbed import embedded


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[client.Client]:
    async with (
        embedded.Server("1.37") as server,
        await client.Client.connect(server.kubeconfig(tmp_path / "kubeconfig")) as found,
    ):
        yield found


@contextlib.asynccontextmanager
async def mirrored(api: client.Client, *kinds: mirror.Kind) -> AsyncIterator[tuple[mirror.Mirror, list[mirror.Change]]]:
    told: list[mirror.Change] = []
    one = mirror.Mirror(api, kinds, told.append, absent_s=0.1)
    task = asyncio.create_task(one.run())
    try:
        yield one, told
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(ask: Any) -> None:
    async with asyncio.timeout(10):
        while not ask():
            await asyncio.sleep(0.01)


def nodes(read: Any = mirror.raw) -> mirror.Kind:
    return mirror.Kind("nodes", (paths.of("v1", "nodes"),), read, required=True)


def node(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


async def test_a_list_and_every_change_after_it(api: client.Client) -> None:
    await api.create(paths.of("v1", "nodes"), node("a"))
    async with mirrored(api, nodes()) as (one, told):
        await one.wait_synced(10)
        await api.create(paths.of("v1", "nodes"), node("b"))
        await api.patch(paths.of("v1", "nodes", name="a"), {"metadata": {"labels": {"x": "y"}}})
        await api.delete(paths.of("v1", "nodes", name="b"))
        await until(lambda: len(told) == 4)
        assert [(c.key[1], c.before is None, c.after is None) for c in told] == [
            ("a", True, False),
            ("b", True, False),
            ("a", False, False),
            ("b", False, True),
        ]
        assert one["nodes"]["", "a"]["metadata"]["labels"] == {"x": "y"} and ("", "b") not in one["nodes"]


async def test_a_change_of_what_nobody_reads_is_not_told(api: client.Client) -> None:
    await api.create(paths.of("v1", "nodes"), node("a"))
    async with mirrored(api, nodes(lambda item: item["metadata"]["name"])) as (one, told):
        await one.wait_synced(10)
        await api.patch(paths.of("v1", "nodes", name="a"), {"metadata": {"labels": {"x": "y"}}})
        await api.create(paths.of("v1", "nodes"), node("b"))
        await until(lambda: len(told) == 2)
        assert [c.key[1] for c in told] == ["a", "b"]


async def test_an_object_that_cannot_be_read_is_left_out_and_told(api: client.Client) -> None:
    def read(item: dict[str, Any]) -> str:
        return str(int(item["metadata"]["labels"]["size"]))

    await api.create(paths.of("v1", "nodes"), node("a", size="1"))
    await api.create(paths.of("v1", "nodes"), node("b", size="many"))
    async with mirrored(api, nodes(read)) as (one, told):
        await one.wait_synced(10)
        assert set(one["nodes"]) == {("", "a")}
        assert "many" in one.unreadable["nodes", ("", "b")]
        await api.patch(paths.of("v1", "nodes", name="b"), {"metadata": {"labels": {"size": "2"}}})
        await until(lambda: ("", "b") in one["nodes"])
        assert not one.unreadable
        await api.patch(paths.of("v1", "nodes", name="a"), {"metadata": {"labels": {"size": "?"}}})
        await until(lambda: told[-1].after is None)
        assert told[-1].key == ("", "a")


def definition(version: str) -> dict[str, Any]:
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.test.dev"},
        "spec": {
            "group": "test.dev",
            "scope": "Cluster",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        },
    }


async def test_a_kind_that_is_installed_later_is_picked_up_in_the_version_that_is_served(api: client.Client) -> None:
    kind = mirror.Kind("things", tuple(paths.of(f"test.dev/{v}", "things") for v in ("v2", "v1")), mirror.raw)
    async with mirrored(api, kind) as (one, told):
        await one.wait_synced(10)
        assert one.served == {}
        await api.create(paths.of("apiextensions.k8s.io/v1", "customresourcedefinitions"), definition("v1"))
        await until(lambda: "things" in one.served)
        thing = {"apiVersion": "test.dev/v1", "kind": "Thing", "metadata": {"name": "t"}}
        await api.create(paths.of("test.dev/v1", "things"), thing)
        await until(lambda: told)
        assert told[0].key == ("", "t")


async def test_a_kind_whose_version_changes_is_followed_in_the_new_one_and_dropped_when_none_is_left(
    api: client.Client,
) -> None:
    definitions = paths.of("apiextensions.k8s.io/v1", "customresourcedefinitions")
    kind = mirror.Kind("things", tuple(paths.of(f"test.dev/{v}", "things") for v in ("v2", "v1")), mirror.raw)
    await api.create(definitions, definition("v1"))
    await api.create(
        paths.of("test.dev/v1", "things"), {"apiVersion": "test.dev/v1", "kind": "Thing", "metadata": {"name": "t"}}
    )
    async with mirrored(api, kind) as (one, told):
        await one.wait_synced(10)
        assert one.served == {"things": "/apis/test.dev/v1/things"} and len(told) == 1
        both = definition("v1")
        both["metadata"]["resourceVersion"] = (await api.get(f"{definitions}/things.test.dev"))["metadata"][
            "resourceVersion"
        ]
        both["spec"]["versions"][0] |= {"served": False, "storage": False}
        both["spec"]["versions"].insert(0, definition("v2")["spec"]["versions"][0])
        await api.replace(f"{definitions}/things.test.dev", both)
        await until(lambda: one.served == {"things": "/apis/test.dev/v2/things"})
        await until(lambda: ("", "t") in one["things"])
        assert all(change.after is not None for change in told), "nothing was gone meanwhile"
        await api.delete(f"{definitions}/things.test.dev")
        await until(lambda: not one["things"])
        assert one.served == {} and told[-1].after is None


async def test_a_required_kind_that_is_missing_keeps_it_unsynced_and_says_so(api: client.Client) -> None:
    kind = mirror.Kind("ghosts", (paths.of("test.dev/v1", "ghosts"),), mirror.raw, required=True)
    async with mirrored(api, kind) as (one, _):
        with pytest.raises(TimeoutError, match=r"ghosts: the server has no /apis/test.dev/v1/ghosts"):
            await one.wait_synced(0.5)
