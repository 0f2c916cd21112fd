"""What a replay found: one row per job, a few series, and what made it."""

from dataclasses import dataclass, field, fields
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from scheduler.model import reasons
from scheduler.snapshot import topology
from simulator.trace import job

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class State(IntEnum):
    """Where a job ended up. Exactly one holds for every job at all times."""

    ABSENT = 0  # not submitted yet
    PENDING = 1
    RUNNING = 2
    FINISHED = 3
    REJECTED = 4


@dataclass(frozen=True, slots=True, eq=False)
class Jobs:
    """One row per job of the trace, in its order.

    Attributes
    ----------
    state : ndarray of int8
        `State` by number.
    start_s, end_s : ndarray of float64
        First start and final end; NaN where there is none.
    wait_s : ndarray of float64
        Time in the queue over all its stays, up to the end of the replay for jobs that still wait.
    run_s : ndarray of float64
        Time on devices over all its runs, so far.
    reference_s : ndarray of float64
        Run time that the job would have on the best placement of the empty fleet.
    lost_s : ndarray of float64
        Run time that brought nothing: undone by failures and evictions, or spent on restarting.
    starts, nodes, level, bandwidth_mb_s, reference_mb_s : ndarray of int64
        Number of starts; nodes, level of the tightest common domain and predicted bandwidth of the last placement
        (-1, 0 before any); bandwidth of the best placement of the empty fleet.
    placed : ndarray of int64
        Pods of the last placement.
    """

    state: NDArray[np.int8]
    start_s: Floats
    end_s: Floats
    wait_s: Floats
    run_s: Floats
    reference_s: Floats
    lost_s: Floats
    starts: Ints
    nodes: Ints
    level: Ints
    bandwidth_mb_s: Ints
    reference_mb_s: Ints
    placed: Ints

    def copy(self) -> "Jobs":
        """Return rows of their own."""
        return Jobs(**{one.name: getattr(self, one.name).copy() for one in fields(self)})


def new_jobs(count: int) -> Jobs:
    """Return the rows of jobs of which nothing has happened."""
    return Jobs(
        state=np.zeros(count, dtype=np.int8),
        start_s=np.full(count, np.nan),
        end_s=np.full(count, np.nan),
        wait_s=np.zeros(count),
        run_s=np.zeros(count),
        reference_s=np.zeros(count),
        lost_s=np.zeros(count),
        starts=np.zeros(count, dtype=np.int64),
        nodes=np.zeros(count, dtype=np.int64),
        level=np.full(count, -1, dtype=np.int64),
        bandwidth_mb_s=np.zeros(count, dtype=np.int64),
        reference_mb_s=np.zeros(count, dtype=np.int64),
        placed=np.zeros(count, dtype=np.int64),
    )


@dataclass(slots=True, eq=False)
class Series:
    """The fleet over time: one row per sample.

    Attributes
    ----------
    allocated_gpus, up_gpus, fragmented_gpus : list of float
        GPUs in use (shares as fractions, partitioned GPUs as whole), GPUs in service, and free GPUs that the target
        workload could not use.
    waiting : list of int
        Gangs in the queue.
    """

    time_s: list[float] = field(default_factory=list)
    allocated_gpus: list[float] = field(default_factory=list)
    up_gpus: list[float] = field(default_factory=list)
    fragmented_gpus: list[float] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)

    def copy(self) -> "Series":
        """Return rows of their own."""
        return Series(**{one.name: list(getattr(self, one.name)) for one in fields(self)})


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The result of a replay.

    Attributes
    ----------
    refusals : dict of int to Rejection
        For each job that was rejected or still waits: the constraint that blocked it, in the engine's words.
    waited_for : dict of str to int
        How many jobs had to wait at least once, by the reason first given.
    end_s : float
        Virtual time at the end.
    events : int
        Events that the machine handled.
    partial : str
        "" for a whole result; otherwise why it is not, and such a result must never be shown as a whole one.
    """

    trace: job.Trace
    topology: topology.Topology
    policy: str
    jobs: Jobs
    series: Series
    refusals: dict[int, reasons.Rejection]
    waited_for: dict[str, int]
    end_s: float
    events: int
    evictions: dict[str, int] = field(default_factory=dict)
    partial: str = ""
