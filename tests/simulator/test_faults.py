"""What breaks, when, for how long, and what it costs the jobs."""

import math
from typing import Any

import numpy as np
import pytest

from scheduler.gang import events
from simulator import clock, faults, outcome
from tests.placement import fleets
from tests.simulator import runs

STATE = outcome.State


def outage(domain: str, start: float, duration: float = 10, notice: float = 0) -> faults.Maintenance:
    return faults.Maintenance(domain, start, duration, notice)


def broken(*windows: faults.Maintenance, **fields: Any) -> faults.Faults:
    return faults.Faults(**fields, maintenance=windows)


def on_one_node(*windows: faults.Maintenance, seconds: float = 100, **fields: Any) -> outcome.Outcome:
    """Run one job that needs the whole fleet of one machine."""
    jobs = runs.trace([0], [seconds], (runs.shape(gpus=4),))
    return runs.made(jobs, fleets.racks(1), broken=broken(*windows, **fields)).run()


# What an interruption costs.


def test_without_checkpoints_everything_is_lost() -> None:
    found = on_one_node(outage("n00", 75))
    assert found.jobs.end_s.tolist() == [185] and found.jobs.lost_s.tolist() == [75]
    assert found.jobs.wait_s.tolist() == [10] and found.jobs.run_s.tolist() == [175]
    assert found.evictions == {"NodeFailed": 1} and found.jobs.starts.tolist() == [2]


def test_the_last_checkpoint_survives() -> None:
    found = on_one_node(outage("n00", 75), checkpoint_s=30)
    assert found.jobs.end_s.tolist() == [125] and found.jobs.lost_s.tolist() == [15]


def test_a_restart_takes_its_time() -> None:
    found = on_one_node(outage("n00", 75), checkpoint_s=30, restart_s=7)
    assert found.jobs.end_s.tolist() == [132] and found.jobs.lost_s.tolist() == [22]


def test_time_spent_on_restarting_is_no_progress() -> None:
    """Stopped again 100 s after the second start, of which the restart took 90: ten seconds of work, no checkpoint."""
    found = on_one_node(outage("n00", 50), outage("n00", 160), checkpoint_s=30, restart_s=90)
    assert found.jobs.starts.tolist() == [3]
    # 30 kept; 20 lost; 100 lost; then 90 of restarting and the other 70.
    assert found.jobs.lost_s.tolist() == [20 + 100 + 90]
    assert found.jobs.end_s.tolist() == [170 + 90 + 70]


def test_stopped_while_restarting() -> None:
    found = on_one_node(outage("n00", 50), outage("n00", 100), checkpoint_s=30, restart_s=90)
    assert found.jobs.lost_s.tolist() == [20 + 40 + 90] and found.jobs.end_s.tolist() == [110 + 90 + 70]


@pytest.mark.parametrize(("ran", "kept"), [(0, 0), (29.9, 0), (30, 30), (89, 60), (1e6, 999990)])
def test_checkpoints_are_whole_intervals(ran: float, kept: float) -> None:
    assert faults.Faults(checkpoint_s=30).kept_s(ran) == kept
    assert faults.Faults().kept_s(ran) == 0


# Domains, windows, overlaps.


def test_a_rack_fails_as_one() -> None:
    """What one machine of the rack loses is not placed on the next, which fails at the same moment."""
    jobs = runs.trace([0], [100], (runs.shape(gpus=4),))
    found = runs.made(jobs, fleets.racks(3, 1), broken=broken(outage("b0/r0", 40))).run()
    assert found.jobs.starts.tolist() == [2] and sum(found.evictions.values()) == 1
    assert found.jobs.end_s.tolist() == [140]


def test_a_rack_that_fails_by_chance_fails_as_one() -> None:
    jobs = runs.trace([0], [100], (runs.shape(gpus=4),))
    driven = runs.made(jobs, fleets.racks(3, 1), broken=faults.Faults(domain_mtbf_s=1e9, repair_s=50))
    racks = (driven._breakage.next(0.0) for _ in range(100))
    (_, down), (_, up) = next(both for both in racks if len(both[0][1].events) == 2 * 3)
    driven._schedule(40, faults.Happening(down.events))
    driven._schedule(60, up)
    found = driven.run()
    assert found.jobs.starts.tolist() == [2] and found.jobs.end_s.tolist() == [140]
    assert driven.machine.snapshot.up.all()


