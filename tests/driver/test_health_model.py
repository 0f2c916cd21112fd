"""The health model: what comes, what stays, what goes."""

import pytest

from dra_driver import healthstream
from dra_driver.health import model, severity, source
from dra_driver.probe import interface
from scheduler.model import machines

FINE = model.Health("GPU-0", {})
READ = interface.Reading("GPU-0", ecc_uncorrected=0)


def test_fatal_xid_stays_until_reset_and_is_not_hidden_by_a_lesser_one() -> None:
    sick = model.event(FINE, interface.Event("GPU-0", "xid", 79), 10)
    sick = model.event(sick, interface.Event("GPU-0", "xid", 31), 20)
    sick = model.reading(sick, READ, 10_000)
    assert [f.taint for f in sick.faults.values()] == [("gpu.muster.dev/xid", "79", "NoExecute")]
    assert sick.faults["xid"].since_s == 10 and not sick.healthy and "XID 79" in sick.message
    assert model.reset(sick).healthy


def test_xid_of_a_program_fades() -> None:
    told = model.event(FINE, interface.Event("GPU-0", "xid", 31), 10)
    assert told.healthy and told.faults["xid"].taint[2] == "None"
    assert not model.reading(told, READ, 11 + model.FADE_S).faults


def test_polled_fault_keeps_its_time_and_ends_with_the_reading() -> None:
    lost = interface.Reading("GPU-0", lost=True)
    sick = model.reading(model.reading(FINE, lost, 10), lost, 20)
    assert sick.faults["gpu-lost"].since_s == 10
    assert model.reading(sick, READ, 30).healthy


def test_only_new_ecc_errors_count() -> None:
    old = model.reading(FINE, interface.Reading("GPU-0", ecc_uncorrected=5), 1)
    assert old.healthy
    sick = model.reading(old, interface.Reading("GPU-0", ecc_uncorrected=6), 2)
    again = model.reading(sick, interface.Reading("GPU-0", ecc_uncorrected=6), 3)
    assert not again.healthy and again.faults["ecc"].since_s == 2
    assert model.reading(again, interface.Reading("GPU-0", ecc_uncorrected=0), 4).healthy


def test_each_reading_has_its_fault() -> None:
    said = {"remap_failed": True}, {"remap_pending": True}, {"recovery_action": 1}, {"links_down": (3,)}
    for facts in (*said, {"fabric_state": 2}, {"fabric_state": 3, "fabric_health": 2}):
        assert not model.reading(FINE, interface.Reading("GPU-0", **facts), 1).healthy, facts  # type: ignore[arg-type]


def test_source_lists_every_device_and_tells_changes() -> None:
    machine = machines.build("dgx-1v", "n1")
    known = {gpu.uuid: model.Health(gpu.uuid, {}) for gpu in machine.gpus}
    stream = source.Source("n1")
    assert stream.tell(machine, known, 1) and not stream.tell(machine, known, 2)
    uuid = machine.gpus[3].uuid
    known[uuid] = model.event(known[uuid], interface.Event(uuid, "xid", 79), 3)
    assert stream.tell(machine, known, 3)
    sick = [d.device for d in stream.current() if d.health is healthstream.Health.UNHEALTHY]
    assert sick == ["gpu-3"] and len(stream.current()) == 8


@pytest.mark.parametrize(
    ("xid", "name"),
    [(8, "INFORM"), (11, "INFORM"), (13, "INFORM"), (43, "INFORM"), (63, "INFORM"), (94, "DEGRADED"), (109, "DEGRADED"),
     (145, "DEGRADED"), (46, "FATAL"), (48, "FATAL"), (74, "FATAL"), (79, "FATAL"), (95, "FATAL"), (999, "DEGRADED")],
)  # fmt: skip
def test_an_xid_is_as_bad_as_the_catalogue_says(xid: int, name: str) -> None:
    assert severity.of_xid(xid).name == name
