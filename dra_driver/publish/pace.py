"""How fast slices may be written again that somebody else changed: at once at first, ever slower where it goes on."""

from __future__ import annotations

FREE = 4
"""Rewrites without a pause; a kubelet that restarts wipes the slices once."""
QUIET_S = 60.0
MAX_S = 60.0


class Pace:
    """Counts rewrites; the times are passed in. All is forgotten after a minute without one."""

    def __init__(self) -> None:
        self._count, self._last_s = 0, 0.0

    def rewrote(self, now_s: float) -> None:
        """Count one more."""
        if now_s - self._last_s > self._pause_s + QUIET_S:
            self._count = 0
        self._count, self._last_s = self._count + 1, now_s

    def wait_s(self, now_s: float) -> float:
        """Return how long to wait before the next one."""
        return max(0.0, self._last_s + self._pause_s - now_s)

    @property
    def _pause_s(self) -> float:
        return min(MAX_S, 2.0 ** (self._count - FREE)) if self._count > FREE else 0.0
