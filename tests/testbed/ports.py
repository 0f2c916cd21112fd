"""Ports that nobody listens on."""

from __future__ import annotations

import contextlib
import socket

FIRST, LAST = (
    20000,
    30000,
)  # below the kernel's range for outgoing connections, which could take a port between now and its use


def free(count: int = 1) -> tuple[int, ...]:
    """Find ports on 127.0.0.1 that no one uses, all different; two clusters that start at once rarely ask for the same."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in _from(_start()):
            one = held.enter_context(socket.socket())
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return tuple(found)
    raise OSError(f"no {count} free ports between {FIRST} and {LAST} on 127.0.0.1")


def one() -> int:
    return free()[0]


def _start() -> int:
    """Return a place to begin that differs by process and by call."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return FIRST + probe.getsockname()[1] * 7919 % (LAST - FIRST)


def _from(start: int) -> list[int]:
    return [*range(start, LAST), *range(FIRST, start)]
