"""Benchmarks with bounds: ``python -m tests.bench core``, ``openb``, ``stock``, ``driver`` and ``live``.

figure   -- one measured value, its bound, and whether it holds
clock    -- how long a call takes, without the noise of a shared machine
host     -- hardware and versions beside every result
openb    -- the published packing experiment, and our policy against FGD
core     -- speed and memory of the core
burst    -- pods created at once, each timed until it is bound
stock    -- what stock kube-scheduler does by itself
live     -- Muster beside it on one control plane, in turn
product  -- Muster as it is deployed, on and off
cost     -- processor time and requests of a burst for each pod
extender -- how long the extender takes at 500 and 5,000 names
still    -- a whole scheduler over a fleet of which nothing moves
driver   -- prepares, publishing and memory of the DRA driver
"""
