"""The whole driver killed with SIGKILL at every point of its work, each time that it comes there, and continued.

How often a point is reached is counted in a run that nobody kills, so that a new write cannot be forgotten. API server and
kubelet are small ones in this process, which makes a try so short that every write gets one; `test_live_kill_points` shows
a part of it under the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from dra_driver import claim, faultpoint
from tests.driver import kubelet, live
from tests.driver.victim import GPU, UP_S, Server, Victim, calling, prepared, serving, victim
from tests.driver.zygote import Zygote
from tests.hardware import machine

pytestmark = pytest.mark.slow

SCENES = {
    "service": (
        "checkpoint-",
        "mig-gpu",
        "mig-created",
        "mig-compute",
        "mig-destroyed",
        "hardware-",
        "metadata-",
        "cdi-",
        "devices-",
    ),
    "fault": ("faults-", "taints-"),
    "damaged": ("checkpoint-", "hardware-"),
    "lost": ("checkpoint-", "hardware-"),
    "reboot": ("checkpoint-", "mig-", "hardware-", "cdi-"),
    "leftover": ("mig-", "cdi-"),
    "half": ("checkpoint-", "mig-", "cdi-"),
}
"""What the driver does in its life, and the points that it reaches in it, by how their names begin."""
CASES = [(scene, points) for scene, found in SCENES.items() for points in found]
MADE = {(GPU, 6, True), (GPU, 4, True)}


@dataclass
class Scene:
    """One part of the driver's life, which can be played again and again from the same beginning."""

    name: str
    driver: Victim
    server: Server
    giving_back: bool = False  # the kubelet was about to give the claims back

    @property
    def mine(self) -> list[claim.Reference]:
        return [self.server.claims["cut"], self.server.claims["whole"]]

    async def set_up(self) -> Path:
        """Make the beginning, and keep it."""
        driver, path = self.driver, self.driver.checkpoint
        if self.name == "service":
            return driver.save()
        assert await driver.come_up("mig-created" if self.name == "half" else "")
        empty = path.read_bytes()
        if self.name != "fault":
            async with calling(driver) as calls:
                assert await prepared(calls, self.mine[1]) == [""]
                with contextlib.suppress(grpc.aio.AioRpcError):
                    assert await prepared(calls, self.mine[0]) == [""]
        if self.name == "half":
            self.died()
            await self.server.delete("cut")
        else:
            driver.kill()
        match self.name:
            case "damaged":
                path.write_bytes(path.read_bytes()[:-20])
            case "lost":
                path.unlink()
            case "reboot":
                driver.reboot()
            case "leftover":
                path.write_bytes(empty)
        return driver.save()

    async def play(self, point: str = "") -> None:
        """Let the driver work to the end of the scene, or die at a point of it."""
        self.giving_back = False
        if not await self.driver.come_up(point):
            return
        if self.name == "service":
            try:
                await self.serve()
            except grpc.aio.AioRpcError:  # it is dying; the connection ends before the process does
                await kubelet.until(lambda: self.driver.code is not None, UP_S)
        while self.name == "fault" and self.driver.code is None and not self.over():
            machine.xid(self.driver.state, 3, 79)  # one that comes before the driver follows events is not seen
            await asyncio.sleep(0.2)
        await kubelet.until(lambda: self.driver.code is not None or self.over(), UP_S)
        name, _, turn = point.partition(":")
        if point and self.driver.reached()[name] >= int(turn):  # it is dying
            await kubelet.until(lambda: self.driver.code is not None, UP_S)

    async def serve(self) -> None:
        """Prepare and unprepare, one after the other, so that no two share a write."""
        async with calling(self.driver) as calls:
            for one in self.mine:
                assert await prepared(calls, one) == [""]
            self.giving_back = True
            for one in self.mine:
                assert set((await calls.unprepare(one)).values()) == {""}

    def over(self) -> bool:
        """Tell whether the scene has come to its end."""
        match self.name:
            case "service" | "leftover":
                return (self.driver.made(), self.driver.files(), self.driver.prepared()) == (set(), 0, {})
            case "fault":
                return (self.driver.plugins / live.DRIVER / "taints.json").exists()
            case "half":
                return set(self.driver.prepared()) == {self.mine[1].uid} and not self.driver.made()
        return self.complete()

    def complete(self) -> bool:
        """Tell whether both claims are prepared, wholly."""
        known = {one.uid for one in self.mine}
        return (self.driver.made(), self.driver.files(), set(self.driver.prepared())) == (MADE, 4, known)

    def died(self) -> None:
        """The end that was asked for, and no other."""
        assert self.driver.running.pop("").wait(UP_S) == -signal.SIGKILL, self.driver.told()[-3000:]

    async def go_on(self) -> None:
        """Start it again, repeat the call that had no answer, as the kubelet does, then look for loss and double use."""
        assert await self.driver.come_up(), self.driver.told()[-3000:]
        if self.name not in ("service", "fault"):
            await kubelet.until(self.over, UP_S)
        async with calling(self.driver) as calls:
            if self.giving_back:
                assert set((await calls.unprepare(*self.mine)).values()) == {""}
                assert self.over()
            if self.name == "half":
                assert "default/cut" in (await prepared(calls, self.mine[0]))[0]
                assert set((await calls.unprepare(*self.mine)).values()) == {""}
            else:
                await self.taken_and_given_back(calls)
            assert (self.driver.made(), self.driver.files(), self.driver.prepared()) == (set(), 0, {})
            others = [self.server.claims["overlaps"], self.server.claims["rival"]]
            assert await prepared(calls, *others) == ["", ""]

    async def taken_and_given_back(self, calls: kubelet.Kubelet) -> None:
        assert await prepared(calls, *self.mine) == ["", ""]
        assert self.complete()
        for spec in self.driver.node.cdi.glob("*.json"):
            json.loads(spec.read_text())
        others = [self.server.claims["overlaps"], self.server.claims["rival"]]
        refused = await prepared(calls, *others)
        assert all("is held by" in error for error in refused), refused
        assert set((await calls.unprepare(*self.mine)).values()) == {""}


