"""The engine's answer: which pod gets which devices of which node, and why there."""

from collections.abc import Iterator
from dataclasses import dataclass

from scheduler.model import gang as gangs
from scheduler.snapshot import state

Terms = tuple[tuple[str, int], ...]
"""Score terms by name, in the order in which they count; integers, lower is better."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A domain that was considered: its score terms, or why it was passed over."""

    domain: str
    level: str
    terms: Terms = ()
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Placement:
    """A whole gang on exact devices.

    Attributes
    ----------
    grants : tuple of Grant
        By rank. Shorter than the gang only where `min_member` allows it: the last ranks are left out.
    domain, level : str
        The tightest domain that holds all members, and its level.
    bandwidth_mb_s : int
        Predicted bus bandwidth of a collective over all GPUs of the gang, MB/s; 0 for fewer than two GPUs.
    terms : Terms
        Score of the choice.
    runners_up : tuple of Candidate
        The next best domains (or nodes), best first.
    """

    gang: gangs.Gang
    grants: tuple[state.Grant, ...]
    domain: str
    level: str
    bandwidth_mb_s: int = 0
    terms: Terms = ()
    runners_up: tuple[Candidate, ...] = ()

    def members(self) -> Iterator[tuple[int, gangs.Role, state.Grant]]:
        """Yield ``(rank, role, grant)`` of every placed pod in rank order."""
        for (rank, role, _), grant in zip(self.gang.ranks(), self.grants, strict=False):
            yield rank, role, grant

    @property
    def nodes(self) -> tuple[int, ...]:
        """Return the distinct nodes in rank order."""
        return tuple(dict.fromkeys(grant.node for grant in self.grants))
