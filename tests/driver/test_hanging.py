"""Calls into the hardware that never return: they keep neither the driver from serving nor its process from ending."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from dra_driver import app, instance, inventory, known, leaving, mig, threads
from dra_driver.probe import interface
from scheduler.model import node
from tests.driver import conftest, host, kubelet, objects
from tests.driver.test_bad_input_start import published, two_prepared
from tests.driver.victim import UP_S, calling, prepared, serving, victim
from tests.driver.zygote import Zygote
from tests.hardware import machine, state

ENTERED = 1000  # how often a rule would still be followed

MakeNode = Callable[..., conftest.Node]


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What the calls of a test hang at, until its end."""
    found = threading.Event()
    yield found
    found.set()


@pytest.mark.slow
async def test_a_signal_ends_the_process_in_order(short_folder: Path, starter: Zygote) -> None:
    hanging = ("nvmlDeviceGetCount_v2", "nvmlDeviceGetRemappedRows", "nvmlEventSetWait_v2")
    async with serving(short_folder) as server:
        with victim(short_folder / "n", server.kubeconfig, starter) as driver:
            driver.begin_process()
            await kubelet.until(lambda: '"event":"serving"' in driver.told(), UP_S)
            async with calling(driver) as calls:
                assert await prepared(calls, server.claims["whole"]) == [""]
            await published(server, something=True)
            for function in hanging:
                machine.rule(driver.state, function, ms=10**9, times=ENTERED)
            await kubelet.until(lambda: all(left < ENTERED for left in lefts(driver.state)), UP_S)
            before = driver.checkpoint.read_bytes()
            began = time.monotonic()
            driver.stop()
            print(f"ended after {time.monotonic() - began:.1f} s")
            *_, last = driver.told().splitlines()
            assert "the process ends without them" in last and '"event":"stopped"' in driver.told()
            said = {call.partition(" ")[0] for call in _calls(last)}
            assert said == {"discover", "reading", "wait"}
            assert driver.checkpoint.read_bytes() == before and not list(driver.node.root.rglob("*.sock"))
            await published(server, something=True)


@pytest.mark.slow
async def test_a_library_that_hangs_from_the_start_is_served_without(short_folder: Path, starter: Zygote) -> None:
    """Not even its session begins; what needs no hardware is given back."""
    program = "from dra_driver import cli, inventory; inventory.Inventory.begin.__func__.__defaults__ = (None, 0.2); cli.main()"
    async with two_prepared(short_folder, starter) as (server, driver):
        machine.rule(driver.state, "nvmlInitWithFlags", ms=10**9)
        driver.begin_process(program)
        await kubelet.until(lambda: '"event":"serving"' in driver.told(), UP_S)
        async with calling(driver) as calls:
            whole, cut = server.claims["whole"], server.claims["cut"]
            assert (await calls.unprepare(whole))[whole.uid] == ""
            assert "discovery: no answer for 0.2 s" in (await prepared(calls, cut))[0]
        driver.stop()
        last = driver.told().splitlines()[-1]
        assert "the process ends without them" in last and _calls(last) == ["discover", "wait"]
        assert set(driver.prepared()) == {cut.uid}


def lefts(path: Path) -> list[int]:
    with state.changed(path) as found:
        return [rule.left for rule in found.rule[: found.rules]]


def _calls(line: str) -> list[str]:
    found: list[str] = json.loads(line)["calls"]
    return found


