"""Bad input of users, controllers and clients: told in the right place, in words that name object, field and remedy.

After each, Muster is the same process, is ready, has given nothing away, and a good gang runs beside the bad one.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

from scheduler.apiserver import errors
from scheduler.model import names
from tests.kube import live
from tests.live import site as sites
from tests.live import team as teams
from tests.live import work

LEVELS = "levels are cluster, zone, block, rack, nvlink-domain, node"


@pytest.fixture
async def unharmed(team: teams.Team) -> AsyncIterator[teams.Team]:
    """A team whose bad input leaves Muster as it was."""
    before = team.site.home.parts.parts[sites.NAME].pid
    yield team
    assert await team.devices() == {}
    await team.create(work.gang("good", 2, "one"))
    await team.planned("gang-good", 2)
    assert team.site.home.parts.parts[sites.NAME].pid == before and team.site.ready()


async def refused(team: teams.Team, placement: str, about: str, word: str, reason: str, text: str) -> None:
    """Check that a gang is refused in the same words by an Event, the status and each condition."""
    found = await team.phase(placement, "Rejected")
    assert (found["status"]["reason"], found["status"]["message"]) == (reason, text)
    told = [(one["status"], one["reason"], one["message"]) for one in found["status"]["conditions"]]
    assert told == [("False", reason, text)] * 3
    assert await team.told(about, word) == text
    assert not any(one["spec"].get("nodeName") for one in await team.pods())


@pytest.mark.parametrize(
    "notes",
    [
        {names.REQUIRED_LEVEL: "row"},
        {names.PREFERRED_LEVEL: "row"},
        {names.SEGMENT_LEVEL: "row", names.SEGMENT_SIZE: "1"},
    ],
    ids=["required", "preferred", "segment"],
)
async def test_a_level_that_the_fleet_does_not_have(unharmed: teams.Team, notes: dict[str, str]) -> None:
    await unharmed.create(work.gang("bad", 2, "one", notes=notes))
    text = f"NoSuchLevel: no row can hold gang {unharmed.name}/gang-bad even when empty ({LEVELS})"
    await refused(unharmed, "gang-bad", "Pod/bad-0", "GangRejected", "NoSuchLevel", text)


def wrong(where: str, key: str, problem: str, got: str, remedy: str) -> str:
    """Return a sentence about an annotation as users read it."""
    return f"{where}, field metadata.annotations[{key}]: {problem}, got {got!r}; {remedy}"


NUMBER = "write a whole number from 1 to 100000"
VALUES = {
    "size-0": ({names.GANG_SIZE: "0"}, (names.GANG_SIZE, "is not what it has to be", "0", NUMBER)),
    "size-1": ({names.GANG_SIZE: "-1"}, (names.GANG_SIZE, "is not what it has to be", "-1", NUMBER)),
    "size-huge": ({names.GANG_SIZE: "9" * 30}, (names.GANG_SIZE, "is not what it has to be", "9" * 30, NUMBER)),
    "minimum": (
        {names.MIN_MEMBER: "3"},
        (names.MIN_MEMBER, f"is more than {names.GANG_SIZE} 2", "3", f"write at most 2, or raise {names.GANG_SIZE}"),
    ),
    "rank": (
        {names.RANK: "2"},
        (names.RANK, "is outside a gang of 2 pods", "2", f"write a rank from 0 to 1, or raise {names.GANG_SIZE}"),
    ),
    "segment": (
        {names.SEGMENT_SIZE: "3", names.SEGMENT_LEVEL: work.RACK},
        (names.SEGMENT_SIZE, f"is more than {names.GANG_SIZE} 2", "3", f"write at most 2, or raise {names.GANG_SIZE}"),
    ),
}
"""Annotations of a gang of two pods that can't be followed, and what is told of them."""


@pytest.mark.parametrize("case", VALUES)
async def test_a_contradiction_is_refused_at_apply(unharmed: teams.Team, case: str) -> None:
    notes, told = VALUES[case]
    for pod in work.gang("bad", 2, "one", notes=notes):
        with pytest.raises(errors.ApiError) as refusal:
            await unharmed.create([pod])
        assert refusal.value.status == 422
        assert wrong(f"pod {unharmed.name}/{pod['metadata']['name']}", *told) in str(refusal.value)
    assert await unharmed.pods() == []


@pytest.mark.parametrize("case", VALUES)
async def test_a_contradiction_that_no_webhook_saw_is_told(unharmed: teams.Team, case: str) -> None:
    """In a namespace that is not managed nothing looks at the pods when they come."""
    notes, told = VALUES[case]
    async with teams.Team.open(unharmed.site, unharmed.api, managed=False) as other:
        await other.create(work.gang("bad", 2, "one", notes=notes))
        where = (
            f"pod {other.name}/bad-0"
            if told[0] == names.GANG_SIZE and "is not" in told[1]
            else f"gang {other.name}/bad"
        )
        await refused(other, "gang-bad", "Pod/bad-0", "GangInvalid", "Invalid", wrong(where, *told))


async def test_a_contradiction_that_came_while_muster_was_down_is_told_when_it_is_back(team: teams.Team) -> None:
    team.site.stop_muster()
    try:
        first, second = work.gang("bad", 2, "one")
        second["metadata"]["annotations"][names.GANG_SIZE] = "3"
        await team.create([first, second])
    finally:
        team.site.start_muster()
    each = f"pod {team.name}/bad-0 says 2, pod {team.name}/bad-1 says 3"
    text = f"gang {team.name}/bad, field metadata.annotations[{names.GANG_SIZE}]: differs: {each}; write one size on all pods"
    await refused(team, "gang-bad", "Pod/bad-0", "GangInvalid", "Invalid", text)
    assert await team.devices() == {}
    await team.api.delete(team.path("v1", "pods", "bad-1"), grace_s=0)
    await team.create([work.gang("bad", 2, "one")[1]])
    await team.planned("gang-bad", 2)


