"""What an XID means for whoever wants the GPU.

References
----------
NVIDIA XID catalogue (docs.nvidia.com/deploy/xid-errors); the list of application errors is that of NVIDIA's DRA driver
(13, 31, 43, 45, 68, 109).
"""

from __future__ import annotations

import enum


class Severity(enum.IntEnum):
    """How bad, in rising order."""

    INFORM = 0
    """The fault of a program: the GPU itself is well."""
    DEGRADED = 1
    """New work stays away; running work may go on."""
    FATAL = 2
    """Running work is lost or will be."""


APPLICATION = frozenset({13, 31, 43, 45, 68, 109})
CORRECTED = frozenset({63, 92, 94})
"""Row remapping recorded, many single-bit errors, a contained error that ended one program."""
FATAL = frozenset({48, 62, 64, 74, 79, 95, 119, 120, 140})
"""Double-bit ECC, micro-controller halt, remapping failed, NVLink, off the bus, uncontained, GSP, unrecovered ECC."""


def of_xid(xid: int) -> Severity:
    """Return the severity of an XID; one that is not known keeps new work away.

    >>> of_xid(31).name, of_xid(94).name, of_xid(79).name, of_xid(9999).name
    ('INFORM', 'DEGRADED', 'FATAL', 'DEGRADED')
    """
    if xid in APPLICATION:
        return Severity.INFORM
    return Severity.FATAL if xid in FATAL else Severity.DEGRADED