class Left(BaseException):
    """The process ended here, with a code."""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (click.ClickException("a sentence"), 1, "Error: a sentence\n"),
        (ZeroDivisionError("a defect"), 1, "ZeroDivisionError: a defect\n"),
    ],
)
async def test_the_process_ends_as_it_would_without_them(
    error: Exception | None,
    code: int,
    said: str,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def leave(status: int) -> None:
        raise Left(status)

    def work() -> None:
        with leaving.whatever_hangs():
            if error is not None:
                raise error

    monkeypatch.setattr(leaving, "os", SimpleNamespace(_exit=leave))
    own = threads.Threads(1, "test")
    future = own.submit(gate.wait, 60)
    with pytest.raises(Left, match=str(code)):
        work()
    assert said in capsys.readouterr().err
    gate.set()
    await asyncio.wrap_future(future)
    await kubelet.until(lambda: not threads.under_way(), 20)
    with contextlib.suppress(type(error)) if error is not None else contextlib.nullcontext():
        work()
        assert error is None


async def test_an_instance_whose_claim_hangs_leaves_and_the_next_one_goes_on(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    for name in ("STOP_S", "LATE_S"):
        monkeypatch.setattr(instance, name, 0.05)
    monkeypatch.setattr(threads.Threads.close, "__defaults__", (0.05,))
    node = make_node(mig_gpus=(7,))
    create, entered = node.hardware.create_gpu_instance, threading.Event()

    def hang(*arguments: object) -> mig.Instance:
        entered.set()
        gate.wait(60)
        raise mig.HardwareError("too late")

    monkeypatch.setattr(node.hardware, "create_gpu_instance", hang)
    wanted = node.claims.add(objects.claim(1, "gpu-7-mig-1g10gb-19-6"))
    running = node.instance()
    await running.start()
    async with node.kubelet() as calls:
        asked = asyncio.create_task(calls.prepare(wanted))
        assert await asyncio.to_thread(entered.wait, 20)
        await running.stop()
        assert "partition GPU-node-a-7" in threads.under_way()
        assert not list(node.root.rglob("*.sock"))
        await asyncio.wait((asked,))  # cut off, or answered with an error
        assert asked.exception() is not None or (await asked)[wanted.uid].error
    gate.set()
    await kubelet.until(lambda: not threads.under_way(), 20)
    monkeypatch.setattr(node.hardware, "create_gpu_instance", create)
    async with node.driver(), node.kubelet() as calls:
        assert (await calls.prepare(wanted))[wanted.uid].error == ""


async def test_a_sweep_has_the_threads_of_hardware(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, gate: threading.Event
) -> None:
    node, entered = make_node(mig_gpus=(7,)), threading.Event()

    def instances(gpu_uuid: str) -> list[mig.Instance]:
        entered.set()
        gate.wait(60)
        return []

    async with node.driver() as running:
        monkeypatch.setattr(node.hardware, "instances", instances)
        sweep = asyncio.create_task(running.recovery.sweep())
        assert await asyncio.to_thread(entered.wait, 20)
        assert threads.under_way() == ["instances GPU-node-a-7"]
        gate.set()
        await sweep


async def test_the_session_does_not_end_below_a_call(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads.Threads.close, "__defaults__", (0.05,))
    closed: list[bool] = []
    probe: Any = SimpleNamespace(close=lambda: closed.append(gate.is_set()))
    own = threads.Threads(1, "test")
    own.submit(gate.wait, 60)
    await app._let_go(probe, own)
    assert closed == []
    gate.set()
    await kubelet.until(lambda: not threads.under_way(), 20)
    await app._let_go(probe, threads.Threads(1, "test"))
    assert closed == [True]


class Slow:
    """Hardware whose discovery hangs until a test opens its gate."""

    def __init__(self, found: node.NodeTopology, gate: threading.Event) -> None:
        self.found, self.gate, self.asked = found, gate, 0

    def discover(self) -> interface.Discovered:
        self.asked += 1
        self.gate.wait(60)
        return interface.Discovered(self.found)


async def test_a_first_discovery_that_hangs_is_served_without_and_waited_for(
    tmp_path: Path, gate: threading.Event
) -> None:
    probe, told = Slow(host.machine(), gate), []
    own = threads.Threads(1, "test")
    held = await inventory.Inventory.begin(probe, "node-a", known.File(tmp_path), own, first_s=0.05)
    with pytest.raises(mig.HardwareError, match=r"^discovery: no answer for 0\.05 s; look whether nvidia-smi answers"):
        held.current()
    assert held.published.gpus == ()
    held.tell(told.append)
    work = asyncio.create_task(held.run(0.01))
    gate.set()
    await kubelet.until(lambda: told, 20)
    assert held.current() == told[0] == probe.found
    work.cancel()
    assert await own.close()
