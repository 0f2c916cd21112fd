"""Inotify instances: Linux gives each user 128, and a kubelet needs six of them.

With some fifteen real nodes at the same time (two workers of pytest, several versions) the next kubelet, API server or
controller that watches a file ends at once, with a message that names a file instead of the limit.
"""

from pathlib import Path

INSTANCES = Path("/proc/sys/fs/inotify/max_user_instances")
WANTED = 1024


def raise_limit(file: Path = INSTANCES) -> int:
    """Raise the limit where it is low and may be raised; returns what it is now.

    It is left raised: another testbed may rely on it by the time this one ends.
    """
    now = limit(file)
    if now < WANTED:
        try:
            file.write_text(f"{WANTED}\n")
        except OSError:
            return now
    return limit(file)


def limit(file: Path = INSTANCES) -> int:
    """Return how many instances each user may have; a system without inotify has no limit."""
    return int(file.read_text()) if file.exists() else WANTED
