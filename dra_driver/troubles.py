"""Bad conditions of the node that last: each is told once while it lasts, however often the work is tried again."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from dra_driver import state

AGAIN_S = 1800.0  # an Event is kept for an hour

Tell = Callable[[str, str], None]
"""Reason and message of an Event about the node."""

log = structlog.get_logger()


class Troubles:
    """What is wrong now, by what it is about."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._now: dict[str, tuple[str, float]] = {}

    def begin(self, what: str, reason: str, message: str) -> None:
        """Tell that something is wrong, if it is new, or was told long ago."""
        before, at = self._now.get(what, ("", 0.0))
        if before != message or time.monotonic() - at > AGAIN_S:
            self._now[what] = message, time.monotonic()
            log.error("not in order", what=what, reason=reason, error=message)
            self._tell(reason, message)

    def end(self, what: str) -> None:
        """Tell in the log that it is over."""
        if self._now.pop(what, None) is not None:
            log.info("in order again", what=what)

    async def attempt(self, what: str, reason: str, work: Awaitable[Any], text: str = "{}") -> bool:
        """Do something that may fail in an expected way, which is told; return whether it was done.

        Parameters
        ----------
        text : str
            The message, around the error.
        """
        try:
            await work
        except state.EXPECTED as error:
            self.begin(what, reason, text.replace("{}", str(error) or type(error).__name__))
            return False
        self.end(what)
        return True