def selecting(name: str, expression: str) -> teams.Obj:
    return live.template(name, 1, selectors=[{"cel": {"expression": expression}}])


TOO_MANY = "33 devices, a claim can have 32: use several claims"
NO_CLASS = "there is no DeviceClass nope.example.com"
FAILS = "device.attributes['gpu.muster.dev'].nosuch > 3"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (live.template("odd", 33), f"claim CLAIM: {TOO_MANY}"),
        (live.template("odd", 1, "nope.example.com"), f"claim CLAIM: request gpus: {NO_CLASS}"),
        (selecting("odd", FAILS), "claim CLAIM: request gpus: can't be planned by Muster; selectors: "),
    ],
    ids=["33-devices", "no-such-class", "failing-cel"],
)
async def test_a_claim_that_cannot_be_planned(unharmed: teams.Team, template: teams.Obj, text: str) -> None:
    await unharmed.apply(template)
    await unharmed.create(work.gang("bad", 2, "odd"))
    await refused(unharmed, "gang-bad", "Pod/bad-0", "GangInvalid", "Invalid", text)


async def test_a_gang_of_an_unknown_class_runs_when_the_class_comes(team: teams.Team) -> None:
    name = f"late-{team.name}.muster.dev"
    await team.apply(live.template("odd", 1, name))
    await team.create(work.gang("bad", 2, "odd"))
    found = await team.phase("gang-bad", "Rejected")
    assert f"there is no DeviceClass {name}" in found["status"]["message"]
    path = "/apis/resource.k8s.io/v1/deviceclasses"
    await team.api.create(path, live.device_class(name))
    try:
        await team.planned("gang-bad", 2)
    finally:
        await team.api.delete(f"{path}/{name}")


async def test_cel_that_does_not_compile_is_refused_by_the_api_server(unharmed: teams.Team) -> None:
    with pytest.raises(errors.ApiError, match="compilation failed") as refusal:
        await unharmed.apply(selecting("odd", "device.attributes["))
    assert refusal.value.status == 422 and "selectors[0].cel.expression" in str(refusal.value)


# Bodies, as any client can send them.


def ask(site: sites.Site, port: int, path: str, body: bytes, length: int | None = None) -> tuple[int, dict[str, Any]]:
    """POST a body to the running command with the client certificate of kube-scheduler; returns status and answer.

    With a `length` it is announced, and nothing of the body is sent: a server that waits for it never answers.
    """
    pair = site.home.authority.issue("kube-scheduler-extender")
    tls = ssl.create_default_context(cafile=str(site.home.authority.ca))
    tls.load_cert_chain(pair.cert, pair.key)
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=tls)
    try:
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body) if length is None else length))
        connection.endheaders(body if length is None else None)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


VERBS = ("/filter", "/prioritize", "/preempt")
DEEP = b'{"Pod": {"metadata": {}, "spec": ' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b'}, "NodeNames": []}'
MALFORMED = {"empty": b"", "half": b'{"Pod": {"meta', "binary": b"\xff\xfe\x00", "list": b"[]", "number": b'{"Pod": 3}'}


@pytest.mark.parametrize("path", [*VERBS, "/mutate-pods"])
async def test_bodies_that_nobody_can_read_are_a_400(unharmed: teams.Team, path: str) -> None:
    site = unharmed.site
    port = site.webhook_port if path == "/mutate-pods" else site.port
    for name, body in MALFORMED.items():
        status, told = ask(site, port, path, body)
        assert (status, told["Error"][:5]) == (400, "body:"), f"{name}: {told}"
    deep = b'{"apiVersion": ' * 200_000 if path == "/mutate-pods" else DEEP
    status, told = ask(site, port, path, deep)
    assert status == 400 and told["Error"], told
    status, told = ask(site, port, path, b"", length=1 << 40)
    assert (status, told["Error"].partition(" is")[0]) == (400, f"body of {1 << 40} bytes")


async def test_nodes_that_nobody_knows_are_refused_one_by_one(unharmed: teams.Team) -> None:
    """The pod waits for the rest of its gang. A node that kube-scheduler knows before us must not fail the whole call."""
    await unharmed.create(work.gang("half", 2, "one")[:1])
    [pod] = await unharmed.pods()
    await unharmed.claims_of("half-0")
    machine = "e2e-b00-r00-n00"
    body = {"Pod": pod, "NodeNames": ["ghost", machine, "x" * 253]}
    status, told = ask(unharmed.site, unharmed.site.port, "/filter", json.dumps(body).encode())
    reason = "muster: the node publishes no devices of ours"
    assert (status, told["NodeNames"]) == (200, [machine])
    assert told["FailedAndUnresolvableNodes"] == {"ghost": reason, "x" * 253: reason}
    status, scores = ask(unharmed.site, unharmed.site.port, "/prioritize", json.dumps(body).encode())
    assert status == 200 and {one["Host"]: one["Score"] for one in scores}["ghost"] == 0
    victims = {"ghost": {"Pods": [{"UID": "nobody"}], "NumPDBViolations": 0}}
    status, told = ask(
        unharmed.site,
        unharmed.site.port,
        "/preempt",
        json.dumps({"Pod": pod, "NodeNameToMetaVictims": victims}).encode(),
    )
    assert (status, told) == (200, {"NodeNameToMetaVictims": {}})
    for names_sent in (["ghost", ""], ["x" * 254], [3], None):
        status, told = ask(
            unharmed.site, unharmed.site.port, "/filter", json.dumps({"Pod": pod, "NodeNames": names_sent}).encode()
        )
        assert status == 400 and "NodeNames" in told["Error"], told
