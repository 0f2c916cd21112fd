"""The command ``health``: what is known of each GPU, and an operator's word that faults of one are over."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import click.testing
import pytest

from dra_driver import cli, known, naming
from dra_driver.health import clearing, kept, model, report, severity, source, taints, watcher
from dra_driver.probe import interface
from scheduler.apiserver import paths
from scheduler.model import machines
from tests.driver import kubelet
from tests.driver.victim import NODE, UP_S, Server, serving, victim
from tests.driver.zygote import Zygote
from tests.hardware import machine

MACHINE = machines.build("dgx-1v", "node-a")
UUID = MACHINE.gpus[2].uuid
BOOT = "11111111-0000-0000-0000-000000000000"


class Probe:
    """GPUs of which the first has a link that is down."""

    def reading(self, gpu_uuid: str) -> interface.Reading:
        return interface.Reading(gpu_uuid, links_down=(3,) if gpu_uuid == MACHINE.gpus[0].uuid else ())

    def wait(self, timeout_s: float) -> list[interface.Event]:
        return []


@pytest.fixture
def host(short_folder: Path) -> Path:
    """Return the driver's folder on a node on which it has run."""
    boot = short_folder / "proc/sys/kernel/random"
    boot.mkdir(parents=True)
    (boot / "boot_id").write_text(f"{BOOT}\n")
    folder = short_folder / "plugins/gpu.muster.dev"
    folder.mkdir(parents=True)
    known.File(folder).change(lambda before: naming.merged(MACHINE, before, frozenset()))
    return folder


def run(folder: Path, *arguments: str) -> click.testing.Result:
    options = [f"--plugins={folder.parent}", f"--root={folder.parent.parent}"]
    return click.testing.CliRunner().invoke(cli.main, ["health", *arguments, *options])


def opened(folder: Path) -> watcher.Watcher:
    """Return what a driver on the node would begin with; an order of things as in the driver itself."""
    requests = clearing.Clearing(clearing.Folder(folder / clearing.FOLDER))
    faults, times = kept.Faults(folder / "faults.json", BOOT), taints.Times(folder / "taints.json")
    return watcher.Watcher(Probe(), MACHINE, source.Source("node-a"), times, faults, poll_s=0.02, requests=requests)


def hit(watched: watcher.Watcher, xid: int, uuid: str = UUID) -> None:
    assert watched._take([interface.Event(uuid, "xid", xid)])


def keys(watched: watcher.Watcher) -> dict[str, list[str]]:
    return {uuid: sorted(health.faults) for uuid, health in watched.known.items() if health.faults}


