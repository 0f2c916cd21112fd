"""Tests of the decision machine."""
