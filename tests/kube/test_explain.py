"""The explain questions over HTTP, asked of a whole scheduler; every answer is valid by the served document."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from scheduler import app, config
from tests.kube import live, questions


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    async with live.cluster(tmp_path) as found:
        yield found


@pytest.fixture
async def asker(home: live.Cluster) -> questions.Asker:
    found = questions.Asker(questions.free_port())
    await home.start(port=found.port)
    return found


async def gang(home: live.Cluster, name: str, size: int, **settings: Any) -> None:
    await home.create(*(live.pod(f"{name}-{i}", name, size, **settings) for i in range(size)))


async def waiting(home: live.Cluster, asker: questions.Asker, name: str) -> dict[str, Any]:
    async def ask() -> dict[str, Any] | None:
        found = await asker.ask("/explain/gangs", state="Waiting")
        return next((one for one in found["gangs"] if one["name"] == name), None)

    found: dict[str, Any] = await home.until(ask)
    return found


async def test_a_running_gang_is_told_with_its_devices_by_rank(home: live.Cluster, asker: questions.Asker) -> None:
    await gang(home, "train", 2)
    nodes = await home.bound("train-0", "train-1")
    claims = await home.claims()

    async def ask() -> dict[str, Any] | None:
        found = await asker.ask("/explain/gangs/default/gang/train")
        return found if found["history"][-1]["what"] == "Released" else None

    found = await home.until(ask)
    assert found["gang"]["state"] == "Running" and found["gang"]["since"]
    assert [one["rank"] for one in found["members"]] == [0, 1]
    for one in found["members"]:
        assert one["node"] == nodes[one["pod"]]
        assert [f"{row['pool']}/{row['device']}" for row in one["devices"]] == claims[one["pod"]]
    assert found["compared"][0]["domain"] == found["gang"]["domain"] and found["compared"][0]["terms"]
    assert found["refusal"] is None
    assert [one["what"] for one in found["history"]] == ["Start", "Released"]
    assert found["by"]["leads"] and found["by"]["identity"] == "test"


async def test_the_domain_that_came_second_is_told(tmp_path: Path) -> None:
    asker = questions.Asker(questions.free_port())
    async with live.cluster(tmp_path, "hgx-h100=16") as home:
        await home.start(port=asker.port)
        await gang(home, "train", 2)
        await home.bound("train-0", "train-1")
        chosen, second = (await asker.ask("/explain/gangs/default/gang/train"))["compared"]
    assert chosen["level"] == second["level"] == "rack" and chosen["domain"] != second["domain"] and second["terms"]


async def test_a_gang_that_waits_is_told_what_is_missing_and_where(home: live.Cluster, asker: questions.Asker) -> None:
    await gang(home, "first", 3)
    await home.bound("first-0", "first-1", "first-2")
    await gang(home, "second", 2)
    line = await waiting(home, asker, "gang-second")
    assert line["nodes"] == 0 and line["pods"] == line["wanted"] == 2 and "lacks" in line["why"]
    found = await asker.ask("/explain/gangs/default/Annotated/gang-second")
    assert found["refusal"]["reason"] == "InsufficientGPUs" and not found["refusal"]["permanent"]
    assert found["refusal"]["missing"] == 8 and found["refusal"]["nearest"]
    assert any("holds 1 of 2 pods" in one["why"] for one in found["passedOver"])
    assert found["history"][0]["what"] == "Wait"


async def test_the_list_is_bounded_and_counts_what_it_leaves_out(home: live.Cluster, asker: questions.Asker) -> None:
    await gang(home, "one", 1)
    await gang(home, "two", 1)
    await home.bound("one-0", "two-0")
    found = await asker.ask("/explain/gangs", limit="1")
    assert found["total"] == 2 and len(found["gangs"]) == 1
    assert (await asker.ask("/explain/gangs", namespace="elsewhere"))["gangs"] == []


async def test_a_pod_is_told_by_its_gang_or_by_the_extender(home: live.Cluster, asker: questions.Asker) -> None:
    await gang(home, "train", 3)
    nodes = await home.bound("train-0", "train-1", "train-2")
    told = await asker.ask("/explain/pods/default/train-1")
    assert told["gang"]["name"] == "gang-train" and told["member"]["node"] == nodes["train-1"] == told["node"]
    await gang(home, "big", 2)
    await waiting(home, asker, "gang-big")
    told = await asker.ask("/explain/pods/default/big-0")
    assert told["node"] == "" and told["nodes"] == 4 and told["feasible"] == 1
    [refused] = told["refused"]
    assert refused["nodes"] == 3 and set(refused["examples"]) == set(nodes.values())
    assert told["best"] and told["best"][0] not in nodes.values()


async def test_topology_and_top_count_every_gpu_once(home: live.Cluster, asker: questions.Asker) -> None:
    await gang(home, "train", 2)
    nodes = await home.bound("train-0", "train-1")
    tree = await asker.ask("/explain/topology")
    root, by_name = tree["domains"][0], {one["name"]: one for one in tree["domains"]}
    assert (root["gpus"], root["free"], root["used"], root["nodes"]) == (32, 16, 16, 4) and not tree["cut"]
    assert all(by_name[node]["free"] == 0 and by_name[node]["parent"] for node in nodes.values())
    part = await asker.ask("/explain/topology", under=by_name[nodes["train-0"]]["parent"], depth="1")
    assert len(part["domains"]) == 1 and part["cut"]
    top = await asker.ask("/explain/top", limit="3")
    use = top["devices"]
    assert use["gpus"] == 32 and use["whole"] == 16 and use["others"] == 0
    assert sum(use[name] for name in ("free", "whole", "shared", "partitioned", "failed", "closed")) == use["gpus"]
    assert top["totalNodes"] == 4 and [one["gangs"] for one in top["nodes"]] == [["default/gang-train"]] * 2 + [[]]
    assert top["tenants"] == [{"tenant": "default", "gpuMilli": 16000, "running": 1, "waiting": 0}]


def job(name: str, pods: int, claim: str = "eight") -> dict[str, Any]:
    spec = {"containers": [{"name": "main", "image": "test"}], "restartPolicy": "Never"}
    spec["resourceClaims"] = [{"name": "devices", "resourceClaimTemplateName": claim}]
    body = {"parallelism": pods, "completions": pods, "completionMode": "Indexed", "template": {"spec": spec}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": body}


async def test_what_if_names_the_devices_that_the_gang_then_gets(home: live.Cluster, asker: questions.Asker) -> None:
    members = [live.pod(f"w-{i}", "train", 2, claim="four") for i in range(2)]
    found = await asker.ask("/explain/whatif", yaml.safe_dump_all(members).encode())
    [wish] = found["gangs"]
    assert found["fits"] and wish["fits"] and wish["gpus"] == 8 and wish["refusal"] is None
    await home.create(*members)
    nodes = await home.bound("w-0", "w-1")
    claims = await home.claims()
    for one in wish["members"]:
        assert one["node"] == nodes[one["pod"]]
        assert [f"{row['pool']}/{row['device']}" for row in one["devices"]] == claims[one["pod"]]


async def test_what_if_says_who_would_have_to_go_and_changes_nothing(
    home: live.Cluster, asker: questions.Asker
) -> None:
    await gang(home, "first", 3)
    await home.bound("first-0", "first-1", "first-2")
    assert home.scheduler and home.scheduler.shell
    core = home.scheduler.shell.machine
    before = core.snapshot.version, core.decisions, core.snapshot.free_mask.tobytes(), len(core.queue.waiting)
    body = yaml.safe_dump(job("big", 4)).encode()
    found = await asker.ask("/explain/whatif", body)
    [wish] = found["gangs"]
    assert not found["fits"] and wish["refusal"]["missing"] == 24 and wish["members"] == []
    assert [one["gang"] for one in wish["needsToGo"]["gangs"]] == ["default/gang-first"]
    assert not wish["needsToGo"]["allowed"]
    huge = await asker.ask("/explain/whatif", yaml.safe_dump(job("huge", 5)).encode())
    assert huge["gangs"][0]["refusal"]["permanent"] and huge["gangs"][0]["needsToGo"] is None
    after = core.snapshot.version, core.decisions, core.snapshot.free_mask.tobytes(), len(core.queue.waiting)
    assert after == before
    core.check_invariants()


async def test_what_if_places_the_gangs_of_a_manifest_beside_each_other(
    home: live.Cluster, asker: questions.Asker
) -> None:
    template = live.template("mine", 8)
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"}}
    listed = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [template, service, job("a", 3, "mine"), job("b", 2, "mine")],
    }
    found = await asker.ask("/explain/whatif", yaml.safe_dump(listed).encode())
    assert [one["fits"] for one in found["gangs"]] == [True, False] and not found["fits"]
    assert found["ignored"] == ["Service front"]
    assert found["gangs"][1]["refusal"]["missing"] == 8


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "has 0 objects"),
        (b"a: [", "neither YAML nor JSON"),
        (b"- 1\n- 2", "no object"),
        (b"\xff\xfe\xff", "neither YAML nor JSON"),
        (b"kind: Pod\nmetadata: {name: x}\nspec: text", "kubectl apply --dry-run"),
        (b"kind: Service\nmetadata: {name: x}", "has no workload; ignored: Service x"),
        (yaml.safe_dump({"kind": "Deployment", "metadata": {"name": "web"}}).encode(), "one Pod of its template"),
        (yaml.safe_dump(job("lost", 2, "nowhere")).encode(), "ResourceClaimTemplate nowhere"),
        (yaml.safe_dump(job("many", 1_000_000)).encode(), "write a whole number from 0 to 100000"),
        (yaml.safe_dump(live.pod("w-0", "train", 4)).encode(), "lacks 3 of 4 pods"),
        (
            b"a: &a [x,x,x,x,x,x,x,x]\n"
            + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 8)) for i in range(8))
            + b"kind: Pod\n",
            "more than 200000 values",
        ),
        (b"[" * 100_000, "nested"),
    ],
)
async def test_bad_manifests_are_refused_with_a_sentence(
    home: live.Cluster, asker: questions.Asker, body: bytes, words: str
) -> None:
    found = await asker.ask("/explain/whatif", body, 400)
    assert words in found["detail"] and found["title"] == "Bad Request"


async def test_what_is_not_there_or_asked_wrongly_is_told_so(home: live.Cluster, asker: questions.Asker) -> None:
    await gang(home, "train", 1)
    await home.bound("train-0")
    told = await asker.ask("/explain/gangs/default/gang/trian", status=404)
    assert "gang-train" in told["detail"]
    assert "namespace" in (await asker.ask("/explain/pods/default/nobody", status=404))["detail"]
    assert "no such domain" in (await asker.ask("/explain/topology", status=404, under="nowhere"))["detail"]
    for path, params in (
        ("/explain/gangs", {"limit": "-1"}),
        ("/explain/gangs", {"limit": "100000"}),
        ("/explain/gangs", {"name": "x"}),
        ("/explain/top", {"limit": "1e3"}),
        ("/explain/topology", {"under": "x" * 300}),
    ):
        assert next(iter(params)) in (await asker.ask(path, status=400, **params))["detail"]
    big = b"#" * (1024 * 1024 + 1)
    assert "larger" in (await asker.ask("/explain/whatif", big, 400))["detail"]


async def test_every_route_is_in_the_document_and_the_document_is_valid(
    home: live.Cluster, asker: questions.Asker
) -> None:
    top = await asker.ask("/explain/top")
    [web] = app.Scheduler(config.Config(port=0, host="127.0.0.1"), home.api, "other").webs()
    served = {route.path for route in web.config.app.routes if route.path.startswith("/explain")}
    assert served == set(asker.document["paths"]) and len(served) == 6
    assert asker.document["openapi"] == "3.1.0"
    for schema in asker.document["components"]["schemas"].values():
        questions.DIALECT.check_schema(schema)
        assert schema["type"] != "object" or schema["additionalProperties"] is False
    top_of = {"$ref": "#/components/schemas/Top", "components": asker.document["components"]}
    questions.DIALECT(top_of).validate(top)
    with pytest.raises(jsonschema.ValidationError):
        questions.DIALECT(top_of).validate({**top, "more": 1})


async def test_before_the_first_sync_it_says_so(home: live.Cluster) -> None:
    asker = questions.Asker(questions.free_port())
    one = app.Scheduler(config.Config(port=asker.port, host="127.0.0.1"), home.api, "early")
    [web] = one.webs()
    serving = asyncio.create_task(web.serve())
    try:
        await home.until(lambda: true(lambda: web.started))
        for path, body in (("/explain/gangs", None), ("/explain/top", None), ("/explain/whatif", b"kind: Pod")):
            assert "not synced" in (await asker.ask(path, body, 503))["detail"]
    finally:
        web.should_exit = True
        await serving


async def test_a_standby_answers_and_says_that_it_does_not_lead(
    home: live.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "LEASE", {"lease_s": 5, "renew_s": 3, "retry_s": 0.05})
    await home.api.create("/api/v1/namespaces", {"metadata": {"name": "muster-system"}})
    asker = questions.Asker(questions.free_port())
    await home.start(leader_elect=True)
    assert home.scheduler
    await home.until(lambda: true(lambda: home.scheduler.leading))
    other = app.Scheduler(config.Config(port=asker.port, host="127.0.0.1"), home.api, "other")
    task = asyncio.create_task(other.run())
    try:
        await home.until(lambda: true(lambda: other.shell is not None))
        await gang(home, "train", 3)
        nodes = await home.bound("train-0", "train-1", "train-2")
        await gang(home, "big", 2)
        await waiting(home, asker, "gang-big")
        found = await asker.ask("/explain/gangs/default/gang/train")
        assert not found["by"]["leads"] and "stands by" in found["by"]["note"]
        assert {one["pod"]: one["node"] for one in found["members"]} == nodes
        assert [len(one["devices"]) for one in found["members"]] == [8, 8, 8] and found["gang"]["state"] == "Running"
        found = await asker.ask("/explain/gangs/default/gang/big")
        assert found["refusal"]["missing"] == 8 and found["passedOver"]
        found = await asker.ask("/explain/whatif", yaml.safe_dump(job("one", 1)).encode())
        assert found["fits"] and found["gangs"][0]["members"][0]["node"] not in nodes.values()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def true(ask: Callable[[], object]) -> bool:
    return bool(ask())