@contextlib.asynccontextmanager
async def opened(name: str, folder: Path, starter: Zygote) -> AsyncIterator[Scene]:
    async with serving(folder) as server:
        with victim(folder / "n", server.kubeconfig, starter) as driver:
            yield Scene(name, driver, server)


@pytest.mark.parametrize(("name", "points"), CASES)
async def test_killed_at_every_write_it_goes_on_without_loss_or_double_use(
    short_folder: Path, starter: Zygote, name: str, points: str
) -> None:
    async with opened(name, short_folder, starter) as scene:
        begin = await scene.set_up()
        await scene.play()
        assert scene.driver.code is None and scene.over(), scene.driver.told()[-3000:]
        counted = scene.driver.reached()
        scene.driver.kill()
        forgotten = [one for one in counted if not any(one.startswith(start) for start in SCENES[name])]
        assert not forgotten, "points that no case of this scene tries"
        wanted = [(one, turn) for one in counted if one.startswith(points) for turn in range(1, counted[one] + 1)]
        assert wanted, "no such point is reached any more"
        for one, turn in wanted:
            scene.driver.bring_back(begin)
            await scene.play(f"{one}:{turn}")
            if scene.driver.code is None:
                # Claims that are taken over side by side may share a write, which then is one less.
                assert name in ("damaged", "lost", "reboot") and turn == counted[one] > 1 and scene.over(), (one, turn)
                scene.driver.kill()
            else:
                scene.died()
            try:
                await scene.go_on()
            except Exception as error:
                raise AssertionError(f"killed at {one}, turn {turn}: {scene.driver.told()[-3000:]}") from error
            scene.driver.kill()


def test_every_point_is_tried() -> None:
    starts = tuple(start for found in SCENES.values() for start in found)
    assert all(point.startswith(starts) for point in faultpoint.POINTS)


async def test_a_corrupt_checkpoint_is_told_through_the_api_server(short_folder: Path, starter: Zygote) -> None:
    async with opened("damaged", short_folder, starter) as scene:
        await scene.set_up()
        assert await scene.driver.come_up()
        async with asyncio.timeout(UP_S):
            while not (told := await scene.server.events("CheckpointCorrupt")):
                await asyncio.sleep(0.02)
        (message,) = told
        (aside,) = scene.driver.checkpoint.parent.glob("checkpoint.json.corrupt-*")
        assert str(scene.driver.checkpoint) in message and aside.name in message
        assert scene.complete()


def test_without_the_variable_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(faultpoint.VARIABLE, raising=False)
    for point in faultpoint.POINTS:
        faultpoint.reach(point)
