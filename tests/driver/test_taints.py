"""Times of taints over a restart and a recovery."""

from pathlib import Path

from dra_driver.health import model, taints
from dra_driver.probe import interface


def told(path: Path, health: model.Health) -> dict[str, list[taints.Taint]]:
    """Return the taints of a driver that was started just now."""
    times = taints.Times(path)
    found = times.taints({"GPU-0": health})
    times.write()
    return found


def test_times_survive_a_restart_and_end_with_the_fault(tmp_path: Path) -> None:
    path, fine = tmp_path / "taints.json", model.Health("GPU-0", {})
    lost = interface.Reading("GPU-0", lost=True)
    first = told(path, model.reading(fine, lost, 10))
    assert first["GPU-0"][0]["timeAdded"] == "1970-01-01T00:00:10Z"
    assert told(path, model.reading(fine, lost, 99)) == first
    assert told(path, fine) == {}
    later = told(path, model.reading(fine, lost, 99))
    assert later["GPU-0"][0]["timeAdded"] == "1970-01-01T00:01:39Z"


def test_a_broken_file_is_no_failure(tmp_path: Path) -> None:
    path = tmp_path / "taints.json"
    path.write_text("{")
    assert taints.Times(path).taints({}) == {}
    path.unlink()
    path.mkdir()
    assert taints.Times(path).taints({}) == {}
