"""The driver killed at each checkpoint write of a MIG device's life under the real kubelet, which brings it to its end.

`test_live_kill` tries all points, under a small kubelet.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dra_driver import faultpoint
from scheduler.model import machines
from tests.driver import live
from tests.testbed import cluster as clusters
from tests.testbed import fixtures, objects

pytestmark = [pytest.mark.slow, pytest.mark.testbed]

CLASS = "killed-gpu"
MIG = f"device.attributes['{live.DRIVER}'].type == 'mig' && device.attributes['{live.DRIVER}'].profile == '1g.10gb'"
WRITES = 2  # of a create, and of a destroy
START_S = 180.0  # on a loaded machine; two seconds else


@pytest.fixture(scope="module")
def driver(real_session: clusters.Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Driver]:
    """The driver on ``real-1``, a DGX A100 with one GPU in MIG mode."""
    for one in live.classes([CLASS]):
        real_session.kubectl("apply", "-f", "-", stdin=live.text(one))
    built = machines.build("dgx-a100", "real-1")
    gpus = tuple(replace(gpu, mig_enabled=gpu.index == 3) for gpu in built.gpus)
    folder = tmp_path_factory.mktemp("points") / "d"
    found = live.Driver(real_session, real_session.nodes["real-1"], replace(built, gpus=gpus), folder)
    found.arrive(START_S)
    yield found
    found.leave()


def again(driver: live.Driver, patch: pytest.MonkeyPatch, point: str = "") -> None:
    """Start it anew, to die at a point."""
    if driver.running:
        driver.kill()
    patch.setenv(faultpoint.VARIABLE, point)
    driver.start(deadline_s=START_S)


def dies(driver: live.Driver) -> None:
    """Wait for the end that was asked for."""
    live.wait("it is dead", lambda: driver.running[""].poll() == -signal.SIGKILL, 120)
    driver.running.clear()


def create(space: fixtures.Space) -> None:
    pod = objects.pod("slice", ["run"], "real-1", claims=["slice"])
    live.create(space, live.claim("slice", live.request(CLASS, MIG)), pod)


def runs(driver: live.Driver, space: fixtures.Space) -> str:
    """Return the UUID of the MIG device, which the pod has."""
    live.running(space, "slice", deadline_s=180)
    (made,) = live.instances(driver)
    assert live.report(driver.node, space, "slice")["env"]["MUSTER_DEVICES_GPU"] == made
    assert list(driver.prepared()) == [live.claim_uid(space, "slice")]
    return made


def gone(driver: live.Driver) -> bool:
    return not live.instances(driver) and not driver.prepared() and not list(driver.node.cdi.glob(f"{live.DRIVER}-*"))


@pytest.mark.parametrize("turn", range(1, WRITES + 1))
@pytest.mark.parametrize("point", ["checkpoint-temporary-written", "checkpoint-written"])
def test_killed_at_a_write_the_kubelet_brings_create_and_destroy_to_their_end(
    driver: live.Driver,
    real_nodes: clusters.Cluster,
    space: fixtures.Space,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    turn: int,
) -> None:
    again(driver, monkeypatch, f"{point}:{turn}")
    create(space)
    dies(driver)
    again(driver, monkeypatch)
    driver.node.restart_kubelet()  # it tries again at once then; else after a minute and a half
    runs(driver, space)
    again(driver, monkeypatch, f"{point}:{turn}")
    space.kubectl("delete", "pod", "slice", "--wait=false")
    dies(driver)
    again(driver, monkeypatch)
    driver.node.restart_kubelet()
    live.wait("removed", lambda: gone(driver), 180)
    space.kubectl("wait", "--for=delete", "pod/slice", "--timeout=120s")


def test_there_is_no_other_write_and_a_corrupt_checkpoint_is_told_under_the_pod(
    driver: live.Driver, real_nodes: clusters.Cluster, space: fixtures.Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    beyond = f"checkpoint-written:{WRITES + 1}"
    again(driver, monkeypatch, beyond)
    create(space)
    made = runs(driver, space)
    assert driver.running[""].poll() is None
    driver.kill()
    driver.checkpoint.write_bytes(driver.checkpoint.read_bytes()[:-20])
    again(driver, monkeypatch)
    (message,) = live.wait("the Event", lambda: told(real_nodes), 60)
    (aside,) = driver.checkpoint.parent.glob("checkpoint.json.corrupt-*")
    assert str(driver.checkpoint) in message and aside.name in message
    assert runs(driver, space) == made and live.phase(space, "slice") == "Running"
    again(driver, monkeypatch, beyond)
    live.delete(space, "slice")
    live.wait("removed", lambda: gone(driver), 180)
    assert driver.running[""].poll() is None
    again(driver, monkeypatch)


def told(home: clusters.Cluster) -> list[str]:
    """Return the messages of the Events about the node that its checkpoint is corrupt."""
    fields = "--field-selector=reason=CheckpointCorrupt,involvedObject.kind=Node,involvedObject.name=real-1"
    found = json.loads(home.kubectl("get", "events", "-n", "default", fields, "-o", "json"))
    return [one["message"] for one in found["items"]]
