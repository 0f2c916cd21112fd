"""Everything that one replay is made of, and the loop that drives it so that it can be watched and stopped."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import numpy as np

from scheduler.gang import config
from scheduler.model import fabric
from scheduler.placement import policy, scoring, target
from scheduler.snapshot import state, topology
from simulator import compiled, faults, outcome, replay
from simulator import runtime as runtimes
from simulator.trace import job

CHUNKS = 500
"""Looks at a replay from outside, about: for progress, for an interrupt, and for its busiest moment."""

Progress = Callable[[int, int], None]
"""Called with jobs done and jobs in all."""


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """A trace on a fleet under a policy.

    Attributes
    ----------
    expected : TargetWorkload
        What the policy takes the future to be.
    seed : int
        Draws failures, and for every seed but 0 also the order of nodes that breaks ties. Two policies with one seed
        see the same of both.
    """

    trace: job.Trace
    fleet: fabric.Fabric
    policy: policy.ScoringPolicy
    expected: target.TargetWorkload
    queue: config.QueueConfig = field(default_factory=config.QueueConfig)
    broken: faults.Faults = field(default_factory=faults.Faults)
    runtime: runtimes.RuntimeModel = field(default_factory=runtimes.Fixed)
    seed: int = 0
    validate: bool = False

    def scored(self) -> scoring.Scoring:
        """Return the policy compiled for the fleet."""
        tie = np.random.default_rng(self.seed).permutation(sum(1 for _ in self.fleet.nodes())) if self.seed else None
        fleet = topology.compile_topology(self.fleet, tie=None if tie is None else tie.tolist())
        return scoring.compile_scoring(self.policy, fleet, self.expected, self.seed)

    def replay(self, log: replay.Log | None = None) -> replay.Replay:
        """Return the replay, not yet begun."""
        return replay.Replay(
            self.trace, self.scored(), self.queue, self.runtime, self.broken, self.seed, log=log, validate=self.validate
        )


@dataclass(frozen=True, slots=True)
class Waited:
    """Why a job first had to wait: the reason, and the machine's words."""

    reason: str
    says: str


@dataclass(slots=True, eq=False)
class Run:
    """A replay that has ended, with what only its driver saw.

    Attributes
    ----------
    busiest : Snapshot
        The fleet when most GPUs were in use, among the moments looked at.
    waited : dict of str to Waited
        First reason of every job that had to wait.
    reasoned : bool
        Whether reasons were kept: compiled code keeps none.
    """

    outcome: outcome.Outcome
    seed: int
    busiest: state.Snapshot
    busiest_s: float
    waited: dict[str, Waited] = field(default_factory=dict)
    reasoned: bool = True


def run(
    made: Scenario,
    log: replay.Log | None = None,
    progress: Progress | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Run:
    """Replay a scenario; when `stopped` says so, between two events, end with a partial result."""
    waited: dict[str, Waited] = {}

    def note(line: str) -> None:
        if '"effect":"Wait"' in line:
            said = json.loads(line)
            waited.setdefault(said["gang"], Waited(said["reason"], said["says"]))
        if log:
            log(line)

    driven = made.replay(note)
    jobs, partial = len(made.trace), ""
    busiest, busiest_s, least = driven.machine.snapshot.copy(), 0.0, None
    more = True
    while more and not partial:
        more = driven.advance(max(16, 2 * jobs // CHUNKS))
        free = int(driven.machine.snapshot.gpu_free.sum())
        if least is None or free < least:
            busiest, least = driven.machine.snapshot.copy(), free
            busiest_s = driven.series.time_s[-1] if driven.series.time_s else 0.0
        done = int(np.count_nonzero(driven.jobs.state >= outcome.State.FINISHED))
        if progress:
            progress(done, jobs)
        if more and stopped():
            partial = f"interrupted when {done} of {jobs} jobs were done"
    return Run(driven.outcome(partial), made.seed, busiest, busiest_s, waited)


def compiled_refusal(made: Scenario) -> str:
    """Return why compiled code can't replay a scenario, "" when it can."""
    return compiled.refusal(made.trace, made.scored(), made.queue, made.broken, made.runtime)


def run_compiled(made: Scenario, progress: Progress | None = None, stopped: Callable[[], bool] = lambda: False) -> Run:
    """Replay a scenario in compiled code: the same outcome, without decision log and first reasons.

    Raises
    ------
    ValueError
        `compiled_refusal` has something to say.
    """
    driven = compiled.Compiled(made.trace, made.scored(), made.queue)
    busiest, busiest_s, partial = state.empty(driven.scored.topology), 0.0, ""
    least, jobs, more = int(busiest.gpu_free.sum()), len(made.trace), True
    while more and not partial:
        more = driven.advance()
        free, done = int(driven.nodes.gpu.sum()), driven.done
        if free < least:
            least, busiest_s = free, driven.now
            # Enough for a picture of the GPUs; nothing is placed on this snapshot.
            busiest.gpu_free[driven.nodes.order] = driven.nodes.gpu
        if progress:
            progress(done, jobs)
        if more and stopped():
            partial = f"interrupted when {done} of {jobs} jobs were done"
    return Run(driven.outcome(partial), made.seed, busiest, busiest_s, reasoned=False)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether Ctrl-C was pressed; a second press interrupts at once.

    Notes
    -----
    An exception in the middle of an event would leave half a decision behind, so the loop asks between events instead.
    """
    pressed = threading.Event()

    def press(_: int, __: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def target_of(trace: job.Trace) -> target.TargetWorkload:
    """Return the distribution of a trace's pods."""
    return target.from_requests(trace.requests())
