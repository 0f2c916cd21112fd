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

LEVELS = "cluster, zone, block, rack, nvlink-domain, node"


@pytest.fixture
async def unharmed(team: teams.Team) -> AsyncIterator[teams.Team]:
    """A team whose bad input leaves Muster as it was."""
    before = team.site.home.parts.parts[sites.NAME].pid
    yield team
    assert await team.devices() == {}
    await team.create(work.gang("good", 2, "one"))
    await team.planned("gang-good", 2)
    assert team.site.home.parts.parts[sites.NAME].pid == before and team.site.ready()


async def refused(team: teams.Team, gang: str, word: str, reason: str, text: str, kept_off: bool = True) -> None:
    """Check that a gang is refused in the same words by an Event, the status and each condition.

    Without taints kube-scheduler gives devices to pods that are not gated, whatever Muster says: then they are not
    `kept_off` the nodes.
    """

    async def says_so() -> Any:
        """Return the record once it says this: before the claims exist it calls them as the pods do."""
        found = await team.phase(f"gang-{gang}", "Rejected")
        return found["status"]["message"] == text and found

    found = await team.until(says_so)
    assert found["status"]["reason"] == reason
    told = [(one["status"], one["reason"], one["message"]) for one in found["status"]["conditions"]]
    assert told == [("False", reason, text)] * 3
    assert await team.told(f"Pod/{gang}-0", word) == text
    if kept_off:
        assert await team.devices() == {}
        assert not any(one["spec"].get("nodeName") for one in await team.pods())


async def test_levels_that_the_fleet_does_not_have(unharmed: teams.Team) -> None:
    asked = {
        "required": {names.REQUIRED_LEVEL: "row"},
        "preferred": {names.PREFERRED_LEVEL: "row"},
        "segment": {names.SEGMENT_LEVEL: "row", names.SEGMENT_SIZE: "1"},
    }
    for name, notes in asked.items():
        await unharmed.create(work.gang(name, 2, "one", notes=notes))
    for name in asked:
        whole = f"NoSuchLevel: no row can hold gang {unharmed.name}/gang-{name} even when empty"
        text = f"{whole} ({name} level: write one of {LEVELS})"
        await refused(unharmed, name, "GangRejected", "NoSuchLevel", text)


NUMBER = "write a whole number from 1 to 100000"
SIZE, MINIMUM, RANK, SEGMENT = (
    f"field metadata.annotations[{key}]:" for key in (names.GANG_SIZE, names.MIN_MEMBER, names.RANK, names.SEGMENT_SIZE)
)
LESS = f"is more than {names.GANG_SIZE} 2, got '3'; write at most 2, or raise {names.GANG_SIZE}"
CONTRADICTIONS = {
    "size-0": (
        {names.GANG_SIZE: "0"},
        f"pod POD, {SIZE} is not what it has to be, got '0'; {NUMBER}",
        f"pod POD, {SIZE} is no number of pods, got '0'; {NUMBER}",
    ),
    "size-below-0": (
        {names.GANG_SIZE: "-1"},
        f"pod POD, {SIZE} is not what it has to be, got '-1'; {NUMBER}",
        f"pod POD, {SIZE} is no number of pods, got '-1'; {NUMBER}",
    ),
    "size-huge": (
        {names.GANG_SIZE: "9" * 30},
        f"pod POD, {SIZE} is not what it has to be, got '{'9' * 30}'; {NUMBER}",
        f"pod POD, {SIZE} is no number of pods, got '{'9' * 30}'; {NUMBER}",
    ),
    "minimum": ({names.MIN_MEMBER: "3"}, f"pod POD, {MINIMUM} {LESS}", f"gang GANG, {MINIMUM} {LESS}"),
    "rank": (
        {names.RANK: "2"},
        f"pod POD, {RANK} is outside a gang of 2 pods, got '2'; write a rank from 0 to 1, or raise {names.GANG_SIZE}",
        f"pod POD, {RANK} is none of the role's 2 ranks, 0 to 1, got '2'; change it",
    ),
    "segment": (
        {names.SEGMENT_SIZE: "3", names.SEGMENT_LEVEL: work.RACK},
        f"pod POD, {SEGMENT} {LESS}",
        f"gang GANG, {SEGMENT} {LESS}",
    ),
}
"""Annotations of a gang of two pods that can't be followed; what `kubectl apply` says, what is told where nothing asked."""


