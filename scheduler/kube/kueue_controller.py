"""The admission check at work: changes of Kueue's objects in, questions to the planner and writes to the API out."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import structlog

from scheduler import faultpoint
from scheduler.apiserver import errors, paths
from scheduler.kube import kueue, kueue_answer, kueue_check, mirror, pens

FIELD_MANAGER = "muster-admission-check"
TICK_S = 1.0
AGAIN_S = (0.2, 30.0)
"""Wait before a write that failed is tried again: at first, and at most."""

log = structlog.get_logger()


def _paths(plural: str) -> tuple[str, ...]:
    return tuple(paths.of(f"{kueue.GROUP}/{version}", plural) for version in kueue.VERSIONS)


KINDS = (
    mirror.Kind(kueue.CHECKS, _paths(kueue.CHECKS), kueue.read_check),
    mirror.Kind(kueue.FLAVORS, _paths(kueue.FLAVORS), kueue.read_flavor),
    mirror.Kind(kueue.WORKLOADS, _paths(kueue.WORKLOADS), kueue.read_workload),
)
"""What a mirror has to watch for `Controller.told`."""


class Planner(Protocol):
    """Who reserves devices. Both calls return at once."""

    def reserve(self, workload: kueue.Workload) -> None:
        """Look for a place; `Controller.answer` is to be called once with the result, also when it is held already."""

    def cancel(self, uid: str) -> None:
        """Give back what is reserved for pods that have not come, or forget the question; a no-op where there is none."""


class Controller:
    """Runs a desk against an API server, for one leader.

    `told`, `answer` and `pods_came` are called on the event loop and never wait; the writes are made by `run`.

    Parameters
    ----------
    pen : Pen
        Without patience: what fails is tried again here, after the other objects.
    served : Mapping
        The mirror's: the path that is watched, by kind, which tells the version to write.
    """

    def __init__(
        self,
        pen: pens.Pen,
        served: Mapping[str, str],
        planner: Planner,
        desk: kueue_check.Desk | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.pen, self.served, self.planner, self.clock = pen, served, planner, clock
        self.desk = desk or kueue_check.Desk()
        self._writes: dict[str, kueue_check.Report | kueue_check.Activate] = {}
        self._failures: dict[str, int] = {}
        self._wake = asyncio.Event()

    def told(self, change: mirror.Change) -> None:
        """Take a change of one of `KINDS`."""
        desk, now = self.desk, self.clock()
        match change.kind, change.after:
            case kueue.WORKLOADS, None:
                self._do(desk.gone(change.before.uid))
            case kueue.WORKLOADS, workload:
                if change.before is not None and change.before.uid != workload.uid:
                    self._do(desk.gone(change.before.uid))
                self._do(desk.changed(workload, now))
            case kueue.CHECKS, None:
                self._do(desk.check_gone(change.before.name))
            case kueue.CHECKS, check:
                self._do(desk.check_changed(check, now))

    def answer(self, uid: str, answer: kueue_answer.Answer) -> None:
        """Take the planner's answer about a Workload."""
        self._do(self.desk.answered(uid, answer, self.clock()))

    def pods_came(self, uid: str) -> None:
        """Take note that all pods of a Workload exist."""
        self.desk.pods_came(uid)

    async def run(self) -> None:
        """Write and watch the clock until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick(), name="kueue deadlines")
            group.create_task(self._write_all(), name="kueue writes")

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._do(self.desk.tick(self.clock()))

    async def _write_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for key in tuple(self._writes):
                await self._write(key)

    def _do(self, effects: Iterable[kueue_check.Effect]) -> None:
        for effect in effects:
            match effect:
                case kueue_check.Reserve():
                    self.planner.reserve(effect.workload)
                case kueue_check.Cancel():
                    log.info("reservation given back", workload=effect.key, uid=effect.uid, because=effect.because)
                    self.planner.cancel(effect.uid)
                case kueue_check.Report():
                    self._queue(f"workload {effect.workload.key}", effect)
                case kueue_check.Activate():
                    self._queue(f"check {effect.check.name}", effect)

    def _queue(self, key: str, effect: kueue_check.Report | kueue_check.Activate) -> None:
        self._writes[key] = effect  # a newer write of the same object takes the place of an older one
        self._wake.set()

    async def _write(self, key: str) -> None:
        """Write one object; what fails and may succeed later is tried again, unless a newer write has come."""
        effect = self._writes.pop(key)
        kind = kueue.WORKLOADS if isinstance(effect, kueue_check.Report) else kueue.CHECKS
        watched = self.served.get(kind)
        if watched is None:
            return  # Kueue was taken away; when it comes back, everything is told anew
        version = watched.removeprefix("/apis/").removesuffix(f"/{kind}")
        try:
            if isinstance(effect, kueue_check.Report):
                await self._report(effect, version)
            else:
                await self._activate(effect, version)
        except errors.ApiError as error:
            if error.conflict or error.missing:  # its newer state, which the mirror tells, brings a new write
                self._failures.pop(key, None)
                return
            self._later(key, effect, str(error))
        except pens.Fenced as error:
            log.warning("status not written", object=key, cause=str(error))
        except pens.UNANSWERED as error:
            self._later(key, effect, f"{type(error).__name__}: {error}")
        else:
            self._failures.pop(key, None)

    def _later(self, key: str, effect: kueue_check.Report | kueue_check.Activate, cause: str) -> None:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        least, greatest = AGAIN_S
        wait_s = min(greatest, least * 2.0 ** min(count - 1, 10))
        log.warning("status not written", object=key, cause=cause, again_s=wait_s)
        asyncio.get_running_loop().call_later(wait_s, self._again, key, effect)

    def _again(self, key: str, effect: kueue_check.Report | kueue_check.Activate) -> None:
        if key not in self._writes:
            self._queue(key, effect)

    async def _report(self, effect: kueue_check.Report, version: str) -> None:
        workload = effect.workload
        metadata = {"name": workload.name, "namespace": workload.namespace, "resourceVersion": workload.version}
        body = _body(version, "Workload", metadata, {"admissionChecks": list(effect.entries)})
        path = paths.of(version, kueue.WORKLOADS, workload.namespace, workload.name, "status")
        await self.pen.apply(path, body, FIELD_MANAGER)
        faultpoint.reach("check-answered")

    async def _activate(self, effect: kueue_check.Activate, version: str) -> None:
        check = effect.check
        condition = {
            "type": "Active",
            "status": "True" if effect.active else "False",
            "reason": effect.reason,
            "message": effect.message,
            "observedGeneration": check.generation,
            "lastTransitionTime": kueue_answer.timestamp(self.clock()),
        }
        body = _body(version, "AdmissionCheck", {"name": check.name}, {"conditions": [condition]})
        await self.pen.apply(paths.of(version, kueue.CHECKS, "", check.name, "status"), body, FIELD_MANAGER)
        faultpoint.reach("check-activated")


def _body(version: str, kind: str, metadata: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": dict(metadata), "status": dict(status)}
