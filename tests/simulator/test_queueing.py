"""Clock, queue and machine against queueing theory: waits of simple systems are known in closed form.

Two steps. The machine gives every single job the wait that Kiefer and Wolfowitz' recursion gives it; and the recursion,
which is quick enough for many jobs, meets the formulas. Means are held to four standard errors, and the errors
themselves are bounded, so that a wrong clock or queue cannot hide in them.
"""

import heapq
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from scheduler.gang import config, effects, events, machine
from scheduler.model import gang as gangs
from simulator import clock, replay
from tests.placement import fleets
from tests.simulator import runs

Floats = NDArray[np.float64]
Service = Callable[[np.random.Generator, int], Floats]


def erlang_c(servers: int, load: float) -> float:
    """Return the probability of having to wait in M/M/c at an offered load in erlangs."""
    terms = [load**k / math.factorial(k) for k in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


def recursion(submit: Floats, duration: Floats, servers: int) -> Floats:
    """Return the waits of a first-come-first-served queue: each job takes the server that is free first."""
    free = [0.0] * servers
    waits = np.zeros(len(submit))
    for number, (arrival, length) in enumerate(zip(submit.tolist(), duration.tolist(), strict=True)):
        start = max(arrival, free[0])
        heapq.heapreplace(free, start + length)
        waits[number] = start - arrival
    return waits


def drawn(load: float, service: Service, jobs: int, seed: int) -> tuple[Floats, Floats]:
    """Draw Poisson arrivals and run times of mean 1."""
    draw = np.random.default_rng(seed)
    return np.cumsum(draw.exponential(1 / load, jobs)), service(draw, jobs)


def agrees(samples: list[float], theory: float, precision: float) -> None:
    """Check a mean over seeds against theory, and that the check means something."""
    error = float(np.std(samples, ddof=1)) / math.sqrt(len(samples))
    assert error < precision * theory, f"standard error {error:.4f} is too large for {theory:.4f}"
    assert abs(float(np.mean(samples)) - theory) < 4 * error, f"{np.mean(samples):.4f} +- {error:.4f}, not {theory:.4f}"


def exponential(draw: np.random.Generator, count: int) -> Floats:
    return draw.exponential(1.0, count)


def constant(_: np.random.Generator, count: int) -> Floats:
    return np.ones(count)


def two_phase(draw: np.random.Generator, count: int) -> Floats:
    """Hyper-exponential: mean 1, squared coefficient of variation 3."""
    return np.where(draw.random(count) < 0.75, draw.exponential(0.4, count), draw.exponential(2.8, count))


SYSTEMS = [(8, 6.0, exponential), (8, 7.8, exponential), (1, 0.6, constant), (2, 1.9, constant), (4, 3.0, two_phase)]


@pytest.mark.parametrize("mode", ["fifo", "skip", "easy"])
@pytest.mark.parametrize(("servers", "load", "service"), SYSTEMS)
def test_every_job_waits_as_the_recursion_says(servers: int, load: float, service: Service, mode: config.Mode) -> None:
    """Jobs of one size cannot overtake each other usefully: all modes are first come, first served."""
    submit, duration = drawn(load, service, 600, servers)
    fleet = fleets.racks(1, gpus=servers)
    jobs = runs.trace(submit, duration)
    found = replay.Replay(jobs, runs.scored(fleet), config.QueueConfig(mode=mode)).run()
    expected = recursion(submit, duration, servers)
    assert expected.max() > 1
    assert np.allclose(found.jobs.wait_s, expected, rtol=0, atol=1e-6)
    assert np.allclose(found.jobs.end_s, submit + expected + duration, rtol=0, atol=1e-6)


def long_waits(servers: int, load: float, service: Service) -> list[Floats]:
    """Return waits of the recursion over thirty seeds, after warm-up."""
    return [recursion(*drawn(load, service, 20_000, seed), servers)[2_000:] for seed in range(30)]


def test_mmc_waits_as_erlang_c_says() -> None:
    servers, load = 8, 6.0
    chance = erlang_c(servers, load)
    assert chance == pytest.approx(0.3570, abs=1e-4)
    samples = long_waits(servers, load, exponential)
    agrees([float(one.mean()) for one in samples], chance / (servers - load), 0.03)
    agrees([float((one > 0).mean()) for one in samples], chance, 0.02)


def test_md1_waits_half_as_long_as_mm1() -> None:
    load = 0.6
    samples = [float(one.mean()) for one in long_waits(1, load, constant)]
    agrees(samples, load / (2 * (1 - load)), 0.02)


def test_mg1_follows_pollaczek_and_khinchine() -> None:
    load, second_moment = 0.5, 2 * (0.75 * 0.4**2 + 0.25 * 2.8**2)
    samples = [float(one.mean()) for one in long_waits(1, load, two_phase)]
    agrees(samples, load * second_moment / (2 * (1 - load)), 0.03)


def test_the_replay_itself_meets_erlang_c() -> None:
    servers, load, shares = 8, 6.0, []
    for seed in range(5):
        submit, duration = drawn(load, exponential, 2500, 100 + seed)
        found = replay.Replay(runs.trace(submit, duration), runs.scored(fleets.racks(1, gpus=servers))).run()
        shares.append(float((found.jobs.wait_s[250:] > 0).mean()))
    agrees(shares, erlang_c(servers, load), 0.1)


JOBS = 2500


def losses(servers: int, room: int, load: float, seed: int) -> tuple[float, float]:
    """Drive a machine whose shell turns jobs away when `room` are in the system: share lost, mean number waiting."""
    draw = np.random.default_rng([seed, room])
    core = machine.Machine(runs.scored(fleets.racks(1, gpus=servers)), config.QueueConfig("fifo"))
    future: clock.Clock[events.Event] = clock.Clock()
    arrivals = np.cumsum(draw.exponential(1 / load, JOBS))
    for number, time in enumerate(arrivals.tolist()):
        gang = gangs.single(f"j{number}", runs.POD)
        future.add(time, clock.Rank.SUBMIT, events.GangSubmitted(gang))
    lost, waited, before = 0, 0.0, 0.0
    while len(future):
        event = future.take()
        waited += (future.now - before) * len(core.queue.waiting)
        before = future.now
        if isinstance(event, events.GangSubmitted) and len(core.queue.waiting) + len(core.held) >= room:
            lost += 1
            continue
        for effect in core.handle(event, future.now):
            if isinstance(effect, effects.Start):
                end = future.now + float(draw.exponential(1.0))
                future.add(end, clock.Rank.FINISH, events.GangFinished(effect.gang.name))
    core.check_invariants()
    return lost / JOBS, waited / before


def test_mmck_loses_and_queues_as_its_birth_death_chain() -> None:
    servers, room, load = 3, 6, 3.0
    weights = np.array([load**n / math.prod(min(k, servers) for k in range(1, n + 1)) for n in range(room + 1)])
    share = weights / weights.sum()
    samples = [losses(servers, room, load, seed) for seed in range(6)]
    agrees([lost for lost, _ in samples], float(share[-1]), 0.05)
    queue = float((np.maximum(np.arange(room + 1) - servers, 0) * share).sum())
    agrees([waiting for _, waiting in samples], queue, 0.05)