async def test_it_tells_each_fault_and_what_ends_it(host: Path) -> None:
    watched = opened(host)
    hit(watched, 79)
    hit(watched, 13, MACHINE.gpus[3].uuid)
    await watched.start()
    since = {name: json.loads((host / "taints.json").read_bytes())[name] for name in taint_names(host)}
    done = await asyncio.to_thread(run, host, "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["driver_serves"] is False and [gpu["name"] for gpu in said["gpus"]] == [f"gpu-{i}" for i in range(8)]
    gpus = {gpu["name"]: gpu for gpu in said["gpus"]}
    assert [gpus[f"gpu-{i}"]["state"] for i in range(5)] == ["degraded", "ok", "failed", "ok", "ok"]
    (fault,) = gpus["gpu-2"]["faults"]
    assert (fault["kind"], fault["value"], fault["severity"], fault["clearable"]) == ("xid", "79", "fatal", True)
    assert fault["since"] in since.values() and "muster-dra-driver health clear gpu-2" in fault["ends"]
    (fault,) = gpus["gpu-0"]["faults"]
    assert (fault["kind"], fault["clearable"], fault["ends"]) == ("nvlink", False, "the links are active again")
    (fault,) = gpus["gpu-3"]["faults"]
    assert (fault["severity"], fault["ends"]) == ("inform", "5 minutes after it began")
    text = await asyncio.to_thread(run, host)
    assert f"gpu-2  {UUID}  failed\n  fatal: xid 79, since " in text.stdout and "NVLinks 3 are down" in text.stdout
    assert "no driver serves" in text.stderr


def taint_names(folder: Path) -> list[str]:
    return list(json.loads((folder / "taints.json").read_bytes()))


def test_an_operator_is_named_where_nothing_else_ends_a_fault() -> None:
    """Also for kinds that are added later."""
    kinds = [(kind, "failed") for kind in model.POLLED] + [("row-remap", "pending")]
    told = [(kind, value) for kind, value, *_ in model.TOLD.values()]
    named = {
        (kind, value): "health clear gpu-0"
        in report._ends(MACHINE.gpus[0], model.Fault(kind, value, severity.Severity.FATAL, 0.0, ""))
        for kind, value in (*kinds, *told)
    }
    assert named == dict.fromkeys(kinds, False) | dict.fromkeys(told, True)


async def test_a_part_of_a_gpu_is_named(host: Path) -> None:
    watched = opened(host)
    watched.known[UUID] = model.event(model.Health(UUID, {}), interface.Event(UUID, "xid", 94, 5), 100.0, (2, 2))
    await watched.start()
    done = await asyncio.to_thread(run, host)
    assert "degraded: xid 94 on memory slices 2 to 3, since 1970-01-01T00:01:40Z" in done.stdout


async def test_faults_of_another_boot_are_not_told(host: Path) -> None:
    watched = opened(host)
    hit(watched, 79)
    await watched.start()
    (host.parent.parent / "proc/sys/kernel/random/boot_id").write_text("2\n")
    done = await asyncio.to_thread(run, host, "--json")
    assert {gpu["state"] for gpu in json.loads(done.stdout)["gpus"]} == {"ok"}


async def test_a_request_is_taken_at_the_start_and_ends_what_no_poll_sees(host: Path) -> None:
    first = opened(host)
    for uuid in (UUID, MACHINE.gpus[0].uuid, MACHINE.gpus[5].uuid):
        hit(first, 79, uuid)
    await first.start()
    for name in ("gpu-2", MACHINE.gpus[0].uuid):
        done = await asyncio.to_thread(run, host, "clear", name)
        assert done.exit_code == 0 and "ends the faults when it starts" in done.stdout
    assert "not carried out yet" in (await asyncio.to_thread(run, host)).stdout
    second, told, said = opened(host), [], []
    second.tell(lambda machine, found: told.append(found))
    second.tell_cleared(lambda request, name: said.append((name, request)))
    await second.start()
    rest = {MACHINE.gpus[0].uuid: ["nvlink"], MACHINE.gpus[5].uuid: ["xid"]}
    assert keys(second) == rest and sorted(told[-1]) == ["gpu-0", "gpu-5"]
    assert {name: (len(one.ended), len(one.stay)) for name, one in said} == {"gpu-2": (1, 0), "gpu-0": (1, 1)}
    third = opened(host)
    hit(third, 48)
    await third.start()
    assert keys(third) == {**rest, UUID: ["xid"]}, "a request is carried out twice, or a restart brings faults back"


async def test_a_second_instance_ends_what_the_first_one_was_told(host: Path) -> None:
    """As during an upgrade; what comes later stays with both."""
    one, other = opened(host), opened(host)
    for each in (one, other):
        hit(each, 79)
        await each.start()
    clearing.Folder(host / clearing.FOLDER).ask(UUID)
    for each in (one, other):
        await each._clear()
        await each._publish()
        await each._answer()
    assert UUID not in keys(one) and UUID not in keys(other)
    for each in (one, other):
        hit(each, 48)
        await each._clear()
    assert keys(one)[UUID] == keys(other)[UUID] == ["xid"]


async def test_nothing_is_said_to_be_cleared_that_a_restart_would_bring_back(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, said = opened(host), []
    watched.tell_cleared(lambda request, name: said.append(request))
    hit(watched, 79)
    await watched.start()
    requests = clearing.Folder(host / clearing.FOLDER)
    requests.ask(UUID)

    def full(known: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(watched._files._faults, "write", full)
    work = asyncio.create_task(watched.run())
    await kubelet.until(lambda: UUID not in watched.known or not watched.known[UUID].faults, 20)
    await kubelet.until(lambda: watched._files.problem, 20)
    assert not said and not requests.read(UUID).taken
    monkeypatch.undo()
    await kubelet.until(lambda: said, 20)
    assert requests.read(UUID).taken and UUID not in (host / "faults.json").read_text()
    work.cancel()


async def test_a_file_that_is_no_request_is_removed(host: Path) -> None:
    folder = host / clearing.FOLDER
    folder.mkdir()
    for name, text in (("GPU-x", "{"), (UUID, '{"gpu_uuid": "GPU-other", "asked_ns": 1}'), ("a b", "{}")):
        (folder / f"{name}.json").write_text(text)
    watched = opened(host)
    hit(watched, 79)
    await watched.start()
    assert keys(watched)[UUID] == ["xid"] and not list(folder.iterdir())


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("gpu-9", "gpu-9: no GPU of this node has this name or UUID; its GPUs are gpu-0 (GPU-node-a-0), gpu-1 "),
        ("../../etc/passwd", "../../etc/passwd: no GPU of this node"),
        ("", ": no GPU of this node"),
    ],
)
def test_a_gpu_that_is_none(host: Path, named: str, sentence: str) -> None:
    done = run(host, "clear", named)
    assert done.exit_code == 1 and done.stderr.startswith(f"Error: {sentence}"), done.output
    assert not (host / clearing.FOLDER).exists()


@pytest.mark.parametrize("arguments", [(), ("clear", "gpu-0")])
@pytest.mark.parametrize(
    ("damage", "sentence"), [("removed", "no driver ever found any here"), ("garbage", "sets a damaged file aside")]
)
def test_a_folder_without_devices(host: Path, arguments: tuple[str, ...], damage: str, sentence: str) -> None:
    path = host / "devices.json"
    path.unlink() if damage == "removed" else path.write_text("{")
    done = run(host, *arguments)
    assert done.exit_code == 1 and str(path) in done.stderr and sentence in done.stderr
    assert "Traceback" not in done.output


def test_damaged_faults_are_told_and_left_to_the_driver(host: Path) -> None:
    (host / "faults.json").write_text("{")
    done = run(host)
    assert done.exit_code == 1 and str(host / "faults.json") in done.stderr and (host / "faults.json").exists()


def test_options_before_the_subcommand_are_refused(host: Path) -> None:
    """They would be those of another command, and another folder be meant."""
    done = click.testing.CliRunner().invoke(cli.main, ["health", f"--plugins={host.parent}", "clear", "gpu-0"])
    assert done.exit_code == 2 and "--plugins belongs after clear" in done.stderr


async def published(server: Server, name: str) -> list[dict[str, Any]]:
    """Return the taints of a published device."""
    items, _ = await server.api.list(paths.of(paths.RESOURCE, "resourceslices"))
    found = [one for item in items for one in item["spec"].get("devices") or () if one["name"] == name]
    return found[0].get("taints", []) if found else []


@pytest.mark.slow
async def test_a_running_driver_takes_it_and_says_so(short_folder: Path, starter: Zygote) -> None:
    async with serving(short_folder) as server:
        with victim(short_folder / "n", server.kubeconfig, starter) as driver:
            assert await driver.come_up()
            folder = driver.plugins / "gpu.muster.dev"
            machine.xid(driver.state, 2, 79)
            async with asyncio.timeout(UP_S):
                while not await published(server, "gpu-2"):
                    await asyncio.sleep(0.02)
            options = (f"--plugins={driver.plugins}", f"--root={driver.root}")

            def command(*arguments: str) -> click.testing.Result:
                return click.testing.CliRunner().invoke(cli.main, ["health", *arguments, *options])

            assert "gpu-2  GPU-real-0-2  failed" in (await asyncio.to_thread(command)).stdout
            done = await asyncio.to_thread(command, "clear", "gpu-2")
            assert done.exit_code == 0, done.output
            assert done.stdout == "gpu-2 (GPU-real-0-2): ended XID 79 on GPU GPU-real-0-2\n"
            async with asyncio.timeout(UP_S):
                while await published(server, "gpu-2") or not await server.events("FaultsCleared"):
                    await asyncio.sleep(0.02)
            (event,) = [
                e for e in (await server.api.list(paths.of("v1", "events")))[0] if e["reason"] == "FaultsCleared"
            ]
            assert (event["involvedObject"]["name"], event["type"]) == (NODE, "Normal")
            assert (
                event["message"] == "gpu-2 (GPU-real-0-2): an operator cleared its faults: XID 79 on GPU GPU-real-0-2"
            )
            assert json.loads((folder / "faults.json").read_bytes())["faults"] == {}
            again = await asyncio.to_thread(command, "clear", "gpu-2")
            assert again.stdout == "gpu-2 (GPU-real-0-2): there was no fault to be cleared\n"
            driver.stop()


def test_a_driver_that_does_not_take_it(host: Path) -> None:
    """It serves, and its loop stands."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(host / "dra.sock"))
        server.listen()
        done = run(host, "clear", "gpu-2", "--wait=0.3")
    assert done.exit_code == 1
    assert f"the driver did not take {host / 'clear' / UUID}.json within 0.3 s; look at its log" in done.stderr
