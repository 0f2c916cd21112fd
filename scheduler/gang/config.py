"""How the queue is served, as frozen values."""

from dataclasses import dataclass
from typing import Literal

Mode = Literal["fifo", "skip", "easy"]
"""Who may overtake: nobody; whoever fits; whoever fits and does not delay the head of the queue."""

Way = Literal["preempt", "defragment"]
"""How room is made for a gang: others go, or others move."""


@dataclass(frozen=True, slots=True)
class Quota:
    """GPUs of one tenant.

    Attributes
    ----------
    nominal : int
        GPUs that the tenant can always get back.
    borrow : int
        GPUs beyond `nominal` that it may use while other tenants leave theirs idle.
    """

    tenant: str
    nominal: int
    borrow: int = 0

    def __post_init__(self) -> None:
        if self.nominal < 0 or self.borrow < 0:
            raise ValueError(f"quota of tenant {self.tenant}: nominal and borrow must not be negative")


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """How gangs wait and who yields.

    Attributes
    ----------
    quotas : tuple of Quota
        Empty for no quotas at all; otherwise a tenant that is not named has none and waits.
    preempt : bool
        Gangs of higher priority may evict gangs of lower priority, and tenants may reclaim what others borrowed.
    defragment : bool
        Gangs of the same or a lower priority may be put elsewhere where that makes room.
    offers : tuple of str
        What `Machine.offer` looks for: ``preempt``, ``defragment``. Nothing of it is carried out.
    move_after_s : float
        Gangs that have run for less are not put elsewhere.
    reservation_s : float
        Seconds within which a `Start` must be confirmed; 0 takes every start for confirmed at once.
    easy_depth : int
        Waiting gangs behind the head that EASY back-fill looks at in one pass.
    """

    mode: Mode = "skip"
    quotas: tuple[Quota, ...] = ()
    preempt: bool = False
    defragment: bool = False
    offers: tuple[Way, ...] = ()
    move_after_s: float = 0.0
    reservation_s: float = 0.0
    easy_depth: int = 100

    def __post_init__(self) -> None:
        if self.mode not in ("fifo", "skip", "easy"):
            raise ValueError(f"queue mode {self.mode!r} is unknown; known are fifo, skip, easy")
        if self.reservation_s < 0 or self.easy_depth < 1:
            raise ValueError("reservation_s must not be negative, easy_depth must be at least 1")
        if self.move_after_s < 0:
            raise ValueError(f"move_after_s must not be negative, got {self.move_after_s}")
        if not set(self.offers) <= {"preempt", "defragment"}:
            raise ValueError(f"offers must be of preempt and defragment, got {', '.join(self.offers)}")
        if len({quota.tenant for quota in self.quotas}) != len(self.quotas):
            raise ValueError("a tenant has two quotas")
