"""The decision machine: events in, effects out, `now` passed in.

events   -- what the machine is told
effects  -- what it wants done
queue    -- pending gangs in order, blocked shapes
quota    -- tenants: nominal share, borrowing, reclaim
machine  -- handle(event, now) -> effects
"""
