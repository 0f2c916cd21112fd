"""What an XID means for whoever wants the GPU.

References
----------
NVIDIA's XID catalogue (docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html, October 2025), by its immediate
resolution; an XID that it does not have keeps new work away.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable


class Severity(enum.IntEnum):
    """How bad, in rising order."""

    INFORM = 0
    """The fault of a program: the GPU itself is well."""
    DEGRADED = 1
    """New work stays away; running work may go on."""
    FATAL = 2
    """Running work is lost or will be."""


STATES = ("ok", "degraded", "failed")
"""Of a GPU by its worst fault: none or one of a program, one that keeps new work away, one that ends work."""


def state(severities: Iterable[Severity]) -> str:
    """Return the word for a GPU with faults of these severities."""
    return STATES[max(severities, default=Severity.INFORM)]


RESTART = frozenset({8, 11, 13, 25, 31, 32, 39, 40, 41, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80, 82, 83, 84, 85, 86, 88, 89,
                     96, 97, 98, 99, 100, 101, 102, 103, 104, 105, 126, 127, 128, 129, 130, 131, 132, 133, 134, 135,
                     139})  # fmt: skip
"""The catalogue: restart the application. Without 94, whose memory page waits for a reset: new work stays away."""
IGNORED = frozenset({14, 37, 38, 43, 44, 45, 63, 66, 67, 92, 93, 106, 107, 121, 137, 141, 152, 153, 157, 160, 161})
"""The catalogue: ignore, or look for the error before it (45). What 63 and 92 leave behind is read from the GPU itself."""
ANNOUNCED = frozenset({154})
"""The recovery action changed, which is read from the GPU too."""
FATAL = frozenset({46, 48, 62, 64, 74, 79, 95, 110, 119, 120, 136, 140, 143, 151, 155, 156, 158, 167, 169})
"""The catalogue: reset the GPU or reboot, among them double-bit ECC, uncontained errors, GSP, NVLink, off the bus.

109, a timeout of context switches, is not among them: the catalogue says reset, NVIDIA's DRA driver says application.
"""


def of_xid(xid: int) -> Severity:
    """Return the severity of an XID; one that is not known keeps new work away.

    >>> of_xid(31).name, of_xid(94).name, of_xid(79).name, of_xid(9999).name
    ('INFORM', 'DEGRADED', 'FATAL', 'DEGRADED')
    """
    if xid in RESTART | IGNORED | ANNOUNCED:
        return Severity.INFORM
    return Severity.FATAL if xid in FATAL else Severity.DEGRADED
