"""The audit log of decisions: every event with its effects, such that the same core decides the same again."""
