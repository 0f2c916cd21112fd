"""The set of events over GPUs that come and go, calls that fail, and a session that ends."""

from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from dra_driver import mig
from dra_driver.probe import interface, nvml, roots
from scheduler.model import machines
from tests.hardware import library, machine, sysfs

UNINITIALIZED, NOT_LOADED, RM_MISMATCH, UNKNOWN = 1, 9, 18, 999


class Sets:
    """Counts the sets that are not freed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.open, create, free = 0, pynvml.nvmlEventSetCreate, pynvml.nvmlEventSetFree

        def created() -> object:
            self.open += 1
            return create()

        def freed(events: object) -> object:
            self.open -= 1
            return free(events)

        patch.setattr(pynvml, "nvmlEventSetCreate", created)
        patch.setattr(pynvml, "nvmlEventSetFree", freed)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    wanted = machines.build("dgx-1v", "node-a")
    sysfs.render(wanted, tmp_path)
    found = machine.render(wanted, tmp_path)
    monkeypatch.setenv("MUSTER_NVML_STATE", str(found))
    return found


@pytest.fixture
def probe(path: Path, tmp_path: Path) -> Iterator[nvml.NvmlProbe]:
    made = nvml.NvmlProbe(roots.Root(tmp_path), "node-a", library.folder() / library.NAME)
    yield made
    made.close()


def told(found: list[interface.Event]) -> list[tuple[str, int]]:
    return [(one.gpu_uuid[-1], one.data) for one in found]


def test_a_gpu_that_comes_back_is_followed_and_nothing_is_lost_meanwhile(
    probe: nvml.NvmlProbe, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = Sets(monkeypatch)
    machine.change(path, 3, lost=1)
    probe.discover()
    assert probe.wait(0) == []
    machine.change(path, 3, lost=0)
    machine.xid(path, 5, 31)
    probe.discover()
    assert told(probe.wait(0)) == [("5", 31)], "what the set before had"
    machine.xid(path, 3, 79)
    assert told(probe.wait(1)) == [("3", 79)]
    probe.discover()
    assert probe.wait(0) == [] and sets.open == 1


def test_a_gpu_that_fails_costs_the_others_nothing(
    probe: nvml.NvmlProbe, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = Sets(monkeypatch)
    machine.rule(path, "nvmlDeviceRegisterEvents", code=UNKNOWN, gpu=1)
    assert probe.wait(0) == []
    machine.xid(path, 0, 31)
    machine.xid(path, 2, 43)
    assert told(probe.wait(1)) == [("0", 31), ("2", 43)] and sets.open == 1
    machine.clear(path)
    probe.discover()
    assert probe.wait(0) == []
    machine.xid(path, 1, 79)
    assert told(probe.wait(1)) == [("1", 79)] and sets.open == 1


@pytest.mark.parametrize("call", ["nvmlEventSetWait_v2", "nvmlDeviceGetCount_v2"])
def test_after_an_error_there_is_another_set_and_none_is_left_over(
    probe: nvml.NvmlProbe, path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    sets = Sets(monkeypatch)
    machine.rule(path, call, code=UNKNOWN, times=3)
    for _ in range(3):
        with pytest.raises(mig.HardwareError, match="Unknown Error"):
            probe.wait(0)
        assert sets.open == 0
    assert probe.wait(0) == []
    machine.xid(path, 4, 79)
    assert told(probe.wait(1)) == [("4", 79)] and sets.open == 1


def test_an_event_of_no_gpu_that_is_known_is_dropped_and_told(
    probe: nvml.NvmlProbe, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe.wait(0) == []
    probe._news._uuids.clear()
    machine.xid(path, 4, 79)
    assert probe.wait(0.1) == []
    assert "an event of no GPU that is known" in capsys.readouterr().out


@pytest.mark.parametrize("code", [UNINITIALIZED, NOT_LOADED, RM_MISMATCH])
def test_a_driver_that_is_unloaded_or_replaced_ends_the_session(probe: nvml.NvmlProbe, path: Path, code: int) -> None:
    uuid = "GPU-node-a-0"
    calls = {
        "nvmlEventSetWait_v2": lambda: probe.wait(0),
        "nvmlDeviceGetHandleByUUID": lambda: probe.reading(uuid),
        "nvmlDeviceGetPowerUsage": lambda: probe.reading(uuid),
        "nvmlDeviceGetCount_v2": probe.discover,
    }
    for name, call in calls.items():
        machine.rule(path, name, code=code)
        with pytest.raises(interface.SessionEnded):
            call()
        machine.clear(path)
    probe.discover()


def test_a_session_that_never_began_has_not_ended(path: Path, tmp_path: Path) -> None:
    """The driver waits for hardware that is not there yet instead of starting again and again."""
    machine.rule(path, "nvmlInitWithFlags", code=NOT_LOADED)
    with pytest.raises(mig.HardwareError) as error:
        nvml.NvmlProbe(roots.Root(tmp_path), "node-a", library.folder() / library.NAME)
    assert not isinstance(error.value, interface.SessionEnded)
