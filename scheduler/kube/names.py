"""The names of `scheduler.model.names`, which the web edge shares."""

from scheduler.model.names import *  # noqa: F403
