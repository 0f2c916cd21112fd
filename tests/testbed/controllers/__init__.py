"""The controllers of other projects that Muster works with, run as processes against a cluster of the testbed."""
