"""Places at which a test can kill a program as a power cut would.

Inert unless the environment variable ``MUSTER_FAULT_POINT`` names one: ``claim-allocated`` kills the process with
SIGKILL the first time that this point is reached, ``claim-allocated:3`` the third time. Nothing is cleaned up then.
"""

import os
import signal
from collections import Counter

VARIABLE = "MUSTER_FAULT_POINT"

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
