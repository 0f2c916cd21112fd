"""What was written down is decided again, byte for byte."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.gang import config, events
from scheduler.model import admission, machines
from scheduler.model import gang as gangs
from scheduler.placement import scoring
from scheduler.record import fleet, journal, line, replay
from scheduler.snapshot import state
from tests.gang import test_machine_live as live
from tests.placement import fleets


def run(folder: Path, seed: int, steps: int = 120, term: str = "t1") -> journal.Journal:
    """Tell a machine anything, a change of its fleet included."""
    dice = random.Random(seed)
    core = live.core(preempt=dice.random() < 0.5, reservation_s=dice.choice((0.0, 3.0)))
    log = journal.Journal(core, folder, term)
    other = live.core().scoring
    for step in range(steps):
        name, node = f"g{dice.randrange(12)}", dice.choice(live.NAMES)
        one = live.gang(name, dice.randint(1, 4), dice.choice((1, 2, 4)), dice.choice(("", "rack")))
        event: events.Event = dice.choice(
            (
                events.GangSubmitted(one),
                events.GangSubmitted(one),
                events.GangFinished(name),
                events.GangChanged(one, tuple(range(-1, one.size - 1))),
                events.Bound(name),
                events.BindFailed(name),
                events.Occupied(f"x{step % 3}", node, state.Grant(0, dice.randint(1, 15), 1000, 100)),
                events.Vacated(f"x{step % 3}"),
                events.NodeCordoned(node),
                events.NodeUncordoned(node),
                events.DeviceFailed(node, 1),
                events.DeviceRepaired(node, 1),
                events.Adopted(one, (state.Grant(0, 1, 1000, 1000),)) if one.size == 1 else events.Tick(),
                events.TopologyChanged(other if dice.random() < 0.1 else core.scoring),
                events.QuotasChanged((config.Quota("default", dice.randint(0, 24)),)),
            )
        )
        log.handle(event, step * 0.37)
    log.close()
    return log


def bound(dice: random.Random, one: gangs.Gang) -> gangs.Gang:
    """Return a gang that says on which nodes it may be, or whose places others have chosen."""
    [role] = one.roles
    pool = admission.Requirement("pool", dice.choice(("In", "NotIn")), (dice.choice("ab"),))
    term = (admission.Requirement("metadata.name", "NotIn", (dice.choice(live.NAMES),), field=True),)
    tolerations = dice.choice(((), (admission.Toleration("k", "Equal", "v"),)))
    nodes = admission.Admission((pool,), dice.choice(((), (term,))), tolerations)
    hosts = tuple(gangs.Place(name, 1) for name in dice.sample(live.NAMES, role.count))
    places = dice.choice(((), hosts, (gangs.Place("b0/r1", role.count),)))
    return replace(one, roles=(replace(role, request=replace(role.request, nodes=nodes), places=places),))


def pooled() -> scoring.Scoring:
    """Return the fleet of the machine with pools, and taints on some nodes."""
    paths = {name: ("b0", name[:2]) for name in live.NAMES}
    built = {
        name: replace(
            fleets.machine(name, 4, 16),
            labels=(("pool", "ab"[turn % 2]),),
            taints=(("k", "v", "NoSchedule"),) if turn > 3 else (),
        )
        for turn, name in enumerate(live.NAMES)
    }
    return scoring.compile_scoring(live.core().scoring.policy, fleets.fleet(paths, built))


@pytest.mark.parametrize("seed", range(8))
def test_a_log_with_selectors_taints_and_given_places_replays(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    core = live.core(preempt=dice.random() < 0.5)
    log = journal.Journal(core, tmp_path, "t1")
    log.handle(events.TopologyChanged(pooled()), 0.0)
    for step in range(80):
        name = f"g{dice.randrange(10)}"
        one = bound(dice, live.gang(name, dice.randint(1, 4), dice.choice((2, 4)), priority=dice.randrange(3)))
        event: events.Event = dice.choice(
            (
                events.GangSubmitted(one),
                events.GangSubmitted(one),
                events.GangFinished(name),
                events.GangChanged(one, tuple(range(-1, one.size - 1))),
            )
        )
        log.handle(event, step * 0.1)
        core.check_invariants()
    log.close()
    found = replay.replay(tmp_path)
    assert found.difference is None and found.starts > 0 and found.refusals > 0


@pytest.mark.parametrize("seed", range(8))
def test_any_log_replays(tmp_path: Path, seed: int) -> None:
    written = run(tmp_path, seed)
    found = replay.replay(tmp_path)
    assert found.difference is None
    assert (found.events, found.starts > 0) == (120, True)
    assert written.machine.decisions >= found.starts


def test_a_changed_line_is_found(tmp_path: Path) -> None:
    run(tmp_path, 1)
    path = journal.parts(tmp_path, "t1")[0]
    lines = path.read_bytes().splitlines(keepends=True)
    place = next(i for i, one in enumerate(lines) if b'"kind":"Start"' in one)
    lines[place] = lines[place].replace(b'"mask":', b'"mask":1', 1)
    path.write_bytes(b"".join(lines))
    difference = replay.replay(tmp_path).difference
    assert difference is not None and difference.number == place


def test_a_line_cut_by_a_crash_is_left_out(tmp_path: Path) -> None:
    run(tmp_path, 2)
    path = journal.parts(tmp_path, "t1")[0]
    path.write_bytes(path.read_bytes()[:-10])
    assert replay.replay(tmp_path).events == 119


def test_a_log_in_parts_is_one_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "PART_BYTES", 2000)
    run(tmp_path, 3)
    assert len(journal.parts(tmp_path, "t1")) > 3
    assert replay.replay(tmp_path).difference is None


def test_old_logs_go(tmp_path: Path) -> None:
    for number in range(12):
        run(tmp_path, 4, 3, f"t{number:02}")
    assert journal.terms(tmp_path) == [f"t{number:02}" for number in range(2, 12)]
    assert replay.replay(tmp_path, "t05").events == 3


def test_fleets_go_with_the_logs_that_name_them(tmp_path: Path) -> None:
    for number in range(3):
        run(tmp_path, 4, 3, f"t{number}")
    before = {path.name for path in tmp_path.glob("fleet-*")}
    (tmp_path / "fleet-nobody.json").write_text("{}")
    journal.clean(tmp_path, 2, journal.KEEP_BYTES, "t2")
    assert {path.name for path in tmp_path.glob("fleet-*")} == before and len(before) == 1
    journal.clean(tmp_path, 2, 0, "t2")
    assert journal.terms(tmp_path) == ["t2"]
    assert replay.replay(tmp_path).difference is None


def test_a_full_disk_ends_the_log_and_no_decision(tmp_path: Path) -> None:
    problems: list[OSError] = []
    log = journal.Journal(live.core(), tmp_path, "t1", problems.append)
    log.handle(events.GangSubmitted(live.gang("a", 1)), 0.0)
    log._file, kept = open("/dev/full", "wb", buffering=0), log._file  # noqa: SIM115
    answer = log.handle(events.GangSubmitted(live.gang("b", 1)), 1.0)
    assert [type(one).__name__ for one in answer] == ["Start"]
    answer = log.handle(events.GangFinished("b"), 2.0)
    assert log.ended and [error.errno for error in problems] == [28]
    assert kept is not None
    kept.close()
    found = replay.replay(tmp_path)
    assert found.difference is None and found.events == 1


def test_bad_logs_are_told(tmp_path: Path) -> None:
    with pytest.raises(replay.LogError, match="--audit-folder"):
        replay.replay(tmp_path / "none")
    run(tmp_path, 5, 20)
    with pytest.raises(replay.LogError, match="no log t9; it has t1"):
        replay.replay(tmp_path, "t9")
    path = journal.parts(tmp_path, "t1")[0]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], b'{"kind":"Nonsense","number":5,"now":1,"event":{}}\n']))
    with pytest.raises(replay.LogError, match="event 'Nonsense' is unknown"):
        replay.replay(tmp_path)
    for one in tmp_path.glob("fleet-*"):
        one.unlink()
    with pytest.raises(replay.LogError, match="fleet"):
        replay.replay(tmp_path)


def test_every_machine_of_the_fixtures_survives_the_trip() -> None:
    built = {f"n-{kind}": machines.build(kind, f"n-{kind}") for kind in machines.KINDS}
    one = fleets.fleet({name: ("b", f"r{i % 3}") for i, name in enumerate(built)}, built)
    data = fleet.dump(one)
    again = fleet.load(data)
    assert again.nodes == one.nodes and again.tree.names == one.tree.names
    assert fleet.dump(again) == data


def test_every_event_has_a_kind() -> None:
    assert set(line.KINDS) >= {"GangSubmitted", "Adopted", "Occupied", "TopologyChanged", "Tick"}