def test_nothing_new_after_the_notice_and_everything_back_after_the_window() -> None:
    jobs = runs.trace([0, 10, 35], [30, 5, 1], (runs.shape(gpus=4),))
    found = runs.made(jobs, fleets.racks(1), broken=broken(outage("n00", 40, 10, notice=35)))
    done = found.run()
    assert done.jobs.start_s.tolist() == [0, 50, 55] and not done.evictions


def test_who_still_runs_at_the_start_of_the_window_is_evicted() -> None:
    jobs = runs.trace([0], [60], (runs.shape(gpus=4),))
    done = runs.made(jobs, fleets.racks(1), broken=broken(outage("n00", 40, 10, notice=35), checkpoint_s=15)).run()
    assert done.jobs.lost_s.tolist() == [10] and done.jobs.end_s.tolist() == [80]


def test_of_overlapping_causes_the_last_repair_counts() -> None:
    """Node under maintenance 10..30 inside its rack's 5..20, and once more 25..60."""
    windows = (outage("n00", 10, 20), outage("b0/r0", 5, 15), outage("n00", 25, 35))
    jobs = runs.trace([0], [8], (runs.shape(gpus=4),))
    done = runs.made(jobs, fleets.racks(1), broken=broken(*windows)).run()
    assert done.jobs.start_s.tolist() == [0] and done.jobs.end_s.tolist() == [68]
    assert done.jobs.starts.tolist() == [2]


@pytest.mark.parametrize("seed", range(3))
def test_after_all_repairs_everything_is_back(seed: int) -> None:
    """Drawn failures of GPUs, nodes and racks over maintenance windows: in the end nothing is marked any more."""
    fields: dict[str, Any] = {"gpu_mtbf_s": 700, "node_mtbf_s": 500, "domain_mtbf_s": 900, "repair_s": 80}
    windows = (outage("b0/r1", 50, 200, 30), outage("n00", 100, 150), outage("n00", 200, 10))
    driven = runs.made(runs.mixed(60, seed), fleets.racks(2, 2, 3), broken=broken(*windows, **fields), seed=seed)
    assert len(driven.run().evictions) == 2
    driven._breakage.rates = (0.0, 0.0, 0.0)
    while len(driven._clock):
        item = driven._clock.take()
        if isinstance(item, faults.Happening):
            driven._happen(item)
    assert driven.machine.snapshot.up.all() and not driven.machine.snapshot.failed_gpus.any()
    assert driven.machine.snapshot.free_gpus == driven.scored.topology.total_gpus
    assert not +driven._broken and driven._repairs == 0


def test_a_failed_gpu_takes_its_jobs_and_no_others() -> None:
    jobs = runs.trace([0, 0, 0], [100, 100, 100], (runs.shape(gpu_milli=400), runs.shape()), shape=[0, 0, 1])
    driven = runs.made(jobs, fleets.racks(1))
    driven.advance(3)
    driven._handle(events.DeviceFailed("n00", 0))
    assert driven.jobs.starts.tolist() == [2, 2, 1]
    assert {one.gang.name: one.placement.grants[0].gpus for one in driven.machine.held} == {
        "j2": (1,),
        "j0": (2,),
        "j1": (2,),
    }


# Chance.


def drawn(fields: dict[str, float], count: int, seed: int = 1) -> list[tuple[float, faults.Happening, float]]:
    """Draw failures in a row: when, what, and how long the repair takes."""
    breakage = faults.Breakage(fleets.racks(2, 2, 3), faults.Faults(**fields), np.random.default_rng(seed))  # type: ignore[arg-type]
    now, found = 0.0, []
    for _ in range(count):
        (time, down), (repaired, up) = breakage.next(now)
        assert down.drawn and not down.repair and up.repair and not up.drawn
        assert {faults.undoes(event) for event in up.events} == set(down.events)
        found.append((time - now, down, repaired - time))
        now = time
    return found


