"""Events: series, rates and bounds without a server; what is written, on the embedded and on real API servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.apiserver import client, errors, paths
from scheduler.kube import event, names, recorder
from scheduler.kube import pod as pods
from tests.testbed import embedded, fixtures, objects

GANG = event.Subject.placement("ml", "job-ring", "u-1")
WAITING, PLANNED = event.Reason.GANG_WAITING, event.Reason.GANG_PLANNED


def gang(index: int) -> event.Subject:
    return event.Subject.placement("ml", f"job-{index}", f"u-{index}")


def test_equal_words_are_one_event_written_at_powers_of_two() -> None:
    ledger = event.Ledger()
    told = [ledger.tell(GANG, WAITING, "no room", now) for now in range(100)]
    written = [one for one in told if one]
    assert [one.count for one in written] == [1, 2, 4, 8, 16, 32, 64]
    assert {(one.name, one.first) for one in written} == {(written[0].name, 0)}
    assert [one.last for one in written] == [one.count - 1 for one in written]


def test_other_words_reasons_and_objects_are_other_events() -> None:
    ledger = event.Ledger()
    told = [
        ledger.tell(GANG, WAITING, "no room", 0),
        ledger.tell(GANG, WAITING, "less room", 0),
        ledger.tell(GANG, PLANNED, "no room", 0),
        ledger.tell(gang(2), WAITING, "no room", 0),
    ]
    assert len({one.name for one in told if one}) == 4


def test_words_that_come_back_late_are_a_new_event() -> None:
    ledger = event.Ledger(window_s=10)
    first, again, late = (ledger.tell(GANG, WAITING, "no room", now) for now in (0, 10, 21))
    assert first and again and late
    assert (again.name, again.count) == (first.name, 2)
    assert late.name != first.name and late.count == 1


def test_one_talkative_object_does_not_silence_others() -> None:
    ledger = event.Ledger(burst=3, refill_s=10)
    assert sum(ledger.tell(GANG, WAITING, f"lacks {index}", 0) is not None for index in range(50)) == 3
    assert ledger.dropped == 47
    assert ledger.tell(gang(2), WAITING, "lacks 1", 0)
    assert ledger.tell(GANG, WAITING, "later", 10) and not ledger.tell(GANG, WAITING, "again", 11)


def test_memory_is_bounded() -> None:
    ledger = event.Ledger()
    for index in range(event.REMEMBERED + 100):
        ledger.tell(gang(index), WAITING, "no room", 0)
    assert len(ledger._told) == len(ledger._rates) == event.REMEMBERED


def test_notes_and_names_keep_to_the_limits_of_the_api() -> None:
    subject = event.Subject("v1", "Pod", "ml", "p" * 253, "u")
    told = event.Ledger().tell(subject, WAITING, "ä" * 2000, 1.5)
    assert told
    body = told.body("i" * 300)
    assert len(body["note"].encode()) <= 1024 and body["note"].endswith("ä...")
    assert len(body["metadata"]["name"]) <= 253 and len(body["reportingInstance"]) == 128
    assert body["eventTime"] == "1970-01-01T00:00:01.500000Z"


def test_events_of_cluster_objects_are_in_the_default_namespace() -> None:
    told = event.Ledger().tell(event.Subject("v1", "Node", "", "n-0", "u"), event.Reason.DEVICE_NOT_OWNED, "gone", 0)
    assert told and told.body("i")["metadata"]["namespace"] == "default"
    assert "namespace" not in told.body("i")["regarding"]


def test_every_reason_is_a_word_of_its_own() -> None:
    words = [one.word for one in event.Reason]
    assert len(set(words)) == len(words) and all(word.isalpha() and word[0].isupper() for word in words)
    assert {one.severity for one in event.Reason} == {"Normal", "Warning"}


@contextlib.asynccontextmanager
async def recording(api: client.Client, **given: Any) -> AsyncIterator[recorder.Recorder]:
    made = recorder.Recorder(api, "muster-0", **given)
    task = asyncio.create_task(made.run())
    try:
        yield made
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def events(api: client.Client, namespace: str) -> list[dict[str, Any]]:
    """Return what Muster told; kube-scheduler tells about the pod as well."""
    found, _ = await api.list(paths.of(event.API_VERSION, "events", namespace))
    return [one for one in found if one["reportingController"] == names.MANAGER]


async def story(api: client.Client, namespace: str) -> None:
    """Tell of a pod, its owner and its gang, some of it several times, and read it back."""
    made = await api.create(paths.of("v1", "pods", namespace), objects.pod("w-0"))
    pod = event.Subject.pod(pods.read(made))
    owner = event.Subject.owner(namespace, pods.Owner("batch/v1", "Job", "ring", "u-job"))
    placement = event.Subject.placement(namespace, "job-ring", "u-gang")
    async with recording(api) as told:
        for _ in range(5):
            told.tell(placement, WAITING, "no rack can hold it now; nearest is r3, which lacks 2 nodes")
            await told.flush(10)
        told.tell(pod, PLANNED, "rank 0 on node n-3 with gpu-6, gpu-7")
        told.tell(owner, event.Reason.GANG_REJECTED, "even the empty fleet cannot hold it")
        await told.flush(10)
        assert told.written == 5 and not told.dropped
    found = {one["regarding"]["kind"]: one for one in await events(api, namespace)}
    assert len(found) == 3 == len(await events(api, namespace))
    assert found["GangPlacement"]["series"]["count"] == 4  # the fifth is not written
    assert found["GangPlacement"]["reason"] == "GangWaiting"
    assert found["Pod"]["regarding"]["uid"] == made["metadata"]["uid"] and "series" not in found["Pod"]
    assert (found["Job"]["type"], found["Job"]["reportingController"]) == ("Warning", names.MANAGER)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[client.Client]:
    async with (
        embedded.Server("1.37") as server,
        await client.Client.connect(server.kubeconfig(tmp_path / "kubeconfig")) as one,
    ):
        await one.create(paths.of("v1", "namespaces"), {"metadata": {"name": "ml"}})
        yield one


async def test_the_embedded_server_keeps_the_story(api: client.Client) -> None:
    await story(api, "default")


async def test_a_real_server_keeps_the_story_and_kubectl_tells_it(space: fixtures.Space) -> None:
    async with await client.Client.connect(space.cluster.kubeconfig) as api:
        await story(api, space.name)
    said = space.kubectl("events")
    print(said)
    assert "GangPlanned" in said and "rank 0 on node n-3 with gpu-6, gpu-7" in said
    assert "x4 over" in said and "GangPlacement/job-ring" in said
    assert "Warning" in said


async def test_a_forgotten_event_is_created_anew(api: client.Client) -> None:
    async with recording(api) as told:
        told.tell(GANG, WAITING, "no room")
        await told.flush(5)
        [one] = await events(api, "ml")
        await api.delete(paths.of(event.API_VERSION, "events", "ml", one["metadata"]["name"]))
        told.tell(GANG, WAITING, "no room")
        await told.flush(5)
        [one] = await events(api, "ml")
        assert one["series"]["count"] == 2


class Refusing:
    """An API that fails in one way, so many times."""

    def __init__(self, error: Exception, times: int) -> None:
        self.error, self.left, self.calls = error, times, 0

    async def create(self, path: str, body: Any) -> None:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error

    async def patch(self, path: str, body: Any) -> None:
        assert set(body) == {"series"}


async def test_what_passes_is_tried_again_and_what_does_not_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "AGAIN_S", 0.001)
    busy, gone = errors.ApiError(503, "Busy", "later"), errors.ApiError(404, "NotFound", "namespace")
    denied = errors.ApiError(403, "Forbidden", "no right to create events")
    cases = [(busy, 3, 4, {}), (busy, 9, 4, {"api": 1}), (gone, 1, 1, {"gone": 1}), (denied, 1, 1, {"api": 1})]
    for error, times, calls, dropped in cases:
        api = Refusing(error, times)
        async with recording(api) as told:  # type: ignore[arg-type]
            told.tell(GANG, WAITING, "no room")
            await told.flush(5)
            assert (api.calls, dict(told.dropped)) == (calls, dropped), error
            told.tell(GANG, WAITING, "no room")  # after a failure, equal words are a new Event
            await told.flush(5)
            assert (api.calls > calls) is bool(dropped)


async def test_a_full_queue_drops_and_nobody_waits(api: client.Client) -> None:
    made = recorder.Recorder(api, "muster-0", limit=10)
    for index in range(25):
        made.tell(gang(index), WAITING, "no room")
    assert made.dropped == {"queue": 15}
    task = asyncio.create_task(made.run())
    await made.flush(5)
    task.cancel()
    assert made.written == 10
