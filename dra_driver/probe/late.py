"""A probe of hardware that may not answer yet: its GPU driver is loaded later, or must be mended first.

The driver serves meanwhile, so that the kubelet can give back what needs no hardware and is told why the rest fails.

A library that does not fit the kernel's driver stays in the process, and only a new one loads another. It may be that the
driver is just being replaced, or that the node waits for its reboot, so the process does not end at once: it would be
started again and again, with ever longer pauses, in which nothing is given back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from dra_driver import mig
from dra_driver.probe import interface

MISFIT_S = 60.0
"""How long a library may not fit the kernel's driver before a new process is to try."""


class LateProbe:
    """Opens another probe with the first call for which that is possible; before that each call fails with the reason."""

    def __init__(self, opening: Callable[[], interface.Probe], misfit_s: float = MISFIT_S) -> None:
        """Try nothing yet: it may never return."""
        self._opening, self._misfit_s, self._lock = opening, misfit_s, threading.Lock()
        self._misfit_since: float | None = None
        self._probe: interface.Probe | None = None

    def _open(self) -> interface.Probe:
        with self._lock:
            if self._probe is None:
                self._probe = self._tried()
            return self._probe

    def _tried(self) -> interface.Probe:
        """Raises `SessionEnded` where only a new process can go on, and this one had its time."""
        try:
            return self._opening()
        except interface.SessionEnded as error:
            now = time.monotonic()
            self._misfit_since = now if self._misfit_since is None else self._misfit_since
            if now - self._misfit_since >= self._misfit_s:
                raise
            raise mig.HardwareError(str(error)) from error
        except mig.HardwareError:
            self._misfit_since = None
            raise

    def discover(self) -> interface.Discovered:
        return self._open().discover()

    def reading(self, gpu_uuid: str) -> interface.Reading:
        return self._open().reading(gpu_uuid)

    def wait(self, timeout_s: float) -> Sequence[interface.Event]:
        return self._open().wait(timeout_s)

    def instances(self, gpu_uuid: str) -> Sequence[mig.Instance]:
        return self._open().instances(gpu_uuid)

    def create_gpu_instance(self, gpu_uuid: str, profile_id: int, start: int) -> mig.Instance:
        return self._open().create_gpu_instance(gpu_uuid, profile_id, start)

    def create_compute_instance(self, instance: mig.Instance) -> mig.Instance:
        return self._open().create_compute_instance(instance)

    def destroy_compute_instance(self, instance: mig.Instance) -> None:
        self._open().destroy_compute_instance(instance)

    def destroy_gpu_instance(self, instance: mig.Instance) -> None:
        self._open().destroy_gpu_instance(instance)

    def close(self) -> None:
        """Let go of the hardware, if it was ever reached."""
        if self._probe is not None:
            self._probe.close()
