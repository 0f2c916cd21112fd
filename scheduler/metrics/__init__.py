"""What the scheduler counts and measures, for Prometheus.

requests -- requests to the API server
watches  -- the mirror's watches
work     -- turns, decisions, writing of plans, gangs from their last pod to their binding
cluster  -- gauges of fleet, queue and tenants, computed at each scrape
fleet    -- GPUs by model and level
crowd    -- gangs that wait and run, and their tenants
waste    -- fragmentation
meters   -- all of them in one registry
"""
