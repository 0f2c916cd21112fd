"""Several changes to a snapshot as one transaction: try, then keep all of it or none."""

from dataclasses import dataclass, field

from scheduler.snapshot import state


@dataclass(slots=True)
class Plan:
    """A list of reversible changes to a snapshot.

    The snapshot shows the changes at once, so that later decisions of the same plan see earlier ones. Until `commit`
    every change can be undone, newest first.

    Examples
    --------
    >>> plan = Plan(snapshot)                       # doctest: +SKIP
    >>> mark = plan.checkpoint()                    # doctest: +SKIP
    >>> plan.take(grant)                            # doctest: +SKIP
    >>> plan.rollback(mark)                         # doctest: +SKIP
    """

    snapshot: state.Snapshot
    _log: list[tuple[bool, state.Grant]] = field(default_factory=list)

    def take(self, grant: state.Grant) -> None:
        """Take a grant, to be undone by `rollback`."""
        self.snapshot.take(grant)
        self._log.append((True, grant))

    def release(self, grant: state.Grant) -> None:
        """Release a grant (a victim's, say), to be undone by `rollback`."""
        self.snapshot.release(grant)
        self._log.append((False, grant))

    def checkpoint(self) -> int:
        """Return a mark to which `rollback` can return."""
        return len(self._log)

    def rollback(self, mark: int = 0) -> None:
        """Undo every change made after `mark`, newest first."""
        while len(self._log) > mark:
            taken, grant = self._log.pop()
            (self.snapshot.release if taken else self.snapshot.take)(grant)

    def commit(self) -> None:
        """Keep the changes: they can't be undone any more."""
        self._log.clear()
