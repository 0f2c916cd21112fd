"""MPS control daemons: one for each name, with its settings, whoever started it and whatever failed before."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dra_driver import prepared, programs, sharing
from tests.driver import host, objects, small_disk

WITHIN_S = 30.0
SETTINGS = prepared.Mps("job", 40, 1024)
COMMANDS = ["set_default_active_thread_percentage 40", "set_default_device_pinned_mem_limit 0 1024M"]
UUIDS = [host.machine().gpus[0].uuid]


def lines(root: Path, name: str) -> list[str]:
    path = root / name
    return path.read_text().splitlines() if path.exists() else []


async def until(true: object) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not true():
            await asyncio.sleep(0.05)


@pytest.fixture
async def root(tmp_path: Path) -> AsyncIterator[Path]:
    """A node's files; daemons that a test leaves are ended."""
    root = tmp_path / "host"
    host.lay_out(root, host.machine())
    yield root
    for control in root.glob("mps/*/pipe/control"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(control.read_text()), signal.SIGKILL)


def daemon(root: Path) -> sharing.Daemon:
    found = programs.of_host(root, str(root), "/")
    return sharing.Daemon("job", root / "mps/job", found, memory_mib=0)


async def test_after_a_stop_that_failed_the_daemon_can_be_had_again(root: Path) -> None:
    mps = daemon(root)
    await mps.ensure(SETTINGS, UUIDS)
    (root / "smi.broken").touch()
    with pytest.raises(programs.SharingError, match="exit status 9"):
        await mps.stop()
    (root / "smi.broken").unlink()
    async with asyncio.timeout(WITHIN_S):
        await mps.ensure(SETTINGS, UUIDS)
    assert len(lines(root, "mps.started")) == 2
    await mps.stop()
    assert lines(root, "smi.log")[-1] == f"-i {UUIDS[0]} -c DEFAULT"
    assert not (root / "mps/job").exists()


async def test_a_daemon_that_answers_is_taken_over_with_the_settings(root: Path) -> None:
    old, new = daemon(root), daemon(root)
    await old.ensure(prepared.Mps("job"), UUIDS)
    await old.leave()
    (root / "mps.log").unlink()
    await new.ensure(SETTINGS, UUIDS)
    assert [one for one in lines(root, "mps.log") if one.startswith("set_")] == COMMANDS
    assert len(lines(root, "mps.started")) == 1 and lines(root, "mps.refused") == []
    os.kill(int((root / "mps/job/pipe/control").read_text()), signal.SIGKILL)
    await until(lambda: [one for one in lines(root, "mps.log") if one.startswith("set_")] == COMMANDS * 2)
    assert len(lines(root, "mps.started")) == 2
    await new.stop()


async def test_two_that_start_at_once_have_one_daemon(root: Path) -> None:
    old, new = daemon(root), daemon(root)
    await asyncio.gather(old.ensure(SETTINGS, UUIDS), new.ensure(SETTINGS, UUIDS))
    await old.leave()
    assert await new._answers()
    await new.stop()
    assert not (root / "mps/job").exists()


async def test_a_start_that_failed_is_tried_again(root: Path) -> None:
    mps = daemon(root)
    (root / "mps.broken").touch()
    with pytest.raises(programs.SharingError, match="at start"):
        await mps.ensure(SETTINGS, UUIDS)
    (root / "mps.broken").unlink()
    await until(lambda: COMMANDS[-1] in lines(root, "mps.log"))
    await mps.stop()


async def test_a_daemon_of_other_devices_is_replaced(root: Path) -> None:
    mps, others = daemon(root), ["MIG-after-the-reset"]
    await mps.ensure(SETTINGS, ["MIG-before-it"])
    await mps.ensure(SETTINGS, others)
    assert lines(root, "mps.started") == ["MIG-before-it", *others]
    await mps.stop()


@pytest.fixture
def entered(short_folder: Path) -> Path:
    """A root that has all that its programs need, so that they run nowhere else; of a host that is not this machine."""
    with small_disk.mounted(short_folder / "allowed"):
        pass
    root = short_folder / "host"
    host.lay_out(root, host.machine())
    for name in ("tmp", "dev/shm", "bin"):
        (root / name).mkdir(parents=True)
    for name in ("sh", "cat", "rm", "sleep", "tee"):
        program = Path(shutil.which(name) or "").resolve()
        shutil.copy(program, root / "bin" / name)
        needed = subprocess.run(["ldd", str(program)], check=True, capture_output=True, text=True).stdout
        for library in (word for word in needed.split() if word.startswith("/")):
            (root / library.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(library).resolve(), root / library.lstrip("/"))
    check = "#!/bin/sh\n[ -e /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.580.126.20 ] || exit 12\n"
    for name in ("nvidia-smi", "nvidia-cuda-mps-control"):
        path = root / "usr/bin" / name
        path.write_text(check + path.read_text().replace(str(root), "").replace('"/', '"/dev/shm/'))
    return root


async def test_programs_run_below_the_root_of_the_gpu_driver_and_share_memory_of_a_limited_size(
    entered: Path, tmp_path: Path
) -> None:
    found = programs.of_host(entered, "/", "/")
    daemons = sharing.Daemons(tmp_path / "mps", "/var/lib/mps", found, memory_mib=3)
    memory = tmp_path / "mps/job/shm"
    try:
        await daemons.ensure(SETTINGS, UUIDS)
        assert memory.is_mount() and os.statvfs(memory).f_blocks * os.statvfs(memory).f_frsize == 3 * 1024**2
        assert lines(memory, "mps.started") == UUIDS, "what the daemon has as /dev/shm is what containers get"
        assert [one for one in lines(memory, "mps.log") if one.startswith("set_")] == COMMANDS
        assert lines(entered, "dev/shm/smi.log") == [f"-i {UUIDS[0]} -c EXCLUSIVE_PROCESS"]
        mounts = {one.container_path: one.host_path for one in daemons.edits(SETTINGS, 1000).mounts}
        assert mounts == {"/tmp/nvidia-mps": "/var/lib/mps/job/pipe", "/dev/shm": "/var/lib/mps/job/shm"}
        assert list((entered / "tmp").iterdir()) == [], "what is mounted for the daemon is seen by it alone"
    finally:
        await daemons.stop("job")
    assert not memory.exists()
    assert lines(entered, "dev/shm/smi.log")[-1] == f"-i {UUIDS[0]} -c DEFAULT"


@pytest.mark.parametrize("device", ["gpu-0", "gpu-7-mig-1g10gb-19-6"])
async def test_a_limit_for_a_device_that_the_claim_does_not_have_is_refused(make_node, device: str) -> None:
    node = make_node(mig_gpus=(7,))
    limits = {"strategy": "MPS", "mpsConfig": {"pinnedDeviceMemoryLimits": {node.machine.gpus[3].uuid: "1Gi"}}}
    config = (objects.mig_config if "mig" in device else objects.gpu_config)(sharing=limits)
    async with node.driver(), node.kubelet() as calls:
        wanted = node.claims.add(objects.claim(1, device, configs=[objects.config(config)]))
        error = (await calls.prepare(wanted))[wanted.uid].error
        assert "pinnedDeviceMemoryLimits" in error and node.machine.gpus[3].uuid in error
        assert lines(node.root, "mps.started") == []
        assert await calls.unprepare(wanted) == {wanted.uid: ""}
        assert node.hardware._all() == []
