"""The health model: what comes, what stays, what goes."""

from dataclasses import replace

import pytest

from dra_driver import healthstream
from dra_driver.health import model, severity, source
from dra_driver.probe import interface, news
from scheduler.model import device, machines, slices
from tests.driver import host

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


@pytest.mark.parametrize("kind", news.EVENTS.values())
def test_each_event_that_is_asked_for_has_a_meaning(kind: str) -> None:
    """A kind that is left out of the model would be lost without a word."""
    after = model.event(FINE, interface.Event("GPU-0", kind, 79), 1)
    assert bool(after.faults) == (kind not in model.QUIET)
    later = model.reading(after, READ, 2 + model.FADE_S)
    lasting = {"xid": "NoExecute", "ecc-double-bit": "NoSchedule", "ecc-storm": "NoSchedule", "poison": "NoSchedule",
               "fatal-poison": "NoExecute", "row-retirement-failure": "NoExecute"}  # fmt: skip
    assert [fault.taint[2] for fault in later.faults.values()] == ([lasting[kind]] if kind in lasting else [])


@pytest.mark.parametrize(
    ("facts", "value", "effect"),
    [
        ({"fabric_state": 3, "fabric_status": 0, "fabric_health": 1, "fabric_mask": 0x51AA}, "", ""),
        ({"fabric_state": 2}, "not-ready", "NoSchedule"),
        ({"fabric_state": 3, "fabric_status": 999}, "failed", "NoSchedule"),
        ({"fabric_state": 3, "fabric_health": 2}, "unhealthy", "NoSchedule"),
        ({"fabric_state": 3, "fabric_mask": 1 << 4}, "unhealthy", "NoSchedule"),
        ({"fabric_state": 3, "fabric_mask": 5 << 8}, "unhealthy", "NoSchedule"),
        ({"fabric_state": 3, "fabric_health": 3}, "limited", "None"),
        ({"fabric_state": 3, "fabric_mask": 1}, "limited", "None"),
    ],
)
def test_the_fabric_is_as_well_as_state_status_and_mask_say(facts: dict[str, int], value: str, effect: str) -> None:
    faults = model.reading(FINE, interface.Reading("GPU-0", **facts), 1).faults  # type: ignore[arg-type]
    assert [fault.taint for fault in faults.values()] == [("gpu.muster.dev/fabric", value, effect)] * bool(value)


def test_source_lists_every_device_and_tells_changes() -> None:
    card = device.Accelerator(0, "npu", "Gaudi3", "0000:e0:00.0")
    machine = replace(host.machine("hgx-h100", mig_gpus=(3,)), accelerators=(card,))
    known = {gpu.uuid: model.Health(gpu.uuid, {}) for gpu in machine.gpus}
    stream, read_at = source.Source("n1", lambda: 0.0), {gpu.uuid: 0.0 for gpu in machine.gpus}
    assert stream.tell(machine, known, read_at) and not stream.tell(machine, known, read_at)
    uuid = machine.gpus[3].uuid
    known[uuid] = model.event(known[uuid], interface.Event(uuid, "xid", 79), 3)
    assert stream.tell(machine, known, read_at)
    published = {each["name"] for part in slices.encode(machine) for each in part["spec"].get("devices", ())}
    told = {each.device: each for each in stream.current()}
    assert set(told) == published | {"gpu-3"} and len(machine.nics) > 0
    sick = {name for name, each in told.items() if each.health is healthstream.Health.UNHEALTHY}
    assert sick == {name for name in told if name.startswith("gpu-3")}
    unwatched = {name: each.message for name, each in told.items() if each.health is healthstream.Health.UNKNOWN}
    others = {other.device_name for other in (*machine.nics, card)}
    assert unwatched == dict.fromkeys(others, source.UNWATCHED)


def test_a_reading_that_is_too_old_says_nothing_any_more() -> None:
    """The stream sends the list again and again, and the kubelet takes each for news."""
    machine, now = machines.build("dgx-1v", "n1"), [100.0]
    known = {gpu.uuid: model.Health(gpu.uuid, {}) for gpu in machine.gpus}
    hangs, sick, never = (machine.gpus[i].uuid for i in (2, 3, 4))
    known[sick] = model.event(known[sick], interface.Event(sick, "xid", 79), 3)
    stream = source.Source("n1", lambda: now[0])
    read_at = dict.fromkeys(known, 130.5) | {hangs: 100.0, sick: 100.0}
    del read_at[never]
    stream.tell(machine, known, read_at)
    states = [each.health.name for each in stream.current()][:5]
    assert states == ["HEALTHY", "HEALTHY", "HEALTHY", "UNHEALTHY", "UNKNOWN"]
    now[0] += healthstream.TIMEOUT_S + 0.5
    told = stream.current()
    assert [each.health.name for each in told][:5] == ["HEALTHY", "HEALTHY", "UNKNOWN", "UNHEALTHY", "UNKNOWN"]
    assert told[0].updated_s - told[2].updated_s in (30, 31)
    assert stream.tell(machine, known, read_at), "that it became unknown is news"


@pytest.mark.parametrize(
    ("xid", "name"),
    [(8, "INFORM"), (11, "INFORM"), (13, "INFORM"), (43, "INFORM"), (63, "INFORM"), (94, "DEGRADED"), (109, "DEGRADED"),
     (145, "DEGRADED"), (46, "FATAL"), (48, "FATAL"), (74, "FATAL"), (79, "FATAL"), (95, "FATAL"), (999, "DEGRADED")],
)  # fmt: skip
def test_an_xid_is_as_bad_as_the_catalogue_says(xid: int, name: str) -> None:
    assert severity.of_xid(xid).name == name
