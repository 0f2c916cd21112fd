"""Hardware that answers later than the driver starts, or only to another process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from dra_driver import mig
from dra_driver.probe import host, interface, late, roots
from scheduler.model import machines
from tests.hardware import library, machine, sysfs

NOT_LOADED, RM_MISMATCH = 9, 18
UUID = "GPU-node-a-0"


@pytest.fixture
def opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], interface.Probe]:
    """Return what opens the probe of a host, as the driver does it."""
    built = machines.build("dgx-a100", "node-a")
    sysfs.render(built, tmp_path / "root")
    monkeypatch.setenv("MUSTER_NVML_STATE", str(machine.render(built, tmp_path)))
    return lambda: host.probe(roots.Root(tmp_path / "root"), "node-a", library.folder() / library.NAME)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "nvml.state"


def test_a_gpu_driver_that_is_loaded_later_is_waited_for_however_long(
    opening: Callable[[], interface.Probe], state: Path
) -> None:
    machine.rule(state, "nvmlInitWithFlags", code=NOT_LOADED)
    probe = late.LateProbe(opening, misfit_s=0.0)
    for _ in range(3):
        with pytest.raises(mig.HardwareError, match="Driver Not Loaded; an NVIDIA GPU is at ") as raised:
            probe.wait(0.0)
        assert not isinstance(raised.value, interface.SessionEnded)
    machine.clear(state)
    assert probe.reading(UUID).memory_total
    probe.close()


def test_a_library_that_does_not_fit_ends_the_session_after_a_time(
    opening: Callable[[], interface.Probe], state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(late, "time", SimpleNamespace(monotonic=lambda: now_s))
    machine.rule(state, "nvmlInitWithFlags", code=RM_MISMATCH)
    probe = late.LateProbe(opening, misfit_s=60.0)

    def ends(message: str = "version mismatch") -> bool:
        with pytest.raises(mig.HardwareError, match=message) as raised:
            probe.wait(0.0)
        return isinstance(raised.value, interface.SessionEnded)

    assert not ends()
    now_s = 159.0
    assert not ends()
    now_s = 160.0
    assert ends()
    machine.clear(state)
    machine.rule(state, "nvmlInitWithFlags", code=NOT_LOADED)
    assert not ends("Driver Not Loaded")
    machine.clear(state)
    machine.rule(state, "nvmlInitWithFlags", code=RM_MISMATCH)
    now_s = 500.0
    assert not ends(), "the time before the GPU driver was unloaded counts"
    machine.clear(state)
    assert probe.reading(UUID).memory_total
    probe.close()
