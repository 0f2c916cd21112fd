"""Everything that Muster decided in a session of tests, decided again from its logs."""

from __future__ import annotations

import time
from pathlib import Path

from scheduler.record import journal, replay


def replayed(audit: Path) -> str:
    """Replay every term of every start of Muster; return how much that was.

    Raises
    ------
    AssertionError
        A decision came out otherwise, or there is no log.
    """
    began = time.monotonic()
    found = [replay.replay(folder, term) for folder in sorted(audit.iterdir()) for term in journal.terms(folder)]
    events, starts = sum(one.events for one in found), sum(one.starts for one in found)
    for one in found:
        assert one.difference is None, f"log {one.term}: {one.difference}"
    assert found, f"{audit} has no decision log"
    took = time.monotonic() - began
    return f"{len(found)} decision logs, {events} events, {starts} starts: replayed byte for byte in {took:.1f} s"