async def test_contradictions_are_refused_at_apply(unharmed: teams.Team) -> None:
    for case, (notes, text, _) in CONTRADICTIONS.items():
        pod = work.gang("bad", 2, "one", notes=notes)[0]
        with pytest.raises(errors.ApiError) as refusal:
            await unharmed.create([pod])
        assert refusal.value.status == 422, case
        assert text.replace("POD", f"{unharmed.name}/bad-0") in str(refusal.value), case
    assert await unharmed.pods() == []


async def test_contradictions_that_no_webhook_saw_are_told(unharmed: teams.Team) -> None:
    """In a namespace that is not managed nothing looks at the pods when they come."""
    async with teams.Team.open(unharmed.site, unharmed.api, managed=False) as other:
        for name, (notes, _, _) in CONTRADICTIONS.items():
            await other.create([work.gang(name, 2, "one", notes=notes)[0]])
            alike = {key: value for key, value in notes.items() if key != names.RANK}
            await other.create([work.gang(name, 2, "one", notes=alike)[1]])
        for name, (_, _, text) in CONTRADICTIONS.items():
            text = text.replace("POD", f"{other.name}/{name}-0").replace("GANG", f"{other.name}/{name}")
            await refused(other, name, "GangInvalid", "Invalid", text, other.site.tainted)


async def test_a_contradiction_that_came_while_muster_was_down_is_told_when_it_is_back(team: teams.Team) -> None:
    team.site.stop_muster()
    try:
        await team.create([work.gang("bad", 2, "one")[0], work.gang("bad", 3, "one")[1]])
    finally:
        team.site.start_muster()
    each = f"pod {team.name}/bad-0 says 2, pod {team.name}/bad-1 says 3"
    text = f"gang {team.name}/bad, field metadata.annotations[{names.GANG_SIZE}]: differs: {each}; write one size on all pods"
    await refused(team, "bad", "GangInvalid", "Invalid", text, team.site.tainted)
    await team.api.delete(team.path("v1", "pods", "bad-1"), grace_s=0)
    await team.create([work.gang("bad", 2, "one")[1]])
    await team.bound(2)
    if team.site.tainted:
        await team.planned("gang-bad", 2)


def selecting(name: str, expression: str) -> teams.Obj:
    return live.template(name, 1, selectors=[{"cel": {"expression": expression}}])


FAILS = "device.attributes['gpu.muster.dev'].nosuch > 3"
CLAIMS = {
    "33-devices": (live.template("many", 33), "33 devices, a claim can have 32: use several claims"),
    "no-such-class": (
        live.template("unknown", 1, "nope.example.com"),
        "request gpus: there is no DeviceClass nope.example.com; create it, or name another in deviceClassName",
    ),
    "failing-cel": (
        selecting("failing", FAILS),
        f'request gpus: can\'t be planned by Muster; selectors: "{FAILS}": '
        "device gpu-0 has no attribute or capacity nosuch (device gpu-0 of node e2e-b00-r00-n00); write it otherwise",
    ),
}


async def test_claims_that_cannot_be_planned(unharmed: teams.Team) -> None:
    for name, (template, _) in CLAIMS.items():
        await unharmed.apply(template)
        await unharmed.create(work.gang(name, 2, template["metadata"]["name"]))
    for name, (_, text) in CLAIMS.items():
        [claim] = await unharmed.claims_of(f"{name}-0")
        whole = f"gang {unharmed.name}/{name}: claim {claim['metadata']['name']}: {text}"
        await refused(unharmed, name, "GangInvalid", "Invalid", whole)


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


VERBS, REVIEW = ("/filter", "/prioritize", "/preempt"), "/mutate-pods"
DEEP = 200_000
MALFORMED = {
    "empty": b"",
    "half": b'{"Pod": {"meta',
    "binary": b"\xff\xfe\x00",
    "list": b"[]",
    "number": b'{"Pod": 3, "request": 3, "apiVersion": 3}',
    "deep": b'{"Pod": {"metadata": {"a": ' + b"[" * DEEP + b"]" * DEEP + b'}}, "NodeNames": []}',
}


async def test_bodies_that_nobody_can_read_are_a_400(unharmed: teams.Team) -> None:
    site = unharmed.site
    for path in (*VERBS, REVIEW):
        port = site.webhook_port if path == REVIEW else site.port
        for name, body in MALFORMED.items():
            status, told = ask(site, port, path, body)
            assert (status, told["Error"][:5]) == (400, "body:"), f"{path} {name}: {told}"
        status, told = ask(site, port, path, b"", length=1 << 40)
        assert (status, told["Error"].partition(" is")[0]) == (400, f"body of {1 << 40} bytes"), path


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
