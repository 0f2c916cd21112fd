"""Places at which a test can kill a program as a power cut would.

Inert unless the environment variable ``MUSTER_FAULT_POINT`` names one: ``claim-allocated`` kills the process with
SIGKILL the first time that this point is reached, ``claim-allocated:3`` the third time. Nothing is cleaned up then.
"""

import os
import signal
from collections import Counter

VARIABLE = "MUSTER_FAULT_POINT"

POINTS = (
    # A start, or a refill; lone pods have no record.
    "record-written",
    "status-written",
    "claim-protected",
    "claim-allocated",
    "pod-released",
    # A rollback.
    "claim-taken-back",
    "claim-unprotected",
    "record-cleared",
    # What waits, and what has ended.
    "state-recorded",
    "record-deleted",
    "gate-dropped",
    # An eviction.
    "pod-marked",
    "pod-deleted",
    # A new leader.
    "recovery-stamped",
    # Kueue.
    "check-activated",
    "check-answered",
)
"""Of the scheduler: after each kind of write that it does, Events and the Lease left out."""

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
