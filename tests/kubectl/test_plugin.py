"""The plugin as a process of its own, against a whole scheduler over the embedded API server."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from scheduler.kube import explained
from tests.kube import live, questions
from tests.kubectl import plugin


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    async with live.cluster(tmp_path) as found:
        yield found


@pytest.fixture
async def server(home: live.Cluster) -> str:
    port = questions.free_port()
    await home.start(port=port)
    return f"http://127.0.0.1:{port}"


async def gang(home: live.Cluster, name: str, size: int) -> None:
    await home.create(*(live.pod(f"{name}-{i}", name, size) for i in range(size)))


async def recorded(home: live.Cluster, name: str, phase: str) -> None:
    async def ask() -> bool:
        found = await home.placement(name)
        return bool(found) and (found.get("status") or {}).get("phase") == phase

    await home.until(ask)


async def two_gangs(home: live.Cluster) -> dict[str, str]:
    """Have one gang run, and one wait for it."""
    await gang(home, "first", 3)
    nodes = await home.bound("first-0", "first-1", "first-2")
    await gang(home, "second", 2)
    await recorded(home, "gang-second", "Waiting")
    return nodes


def plain(said: plugin.Said) -> list[str]:
    """Return the lines of what was said to a pipe: no colours, no spaces at the end, nothing on stderr."""
    assert said.err == "" and "\x1b" not in said.out
    lines = said.out.splitlines()
    assert all(line == line.rstrip() for line in lines)
    return lines


async def test_gangs_are_listed_one_to_a_line_however_narrow_the_terminal(home: live.Cluster, server: str) -> None:
    await two_gangs(home)
    said = await plugin.call("gangs", "--server", server, "--kubeconfig", home.kubeconfig)
    assert said.code == 0
    head, first, second = plain(said)
    assert head.split() == ["NAME", "KIND", "STATE", "PODS", "GPUS", "NODES", "DOMAIN", "AGE", "WHY"]
    assert first.split()[:6] == ["gang-first", "Annotated", "Running", "3/3", "24", "3"]
    assert second.split()[:6] == ["gang-second", "Annotated", "Waiting", "2/2", "16", "0"] and "lacks 8 GPUs" in second
    said = await plugin.call("gangs", "-A", "--state", "waiting", "--server", server)
    assert [line.split()[0] for line in plain(said)] == ["NAMESPACE", "default"]
    assert (await plugin.call("gangs", "-n", "empty", "--server", server)).out == "No gangs found.\n"


async def test_programs_read_the_answer_as_the_scheduler_gives_it(home: live.Cluster, server: str) -> None:
    nodes = await two_gangs(home)
    said = await plugin.call("explain", "gang", "first", "-n", "default", "--server", server, "-o", "json")
    told = msgspec.convert(said.json, explained.Gang)
    assert {one.pod: one.node for one in told.members} == nodes and told.by.leads


async def test_a_gang_and_a_pod_are_explained(home: live.Cluster, server: str) -> None:
    nodes = await two_gangs(home)
    text = "\n".join(plain(await plugin.call("explain", "gang", "second", "-n", "default", "--server", server)))
    assert "which lacks 8 GPUs" in text and "Why not there:" in text and "holds 1 of 2 pods" in text
    text = "\n".join(plain(await plugin.call("explain", "gang", "first", "-n", "default", "--server", server)))
    assert "gpu-0,gpu-1,gpu-2,gpu-3,gpu-4,gpu-5,gpu-6,gpu-7" in text and all(node in text for node in nodes.values())
    text = "\n".join(plain(await plugin.call("explain", "pod", "first-1", "-n", "default", "--server", server)))
    assert f"it is bound to {nodes['first-1']}" in text and "1 of role" in text
    text = "\n".join(plain(await plugin.call("explain", "pod", "second-0", "-n", "default", "--server", server)))
    assert "1 of 4 nodes" in text and "InsufficientGPUs" in text


async def test_top_and_topology_are_shown(home: live.Cluster, server: str) -> None:
    nodes = await two_gangs(home)
    lines = plain(await plugin.call("top", "--server", server))
    assert lines[1].split() == ["32", "8", "24", "0", "0", "0", "0", "0"]
    assert sum("default/gang-first" in line for line in lines) == 3
    lines = plain(await plugin.call("topology", "--server", server))
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert lines[1].split()[1:] == ["cluster", "4", "32", "8", "24", "0", "0"]
    assert all(rows[node] == ["node", "1", "8", "0", "8", "0", "0"] for node in nodes.values())
    assert lines[-1].startswith("  ")


def manifest(pods: int) -> bytes:
    return yaml.safe_dump_all([live.pod(f"w-{i}", "train", pods) for i in range(pods)]).encode()


async def test_what_if_tells_by_its_exit_code_too(home: live.Cluster, server: str, tmp_path: Path) -> None:
    await two_gangs(home)
    (tmp_path / "one.yaml").write_bytes(manifest(1))
    said = await plugin.call("whatif", "-f", tmp_path / "one.yaml", "-n", "default", "--server", server)
    assert said.code == 0 and "would fit now" in said.out and "gpu-7" in said.out
    assert "1 gangs wait with the same or a higher priority" in said.out
    said = await plugin.call("whatif", "-f", "-", "-n", "default", "--server", server, stdin=manifest(2))
    assert said.code == 5 and "would not fit now" in said.out
    assert "It would fit without: default/gang-first (24 GPUs, priority 0)." in said.out
    said = await plugin.call("whatif", "-f", "-", "-n", "default", "--server", server, stdin=b"kind: Service")
    assert (said.code, said.out) == (1, "") and "send a Pod, Job, JobSet" in said.err


async def test_errors_have_their_codes_and_name_the_remedy(home: live.Cluster, server: str, tmp_path: Path) -> None:
    await two_gangs(home)
    said = await plugin.call("explain", "gang", "thrid", "-n", "default", "--server", server)
    assert (said.code, said.out) == (4, "") and "gang-first, gang-second" in said.err
    assert (await plugin.call("explain", "pod", "nobody", "-n", "default", "--server", server)).code == 4
    said = await plugin.call("gangs", "--sort", "name")
    assert said.code == 2 and "--sort" in said.err and "--help" in said.err
    said = await plugin.call("top", "--server", f"http://127.0.0.1:{questions.free_port()}")
    assert said.code == 3 and "check --server and --ca" in said.err
    said = await plugin.call("top", "--server", "muster:9443")
    assert said.code == 1 and "begins with https://" in said.err
    said = await plugin.call("top", KUBECONFIG=str(tmp_path / "none"))
    assert said.code == 1 and "none cannot be read" in said.err
    said = await plugin.call("top", "--service", "muster", "--kubeconfig", home.kubeconfig)
    assert said.code == 1 and "NAMESPACE/SCHEME:SERVICE:PORT" in said.err


async def test_without_a_scheduler_gangs_are_told_from_records_and_events(home: live.Cluster, server: str) -> None:
    nodes = await two_gangs(home)
    await home.stop()
    nowhere = ("--server", f"http://127.0.0.1:{questions.free_port()}", "--kubeconfig", home.kubeconfig)
    said = await plugin.call("gangs", *nowhere)
    assert said.code == 0 and "read from GangPlacements and Events instead" in said.err
    head, first, second = said.out.splitlines()
    assert first.split()[:6] == ["gang-first", "Annotated", "Running", "3/3", "24", "3"]
    assert second.split()[2] == "Waiting" and "lacks 8 GPUs" in second and head.startswith("NAME")
    answers: list[tuple[tuple[str, ...], Any]] = [
        (("gangs", "-A"), explained.Gangs),
        (("explain", "gang", "gang-first"), explained.Gang),
        (("explain", "gang", "gang-second"), explained.Gang),
        (("explain", "pod", "first-1"), explained.Pod),
        (("explain", "pod", "second-1"), explained.Pod),
    ]
    told = {}
    for arguments, kind in answers:
        said = await plugin.call(*arguments, *nowhere, "-o", "json")
        assert said.code == 0, said.err
        told[arguments[-1]] = msgspec.convert(said.json, kind)
    assert {one.pod: one.node for one in told["gang-first"].members} == nodes
    assert len(told["gang-first"].members[0].devices) == 8 and told["gang-first"].history
    assert told["gang-second"].refusal.reason == "InsufficientGPUs"
    assert told["first-1"].member.node == nodes["first-1"] and "lacks 8 GPUs" in told["second-1"].text
    assert "gang-second" in (await plugin.call("explain", "gang", "second", *nowhere)).out
    assert (await plugin.call("explain", "gang", "third", *nowhere)).code == 4
    assert (await plugin.call("explain", "pod", "third", *nowhere)).code == 4
    said = await plugin.call("top", *nowhere)
    assert said.code == 3 and said.out == ""


async def test_through_the_api_server_a_missing_service_is_told(home: live.Cluster, server: str) -> None:
    said = await plugin.call("top", "--kubeconfig", home.kubeconfig)
    assert said.code == 3 and "muster-system/https:muster-scheduler:webhook" in said.err


async def test_help_says_what_can_be_asked() -> None:
    said = await plugin.call("--help")
    assert said.code == 0 and all(name in said.out for name in ("gangs", "explain", "topology", "top", "whatif"))
    assert "Exit codes" in said.out
    for command in (("gangs",), ("explain", "pod"), ("explain", "gang"), ("topology",), ("top",), ("whatif",)):
        said = await plugin.call(*command, "-h")
        assert said.code == 0 and "--server" in said.out and "--output" in said.out
