"""A probe of hardware that may not answer yet: its GPU driver is loaded later, or must be mended first.

The driver serves meanwhile, so that the kubelet can give back what needs no hardware and is told why the rest fails.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence

from dra_driver import mig
from dra_driver.probe import interface


class LateProbe:
    """Opens another probe with the first call for which that is possible; before that each call fails with the reason."""

    def __init__(self, opening: Callable[[], interface.Probe]) -> None:
        """Try once; what is no error of the hardware is raised."""
        self._opening, self._lock = opening, threading.Lock()
        self._probe: interface.Probe | None = None
        with contextlib.suppress(mig.HardwareError):  # each call says so
            self._open()

    def _open(self) -> interface.Probe:
        with self._lock:
            if self._probe is None:
                self._probe = self._opening()
            return self._probe

    def discover(self) -> interface.Discovered:
        return self._open().discover()

    def reading(self, gpu_uuid: str) -> interface.Reading:
        return self._open().reading(gpu_uuid)

    def wait(self, timeout_s: float) -> Sequence[interface.Event]:
        return self._open().wait(timeout_s)

    def set_mig(self, gpu_uuid: str, enabled: bool) -> bool:
        return self._open().set_mig(gpu_uuid, enabled)

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
