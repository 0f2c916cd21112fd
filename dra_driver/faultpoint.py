"""Places at which a test can kill the driver as a power cut would.

Inert unless the environment variable ``MUSTER_FAULT_POINT`` names one: ``checkpoint-written`` kills the process with
SIGKILL the first time that this point is reached, ``checkpoint-written:3`` the third time. Nothing is cleaned up then.
"""

import os
import signal
from collections import Counter

VARIABLE = "MUSTER_FAULT_POINT"

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
)
"""Every point, in the order of a prepare and then of an unprepare."""

_reached: Counter[str] = Counter()


def reach(name: str) -> None:
    """Die here if the environment says so."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    point, _, turn = wanted.partition(":")
    if point != name:
        return
    _reached[name] += 1
    if _reached[name] == int(turn or 1):
        os.kill(os.getpid(), signal.SIGKILL)
