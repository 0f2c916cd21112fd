"""Replays: times add up, nobody is lost, order is kept, and the same run comes out however it is cut."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scheduler.gang import backfill, config
from scheduler.model import gang as gangs
from scheduler.model import reasons, request
from scheduler.snapshot import topology
from simulator import faults, outcome, replay, runtime
from simulator.trace import job
from tests.placement import fleets
from tests.simulator import runs

MODES = ("fifo", "skip", "easy")
STATE = outcome.State
QUOTAS = (config.Quota("a", 4, 8), config.Quota("b", 8, 4), config.Quota("c", 2, 8))
BREAKING = faults.Faults(
    gpu_mtbf_s=9000, node_mtbf_s=4000, domain_mtbf_s=6000, repair_s=100, checkpoint_s=20, restart_s=5
)


def big() -> topology.Topology:
    """Return two racks of two and one of three four-GPU machines."""
    return fleets.racks(2, 2, 3)


def logged(driven: replay.Replay) -> tuple[list[str], outcome.Outcome]:
    """Run to the end; return the decision log and the outcome."""
    lines: list[str] = []
    driven.log = lines.append
    return lines, driven.run()


def same(one: outcome.Outcome, other: outcome.Outcome) -> bool:
    """Tell whether two outcomes agree in every column and sample."""
    columns = all(
        np.array_equal(getattr(one.jobs, f.name), getattr(other.jobs, f.name), equal_nan=True)
        for f in fields(outcome.Jobs)
    )
    series = all(getattr(one.series, f.name) == getattr(other.series, f.name) for f in fields(outcome.Series))
    rest = (one.refusals, one.waited_for, one.end_s, one.events, one.evictions, one.partial)
    return (
        columns
        and series
        and rest == (other.refusals, other.waited_for, other.end_s, other.events, other.evictions, other.partial)
    )


def test_one_job_after_the_other() -> None:
    jobs = runs.trace([0, 1, 2], [10, 20, 5], (runs.shape(2, gpus=4),))
    found = runs.made(jobs).run().jobs
    assert found.start_s.tolist() == [0, 10, 30]
    assert found.end_s.tolist() == [10, 30, 35]
    assert found.wait_s.tolist() == [0, 9, 28]
    assert found.run_s.tolist() == [10, 20, 5]
    assert found.nodes.tolist() == [2, 2, 2] and found.placed.tolist() == [2, 2, 2]
    assert (found.state == STATE.FINISHED).all()


def test_what_a_job_leaves_behind_is_free_later() -> None:
    """Of two pods with one machine each the second keeps its devices: a job of one pod starts at once, of two later."""
    jobs = runs.trace([0, 1, 2], [10, 5, 20], (runs.shape(2, gpus=4), runs.shape(1, gpus=4)), shape=[0, 0, 1])
    one, other = replay.Remains("claim-0", 0, 2.5), replay.Remains("claim-1", 1, 7.5)
    found = runs.made(jobs, remains={"j0": (other,)}).run().jobs
    assert found.start_s.tolist() == [0, 30, 10]
    found = runs.made(jobs.head(2), remains={"j0": (one, other)}).run().jobs
    assert found.start_s.tolist() == [0, 17.5] and (found.state == STATE.FINISHED).all()


def test_an_empty_trace_has_an_empty_outcome() -> None:
    found = runs.made(runs.trace([], [])).run()
    assert not found.partial and found.events == 0 and not found.series.time_s


def test_jobs_without_run_time_come_and_go() -> None:
    found = runs.made(runs.trace([3, 3, 4], [0, 0, 0])).run()
    assert found.jobs.end_s.tolist() == [3, 3, 4]


def test_what_never_fits_is_refused_with_a_reason() -> None:
    jobs = runs.trace([0, 1], [5, 5], (runs.shape(3, gpus=4), runs.shape()), shape=[0, 1])
    found = runs.made(jobs).run()
    assert found.jobs.state.tolist() == [STATE.REJECTED, STATE.FINISHED]
    assert found.refusals[0].permanent and found.refusals[0].gang == "j0"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("broken", [faults.Faults(), BREAKING], ids=["sound", "breaking"])
@pytest.mark.parametrize("quotas", [(), QUOTAS], ids=["free", "quotas"])
def test_every_job_and_every_second_is_accounted_for(mode: Any, broken: faults.Faults, quotas: Any) -> None:
    """S6: one state each; start after submission; GPU-seconds of the jobs are the integral of the allocation."""
    jobs = runs.mixed(120, seed=3)
    queue = config.QueueConfig(mode, quotas, preempt=bool(quotas))
    driven = runs.made(jobs, big(), queue, broken=broken, seed=5)
    integral, now = 0.0, 0.0
    while True:
        held = sum(
            grant.milli * grant.mask.bit_count() for one in driven.machine.held for grant in one.placement.grants
        )
        more = driven.advance(1)
        integral += held * (driven._clock.now - now)
        assert driven._clock.now >= now
        now = driven._clock.now
        if not more:
            break
    found = driven.outcome()
    rows = found.jobs
    finished = rows.state == STATE.FINISHED
    assert finished.all()
    assert (rows.start_s >= jobs.submit_s).all()
    assert integral / 1000 == pytest.approx(float((jobs.gpus() * rows.run_s).sum()))
    assert np.allclose(rows.run_s - rows.lost_s, jobs.duration_s)
    assert np.allclose(rows.end_s, jobs.submit_s + rows.wait_s + rows.run_s)
    assert (rows.starts[rows.lost_s == 0] >= 1).all() and sum(found.evictions.values()) == (rows.starts - 1).sum()


@pytest.mark.parametrize("seed", range(4))
def test_fifo_lets_nobody_overtake(seed: int) -> None:
    """Whoever starts before an earlier job of the same or higher priority would have overtaken it."""
    jobs = runs.mixed(150, seed, gap_s=5)
    start = runs.made(jobs, big(), "fifo").run().jobs.start_s
    overtaken = waiting = 0
    for early in range(len(jobs)):
        for late in range(early + 1, len(jobs)):
            if start[early] > jobs.submit_s[late] and jobs.priority[early] >= jobs.priority[late]:
                waiting += 1
                overtaken += start[late] < start[early]
    assert waiting > 100 and not overtaken


def test_skip_overtakes_where_fifo_does_not() -> None:
    shapes = (runs.shape(gpus=4), runs.shape(2, gpus=4), runs.shape(gpus=2))
    jobs = runs.trace([0, 1, 2], [50, 10, 10], shapes, shape=[0, 1, 2])
    starts = {mode: runs.made(jobs, queue=mode).run().jobs.start_s.tolist() for mode in MODES}
    assert starts == {"fifo": [0, 50, 60], "skip": [0, 50, 2], "easy": [0, 50, 2]}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("exact", [True, False])
def test_easy_keeps_every_promise_to_the_head(seed: int, exact: bool) -> None:
    """Whoever is at the head starts by the time that was reserved for it, if nobody runs longer than declared."""
    jobs = runs.mixed(150, seed, gap_s=5)
    jobs = runs.trace(
        jobs.submit_s,
        jobs.duration_s,
        jobs.shapes,
        shape=jobs.shape,
        expected_s=jobs.duration_s if exact else jobs.expected_s,
    )
    driven = runs.made(jobs, big(), "easy")
    promised: dict[str, float] = {}
    overtaken = False
    while driven.advance(1):
        head = driven.machine.queue.head()
        if head is not None:
            ends = ((one.expected_end, one.placement.grants) for one in driven.machine.held)
            reserved = backfill.shadow(driven.machine.snapshot, head.gang, ends, driven.scored, driven.tiers)
            promised[head.gang.name] = min(reserved.time, promised.get(head.gang.name, np.inf))
            overtaken |= any(int(one.gang.name[1:]) > int(head.gang.name[1:]) for one in driven.machine.held)
    rows = {str(name): row for row, name in enumerate(jobs.names)}
    assert len(promised) > 20 and overtaken
    for name, time in promised.items():
        assert driven.jobs.start_s[rows[name]] <= time + 1e-9, name


def test_priorities_preempt_and_the_victim_comes_back() -> None:
    jobs = runs.trace([0, 10], [100, 5], (runs.shape(2, gpus=4),), priority=[0, 1])
    queue = config.QueueConfig("skip", preempt=True)
    found = runs.made(jobs, queue=queue, broken=faults.Faults(checkpoint_s=4)).run()
    assert found.jobs.start_s.tolist() == [0, 10] and found.jobs.end_s.tolist() == [107, 15]
    assert found.jobs.lost_s.tolist() == [2, 0] and found.jobs.starts.tolist() == [2, 1]
    assert found.evictions == {"PreemptedByPriority": 1}


def test_starts_are_confirmed_so_that_no_reservation_falls() -> None:
    jobs = runs.trace([0, 1, 200], [100, 100, 5], (runs.shape(gpus=4),))
    found = runs.made(jobs, queue=config.QueueConfig("skip", reservation_s=10)).run()
    assert (found.jobs.state == STATE.FINISHED).all() and (found.jobs.starts == 1).all()


def test_a_scattered_gang_runs_longer() -> None:
    """Two jobs leave one GPU on each machine: the gang that gets these two talks over the network."""
    pair = runs.shape(2, communication_milli=500)
    alone = runs.made(runs.trace([1], [100], (pair,)), runtime=runtime.collectives()).run().jobs
    assert alone.nodes.tolist() == [1] and alone.run_s.tolist() == [100]
    assert alone.bandwidth_mb_s[0] == alone.reference_mb_s[0] > 0
    jobs = runs.trace([0, 0, 1], [500, 500, 100], (runs.shape(gpus=3), pair), shape=[0, 0, 1])
    squeezed = runs.made(jobs, runtime=runtime.collectives()).run().jobs
    assert squeezed.nodes.tolist() == [1, 1, 2]
    assert squeezed.bandwidth_mb_s[2] < squeezed.reference_mb_s[2] == alone.reference_mb_s[0]
    model = runtime.collectives()
    slower = model.slowdown(
        1 << 26, int(squeezed.bandwidth_mb_s[2]), int(alone.reference_mb_s[0]), 2, nodes=2, reference_nodes=1
    )
    assert slower > 1.2 and squeezed.run_s[2] == pytest.approx(100 * (0.5 + 0.5 * slower))
    assert squeezed.reference_s[2] == 100 and squeezed.lost_s[2] == 0


# The same run, however it is cut.


@pytest.mark.parametrize("mode", MODES)
def test_pieces_make_the_same_run(mode: Any) -> None:
    """M5: written down and read back between any two events, the replay goes on as the one it was."""
    queue = config.QueueConfig(mode, QUOTAS, preempt=True)
    jobs = runs.mixed(60, seed=7)
    lines, whole = logged(runs.made(jobs, big(), queue, broken=BREAKING, seed=2))
    pieces: list[str] = []
    driven = runs.made(jobs, big(), queue, broken=BREAKING, seed=2)
    more = True
    while more:
        driven.log = pieces.append
        more = driven.advance(7)
        driven.log = None
        driven = pickle.loads(pickle.dumps(driven))
    assert pieces == lines
    assert same(driven.outcome(), whole)


def test_an_outcome_in_between_disturbs_nothing() -> None:
    jobs = runs.mixed(80, seed=1)
    undisturbed = runs.made(jobs, big(), broken=BREAKING).run()
    driven = runs.made(jobs, big(), broken=BREAKING)
    while driven.advance(5):
        once, again = driven.outcome("early"), driven.outcome("early")
        assert same(once, again) and once.partial == "early"
        state_of = once.jobs.state
        assert np.isnan(once.jobs.end_s[state_of != STATE.FINISHED]).all()
        assert (once.jobs.run_s >= once.jobs.lost_s).all()
    assert same(driven.outcome(), undisturbed)


def test_an_interrupt_leaves_a_partial_outcome_that_says_so() -> None:
    jobs = runs.mixed(400, seed=1)
    asked = []
    found = runs.made(jobs, big()).run(stopped=lambda: len(asked) >= 2 or asked.append(1))  # type: ignore[func-returns-value]
    counts = {one: int((found.jobs.state == one).sum()) for one in STATE}
    assert found.partial.startswith("interrupted at") and f"{counts[STATE.FINISHED]} of 400 jobs done" in found.partial
    assert counts[STATE.ABSENT] > 0 and counts[STATE.FINISHED] > 0 and sum(counts.values()) == 400
    assert found.end_s == max(found.jobs.end_s[found.jobs.state == STATE.FINISHED].max(), found.series.time_s[-1])


def test_a_time_to_stop_at_is_not_overshot() -> None:
    jobs = runs.trace([0, 1, 500], [100, 1000, 5], (runs.shape(gpus=4),))
    found = runs.made(jobs, until_s=400.0).run()
    assert found.end_s == 400 and "stopped at 400 s" in found.partial
    assert found.jobs.state.tolist() == [STATE.FINISHED, STATE.RUNNING, STATE.ABSENT]
    assert found.jobs.run_s.tolist() == [100, 399, 0]
    assert not runs.made(jobs, until_s=2000.0).run().partial


def test_who_can_never_start_does_not_keep_the_clock_running() -> None:
    """Failures and repairs go on for ever; a replay that only waits for the impossible ends all the same."""
    jobs = runs.trace([0, 0, 1], [5, 5, 5], (runs.shape(),), tenant=[0, 1, 1], tenants=("a", "b"))
    queue = config.QueueConfig("skip", (config.Quota("a", 8), config.Quota("b", 0)))
    found = runs.made(jobs, queue=queue, broken=faults.Faults(node_mtbf_s=10, repair_s=5)).run()
    assert found.jobs.state.tolist() == [STATE.FINISHED, STATE.REJECTED, STATE.REJECTED]
    pool = config.QueueConfig("skip", (config.Quota("a", 2, 100),))
    jobs = runs.trace([0], [5], (runs.shape(gpus=4),), tenants=("a",))
    found = runs.made(jobs, queue=pool, broken=faults.Faults(node_mtbf_s=10, repair_s=5)).run()
    assert found.jobs.state.tolist() == [STATE.REJECTED]


def test_what_the_search_gives_up_does_not_keep_the_clock_running() -> None:
    """Three, three and two GPUs are eight, and yet never fit on two times four: no proof, so the gang waits."""
    roles = tuple(gangs.Role(f"r{i}", 1, request.PodRequest(gpus=count)) for i, count in enumerate((3, 3, 2)))
    jobs = runs.trace([0], [5], (job.JobShape(gangs.Gang("odd", roles)),))
    found = runs.made(jobs, broken=faults.Faults(node_mtbf_s=10, repair_s=5)).run()
    assert found.jobs.state.tolist() == [STATE.PENDING] and not found.partial
    assert found.refusals[0].reason is reasons.Reason.SEARCH_LIMIT


# What changes nothing, and what changes everything alike.


@pytest.mark.parametrize("mode", MODES)
def test_jobs_at_the_end_change_nothing_before(mode: Any) -> None:
    """M4, without preemption."""
    jobs = runs.mixed(90, seed=11)
    longer, _ = logged(runs.made(jobs, big(), mode))
    shorter, _ = logged(runs.made(jobs.head(60), big(), mode))
    last = float(jobs.submit_s[60])
    before = [line for line in longer if json.loads(line)["t"] < last]
    assert len(before) > 50 and shorter[: len(before)] == before


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("broken", [faults.Faults(), BREAKING], ids=["sound", "breaking"])
def test_time_has_no_unit(mode: Any, broken: faults.Faults) -> None:
    """M6: everything eight times as long (exact in binary) makes all waits eight times as long."""
    jobs = runs.mixed(80, seed=4)
    slow = runs.trace(
        jobs.submit_s * 8,
        jobs.duration_s * 8,
        jobs.shapes,
        shape=jobs.shape,
        tenant=jobs.tenant,
        tenants=jobs.tenants,
        priority=jobs.priority,
        expected_s=jobs.expected_s * 8,
    )
    slower = faults.Faults(
        *(8 * getattr(broken, n) for n in ("gpu_mtbf_s", "node_mtbf_s", "domain_mtbf_s")),
        repair_s=broken.repair_s * 8,
        checkpoint_s=broken.checkpoint_s * 8,
        restart_s=broken.restart_s * 8,
    )
    one = runs.made(jobs, big(), mode, broken=broken).run().jobs
    other = runs.made(slow, big(), mode, broken=slower).run().jobs
    assert np.allclose(other.wait_s, 8 * one.wait_s) and np.allclose(other.end_s, 8 * one.end_s)
    assert np.array_equal(one.starts, other.starts) and np.array_equal(one.bandwidth_mb_s, other.bandwidth_mb_s)


def test_a_node_that_nobody_can_use_changes_nothing() -> None:
    """M3."""
    jobs = runs.mixed(80, seed=8)
    names = {f"n{i}": fleets.machine(f"n{i}") for i in range(4)}
    paths = {name: ("b0", f"r{i // 2}") for i, name in enumerate(names)}
    useless = {"z": fleets.machine("z", gpus=0, cpus=0)}
    plain = fleets.fleet(paths, names)
    wider = fleets.fleet(paths | {"z": ("b0", "r9")}, names | useless)
    one, _ = logged(runs.made(jobs, plain))
    other, _ = logged(runs.made(jobs, wider))
    assert [line for line in one if "Start" in line] == [line for line in other if "Start" in line]


# The decision log.


def test_the_log_names_devices_and_reasons() -> None:
    jobs = runs.trace([0, 1], [10, 10], (runs.shape(2, gpus=4),))
    lines, _ = logged(runs.made(jobs))
    assert lines[0] == (
        '{"bandwidth_mb_s":12000,"because":"submitted j0","decision":1,"domain":"b0/r0","effect":"Start","gang":"j0",'
        '"pods":[["n00",[0,1,2,3]],["n01",[0,1,2,3]]],"t":0.0,"terms":{}}'
    )
    assert '"effect":"Wait"' in lines[1] and '"reason":"InsufficientGPUs"' in lines[1]
    assert '"because":"finished j0"' in lines[2] and '"t":10.0' in lines[2]


SCRIPT = """
import sys
from tests.simulator import runs, test_replay
for mode in test_replay.MODES:
    queue = test_replay.config.QueueConfig(mode, test_replay.QUOTAS, preempt=True)
    jobs = runs.mixed(60, seed=7)
    lines, _ = test_replay.logged(runs.made(jobs, test_replay.big(), queue, broken=test_replay.BREAKING, seed=2))
    sys.stdout.write("\\n".join(lines) + "\\n")
"""


def test_the_log_is_the_same_in_every_process() -> None:
    """S8: byte-identical whatever the hash seed."""
    root = Path(__file__).resolve().parents[2]
    digests = set()
    for seed in ("0", "4242"):
        command = [sys.executable, "-c", SCRIPT]
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        text = subprocess.run(command, env=environment, cwd=root, check=True, capture_output=True).stdout
        assert text.count(b"\n") > 200
        digests.add(hashlib.sha256(text).hexdigest())
    assert len(digests) == 1


def test_names_matter_to_nothing_but_the_log() -> None:
    jobs = runs.mixed(80, seed=9)
    renamed = runs.trace(
        jobs.submit_s,
        jobs.duration_s,
        jobs.shapes,
        shape=jobs.shape,
        tenant=jobs.tenant,
        tenants=jobs.tenants,
        priority=jobs.priority,
        expected_s=jobs.expected_s,
        names=[f"other-{len(jobs) - i}" for i in range(len(jobs))],
    )
    one, other = (runs.made(each, big(), "easy").run().jobs for each in (jobs, renamed))
    assert np.array_equal(one.start_s, other.start_s) and np.array_equal(one.nodes, other.nodes)
