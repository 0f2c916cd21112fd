"""A gang as the shell follows it: what was found, what the machine gave it, and how far the writing is."""

import asyncio
from dataclasses import dataclass
from enum import Enum

from scheduler.kube import plan as plans
from scheduler.kube import workload as workloads
from scheduler.placement import placement as placements


class State(Enum):
    """How far a gang is."""

    NEW = "New"
    WAITING = "Waiting"
    RESERVED = "Reserved"
    WRITING = "Allocating"
    RUNNING = "Running"
    REJECTED = "Rejected"


@dataclass(slots=True, eq=False)
class Followed:
    """One gang.

    Attributes
    ----------
    placement : Placement or None
        What the machine lets it hold.
    plan : Plan or None
        What is written, or being written.
    decision : int
        The machine's number of the start.
    reserver : str
        UID of the Kueue Workload for which it is held before its pods exist, "" for none.
    evicted_at : float or None
        When its pods were last told to go.
    said : str
        What people were last told.
    lone : bool
        Whether it is a pod of its own, see `Workload.lone`; kept when the pod is gone.
    invalid : bool
        Whether it is rejected for what contradicts itself or does not exist: it is looked at again when that is mended.
    lacks : bool
        Whether it waits for a pod or a claim that it had.
    short_since : float or None
        Since when it has not all its pods and claims; by the shell's clock.
    seats : tuple of str
        UIDs of the pods by rank, as the machine's holding has them: a plan may not be written yet.
    told : frozenset of str
        UIDs of the pods of which people were told that they were let go.
    recorded : bool
        Whether it was given a GangPlacement.
    let_go_at : float or None
        When its pods were let go, while some of them may not be bound yet.
    """

    workload: workloads.Workload
    state: State = State.NEW
    placement: placements.Placement | None = None
    plan: plans.Plan | None = None
    decision: int = 0
    because: str = ""
    reserver: str = ""
    evicted_at: float | None = None
    failures: int = 0
    said: str = ""
    lone: bool = False
    invalid: bool = False
    lacks: bool = False
    seats: tuple[str, ...] = ()
    told: frozenset[str] = frozenset()
    recorded: bool = False
    complete_at: float | None = None
    short_since: float | None = None
    let_go_at: float | None = None
    task: asyncio.Task[None] | None = None

    @property
    def key(self) -> str:
        """Return the name of the model's gang."""
        return self.workload.identity.key

    def see(self, found: workloads.Workload) -> None:
        """Take what it is now."""
        self.workload = found
        if found.members:
            self.lone = found.lone

    @property
    def settled(self) -> bool:
        """Return whether nothing is being written."""
        return self.task is None or self.task.done()
