"""Leader election over the embedded API server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from scheduler.apiserver import client
from scheduler.kube import lease
from tests.testbed import embedded


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[client.Client]:
    async with (
        embedded.Server("1.37") as server,
        await client.Client.connect(server.kubeconfig(tmp_path / "kubeconfig")) as found,
    ):
        yield found


def candidate(api: client.Client, name: str, **fields: float) -> lease.Lease:
    return lease.Lease(api, "default", "muster", name, lease_s=1, renew_s=0.6, retry_s=0.05, **fields)  # type: ignore[arg-type]


async def test_one_leads_and_the_next_takes_over_when_it_is_given_back(api: client.Client) -> None:
    one, two = candidate(api, "one"), candidate(api, "two")
    assert await one.acquire() == 1
    waiting = asyncio.create_task(two.acquire())
    keeping = asyncio.create_task(one.keep())
    await asyncio.sleep(1.5)
    assert not waiting.done() and not keeping.done(), "a lease that is renewed does not expire"
    keeping.cancel()
    await one.release()
    async with asyncio.timeout(0.5):
        assert await waiting == 2


async def test_a_leader_that_is_paused_learns_that_it_was_replaced(api: client.Client) -> None:
    one, two = candidate(api, "one"), candidate(api, "two")
    await one.acquire()
    assert await two.acquire() == 2
    with pytest.raises(lease.Lost, match="two holds"):
        await one.keep()


async def test_a_renewal_that_is_sent_twice_is_no_loss(api: client.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The HTTP client repeats a PUT whose answer was lost; the repetition is a conflict."""
    one = candidate(api, "one")
    await one.acquire()
    replace, sent = client.Client.replace, 0

    async def twice(self: client.Client, path: str, item: Mapping[str, Any], **params: str) -> Any:
        nonlocal sent
        sent += 1
        if sent == 1:
            await replace(self, path, item, **params)
        return await replace(self, path, item, **params)

    monkeypatch.setattr(client.Client, "replace", twice)
    keeping = asyncio.create_task(one.keep())
    await asyncio.wait([keeping], timeout=0.5)
    assert not keeping.done() and one.held() and sent > 2
    keeping.cancel()


async def test_a_leader_that_cannot_renew_stops_before_anybody_else_may_begin(
    api: client.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = candidate(api, "one"), candidate(api, "two")
    await one.acquire()
    began = asyncio.get_running_loop().time()

    async def refused(*_: object) -> None:
        raise OSError("no route")

    with monkeypatch.context() as cut:
        cut.setattr(lease.Lease, "_try", refused)
        with pytest.raises(lease.Lost, match="not renewed"):
            await one.keep()
    stopped = asyncio.get_running_loop().time() - began
    assert stopped < 1
    assert await two.acquire() == 2


async def test_a_name_that_comes_back_is_another_leader(api: client.Client) -> None:
    await candidate(api, "one").acquire()
    again = candidate(api, "one")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await again.acquire()
    assert again.epoch == 0, "the record of its former life has to expire first"
    assert await again.acquire() == 2


async def test_of_many_one_leads(api: client.Client) -> None:
    many = [candidate(api, f"c{number}") for number in range(8)]
    tasks = [asyncio.create_task(one.acquire()) for one in many]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0.3)
    assert sum(task.done() for task in tasks) == 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
