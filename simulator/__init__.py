"""Replays traces through the scheduler's own decision core, offline and in virtual time."""
