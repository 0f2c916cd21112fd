"""Kueue's questions to the shell: a Workload becomes a gang without pods, for which devices are kept."""

from dataclasses import dataclass, field

from scheduler.kube import kueue, kueue_answer, kueue_controller, kueue_gang, mirror, world
from scheduler.kube import shell as shells
from scheduler.kube.gangs import outline

NOT_YET_S = 5.0
"""Kueue is to ask again so soon where an object of the Workload was not seen yet."""


@dataclass(slots=True, eq=False)
class Reservations:
    """The planner that the admission check asks."""

    known: world.World
    shell: shells.Shell | None = None
    _check: kueue_controller.Controller | None = field(default=None)

    def listen(self, check: kueue_controller.Controller) -> None:
        """Pass Kueue's objects on, those that are there first."""
        self._check = check
        for change in self.known.present(*(kind.name for kind in kueue_controller.KINDS)):
            check.told(change)
        self.known.listeners.append(self._told)

    def reserve(self, workload: kueue.Workload) -> None:
        """Look for a place; the check is answered once."""
        assert self.shell is not None and self._check is not None
        try:
            found = kueue_gang.of(workload, self.shell.sight, self.shell.compiled)
        except outline.NotYet as missing:
            self._check.answer(workload.uid, kueue_answer.Wait(f"waiting for {missing}", NOT_YET_S))
            return
        except ValueError as problem:
            self._check.answer(workload.uid, kueue_answer.Reject(str(problem)))
            return
        self.shell.reserve(found, workload.uid)

    def cancel(self, uid: str) -> None:
        """Give back what is kept for pods that have not come."""
        assert self.shell is not None
        self.shell.cancel(uid)

    def _told(self, change: mirror.Change) -> None:
        if self._check is not None and change.kind in {kind.name for kind in kueue_controller.KINDS}:
            self._check.told(change)
