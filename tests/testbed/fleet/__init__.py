"""Simulated nodes: what a fleet is made of, its objects, and their way into a cluster."""