def test_failures_come_at_the_rates_asked_for() -> None:
    """28 GPUs, 7 nodes, 3 racks: rates per kind, exponential gaps and repairs, units alike."""
    fields = {"gpu_mtbf_s": 2800.0, "node_mtbf_s": 350.0, "domain_mtbf_s": 600.0, "repair_s": 40.0}
    rates = {"DeviceFailed": 28 / 2800, "node": 7 / 350, "rack": 3 / 600}
    count = 8000
    found = drawn(fields, count)
    total = sum(rates.values())
    for sample, mean in (([gap for gap, _, _ in found], 1 / total), ([repair for _, _, repair in found], 40.0)):
        assert abs(np.mean(sample) - mean) < 4 * mean / math.sqrt(count)
        assert abs(np.std(sample) / mean - 1) < 0.1
        assert abs(np.mean(np.array(sample) > mean) - math.exp(-1)) < 0.03
    nodes = [{event.node for event in down.events} for _, down, _ in found if not _is_device(down)]  # type: ignore[union-attr]
    counts = {
        "DeviceFailed": count - len(nodes),
        "node": sum(len(names) == 1 for names in nodes),
        "rack": sum(len(names) > 1 for names in nodes),
    }
    for kind, rate in rates.items():
        share = rate / total
        assert abs(counts[kind] / count - share) < 4 * math.sqrt(share * (1 - share) / count)
    single = [next(iter(names)) for names in nodes if len(names) == 1]
    assert min(single.count(name) for name in set(single)) > 0.8 * len(single) / 7


def _is_device(down: faults.Happening) -> bool:
    return isinstance(down.events[0], events.DeviceFailed)


def test_one_seed_one_future() -> None:
    fields = {"gpu_mtbf_s": 100.0, "node_mtbf_s": 100.0, "domain_mtbf_s": 100.0}
    assert drawn(fields, 50, 3) == drawn(fields, 50, 3) != drawn(fields, 50, 4)


def test_where_nothing_fails_nothing_is_drawn() -> None:
    generator = np.random.default_rng(0)
    breakage = faults.Breakage(fleets.racks(1), faults.Faults(), generator)
    before = generator.bit_generator.state
    assert breakage.next(0.0) == () and generator.bit_generator.state == before


def test_failures_cost_what_they_should() -> None:
    """One machine that always has work: it works whenever it is up."""
    count, mtbf, repair = 1500, 50.0, 10.0
    jobs = runs.trace(np.zeros(count), np.full(count, 1.0), (runs.shape(gpus=4),))
    means = []
    for seed in range(4):
        fields = faults.Faults(node_mtbf_s=mtbf, repair_s=repair, checkpoint_s=0.001)
        driven = runs.made(jobs, fleets.racks(1), broken=fields, seed=seed, validate=False)
        found = driven.run()
        means.append(float(found.jobs.run_s.sum()) / found.end_s)
    error = float(np.std(means, ddof=1)) / 2
    # Failures are drawn also while the node is down already: causes are M/G/infinity, and it is up while there is none.
    assert error < 0.02 and abs(float(np.mean(means)) - math.exp(-repair / mtbf)) < 4 * error


# Bad input.


@pytest.mark.parametrize(
    "fields",
    [
        {"gpu_mtbf_s": -1},
        {"node_mtbf_s": math.nan},
        {"domain_mtbf_s": math.inf},
        {"repair_s": 0},
        {"repair_s": math.inf},
        {"checkpoint_s": -5},
        {"restart_s": math.nan},
    ],
)
def test_absurd_times_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        faults.Faults(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("window", [("n00", -1, 5, 0), ("n00", 1, 0, 0), ("n00", 1, 5, -2)])
def test_absurd_windows_are_refused(window: tuple[str, float, float, float]) -> None:
    with pytest.raises(ValueError, match="maintenance of n00"):
        faults.Maintenance(*window)


def test_unknown_domains_and_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="'r9', which the fleet does not have"):
        runs.made(runs.trace([0], [1]), broken=broken(outage("r9", 1)))
    with pytest.raises(ValueError, match="'row' is no level of the fleet"):
        runs.made(runs.trace([0], [1]), broken=faults.Faults(domain_mtbf_s=5, domain_level="row"))


def test_every_happening_is_scheduled_in_its_rank() -> None:
    driven = runs.made(runs.trace([0], [1]), broken=broken(outage("n00", 10, 5)))
    ranks = []
    while len(driven._clock):
        ranks.append(driven._clock.peek())
        driven._clock.take()
    failure, repair = int(clock.Rank.FAILURE), int(clock.Rank.REPAIR)
    assert ranks == [(10, failure), (10, failure), (15, repair)]
