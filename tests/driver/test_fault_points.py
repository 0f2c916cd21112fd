"""The driver killed with SIGKILL at every fault point, and continued by the next process."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dra_driver import claim, faultpoint, prepared
from tests.driver import child, host, objects

UID = claim.ClaimUid(objects.uid(1))
ROOT = Path(__file__).resolve().parents[2]
OF_UNPREPARE = ("mig-compute-instance-destroyed", "mig-destroyed", "cdi-removed")
TWICE = ("mig-gpu-instance-created", "mig-created", "hardware-changed", "checkpoint-written")


def run(root: Path, call: str, point: str = "") -> int:
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", faultpoint.VARIABLE: point}
    done = subprocess.run(
        [sys.executable, "-m", "tests.driver.child", str(root), call],
        cwd=ROOT,
        env=env,
        timeout=60,
        capture_output=True,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


def look(root: Path) -> tuple[prepared.Claim | None, bool, list[tuple[int, int]]]:
    """Return the record, whether the CDI file is there, and the instances that are complete."""
    parts = host.parts(root, host.machine(mig_gpus=(7,)), child.claims())
    rows = [(row.profile_id, row.start) for row in parts.hardware._all() if row.uuid]
    assert len(rows) == len(parts.hardware._all()), "an instance without its compute instance is left over"
    return parts.store.read().claims.get(UID), parts.cdi.file(UID).exists(), sorted(rows)


@pytest.mark.slow
@pytest.mark.parametrize("point", [p for p in faultpoint.POINTS if p not in OF_UNPREPARE] + [f"{p}:2" for p in TWICE])
def test_killed_while_it_prepares(tmp_path, point):
    root = tmp_path / "n"
    host.lay_out(root, host.machine(mig_gpus=(7,)))
    assert run(root, "prepare", point) == -signal.SIGKILL
    run(root, "start")
    run(root, "prepare")
    entry, has_file, rows = look(root)
    assert entry.phase is prepared.Phase.COMPLETED
    assert has_file
    assert rows == [(14, 4), (19, 6)]
    run(root, "unprepare")
    assert look(root) == (None, False, [])


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    [*OF_UNPREPARE, "mig-destroyed:2", "checkpoint-temporary-written", "checkpoint-written", "checkpoint-written:2"],
)
def test_killed_while_it_unprepares(tmp_path, point):
    root = tmp_path / "n"
    host.lay_out(root, host.machine(mig_gpus=(7,)))
    run(root, "prepare")
    assert run(root, "unprepare", point) == -signal.SIGKILL
    run(root, "start")
    run(root, "unprepare")
    assert look(root) == (None, False, [])


def test_without_the_variable_nothing_happens(monkeypatch):
    monkeypatch.delenv(faultpoint.VARIABLE, raising=False)
    for point in faultpoint.POINTS:
        faultpoint.reach(point)
