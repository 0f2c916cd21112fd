"""Events of the GPUs through the library: one set for all of them, made anew where other GPUs are there or calls fail."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pynvml  # type: ignore[import-untyped]
import structlog

from dra_driver.probe import calls, interface

log = structlog.get_logger()

EVENTS = {1: "ecc-single-bit", 2: "ecc-double-bit", 8: "xid", 0x100: "mig-config", 0x200: "ecc-storm",
          0x400: "row-retirement", 0x800: "row-retirement-failure", 0x1000: "poison", 0x2000: "fatal-poison",
          0x4000: "unavailable", 0x8000: "recovery-action"}  # fmt: skip
WHOLE = 0xFFFFFFFF


class News:
    """The events since the set was made; `wait` is for one thread, the rest for any."""

    def __init__(self) -> None:
        self._lock, self._renew = threading.Lock(), False
        self._set: Any = None
        self._uuids: dict[int, str] = {}
        self._untold: set[str] = set()

    def here(self, uuids: Iterable[str]) -> None:
        """Say which GPUs answer now; the next wait follows those."""
        with self._lock:
            self._renew |= self._set is not None and set(uuids) != set(self._uuids.values())

    def wait(self, timeout_s: float) -> list[interface.Event]:
        """Wait for the first event, then take all that are there; errors of the library end the set."""
        until = time.monotonic() + timeout_s
        try:
            found = self._renewed()
            if not found:
                first = max(0, int((until - time.monotonic()) * 1000))
                found = list(self._taken(self._set, first))
        except pynvml.NVMLError:
            self.close()
            raise
        return found

    def close(self) -> None:
        """Free the set; the next wait makes another one."""
        with self._lock:
            old, self._set = self._set, None
        _free(old)

    def _renewed(self) -> list[interface.Event]:
        """Make the set where there is none or another one is due; return what the one before it still had."""
        with self._lock:
            if self._set is not None and not self._renew:
                return []
            old, known = self._set, dict(self._uuids)
            self._set, self._renew = None, False
        try:
            made, uuids = self._made()
            with self._lock:
                self._set, self._uuids = made, known | uuids  # what the old set has may be of a GPU that is gone
            left = [] if old is None else list(self._taken(old, 0))
            with self._lock:
                self._uuids = uuids
            return left
        finally:
            _free(old)

    def _made(self) -> tuple[Any, dict[int, str]]:
        """Register all GPUs that answer; one that does not is told in the log and tried again when it is found."""
        made, uuids, untold = pynvml.nvmlEventSetCreate(), {}, set()
        try:
            for index in range(pynvml.nvmlDeviceGetCount()):
                try:
                    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                    uuid = calls.text(pynvml.nvmlDeviceGetUUID(handle))
                    _register(handle, made)
                    uuids[calls.key(handle)] = uuid
                except pynvml.NVMLError as error:
                    if error.value in calls.ENDED:
                        raise
                    untold.add(f"GPU {index}: {error}")
        except pynvml.NVMLError:
            _free(made)
            raise
        for sentence in sorted(untold - self._untold):
            log.error("a GPU whose events are not followed", error=sentence)
        self._untold = untold
        return made, uuids

    def _taken(self, events: Any, first_ms: int) -> Iterator[interface.Event]:
        left = first_ms
        while True:
            try:
                data = pynvml.nvmlEventSetWait_v2(events, left)
            except pynvml.NVMLError as error:
                if error.value == pynvml.NVML_ERROR_TIMEOUT:
                    return
                raise
            left = 0
            uuid = self._uuids.get(calls.key(data.device))
            kind = EVENTS.get(data.eventType, f"event-{data.eventType}")
            if uuid is None:
                log.error("an event of no GPU that is known", kind=kind, data=int(data.eventData))
                continue
            yield interface.Event(
                uuid, kind, int(data.eventData), -1 if data.gpuInstanceId == WHOLE else int(data.gpuInstanceId)
            )


def _register(handle: Any, events: Any) -> None:
    """Ask for the events that a GPU has; for none where it has none."""
    with contextlib.suppress(pynvml.NVMLError_NotSupported):
        wanted = sum(EVENTS) & pynvml.nvmlDeviceGetSupportedEventTypes(handle)
        pynvml.nvmlDeviceRegisterEvents(handle, wanted, events)


def _free(events: Any) -> None:
    if events is not None:
        with contextlib.suppress(pynvml.NVMLError):  # the session may have ended, and the set with it
            pynvml.nvmlEventSetFree(events)
