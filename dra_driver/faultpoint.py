"""The driver's places at which a test can kill it; see `scheduler.faultpoint`."""

from scheduler.faultpoint import VARIABLE, reach

__all__ = ["POINTS", "VARIABLE", "reach"]

POINTS = (
    "checkpoint-temporary-written",  # beside the old file, which is still the valid one
    "checkpoint-written",
    "mig-gpu-instance-created",  # no compute instance yet: an instance that lists of MIG devices do not show
    "mig-created",
    "hardware-changed",  # after each step: MIG, time slices, MPS
    "mig-compute-instance-destroyed",
    "mig-destroyed",
    "metadata-temporary-written",
    "metadata-written",
    "cdi-temporary-written",
    "cdi-written",
    "cdi-removed",
    "devices-temporary-written",  # the names of the devices
    "faults-temporary-written",
    "taints-temporary-written",
)
"""Every point, in the order of a prepare and then of an unprepare; those of discovery and health last."""
