"""Benchmarks with bounds: ``python -m tests.bench openb`` and ``python -m tests.bench core``.

figure  -- one measured value, its bound, and whether it holds
clock   -- how long a call takes, without the noise of a shared machine
host    -- hardware and versions beside every result
openb   -- the published packing experiment, and our policy against FGD
core    -- speed and memory of the core
"""
