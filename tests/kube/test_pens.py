"""Requests of a leader: so many at a time, whoever asks, and none that waited for its turn until the term had ended."""

import asyncio
from typing import Any, cast

import pytest

from scheduler.apiserver import client
from scheduler.kube import pens


class Slow:
    """Answers when it is let; counts what is on its way."""

    def __init__(self) -> None:
        self.let, self.now, self.most, self.sent = asyncio.Event(), 0, 0, 0

    async def patch(self, *_: Any) -> dict[str, Any]:
        self.now, self.sent = self.now + 1, self.sent + 1
        self.most = max(self.most, self.now)
        await self.let.wait()
        self.now -= 1
        return {}


def pen(api: Slow, **more: Any) -> pens.Pen:
    return pens.Pen(cast(client.Client, api), 1, **more)


async def until(ask: Any) -> None:
    async with asyncio.timeout(20):
        while not ask():
            await asyncio.sleep(0)


async def test_no_more_requests_than_flight_are_on_their_way_of_lone_pods_either() -> None:
    api = Slow()
    one = pen(api)
    lone = [asyncio.create_task(one.patch(f"/{i}", {})) for i in range(pens.FLIGHT)]
    gang = asyncio.create_task(one.all(one.patch(f"/g{i}", {}) for i in range(pens.FLIGHT)))
    await until(lambda: api.now == pens.FLIGHT)
    for _ in range(10):
        await asyncio.sleep(0)
    assert api.sent == pens.FLIGHT
    api.let.set()
    await asyncio.gather(gang, *lone)
    assert (api.sent, api.most) == (2 * pens.FLIGHT, pens.FLIGHT)


async def test_a_write_that_waits_for_its_turn_is_not_sent_after_the_term() -> None:
    api, terms = Slow(), [True]
    one = pen(api, leads=lambda: terms[0])
    first = [asyncio.create_task(one.patch(f"/{i}", {})) for i in range(pens.FLIGHT)]
    late = asyncio.create_task(one.patch("/late", {}))
    await until(lambda: api.now == pens.FLIGHT)
    terms[0] = False
    api.let.set()
    await asyncio.gather(*first)
    with pytest.raises(pens.Fenced):
        await late
    assert api.sent == pens.FLIGHT
