"""The times of one gang, from its first pod to its last binding."""

from dataclasses import dataclass, field

from scheduler.kube import plan as plans
from scheduler.kube import workload as workloads


@dataclass(slots=True, eq=False)
class Life:
    """How far a gang came, and when; seconds of the monotonic clock.

    Attributes
    ----------
    seen : float
        When its first pod was seen.
    complete : float or None
        When its last pod was seen.
    waited : bool
        Whether there was no room for it at first.
    planned, written, bound : float or None
        When it was given its devices last, when all its pods were let go, and when the last of them had its node.
    pending : set of UID
        Pods of the plan without a node.
    last_bound : float
        When the last pod so far was seen with its node.
    """

    key: str
    seen: float
    workload: workloads.Workload | None = None
    plan: plans.Plan | None = None
    complete: float | None = None
    waited: bool = False
    planned: float | None = None
    written: float | None = None
    bound: float | None = None
    pending: set[str] = field(default_factory=set)
    last_bound: float = 0.0
